"""Both nodes on a recording for an hour: `make soak MINUTES=60`. Memory, threads and handles must stay what they are.

The recording is played in a loop, time goes on, and every ten minutes a new instruction begins an episode, so that a
long history and a fresh start are both among what is measured. The soak fails when the memory of a node grows by more
than --growth after the first --warm-up minutes, when it has more threads or open handles than then, or when plans or
paths stop coming. It ends with a table, one JSON line, usage.csv and a picture of memory over time.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import math
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from matplotlib.figure import Figure
from nav_msgs.msg import Path as PathMessage
from rclpy.node import Node
from std_msgs.msg import String

from dual_nav_bringup.domain import own_domain_id
from dual_nav_bringup.player import LATCHED_QOS, STREAM_QOS, Player
from dual_nav_bringup.replay import (
    ActiveWatch,
    ReplayError,
    System,
    default_recording,
    new_folder,
    positive,
    random_model,
    spinning_node,
)
from dual_nav_bringup.supervisor import stop_signals
from dual_nav_util.recording import Recording, RecordingError, choose_topics
from nav_msgs_ext.msg import S2Plan

SAMPLE_PERIOD = 1.0  # s
REPORT_PERIOD = 60.0  # s between lines on the terminal
EPISODE_SECONDS = 600.0
SILENCE_SECONDS = 180.0  # without a plan or a path: the nodes do not work, whatever their memory does
INSTRUCTION = "Go past the robot stand and stop at the backpack."


@dataclass(frozen=True)
class Usage:
    """What a process holds at a moment."""

    seconds: float  # since the recording began to play
    memory_mb: float  # see memory_of
    resident_mb: float  # as `ps` shows it
    threads: int
    handles: int  # open files, sockets, pipes


@dataclass(frozen=True)
class Verdict:
    """How a process's usage developed.

    memory_mb: medians of the time as long as the warm-up that follows it, and of as much at the end.
    threads, handles: the highest numbers during the warm-up, and the medians of as much time at the end.
    """

    memory_mb: tuple[float, float]
    threads: tuple[int, int]
    handles: tuple[int, int]

    @property
    def growth(self) -> float:
        """Of memory, as a share."""
        return self.memory_mb[1] / self.memory_mb[0] - 1.0

    def faults(self, name: str, allowed_growth: float) -> list[str]:
        """What is wrong, in words."""
        found = []
        if self.growth > allowed_growth:
            before, after = self.memory_mb
            found.append(f"{name}: memory grew by {self.growth:.2%} ({before:.1f} to {after:.1f} MB)")
        for what, (before, after) in (("threads", self.threads), ("open handles", self.handles)):
            if after > before:
                found.append(f"{name}: {after} {what}, {before} during the warm-up")
        return found


def memory_of(status: str) -> tuple[float, float]:
    """(held, resident) memory [MB] from the text of /proc/PID/status.

    Held is anonymous memory, also what of it was swapped out. Pages of files (libraries, weights) come and go with
    the kernel's page cache; DDS's shared memory has a fixed size and is only used up bit by bit.
    """
    kilobytes = {
        line.split(":")[0]: int(line.split()[1]) for line in status.splitlines() if line.rstrip().endswith(" kB")
    }
    return (kilobytes["RssAnon"] + kilobytes["VmSwap"]) * 1.024e-3, kilobytes["VmRSS"] * 1.024e-3


def usage_of(process: psutil.Process, seconds: float) -> Usage:
    """What a process holds now; psutil.Error or OSError when it has ended."""
    held, resident = memory_of(Path(f"/proc/{process.pid}/status").read_text())
    return Usage(seconds, held, resident, process.num_threads(), process.num_fds())


def judge(samples: Sequence[Usage], warm_up: float) -> Verdict:
    """Compare what a node uses after the warm-up, its first so many seconds, with what it uses at the end.

    Medians, because a sample in the middle of an inference has all that the inference needs for a moment, and one may
    meet a file that is open for an instant.

    Raises:
        ValueError: there are no samples on one of the two sides.
    """
    warming = [u for u in samples if u.seconds < warm_up]
    after = samples[len(warming) :]
    if not (warming and after):
        raise ValueError(f"{len(samples)} samples are too few to compare after {warm_up:g} s of warm-up")
    early = [u for u in after if u.seconds <= after[0].seconds + warm_up]
    late = [u for u in after if u.seconds >= after[-1].seconds - warm_up]

    def median(part: Sequence[Usage], name: str) -> float:
        return statistics.median(getattr(usage, name) for usage in part)

    def count(name: str) -> tuple[int, int]:
        return max(getattr(usage, name) for usage in warming), math.ceil(median(late, name))

    return Verdict((median(early, "memory_mb"), median(late, "memory_mb")), count("threads"), count("handles"))


# ------------------------------------------------------------------------------------------------------------ report


def table(samples: Mapping[str, Sequence[Usage]], verdicts: Mapping[str, Verdict]) -> str:
    """Usage per node for people: memory at the start, after the warm-up and in the end."""
    lines = [f"{'':18}{'memory [MB]: start':>19}{'warm':>9}{'end':>8}{'growth':>9}{'threads':>9}{'handles':>9}"]
    for name, verdict in verdicts.items():
        used = samples[name]
        before, after = verdict.memory_mb
        numbers = f"{used[0].memory_mb:>19.1f}{before:>9.1f}{after:>8.1f}"
        counts = "".join(f"{f'{a}→{b}':>9}" for a, b in (verdict.threads, verdict.handles))
        lines.append(f"{name:18}{numbers}{verdict.growth:>+9.2%}{counts}")
    return "\n".join(lines)


def write_usage(folder: Path, samples: Mapping[str, Sequence[Usage]], warm_up: float) -> None:
    """usage.csv with every sample, memory.png with memory over time."""
    with (folder / "usage.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["node", *Usage.__dataclass_fields__])
        for name, used in samples.items():
            writer.writerows([name, *asdict(usage).values()] for usage in used)
    figure = Figure(figsize=(8, 2.2 * len(samples)), layout="constrained")
    axes = figure.subplots(len(samples), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, used) in zip(axes, samples.items(), strict=True):
        axis.plot([usage.seconds / 60 for usage in used], [usage.memory_mb for usage in used], linewidth=1)
        axis.axvspan(0, warm_up / 60, color="0.9")
        axis.set_ylim(0, 1.15 * max(usage.memory_mb for usage in used))
        axis.set_title(name, fontsize=9, loc="left")
        axis.set_ylabel("memory [MB]")
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("time [min]; grey: warm-up")
    figure.savefig(folder / "memory.png", dpi=100)


# --------------------------------------------------------------------------------------------------------------- run


class Output:
    """Counts what the nodes publish and remembers when it last came."""

    def __init__(self, node: Node):
        self.counts = {"plans": 0, "paths": 0}
        self._last = dict.fromkeys(self.counts, time.monotonic())
        node.create_subscription(S2Plan, "s2/plan", lambda _: self._came("plans"), LATCHED_QOS)
        node.create_subscription(PathMessage, "s1/path", lambda _: self._came("paths"), STREAM_QOS)

    def _came(self, what: str) -> None:
        self.counts[what] += 1
        self._last[what] = time.monotonic()

    def begin(self) -> None:
        """Silence counts from now."""
        self._last = dict.fromkeys(self.counts, time.monotonic())

    def silent(self) -> str | None:
        """What has not come for too long."""
        for what, last in self._last.items():
            if (silence := time.monotonic() - last) > SILENCE_SECONDS:
                return f"no {what} for {silence:.0f} s"
        return None


class Soak:
    """One soak from start to report."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.stopped_by: signal.Signals | None = None
        self.samples: dict[str, list[Usage]] = {}
        self._pids: dict[str, int] = {}
        self.output: Output | None = None
        self._next_sample, self._next_report, self._next_episode = 0.0, REPORT_PERIOD, 0.0

    def on_signal(self, number: int, frame: object) -> None:
        self.stopped_by = self.stopped_by or signal.Signals(number)

    def run(self) -> int:
        options = self.options
        bag = Path(options.bag) if options.bag else default_recording()
        with Recording(bag) as recording:
            topics = choose_topics(recording, {})
            topics.pop("instruction", None)  # given here, see EPISODE_SECONDS
            folder = new_folder(options.out, bag)
            model = options.model or random_model()
            transport = "compressed" if topics["rgb"].type.endswith("CompressedImage") else "raw"
            arguments = [f"model:={model}", f"rgb_transport:={transport}", *options.launch]
            os.environ["ROS_DOMAIN_ID"] = own_domain_id()
            say(f"{bag}, {options.minutes:g} min at rate {options.rate:g}, into {folder}")
            with contextlib.ExitStack() as at_the_end:
                node = at_the_end.enter_context(spinning_node("soak"))
                system = System(arguments, folder / "nodes.log", say)
                at_the_end.callback(system.stop)
                player = Player(node, recording, topics, options.rate, sys.maxsize, None)
                instruction = node.create_publisher(String, "instruction", LATCHED_QOS)
                self.output = Output(node)
                self._wait(system, ActiveWatch(node))
                try:
                    self._play(system, player, lambda: instruction.publish(String(data=INSTRUCTION)))
                    self._look_at_processes(system, options.minutes)
                except ReplayError:
                    if self.samples:  # what was used until then is what one wants to see
                        write_usage(folder, self.samples, 60.0 * options.warm_up)
                        say(f"{folder}: usage.csv, memory.png, nodes.log")
                    raise
        return self._report(folder)

    def _wait(self, system: System, watch: ActiveWatch) -> None:
        end = time.monotonic() + self.options.start_timeout
        while not watch.all_active():
            if watch.failure:
                raise ReplayError(watch.failure)
            if system.ended() is not None or time.monotonic() > end or self.stopped_by is not None:
                raise ReplayError(f"the nodes are not active: {watch.states}; see nodes.log")
            time.sleep(0.05)

    def _play(self, system: System, player: Player, give_instruction: Callable[[], None]) -> None:
        begin = time.monotonic()
        self.output.begin()

        def keep_going() -> bool:
            elapsed = time.monotonic() - begin
            if elapsed >= self._next_episode:
                self._next_episode += EPISODE_SECONDS
                give_instruction()
            if elapsed >= self._next_sample:
                self._next_sample = elapsed + SAMPLE_PERIOD
                self._sample(system, elapsed)
            return self.stopped_by is None and elapsed < 60.0 * self.options.minutes

        player.play(keep_going)

    def _sample(self, system: System, elapsed: float) -> None:
        if system.ended() is not None:
            raise ReplayError("the nodes have ended, see above")
        if (silence := self.output.silent()) is not None:
            raise ReplayError(f"after {elapsed / 60:.1f} min: {silence}")
        for name, process in self._look_at_processes(system, elapsed / 60).items():
            with contextlib.suppress(psutil.Error, OSError):
                self.samples.setdefault(name, []).append(usage_of(process, elapsed))
        if elapsed >= self._next_report:
            self._next_report += REPORT_PERIOD
            newest = {name: used[-1] for name, used in self.samples.items()}
            texts = [
                f"{name} {u.memory_mb:.1f} MB {u.threads} threads {u.handles} handles" for name, u in newest.items()
            ]
            say(f"{elapsed / 60:5.1f} min  {', '.join(texts)}, {self.output.counts}")

    def _look_at_processes(self, system: System, minutes: float) -> dict[str, psutil.Process]:
        """The nodes' processes; ReplayError when one has ended: the launch file starts some of them again, and memory
        that a crash gave back would pass for memory that never grew."""
        processes = system.processes()
        for name, process in processes.items():
            self._pids.setdefault(name, process.pid)
        gone = [name for name, pid in self._pids.items() if name not in processes or processes[name].pid != pid]
        if gone and self.stopped_by is None:
            raise ReplayError(f"after {minutes:.1f} min: {', '.join(gone)} has ended, see nodes.log")
        return processes

    def _report(self, folder: Path) -> int:
        warm_up = 60.0 * self.options.warm_up
        write_usage(folder, self.samples, warm_up)
        verdicts = {name: judge(used, warm_up) for name, used in self.samples.items()}
        faults = [
            fault for name, verdict in verdicts.items() for fault in verdict.faults(name, self.options.growth / 100)
        ]
        print(table(self.samples, verdicts))
        for fault in faults:
            print(f"FAULT {fault}")
        summary = {
            "minutes": round(max(used[-1].seconds for used in self.samples.values()) / 60, 2),
            "complete": self.stopped_by is None,
            **self.output.counts,
            "nodes": {name: asdict(verdict) | {"growth": verdict.growth} for name, verdict in verdicts.items()},
            "faults": faults,
            "out": str(folder),
        }
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        print(json.dumps(summary), flush=True)
        return 1 if faults else 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    number = positive(float)
    parser.add_argument("--minutes", type=number, default=60.0, help="how long (default: 60)")
    parser.add_argument("--warm-up", type=number, default=5.0, help="minutes in which memory may grow (default: 5)")
    parser.add_argument(
        "--growth", type=number, default=1.0, help="percent of memory allowed after that (default: 1)"
    )
    parser.add_argument("--bag", help="rosbag2 folder, .mcap or .db3 file (default: the one of the tests, if there)")
    parser.add_argument("--model", help="checkpoint folder or hub id (default: random weights)")
    parser.add_argument("--rate", type=number, default=1.0, help="speed of playing (1: as recorded)")
    parser.add_argument("--out", type=Path, help="folder for the results (default: runs/<recording>-<time>)")
    parser.add_argument("--start-timeout", type=number, default=600.0, help="seconds the nodes have to load")
    parser.add_argument("launch", nargs="*", metavar="name:=value", help="further arguments of replay.launch.xml")
    options = parser.parse_args(words)
    if options.warm_up >= options.minutes:
        parser.error(f"--warm-up {options.warm_up:g} must be shorter than --minutes {options.minutes:g}")
    soak = Soak(options)
    for signal_number in stop_signals():
        signal.signal(signal_number, soak.on_signal)
    try:
        return soak.run()
    except (ReplayError, RecordingError, ValueError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return getattr(error, "status", 2)


if __name__ == "__main__":
    sys.exit(main())
