"""Training data from the simulator: `python -m dual_nav_training.make_dataset --episodes 100 --out datasets/first`.

Writes OUT/vln_ce/<scene>/ (for the planner and the dual system) and OUT/vln_n1/nav_sim/<scene>/ (for the standalone
NavDP) in the layouts that `lerobot.py` describes, and OUT/dataset.json. A scene holds the episodes of one number, one
of each family, which mostly share a flat. An interrupted run goes on where it was; with more episodes it is extended.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dual_nav_training.lerobot import CameraSetting, fingerprint
from dual_nav_training.lerobot_writer import CeFrame, CeSceneWriter, N1Frame, N1SceneWriter
from dual_nav_training.revision import git_revision
from dual_nav_training.trajectory_labels import camera_mount
from dual_nav_training.workers import in_processes
from nav_sim import expert, gl
from nav_sim.camera import Camera
from nav_sim.episodes import EPISODES_PER_FLAT, FAMILIES, SPLITS, Episode, make_worded_episode
from nav_sim.furniture import attribution
from nav_sim.grid import CELL_M
from nav_sim.scene import LOOKS, SceneError, available_look
from nav_sim.sensors import DepthSensor
from nav_sim.simulator import Config, Pose, Simulator
from nav_sim.worlds import Flat

FORMAT = 1  # of what is written; part of the settings
LAYOUTS = ("vln_ce", "vln_n1")
GROUP = "nav_sim"  # the vln_n1 layout's folder above the scenes
LOG, ABOUT, NOTICE = "scenes.jsonl", "dataset.json", "FURNITURE_COPYRIGHT"
CE_FPS = 1.0  # discrete steps have no time; a second each
LICENCE = (
    "Rendered from procedural flats; the data may be used as the code (Apache-2.0). With the look 'furniture' the "
    "images show models and textures of Sweet Home 3D (Debian package sweethome3d-furniture, CC0 and CC-BY 3.0): "
    f"keep the file {NOTICE}, which names their authors, with every copy."
)


@dataclass(frozen=True)
class Settings:
    """What a data set holds; two runs with the same settings give the same poses, actions and goals.

    wordings: up to so many instructions for each episode. slip_percent: see `nav_sim.expert.drive`.
    """

    split: str = "train"
    seed: int = 0
    families: tuple[str, ...] = FAMILIES
    layouts: tuple[str, ...] = LAYOUTS
    look: str = ""
    width: int = 640
    height: int = 480
    wordings: int = 3
    slip_percent: int = 5

    def __post_init__(self) -> None:
        for name, allowed in (("families", FAMILIES), ("layouts", LAYOUTS)):
            given = getattr(self, name)
            if not given or set(given) - set(allowed) or len(set(given)) < len(given):
                raise ValueError(f"{name}: expected some of {', '.join(allowed)}, got {', '.join(given) or 'none'}")
        for name, low, high in (("wordings", 1, 20), ("slip_percent", 0, 50)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}: expected {low} to {high}, got {getattr(self, name)}")

    def camera(self) -> Camera:
        return Camera(self.width, self.height)


class DatasetError(RuntimeError):
    """A data set cannot be made or continued; the message says why."""


# --------------------------------------------------------------------------------------------------- one episode


def camera_pose(pose: Pose, camera: Camera) -> np.ndarray:
    """(4, 4) optical frame of a camera to the flat's frame, for the robot at `pose`."""
    mount = camera_mount(camera.tilt, camera.forward)
    mount[2, 3] = camera.height
    return _robot_to_world(pose) @ mount


def _robot_to_world(pose: Pose) -> np.ndarray:
    cos, sin = math.cos(pose.yaw), math.sin(pose.yaw)
    return np.asarray([[cos, -sin, 0.0, pose.x], [sin, cos, 0.0, pose.y], [0, 0, 1, 0], [0, 0, 0, 1]])


