"""Runs both nodes on a recording: `make replay BAG=<rosbag2 folder>`.

Starts replay.launch.xml, waits until both nodes are active, plays the recording with its own timing, and ends with
a table, one JSON line, a picture per plan, a top-down plot of the paths and a recording of all that came out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import psutil
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import GetState
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from tqdm import tqdm

from dual_nav_bringup.domain import own_domain_id
from dual_nav_bringup.observer import Observer
from dual_nav_bringup.player import Player
from dual_nav_bringup.question import Question
from dual_nav_bringup.report import summarise, table
from dual_nav_bringup.supervisor import die_with_parent, exit_status, stop_signals
from dual_nav_util.dds import image_transport_warnings
from dual_nav_util.recording import SECOND, Recording, RecordingError, choose_topics

NODES = ("s2_planner", "s1_controller")
STOP_SECONDS = 20.0  # the runner needs at most 15 s to end its processes
SPIN_END_TIMEOUT = 2.0  # s for a callback at hand to end
# Of the nodes' log: warnings, errors, and what the runner says about them (started, killed, ended).
SHOWN_LOG = re.compile(r"\[WARN\]|\[ERROR\]|\[FATAL\]|Traceback|Error:|\] +-- ")


class ReplayError(Exception):
    """The replay cannot go on; the message says why."""

    def __init__(self, text: str, status: int = 1):
        super().__init__(text)
        self.status = status


class Stopped(Exception):
    """Ctrl-C or SIGTERM while pictures are drawn."""


# ------------------------------------------------------------------------------------------------- what to run with


def default_recording() -> Path:
    """The recording used when none is given; ReplayError (status 2) when it is not there."""
    path = Path(os.environ.get("NAV_SHARED_DIR", "../shared")) / "data" / "realsense_lab_bag"
    if not path.is_dir():
        raise ReplayError(
            f"no recording given and none at {path}. Give one:  make replay BAG=<rosbag2 folder>\n"
            "It needs RGB images (raw or compressed) and, for S1, odometry; depth and instruction are used if there.",
            status=2,
        )
    return path


def random_model() -> str:
    """A checkpoint folder with random weights that always answers with a pixel goal, made once.

    Not the one in models/: it knows the simulator only, and in a recording of a real room it looks around for ever.
    """
    folder = Path("checkpoints") / "replay_random"
    if not (folder / "config.json").is_file():
        command = [
            sys.executable,
            "-m",
            "dual_nav_training.random_checkpoint",
            str(folder),
            "--answers",
            "↓",
            "320 240",
        ]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            raise ReplayError(f"no checkpoint given, and a random one could not be made: {made.stderr.strip()}")
    return str(folder.resolve())


def new_folder(out: Path | None, recording: Path) -> Path:
    """The folder results go to: `out`, or runs/<recording>-<date and time>; it must not hold anything yet."""
    folder = out or Path("runs") / f"{recording.resolve().stem}-{datetime.now():%Y%m%d-%H%M%S}"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ReplayError(f"{folder} exists and is not empty: choose another OUT", status=2)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def parse_remaps(words: Sequence[str]) -> dict[str, str]:
    """{'/front/image': 'rgb'} from ['/front/image:=rgb']."""
    remaps = {}
    for word in words:
        recorded, assign, played = word.partition(":=")
        if not assign or not recorded or not played:
            raise ReplayError(f"--remap {word}: must be <recorded topic>:=<topic of the nodes>", status=2)
        remaps[recorded] = played
    return remaps


# ------------------------------------------------------------------------------------------------------- the system


class System:
    """Both nodes, started through the launch file as a child of this process; memory of each, sampled."""

    def __init__(
        self, arguments: Sequence[str], log: Path, show: Callable[[str], None], launch_file: str = "replay.launch.xml"
    ):
        self.memory_mb: dict[str, list[float]] = {name: [] for name in NODES}
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "dual_nav_bringup.launch_runner", launch_file, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C comes here only, and is passed on when the report needs no more
            preexec_fn=die_with_parent(signal.SIGTERM),
        )
        self._log = log
        self._show = show
        self._reader = threading.Thread(target=self._read, name="log", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.ExitStack() as at_the_end:
            sink = at_the_end.enter_context(self._log.open("w"))
            for line in self._popen.stdout:  # to the end, whatever happens: the nodes wait for who reads
                if sink is not None:
                    try:
                        sink.write(line)
                        sink.flush()
                    except OSError as error:
                        self._show(f"{self._log} ends here: {error.strerror}")
                        sink = None
                if SHOWN_LOG.search(line):
                    self._show(line.rstrip())

    def ended(self) -> int | None:
        """Exit status of the launch file, None while it runs."""
        returncode = self._popen.poll()
        return None if returncode is None else exit_status(returncode)

    def processes(self) -> dict[str, psutil.Process]:
        """The running processes of the launch file, by the name of their node."""
        found = {}
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self._popen.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    for word in process.cmdline():
                        if word.startswith("__node:="):
                            found[word.removeprefix("__node:=")] = process
        return found

    def sample_memory(self) -> None:
        """Note the resident memory of each node [MB]."""
        for name, process in self.processes().items():
            with contextlib.suppress(psutil.Error):
                if name in self.memory_mb:
                    self.memory_mb[name].append(process.memory_info().rss / 1e6)

    def stop(self) -> None:
        """End the nodes; returns when they are gone."""
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(signal.SIGINT)
        try:
            self._popen.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._popen.kill()  # its children are killed with it
            self._popen.wait()
        self._reader.join(timeout=2)


@contextlib.contextmanager
def spinning_node(name: str, namespace: str | None = None) -> Iterator[Node]:
    """ROS with one node whose callbacks run in a thread; signals are left to the caller."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node(name, namespace=namespace)
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    spinner = threading.Thread(target=spin, name="executor", daemon=True)
    spinner.start()
    try:
        yield node
    finally:
        executor.shutdown()
        # A thread that is still waiting for messages while ROS is torn down aborts the process.
        spinner.join(SPIN_END_TIMEOUT)
        node.destroy_node()
        rclpy.shutdown()


