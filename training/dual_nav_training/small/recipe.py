"""The small planner from nothing: views, training, a second round where it went wrong, scores.

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

_PACKAGE = "dual_nav_training.small"
_TEST_FLATS = 10**9  # seeds from here on are never trained on
_VISITED_FLATS = 10**6  # training seeds for the second round


@dataclass(frozen=True)
class Size:
    """How much of everything; the steps are of 8 images with 6 questions each, those of `see` of 16 images."""

    flats: int
    see_steps: int
    ground_steps: int
    visited_flats: int
    again_steps: int


SIZES = {"cpu": Size(500, 1000, 10000, 100, 2000), "gpu": Size(4000, 3000, 40000, 500, 10000)}


def commands(run: Path, size: Size, processes: int) -> Iterator[list[str]]:
    """Arguments of the Python commands, in order."""
    views, held, visited, s2 = (str(run / name) for name in ("views", "held", "visited", "s2"))
    model = f"{s2}/model"

    def rendered(folder: str, flats: int, first: int, *more: str) -> list[str]:
        counts = ["--flats", str(flats), "--first", str(first), "--views", "32", "--processes", str(processes)]
        return ["-m", f"{_PACKAGE}.views", folder, *counts, *more]

    steps = ["--see-steps", str(size.see_steps), "--ground-steps", str(size.ground_steps), "--images", "8"]
    train = ["-m", f"{_PACKAGE}.train_s2", "--views", views, "--eval-views", held, "--output", s2, *steps]
    yield rendered(views, size.flats, 0)
    yield rendered(held, 12, _TEST_FLATS)
    yield train
    yield rendered(visited, size.visited_flats, _VISITED_FLATS, "--planner", model)
    yield [*train, "--visited", visited, "--again-steps", str(size.again_steps)]
    yield ["-m", f"{_PACKAGE}.score", model, held]


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
