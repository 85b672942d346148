"""What the robot sees from many places in a flat, and what a planner should answer there.

A view is the level image in the size the small planner sees, what each image cell shows, and for every object in view
the answer that leads to it. The answers are those of somebody who knows the map but only speaks of what can be seen:
towards an object in view, around what hides its foot as the oracle goes; whoever does not see his goal looks around.

`python -m dual_nav_training.small.views OUT --flats 500` writes one file for each flat of the training split; with
`--planner MODEL` from the places where that planner takes the robot.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import astuple, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from dual_nav_training.small.drive import visited_poses
from dual_nav_training.small.language import IMAGE_SIDE
from dual_nav_training.workers import in_processes
from dual_nav_util.checkpoint import CheckpointError
from nav_sim import gl
from nav_sim.camera import Camera
from nav_sim.episodes import (
    door_point,
    doors_of,
    entering,
    footprint_distance,
    is_in_sight,
    nearest_footprint_point,
    other_room,
)
from nav_sim.grid import DistanceField, Grid, Point, grid_of
from nav_sim.oracles import (
    FORWARD,
    FORWARD_STEP,
    MAX_GOAL_DISTANCE,
    STOP,
    SYMBOLS,
    TURN_LEFT,
    TURN_RIGHT,
    TURN_STEP,
    OraclePlanner,
    PlanMade,
    actions_plan,
    pixel_plan,
    turns,
)
from nav_sim.simulator import Config, Pose, Simulator, wrapped
from nav_sim.worlds import MAX_ITEMS, Flat, Item, make_flat
from s2_planner_node.image_processor import resize_rgb
from s2_planner_node.planner import Planner, PlannerConfig, load_planner

CELL = 28  # pixels of the side of an image cell: a merged patch
SIDE = 9  # cells of an image's side
CELLS = SIDE * SIDE
MAX_PIXELS = CELLS * CELL**2  # of the checkpoint's image processor: gives these cells
CAMERA = Camera(384, 288)  # as the robot's, in fewer pixels: rendering takes half of the time

# When the goal is not in view. Five of 15 degrees: a little less than what the camera sees, and when nothing was
# found the next time around looks elsewhere, in all 24 directions; a number that 24 can be divided by would ask the
# same questions again.
LOOK_AROUND = actions_plan([TURN_LEFT] * 5)
LOOK_AROUND_RIGHT = actions_plan([TURN_RIGHT] * 5)
IN_VIEW = 4e-4  # share of the image's pixels from which on an object is answered for
WAYPOINTS, WAYPOINT_STEP = 8, 0.25  # of the way to an object, metres
PIXEL_GOAL = 4  # kind of an answer beside STOP 0, forward 1, left 2, right 3
STOP_DISTANCE = 0.85  # metres to a footprint: any closer, and low things leave the image
NEAR = 1.9  # metres to a footprint from where on it is steps and turns, no pixel goals any more
_STEPS_TO = 1.0  # metres
LAST_STEPS_FROM = 1.25  # metres to a footprint from where on the last steps and the STOP are one answer
_LAST_STEPS_TO = 0.6  # metres; a step too many or too few still ends within what counts as being there
_STILL_THERE = 0.95  # metres to a footprint that have to do where it cannot be approached any further
_GOAL_BEFORE = 0.75  # metres; where the pixel goal is, on the floor
_BEHIND_DOOR = (1.2, 0.9, 0.6)  # metres behind a door to drive to, and
_BEHIND_OPENING = (0.9, 0.6, 0.3)  # where one looks through it at an angle, past the points of its opening
_OPENING = (0.0, 0.2, -0.2)  # metres from its middle
_BEFORE_DOOR = 0.6  # metres before it, where nothing behind it can be driven to
_DOOR_AHEAD = math.radians(20.0)  # bearing within which a door is gone to: not back through the one just passed
_LOOKED_AT = (0.0, 0.5, 1.0)  # metres above a place on the floor: one is seen over low things
_BEHIND_SIGHT = 0.12  # metres that something may be behind what the depth image shows and still be in view
# In a doorway, metres from the door (positive behind it) and aside, and how far behind it one goes on to. Its frame
# is out of the picture there: before and behind it one sees the same, so the same is right.
_DOORWAY, _DOORWAY_ASIDE, _DOORWAY_TO = (-0.7, 0.5), 0.35, 1.0
_DOORWAY_BEHIND = 0.3  # metres behind the door that the last of the steps leads to at least
_DOORWAY_ASKEW = math.radians(40.0)  # heading off the way through
# Shares of the views, and metres from an object in sight that they are taken at; None: anywhere.
_VIEWPOINTS = ((0.25, None), (0.3, (2.5, 9.0)), (0.22, (0.5, 4.5)), (0.23, (0.4, 1.9)))
_TO_DOOR = 0.5  # share of those from anywhere that look towards a door
_IN_DOORWAY = 0.06  # share of all that are about a doorway, looking through it
_TWINS = 0.4  # share of the objects looked at of which there is another of the kind: those that relations tell apart
# Turns that are left out where the way leads out of the image: what it leads to is in the image's edge then.
_KEPT_IN_VIEW = 2
_PROGRESS = 0.2  # metres (of a cost) that a point in view has to be nearer to the goal
_BEARINGS, _DISTANCES = np.radians(np.arange(-33, 34, 3)).tolist(), np.arange(1.0, 3.1, 0.2).tolist()
_ASKEW = math.radians(22)  # standard deviation of the heading from what is looked at
_FLOOR = 0.04  # metres above and below the floor's height that count as floor
_MAX_DISTANCE = 8.0  # metres


@dataclass(frozen=True)
class _Goals:
    """What an oracle needs of an episode."""

    flat: Flat
    goals: tuple[int, ...]


class SeenGoalPlanner(OraclePlanner):
    """The oracle's answers on the way to an object, with pixel goals in the level image only."""

    def __init__(self, flat: Flat, goal: int) -> None:
        super().__init__(_Goals(flat, (goal,)), {"level": CAMERA, "look_down": CAMERA})
        self._enough = max(self._enough, STOP_DISTANCE)

    def answer(self, pose: Pose) -> tuple[PlanMade, np.ndarray]:
        """The answer, and the way to come: (WAYPOINTS, 2) metres in the robot's frame, the end repeated."""
        plan, field = self.ask(pose)
        return plan, _way(pose, field.path((pose.x, pose.y)))

    def ask(self, pose: Pose) -> tuple[PlanMade, DistanceField]:
        """The answer, and how far it is from anywhere to where it leads."""
        path = self._field.path((pose.x, pose.y))
        plan = self._near(pose) or self._straight(pose) or self._at_goal(pose, path)
        return (plan, self._field) if plan else self._around(pose, path)

    def _near(self, pose: Pose) -> PlanMade | None:
        """What there is to do near the goal where nothing is in between: turns towards it, steps, and the STOP.

        All of it can be told from where the goal is in the image. The oracle's way, which may lead around things that
        are not in view and ends facing the nearest point of the goal, cannot: trained on that, a planner turned to
        and fro a metre and a half before its goal.

        The last steps and the STOP are one answer. How far off something low is can hardly be seen from near. Said
        from farther off, and all at once, an answer that is a step wrong is still good enough.
        """
        here, (goal,) = (pose.x, pose.y), self._goals
        item = self._flat.items[goal]
        distance = footprint_distance(item, here)
        if distance > NEAR or not is_in_sight(self._flat, goal, here):
            return None
        aside = _aside(item, pose)
        if aside:
            return actions_plan(turns(aside))
        if distance > LAST_STEPS_FROM:
            steps = math.floor((distance - _STEPS_TO) / FORWARD_STEP)
            return actions_plan([FORWARD] * steps) if self._is_free(pose, steps) else None
        free = [n for n in range(4) if self._is_free(pose, n)]
        left = {n: footprint_distance(item, pose.to_world((n * FORWARD_STEP, 0.0))) for n in free}
        enough = (n for limit in (_LAST_STEPS_TO, self._enough, _STILL_THERE) for n in free if left[n] <= limit)
        steps = next(enough, None)
        return None if steps is None else actions_plan([FORWARD] * steps + [STOP])

    def _straight(self, pose: Pose) -> PlanMade | None:
        """The floor before the goal where it is in sight, whatever S1 has to drive around on the way; turns towards
        it where it is at the edge of the image."""
        here, (goal,) = (pose.x, pose.y), self._goals
        point = nearest_footprint_point(self._flat.items[goal], here)
        distance = math.dist(point, here)
        if distance <= NEAR or not is_in_sight(self._flat, goal, here):
            return None
        share = min(distance - _GOAL_BEFORE, MAX_GOAL_DISTANCE) / distance
        target = here[0] + share * (point[0] - here[0]), here[1] + share * (point[1] - here[1])
        plan = pixel_plan(pose, target, self._cameras)
        x, y = pose.to_local(point)
        bearing = math.atan2(y, x)
        return plan or (actions_plan(turns(bearing)) if abs(bearing) > 2 * TURN_STEP else None)

    def _around(self, pose: Pose, path: list[Point]) -> tuple[PlanMade, DistanceField]:
        """As the oracle goes around what is in between, but what is in view is left as little as can be: whoever
        turns away from his goal looks around for it again, and comes back to the same place."""
        plan = self._toward(pose, path)
        if plan.pixel_goal is not None or FORWARD in plan.actions:
            return plan, self._field
        point = self._nearest_in_view(pose)
        shown = pixel_plan(pose, point, self._cameras) if point else None
        if shown is None:
            return actions_plan(plan.actions[: max(1, len(plan.actions) - _KEPT_IN_VIEW)]), self._field
        return shown, self._grid.to_point(point)

    def _nearest_in_view(self, pose: Pose) -> Point | None:
        """Of all floor in view, the point from where it is least far to the goal; None where that is no progress."""
        here = pose.x, pose.y
        least = self._field.at(here) - _PROGRESS
        found = None
        for bearing, distance in itertools.product(_BEARINGS, _DISTANCES):
            point = pose.to_world((distance * math.cos(bearing), distance * math.sin(bearing)))
            if self._grid.is_drivable(point) and self._grid.line_of_sight(here, point):
                left = self._field.at(point)
                if left < least and pixel_plan(pose, point, self._cameras) is not None:
                    least, found = left, point
        return found


