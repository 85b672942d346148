"""Discrete actions as closed-loop motions on odometry: turn by 15°, drive 0.25 m, several in a row as one motion.

Each motion is anchored at a pose in odom: the pose of the image it was decided from for the first motion of a plan,
so that what the robot drove or turned during inference counts; the heading the motion before should have reached for
the next one, so that errors of turns do not add up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .bounds import check_bounds
from .geometry import STANDSTILL, Twist2D, relative, wrap_angle
from .limits import DriveLimits
from .plan_intake import FORWARD_DISTANCE, TURN_ANGLE, Action
from .tracking import turn_rate

TURNS = (Action.TURN_LEFT, Action.TURN_RIGHT)
MOTIONS = (Action.FORWARD, *TURNS)


@dataclass(frozen=True)
class ActionConfig:
    """How discrete actions are driven."""

    speed: float = 0.4  # forward [m/s]
    turn_speed: float = 0.5  # [rad/s]
    distance_tolerance: float = 0.02  # [m]
    angle_tolerance: float = math.radians(1.5)  # [rad]
    # A motion that takes longer than `slack` times its nominal time plus `grace` is stuck.
    slack: float = 3.0
    grace: float = 2.0  # [s]
    patience: float = 3.0  # a forward motion held by an obstacle for this long [s] is given up

    def __post_init__(self) -> None:
        check_bounds(
            self,
            speed=(0.05, 0.6),
            turn_speed=(0.1, 1.5),
            distance_tolerance=(0.005, 0.1),
            angle_tolerance=(0.005, 0.12),
            slack=(1.0, 20.0),
            grace=(0.1, 30.0),
            patience=(0.1, 600.0),
        )


class ActionMotion:
    """One action, or several equal ones in a row, driven to completion."""

    def __init__(
        self,
        action: Action,
        count: int,
        anchor: np.ndarray,
        pose: np.ndarray,
        config: ActionConfig,
        limits: DriveLimits,
    ) -> None:
        """Args:
            action: forward or a turn; count: how often (at least once).
            anchor: (3,) pose in odom the motion counts from.
            pose: (3,) present pose in odom.

        Raises:
            ValueError: another action, or a count below one.
        """
        if action not in MOTIONS or count < 1:
            raise ValueError(f"action, count: expected a motion and at least 1, got {action!r}, {count!r}")
        self.action, self.count = action, count
        self.done = False
        self._config, self._limits = config, limits
        self._anchor = np.array(anchor, dtype=np.float64)
        self._yaw = float(pose[2])
        self._turned = wrap_angle(pose[2] - anchor[2])  # since the anchor; counts on beyond ±π
        self._elapsed = self._blocked_for = 0.0
        if action == Action.FORWARD:
            self._target = count * FORWARD_DISTANCE
            nominal = self._target / config.speed + config.speed / limits.acceleration
        else:
            self._target = count * TURN_ANGLE * (1.0 if action == Action.TURN_LEFT else -1.0)
            nominal = abs(self._target) / config.turn_speed + config.turn_speed / limits.angular_acceleration
        self.timeout = config.slack * nominal + config.grace
        self._left = self._remaining(np.asarray(pose))

    @property
    def target_pose(self) -> np.ndarray:
        """(3,) where the motion ends if nothing disturbs it; its heading anchors the next motion."""
        x, y, yaw = self._anchor
        if self.action == Action.FORWARD:
            return np.array([x + self._target * math.cos(yaw), y + self._target * math.sin(yaw), yaw])
        return np.array([x, y, wrap_angle(yaw + self._target)])

    @property
    def actions_left(self) -> int:
        """Actions of this motion that are not yet complete."""
        if self.done:
            return 0
        unit = FORWARD_DISTANCE if self.action == Action.FORWARD else TURN_ANGLE
        return min(self.count, max(1, math.ceil(abs(self._left) / unit - 0.1)))

    @property
    def distance_left(self) -> float:
        """Metres left to drive; 0 for turns."""
        return max(0.0, self._left) if self.action == Action.FORWARD and not self.done else 0.0

    @property
    def stuck(self) -> bool:
        """It should have been over long ago: the base does not do what it is told, or odometry does not see it."""
        return not self.done and self._elapsed > self.timeout

    @property
    def given_up(self) -> bool:
        """An obstacle has held a forward motion for too long: it counts as driven, as VLN-CE counts a collision."""
        return not self.done and self.action == Action.FORWARD and self._blocked_for > self._config.patience

    def command(
        self,
        pose: np.ndarray,
        velocity: Twist2D,
        dt: float,
        *,
        hindered: bool = False,
        blocked: bool = False,
    ) -> Twist2D:
        """The velocity to ask for now; sets :attr:`done` once the target is reached and the robot stands.

        Args:
            pose: (3,) in odom. velocity: measured. dt: control period [s].
            hindered: the safety gate held the last command back; such time does not count as being stuck.
            blocked: it did so because of an obstacle.
        """
        self._blocked_for = self._blocked_for + dt if blocked else 0.0
        if not hindered:
            self._elapsed += dt
        self._turned += wrap_angle(pose[2] - self._yaw)
        self._yaw = float(pose[2])
        self._left = self._remaining(pose)
        standing = abs(velocity.v) < 0.05 and abs(velocity.omega) < 0.1
        if self.action == Action.FORWARD:
            self.done = self._left <= self._config.distance_tolerance and standing
            return self._forward(pose, velocity)
        self.done = abs(self._left) <= self._config.angle_tolerance and standing
        if self.done:
            return STANDSTILL
        turn = turn_rate(self._left, self._config.turn_speed, self._limits.angular_acceleration, velocity.omega)
        return Twist2D(0.0, turn)

    def _remaining(self, pose: np.ndarray) -> float:
        if self.action == Action.FORWARD:
            return self._target - float(relative(self._anchor, pose)[0])
        return self._target - self._turned

    def _forward(self, pose: np.ndarray, velocity: Twist2D) -> Twist2D:
        if self._left <= self._config.distance_tolerance:
            return STANDSTILL
        _, left_of_line, heading = relative(self._anchor, pose)
        # Hold the line of the anchor; do not drive while the robot still points elsewhere.
        error = heading + min(max(1.5 * left_of_line, -0.25), 0.25)
        aligned = max(0.0, 1.0 - abs(error) / 0.4)
        bound = math.sqrt(self._limits.deceleration * self._left)  # stops in the distance left at half deceleration
        v = min(self._config.speed, bound, 2.5 * self._left - 0.15 * velocity.v)
        omega = min(max(-2.0 * error, -self._config.turn_speed), self._config.turn_speed)
        return Twist2D(max(v, 0.03) * aligned, omega)
