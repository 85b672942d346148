"""A robot follows sentences through a flat, in the browser: `make demo`.

Starts simulator, planner, controller and viewer, runs episode after episode and takes other instructions meanwhile:
typed here, into the page, or published on the topic. An instruction of a person's ends the episode; the robot follows
it in the same flat, and the next episode comes when it has arrived and nothing more is said.

With --headless there is no page, the world waits for planner and controller (lock-step), and the last line is JSON.
Arguments name:=value go to sim.launch.xml.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import urllib.request
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rclpy.node import Node
from std_msgs.msg import String

from dual_nav_bringup.closed_loop import ClosedLoop, Interrupted, LoopError, Parts
from dual_nav_bringup.evaluate import Stop
from dual_nav_bringup.replay import positive
from dual_nav_bringup.shipped import shipped_model
from dual_nav_bringup.supervisor import stop_signals
from dual_nav_util import qos
from dual_nav_util.stamps import to_nanoseconds
from nav_msgs_ext.msg import ControllerState, S2Plan
from nav_sim.episodes import SUCCESS_RADIUS, make_episodes
from nav_sim.evaluate import ERRORS
from nav_sim.evaluation import Settings, Simulators
from nav_sim.judge import Result
from nav_sim.scene import LOOKS
from nav_sim.simulator import Config

FOLDER = Path("runs/demo")
FIRST_PORT, PORTS = 8080, 100
PAGE_TIMEOUT = 120.0  # s
TIME_LIMIT = 120.0  # s an episode or an instruction may take
PAUSE = 4.0  # s between two episodes, to see where the robot has stopped
PATIENCE = 20.0  # s the robot waits for another instruction when it has followed one
POLL = 0.05  # s
ENDLESS = 100_000  # episodes


def say(text: str) -> None:
    print(text, flush=True)


def say_trouble(line: str) -> None:
    """A line of the processes' log, unless it says that one was started or ended."""
    if not re.search(r"-- (started|ended$)", line):
        say(line)


# --------------------------------------------------------------------------------------------------------- who drives


def choose(name: str, given: str | None, model: str | None) -> str:
    """What S1 or S2 is: "oracle", "random" or a checkpoint folder. `given` and `model` are what a person said.

    ValueError: a model is wanted and there is none.
    """
    shipped = shipped_model()
    found = model or (str(shipped) if shipped else None)
    if given == "model" and found is None:
        raise ValueError(f"{name}=model: there is none in models/. Give MODEL=<checkpoint folder>, or {name}=oracle")
    if given in (None, "model"):
        return found or "oracle"
    return given


def check_choice(name: str, chosen: str) -> None:
    """ValueError for what is neither a part that knows the map nor a folder: nodes that cannot be configured are
    waited for in vain."""
    known = ("oracle", "random") if name == "S2" else ("oracle",)
    if chosen not in known and not Path(chosen).is_dir():
        raise ValueError(f"{name}: {chosen} is no folder; expected a checkpoint folder, or {' or '.join(known)}")


def who_drives(s1: str, s2: str, chosen: bool) -> str:
    """One line for people. `chosen`: a person asked for it."""
    parts = {"S2": s2, "S1": s1}
    oracles = " and ".join(name for name, part in parts.items() if part == "oracle")
    if oracles and not chosen:
        return f"No trained model in models/ yet: {oracles} know the map (oracles). MODEL=<folder> takes a checkpoint"
    told = {"oracle": "oracle, which knows the map", "random": "random actions"}
    return ", ".join(f"{name}: {told.get(part, part)}" for name, part in parts.items())


# -------------------------------------------------------------------------------------------------- what was measured


class Rates:
    """How often planner and controller come to something new, per second of this machine; `with` around episodes.

    The time before an episode's first plan does not count: flats take a while to build.
    """

    def __init__(self, node: Node) -> None:
        self._lock = threading.Lock()
        self._open = False
        self._since: float | None = None  # the episode's first plan
        self._plans = self._frames = self._frame_ns = 0
        self._elapsed = 0.0
        node.create_subscription(S2Plan, "s2/plan", self._on_plan, qos.LATCHED)
        node.create_subscription(ControllerState, "s1/state", self._on_state, qos.NEWEST_STATE)

    def _on_plan(self, _: S2Plan) -> None:
        with self._lock:
            if self._open:
                self._since = self._since or time.monotonic()
                self._plans += 1

    def _on_state(self, message: ControllerState) -> None:
        stamp_ns = to_nanoseconds(message.header.stamp)
        with self._lock:
            if self._since is not None and stamp_ns != self._frame_ns:
                self._frame_ns = stamp_ns
                self._frames += 1

    def __enter__(self) -> None:
        with self._lock:
            self._open = True

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._since is not None:
                self._elapsed += time.monotonic() - self._since
            self._open, self._since = False, None

    @property
    def hertz(self) -> tuple[float, float]:
        """Of S1 (camera frames acted on) and S2 (plans)."""
        elapsed = max(self._elapsed, 1e-9)
        return self._frames / elapsed, self._plans / elapsed