def _aside(item: Item, pose: Pose) -> float:
    """Bearing [rad, left positive] of the middle of an item of which no part is within a turn's step of straight
    ahead; 0 of any other."""
    middle = pose.to_local((item.x / 100, item.y / 100))
    bearing = math.atan2(middle[1], middle[0])
    footprint = Pose(item.x / 100, item.y / 100, math.radians(item.yaw))
    offsets = []
    for x in (-item.width / 200, item.width / 200):
        for y in (-item.depth / 200, item.depth / 200):
            corner = pose.to_local(footprint.to_world((x, y)))
            offsets.append(wrapped(math.atan2(corner[1], corner[0]) - bearing))
    ahead = bearing + min(offsets) - TURN_STEP <= 0 <= bearing + max(offsets) + TURN_STEP
    return 0.0 if ahead else bearing


def way_on(flat: Flat, pose: Pose, depth: np.ndarray) -> tuple[PlanMade, np.ndarray] | None:
    """Steps on in a doorway, else as `way_to_door`."""
    steps = _steps_through(flat, pose)
    if steps:
        return actions_plan([FORWARD] * steps), np.zeros((WAYPOINTS, 2), np.float32)
    return way_to_door(flat, pose, depth)


def _steps_through(flat: Flat, pose: Pose) -> int:
    """How many steps lead on from a doorway into the room behind it; 0 elsewhere, and where it is not free."""
    for door in flat.doors:
        for room in door.rooms:
            inward = entering(door, room, flat).yaw
            x, y = Pose(*door_point(door), inward).to_local((pose.x, pose.y))
            askew = abs(wrapped(pose.yaw - inward))
            if not (_DOORWAY[0] <= x <= _DOORWAY[1] and abs(y) <= _DOORWAY_ASIDE and askew <= _DOORWAY_ASKEW):
                continue
            for steps in range(math.floor((_DOORWAY_TO - x) / FORWARD_STEP), 0, -1):
                behind = x + steps * FORWARD_STEP * math.cos(askew)
                ahead = pose.to_world((steps * FORWARD_STEP, 0.0))
                if behind >= _DOORWAY_BEHIND and grid_of(flat).drivable_line((pose.x, pose.y), ahead):
                    return steps
    return 0


