"""From a path or discrete actions to a velocity: pure pursuit, and turns in closed loop on odometry.

Plain Python, no ROS. `Motion` is what the controller needs of a motion layer; `Follower` is a simple one.
Poses are (x [m], y [m], yaw [rad]) in the odometry frame.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .geometry import STANDSTILL, Twist2D, compose, relative, wrap_angle
from .plan_intake import Action

FORWARD_STEP = 0.25  # m, the model's forward action
TURN_STEP = math.radians(15.0)  # the model's turn action
_STEPS = {
    Action.FORWARD: np.array([FORWARD_STEP, 0.0, 0.0]),
    Action.TURN_LEFT: np.array([0.0, 0.0, TURN_STEP]),
    Action.TURN_RIGHT: np.array([0.0, 0.0, -TURN_STEP]),
}


@dataclass(frozen=True)
class FollowerConfig:
    """Limits and tolerances; ValueError names the field of a bad value."""

    max_linear_speed: float = 0.3  # m/s
    max_angular_speed: float = 0.5  # rad/s
    look_ahead: float = 0.4  # m, distance of the point that is steered to
    path_end_tolerance: float = 0.1  # m, a path is driven when its end is this near
    turn_tolerance: float = math.radians(2.0)  # rad, a turn is done within this
    turn_gain: float = 2.0  # 1/s, yaw rate per remaining angle

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"{name} is {value!r}: must be a positive number")


@dataclass(frozen=True)
class MotionStep:
    """What to do now and what is left.

    Attributes:
        turning: the velocity belongs to a turn action.
        stopped: the action STOP was reached.
        actions_left: discrete actions not finished.
        distance_left: metres along the path to its end; 0 without a path.
    """

    twist: Twist2D = STANDSTILL
    turning: bool = False
    stopped: bool = False
    actions_left: int = 0
    distance_left: float = 0.0

    @property
    def done(self) -> bool:
        """Nothing left to drive."""
        return self.actions_left == 0 and self.distance_left == 0.0


class Motion(Protocol):
    """A motion layer: told what to follow, asked for a velocity at the control rate, by one thread at a time."""

    def follow_path(self, path: np.ndarray, image_pose: np.ndarray) -> None:
        """Follow a path (T+1, 3) given in the robot frame of its image, taken at `image_pose` (3,) in odom."""

    def follow_actions(self, actions: Sequence[Action]) -> None:
        """Carry out discrete actions, beginning where the robot is at the next step."""

    def stand(self) -> None:
        """Forget everything to follow."""

    def step(self, pose: np.ndarray) -> MotionStep:
        """The velocity at the robot's pose (3,) of now."""


class Follower:
    """Pure pursuit on paths; turns proportional to the remaining angle; never backwards."""

    def __init__(self, config: FollowerConfig) -> None:
        self.config = config
        self._path: np.ndarray | None = None
        self._actions: deque[Action] = deque()
        self._target: np.ndarray | None = None  # where the action at hand ends

    def follow_path(self, path: np.ndarray, image_pose: np.ndarray) -> None:
        self.stand()
        self._path = compose(image_pose, path)

    def follow_actions(self, actions: Sequence[Action]) -> None:
        self.stand()
        # Looking down is S2's business: its next plan brings what follows from it.
        self._actions.extend(action for action in actions if action != Action.LOOK_DOWN)

    def stand(self) -> None:
        self._path = None
        self._actions.clear()
        self._target = None

    def step(self, pose: np.ndarray) -> MotionStep:
        if self._path is not None:
            return self._along_path(self._path, pose)
        return self._next_action(pose)

    def _along_path(self, path: np.ndarray, pose: np.ndarray) -> MotionStep:
        points = path[:, :2]
        lengths = np.hypot(*np.diff(points, axis=0).T)
        nearest = int(np.argmin(np.hypot(*(points - pose[:2]).T)))
        left = float(lengths[nearest:].sum())
        if left <= self.config.path_end_tolerance:
            self._path = None
            return MotionStep()
        ahead = nearest + int(np.searchsorted(np.cumsum(lengths[nearest:]), self.config.look_ahead)) + 1
        target = points[min(ahead, len(points) - 1)]
        return MotionStep(self._toward(target, pose, left), distance_left=left)

    def _toward(self, target: np.ndarray, pose: np.ndarray, distance_left: float) -> Twist2D:
        """Velocity on the arc that leads through the target; a turn on the spot while it is not ahead."""
        config = self.config
        x, y, _ = relative(pose, np.array([target[0], target[1], 0.0]))
        bearing = math.atan2(y, x)
        if abs(bearing) > math.pi / 3.0:
            return Twist2D(0.0, self._turn_rate(bearing))
        distance = math.hypot(x, y)
        curvature = 2.0 * y / (distance * distance) if distance > 1e-6 else 0.0
        speed = config.max_linear_speed * min(1.0, max(distance_left, 0.2 * config.look_ahead) / config.look_ahead)
        if abs(speed * curvature) > config.max_angular_speed:
            speed = config.max_angular_speed / abs(curvature)
        return Twist2D(speed, speed * curvature)

    def _next_action(self, pose: np.ndarray) -> MotionStep:
        while self._actions:
            action = self._actions[0]
            if action == Action.STOP:
                self.stand()
                return MotionStep(stopped=True)
            if self._target is None:
                self._target = compose(pose, _STEPS[action])
            turning = action != Action.FORWARD
            ahead = relative(self._target, pose)
            angle = wrap_angle(self._target[2] - pose[2])
            finished = abs(angle) <= self.config.turn_tolerance if turning else ahead[0] >= -0.01
            if not finished:
                twist = Twist2D(0.0, self._turn_rate(angle)) if turning else self._straight(ahead, angle)
                return MotionStep(twist, turning=turning, actions_left=len(self._actions))
            self._actions.popleft()
            # The next one begins where this one should have ended, so that errors do not add up.
            following = self._actions[0] if self._actions else None
            self._target = compose(self._target, _STEPS[following]) if following in _STEPS else None
        return MotionStep()

    def _straight(self, ahead: np.ndarray, angle: float) -> Twist2D:
        """Velocity for a forward action: its end lies `-ahead[0]` metres ahead, the line `ahead[1]` metres aside."""
        config = self.config
        speed = min(config.max_linear_speed, max(0.05, -2.0 * ahead[0]))
        steer = config.turn_gain * (angle - math.atan2(ahead[1], config.look_ahead))
        return Twist2D(speed, max(-config.max_angular_speed, min(config.max_angular_speed, steer)))

    def _turn_rate(self, angle: float) -> float:
        """Yaw rate toward an angle [rad]; not below a tenth of the limit, which bases do not execute."""
        limit = self.config.max_angular_speed
        return math.copysign(min(limit, max(0.1 * limit, self.config.turn_gain * abs(angle))), angle)
