"""Pictures and figures of a run of the recipe: `python -m dual_nav_training.small.report RUN`.

Into RUN/report go: losses.png, decisions.png (what should have been said, and what was), pixel_error.png,
attention.png (where the planner looks in some test images), s1.png (open loop: error and clearance of S1's
trajectories), success.png (of the evaluations in RUN/eval_*), report.json. What a run has not got yet is left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # after the choice of the backend

from dual_nav_training.run_folder import RunError
from dual_nav_training.small.batches import Ask, Item, Views
from dual_nav_training.small.checkpoint import SYSTEM1_SIZES
from dual_nav_training.small.language import IMAGE_SIDE
from dual_nav_training.small.score import Answers, answers_to, load_task, shuffled
from dual_nav_training.small.views import CELL, PIXEL_GOAL, SIDE
from dual_nav_training.small.ways import Ways
from dual_nav_util.checkpoint import CheckpointError
from nav_sim.grid import CELL_M
from nav_sim.oracles import SYMBOLS
from nav_sim.simulator import Pose
from nav_sim.worlds import make_flat
from s1_controller_node.policy import Frame, Goal, PolicyConfig, load_policy
from s2_planner_node.planner import PlannerConfig, load_planner

_KINDS = {**SYMBOLS, PIXEL_GOAL: "pixel goal"}
_DECISIONS = (1, 2, 3, 0, PIXEL_GOAL)  # order in the picture
_EXAMPLES = 8


# ------------------------------------------------------------------------------------------------------- training


def draw_losses(run: Path, out: Path) -> bool:
    """Losses of all stages that have begun, with those on data not trained on."""
    logs = [*sorted(run.glob("s2/*/metrics.jsonl")), *sorted(run.glob("s1/*/metrics.jsonl"))]
    if not logs:
        return False
    figure, axes = plt.subplots(1, len(logs), figsize=(4.5 * len(logs), 4), squeeze=False)
    for axis, log in zip(axes[0], logs, strict=True):
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        names = {name for line in lines if "loss" in line for name in line}
        for name in sorted(names - {"step", "epoch", "grad_norm", "learning_rate"}):
            points = [(line["step"], line[name]) for line in lines if name in line]
            axis.plot(*zip(*points, strict=True), label=name, lw=2 if name == "loss" else 1)
        held = [(line["step"], line["eval_loss"]) for line in lines if "eval_loss" in line]
        if held:
            axis.plot(*zip(*held, strict=True), "k.--", label="loss, other flats")
        axis.set(title=f"{log.parent.parent.name}: {log.parent.name}", xlabel="step", yscale="log")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    _save(figure, out / "losses.png")
    return True


# -------------------------------------------------------------------------------------------------------- planner


def draw_planner(run: Path, out: Path, count: int) -> dict[str, Any]:
    """Decisions, pixel errors and attention on views of test flats; the figures."""
    model, folder = run / "s2" / "model", run / "held"
    if not (model.is_dir() and folder.is_dir()):
        return {}
    task, collate = load_task(model)
    views = Views(folder)
    chosen = np.linspace(0, len(views) - 1, min(count, len(views))).astype(int)
    items = [Ask(6)(views[int(n)], np.random.default_rng(int(n)), False) for n in chosen]
    told = answers_to(task, collate, items)
    confused = answers_to(task, collate, [shuffled(item) for item in items])
    confusion = np.zeros((len(_DECISIONS), len(_DECISIONS)), int)
    for should, said in zip(told.wanted, told.said, strict=True):
        if said in _DECISIONS:
            confusion[_DECISIONS.index(should), _DECISIONS.index(said)] += 1
    _draw_confusion(confusion, out / "decisions.png")
    _draw_pixel_errors(told, confused, out / "pixel_error.png")
    _draw_attention(items, told, out / "attention.png")
    return {
        "decision": float(np.mean(told.right)),
        "decision_shuffled": float(np.mean(confused.right)),
        "confusion": {
            _KINDS[kind]: dict(zip((_KINDS[k] for k in _DECISIONS), row.tolist(), strict=True))
            for kind, row in zip(_DECISIONS, confusion, strict=True)
        },
        "column_error": float(np.median(told.column_errors)),
        "column_error_shuffled": float(np.median(confused.column_errors)),
    }


def _draw_confusion(confusion: np.ndarray, file: Path) -> None:
    figure, axis = plt.subplots(figsize=(5.5, 5))
    shares = confusion / np.maximum(1, confusion.sum(1, keepdims=True))
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), number in np.ndenumerate(confusion):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axis.text(
            column, row, f"{100 * shares[row, column]:.0f} %\n({number})", ha="center", va="center", color=colour
        )
    names = [_KINDS[kind] for kind in _DECISIONS]
    axis.set_xticks(range(len(names)), names)
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="said", ylabel="right", title="decisions on views of test flats")
    _save(figure, file)


def _draw_pixel_errors(told: Answers, confused: Answers, file: Path) -> None:
    figure, axis = plt.subplots(figsize=(6, 4))
    bins = np.linspace(0, IMAGE_SIDE, 25)
    for answers, name in ((told, "instruction"), (confused, "another view's instruction")):
        axis.hist(
            answers.column_errors, bins, alpha=0.6, label=f"{name}, median {np.median(answers.column_errors):.0f}"
        )
    axis.set(xlabel=f"error of the column, pixels of {IMAGE_SIDE}", ylabel="pixel goals")
    axis.legend()
    _save(figure, file)


def _draw_attention(items: Sequence[Item], told: Answers, file: Path) -> None:
    """Images with where the answer looked; examples with the goal in view first."""
    order = np.argsort(~np.asarray(told.found), kind="stable")
    seen: set[int] = set()
    numbers = [n for n in order.tolist() if not (told.row[n] in seen or seen.add(told.row[n]))][:_EXAMPLES]
    figure, axes = plt.subplots(
        2, (len(numbers) + 1) // 2, figsize=(3.2 * ((len(numbers) + 1) // 2), 7.2), squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, number in zip(axes.flat, numbers, strict=False):
        image = items[told.row[number]].view.arrays["image"]
        extent = (0, SIDE * CELL, SIDE * CELL, 0)
        axis.imshow(image, extent=extent)
        axis.imshow(told.attention[number].reshape(SIDE, SIDE), extent=extent, cmap="hot", alpha=0.45, vmin=0)
        words = told.instructions[number].split()
        text = "\n".join(" ".join(words[start : start + 6]) for start in range(0, len(words), 6))
        axis.set_title(f"{text}\n→ {_KINDS.get(told.said[number], '?')} ({_KINDS[told.wanted[number]]})", fontsize=8)
    _save(figure, file)


# ------------------------------------------------------------------------------------------------------------- S1


@dataclass(frozen=True)
class OpenLoop:
    """Of every frame of every way: mean distance and distance of the ends between the mean of S1's samples and the
    label, and how near the way comes to anything, metres."""

    mean: np.ndarray
    end: np.ndarray
    clearance: np.ndarray
    label_clearance: np.ndarray


def open_loop(model: Path, folder: Path, count: int, samples: int = 16) -> OpenLoop:
    """S1 with the planner's latents for right answers, on `count` ways of test flats."""
    ways = Ways(folder, depth=True)
    planner = load_planner(model, PlannerConfig())
    policy = load_policy(model, PolicyConfig(num_samples=samples))
    rows: list[tuple[float, float, float, float]] = []
    chosen = 2 * np.linspace(0, len(ways) // 2 - 1, min(count, len(ways) // 2)).astype(int)
    clearances = {seed: _clearance(seed) for seed in ways.flats(chosen)}
    for index in tqdm(chosen.tolist(), unit="way", dynamic_ncols=True):
        sample = ways[index]
        planner.start_episode(sample.prompt.instruction)
        plan = planner.step(sample.prompt.images[0], answer=sample.prompt.answers[0])
        frames = [
            Frame(n + 1, rgb, depth, (640, 480))
            for n, (rgb, depth) in enumerate(zip(sample.images, sample.depths, strict=True))
        ]
        policy.set_goal(Goal(frames[0], traj_latents=plan.traj_latents))
        seed, poses = ways.places(index)
        for number, frame in enumerate(frames):
            drawn = policy.sample(
                [frame] * policy.memory_frames, generator=torch.Generator().manual_seed(index)
            ).paths
            path = drawn.mean(0)[:, :2]
            label = np.vstack([np.zeros(2), np.cumsum(sample.trajectories[number][:, :2] / 4.0, 0)])
            distance = np.linalg.norm(path[: len(label)] - label[: len(path)], axis=1)
            near = [clearances[seed](poses[number], points) for points in (path, label)]
            rows.append((distance.mean(), distance[-1], *near))
    return OpenLoop(*np.asarray(rows).T)


def _clearance(seed: int) -> Callable[[Pose, np.ndarray], float]:
    """Distance of the nearest thing to a path (n, 2) in the frame of a pose, in the flat of a seed."""
    free = distance_transform_edt(~make_flat(seed).occupied) * CELL_M

    def nearest(pose: Pose, path: np.ndarray) -> float:
        points = np.asarray([pose.to_world(point) for point in path])
        rows, columns = (
            np.clip((points[:, axis] / CELL_M).astype(int), 0, free.shape[1 - axis] - 1) for axis in (1, 0)
        )
        return float(free[rows, columns].min())

    return nearest


def draw_s1(run: Path, out: Path, count: int) -> dict[str, Any]:
    """Open-loop errors of the variants that are trained; the figures."""
    folder = run / "held_ways"
    models = {name: run / "s1" / name / "model" for name in SYSTEM1_SIZES}
    models = {name: model for name, model in models.items() if model.is_dir()}
    if not (models and folder.is_dir()):
        return {}
    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    figures = {}
    for number, (name, model) in enumerate(models.items()):
        result = open_loop(model, folder, count)
        axes[0].hist(
            result.end, np.linspace(0, 2, 41), alpha=0.6, label=f"{name}, median {np.median(result.end):.2f} m"
        )
        for values, label in ((result.clearance, name), (result.label_clearance, "expert"))[
            : 2 if number == 0 else 1
        ]:
            axes[1].hist(values, np.linspace(0, 1.5, 31), histtype="step", lw=2, label=label)
        figures[name] = {
            "mean_error": float(result.mean.mean()),
            "end_error_median": float(np.median(result.end)),
            "clearance_median": float(np.median(result.clearance)),
            "through_things": float(np.mean(result.clearance <= 0)),
        }
    axes[0].set(xlabel="distance of the ends, m", ylabel="frames", title="S1 against the expert's way, open loop")
    axes[1].set(xlabel="nearest thing to the way, m", ylabel="frames", title="clearance of the robot's centre")
    for axis in axes:
        axis.legend()
    _save(figure, out / "s1.png")
    return figures


# ---------------------------------------------------------------------------------------------------- evaluations


def draw_success(run: Path, out: Path) -> dict[str, Any]:
    """Success by family of all evaluations in the run's folder, with 95 % intervals."""
    found = {file.parent.name: json.loads(file.read_text()) for file in sorted(run.glob("eval_*/summary.json"))}
    if not found:
        return {}
    figure, axis = plt.subplots(figsize=(2 + 2.2 * len(found), 4))
    families = [*next(iter(found.values()))["settings"]["families"], "all"]
    for number, family in enumerate(families):
        parts = [summary.get(family) for summary in found.values()]
        place = np.asarray([n + 0.2 * (number - 1.5) for n, part in enumerate(parts) if part])
        shares = np.asarray([part["success"]["value"] for part in parts if part])
        ends = np.asarray([part["success"]["ci95"] for part in parts if part])
        bars = np.abs(ends - shares[:, None]).T
        axis.bar(place, 100 * shares, 0.18, yerr=100 * bars, capsize=3, label=family)
    axis.set_xticks(range(len(found)), [name.removeprefix("eval_") for name in found])
    axis.set(ylabel="success, %", ylim=(0, 100))
    axis.legend()
    _save(figure, out / "success.png")
    return {
        name: {
            family: {"success": summary[family]["success"], "episodes": summary[family]["episodes"]}
            for family in families
            if family in summary
        }
        for name, summary in found.items()
    }


def _save(figure: plt.Figure, file: Path) -> None:
    figure.tight_layout()
    figure.savefig(file, dpi=100)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="small.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of the recipe")
    parser.add_argument("--count", type=int, default=300, help="views, and ways, of test flats")
    options = parser.parse_args(arguments)
    out = options.run / "report"
    try:
        out.mkdir(parents=True, exist_ok=True)
        losses = draw_losses(options.run, out)
        result = {
            "planner": draw_planner(options.run, out, options.count),
            "s1": draw_s1(options.run, out, options.count),
            "closed_loop": draw_success(options.run, out),
        }
    except (CheckpointError, RunError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    if not losses and not any(result.values()):
        print(f"report: {options.run} holds no run of the recipe; make train-small makes one", file=sys.stderr)
        return 1
    (out / "report.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
