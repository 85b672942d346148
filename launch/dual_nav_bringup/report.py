"""What a replay has shown, in figures: one dictionary for programs and the same as a table for people."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus

from dual_nav_bringup.observer import Observations, Seen, SeenPath
from nav_msgs_ext.msg import ControllerState, S2Plan

PLAN_KINDS = {
    S2Plan.KIND_ACTIONS: "actions",
    S2Plan.KIND_PIXEL_GOAL: "pixel goal",
    S2Plan.KIND_TRAJ_LATENTS: "traj_latents",
}


def first_arrivals(seen: Sequence[Seen], sent: Mapping[int, float]) -> dict[int, float]:
    """Seconds from publishing a frame to the first message that carries its stamp, for each frame that has one."""
    ages: dict[int, float] = {}
    for message in seen:
        if message.stamp in sent and message.stamp not in ages:
            ages[message.stamp] = message.arrival - sent[message.stamp]
    return ages


def command_ages(seen: Observations, sent: Mapping[int, float]) -> list[float]:
    """Age in seconds of the camera frame behind the command, at each state report while the robot is driven."""
    driving = (ControllerState.FOLLOWING, ControllerState.TURNING)
    return [
        state.arrival - sent[state.stamp] for state in seen.states if state.state in driving and state.stamp in sent
    ]


def inference_times(paths: Sequence[SeenPath], sent: Mapping[int, float]) -> list[float]:
    """Seconds S1 was busy with each path, seen from outside: from its frame, or from the path before, to the path."""
    times = []
    for before, path in zip([None, *paths], paths, strict=False):
        if path.stamp in sent:
            free_since = before.arrival if before is not None else 0.0
            times.append(path.arrival - max(sent[path.stamp], free_since))
    return times


def answered_share(paths: Sequence[SeenPath], sent: Mapping[int, float]) -> float | None:
    """Share of the frames S1 could have answered that it did answer; None with fewer than two paths.

    Counted from the first to the last frame with a path. A frame without one could not have been answered when S1 was
    busy with an earlier frame until after the next one had come: the newest frame wins. Any other was missed.
    """
    ready = {path.stamp: path.arrival for path in reversed(paths) if path.stamp in sent}
    if len(ready) < 2:
        return None
    stamps = sorted(stamp for stamp in sent if min(ready) <= stamp <= max(ready))
    missed = 0
    busy_until = 0.0
    for stamp, following in pairwise(stamps):
        if stamp in ready:
            busy_until = ready[stamp]
        elif busy_until < sent[following]:
            missed += 1
    return len(ready) / (len(ready) + missed)


def node_figures(status: Mapping[str, DiagnosticStatus], node: str) -> dict[str, float]:
    """All numbers a node's newest diagnostics hold, by their names."""
    figures = {}
    for name, part in status.items():
        if name.startswith(f"{node}:"):
            for entry in part.values:
                with contextlib.suppress(ValueError):
                    figures[entry.key] = float(entry.value)
    return figures


def errors_while_playing(seen: Observations, sent: Mapping[int, float]) -> list[str]:
    """Errors on /diagnostics from a second after the first frame on; before, both nodes miss their input rightly."""
    begin = min(sent.values(), default=float("inf")) + 1.0
    return sorted({f"{name}: {text}" for arrival, name, level, text in seen.alerts if level >= 2 and arrival > begin})


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float | int] | None:
    """p50, p95, p99 and the largest, in milliseconds, with the number of values; None without any."""
    if not seconds:
        return None
    p50, p95, p99 = np.percentile(seconds, (50, 95, 99)) * 1e3
    largest = max(seconds) * 1e3
    return {
        "p50": round(float(p50), 1),
        "p95": round(float(p95), 1),
        "p99": round(float(p99), 1),
        "max": round(float(largest), 1),
        "n": len(seconds),
    }


