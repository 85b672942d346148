"""Episodes closed loop in this process: no ROS, no waiting, several processes at once.

The world stands still while a planner or controller thinks, as it does over DDS in lock-step, so the fast path and
the runs over DDS measure the same thing.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from . import pictures
from .camera import Camera
from .episodes import EPISODES_PER_FLAT, FAMILIES, SUCCESS_RADIUS, Episode, make_episode
from .grid import Point
from .judge import Judge, Result, summarise
from .oracles import KIND_PIXEL_GOAL, OracleController, OraclePlanner, PlanMade, RandomPlanner
from .simulator import Config, Pose, Simulator

CONTROL_PERIOD = 0.05  # seconds
FORMAT = 1  # of the files written


class Planner(Protocol):
    """The part of S2."""

    def plan(self, pose: Pose) -> PlanMade: ...


class Controller(Protocol):
    """The part of S1."""

    stopped: bool

    @property
    def done(self) -> bool: ...
    def set_plan(self, plan: PlanMade, frame_pose: Pose, time: float) -> None: ...
    def command(self, pose: Pose, time: float) -> tuple[float, float]: ...


PLANNERS: dict[str, Callable[[Episode, dict[str, Camera]], Planner]] = {
    "oracle": OraclePlanner,
    "random": RandomPlanner,
}
CONTROLLERS: dict[str, Callable[[Episode, dict[str, Camera]], Controller]] = {"oracle": OracleController}


@dataclass(frozen=True)
class Settings:
    """What is evaluated; two runs with the same settings give the same results."""

    split: str = "test"
    seed: int = 0
    episodes: int = 60
    families: tuple[str, ...] = FAMILIES
    s2: str = "oracle"
    s1: str = "oracle"
    radius: float = SUCCESS_RADIUS
    time_limit: float = 120.0  # simulated seconds
    plan_period: float = 1.0  # a plan that is still being followed is replaced after this many seconds
    simulator: Config = field(default_factory=Config)

    def __post_init__(self) -> None:
        if self.s2 not in PLANNERS:
            raise ValueError(f"S2: expected one of {', '.join(PLANNERS)}, got {self.s2!r}")
        if self.s1 not in CONTROLLERS:
            raise ValueError(f"S1: expected one of {', '.join(CONTROLLERS)}, got {self.s1!r}")
        unknown = [family for family in self.families if family not in FAMILIES]
        if unknown or not self.families:
            raise ValueError(
                f"families: expected some of {', '.join(FAMILIES)}, got {', '.join(self.families) or 'none'}"
            )
        for name in ("episodes", "radius", "time_limit", "plan_period"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)}")


@dataclass
class Run:
    """One episode as it went: its measures, and what the picture shows."""

    result: Result
    driven: list[Point]
    pixel_goals: list[Point]  # where the pixel goals lay on the floor


def run_episode(episode: Episode, settings: Settings, simulator: Simulator) -> Run:
    """Run one episode in a simulator of its flat."""
    simulator.reset(episode.start.x, episode.start.y, episode.start.yaw)
    planner = PLANNERS[settings.s2](episode, simulator.cameras)
    controller = CONTROLLERS[settings.s1](episode, simulator.cameras)
    judge = Judge(episode, settings.radius)
    planned_at, plans, goals, pose = 0.0, 0, [], simulator.pose
    following_pixel_goal = False
    while simulator.time < settings.time_limit and not controller.stopped:
        stale = following_pixel_goal and simulator.time - planned_at >= settings.plan_period
        if controller.done or stale:
            plan = planner.plan(pose)
            planned_at, plans = simulator.time, plans + 1
            following_pixel_goal = plan.kind == KIND_PIXEL_GOAL
            if plan.pixel_goal is not None:
                camera = simulator.cameras["look_down" if plan.look_down else "level"]
                floor = camera.floor_point(*plan.pixel_goal)
                if floor is not None:
                    goals.append(pose.to_world(floor))
            controller.set_plan(plan, pose, simulator.time)
        simulator.command(*controller.command(pose, simulator.time))
        simulator.step(CONTROL_PERIOD)
        pose = simulator.pose
        judge.observe(pose)
    outcome = "stopped" if controller.stopped else "timeout"
    return Run(judge.result(simulator, outcome, plans), judge.driven, goals)


# ------------------------------------------------------------------------------------------------- many episodes


def _run_group(keys: Sequence[tuple[str, int]], settings: Settings, folder: Path, with_pictures: bool) -> list[dict]:
    """Episodes (family, number) that mostly share a flat, one after the other."""
    results: list[dict] = []
    simulator: Simulator | None = None
    try:
        for family, number in keys:
            episode = make_episode(settings.split, settings.seed, family, number)
            if simulator is None or simulator.flat.seed != episode.flat_seed:
                if simulator is not None:
                    simulator.close()
                simulator = Simulator(episode.flat, settings.simulator, settings.seed)
            start = time.monotonic()
            run = run_episode(episode, settings, simulator)
            if with_pictures:
                image = pictures.episode_picture(episode, simulator, run.driven, run.pixel_goals, run.result)
                pictures.save(image, folder / "pictures" / f"{episode.name}.png")
            results.append({**run.result.as_dict(), "wall_time": round(time.monotonic() - start, 3)})
    finally:
        if simulator is not None:
            simulator.close()
    return results


def _run_group_star(arguments: tuple) -> list[dict]:
    return _run_group(*arguments)


def _stored_settings(settings: Settings) -> dict:
    return json.loads(json.dumps({"format": FORMAT, **asdict(settings)}))


class ResumeError(RuntimeError):
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


def evaluate(settings: Settings, folder: Path, processes: int = 0, with_pictures: bool = True,
             quiet: bool = False) -> dict:  # fmt: skip
    """Run what is missing of `settings.episodes` episodes; write and return the summary.

    folder gets settings.json, episodes.jsonl (a line as soon as an episode ends: an interrupted evaluation goes on
    from there), summary.json and pictures/. processes: 0 for one per core. ResumeError when `folder` holds other
    settings.
    """
    finished = _load_finished(folder, settings)
    if with_pictures:
        (folder / "pictures").mkdir(exist_ok=True)
    families = settings.families
    all_keys = [(families[i % len(families)], i // len(families)) for i in range(settings.episodes)]
    names = {
        f"{settings.split}-{settings.seed}-{family}-{number:04d}": (family, number) for family, number in all_keys
    }
    missing = [key for name, key in names.items() if name not in finished]
    tasks = [(group, settings, folder, with_pictures) for group in _groups(missing)]
    processes = min(processes or os.cpu_count() or 1, max(1, len(tasks)))
    start = time.monotonic()
    with (folder / "episodes.jsonl").open("a") as log, tqdm(
        total=len(all_keys), initial=len(all_keys) - len(missing), unit="episode", disable=quiet, dynamic_ncols=True
    ) as bar:  # fmt: skip

        def note(results: list[dict]) -> None:
            for result in results:
                finished[str(result["name"])] = result
                log.write(json.dumps(result) + "\n")
            log.flush()
            bar.update(len(results))
            done = [result for name, result in finished.items() if name in names]
            bar.set_postfix_str(f"success {100 * sum(r['success'] for r in done) / max(1, len(done)):.1f} %")

        if processes == 1:
            for task in tasks:
                note(_run_group(*task))
        else:
            # Processes of their own, not forks: an OpenGL context does not survive a fork.
            with multiprocessing.get_context("spawn").Pool(processes) as pool:
                for results in pool.imap_unordered(_run_group_star, tasks):
                    note(results)
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