def way_to_door(flat: Flat, pose: Pose, depth: np.ndarray) -> tuple[PlanMade, np.ndarray] | None:
    """A pixel goal through the door that is most straight ahead, and the way there as of `SeenGoalPlanner.answer`;
    None where no door is to be seen. Low things may be in between: S1 drives around them. depth: (H, W) metres, of
    CAMERA at the pose."""
    room, grid, here = flat.room_at(pose.x * 100, pose.y * 100), grid_of(flat), (pose.x, pose.y)
    found: tuple[float, PlanMade, Point] | None = None
    for door in doors_of(flat, room):
        for target in _targets(Pose(*door_point(door), entering(door, other_room(door, room), flat).yaw), here):
            local = pose.to_local(target)
            aside = abs(math.atan2(local[1], local[0]))
            if aside > _DOOR_AHEAD or not grid.is_drivable(target) or not _is_seen(pose, target, depth):
                continue
            plan = pixel_plan(pose, target, {"level": CAMERA, "look_down": CAMERA})
            if plan is not None and (found is None or aside < found[0]):
                found = aside, plan, target
            if plan is not None:
                break
    if found is None:
        return None
    _, plan, target = found
    straight = grid.drivable_line(here, target)
    return plan, _way(pose, [here, target] if straight else grid.to_point(target).path(here))


