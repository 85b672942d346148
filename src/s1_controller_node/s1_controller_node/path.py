"""From trajectory increments to a path, and from a path to discrete actions or a velocity.

A path is an array (N, 3) of poses (x [m], y [m], yaw [rad]) in the robot frame of the camera frame it was
computed from (REP-103: x forward, y left, yaw counter-clockwise), starting at (0, 0, 0). The conversions
follow the public InternVLA-N1 deployment. Inputs are never modified.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from .checks import check_array, check_number
from .plan_intake import FORWARD_DISTANCE, TURN_ANGLE, Action

DUAL_SCALE = (4.0, 4.0, 1.0)  # a model of the dual system gives metres times 4, yaw as it is
STANDALONE_SCALE = (4.0, 4.0, 4.0)  # the standalone NavDP scales all three channels

LOOK_AHEAD = 4  # path points ahead of the nearest one that a heading aims at
GOAL_TOLERANCE = 0.2  # metres; nearer to the path's end nothing is left to do
ACTIONS_USED = 4  # of a conversion, the rest is decided anew from a newer image

_MAX_FORWARD_STEPS = 400  # 100 m: far beyond any path a model gives; bounds the loop whatever comes in
_STANDSTILL_INCREMENT = 0.05  # of dx (normalised) and dyaw; smaller increments mean stop
_MAX_LINEAR, _MAX_ANGULAR = 0.5, 0.5  # m/s, rad/s of the velocity rule


class GoalBehindError(ValueError):
    """The path ends behind the robot and turning around was not allowed."""


def path_from_increments(increments: np.ndarray, scale: Sequence[float] = DUAL_SCALE) -> np.ndarray:
    """Paths (S, T + 1, 3) float32 from normalised increments (S, T, 3) by dividing by ``scale`` and summing up.

    Raises:
        TypeError, ValueError: another rank, size or dtype, or NaN.
    """
    check_array("increments", increments, (None, None, 3))
    divisor = check_array("scale", np.asarray(scale, dtype=np.float32), (3,), minimum=1e-6)
    path = np.zeros((increments.shape[0], increments.shape[1] + 1, 3), dtype=np.float32)
    np.cumsum(increments.astype(np.float32) / divisor, axis=1, out=path[:, 1:])
    return path


def actions_from_path(path: np.ndarray, *, turn_around: bool = True, at_most: int | None = None) -> list[Action]:
    """Discrete actions that follow a path: turn towards a point ahead in steps of 15°, go 0.25 m, repeat.

    Args:
        path: (N, 2) or (N, 3), N at least 2; only x and y are used.
        turn_around: a goal straight behind takes twelve turns, to the right as in the public deployment. A
            camera that looks forward cannot have planned there: with False such a path is an error instead.
        at_most: the first so many actions are enough; the rest is not computed.

    Returns:
        Actions up to the path's end; empty when it is within 0.2 m. Of these the deployment uses four.

    Raises:
        GoalBehindError: ``turn_around`` is False and the path's end lies more than 135° off the heading.
    """
    if not isinstance(path, np.ndarray) or path.ndim != 2 or path.shape[1] not in (2, 3) or len(path) < 2:
        raise ValueError(f"path: expected shape (at least 2, 2 or 3), got {np.shape(path)}")
    points = check_array("path", path, (None, None))[:, :2].astype(np.float64).tolist()
    start, goal = points[0], points[-1]
    bearing = math.atan2(goal[1] - start[1], goal[0] - start[0])
    if not turn_around and math.dist(goal, start) > GOAL_TOLERANCE and abs(bearing) > math.radians(135):
        raise GoalBehindError(
            f"path: expected an end ahead of the robot, got ({goal[0]:.2f}, {goal[1]:.2f}) m, "
            f"{math.degrees(bearing):.0f}° off its heading"
        )
    return list(islice(_actions_along(points), at_most))


def _actions_along(points: Sequence[Sequence[float]]) -> Iterator[Action]:
    position, goal, heading = points[0], points[-1], 0.0
    for _ in range(_MAX_FORWARD_STEPS):
        distance = math.dist(position, goal)
        if distance <= GOAL_TOLERANCE:
            return
        distances = [math.dist(point, position) for point in points]
        nearest = distances.index(min(distances))
        target = points[min(nearest + LOOK_AHEAD, len(points) - 1)]
        if math.dist(target, position) < 1e-6:
            return
        bearing = math.atan2(target[1] - position[1], target[0] - position[0])
        turns = round(_wrapped(bearing - heading) / TURN_ANGLE)
        yield from [Action.TURN_LEFT if turns > 0 else Action.TURN_RIGHT] * abs(turns)
        heading = _wrapped(heading + turns * TURN_ANGLE)
        ahead = (
            position[0] + FORWARD_DISTANCE * math.cos(heading),
            position[1] + FORWARD_DISTANCE * math.sin(heading),
        )
        if math.dist(ahead, goal) > distance:
            return
        yield Action.FORWARD
        position = ahead


def actions_from_chunk(increments: np.ndarray) -> list[Action]:
    """One action per increment, the rule of the sync mode.

    Args:
        increments: (T, 3) normalised increments (dx, dy, dyaw), dy being ignored.

    Returns:
        T actions: STOP where neither dx nor dyaw reaches 0.05, otherwise a turn where the yaw, in units of
        15°, exceeds dx in units of 0.25.
    """
    check_array("increments", increments, (None, 3))
    # In float32 as the models give it: the thresholds are compared at that precision.
    forward, yaw = increments[:, 0].astype(np.float32), increments[:, 2].astype(np.float32)
    actions = np.where(yaw < 0, Action.TURN_RIGHT, Action.TURN_LEFT)
    forward_share, yaw_share = np.abs(forward / np.float32(0.25)), np.abs(yaw * np.float32(12) / np.float32(np.pi))
    actions[forward_share >= yaw_share] = Action.FORWARD
    threshold = np.float32(_STANDSTILL_INCREMENT)
    actions[(forward < threshold) & (np.abs(yaw) < threshold)] = Action.STOP
    return [Action(action) for action in actions]


def first_actions(actions: Sequence[Action]) -> list[Action]:
    """The part of a conversion that is used: the first four that move."""
    return [action for action in actions if action != Action.STOP][:ACTIONS_USED]


def velocity_from_path(path: np.ndarray, gain: float = 1.0) -> tuple[float, float]:
    """Velocity (v [m/s] in [0, 0.5], omega [rad/s] in [-0.5, 0.5]) proportional to the path's end pose.

    Raises:
        ValueError: a path without the heading channel, i.e. not (N, 3).
    """
    check_array("path", path, (None, 3))
    check_number("gain", gain, 0.0)
    x, y, yaw = (float(value) for value in path[-1])
    linear = min(gain * math.hypot(x, y), _MAX_LINEAR)
    return linear, min(max(gain * yaw, -_MAX_ANGULAR), _MAX_ANGULAR)


def _wrapped(angle: float) -> float:
    return (angle + math.pi) % (2 * math.pi) - math.pi