class ActiveWatch:
    """Asks each node for the state of its life cycle, and hears from /diagnostics why one could not be configured."""

    def __init__(self, node: Node, names: Sequence[str] = NODES):
        self._questions = {name: Question(node, GetState, f"{name}/get_state", GetState.Request()) for name in names}
        self.states = dict.fromkeys(names, "starting")
        self._failures: dict[str, str] = {}
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name, _, part = status.name.partition(": ")
            if name in self.states and part == "life cycle":
                failed = status.level == DiagnosticStatus.ERROR
                self._failures[name] = f"{status.name}: {status.message}" if failed else ""

    @property
    def failure(self) -> str:
        """Why nodes could not be configured; empty while none has failed."""
        return "; ".join(text for text in self._failures.values() if text)

    def all_active(self) -> bool:
        """Take in answers that have come, ask again, and say whether all nodes are active."""
        for name, question in self._questions.items():
            question.ask()
            if question.answer is not None:
                self.states[name] = question.answer.current_state.label
        return all(state == "active" for state in self.states.values())


def wait_for_nodes(
    system: System, watch: ActiveWatch, observer: Observer, timeout: float, show_state: Callable
) -> None:
    """Return when both nodes are active; ReplayError with what the nodes say when they cannot be."""
    begin = time.monotonic()
    while not (watch.all_active() and observer.connected()):
        if (status := system.ended()) is not None:
            raise ReplayError("the nodes ended before they were active, see above", status=status or 1)
        if watch.failure:
            raise ReplayError(watch.failure)
        if time.monotonic() - begin > timeout:
            states = ", ".join(f"{name} is {state}" for name, state in watch.states.items())
            raise ReplayError(f"after {timeout:.0f} s the nodes are not active: {states}. Their log: nodes.log")
        show_state(watch.states)
        time.sleep(0.05)


# ----------------------------------------------------------------------------------------------------------- the run