def summary(results: Sequence[Result], rates: tuple[float, float]) -> dict[str, object]:
    """Means over the episodes."""
    count = max(1, len(results))
    return {
        "episodes": len(results),
        "success": round(sum(result.success for result in results) / count, 4),
        "spl": round(sum(result.spl for result in results) / count, 4),
        "ne": round(sum(result.navigation_error for result in results) / count, 4),
        "collisions": sum(result.collisions for result in results),
        "s1_hz": round(rates[0], 2),
        "s2_hz": round(rates[1], 2),
    }


def verdict(result: Result) -> str:
    """An episode in a line."""
    came = "there" if result.success else f"{result.navigation_error:.1f} m left ({result.outcome})"
    hits = f", {result.collisions} collisions" if result.collisions else ""
    return f"  {came}: SPL {result.spl:.2f}, {result.time:.0f} s, {result.path_length:.1f} m{hits}"


# ----------------------------------------------------------------------------------------------------------- the demo


@dataclass
class Listener:
    """What people say, on whatever way it comes to the topic `instruction`, and whether the robot has arrived."""

    node: Node
    expected: str | None = None  # the one being followed, which nobody needs to be told of
    heard: str | None = None
    under_way: bool = field(default=False, init=False)  # the expected one was given
    arrived: bool = field(default=False, init=False)
    refusal: str = field(default="", init=False)  # why the planner stopped at once
    _episode_id: int = field(default=0, init=False)
    _answered: bool = field(default=True, init=False)
    _early: bool = field(default=False, init=False)  # heard before the robot stood in its flat

    def __post_init__(self) -> None:
        self._publisher = self.node.create_publisher(String, "instruction", qos.LATCHED)
        self.node.create_subscription(String, "instruction", self._on_instruction, qos.LATCHED)
        self.node.create_subscription(S2Plan, "s2/plan", self._on_plan, qos.LATCHED)
        self.node.create_subscription(ControllerState, "s1/state", self._on_state, qos.NEWEST_STATE)

    def publish(self, text: str) -> None:
        self._publisher.publish(String(data=text))

    def begin(self, instruction: str) -> None:
        """An episode is going to be loaded, and then its instruction given."""
        self.expected, self.under_way = instruction, False

    def take(self) -> str | None:
        """What a person said and the robot follows from now on; None if nothing new."""
        text, self.heard = self.heard, None
        if text is not None:
            self.expected = text
            if self._early:  # nobody could follow it then
                self.publish(text)
        return text

    def _on_instruction(self, message: String) -> None:
        self.arrived, self._answered = False, False
        if message.data == self.expected:
            self.under_way = True
        else:
            self.heard, self._early = message.data, not self.under_way

    def _on_plan(self, message: S2Plan) -> None:
        self._answered |= message.episode_id != self._episode_id
        if message.plan_number == 0:
            self.refusal = message.answer if list(message.actions) == [S2Plan.ACTION_STOP] else ""
        self._episode_id = message.episode_id

    def _on_state(self, message: ControllerState) -> None:
        done = message.state == ControllerState.ARRIVED and message.episode_id == self._episode_id
        self.arrived = self._answered and done


