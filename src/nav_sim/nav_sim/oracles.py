"""A planner and a controller that know the map: the upper bound of each, and a way to tell whose fault a failure is.

`OraclePlanner` answers like S2 (turns, look-down, pixel goal, STOP) from the shortest path; `OracleController` drives
like S1 would with a perfect map: shortest path to the floor point of the pixel goal, turns and forward steps by the
true pose. `RandomPlanner` acts without looking and is the floor of the scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .camera import Camera
from .draw import Draw
from .episodes import Episode, cells_near, footprint_distance, is_in_sight, nearest_footprint_point
from .grid import DistanceField, Point, clear_line, grid_of, path_length
from .simulator import Pose, wrapped

# The values of nav_msgs_ext/S2Plan (a test compares them).
KIND_ACTIONS, KIND_PIXEL_GOAL, KIND_TRAJ_LATENTS = 0, 1, 2
STOP, FORWARD, TURN_LEFT, TURN_RIGHT, LOOK_DOWN = 0, 1, 2, 3, 5
SYMBOLS = {STOP: "STOP", FORWARD: "↑", TURN_LEFT: "←", TURN_RIGHT: "→", LOOK_DOWN: "↓"}
FORWARD_STEP = 0.25  # metres
TURN_STEP = math.radians(15.0)
MAX_ACTIONS = 4  # of one plan

COMFORT = 3.0  # price of driving close to things, see Grid
STOP_DISTANCE = 0.75  # metres to the footprint at which the oracle is content
LAST_RESORT_DISTANCE = 0.9
BLIND_DISTANCE = 0.5  # metres ahead of the robot's centre that the tilted camera does not show
MAX_GOAL_DISTANCE = 4.0  # farthest pixel goal, metres along the path
MIN_GOAL_DISTANCE = 0.3  # nearer path ends are driven to by forward actions
EDGE = 6.0  # pixels a pixel goal keeps from the edge of its image


@dataclass(frozen=True)
class PlanMade:
    """What S2 would send for one frame; fields and constants as in nav_msgs_ext/S2Plan."""

    kind: int
    actions: tuple[int, ...] = ()
    pixel_goal: tuple[int, int] | None = None  # column, row
    image_size: tuple[int, int] = (0, 0)  # width, height of the image the pixel goal is in
    look_down: bool = False
    answer: str = ""
    traj_latents: np.ndarray | None = None  # float32 (1, queries, size), of planners that are models


def actions_plan(actions: Sequence[int]) -> PlanMade:
    """A plan of discrete actions with the answer that means it."""
    return PlanMade(KIND_ACTIONS, tuple(actions), answer="".join(SYMBOLS[action] for action in actions))


def goal_on_floor(plan: PlanMade, cameras: dict[str, Camera]) -> Point | None:
    """Where the plan's pixel goal lies on the floor, metres in the robot's frame at the time of the image; None
    without a pixel goal, or for one at or above the horizon."""
    if plan.pixel_goal is None or 0 in plan.image_size:
        return None
    camera = cameras["look_down" if plan.look_down else "level"]
    # A planner may have resized the image.
    width, height = plan.image_size
    column, row = plan.pixel_goal
    return camera.floor_point(
        (column + 0.5) * camera.width / width - 0.5, (row + 0.5) * camera.height_px / height - 0.5
    )


def turns(angle: float) -> list[int]:
    """Those of a plan that turns by an angle [rad], one at least."""
    count = min(MAX_ACTIONS, max(1, round(abs(angle) / TURN_STEP)))
    return [TURN_LEFT if angle > 0 else TURN_RIGHT] * count


def pixel_plan(pose: Pose, point: Point, cameras: dict[str, Camera]) -> PlanMade | None:
    """The plan whose pixel goal is a floor point: in the level image if it is in there, else looking down."""
    x, y = pose.to_local(point)
    for name in ("level", "look_down"):
        camera = cameras[name]
        pixels, depth = camera.project(np.asarray([[x, y, 0.0]]))
        column, row = round(float(pixels[0, 0])), round(float(pixels[0, 1]))
        if depth[0] > 0.05 and camera.contains(column, row, EDGE):
            size = (camera.width, camera.height_px)
            return PlanMade(KIND_PIXEL_GOAL, (), (column, row), size, name == "look_down", f"{column} {row}")
    return None


class OraclePlanner:
    """Plans for one episode from the robot's true pose. `cameras` are those of the simulator, by name."""

    def __init__(self, episode: Episode, cameras: dict[str, Camera]) -> None:
        self._flat = episode.flat
        self._goals = episode.goals
        self._cameras = cameras
        self._grid = grid_of(self._flat, COMFORT)
        cells, distances = cells_near(self._flat, self._goals, STOP_DISTANCE - 0.05)
        if not len(cells):
            # Nothing that close can be driven to: as near as the flat allows.
            cells, distances = cells_near(self._flat, self._goals, LAST_RESORT_DISTANCE)
            if not len(cells):
                raise ValueError("no place near a goal has it in sight")
            nearest = distances <= distances.min() + 0.05
            cells, distances = cells[nearest], distances[nearest]
        self._enough = float(distances.max()) + 0.05
        self._field: DistanceField = self._grid.distance_field(cells, 0.5 * distances)

    def plan(self, pose: Pose) -> PlanMade:
        """The next plan for a frame taken at `pose`."""
        path = self._field.path((pose.x, pose.y))
        return self._at_goal(pose, path) or self._toward(pose, path)

    def _at_goal(self, pose: Pose, path: list[Point]) -> PlanMade | None:
        """What there is to do near enough to the goal; None farther off. `path`: the rest of the way."""
        here = (pose.x, pose.y)
        goal = min(self._goals, key=lambda index: footprint_distance(self._flat.items[index], here))
        item = self._flat.items[goal]
        # Where the rest of the way is too short to be seen as a pixel goal, a little farther off will do.
        enough = LAST_RESORT_DISTANCE if path_length(path) < BLIND_DISTANCE else self._enough
        if footprint_distance(item, here) <= enough and is_in_sight(self._flat, goal, here):
            return self._facing(pose, nearest_footprint_point(item, here))
        return None

    def _facing(self, pose: Pose, target: Point) -> PlanMade:
        """STOP when looking at the target, turns until then."""
        x, y = pose.to_local(target)
        bearing = math.atan2(y, x)
        if abs(bearing) <= TURN_STEP:
            return actions_plan([STOP])
        return actions_plan(turns(bearing))

    def _toward(self, pose: Pose, path: list[Point]) -> PlanMade:
        """The farthest point of the path that can be seen, as a pixel goal; turns or a step where there is none."""
        best: PlanMade | None = None
        for along, point in _samples(path, 0.1, MAX_GOAL_DISTANCE):
            if along < MIN_GOAL_DISTANCE or not self._grid.line_of_sight((pose.x, pose.y), point):
                continue
            best = pixel_plan(pose, point, self._cameras) or best
        if best is not None:
            return best
        near = next((p for along, p in _samples(path, 0.05, MAX_GOAL_DISTANCE) if along >= 0.45), path[-1])
        x, y = pose.to_local(near)
        bearing = math.atan2(y, x) if math.hypot(x, y) > 0.05 else 0.0
        # A step is made blindly: only where the map says that it is free. Beside a wall that may be some turns off
        # the way; which direction it is does not hang on the heading, so nothing is turned back and forth.
        for count in sorted(range(-11, 13), key=lambda count: abs(wrapped(count * TURN_STEP - bearing))):
            if self._is_free(Pose(pose.x, pose.y, pose.yaw + count * TURN_STEP), 1):
                return actions_plan(turns(count * TURN_STEP) if count else [FORWARD])
        return actions_plan([TURN_LEFT])

    def _is_free(self, pose: Pose, steps: int) -> bool:
        """Whether the map says that so many forward steps hit nothing."""
        end = pose.to_world((steps * FORWARD_STEP + 0.05, 0.0))
        return not steps or clear_line(self._flat.passable, (pose.x, pose.y), end)


