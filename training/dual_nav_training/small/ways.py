"""Ways to objects in view, for training S1 behind the small planner: what the planner saw and should answer, and what
the robot sees on its way to that pixel goal.

`python -m dual_nav_training.small.ways OUT --flats 300` writes one file for each flat of the training split.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from dual_nav_training.run_folder import RunError
from dual_nav_training.samples import DualSample, S2Sample
from dual_nav_training.small.language import (
    IMAGE_SIDE,
    TEMPLATE,
    object_instruction,
    route_instruction,
    with_unknown_words,
)
from dual_nav_training.small.views import (
    CAMERA,
    IN_VIEW,
    draw_pose,
    encoded,
    look,
    planner_to,
    way_to_door,
    write_flats,
)
from dual_nav_training.trajectory_labels import dual_label
from nav_sim.grid import Point, clear_line, grid_of
from nav_sim.oracles import COMFORT, PlanMade, goal_on_floor
from nav_sim.simulator import Config, Pose, Simulator, wrapped
from nav_sim.worlds import Flat, make_flat
from s1_controller_node.preprocess import clip_depth, resize_depth, resize_rgb

_DOORS = 0.3  # of the ways, where there is a door ahead
FRAMES = 4  # of a way; the first is the planner's
_DRIVEN = ((0.0, 0.3), (0.2, 0.8), (0.5, 1.5))  # metres, of the frames behind the first
_ASIDE, _ASKEW = 0.05, math.radians(10)  # standard deviation of where they are about the way
_STRAIGHT_ON = 0.4  # of these frames are not about the way, but on the straight line to the goal
_STEP = 0.3  # metres, at least, between the points of a label's path: `dual_label` leaves out shorter ones
_MILLIMETRE = np.float32(1e-3)


def ways_of(seed: int, count: int, image_size: int) -> dict[str, np.ndarray]:
    """`count` ways in the flat of a seed, N in what follows.

    image (N, 252, 252, 3) uint8, of the planner; instruction (N,); goal (N, 2) int16, column and row of the answer in
    an image of IMAGE_SIDE. Of the frames along the way: rgb (N, FRAMES, S, S, 3) uint8, depth (N, FRAMES, S, S)
    uint16 millimetres, S = image_size; poses (N, FRAMES, 3); trajectories (N, FRAMES, 32, 3) float32, see
    `dual_label`.
    """
    flat, random = make_flat(seed), np.random.default_rng((seed, 1))
    ways: list[dict[str, np.ndarray]] = []
    with Simulator(flat, Config(camera=CAMERA)) as simulator:
        for _ in range(20 * count):
            pose = draw_pose(flat, random)
            simulator.reset(pose.x, pose.y, pose.yaw)
            view, depth = look(simulator)
            goal = _goal(flat, pose, view["shares"], depth, random)
            if goal is not None:
                instruction, plan, path_from = goal
                way = _way(simulator, path_from, plan, pose, image_size, random)
                ways.append({"image": view["image"], "instruction": np.asarray(instruction, dtype="U256"), **way})
            if len(ways) == count:
                break
    return {name: np.stack([way[name] for way in ways]) for name in ways[0]}


def _goal(
    flat: Flat, pose: Pose, shares: np.ndarray, depth: np.ndarray, random: np.random.Generator
) -> tuple[str, PlanMade, Callable[[Point], list[Point]]] | None:
    """An instruction whose answer is a pixel goal, that answer, and the way to come from anywhere."""
    door = way_to_door(flat, pose, depth) if random.random() < _DOORS else None
    if door is not None:
        plan, _ = door
        on_floor = goal_on_floor(plan, {"level": CAMERA})
        assert on_floor is not None
        behind = grid_of(flat, COMFORT).to_point(pose.to_world(on_floor))
        item = flat.items[random.integers(len(flat.items))]
        return with_unknown_words(random, route_instruction(random, item.name)), plan, behind.path
    for item in random.permutation(np.flatnonzero(shares > IN_VIEW)).tolist():
        planner = planner_to(flat, item)
        if planner is None:
            continue
        plan, field = planner.ask(pose)
        if plan.pixel_goal is not None:
            return _instruction(flat, item, random), plan, field.path
    return None


def _way(
    simulator: Simulator,
    path_from: Callable[[Point], list[Point]],
    plan: PlanMade,
    pose: Pose,
    image_size: int,
    random: np.random.Generator,
) -> dict[str, np.ndarray]:
    on_floor = goal_on_floor(plan, {"level": CAMERA})
    assert on_floor is not None
    goal = pose.to_world(on_floor)
    poses = [pose, *_on_the_way(simulator.flat, path_from((pose.x, pose.y)), goal, pose, random)]
    rgb, depth, trajectories = [], [], []
    for place in poses:
        simulator.reset(place.x, place.y, place.yaw)
        colours, distances = simulator.render("level")
        rgb.append(resize_rgb(colours, image_size))
        prepared = np.maximum(clip_depth(resize_depth(distances, image_size)), 0)
        depth.append(np.round(prepared / _MILLIMETRE).astype(np.uint16))
        path = _until(path_from((place.x, place.y)), goal)
        trajectories.append(dual_label(np.asarray([place.to_local(point) for point in path])))
    return {
        "goal": np.asarray(encoded(plan)[2:], np.int16),
        "rgb": np.stack(rgb),
        "depth": np.stack(depth),
        "poses": np.asarray([astuple(place) for place in poses], np.float32),
        "trajectories": np.stack(trajectories),
    }


def _instruction(flat: Flat, item: int, random: np.random.Generator) -> str:
    name = flat.items[item].name
    alike = sum(other.name == name for other in flat.items)
    return with_unknown_words(random, object_instruction(random, name, alike > 1))


def _on_the_way(flat: Flat, path: list[Point], goal: Point, start: Pose, random: np.random.Generator) -> list[Pose]:
    """Poses of a robot on its way to `goal`: about the way, as one has them that follows it not quite; or straight on
    towards the goal, as one that did not see what is in between, up to where it stands before that."""
    drivable = grid_of(flat, COMFORT).is_drivable
    along, straight = _until(path, goal, 0.05), _evenly([(start.x, start.y), goal], 0.05)
    ahead_free = next((n for n, point in enumerate(straight) if not drivable(point)), len(straight))
    poses = []
    for low, high in _DRIVEN:
        line, places = (straight, ahead_free) if random.random() < _STRAIGHT_ON else (along, len(along) - 2)
        number = max(0, min(round(random.uniform(low, high) / 0.05), places - 1))
        x, y = line[number]
        ahead = line[min(number + 5, len(line) - 1)] - line[number]
        heading = math.atan2(ahead[1], ahead[0]) if np.any(ahead) else start.yaw
        # It turns onto the way while it begins to drive.
        left = wrapped(start.yaw - heading) * random.uniform(0, 1) * max(0.0, 1 - number * 0.05 / 0.4)
        aside = random.normal() * _ASIDE
        place = (x - aside * math.sin(heading), y + aside * math.cos(heading))
        if not clear_line(flat.passable, (x, y), place):
            place = (x, y)
        poses.append(Pose(*place, wrapped(heading + left + random.normal() * _ASKEW)))
    return poses


def _until(path: Sequence[Point], goal: Point, step: float = _STEP) -> np.ndarray:
    """(n, 2) points at least `step` metres apart along a path, up to where it comes nearest to `goal`."""
    fine = _evenly(path, 0.05)
    end = int(np.argmin(np.linalg.norm(fine - goal, axis=1)))
    return _evenly(fine[: end + 1], step)


def _evenly(path: Sequence[Point] | np.ndarray, step: float) -> np.ndarray:
    """(n, 2) points along a polyline, at equal distances of at least `step`; both ends included."""
    points = np.asarray(path, float)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    wanted = np.linspace(0.0, along[-1], max(1, int(along[-1] / step)) + 1)
    return np.column_stack([np.interp(wanted, along, points[:, axis]) for axis in (0, 1)])


# -------------------------------------------------------------------------------------------------------- samples


class Ways(Dataset):
    """All ways of a folder as samples of the dual system, and each mirrored. RunError for a folder that has none."""

    skipped = 0  # samples that could not be read: all are read at the start

    def __init__(self, folder: Path, *, depth: bool) -> None:
        files = sorted(Path(folder).glob("*.npz"), key=lambda file: int(file.stem))
        if not files:
            raise RunError(f"{folder}: no ways; make some with python -m dual_nav_training.small.ways {folder}")
        arrays = [dict(np.load(file)) for file in files]
        self._ways = {name: np.concatenate([flat[name] for flat in arrays]) for name in arrays[0]}
        self._flats = np.repeat([int(file.stem) for file in files], [len(flat["goal"]) for flat in arrays])
        self._depth = depth

    def __len__(self) -> int:
        return 2 * len(self._ways["goal"])

    def flats(self, indices: np.ndarray) -> set[int]:
        """Seeds of the flats that these samples are in."""
        return {int(seed) for seed in self._flats[indices // 2]}

    def places(self, index: int) -> tuple[int, list[Pose]]:
        """Seed of the flat, and where the robot stands in the frames (a mirrored sample has no place)."""
        number = index // 2
        return int(self._flats[number]), [Pose(*map(float, pose)) for pose in self._ways["poses"][number]]

    def set_epoch(self, epoch: int) -> None:
        """Ways are the same in every epoch."""

    def __getitem__(self, index: int) -> DualSample:
        number, mirrored = divmod(index, 2)
        way = {name: values[number] for name, values in self._ways.items()}
        column, row = way["goal"].tolist()
        rgb, depth, trajectories, image = way["rgb"], way["depth"], way["trajectories"], way["image"]
        if mirrored:
            column = IMAGE_SIDE - 1 - column
            rgb, depth, image = rgb[:, :, ::-1], depth[:, :, ::-1], image[:, ::-1]
            trajectories = trajectories * np.asarray([1, -1, -1], np.float32)
        prompt = S2Sample(
            instruction=str(way["instruction"]),
            images=(np.ascontiguousarray(image),),
            answers=(TEMPLATE.pixel_answer(column, row, (IMAGE_SIDE, IMAGE_SIDE)),),
            weight=1.0,
            kind="pixel_goal",
            episode=number,
            frame=0,
            history=(),
            pixel_goal=(float(column), float(row)),
            goal_frames=len(rgb),
        )
        metres = depth * _MILLIMETRE if self._depth else None
        return DualSample(prompt, np.ascontiguousarray(rgb), metres, trajectories, tuple(range(len(rgb))))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="small.ways", description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--flats", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="seed of the first flat; tests have 10**9 and more")
    parser.add_argument("--ways", type=int, default=12, help="of each flat")
    parser.add_argument("--image-size", type=int, default=112, help="pixels of the side of S1's images")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    make = functools.partial(_ways_of, options.ways, options.image_size)
    seeds = range(options.first, options.first + options.flats)
    return write_flats(options.folder, seeds, options.processes, make)


def _ways_of(count: int, image_size: int, seed: int) -> dict[str, np.ndarray]:
    return ways_of(seed, count, image_size)


if __name__ == "__main__":
    sys.exit(main())
