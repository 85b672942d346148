"""Where the robot was at a stamp: odometry kept for some seconds and interpolated. Plain Python, no ROS.

Poses are (x [m], y [m], yaw [rad]) in the odometry frame.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass

import numpy as np

from dual_nav_util.stamps import seconds_between

from .geometry import Twist2D, compose, drive, relative, rotation

_QUATERNION_TOLERANCE = 0.1  # of the norm; drivers round, but an all-zero quaternion is no orientation


class OdometryError(ValueError):
    """An odometry message that is no pose."""


class OdometryGap(LookupError):
    """The pose at a stamp is not known without guessing; the text says what is missing."""


@dataclass(frozen=True)
class OdometrySample:
    """One odometry message: pose (3,) in the odometry frame and velocity in the robot's own frame."""

    stamp_ns: int
    pose: np.ndarray
    twist: Twist2D


def planar_pose(x: float, y: float, quaternion: tuple[float, float, float, float]) -> np.ndarray:
    """Pose (3,) from a position [m] and an orientation (x, y, z, w): the heading of the robot's x axis on the ground.

    Raises:
        OdometryError: NaN or infinity, or a quaternion without a unit norm.
    """
    if not (math.isfinite(x) and math.isfinite(y)):
        raise OdometryError(f"odometry position is ({x}, {y}), expected finite metres")
    qx, qy, qz, qw = quaternion
    norm = math.sqrt(qx * qx + qy * qy + qz * qz + qw * qw)
    if not abs(norm - 1.0) <= _QUATERNION_TOLERANCE:
        raise OdometryError(f"odometry orientation has norm {norm}, expected a unit quaternion")
    forward_x = qw * qw + qx * qx - qy * qy - qz * qz
    forward_y = 2.0 * (qx * qy + qw * qz)
    return np.array([x, y, math.atan2(forward_y, forward_x)])


class OdometryBuffer:
    """The newest `capacity` odometry samples. Safe between threads.

    Args:
        capacity: samples kept; at the base's rate they must span one inference of S1.
        max_gap: longest time [s] between two samples over which a pose is interpolated, and longest time after the
            newest sample over which it is extrapolated with that sample's velocity.
    """

    def __init__(self, capacity: int, max_gap: float) -> None:
        self._samples: deque[OdometrySample] = deque(maxlen=capacity)
        self._max_gap = max_gap
        self._lock = threading.Lock()

    def add(self, sample: OdometrySample) -> None:
        """Append a sample.

        Raises:
            OdometryError: its stamp is not newer than the newest one's, or its velocity is not finite.
        """
        if not (math.isfinite(sample.twist.v) and math.isfinite(sample.twist.omega)):
            raise OdometryError(f"odometry velocity is {tuple(sample.twist)}, expected finite m/s and rad/s")
        with self._lock:
            if self._samples and sample.stamp_ns <= self._samples[-1].stamp_ns:
                newest_ns = self._samples[-1].stamp_ns
                raise OdometryError(f"odometry stamp {sample.stamp_ns} ns is not after the newest, {newest_ns} ns")
            self._samples.append(sample)

    def newest(self) -> OdometrySample | None:
        with self._lock:
            return self._samples[-1] if self._samples else None

    def pose_at(self, stamp_ns: int) -> np.ndarray:
        """Pose (3,) at a stamp, on the arc between the two samples around it.

        Raises:
            OdometryGap: the stamp lies before the oldest sample, in a gap longer than `max_gap`, or further than
                that after the newest sample.
        """
        with self._lock:
            samples = list(self._samples)
        if not samples:
            raise OdometryGap("no odometry has been received yet")
        after = bisect_left(samples, stamp_ns, key=lambda sample: sample.stamp_ns)
        if after < len(samples) and samples[after].stamp_ns == stamp_ns:
            return samples[after].pose.copy()
        if after == 0:
            early = seconds_between(stamp_ns, samples[0].stamp_ns)
            raise OdometryGap(f"the frame is {early:.3f} s older than the oldest odometry kept")
        before = samples[after - 1]
        elapsed = seconds_between(before.stamp_ns, stamp_ns)
        if after == len(samples):
            if elapsed > self._max_gap:
                raise OdometryGap(
                    f"the newest odometry is {elapsed:.3f} s older than the frame (limit {self._max_gap} s)"
                )
            return drive(before.pose, before.twist, elapsed)
        gap = seconds_between(before.stamp_ns, samples[after].stamp_ns)
        if gap > self._max_gap:
            raise OdometryGap(f"odometry has a gap of {gap:.3f} s around the frame (limit {self._max_gap} s)")
        return _between(before.pose, samples[after].pose, elapsed / gap)

    def clear(self) -> None:
        """Forget all samples."""
        with self._lock:
            self._samples.clear()


def _between(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """The pose a share of the way along the circular arc from one pose to the other."""
    moved = relative(first, second)
    turn = moved[2]
    # The chord of an arc that turns by a is its velocity, turned by a/2 and scaled by sinc(a/2).
    velocity = rotation(-0.5 * turn) @ moved[:2] / np.sinc(0.5 * turn / math.pi)
    turn *= share
    chord = share * np.sinc(0.5 * turn / math.pi) * (rotation(0.5 * turn) @ velocity)
    return compose(first, np.array([chord[0], chord[1], turn]))
