"""A small dual system from nothing: planner, a second round where it went wrong, both S1s, evaluations, report.

`python -m dual_nav_training.small.recipe RUN` runs commands that all go on after an interruption; so does the whole.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dual_nav_training.small.checkpoint import SYSTEM1_SIZES

_PACKAGE = "dual_nav_training.small"
_TEST_FLATS = 10**9  # seeds from here on are never trained on
_VISITED_FLATS = 10**6  # training seeds for the second round


@dataclass(frozen=True)
class Size:
    """How much of everything. Steps are of 8 images with 6 questions each, those of `see` of 16 images, those of S1
    of 16 ways."""

    flats: int
    see_steps: int
    read_steps: int
    ground_steps: int
    visited_flats: int
    again_steps: int
    s1_steps: int
    episodes: int  # of the evaluation


SIZES = {
    "cpu": Size(400, 1500, 1500, 2500, 60, 1500, 600, 20),
    "gpu": Size(2000, 10000, 10000, 30000, 500, 10000, 20000, 300),
}


def commands(run: Path, size: Size, processes: int) -> Iterator[list[str]]:
    """Arguments of the Python commands, in order."""
    views, held, visited, ways, held_ways, s2 = (
        str(run / name) for name in ("views", "held", "visited", "ways", "held_ways", "s2")
    )
    planner = f"{s2}/model"

    def rendered(command: str, folder: str, flats: int, first: int, *more: str) -> list[str]:
        counts = ["--flats", str(flats), "--first", str(first), "--processes", str(processes)]
        return ["-m", f"{_PACKAGE}.{command}", folder, *counts, *more]

    steps = {"see": size.see_steps, "read": size.read_steps, "ground": size.ground_steps}
    train = ["-m", f"{_PACKAGE}.train_s2", "--views", views, "--eval-views", held, "--output", s2, "--images", "8"]
    for stage, count in steps.items():
        train += [f"--{stage}-steps", str(count)]
    yield rendered("views", views, size.flats, 0)
    yield rendered("views", held, 12, _TEST_FLATS)
    yield train
    yield rendered("views", visited, size.visited_flats, _VISITED_FLATS, "--planner", planner)
    yield [*train, "--visited", visited, "--again-steps", str(size.again_steps)]
    yield ["-m", f"{_PACKAGE}.score", planner, held]
    yield rendered("ways", ways, size.flats // 3, 0)  # S1 learns from far fewer, and a way is five images
    yield rendered("ways", held_ways, 12, _TEST_FLATS)
    for system1 in SYSTEM1_SIZES:
        data = ["--ways", ways, "--eval-ways", held_ways, "--steps", str(size.s1_steps)]
        yield [
            *("-m", f"{_PACKAGE}.train_s1", "--model", planner, "--system1", system1),
            *(*data, "--output", str(run / "s1")),
        ]
        model = str(run / "s1" / system1 / "model")
        yield [
            *("-m", "dual_nav_training.in_process", "--episodes", str(size.episodes)),
            *("--s2", model, "--s1", model, "--processes", str(processes), "--out", str(run / f"eval_{system1}")),
        ]
    yield ["-m", f"{_PACKAGE}.report", str(run)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="small.recipe", description=__doc__.split("\n\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--size", choices=sorted(SIZES), default="gpu")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="that render")
    options = parser.parse_args(arguments)
    for command in commands(options.run, SIZES[options.size], options.processes):
        print("python " + shlex.join(command), flush=True)
        try:
            status = subprocess.run([sys.executable, *command], check=False).returncode
        except KeyboardInterrupt:
            return 130
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
