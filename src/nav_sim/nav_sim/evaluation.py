"""Episodes closed loop in this process: no ROS, no waiting, several processes at once.

The world stands still while a planner or controller thinks, as it does over DDS in lock-step, so the fast path and
the runs over DDS measure the same thing.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import multiprocessing
import os
import queue
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from . import pictures
from .camera import Camera
from .episodes import EPISODES_PER_FLAT, FAMILIES, SUCCESS_RADIUS, Episode, make_episode
from .grid import Point
from .judge import Judge, Result, summarise
from .oracles import KIND_ACTIONS, OracleController, OraclePlanner, PlanMade, RandomPlanner, goal_on_floor
from .scene import available_look
from .sensors import DepthSensor
from .simulator import Config, Pose, Simulator

CONTROL_PERIOD = 0.05  # seconds
PERIODS_PER_FRAME = 2  # a camera frame every 0.1 s
FORMAT = 2  # of the files written


class EvaluationError(RuntimeError):
    """An evaluation cannot go on; the message says why."""


class Frame:
    """A camera frame of the simulator: time in seconds, true pose and odometry; images are drawn when asked for."""

    def __init__(self, simulator: Simulator, sensor: DepthSensor, random: np.random.Generator) -> None:
        self._simulator, self._sensor, self._random = simulator, sensor, random
        self.time = simulator.time
        self.pose = simulator.pose
        self._level: tuple[np.ndarray, np.ndarray] | None = None

    def _images(self) -> tuple[np.ndarray, np.ndarray]:
        if self._level is None:
            rgb, depth = self._simulator.render("level")
            self._level = rgb, self._sensor.measure(depth, self._random)
        return self._level

    @property
    def rgb(self) -> np.ndarray:
        """(H, W, 3) uint8 of the level camera."""
        return self._images()[0]

    @property
    def depth(self) -> np.ndarray:
        """(H, W) uint16 in millimetres, 0 where there is no measurement."""
        return self._images()[1]

    def look_down(self) -> np.ndarray:
        """(H, W, 3) uint8 of the tilted camera."""
        return self._simulator.render("look_down")[0]


class Planner(Protocol):
    """The part of S2: plans are made from camera frames."""

    def plan(self, frame: Frame) -> PlanMade | None:
        """None: the model's answer was no plan; it is asked again at the next frame."""


class Controller(Protocol):
    """The part of S1. In each period `command` first; then, with a frame, `see`, and a plan if it asks for one."""

    @property
    def stopped(self) -> bool:
        """STOP was reached."""

    @property
    def asks(self) -> bool:
        """Whether a plan is wanted from the frame seen last."""

    def command(self, simulator: Simulator) -> tuple[float, float]: ...
    def see(self, frame: Frame) -> tuple[float, float] | None:
        """Work on a frame; the command if that changes it."""

    def set_plan(self, plan: PlanMade, frame: Frame) -> tuple[float, float]:
        """Follow a plan made from this frame; the command of now."""


class Parts(Protocol):
    """Who drives. It has to be picklable: episodes run in several processes."""

    def planner(self, episode: Episode, cameras: dict[str, Camera]) -> Planner: ...
    def controller(self, episode: Episode, cameras: dict[str, Camera]) -> Controller: ...


class _OraclePlans:
    """An oracle plans from where the frame was taken."""

    def __init__(self, oracle: OraclePlanner | RandomPlanner) -> None:
        self._oracle = oracle

    def plan(self, frame: Frame) -> PlanMade:
        return self._oracle.plan(frame.pose)


