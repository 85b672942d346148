"""Delay compensation: a path belongs to the moment its image was taken, not to the moment it is ready.

Inference takes a few hundred milliseconds, during which the robot drives on. A path placed at the robot's newest pose
would be shifted by what was driven meanwhile. Here it is placed at the pose of its image, and what has been driven
since then is cut off.
"""

from __future__ import annotations

import math

import numpy as np

from .geometry import compose, relative
from .reference import MINIMUM_LENGTH, ReferencePath

# A projection may lie this much further along the path than the robot has driven since the image [m]: the path need
# not begin where the robot drove, and odometry is not exact.
PROJECTION_SLACK = 0.10


def check_path(path: np.ndarray) -> np.ndarray:
    """A sampled path (T+1, 3) of (x [m], y [m], yaw [rad]) as float64, after checking it.

    Raises:
        ValueError: not (at least 2, 3), NaN or infinity, not starting at the robot (more than 0.5 m off), or a step
            of more than 2 m: such a path comes from a broken model or a wrong scale, never from a good one.
    """
    path = np.asarray(path)
    if path.dtype.kind not in "fiu":
        raise ValueError(f"path: expected numbers, got dtype {path.dtype}")
    if path.ndim != 2 or path.shape[0] < 2 or path.shape[1] != 3:
        raise ValueError(f"path: expected shape (at least 2, 3), got {path.shape}")
    path = path.astype(np.float64)
    if not np.isfinite(path).all():
        raise ValueError(f"path: expected finite values, got {int((~np.isfinite(path)).sum())} NaN or infinite")
    start = math.hypot(path[0, 0], path[0, 1])
    if start > 0.5:
        raise ValueError(f"path: expected to start at the robot, got a start {start:.2f} m away from it")
    longest = float(np.hypot(*np.diff(path[:, :2], axis=0).T).max())
    if longest > 2.0:
        raise ValueError(f"path: expected steps of at most 2 m, got one of {longest:.2f} m")
    return path


def compensate_delay(path: np.ndarray, image_pose: np.ndarray, pose_now: np.ndarray) -> ReferencePath | None:
    """The part of a sampled path that is still ahead, in the odometry frame.

    Both poses come from :meth:`.odometry.OdometryBuffer.pose_at`, which refuses to guess (OdometryGap) when odometry
    is missing around a stamp; without a pose there is no placing a path.

    Args:
        path: (T+1, 3) in the robot frame of its image.
        image_pose: (3,) pose of the robot in odom at the image's stamp.
        pose_now: (3,) pose of the robot in odom now.

    Returns:
        The remaining path in odom, or None when nothing of it is left to drive.

    Raises:
        ValueError: the path is malformed (see :func:`check_path`).
    """
    in_odom = compose(image_pose, check_path(path))
    if np.hypot(*np.diff(in_odom[:, :2], axis=0).T).sum() < MINIMUM_LENGTH:
        return None
    whole = ReferencePath(in_odom)
    # Only what was driven can have been passed: a path that turns back toward the robot must not lose its beginning
    # because its end comes near.
    done = whole.project(pose_now[:2], 0.0, _arc_length(image_pose, pose_now) + PROJECTION_SLACK)
    if whole.length - done < MINIMUM_LENGTH:
        return None
    return ReferencePath(whole.cut(done)) if done > 0.0 else whole


def _arc_length(first: np.ndarray, second: np.ndarray) -> float:
    """Length [m] of the circular arc between two poses."""
    _, _, turn = relative(first, second)
    chord = math.hypot(second[0] - first[0], second[1] - first[1])
    return chord / float(np.sinc(0.5 * turn / math.pi)) if abs(turn) < 3.0 else 2.0 * chord
