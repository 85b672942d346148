"""Labels of the trajectory models from recorded poses: plain functions of arrays.

Robot frame: x forward, y left, z up. Optical camera frame: x right, y down, z forward. Metres and radians.

The dual system's label is what the public InternNav data loader computes. Two details of it are not obvious: its 33
points span 3.3 m with both ends (0.103 m apart), and a step of no length has the direction 0, so that the first step
behind the end of a short path takes back the path's last heading.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree

POINTS = 33
SPAN = 3.3  # metres covered by POINTS
MIN_STEP_SQUARED = 0.05  # m²; shorter steps (turns on the spot, pushing against something) are dropped
POSITION_SCALE = 4.0  # of dx and dy in a label; the standalone NavDP's applies to all three channels
_DENSE_POINTS = 50
_MIN_SPLINE_POINTS = 4

OBSTACLE_DISTANCE = 0.1  # metres
_TOO_CLOSE_PRICE, _CLEARANCE_REWARD = -5.0, 0.5
NO_OBSTACLES_CRITIC = 2.0  # of a scene without obstacle points


def camera_mount(pitch: float, forward: float = 0.0) -> np.ndarray:
    """(4, 4) optical camera frame in the robot frame: tilted down by `pitch`, `forward` metres ahead of the robot's
    centre. Its height does not matter to a path on the floor and is left at 0."""
    cos, sin = math.cos(pitch), math.sin(pitch)
    mount = np.eye(4)
    mount[:3, 0] = (0.0, -1.0, 0.0)
    mount[:3, 1] = (-sin, 0.0, -cos)
    mount[:3, 2] = (cos, 0.0, -sin)
    mount[0, 3] = forward
    return mount


def relative_path(camera_poses: np.ndarray, pitch: float, forward: float = 0.0) -> np.ndarray:
    """Path (N, 3) of x, y, yaw of the robot in its own frame at the first pose.

    Args:
        camera_poses: (N, 4, 4) optical camera frame to world; the world needs no particular axes.
        pitch, forward: how the camera sits on the robot, see `camera_mount`.
    """
    robot = camera_poses @ np.linalg.inv(camera_mount(pitch, forward))
    relative = np.linalg.inv(robot[0]) @ robot
    yaw = np.arctan2(relative[:, 1, 0], relative[:, 0, 0])
    return np.column_stack((relative[:, :2, 3], yaw))


def resampled(path: np.ndarray) -> np.ndarray:
    """POINTS points (33, 2), evenly spaced over SPAN, along a path (N, 2) that starts at the origin.

    Steps shorter than √0.05 m are dropped, four points and more are joined by a cubic spline over the distance along
    the path; behind its end the last point is repeated.
    """
    if path.ndim != 2 or path.shape[1] != 2 or not len(path) or not np.isfinite(path).all():
        raise ValueError(f"path: expected finite values of shape (N, 2), N >= 1, got {path.shape}")
    steps = np.diff(path, axis=0)
    kept = path[1:][(steps**2).sum(axis=1) > MIN_STEP_SQUARED]
    points = np.vstack((np.zeros((1, 2)), kept))
    if len(points) >= _MIN_SPLINE_POINTS:
        along = _distance_along(points)
        dense = np.linspace(0.0, along[-1], max(_DENSE_POINTS, 2 * len(points)))
        points = CubicSpline(along, points)(dense)
    along = _distance_along(points)
    wanted = np.linspace(0.0, SPAN, POINTS)
    return np.column_stack([np.interp(wanted, along, points[:, axis]) for axis in (0, 1)])


def _distance_along(points: np.ndarray) -> np.ndarray:
    return np.concatenate(([0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))))


def dual_label(path: np.ndarray) -> np.ndarray:
    """Increments (32, 3) float32 of the dual system: dx and dy in metres times 4, dyaw in radians.

    path: (N, 2) or (N, 3) in the robot frame of its first pose; only x and y are used, yaw is the path's direction.
    """
    steps = np.diff(resampled(path[:, :2]), axis=0)
    direction = np.arctan2(steps[:, 1], steps[:, 0])
    turns = np.diff(direction, prepend=0.0)
    turns[1:] = (turns[1:] + math.pi) % (2.0 * math.pi) - math.pi
    return np.column_stack((steps * POSITION_SCALE, turns)).astype(np.float32)


# ------------------------------------------------------------------------------------------------ standalone NavDP


def navdp_indices(length: int, steps: int, stride: int) -> np.ndarray:
    """Which of `length` path points a label of `steps` increments connects, one in `stride`: (steps + 1,)."""
    if length < 2:
        raise ValueError(f"path: expected at least 2 points, got {length}")
    return np.clip(np.arange(steps + 1) * stride, 0, length - 2)


def with_directions(path: np.ndarray, initial: np.ndarray) -> np.ndarray:
    """(N - 1, 3): the points of a path (N, 2) but the last, each with the direction of the step that leaves it,
    relative to the direction `initial` (2,)."""
    steps = np.diff(path, axis=0)
    cross = initial[0] * steps[:, 1] - initial[1] * steps[:, 0]
    return np.column_stack((path[:-1], np.arctan2(cross, steps @ initial)))


def navdp_label(poses: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Increments (T, 3) float32 times 4 between the poses (N, 3) of `with_directions` at `indices` (T + 1,)."""
    return (np.diff(poses[indices], axis=0) * POSITION_SCALE).astype(np.float32)


def turned(path: np.ndarray, angle: float) -> np.ndarray:
    """A path (N, 2) turned about the origin. The reference then puts a spline through the same points at the same
    places, which changes nothing."""
    cos, sin = math.cos(angle), math.sin(angle)
    return path @ np.asarray([[cos, sin], [-sin, cos]])


def critic_label(path: np.ndarray, indices: np.ndarray, obstacles: cKDTree | None) -> float:
    """Value of a path (N, 2) in world coordinates: −5 · share of steps closer than 0.1 m to an obstacle + 0.5 · gain
    of clearance in metres. Distances are city-block distances, as in the reference; None: no obstacles."""
    if obstacles is None:
        return NO_OBSTACLES_CRITIC
    clearance, _ = obstacles.query(path[indices], p=1)
    too_close = float((clearance[:-1] < OBSTACLE_DISTANCE).mean())
    return _TOO_CLOSE_PRICE * too_close + _CLEARANCE_REWARD * float(clearance[-1] - clearance[0])