class _OracleDrives:
    """The oracle controller, which asks for the next plan when one is done or has been followed for some frames."""

    def __init__(self, oracle: OracleController, plan_step_gap: int) -> None:
        self._oracle, self._gap = oracle, plan_step_gap
        self._frames = 0  # since the frame of the plan
        self._turning = False

    @property
    def stopped(self) -> bool:
        return self._oracle.stopped

    @property
    def asks(self) -> bool:
        if self._oracle.stopped:
            return False
        return self._oracle.done or (not self._turning and self._frames >= self._gap)

    def command(self, simulator: Simulator) -> tuple[float, float]:
        return self._oracle.command(simulator.pose, simulator.time)

    def see(self, frame: Frame) -> None:
        self._frames += 1

    def set_plan(self, plan: PlanMade, frame: Frame) -> tuple[float, float]:
        self._frames, self._turning = 0, plan.kind == KIND_ACTIONS
        self._oracle.set_plan(plan, frame.pose, frame.time)
        return self._oracle.command(frame.pose, frame.time)


PLANNERS: dict[str, type[OraclePlanner] | type[RandomPlanner]] = {"oracle": OraclePlanner, "random": RandomPlanner}
CONTROLLERS = ("oracle",)
# What models can be left without, to see what it is worth to them: the right instruction (they get that of another
# episode), images and depth (black and no measurement; what watches for obstacles keeps them).
WITHHELD = ("instruction", "s2_rgb", "s1_rgb", "s1_depth")
PLAN_STEP_GAP = 10  # frames an oracle drives on a pixel goal before it asks for the next


@dataclass(frozen=True)
class Oracles:
    """Those who know the map, and the one that acts at random."""

    s2: str = "oracle"
    s1: str = "oracle"

    def planner(self, episode: Episode, cameras: dict[str, Camera]) -> Planner:
        if self.s2 not in PLANNERS:
            raise ValueError(f"S2: expected one of {', '.join(PLANNERS)}, got {self.s2!r}")
        return _OraclePlans(PLANNERS[self.s2](episode, cameras))

    def controller(self, episode: Episode, cameras: dict[str, Camera]) -> Controller:
        if self.s1 not in CONTROLLERS:
            raise ValueError(f"S1: expected {', '.join(CONTROLLERS)}, got {self.s1!r}")
        return _OracleDrives(OracleController(episode, cameras), PLAN_STEP_GAP)


@dataclass(frozen=True)
class Settings:
    """What is evaluated; two runs with the same settings give the same results."""

    split: str = "test"
    seed: int = 0
    episodes: int = 60
    families: tuple[str, ...] = FAMILIES
    s2: str = "oracle"  # one of PLANNERS, or a checkpoint folder
    s1: str = "oracle"  # one of CONTROLLERS, or a checkpoint folder
    radius: float = SUCCESS_RADIUS
    time_limit: float = 120.0  # simulated seconds
    simulator: Config = field(default_factory=Config)
    withheld: tuple[str, ...] = ()  # of WITHHELD
    launch: tuple[str, ...] = ()  # further arguments of the launch file, where there is one

    def __post_init__(self) -> None:
        unknown = [what for what in self.withheld if what not in WITHHELD]
        if unknown:
            raise ValueError(f"withheld: expected some of {', '.join(WITHHELD)}, got {', '.join(unknown)}")
        for what in self.withheld:
            name, part = ("S1", self.s1) if what.startswith("s1_") else ("S2", self.s2)
            if part in (*PLANNERS, *CONTROLLERS):
                raise ValueError(f"withheld {what}: {name} is {part}, which does not look at it")
        for name, value, known in (("S2", self.s2, PLANNERS), ("S1", self.s1, CONTROLLERS)):
            if value not in known and not Path(value).is_dir():
                raise ValueError(f"{name}: expected {', '.join(known)} or a checkpoint folder, got {value!r}")
        unknown = [family for family in self.families if family not in FAMILIES]
        if unknown or not self.families:
            raise ValueError(
                f"families: expected some of {', '.join(FAMILIES)}, got {', '.join(self.families) or 'none'}"
            )
        for name in ("episodes", "radius", "time_limit"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)}")


@dataclass
class Run:
    """One episode as it went: its measures, and what the picture shows."""

    result: Result
    driven: list[Point]
    pixel_goals: list[Point]  # where the pixel goals lay on the floor