def _targets(door: Pose, here: Point) -> list[Point]:
    """Where to drive to, the best first: straight behind a door (in its middle, looking through it), behind it as
    seen from `here`, and before it."""
    x, y = door.to_local(here)
    behind = [(target, 0.0) for target in _BEHIND_DOOR]
    if x < -_BEFORE_DOOR / 3:  # else one looks along the wall
        behind += [(target, off + (off - y) * target / -x) for off in _OPENING for target in _BEHIND_OPENING]
    return [door.to_world(target) for target in [*behind, (0.0, 0.0), (-_BEFORE_DOOR, 0.0)]]


def _is_seen(pose: Pose, point: Point, depth: np.ndarray) -> bool:
    """Whether a place on the floor, or what is above it, is in view. depth: (H, W) metres, of CAMERA at the pose."""
    x, y = pose.to_local(point)
    pixels, away = CAMERA.project(np.asarray([[x, y, height] for height in _LOOKED_AT]))
    for (column, row), distance in zip(np.rint(pixels).astype(int).tolist(), away.tolist(), strict=True):
        if distance > 0.05 and CAMERA.contains(column, row) and depth[row, column] >= distance - _BEHIND_SIGHT:
            return True
    return False


def _way(pose: Pose, path: Sequence[Point]) -> np.ndarray:
    """The first WAYPOINTS of a path, (WAYPOINTS, 2) metres in the robot's frame, its end repeated."""
    lengths = [math.dist(a, b) for a, b in pairwise(path)]
    driven = np.concatenate([[0.0], np.cumsum(lengths)])
    along = np.minimum(np.arange(1, WAYPOINTS + 1) * WAYPOINT_STEP, driven[-1])
    x, y = (np.interp(along, driven, coordinate) for coordinate in zip(*path, strict=True))
    return np.asarray([pose.to_local(point) for point in zip(x, y, strict=True)], np.float32)


# ---------------------------------------------------------------------------------------------------------- views


def views_of(seed: int, count: int, planner: Planner | None = None) -> dict[str, np.ndarray]:
    """`count` views of the flat of a seed, N in what follows; from where `planner` takes the robot, if there is one.

    image (N, 252, 252, 3) uint8; of its cells in reading order: cover (N, MAX_ITEMS, CELLS) uint8, 255 x share of
    the cell that shows the item; floor (N, CELLS) uint8, 255 x share of floor; distance (N, CELLS) float16 metres.
    shares (N, MAX_ITEMS) of the image's pixels; answers (N, MAX_ITEMS, 4) int16: kind (see PIXEL_GOAL), how many
    actions (for STOP: with the steps before it), column and row (of IMAGE_SIDE), or -1 for items not in view;
    waypoints (N, MAX_ITEMS, WAYPOINTS, 2); door (N, 4), door_waypoints (N, WAYPOINTS, 2) the same of the way to or
    through a door; poses (N, 3).
    """
    flat, random = make_flat(seed), np.random.default_rng(seed)
    views = []
    with Simulator(flat, Config(camera=CAMERA)) as simulator:
        adviser = Adviser(flat)
        if planner is None:
            poses = [draw_pose(flat, random) for _ in range(count)]
        else:
            poses = visited_poses(simulator, planner, count, random)
        for pose in poses:
            simulator.reset(pose.x, pose.y, pose.yaw)
            view, depth = look(simulator)
            views.append(view | adviser.answers(pose, view["shares"], depth) | {"poses": np.asarray(astuple(pose))})
    return {name: np.stack([view[name] for view in views]) for name in views[0]}