class Replay:
    """One replay from start to report."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.stopped_by: signal.Signals | None = None
        self.drawing = False  # pictures can be given up at once, everything before them ends in order
        self.begin = time.monotonic()

    def on_signal(self, number: int, frame: object) -> None:
        if self.stopped_by is None:
            self.stopped_by = signal.Signals(number)
        if self.drawing:
            raise Stopped

    def keep_going(self) -> bool:
        return self.stopped_by is None

    def say(self, text: str) -> None:
        tqdm.write(text, file=sys.stderr)

    def run(self) -> int:
        options = self.options
        bag = Path(options.bag) if options.bag else default_recording()
        with Recording(bag) as recording:
            topics = choose_topics(recording, parse_remaps(options.remap))
            if "instruction" not in topics and not options.instruction:
                raise ReplayError(
                    f"{bag} holds no instruction: give --instruction '<what the robot is to do>'", status=2
                )
            missing = [name for name in ("depth", "odom") if name not in topics]
            folder = new_folder(options.out, bag)
            model, random_weights = options.model or random_model(), not options.model
            if random_weights:
                self.say(f"no checkpoint given: random weights with one fixed answer, in {model}; plans mean nothing")
            seconds = recording.duration_ns / SECOND * options.loop / options.rate
            self.say(
                f"recording {bag}: {seconds:.0f} s, {options.loop} loop(s) at rate {options.rate:g}; into {folder}"
            )
            self.say("playing " + ", ".join(f"{topic.name} as {played}" for played, topic in topics.items()))
            for name in missing:
                self.say(
                    f"no {name} in the recording" + (": S1 will not drive without odometry" if name == "odom" else "")
                )
            return self.play(recording, topics, folder, model, random_weights)

    def play(self, recording: Recording, topics: dict, folder: Path, model: str, random_weights: bool) -> int:
        options = self.options
        transport = "compressed" if topics["rgb"].type.endswith("CompressedImage") else "raw"
        arguments = [f"model:={model}", f"rgb_transport:={transport}", *options.launch]
        os.environ["ROS_DOMAIN_ID"] = own_domain_id()
        self.say(f"to watch it in another terminal: export ROS_DOMAIN_ID={os.environ['ROS_DOMAIN_ID']}")
        failure: ReplayError | None = None
        with contextlib.ExitStack() as at_the_end:  # from the last to the first
            node = at_the_end.enter_context(spinning_node("replay"))
            system = System(arguments, folder / "nodes.log", self.say)
            at_the_end.callback(system.stop)
            for warning in image_transport_warnings(rclpy.get_rmw_implementation_identifier()):
                self.say(f"[WARN] {warning}")
            player = Player(node, recording, topics, options.rate, options.loop, options.instruction)
            observer = Observer(node, folder / "outputs", lambda: player.now_ns)
            # Before the nodes end: that the clock stands still then is no finding.
            at_the_end.callback(observer.close)
            watch = ActiveWatch(node)
            try:
                self.wait(system, watch, observer)
                self.stream(system, player)
            except ReplayError as error:
                failure = error
        # 130: the launch file was only told to stop.
        if failure is None and self.stopped_by is None and (status := system.ended()) not in (0, 130):
            failure = ReplayError("a node failed during the replay, see above", status=status or 1)
        if failure is not None and not player.frame_sent:
            raise failure
        self.report(recording, topics, folder, player, observer, system, model, random_weights, failure)
        if failure is not None:
            raise failure
        return exit_status(-self.stopped_by) if self.stopped_by else 0

    def wait(self, system: System, watch: ActiveWatch, observer: Observer) -> None:
        with tqdm(
            bar_format="{desc} {elapsed}", file=sys.stderr, disable=not sys.stderr.isatty(), leave=False
        ) as line:

            def show_state(states: dict[str, str]) -> None:
                if not self.keep_going():
                    raise ReplayError("stopped while the nodes were starting", exit_status(-self.stopped_by))
                line.set_description_str("waiting: " + ", ".join(f"{name} {state}" for name, state in states.items()))

            wait_for_nodes(system, watch, observer, self.options.start_timeout, show_state)
        self.say(f"both nodes active {time.monotonic() - self.begin:.1f} s after the start")

    def stream(self, system: System, player: Player) -> None:
        """Play, with a progress bar and a look at memory every second."""
        total = round(player.loops * player.loop_ns / SECOND, 1)
        begin_ns = player.now_ns
        next_look = 0.0
        layout = "{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of the recording, {remaining} left"
        with tqdm(total=total, bar_format=layout, file=sys.stderr, disable=not sys.stderr.isatty()) as bar:

            def keep_going() -> bool:
                nonlocal next_look
                if time.monotonic() >= next_look:
                    next_look = time.monotonic() + 1.0
                    system.sample_memory()
                    bar.n = min(total, (player.now_ns - begin_ns) / SECOND)
                    bar.refresh()
                    if (status := system.ended()) is not None:
                        raise ReplayError("all nodes have ended during the replay, see above", status=status or 1)
                return self.keep_going()

            player.play(keep_going)
        system.sample_memory()

    def report(
        self,
        recording: Recording,
        topics: dict,
        folder: Path,
        player: Player,
        observer: Observer,
        system: System,
        model: str,
        random_weights: bool,
        failure: ReplayError | None,
    ) -> None:
        seen = observer.seen
        summary = {
            "recording": str(recording.path),
            "model": model,
            "random_weights": random_weights,
            "rate": player.rate,
            "loops": player.loops,
            "complete": failure is None and self.stopped_by is None,
            **summarise(seen, player.frame_sent, system.memory_mb),
            "out": str(folder),
        }
        print(table(summary), flush=True)
        # Stamps of all frames sent go along, so that every figure can be computed again from outputs/.
        (folder / "summary.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
        frames = [f"{stamp},{sent:.6f}" for stamp, sent in player.frame_sent.items()]
        (folder / "frames.csv").write_text("stamp_ns,sent_monotonic_s\n" + "\n".join(frames) + "\n")
        from dual_nav_bringup.pictures import (
            write_plan_pictures,
            write_top_down,
        )  # 0.6 s that the start can do without

        with contextlib.suppress(Stopped):
            self.drawing = True
            title = f"{recording.path.name}: {len(seen.paths)} paths from {len(seen.plans)} plans"
            write_top_down(folder / "paths.png", seen.paths, [xy for _, xy in seen.odometry], title)
            pictures = write_plan_pictures(
                folder / "plans", recording, topics["rgb"], seen.plans, player.loop_ns, player.frame_sent
            )
            print(f"\n{folder}: paths.png, {pictures} pictures in plans/, outputs/ (rosbag2), nodes.log", flush=True)
        self.drawing = False
        print(json.dumps(summary, ensure_ascii=False), flush=True)


def positive(kind: type) -> Callable[[str], float]:
    """For argparse: a number above zero."""

    def parse(word: str) -> float:
        value = kind(word)
        if not 0 < value < 1e6:
            raise argparse.ArgumentTypeError(f"{word} is not above 0")
        return value

    parse.__name__ = "number"
    return parse


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="replay", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--bag", help="rosbag2 folder, .mcap or .db3 file (default: the one of the tests, if there)")
    parser.add_argument("--model", help="checkpoint folder or hub id (default: random weights)")
    parser.add_argument("--rate", type=positive(float), default=1.0, help="speed of playing (1: as recorded)")
    parser.add_argument("--loop", type=positive(int), default=1, help="how often it is played; time goes on")
    parser.add_argument("--out", type=Path, help="folder for the results (default: runs/<recording>-<time>)")
    parser.add_argument("--instruction", help="instruction to give instead of the recorded one")
    parser.add_argument(
        "--remap",
        action="append",
        default=[],
        metavar="RECORDED:=TOPIC",
        help="play a recorded topic as rgb, depth, camera_info, odom, rgb_look_down or instruction",
    )
    parser.add_argument("--start-timeout", type=positive(float), default=600.0, help="seconds the nodes have to load")
    parser.add_argument(
        "launch", nargs="*", metavar="name:=value", help="further arguments of replay.launch.xml (device:=cuda …)"
    )
    replay = Replay(parser.parse_args(words))
    for number in stop_signals():
        signal.signal(number, replay.on_signal)
    try:
        return replay.run()
    except (ReplayError, RecordingError) as error:
        print(f"replay: {error}", file=sys.stderr)
        return getattr(error, "status", 2)


if __name__ == "__main__":
    sys.exit(main())
