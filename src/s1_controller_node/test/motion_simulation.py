"""A simulated differential drive for the tests of the motion modules: base with lag, odometry with errors, course.

Kinematics only. The numbers are those of an ordinary small indoor base; what depends on them is said in each test.
"""

from __future__ import annotations

import math
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np

from s1_controller_node.geometry import STANDSTILL, Twist2D, compose, drive, relative, rotation
from s1_controller_node.motion import MotionCommand, MotionConfig, MotionLayer
from s1_controller_node.obstacles import CameraMount, Intrinsics
from s1_controller_node.odometry import OdometryError, OdometryGap, OdometrySample
from s1_controller_node.plan_intake import AcceptedPlan, Kind

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
    """What an ideal S1 answers at ``pose`` (world): (points, 3) in the robot frame, leading back to the course.

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


CAMERA = Intrinsics(width=160, height=120, fx=97.0, fy=97.0, cx=79.5, cy=59.5)  # 79° wide, a quarter of 640×480
MOUNT = CameraMount(height=0.6, pitch=math.radians(15.0), x=0.1)


@dataclass
class DepthCamera:
    """Depth images of a floor with boxes, with the errors of an active stereo camera.

    Range noise 1 mm + 2.5 mm/m²·z², no returns nearer than 0.28 m or beyond 8 m, patches without a return, 0.3 % wild
    values, and a pitch that shakes by ``shake`` [rad] (1 sigma) because the robot does.
    """

    random: np.random.Generator
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 6)))  # x0, y0, z0, x1, y1, z1 in the world [m]
    mount: CameraMount = MOUNT
    shake: float = math.radians(0.3)

    def image(self, pose: np.ndarray) -> np.ndarray:
        """Depth (height, width) uint16 millimetres seen by a robot at ``pose`` in the world."""
        c = CAMERA
        right, down = np.meshgrid((np.arange(c.width) - c.cx) / c.fx, (np.arange(c.height) - c.cy) / c.fy)
        optical = np.stack([right, down, np.ones_like(right)], axis=-1)
        mount = replace(self.mount, pitch=self.mount.pitch + self.random.normal(0.0, self.shake))
        rays = optical @ mount.rotation().T
        rays[..., :2] = rays[..., :2] @ rotation(pose[2]).T
        start = np.append(pose[:2] + rotation(pose[2]) @ np.array([mount.x, mount.y]), mount.height)
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = np.where(rays[..., 2] < 0.0, -start[2] / rays[..., 2], np.inf)
            for box in self.boxes:
                near, far = (box[:3] - start) / rays, (box[3:] - start) / rays
                enter, leave = np.minimum(near, far).max(axis=-1), np.maximum(near, far).min(axis=-1)
                hit = (enter <= leave) & (leave > 0.0)
                depth = np.where(hit, np.minimum(depth, np.maximum(enter, 0.0)), depth)
        depth = depth + self.random.normal(0.0, 1.0, depth.shape) * (0.001 + 0.0025 * np.minimum(depth, 9.0) ** 2)
        wild = self.random.random(depth.shape) < 0.003
        depth = np.where(wild, self.random.uniform(0.3, 6.0, depth.shape), depth)
        for _ in range(6):
            row, column = self.random.integers(0, c.height - 12), self.random.integers(0, c.width - 16)
            depth[row : row + 12, column : column + 16] = 0.0
        depth[(depth < 0.28) | (depth > 8.0)] = 0.0
        return np.round(depth * 1000.0).astype(np.uint16)


@dataclass
class Drive:
    """A whole drive: base, odometry, depth camera, and an S1 that answers ``delay`` s after its image.

    Everything carries its own stamp and arrives later than it happened. The planner is perfect and sends a goal plan
    whenever it is asked; ``switches`` turn parts off for fault tests.
    """

    course: np.ndarray
    config: MotionConfig
    seed: int = 0
    delay: float = 0.7  # of S1 [s]
    period: float = 0.05  # control [s]
    odometry_period: float = 0.03
    frame_period: float = 0.1
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 6)))
    start: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        self.base = Base(pose=np.array(self.course[0] if self.start is None else self.start, dtype=float))
        self.odometer = Odometer(self.random, pose=np.array([3.0, -2.0, 1.0]))  # odom is not the world
        self.camera = DepthCamera(self.random, self.boxes)
        self.layer = MotionLayer(self.config)
        self.now = 10.0
        self.off: set[str] = set()  # "odometry", "frames", "depth", "s1", "s2"
        self._next = {"odometry": 0.0, "frames": 0.0}
        self._paths: deque[tuple[float, int, np.ndarray, AcceptedPlan]] = deque()
        self._plan: AcceptedPlan | None = None
        self._planned_at = -math.inf
        self.commands: list[MotionCommand] = []
        self.poses: list[np.ndarray] = []
        self.times: list[float] = []

    @property
    def now_ns(self) -> int:
        return round(self.now * NANOSECONDS)

    def run(self, seconds: float, until=None) -> list[MotionCommand]:
        """Drive for a while, or until ``until(command)``; returns the commands of this while."""
        first = len(self.commands)
        for _ in range(round(seconds / self.period)):
            self._sense()
            command = self.layer.step(self.now_ns)
            self.commands.append(command)
            self.poses.append(self.base.pose)
            self.times.append(self.now)
            self._plan_if_asked(command)
            if until is not None and until(command):
                break
            self.base.move(Twist2D(command.v, command.omega), self.period)
            self.now += self.period
        return self.commands[first:]

    def goal_plan(self, number: int, episode: int = 1) -> AcceptedPlan:
        latents = np.zeros((1, 4, 8), dtype=np.float32)
        return AcceptedPlan(episode, number, self.now_ns, Kind.TRAJ_LATENTS, pixel_goal=(1, 1), traj_latents=latents)

    def _sense(self) -> None:
        if self.now >= self._next["odometry"] and "odometry" not in self.off:
            pose, twist = self.odometer.read(self.base.pose, self.base.twist)
            late = self.random.normal(0.0, 0.002)
            stamp = round((self.now + late - 0.004) * NANOSECONDS)
            with suppress(OdometryError):  # jitter turned two stamps round: the node drops such a sample too
                self.layer.on_odometry(OdometrySample(stamp, pose, twist))
            self._next["odometry"] = self.now + self.odometry_period
        if self.now >= self._next["frames"]:
            if "frames" not in self.off:
                self.layer.on_frame(self.now_ns)
                if self._plan is not None and "s1" not in self.off:
                    path = sampled_path(self.course, self.base.pose)
                    self._paths.append((self.now + self.delay, self.now_ns, path, self._plan))
            if "depth" not in self.off:
                with suppress(OdometryGap):  # the layer's time-out is what is tested
                    self.layer.on_depth(self.now_ns, self.camera.image(self.base.pose), CAMERA)
            self._next["frames"] = self.now + self.frame_period
        while self._paths and self._paths[0][0] <= self.now:
            _, stamp, path, plan = self._paths.popleft()
            length = np.hypot(*np.diff(path[:, :2], axis=0).T).sum()
            conversion = (1,) * int(length / 0.25)
            with suppress(OdometryGap):
                self.layer.on_path(plan, stamp, path, conversion, self.now_ns)

    def _plan_if_asked(self, command: MotionCommand) -> None:
        due = self._plan is None or (command.ask.value and self.now - self._planned_at > 1.0)
        if due and "s2" not in self.off:
            number = 0 if self._plan is None else self._plan.plan_number + 1
            self._plan, self._planned_at = self.goal_plan(number), self.now
            self.layer.on_plan(self._plan)