class Adviser:
    """What to answer in a flat, whatever is the goal."""

    def __init__(self, flat: Flat) -> None:
        self._flat = flat
        self._planners: dict[int, SeenGoalPlanner | None] = {}

    def answers(self, pose: Pose, shares: np.ndarray, depth: np.ndarray) -> dict[str, np.ndarray]:
        """Those of the arrays of `views_of` that say what to do. shares: (MAX_ITEMS,), of the image's pixels; depth:
        (H, W) metres, of CAMERA at the pose."""
        made = {
            "answers": np.full((MAX_ITEMS, 4), -1, np.int16),
            "waypoints": np.zeros((MAX_ITEMS, WAYPOINTS, 2), np.float32),
            "door": np.full(4, -1, np.int16),
            "door_waypoints": np.zeros((WAYPOINTS, 2), np.float32),
        }
        for item in np.flatnonzero(shares > IN_VIEW).tolist():
            if item not in self._planners:
                self._planners[item] = planner_to(self._flat, item)
            planner = self._planners[item]
            if planner is not None:
                plan, made["waypoints"][item] = planner.answer(pose)
                made["answers"][item] = encoded(plan)
        door = way_on(self._flat, pose, depth)
        if door is not None:
            made["door"][:], made["door_waypoints"] = encoded(door[0]), door[1]
        return made


def encoded(plan: PlanMade) -> tuple[int, int, int, int]:
    """Kind, number of actions, column and row of an answer; pixels as the planner counts them."""
    if plan.pixel_goal is None:
        return plan.actions[-1], len(plan.actions), -1, -1
    column, row = (
        int((value + 0.5) * IMAGE_SIDE / size) for value, size in zip(plan.pixel_goal, plan.image_size, strict=True)
    )
    return PIXEL_GOAL, 1, column, row


def action_symbols(kind: int, count: int) -> str:
    """How an answer of `count` actions that is no pixel goal is said."""
    return SYMBOLS[FORWARD] * (count - 1) + SYMBOLS[STOP] if kind == STOP else SYMBOLS[kind] * count


def planner_to(flat: Flat, item: int) -> SeenGoalPlanner | None:
    """None for an item that can be approached, but not with a clear sight of it."""
    try:
        return SeenGoalPlanner(flat, item)
    except ValueError:
        return None


def draw_pose(flat: Flat, random: np.random.Generator) -> Pose:
    """Anywhere, turned anyhow or roughly towards a door; or in sight of an object and turned roughly towards it.

    The latter from somewhere, as where it is seen first, often through a door; from up to 4.5 m off, as on the way to
    it; or from where it comes to the last steps. Some are about a doorway.
    """
    if flat.doors and random.random() < _IN_DOORWAY:
        return _pose_in_doorway(flat, random)
    cells = np.argwhere(flat.drivable)
    points = [Grid.centre(*cell) for cell in cells[random.integers(len(cells), size=100)]]
    _, away = _VIEWPOINTS[random.choice(len(_VIEWPOINTS), p=[share for share, _ in _VIEWPOINTS])]
    (x, y), yaw = points[0], random.uniform(-math.pi, math.pi)
    doors = doors_of(flat, flat.room_at(x * 100, y * 100))
    if away is None and doors and random.random() < _TO_DOOR:
        door = door_point(doors[random.integers(len(doors))])
        yaw = math.atan2(door[1] - y, door[0] - x) + random.normal() * _ASKEW
    kinds = [item.kind for item in flat.items]
    twins = [number for number, kind in enumerate(kinds) if kinds.count(kind) > 1]
    among = twins if twins and random.random() < _TWINS else range(len(kinds))
    items = random.choice(among, size=len(points)).tolist()
    for point, item in zip(points, items, strict=True) if away else ():
        if away[0] <= footprint_distance(flat.items[item], point) < away[1] and is_in_sight(flat, item, point):
            x, y = point
            towards = math.atan2(flat.items[item].y / 100 - y, flat.items[item].x / 100 - x)
            yaw = towards + random.normal() * _ASKEW
            break
    x, y = (value + random.uniform(-0.02, 0.02) for value in (x, y))
    return Pose(x, y, wrapped(yaw))


def _pose_in_doorway(flat: Flat, random: np.random.Generator) -> Pose:
    """Up to somewhat before and behind where `way_on` says to go on."""
    door = flat.doors[random.integers(len(flat.doors))]
    inward = entering(door, int(random.choice(door.rooms)), flat).yaw
    place = random.uniform(_DOORWAY[0] - 0.2, _DOORWAY_TO + 0.6), random.normal() * 0.12
    x, y = Pose(*door_point(door), inward).to_world(place)
    if not grid_of(flat).is_drivable((x, y)):
        x, y = door_point(door)
    return Pose(x, y, wrapped(inward + random.normal() * math.radians(12)))