@dataclass(frozen=True)
class Moment:
    """What can be seen of an episode at a camera frame, for viewers and videos."""

    time: float  # seconds since the instruction
    pose: Pose
    rgb: np.ndarray | None  # (H, W, 3) uint8 of the level camera
    plan: PlanMade | None  # the newest
    goal: Point | None  # what its pixel goal means on the floor
    driven: Sequence[Point]


Watch = Callable[[Moment], None]


def run_episode(
    episode: Episode, settings: Settings, simulator: Simulator, parts: Parts, watch: Watch | None = None
) -> Run:
    """Run one episode in a simulator of its flat; the order of things is that of lock-step over DDS (lockstep.py).

    watch: called at every camera frame.
    """
    simulator.reset(episode.start.x, episode.start.y, episode.start.yaw)
    planner = parts.planner(episode, simulator.cameras)
    controller = parts.controller(episode, simulator.cameras)
    judge = Judge(episode, settings.radius)
    random = np.random.default_rng([settings.seed, 3])
    decided, plans, goals = 0.0, 0, []
    newest: PlanMade | None = None
    goal: list[Point] = []
    for period in itertools.count():
        if simulator.time > settings.time_limit + 1e-6:
            break
        command = controller.command(simulator)
        if period % PERIODS_PER_FRAME == 0:
            frame = Frame(simulator, DepthSensor(), random)
            judge.observe(frame.time, frame.pose)
            if controller.stopped and judge.at_rest:
                break
            command = controller.see(frame) or command
            made = planner.plan(frame) if controller.asks else None
            if made is not None:
                newest, decided, plans = made, frame.time, plans + 1
                goal = floor_point(made, frame.pose, simulator.cameras)
                goals += goal
                command = controller.set_plan(made, frame)
            if watch is not None:
                watch(Moment(frame.time, frame.pose, frame.rgb, newest, goal[0] if goal else None, judge.driven))
        simulator.command(*command)
        simulator.step(CONTROL_PERIOD)
    outcome = "stopped" if controller.stopped else "timeout"
    result = judge.result(simulator, outcome, plans, len(simulator.collisions), decided)
    return Run(result, judge.driven, goals)


def floor_point(plan: PlanMade, pose: Pose, cameras: dict[str, Camera]) -> list[Point]:
    """Where the plan's pixel goal lies on the floor, for pictures; none without one, or above the horizon."""
    local = goal_on_floor(plan, cameras)
    return [] if local is None else [pose.to_world(local)]


# ------------------------------------------------------------------------------------------------- many episodes


@dataclass(frozen=True)
class Output:
    """Where results go, and what is written beside the figures."""

    folder: Path
    pictures: bool = True
    video: bool = False

    def watch(self, episode: Episode, camera: Camera) -> contextlib.AbstractContextManager[Watch | None]:
        """For the time of an episode: what its frames are shown to."""
        if not self.video:
            return contextlib.nullcontext()
        from .video import EpisodeVideo  # imports an encoder

        return EpisodeVideo(episode, camera, self.folder / "videos" / f"{episode.name}.mp4")

    def record(self, episode: Episode, simulator: Simulator, run: Run, wall_time: float) -> dict:
        """The record of an episode; its picture is drawn. The simulator is one of its flat."""
        if self.pictures:
            image = pictures.episode_picture(episode, simulator, run.driven, run.pixel_goals, run.result)
            pictures.save(image, self.folder / "pictures" / f"{episode.name}.png")
        return {**run.result.as_dict(), "wall_time": round(wall_time, 3)}


Keys = Sequence[tuple[str, int]]  # family and number of episodes
RunGroup = Callable[[Keys, Settings, Output], Iterable[dict]]


