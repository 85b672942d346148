"""Say what a checkpoint folder holds and what each process will load from it; read no tensor.

``check_checkpoint FOLDER`` (a folder, a single weights file, or a hub id) prints variant, sizes, parameters per part,
the keys S1 and S2 expect, miss or find too many, and the licence file. Exit status 1 if either process would refuse
the checkpoint, or nobody would load it.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dual_nav_util.checkpoint import CheckpointError, CheckpointFolder, mismatches
from s1_controller_node import checkpoint as s1
from s2_planner_node import checkpoint as s2

Shapes = Mapping[str, tuple[int, ...]]

# Parts in the order of the data through the model: label, key prefixes.
_PARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("S2 vision tower", ("visual.",)),
    ("S2 token embeddings", ("model.embed_tokens.", "lm_head.")),
    ("S2 language model", ("model.layers.", "model.norm.")),
    ("S2 latent queries", ("model.latent_queries",)),
    ("S1 image encoder", ("model.rgb_model.",)),
    ("S1 memory encoder", ("model.memory_encoder.",)),
    ("S1 resampler", ("model.rgb_resampler.",)),
    ("S1 latent projector", ("model.cond_projector.",)),
    ("S1 NextDiT", ("model.traj_dit.", "model.action_encoder.", "model.action_decoder.")),
    ("S1 NavDP RGB-D encoder", ("model.navdp.rgbd_encoder.", "rgbd_encoder.")),
    ("S1 NavDP goal encoders", ("pixel_encoder.", "image_encoder.", "point_encoder.")),
    ("S1 NavDP", ("model.navdp.", "decoder.", "critic_head.", "action_head.")),
)
_OTHER = "other"


@dataclass
class Report:
    """What a checkpoint holds.

    Attributes:
        facts: (label, text) lines on the whole: folder, variant, sizes, licence.
        parts: part -> number of parameters.
        loads: process -> (tensors, parameters) it will load, or None when it is not for that process.
        problems: sentences; a process would refuse the checkpoint for each of them.
    """

    facts: list[tuple[str, str]] = field(default_factory=list)
    parts: dict[str, int] = field(default_factory=dict)
    loads: dict[str, tuple[int, int] | None] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def inspect(folder: CheckpointFolder) -> Report:
    """The report on a checkpoint; reads headers only.

    Raises:
        CheckpointError: the folder cannot be read at all.
    """
    config, shapes = s1.described(folder), folder.shapes()
    standalone = config.get("model_type") == "navdp"
    report = Report()
    report.facts.append(("folder", str(folder.path)))
    report.facts.append(("variant", _variant(config)))
    report.facts += [(name, str(value)) for name, value in _sizes(config)]
    licence = folder.licence_file()
    report.facts.append(("licence file", licence.name if licence else "none in the folder"))
    report.parts = _count_parts(shapes)

    is_s1 = standalone or s2.has_system1(config)
    owned_by_s2 = folder.select((*s2.NETWORK_PREFIXES, s2.LATENT_QUERIES))
    own = {"S1": lambda: folder.select(s1.own_prefixes(config)), "S2": lambda: owned_by_s2}
    expected = {"S1": lambda: s1.expected_shapes(config), "S2": lambda: s2.expected_shapes(config)}
    for process, concerned in (("S1", is_s1), ("S2", not standalone)):
        report.loads[process] = None
        if concerned:
            report.loads[process] = _compare(report, process, shapes, own[process], expected[process])
    if not any(report.loads.values()) and not report.problems:
        report.problems.append("neither S1 nor S2 finds anything to load")
    return report


def _compare(
    report: Report,
    process: str,
    shapes: Shapes,
    own_keys: Callable[[], Iterable[str]],
    expected_shapes: Callable[[], Shapes],
) -> tuple[int, int] | None:
    try:
        expected, own = expected_shapes(), {key: shapes[key] for key in own_keys()}
    except (CheckpointError, ValueError, TypeError, KeyError) as error:
        report.problems.append(f"{process}: {error}")
        return None
    report.problems += [f"{process}: {problem}" for problem in mismatches(expected, own)]
    loaded = [key for key in expected if key in own]
    return len(loaded), sum(math.prod(shapes[key]) for key in loaded)


def _variant(config: Mapping[str, Any]) -> str:
    if config.get("model_type") == "navdp":
        return "standalone NavDP"
    if s2.has_system1(config):
        return f"dual system, S1 is {config['system1']}"
    return "System 2 alone (S1 comes from another folder)"


def _sizes(config: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    names = ("hidden_size", "num_hidden_layers", "vocab_size", "n_query", "torch_dtype", "system1_config")
    return ((name, config[name]) for name in names if config.get(name) is not None)


def part_of(key: str) -> str:
    """The part of the whole model that a released key belongs to."""
    return next((label for label, prefixes in _PARTS if key.startswith(prefixes)), _OTHER)


def _count_parts(shapes: Shapes) -> dict[str, int]:
    counts: dict[str, int] = {}
    for key, shape in shapes.items():
        part = part_of(key)
        counts[part] = counts.get(part, 0) + math.prod(shape)
    order = [label for label, _ in _PARTS] + [_OTHER]
    return {label: counts[label] for label in order if label in counts}


def render(report: Report) -> str:
    """The report as text for a terminal."""
    width = max(len(label) for label, _ in [*report.facts, *((part, 0) for part in report.parts)])
    lines = [f"{label:<{width}}  {text}" for label, text in report.facts]
    lines += ["", "parameters"]
    lines += [f"{part:<{width}}  {count:>15,}" for part, count in report.parts.items()]
    lines += [f"{'all':<{width}}  {sum(report.parts.values()):>15,}", "", "what each process loads"]
    for process, load in report.loads.items():
        text = "nothing" if load is None else f"{load[0]} tensors, {load[1]:,} parameters"
        lines.append(f"{process:<{width}}  {text}")
    lines.append("")
    lines += [f"ERROR  {problem}" for problem in report.problems] or ["ok: no key missing, none unexpected"]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="check_checkpoint", description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", help="checkpoint folder, single weights file, or hub id owner/name")
    options = parser.parse_args(arguments)
    try:
        report = inspect(CheckpointFolder(options.folder))
    except CheckpointError as error:
        print(f"ERROR  {error}", file=sys.stderr)
        return 1
    print(render(report))
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