def look(simulator: Simulator) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Image and cells from where the robot stands, and (H, W) depth in metres."""
    rgb, depth = simulator.render("level")
    rgb = resize_rgb(rgb, PlannerConfig.image_width, PlannerConfig.image_height)  # as before the image processor
    cover = _cover(simulator.shown_items("level")[::2, ::2])
    coarse = depth[::4, ::4]
    view = {
        "image": resize_rgb(rgb, SIDE * CELL, SIDE * CELL),
        "cover": np.round(cover * 255).astype(np.uint8),
        "shares": cover.mean(1).astype(np.float32),
        "floor": np.round(_cell_means(_is_floor(coarse)) * 255).astype(np.uint8),
        "distance": _cell_means(np.minimum(coarse, _MAX_DISTANCE)).astype(np.float16),
    }
    return view, depth


def _cell_means(image: np.ndarray) -> np.ndarray:
    down, across = (np.linspace(0, length, SIDE + 1).astype(int) for length in image.shape)
    sums = np.add.reduceat(np.add.reduceat(image, down[:-1], 0, dtype=float), across[:-1], 1)
    return (sums / np.outer(np.diff(down), np.diff(across))).ravel()


def _cover(items: np.ndarray) -> np.ndarray:
    """(MAX_ITEMS, CELLS): share of each cell of an image of items that shows each of them."""
    row, column = (np.arange(length) * SIDE // length for length in items.shape)
    cell = row[:, None] * SIDE + column
    counts = np.bincount(((items + 1) * CELLS + cell).ravel(), minlength=(MAX_ITEMS + 1) * CELLS)
    counts = counts.reshape(MAX_ITEMS + 1, CELLS)
    return counts[1:] / counts.sum(0)


def _is_floor(depth: np.ndarray) -> np.ndarray:
    """Which pixels of a (subsampled) depth image of the level camera show the floor."""
    rows = depth.shape[0]
    focal = CAMERA.focal * rows / CAMERA.height_px
    down = ((np.arange(rows) - (rows - 1) / 2) / focal)[:, None]
    return np.abs(CAMERA.height - depth * down) < _FLOOR


# ---------------------------------------------------------------------------------------------------------- files


Arrays = dict[str, np.ndarray]


def write_flats(folder: Path, seeds: Sequence[int], processes: int, make: Callable[[int], Arrays]) -> int:
    """What `make` (picklable) makes of each seed's flat, as `<seed>.npz`; what is there already stays.

    Returns the exit status of the command that this is: 0, 130 after Ctrl-C, or 1 for an error, which is printed.
    """
    write = functools.partial(_write_flat, folder, make)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        missing = [seed for seed in seeds if not (folder / f"{seed}.npz").is_file()]
        done = in_processes(write, missing, processes)
        for _ in tqdm(done, total=len(missing), unit="flat", dynamic_ncols=True):
            pass
    except BrokenExecutor:
        print(f"{folder}: a process was killed (too little memory?); the same command goes on", file=sys.stderr)
        return 1
    except (OSError, CheckpointError, gl.RenderingError) as error:
        print(f"{folder}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted; the same command goes on in {folder}", file=sys.stderr)
        return 130
    return 0


def _write_flat(folder: Path, make: Callable[[int], Arrays], seed: int) -> None:
    file = folder / f"{seed}.npz"
    partial = file.with_suffix(".partial")
    with partial.open("wb") as stream:
        np.savez(stream, **make(seed))
    partial.rename(file)


def _views_of(count: int, planner: Path | None, seed: int) -> Arrays:
    return views_of(seed, count, planner and _load_planner(planner))


@functools.cache
def _load_planner(folder: Path) -> Planner:
    torch.set_num_threads(1)  # there is a process for each core
    return load_planner(folder, PlannerConfig())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="small.views", description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--flats", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="seed of the first flat; tests have 10**9 and more")
    parser.add_argument("--views", type=int, default=40, help="of each flat")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--planner", type=Path, help="checkpoint folder; views from where it takes the robot")
    options = parser.parse_args(arguments)
    seeds = range(options.first, options.first + options.flats)
    make = functools.partial(_views_of, options.views, options.planner)
    return write_flats(options.folder, seeds, options.processes, make)


if __name__ == "__main__":
    sys.exit(main())