@dataclass(frozen=True)
class InProcess:
    """Runs episodes in this process."""

    parts: Parts

    def __call__(self, keys: Keys, settings: Settings, output: Output) -> Iterator[dict]:
        """Episodes that mostly share a flat, one after the other."""
        with Simulators(settings) as simulators:
            for family, number in keys:
                episode = make_episode(settings.split, settings.seed, family, number)
                simulator = simulators.of(episode)
                start = time.monotonic()
                with output.watch(episode, settings.simulator.camera) as watch:
                    run = run_episode(episode, settings, simulator, self.parts, watch)
                yield output.record(episode, simulator, run, time.monotonic() - start)


class Simulators(contextlib.AbstractContextManager):
    """One simulator at a time, kept while episodes share a flat."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._simulator: Simulator | None = None

    def of(self, episode: Episode) -> Simulator:
        """A simulator of the episode's flat."""
        if self._simulator is None or self._simulator.flat.seed != episode.flat_seed:
            self.__exit__()
            self._simulator = Simulator(episode.flat, self._settings.simulator, self._settings.seed)
        return self._simulator

    def __exit__(self, *_: object) -> None:
        if self._simulator is not None:
            self._simulator.close()
            self._simulator = None


_results: multiprocessing.Queue | None = None  # of a worker process
PR_SET_PDEATHSIG = 1


def _worker_begins(results: multiprocessing.Queue) -> None:
    global _results
    _results = results
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))  # however the parent ends


def _in_a_process(task: tuple[RunGroup, Keys, Settings, Output]) -> None:
    run_group, *arguments = task
    for result in run_group(*arguments):
        _results.put(result)


def _in_processes(tasks: list[tuple], processes: int, count: int) -> Iterator[dict]:
    """Results of all tasks, in the order they come."""
    # Processes of their own, not forks: an OpenGL context does not survive a fork.
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with context.Pool(processes, _worker_begins, (results,)) as pool:
        workers = multiprocessing.active_children()
        running = [pool.apply_async(_in_a_process, (task,)) for task in tasks]
        while count:
            try:
                yield results.get(timeout=1.0)
                count -= 1
            except queue.Empty:
                for task in running:
                    if task.ready():
                        task.get()  # raises what went wrong there
                if not all(worker.is_alive() for worker in workers):  # the pool would wait for its task for ever
                    raise EvaluationError(
                        "a process of the evaluation was killed: is there too little memory?"
                    ) from None


def _stored_settings(settings: Settings) -> dict:
    """With what the settings only name: the look that is there, and the weights in the folders."""
    values = json.loads(json.dumps({"format": FORMAT, **asdict(settings)}))
    values["simulator"]["look"] = available_look(settings.simulator.look)
    return values | {"weights": _weights(settings)}


def _weights(settings: Settings) -> list[str]:
    """What tells the weights of S2 and S1 from others at the same place."""
    folders = [Path(folder) for folder in (settings.s2, settings.s1) if Path(folder).is_dir()]
    if not folders:
        return []
    from dual_nav_util.checkpoint import weights_fingerprint  # imports torch

    return [weights_fingerprint(folder) for folder in folders]


class ResumeError(EvaluationError):
    """The folder holds results of other settings."""


def _load_finished(folder: Path, settings: Settings) -> dict[str, dict]:
    """Results of an earlier run of the same settings, by episode name; the number of episodes may differ."""
    stored = folder / "settings.json"
    wanted = _stored_settings(settings)
    if stored.is_file():
        before = json.loads(stored.read_text())
        different = sorted(k for k in wanted if k != "episodes" and before.get(k) != wanted[k])
        if different:
            raise ResumeError(
                f"{folder} holds an evaluation with other settings ({', '.join(different)}): choose another "
                "folder, or remove it"
            )
    folder.mkdir(parents=True, exist_ok=True)
    stored.write_text(json.dumps(wanted, indent=1))
    finished: dict[str, dict] = {}
    log = folder / "episodes.jsonl"
    if log.is_file():
        for line in log.read_text().splitlines():
            try:
                result = json.loads(line)
            except json.JSONDecodeError:  # the last line of a run that was cut off
                continue
            finished[result["name"]] = result
        log.write_text("".join(json.dumps(result) + "\n" for result in finished.values()))
    return finished


