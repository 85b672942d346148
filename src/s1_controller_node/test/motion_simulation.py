"""A simulated differential drive for the tests of the motion modules: base with lag, odometry with errors, course.

Kinematics only. The numbers are those of an ordinary small indoor base; what depends on them is said in each test.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from s1_controller_node.geometry import STANDSTILL, Twist2D, compose, drive, relative

NANOSECONDS = 1_000_000_000


@dataclass
class Base:
    """A base that follows commands with dead time, first-order lag and bounded acceleration."""

    pose: np.ndarray = field(default_factory=lambda: np.zeros(3))
    dead_time: float = 0.05  # [s]
    time_constant: float = 0.08  # [s]
    acceleration: float = 2.0  # [m/s²]
    angular_acceleration: float = 6.0  # [rad/s²]
    gain: tuple[float, float] = (0.98, 0.95)  # commanded 0.80 rad/s gives 0.76 on the simulated robot
    twist: Twist2D = STANDSTILL

    def __post_init__(self) -> None:
        self._waiting: deque[tuple[float, Twist2D]] = deque()
        self._command = STANDSTILL
        self._time = 0.0

    def move(self, command: Twist2D, duration: float, step: float = 0.005) -> None:
        """Drive for ``duration`` [s] with ``command`` given at its beginning."""
        self._waiting.append((self._time + self.dead_time, command))
        for _ in range(round(duration / step)):
            self._time += step
            while self._waiting and self._waiting[0][0] <= self._time:
                self._command = self._waiting.popleft()[1]
            share = 1.0 - math.exp(-step / self.time_constant)
            dv = share * (self._command.v * self.gain[0] - self.twist.v)
            domega = share * (self._command.omega * self.gain[1] - self.twist.omega)
            dv = min(max(dv, -self.acceleration * step), self.acceleration * step)
            domega = min(max(domega, -self.angular_acceleration * step), self.angular_acceleration * step)
            self.twist = Twist2D(self.twist.v + dv, self.twist.omega + domega)
            self.pose = drive(self.pose, self.twist, step)


@dataclass
class Odometer:
    """Wheel odometry: scale errors, random walk, white noise. Its frame drifts against the world, as on a real base.

    Defaults: 1 % scale error in distance and 1 % in angle, random walk 5 mm/√m and 0.5°/√m, white noise 1 mm and
    0.1°, velocity noise 0.01 m/s and 0.01 rad/s.
    """

    random: np.random.Generator
    scale: tuple[float, float] = (1.01, 0.99)
    walk: tuple[float, float] = (0.005, math.radians(0.5))
    white: tuple[float, float] = (0.001, math.radians(0.1))
    velocity_noise: tuple[float, float] = (0.01, 0.01)
    pose: np.ndarray = field(default_factory=lambda: np.zeros(3))  # integrated, without white noise
    _true: np.ndarray | None = None

    def read(self, true_pose: np.ndarray, twist: Twist2D) -> tuple[np.ndarray, Twist2D]:
        """Odometry pose (3,) and velocity for the base's true ones."""
        if self._true is None:
            self._true = np.array(true_pose)
        step = relative(self._true, true_pose)
        self._true = np.array(true_pose)
        root = math.sqrt(math.hypot(step[0], step[1]))
        measured = np.array(
            [
                step[0] * self.scale[0] + self.random.normal(0.0, self.walk[0]) * root,
                step[1] * self.scale[0] + self.random.normal(0.0, self.walk[0]) * root,
                step[2] * self.scale[1] + self.random.normal(0.0, self.walk[1]) * root,
            ]
        )
        self.pose = compose(self.pose, measured)
        noise = self.random.normal(0.0, 1.0, 5)
        noisy = self.pose + noise[:3] * np.array([self.white[0], self.white[0], self.white[1]])
        return noisy, Twist2D(
            twist.v + noise[3] * self.velocity_noise[0], twist.omega + noise[4] * self.velocity_noise[1]
        )


def s_curve(length: float = 10.0, bend: float = 1.25, period: float = 4.0) -> np.ndarray:
    """Course (N, 3) every centimetre, curvature ``bend``·cos(2π·s/``period``) [1/m].

    With the defaults 0.4 m/s means up to 0.5 rad/s and headings of ±46°.
    """
    s = np.arange(0.0, length, 0.01)
    heading = bend * period / (2.0 * math.pi) * np.sin(2.0 * math.pi * s / period)
    steps = 0.01 * np.stack([np.cos(heading + 0.0), np.sin(heading)], axis=1)
    points = np.concatenate([[[0.0, 0.0]], np.cumsum(steps[:-1], axis=0)])
    return np.concatenate([points, heading[:, None]], axis=1)


def distance_to_course(course: np.ndarray, position: np.ndarray) -> float:
    """Distance [m] of a position from the course (its points are 1 cm apart, good to 0.1 mm at 1 cm distance)."""
    start, step = course[:-1, :2], np.diff(course[:, :2], axis=0)
    share = np.clip(((position[:2] - start) * step).sum(1) / (step * step).sum(1), 0.0, 1.0)
    return float(np.hypot(*(start + share[:, None] * step - position[:2]).T).min())


def sampled_path(course: np.ndarray, pose: np.ndarray, points: int = 33, spacing: float = 0.1) -> np.ndarray:
    """What an ideal S1 answers at ``pose`` (world): (points, 3) in the robot frame, from the robot back to the course.

    The offset from the course fades over the first metre, as in a label path that starts at the robot.
    """
    nearest = int(np.argmin(np.hypot(*(course[:, :2] - pose[:2]).T)))
    indices = np.minimum(nearest + np.round(np.arange(points) * spacing / 0.01).astype(int), len(course) - 1)
    ahead = relative(pose, course[indices])
    fade = np.clip(1.0 - np.arange(points) * spacing / 1.0, 0.0, 1.0) ** 2
    path = ahead.copy()
    path[:, :2] -= fade[:, None] * ahead[0, :2]
    path[0] = 0.0
    return path