class Demo:
    """One demo from start to end."""

    def __init__(self, options: argparse.Namespace, parts: Parts, stop: Stop) -> None:
        self._options, self._parts, self._stop = options, parts, stop
        self._listener: Listener | None = None
        self.results: list[Result] = []

    def _keep_going(self) -> bool:
        listener = self._listener
        taken_over = listener is not None and listener.under_way and listener.heard is not None
        return self._stop.keep_going() and not taken_over

    def run(self) -> dict[str, object]:
        """Run the episodes; the summary. Raises Interrupted when the demo was told to stop."""
        simulators = Simulators(Settings(seed=self._options.seed, simulator=Config(look=self._parts.look)))
        start = time.monotonic()
        say("Starting simulator, planner and controller …")
        with ClosedLoop(self._parts, FOLDER, say_trouble, self._keep_going) as loop, simulators:
            say(f"  ready after {time.monotonic() - start:.0f} s; their log: {FOLDER}/nodes.log")
            self._listener, rates = Listener(loop.node), Rates(loop.node)
            if not self._options.headless:
                self._invite()
            for episode in make_episodes("test", self._options.seed, self._options.episodes or ENDLESS):
                self._listener.begin(episode.instruction)
                say(f"{episode.name}: “{episode.instruction}”")
                try:
                    with rates:
                        result = loop.run(episode, SUCCESS_RADIUS, TIME_LIMIT, simulators).result
                except Interrupted:
                    if not self._stop.keep_going():
                        raise
                    self._follow_person()
                    continue
                self.results.append(result)
                say(verdict(result))
                if not self._options.headless:
                    self._wait(PAUSE)
                    self._follow_person()
            return summary(self.results, rates.hertz)

    # ------------------------------------------------------------------------------------------------- with a person

    def _invite(self) -> None:
        address = f"http://localhost:{self._options.port}"
        wait_for_page(address, self._stop.keep_going)
        say(f"\n  Watch:  {address}")
        say("  Tell the robot where to go: type a sentence here or in the page; Ctrl-C ends the demo.")
        say(f"  ROS 2 tools of another terminal: export ROS_DOMAIN_ID={os.environ['ROS_DOMAIN_ID']}\n")
        if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
            webbrowser.open(address)
        threading.Thread(target=self._read_terminal, name="terminal", daemon=True).start()

    def _read_terminal(self) -> None:
        # Not sys.stdin: a thread that waits in its buffer can abort the end of the process.
        rest = b""
        while data := os.read(0, 4096):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if text := line.decode(errors="replace").strip():
                    self._listener.publish(text)

    def _follow_person(self) -> None:
        """Let the robot follow what was said, and whatever is said then, until nothing more is."""
        listener = self._listener
        while (text := listener.take()) is not None:
            say(f"you: “{text}”")
            self._wait(TIME_LIMIT, lambda: listener.arrived)
            if listener.heard is None:
                say(f"  {listener.refusal or 'arrived'}" if listener.arrived else "  not there in time")
                self._wait(PATIENCE)

    def _wait(self, seconds: float, condition: Callable[[], bool] = lambda: False) -> None:
        """Until the condition, a person's word or the time's end; Interrupted when the demo is to stop."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not condition() and self._listener.heard is None:
            if not self._stop.keep_going():
                raise Interrupted("a person to look")
            time.sleep(POLL)


def free_port() -> int:
    """The first port from FIRST_PORT on that nobody listens on."""
    for port in range(FIRST_PORT, FIRST_PORT + PORTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise LoopError(f"ports {FIRST_PORT} to {FIRST_PORT + PORTS - 1} are all in use")


def wait_for_page(address: str, keep_going: Callable[[], bool]) -> None:
    """Until the viewer serves its page; LoopError if it does not."""
    end = time.monotonic() + PAGE_TIMEOUT
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy does not see this machine's pages
    while time.monotonic() < end:
        if not keep_going():
            raise Interrupted("the page")
        try:
            direct.open(address, timeout=1.0).close()
            return
        except OSError:
            time.sleep(POLL)
    raise LoopError(f"the viewer does not serve its page: see {FOLDER}/nodes.log")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=positive(int), help="how many (default: until Ctrl-C; 1 with --headless)")
    parser.add_argument("--seed", type=int, default=7, help="which flats and instructions, 0 to 999 (default: 7)")
    parser.add_argument("--headless", action="store_true", help="no page, lock-step, a JSON line at the end")
    parser.add_argument(
        "--model", help="checkpoint folder of S1 and S2 (default: the one in models/, if there is one)"
    )
    parser.add_argument("--s1", help="oracle, model, or a checkpoint folder of its own")
    parser.add_argument("--s2", help="oracle, random, model, or a checkpoint folder of its own")
    parser.add_argument("--look", choices=LOOKS, help="default: furniture where it is installed")
    parser.add_argument("launch", nargs="*", metavar="name:=value", help="further arguments of sim.launch.xml")
    options = parser.parse_args(words)
    stop = Stop()
    for number in stop_signals():
        signal.signal(number, stop.on_signal)
    try:
        s1, s2 = (choose(name, getattr(options, name.lower()), options.model) for name in ("S1", "S2"))
        for name, chosen in (("S1", s1), ("S2", s2)):
            check_choice(name, chosen)
        say(who_drives(s1, s2, chosen=bool(options.s1 or options.s2 or options.model)))
        launch, wait_for = list(options.launch), "planner_and_controller"
        if options.headless:
            options.episodes = options.episodes or 1
        else:
            options.port, wait_for = free_port(), "nobody"
            launch += ["viewer:=true", f"viewer_port:={options.port}"]
        parts = Parts(s1, s2, options.look or "", options.seed, wait_for, tuple(launch))
        found = Demo(options, parts, stop).run()
    except (*ERRORS, LoopError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except (Interrupted, KeyboardInterrupt):
        say("\nended")
        return 128 + (stop.by or signal.SIGINT)
    say(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