def _groups(keys: Iterable[tuple[str, int]]) -> list[list[tuple[str, int]]]:
    """Keys grouped so that those which mostly share a flat come together."""
    groups: dict[int, list[tuple[str, int]]] = {}
    for family, number in keys:
        groups.setdefault(number // EPISODES_PER_FLAT, []).append((family, number))
    return list(groups.values())


def evaluate(
    settings: Settings, output: Output, run_group: RunGroup, processes: int = 0, quiet: bool = False
) -> dict:
    """Run what is missing of `settings.episodes` episodes; write and return the summary.

    The folder gets settings.json, episodes.jsonl (a line as soon as an episode ends: an interrupted evaluation goes
    on from there), summary.json, pictures/ and videos/. processes: 0 for one per core; 1: run_group runs in this
    process. ResumeError when the folder holds other settings.
    """
    folder = output.folder
    finished = _load_finished(folder, settings)
    for name in ("pictures", "videos"):
        (folder / name).mkdir(exist_ok=True)
    families = settings.families
    all_keys = [(families[i % len(families)], i // len(families)) for i in range(settings.episodes)]
    names = {
        f"{settings.split}-{settings.seed}-{family}-{number:04d}": (family, number) for family, number in all_keys
    }
    missing = [key for name, key in names.items() if name not in finished]
    tasks = [(run_group, group, settings, output) for group in _groups(missing)]
    processes = min(processes or os.cpu_count() or 1, max(1, len(tasks)))
    start = time.monotonic()
    with (folder / "episodes.jsonl").open("a") as log, tqdm(
        total=len(all_keys), initial=len(all_keys) - len(missing), unit="episode", disable=quiet, dynamic_ncols=True
    ) as bar:  # fmt: skip

        def note(result: dict) -> None:
            finished[str(result["name"])] = result
            log.write(json.dumps(result) + "\n")
            log.flush()
            bar.update()
            known = [result["success"] for name, result in finished.items() if name in names]
            bar.set_postfix_str(f"success {100 * sum(known) / len(known):.1f} %")

        if processes == 1:
            done = (result for _, *arguments in tasks for result in run_group(*arguments))
        else:
            done = _in_processes(tasks, processes, len(missing))
        for result in done:
            note(result)
    results = [finished[name] for name in names]
    summary = {
        "settings": _stored_settings(settings),
        "wall_time": round(time.monotonic() - start, 1),
        "all": summarise(results),
        **{family: summarise([r for r in results if r["family"] == family]) for family in families},
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))
    return summary


def table(summary: dict) -> str:
    """The summary as text: a line per family, value ± half of the 95 % interval."""
    families = [name for name in summary["settings"]["families"] if name in summary]
    lines = [f"{'':10s} {'n':>4s}  {'success %':>18s}  {'SPL':>13s}  {'oracle %':>8s}  {'NE m':>12s}  "
             f"{'collided %':>10s}  {'time s':>6s}  {'path m':>6s}"]  # fmt: skip
    for name in [*families, "all"]:
        part = summary[name]
        low, high = part["success"]["ci95"]
        spl, error = part["spl"], part["navigation_error"]
        lines.append(
            f"{name:10s} {part['episodes']:4d}  "
            f"{100 * part['success']['value']:6.1f} ({100 * low:.1f}–{100 * high:.1f})"
            .ljust(38)
            + f"{spl['value']:.2f} ± {(spl['ci95'][1] - spl['ci95'][0]) / 2:.2f}".rjust(12)
            + f"{100 * part['oracle_success']['value']:10.1f}"
            + f"{error['value']:.2f} ± {(error['ci95'][1] - error['ci95'][0]) / 2:.2f}".rjust(14)
            + f"{100 * part['episodes_with_collision']['value']:12.1f}"
            + f"{part['time']['value']:8.1f}{part['path_length']['value']:8.2f}"
        )  # fmt: skip
    return "\n".join(lines)
