"""Closed loop in the simulator: `make eval EPISODES=n S1=… S2=…`.

Simulator, planner and controller run as processes over DDS, in lock-step; with --in-process the same modules run in
one process each per core, without ROS, and come to the same results faster. S1 and S2 are the model in models/ where
nothing else is said, and oracles where there is none. Arguments name:=value go to sim.launch.xml.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from dual_nav_bringup.closed_loop import ClosedLoop, Interrupted, LoopError, Parts
from dual_nav_bringup.shipped import shipped_model
from dual_nav_bringup.supervisor import stop_signals
from nav_sim.evaluate import ERRORS, argument_parser, output_of, report, settings_of
from nav_sim.evaluation import InProcess, Output, Settings, evaluate


class Stop:
    """Whether a signal said so. The first one ends things in order, the second at once."""

    def __init__(self) -> None:
        self.by: int | None = None

    def on_signal(self, number: int, _: object) -> None:
        again, self.by = self.by is not None, number
        if again:
            raise KeyboardInterrupt

    def keep_going(self) -> bool:
        return self.by is None


def over_dds(settings: Settings, output: Output, stop: Stop, record: bool) -> dict:
    """Evaluate with all parts as processes."""
    look, launch = settings.simulator.look, settings.launch
    parts = Parts(settings.s1, settings.s2, look, settings.seed, launch=launch)
    show = lambda line: tqdm.write(line, file=sys.stderr)  # noqa: E731
    with ClosedLoop(
        parts, output.folder, show, stop.keep_going, images=output.video, record=record
    ) as loop:  # fmt: skip
        return evaluate(settings, output, loop, processes=1)


def in_process(settings: Settings, output: Output, processes: int) -> dict:
    """Evaluate without ROS."""
    from dual_nav_training.in_process import parts_of  # imports torch

    return evaluate(settings, output, InProcess(parts_of(settings)), processes)


def main(words: Sequence[str] | None = None) -> int:
    parser = argument_parser(__doc__, Path("runs/eval"))
    drives = str(shipped_model() or "oracle")
    parser.set_defaults(s1=drives, s2=drives)
    parser.add_argument("--in-process", action="store_true", help="without ROS and processes of their own")
    parser.add_argument("--record", action="store_true", help="record everything as a rosbag2 (over DDS only)")
    parser.add_argument("launch", nargs="*", metavar="name:=value", help="further arguments of sim.launch.xml")
    arguments = parser.parse_args(words)
    stop = Stop()
    try:
        settings, output = settings_of(arguments), output_of(arguments)
        settings = dataclasses.replace(settings, launch=tuple(sorted(arguments.launch)))
        if arguments.in_process:
            if arguments.record or arguments.launch:
                raise ValueError("--record and name:=value need processes: leave --in-process out")
            summary = in_process(settings, output, arguments.processes)
        else:
            if settings.withheld:
                raise ValueError("--withhold is for --in-process: over DDS everybody gets what the topics have")
            for number in stop_signals():
                signal.signal(number, stop.on_signal)
            summary = over_dds(settings, output, stop, arguments.record)
    except (*ERRORS, LoopError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    except (Interrupted, KeyboardInterrupt):
        with contextlib.suppress(OSError):
            print(f"\ninterrupted; the same command goes on from {arguments.out}", file=sys.stderr)
        return 128 + (stop.by or signal.SIGINT)
    report(summary, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
