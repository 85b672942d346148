"""Episodes driven in the planner's own steps by one who knows the map: what training data are recorded from.

The robot moves as in VLN-CE: 0.25 m forward or 15° on the spot, exactly and without physics, so that the recorded
actions and poses agree. Each frame gets the pixel goal that a planner should have given there: the farthest place of
the way still to come that the look-down camera sees.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .camera import Camera
from .draw import Draw
from .episodes import Episode
from .evaluation import CONTROL_PERIOD, PERIODS_PER_FRAME
from .grid import CELL_M, Grid, Point, clear_line, grid_of
from .oracles import (
    COMFORT,
    EDGE,
    FORWARD,
    FORWARD_STEP,
    MAX_GOAL_DISTANCE,
    MIN_GOAL_DISTANCE,
    STOP,
    TURN_LEFT,
    TURN_RIGHT,
    TURN_STEP,
    OracleController,
    OraclePlanner,
)
from .simulator import Pose, Simulator, wrapped

MAX_STEPS = 400
TURN_PRICE = 0.06  # metres that a turn of 15° costs
REACH = 3.0  # metres looked ahead in each direction
_SAMPLE = CELL_M / 2  # metres
_ONWARD = 6  # moves of the map's way that tell its direction: about half a metre
_HEADINGS = 12  # turns to each side
FRAME_PERIOD = CONTROL_PERIOD * PERIODS_PER_FRAME  # seconds between the frames of `drive_smoothly`
_PLAN_PERIOD = 1.0  # seconds
_SLIP_YAW, _SLIP_SIDE = 50, 15  # degrees and centimetres of a slip, to either side


class ExpertError(RuntimeError):
    """The expert found no way to the goal in its steps."""


class StepExpert(OraclePlanner):
    """The next discrete action on the way to an episode's goal, from the true pose.

    Every choice weighs the ways that turn first, then go straight on for up to REACH metres, and follow the map from
    there: fewer, longer straight pieces than by following the shortest path from cell to cell.
    """

    def __init__(self, episode: Episode, cameras: dict[str, Camera]) -> None:
        super().__init__(episode, cameras)
        self._to_go, self._onward = self._field.everywhere(), self._field.directions(_ONWARD)
        # Close to things is dear; where planning does not go at all, twice as dear.
        self._price = np.where(self._grid.free, self._grid.price, 2.0 * (1.0 + COMFORT))

    def action(self, pose: Pose) -> int:
        """STOP, FORWARD, TURN_LEFT or TURN_RIGHT."""
        arrived = self._at_goal(pose, self._field.path((pose.x, pose.y)))
        if arrived is not None:
            return arrived.actions[0]
        turns = np.arange(-_HEADINGS, _HEADINGS)
        along = np.arange(1, round(REACH / _SAMPLE) + 1) * _SAMPLE
        headings = pose.yaw + turns * TURN_STEP
        columns = np.floor((pose.x + np.outer(np.cos(headings), along)) / CELL_M).astype(int)
        rows = np.floor((pose.y + np.outer(np.sin(headings), along)) / CELL_M).astype(int)
        shape = self._to_go.shape
        inside = (rows >= 0) & (columns >= 0) & (rows < shape[0]) & (columns < shape[1])
        rows, columns = np.clip(rows, 0, shape[0] - 1), np.clip(columns, 0, shape[1] - 1)
        clear = np.logical_and.accumulate(inside & self._flat.passable[rows, columns], axis=1)
        cost = np.cumsum(self._price[rows, columns], axis=1) * _SAMPLE + self._to_go[rows, columns]
        cost = np.where(clear, cost, np.inf)
        # Without the turn that follows, it would look cheaper to put off turning than to turn.
        turn_after = np.nan_to_num(np.abs(_wrapped(self._onward[rows, columns] - headings[:, None])))
        cost += turn_after / TURN_STEP * TURN_PRICE
        whole_steps = slice(round(FORWARD_STEP / _SAMPLE) - 1, None, round(FORWARD_STEP / _SAMPLE))
        best = cost[:, whole_steps].min(axis=1) + np.abs(turns) * TURN_PRICE
        choice = int(np.argmin(best))
        if not math.isfinite(best[choice]):
            raise ExpertError(f"no way on from ({pose.x:.2f}, {pose.y:.2f})")
        if turns[choice] == 0:
            return FORWARD
        return TURN_LEFT if turns[choice] > 0 else TURN_RIGHT


def _wrapped(angles: np.ndarray) -> np.ndarray:
    return (angles + np.pi) % (2 * np.pi) - np.pi


def moved(pose: Pose, action: int) -> Pose:
    """Where a discrete action takes the robot."""
    if action == FORWARD:
        return Pose(*pose.to_world((FORWARD_STEP, 0.0)), pose.yaw)
    turn = {TURN_LEFT: TURN_STEP, TURN_RIGHT: -TURN_STEP}[action]
    return Pose(pose.x, pose.y, wrapped(pose.yaw + turn))


@dataclass(frozen=True)
class Steps:
    """An episode in discrete steps: L poses, the action taken from each (the last is STOP), and whether the robot
    slipped on the way to a pose, so that it is not where its action should have taken it."""

    poses: tuple[Pose, ...]
    actions: tuple[int, ...]
    slipped: tuple[bool, ...]


def drive(episode: Episode, cameras: dict[str, Camera], slip_percent: int = 0) -> Steps:
    """Drive an episode to its goal.

    slip_percent: chance that the robot slips after a step forward: it then stands up to 15 cm beside where it should
    and looks up to 50° elsewhere, and the expert shows how to go on from there.

    Raises:
        ExpertError: the goal was not reached within MAX_STEPS.
    """
    expert = StepExpert(episode, cameras)
    draw = Draw(episode.flat_seed, episode.number, 23)
    poses, actions, slipped = [episode.start], [], [False]
    while len(actions) < MAX_STEPS:
        action = expert.action(poses[-1])
        actions.append(action)
        if action == STOP:
            return Steps(tuple(poses), tuple(actions), tuple(slipped))
        pose = moved(poses[-1], action)
        slips = action == FORWARD and draw.chance(slip_percent)
        if slips:
            there = _slip(pose, draw)
            slips = clear_line(episode.flat.passable, (pose.x, pose.y), (there.x, there.y))
            pose = there if slips else pose
        poses.append(pose)
        slipped.append(slips)
    raise ExpertError(f"{episode.name}: not at the goal after {MAX_STEPS} steps")


def _slip(pose: Pose, draw: Draw) -> Pose:
    side = draw.between(-_SLIP_SIDE, _SLIP_SIDE) / 100.0
    turn = math.radians(draw.between(-_SLIP_YAW, _SLIP_YAW))
    return Pose(*pose.to_world((0.0, side)), wrapped(pose.yaw + turn))


@dataclass(frozen=True)
class PixelGoal:
    """Where the robot will be `frames` frames later, in the look-down image of now."""

    frames: int
    column: float
    row: float


def pixel_goals(episode: Episode, steps: Steps, camera: Camera) -> list[PixelGoal | None]:
    """The farthest place of the way to come that `camera` sees from each frame; None where it sees none.

    Not farther than MAX_GOAL_DISTANCE along the way, and not beyond a slip: nobody could have meant to go there.
    """
    grid = grid_of(episode.flat, COMFORT)
    return [_farthest(steps, index, camera, grid) for index in range(len(steps.poses))]


def _farthest(steps: Steps, now: int, camera: Camera, grid: Grid) -> PixelGoal | None:
    pose, goal, driven = steps.poses[now], None, 0.0
    here = _point(pose)
    for later in range(now + 1, len(steps.poses)):
        before, point = _point(steps.poses[later - 1]), _point(steps.poses[later])
        step = math.dist(before, point)
        driven += step
        if steps.slipped[later] or driven > MAX_GOAL_DISTANCE:
            break
        if step == 0.0 or math.dist(here, point) < MIN_GOAL_DISTANCE or not grid.line_of_sight(here, point):
            continue
        pixels, depth = camera.project(np.asarray([[*pose.to_local(point), 0.0]]))
        column, row = float(pixels[0, 0]), float(pixels[0, 1])
        if depth[0] > 0.05 and camera.contains(column, row, EDGE):
            goal = PixelGoal(later - now, column, row)
    return goal


def _point(pose: Pose) -> Point:
    return pose.x, pose.y


def drive_smoothly(episode: Episode, simulator: Simulator, time_limit: float = 120.0) -> Iterator[Pose]:
    """Drive an episode with physics by the oracles; the pose of each camera frame, the simulator standing there.

    Raises:
        ExpertError: no STOP within `time_limit` simulated seconds.
    """
    simulator.reset(episode.start.x, episode.start.y, episode.start.yaw)
    planner = OraclePlanner(episode, simulator.cameras)
    controller = OracleController(episode, simulator.cameras)
    planned_at = 0.0
    for period in itertools.count():
        pose = simulator.pose
        if period % PERIODS_PER_FRAME == 0:
            yield pose
        if simulator.time > time_limit:
            raise ExpertError(f"{episode.name}: no STOP after {time_limit:.0f} s")
        if controller.done or (simulator.time - planned_at >= _PLAN_PERIOD and controller.actions_left == 0):
            controller.set_plan(planner.plan(pose), pose, simulator.time)
            planned_at = simulator.time
        command = controller.command(pose, simulator.time)
        if controller.stopped:
            return
        simulator.command(*command)
        simulator.step(CONTROL_PERIOD)