def _samples(path: Sequence[Point], step: float, limit: float) -> list[tuple[float, Point]]:
    """Points every `step` metres along a polyline, with the distance to each, up to `limit`; the end included."""
    samples: list[tuple[float, Point]] = []
    driven = 0.0
    for a, b in pairwise(path):
        length = math.dist(a, b)
        for index in range(int(length / step) + 1):
            share = index * step / max(length, 1e-9)
            samples.append((driven + index * step, (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share)))
        driven += length
    samples.append((driven, path[-1]))
    return [sample for sample in samples if sample[0] <= limit]


class RandomPlanner:
    """Turns, steps, pixel goals and now and then a STOP, whatever the robot sees."""

    def __init__(self, episode: Episode, cameras: dict[str, Camera]) -> None:
        self._draw = Draw(episode.seed, episode.number, 13)
        self._camera = cameras["level"]

    def plan(self, pose: Pose) -> PlanMade:
        del pose
        choice = self._draw.below(100)
        if choice < 3:
            return actions_plan([STOP])
        if choice < 60:
            action = self._draw.choice([FORWARD, TURN_LEFT, TURN_RIGHT])
            return actions_plan([action] * self._draw.between(1, MAX_ACTIONS))
        size = (self._camera.width, self._camera.height_px)
        column = self._draw.below(size[0])
        row = self._draw.between(size[1] * 6 // 10, size[1] - 1)
        return PlanMade(KIND_PIXEL_GOAL, (), (column, row), size, False, f"{column} {row}")


# ------------------------------------------------------------------------------------------------------ controller

MAX_SPEED, MAX_TURN = 0.5, 1.2  # m/s, rad/s
DECELERATION = 0.6  # m/s²: speed toward a goal is what this can stop from
LOOK_AHEAD = 0.25  # metres
TURN_ON_SPOT = math.radians(35.0)  # heading error above which the robot does not drive
ARRIVED = 0.08  # metres to the end of a path
STUCK_TIME = 3.0  # seconds without progress after which an action or path is given up
_MAX_RUN = 10  # equal actions that are one motion: turned by half a turn or more, left and right look alike


class OracleController:
    """Follows plans by the true pose and the map. One per episode; `done` asks for the next plan."""

    def __init__(self, episode: Episode, cameras: dict[str, Camera]) -> None:
        self._grid = grid_of(episode.flat, COMFORT)
        self._cameras = cameras
        self._path: list[Point] = []
        self._actions: list[int] = []
        self._target: tuple[str, float, Pose] | None = None  # of the running motion: what, how much, from where
        self._run = 0  # actions that this motion is
        self._progress = (0.0, math.inf)  # time and remaining measure of the last progress
        self.stopped = False

    @property
    def done(self) -> bool:
        """Nothing left to do of the current plan."""
        return not self._path and not self._actions and self._target is None

    @property
    def path(self) -> list[Point]:
        """What is left of the path being followed, in the frame of the flat."""
        return self._path

    @property
    def actions_left(self) -> int:
        """Discrete actions not yet done, the running one included."""
        return len(self._actions) + (self._run if self._target is not None else 0)

    def set_plan(self, plan: PlanMade, frame_pose: Pose, time: float) -> None:
        """Take over a plan made from the frame at `frame_pose`; it replaces what was being done."""
        self._path, self._actions, self._target = [], [], None
        self._progress = (time, math.inf)
        if plan.kind == KIND_ACTIONS:
            self._actions = list(plan.actions)
            return
        local = goal_on_floor(plan, self._cameras)
        if local is None:
            return  # a pixel above the horizon is no place to drive to
        if math.hypot(*local) > MAX_GOAL_DISTANCE + 1.0:
            scale = (MAX_GOAL_DISTANCE + 1.0) / math.hypot(*local)
            local = (local[0] * scale, local[1] * scale)
        target = self._grid.centre(*self._grid.nearest_free(frame_pose.to_world(local)))
        self._path = self._grid.to_point(target).path((frame_pose.x, frame_pose.y))

    def command(self, pose: Pose, time: float) -> tuple[float, float]:
        """Velocity command (m/s, rad/s) for now."""
        if self._target is None and self._actions:
            self._begin(self._actions.pop(0), pose, time)
        if self.stopped:
            return 0.0, 0.0
        if self._target is not None:
            return self._act(pose, time)
        if self._path:
            return self._follow(pose, time)
        return 0.0, 0.0

    def _begin(self, action: int, pose: Pose, time: float) -> None:
        """Begin with the next actions, equal ones as one motion: each on its own stops a little early, and five turns
        were 72 degrees instead of 75."""
        self._progress = (time, math.inf)
        if action == STOP:
            self.stopped = True
            self._actions = []
            return
        self._run = 1
        while self._actions[:1] == [action] and self._run < _MAX_RUN:
            del self._actions[0]
            self._run += 1
        if action == FORWARD:
            self._target = ("forward", self._run * FORWARD_STEP, pose)
        elif action in (TURN_LEFT, TURN_RIGHT):
            self._target = ("turn", self._run * (TURN_STEP if action == TURN_LEFT else -TURN_STEP), pose)

    def _is_stuck(self, remaining: float, time: float) -> bool:
        if remaining < self._progress[1] - 0.01:
            self._progress = (time, remaining)
        return time - self._progress[0] > STUCK_TIME + 1e-6  # whatever the time is counted from

    def _act(self, pose: Pose, time: float) -> tuple[float, float]:
        assert self._target is not None
        what, amount, start = self._target
        if what == "turn":
            error = wrapped(start.yaw + amount - pose.yaw)
            if abs(error) < math.radians(1.0) or self._is_stuck(abs(error), time):
                self._target = None
                return 0.0, 0.0
            return 0.0, math.copysign(min(MAX_TURN, max(0.15, 3.0 * abs(error))), error)
        ahead, _ = start.to_local((pose.x, pose.y))
        remaining = amount - ahead
        if remaining < 0.01 or self._is_stuck(remaining, time):
            self._target = None
            return 0.0, 0.0
        return min(MAX_SPEED, max(0.05, math.sqrt(2 * DECELERATION * remaining) * 0.8)), 3.0 * wrapped(
            start.yaw - pose.yaw
        )

    def _follow(self, pose: Pose, time: float) -> tuple[float, float]:
        """Pure pursuit: drop what has been passed, aim at a point LOOK_AHEAD farther along the path."""
        here = (pose.x, pose.y)
        self._path, along = _cut(self._path, here)
        remaining = math.dist(here, self._path[0]) + along
        if remaining < ARRIVED or self._is_stuck(remaining, time):
            self._path = []
            return 0.0, 0.0
        aim = _point_along([here, *self._path], LOOK_AHEAD)
        if not self._grid.drivable_line(here, aim):
            aim = _point_along([here, *self._path], LOOK_AHEAD / 2)
        x, y = pose.to_local(aim)
        error = math.atan2(y, x)
        if abs(error) > TURN_ON_SPOT:
            return 0.0, math.copysign(min(MAX_TURN, max(0.3, 2.5 * abs(error))), error)
        speed = min(MAX_SPEED, math.sqrt(2 * DECELERATION * remaining)) * (1.0 - 0.7 * abs(error) / TURN_ON_SPOT)
        turn = 2.0 * speed * math.sin(error) / max(math.hypot(x, y), 0.05)
        return speed, min(max(turn, -MAX_TURN), MAX_TURN)


def _cut(path: list[Point], here: Point) -> tuple[list[Point], float]:
    """The path from its point nearest to `here` on (which becomes its first), and the length of that rest."""
    best, best_distance = (0, path[0]), math.inf
    for index, (a, b) in enumerate(pairwise(path)):
        dx, dy = b[0] - a[0], b[1] - a[1]
        square = dx * dx + dy * dy
        share = 0.0 if square < 1e-12 else ((here[0] - a[0]) * dx + (here[1] - a[1]) * dy) / square
        share = min(max(share, 0.0), 1.0)
        point = (a[0] + dx * share, a[1] + dy * share)
        distance = math.dist(here, point)
        if distance < best_distance:
            best, best_distance = (index, point), distance
    rest = [best[1], *path[best[0] + 1 :]]
    return rest, sum(math.dist(a, b) for a, b in pairwise(rest))


def _point_along(path: Sequence[Point], distance: float) -> Point:
    for a, b in pairwise(path):
        length = math.dist(a, b)
        if length >= distance:
            share = distance / max(length, 1e-9)
            return a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share
        distance -= length
    return path[-1]