def summarise(
    seen: Observations,
    sent: Mapping[int, float],
    memory_mb: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """The figures of a replay. `sent`: stamp of each published frame → when; `memory_mb`: samples per node."""
    plan_frames = first_arrivals(seen.plans, sent)
    path_frames = first_arrivals(seen.paths, sent)
    kinds = Counter(PLAN_KINDS.get(plan.message.kind, f"kind {plan.message.kind}") for plan in seen.plans)
    nodes = {
        "s2_planner": {"processed": len(plan_frames), "dropped": len(sent) - len(plan_frames)},
        "s1_controller": {"processed": len(path_frames), "dropped": len(sent) - len(path_frames)},
    }
    for name, node in nodes.items():
        received = node_figures(seen.status, name).get("rgb received")
        node["received"] = None if received is None else int(received)
    for name, samples in memory_mb.items():
        if samples:
            # Rings and caches are full after the first fifth; from then on memory has to stay what it is.
            warm = samples[len(samples) // 5]
            figures = {"start": samples[0], "warm": warm, "end": samples[-1], "max": max(samples)}
            nodes[name]["memory_mb"] = {key: round(value) for key, value in figures.items()}
    share = answered_share(seen.paths, sent)
    s1 = node_figures(seen.status, "s1_controller")
    # What the controller itself measured for each command it computed: with and without the model's time.
    own = {
        part: {key: s1.get(f"{part} {key} [ms]") for key in ("p50", "p95", "p99")} for part in ("model", "overhead")
    }
    return {
        "frames": len(sent),
        "nodes": nodes,
        "plans": len(seen.plans),
        "plan_kinds": dict(kinds),
        "paths": len(seen.paths),
        "action_lists": len(seen.action_lists),
        "commands": len(seen.commands),
        "s1_answered_share": None if share is None else round(share, 4),
        "latency_ms": {
            "camera_to_plan": percentiles_ms(list(plan_frames.values())),
            "camera_to_path": percentiles_ms(list(path_frames.values())),
            "camera_to_command": percentiles_ms(list(first_arrivals(seen.states, sent).values())),
        },
        "s1_model_ms": own["model"],
        "s1_overhead_ms": own["overhead"],
        "s2_inference_ms": percentiles_ms([plan.message.inference_time for plan in seen.plans]),
        "s1_inference_ms": percentiles_ms(inference_times(seen.paths, sent)),
        "command_frame_age_ms": percentiles_ms(command_ages(seen, sent)),
        "errors": errors_while_playing(seen, sent),
    }


def table(summary: Mapping[str, Any]) -> str:
    """The same for people."""
    lines = [f"frames published   {summary['frames']}", ""]
    columns = f"{'received':>10}{'processed':>11}{'dropped':>9}{'memory start':>14}{'warm':>7}{'end':>7}{'max':>7}"
    lines.append(f"{'':22}{columns}  [MB]")
    for name, node in summary["nodes"].items():
        memory = node.get("memory_mb", {"start": "-", "warm": "-", "end": "-", "max": "-"})
        received = "-" if node["received"] is None else node["received"]
        counted = f"{name:22}{received:>10}{node['processed']:>11}{node['dropped']:>9}"
        lines.append(f"{counted}{memory['start']:>14}{memory['warm']:>7}{memory['end']:>7}{memory['max']:>7}")
    kinds = ", ".join(f"{count} {kind}" for kind, count in summary["plan_kinds"].items())
    lines += ["", f"plans              {summary['plans']}" + (f"  ({kinds})" if kinds else "")]
    lines.append(f"paths              {summary['paths']}")
    if summary["s1_answered_share"] is not None:
        lines.append(f"S1 answered        {summary['s1_answered_share']:.1%} of the frames it could have")
    lines += ["", f"{'[ms]':22}{'p50':>10}{'p95':>10}{'p99':>10}{'max':>10}{'n':>8}"]
    rows = {
        "camera → plan": summary["latency_ms"]["camera_to_plan"],
        "camera → path": summary["latency_ms"]["camera_to_path"],
        "camera → command": summary["latency_ms"]["camera_to_command"],
        "frame behind command": summary["command_frame_age_ms"],
        "S2 inference": summary["s2_inference_ms"],
        "S1 inference": summary["s1_inference_ms"],
        "  model alone": summary["s1_model_ms"],
        "  all but the model": summary["s1_overhead_ms"],
    }
    for name, row in rows.items():
        if row is None or row["p50"] is None:
            lines.append(f"{name:22}{'none':>10}")
        else:
            figures = "".join(f"{row[key]:>10.1f}" for key in ("p50", "p95", "p99", "max") if key in row)
            lines.append(f"{name:22}{figures}" + (f"{row['n']:>8}" if "n" in row else ""))
    if summary["errors"]:
        lines += ["", "errors seen on /diagnostics:", *(f"  {error}" for error in summary["errors"])]
    return "\n".join(lines)