# Axes right, up, back of a level camera in a frame of axes right, forward, up; and those in the robot's frame.
_CAMERA_IN_BODY = np.asarray([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
_BODY_IN_ROBOT = np.asarray([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])


def n1_extrinsic(camera: Camera) -> np.ndarray:
    """(4, 4) the level camera in the robot's frame of axes right, forward, up."""
    extrinsic = np.eye(4)
    extrinsic[:3, :3] = _CAMERA_IN_BODY
    extrinsic[:3, 3] = (0.0, camera.forward, camera.height)
    return extrinsic


def n1_pose(pose: Pose, camera: Camera) -> np.ndarray:
    """(4, 4) level camera (right, up, back) to the flat's frame, for the robot at `pose`."""
    body = _robot_to_world(pose)
    body[:3, :3] = body[:3, :3] @ _BODY_IN_ROBOT
    return body @ n1_extrinsic(camera)


def intrinsic_matrix(camera: Camera) -> np.ndarray:
    """(3, 3), pixels."""
    column, row = camera.centre
    return np.asarray([[camera.focal, 0, column], [0, camera.focal, row], [0, 0, 1.0]])


def ce_frames(episode: Episode, simulator: Simulator, slip_percent: int) -> Iterator[CeFrame]:
    """The frames of an episode driven in discrete steps. ExpertError, before the first, when it cannot be."""
    steps = expert.drive(episode, simulator.cameras, slip_percent)
    camera = simulator.cameras["look_down"]
    goals = expert.pixel_goals(episode, steps, camera)
    sensor, random = DepthSensor(), np.random.default_rng(episode.flat_seed)
    for index, pose in enumerate(steps.poses):
        simulator.reset(pose.x, pose.y, pose.yaw)
        images = {name: simulator.render(name) for name in simulator.cameras}
        depth = {name: sensor.measure(image[1], random) * np.float32(0.001) for name, image in images.items()}
        goal = goals[index]
        yield CeFrame(
            action=steps.actions[index - 1] if index else -1,
            pose=camera_pose(pose, camera),
            rgb={name: image[0] for name, image in images.items()},
            depth=depth,
            **({"goal": (goal.column, goal.row), "goal_frames": goal.frames} if goal else {}),
        )


def n1_frames(episode: Episode, simulator: Simulator) -> Iterator[N1Frame]:
    """The frames of an episode driven smoothly, 10 a second."""
    sensor, random = DepthSensor(), np.random.default_rng(episode.flat_seed)
    for pose in expert.drive_smoothly(episode, simulator):
        rgb, depth = simulator.render("level")
        measured = sensor.measure(depth, random) * np.float32(0.001)
        yield N1Frame(n1_pose(pose, simulator.cameras["level"]), rgb, measured)


def point_cloud(flat: Flat) -> tuple[np.ndarray, np.ndarray]:
    """x and y [m] of what is in the robot's way, a point per cell of 5 cm, and of the free floor, one per 10 cm."""
    obstacles = (np.argwhere(flat.occupied)[:, ::-1] + 0.5) * CELL_M
    free = (np.argwhere(~flat.occupied[::2, ::2])[:, ::-1] * 2 + 0.5) * CELL_M
    return obstacles, free


# ------------------------------------------------------------------------------------------------------ one scene


@dataclass(frozen=True)
class Task:
    """Episodes (family, number) to write into scenes of their own."""

    keys: tuple[tuple[str, int], ...]
    settings: Settings
    out: Path


def write_scenes(task: Task) -> dict[str, Any]:
    """Write what a task asks for; returns its line of the log: keys, scenes, episodes left out, frames, seconds."""
    started = time.monotonic()
    settings = task.settings
    by_flat: dict[int, list[tuple[Episode, tuple[str, ...]]]] = {}
    for family, number in task.keys:
        episode, wordings = make_worded_episode(settings.split, settings.seed, family, number, settings.wordings)
        by_flat.setdefault(episode.flat_seed, []).append((episode, wordings))
    line: dict[str, Any] = {"keys": task.keys, "scenes": [], "failed": [], "frames": dict.fromkeys(LAYOUTS, 0)}
    for flat_seed, episodes in by_flat.items():
        name = scene_name(settings, f"{task.keys[0][1]:04d}", flat_seed)
        with Simulator(episodes[0][0].flat, Config(look=settings.look, camera=settings.camera())) as simulator:
            for layout in settings.layouts:
                folder = scene_folder(task.out, layout, name)
                frames, failed = _write_scene(folder, layout, episodes, simulator, settings)
                line["frames"][layout] += frames
                line["failed"] += failed
        line["scenes"].append(name)
    return {**line, "seconds": round(time.monotonic() - started, 2)}


def scene_name(settings: Settings, number: str, flat_seed: int | str) -> str:
    return f"{settings.split}-{settings.seed}-{number}-flat{flat_seed}"


def scene_folder(out: Path, layout: str, name: str) -> Path:
    return out / "vln_ce" / name if layout == "vln_ce" else out / "vln_n1" / GROUP / name


def _write_scene(folder: Path, layout: str, episodes: Sequence[tuple[Episode, tuple[str, ...]]], simulator: Simulator,
                 settings: Settings) -> tuple[int, list[str]]:  # fmt: skip
    """Number of frames written, and what was left out because the expert found no way."""
    camera, level = simulator.cameras["look_down"], simulator.cameras["level"]
    if layout == "vln_ce":
        setting = CameraSetting(round(camera.height * 100), 0, round(math.degrees(camera.tilt)))
        writer = CeSceneWriter(folder, setting, intrinsic_matrix(level), camera.forward, CE_FPS)
    else:
        obstacles, free = point_cloud(simulator.flat)
        fps = 1.0 / expert.FRAME_PERIOD
        writer = N1SceneWriter(folder, intrinsic_matrix(level), n1_extrinsic(level), obstacles, free, fps)
    frames, failed = 0, []
    with writer:
        for episode, wordings in episodes:
            try:
                if layout == "vln_ce":
                    frames += writer.add_episode(wordings, ce_frames(episode, simulator, settings.slip_percent))
                else:
                    frames += writer.add_episode(wordings, n1_frames(episode, simulator))
            except expert.ExpertError as error:
                failed.append(f"{layout} {error}")
    return frames, failed


# ---------------------------------------------------------------------------------------------------- whole data set


def tasks_for(settings: Settings, episodes: int, out: Path, workers: int) -> list[Task]:
    """One task per number: an episode of each family. The numbers of a flat are spread, so that two workers do not
    build the same flat at the same time, and close enough for its scene to be still in the cache."""
    families = settings.families
    keys: dict[int, list[tuple[str, int]]] = {}
    for index in range(episodes):
        keys.setdefault(index // len(families), []).append((families[index % len(families)], index // len(families)))

    def order(number: int) -> tuple[int, int, int]:
        flat = number // EPISODES_PER_FLAT
        return flat // workers, number % EPISODES_PER_FLAT, flat

    return [Task(tuple(keys[number]), settings, out) for number in sorted(keys, key=order)]


def _resume(out: Path, settings: Settings, tasks: Sequence[Task]) -> tuple[list[dict[str, Any]], list[Task]]:
    """Log lines of finished tasks, and the tasks that are left. Removes scenes of the set that no line of the log
    knows, half-written ones among them; others, such as converted recordings, stay."""
    about = out / ABOUT
    wanted = json.loads(json.dumps({"format": FORMAT, **asdict(settings)}))
    if about.is_file():
        before = json.loads(about.read_text())["settings"]
        different = sorted(name for name in wanted if before.get(name) != wanted[name])
        if different:
            raise DatasetError(
                f"{out} holds a data set with other settings ({', '.join(different)}): choose another folder, "
                "or remove it"
            )
    elif out.is_dir() and any(out.iterdir()):
        raise DatasetError(f"{out} is not empty and no data set: choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    log = out / LOG
    lines: dict[int, dict[str, Any]] = {}
    for text in log.read_text().splitlines() if log.is_file() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:  # the last line of a run that was cut off
            continue
        lines[line["keys"][0][1]] = line
    asked = {task.keys[0][1]: [list(key) for key in task.keys] for task in tasks}
    # A number with more episodes than before is made anew; one with fewer stays as it is.
    finished = [line for n, line in lines.items() if len(line["keys"]) >= len(asked.get(n, ()))]
    known = {scene for line in finished for scene in line["scenes"]}
    for layout in settings.layouts:
        for folder in scene_folder(out, layout, "").glob(scene_name(settings, "*", "*")):
            if folder.name not in known:
                shutil.rmtree(folder)
    partial = log.with_suffix(".tmp")
    partial.write_text("".join(json.dumps(line) + "\n" for line in finished))
    partial.replace(log)
    done = {line["keys"][0][1] for line in finished}
    return finished, [task for task in tasks if task.keys[0][1] not in done]


def make_dataset(
    settings: Settings, episodes: int, out: Path, workers: int = 0, quiet: bool = False
) -> dict[str, Any]:
    """Write what is missing of a data set; returns the contents of dataset.json.

    Raises:
        DatasetError: `out` holds something else. OSError: a full disk; what is complete stays.
    """
    workers = min(workers or os.cpu_count() or 1, max(1, episodes // len(settings.families)))
    tasks = tasks_for(settings, episodes, out, workers)
    lines, left = _resume(out, settings, tasks)
    _write_about(out, settings, lines, complete=False)
    if available_look(settings.look) == "furniture":
        for notice in attribution():
            shutil.copy(notice, out / NOTICE)
    total = sum(len(task.keys) for task in tasks)
    before = total - sum(len(task.keys) for task in left)
    with (out / LOG).open("a") as log, tqdm(
        total=total, initial=before, unit="episode", disable=quiet, dynamic_ncols=True
    ) as bar:  # fmt: skip

        def note(line: dict[str, Any]) -> None:
            lines.append(line)
            log.write(json.dumps(line) + "\n")
            log.flush()
            bar.update(len(line["keys"]))

        if workers == 1:
            for task in left:
                note(write_scenes(task))
        elif left:
            for line in in_processes(write_scenes, left, workers):
                note(line)
    return _write_about(out, settings, lines, complete=True)


def _write_about(out: Path, settings: Settings, lines: Sequence[dict[str, Any]], complete: bool) -> dict[str, Any]:
    about = {
        "settings": {"format": FORMAT, **asdict(settings)},
        "command": [Path(sys.executable).name, *sys.argv],
        "revision": git_revision(),
        "look": available_look(settings.look),
        "complete": complete,
        "episodes": sum(len(line["keys"]) for line in lines),
        "failed": [text for line in lines for text in line["failed"]],
        "frames": {layout: sum(line["frames"][layout] for line in lines) for layout in settings.layouts},
        "fingerprint": fingerprint(out) if complete else "",
        "licence": LICENCE,
    }
    partial = out / f"{ABOUT}.tmp"
    partial.write_text(json.dumps(about, indent=1) + "\n")
    partial.replace(out / ABOUT)
    return about


def size_on_disk(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make_dataset", description=__doc__.split("\n\n")[0])
    parser.add_argument("--episodes", type=int, default=30, help="in all; the families in turn")
    parser.add_argument("--seed", type=int, default=0, help="0 to 999")
    parser.add_argument("--split", choices=SPLITS, default="train", help="flats and wordings of this split only")
    parser.add_argument("--families", default=",".join(FAMILIES), help="comma-separated")
    parser.add_argument("--layout", choices=(*LAYOUTS, "both"), default="both")
    parser.add_argument("--look", choices=LOOKS, default="", help="default: furniture where it is installed")
    parser.add_argument("--size", default="640x480", help="of the images, pixels")
    parser.add_argument("--wordings", type=int, default=Settings.wordings, help="instructions for each episode")
    parser.add_argument(
        "--slip", type=int, default=Settings.slip_percent, help="percent of the steps that slip (vln_ce)"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: one per core")
    parser.add_argument("--out", type=Path, required=True, help="folder; an interrupted run goes on")
    options = parser.parse_args(words)
    try:
        gl.require()
        width, _, height = options.size.partition("x")
        settings = Settings(
            split=options.split,
            seed=options.seed,
            families=tuple(options.families.split(",")),
            layouts=LAYOUTS if options.layout == "both" else (options.layout,),
            look=options.look,
            width=int(width),
            height=int(height),
            wordings=options.wordings,
            slip_percent=options.slip,
        )
        settings.camera()
        if options.episodes < 1:
            raise ValueError(f"episodes: expected at least 1, got {options.episodes}")
        started = time.monotonic()
        about = make_dataset(settings, options.episodes, options.out, options.workers)
    except BrokenExecutor:
        print(f"make_dataset: a worker was killed; the same command goes on from {options.out}", file=sys.stderr)
        return 1
    except (ValueError, DatasetError, SceneError, gl.RenderingError, OSError) as error:
        print(f"make_dataset: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ninterrupted; the same command goes on from {options.out}", file=sys.stderr)
        return 130
    size = size_on_disk(options.out)
    frames = ", ".join(f"{count} frames {layout}" for layout, count in about["frames"].items())
    print(
        f"{options.out}: {about['episodes']} episodes, {frames}, {size / 1e6:.0f} MB "
        f"({size / 1e6 / max(1, about['episodes']):.1f} MB an episode), {time.monotonic() - started:.0f} s"
    )
    if about["failed"]:
        print(f"{len(about['failed'])} left out: the expert found no way ({about['failed'][0]} …)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
