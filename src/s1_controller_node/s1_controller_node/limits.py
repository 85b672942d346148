"""Limits of the drive: velocity, acceleration and jerk of the commands sent to the base.

The limiter follows a target command as fast as the limits allow and never jumps. What stops the robot for safety
(`safety.py`, a failure) does not ask it: its command is zero at once and the base brakes as hard as it can, because a
limit that protects comfort must not lengthen a braking distance. The limiter is told (`sent`, `reset`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .bounds import check_bounds
from .geometry import STANDSTILL, Twist2D


@dataclass(frozen=True)
class DriveLimits:
    """What the base may be asked for. Jerk bounds only the build-up of an acceleration."""

    v_max: float = 0.5  # forward velocity [m/s]; the base is never driven backwards
    omega_max: float = 0.8  # yaw rate [rad/s]
    acceleration: float = 0.5  # speeding up [m/s²]
    deceleration: float = 0.8  # slowing down [m/s²]
    jerk: float = 3.0  # [m/s³]
    angular_acceleration: float = 2.0  # [rad/s²], speeding up and slowing down
    angular_jerk: float = 20.0  # [rad/s³]

    def __post_init__(self) -> None:
        check_bounds(
            self,
            v_max=(0.05, 3.0),
            omega_max=(0.05, 5.0),
            acceleration=(0.05, 10.0),
            deceleration=(0.05, 10.0),
            jerk=(0.1, 200.0),
            angular_acceleration=(0.05, 50.0),
            angular_jerk=(0.1, 1000.0),
        )


@dataclass
class _Axis:
    """One velocity with its acceleration, limited."""

    speed_up: float
    slow_down: float
    jerk: float
    value: float = 0.0
    rate: float = 0.0  # acceleration reached at the last step

    def follow(self, target: float, dt: float) -> None:
        difference = target - self.value
        bound = self.slow_down if self.value * difference < 0.0 else self.speed_up
        # The largest rate r that can still be taken back in time: r·dt now and r²/(2·jerk) while it falls to zero
        # must fit into the difference.
        step = self.jerk * dt
        fitting = math.sqrt(step * step + 2.0 * self.jerk * abs(difference)) - step
        # Only the build-up of an acceleration is limited by jerk; letting go of one is always allowed.
        built_up = abs(self.rate) if self.rate * difference > 0.0 else 0.0
        rate = math.copysign(min(bound, fitting, built_up + step), difference)
        # The last millimetre per second is granted at once: the taper alone would never quite arrive.
        if abs(rate * dt) >= abs(difference) or abs(difference) <= min(1e-3, step * dt):
            self.value, self.rate = target, 0.0
        else:
            self.value, self.rate = self.value + rate * dt, rate


class CommandLimiter:
    """Follows target commands within :class:`DriveLimits`; remembers the command that was sent last."""

    def __init__(self, limits: DriveLimits) -> None:
        self.limits = limits
        self._v = _Axis(limits.acceleration, limits.deceleration, limits.jerk)
        self._omega = _Axis(limits.angular_acceleration, limits.angular_acceleration, limits.angular_jerk)

    @property
    def last(self) -> Twist2D:
        """The command the next one continues from."""
        return Twist2D(self._v.value, self._omega.value)

    def limit(self, target: Twist2D, dt: float) -> Twist2D:
        """The next command on the way to ``target``.

        Args:
            target: wanted command; clamped to [0, v_max] and ±omega_max.
            dt: time since the previous call [s]; at most 0.2 s of change is granted, so a late call never jumps.

        Raises:
            ValueError: NaN or infinite target, or dt not positive. The state is left as it was.
        """
        if not (math.isfinite(target.v) and math.isfinite(target.omega)):
            raise ValueError(f"target: expected finite velocities, got v={target.v}, omega={target.omega}")
        if not (math.isfinite(dt) and dt > 0.0):
            raise ValueError(f"dt: expected a positive time in seconds, got {dt}")
        dt = min(dt, 0.2)
        self._v.follow(min(max(target.v, 0.0), self.limits.v_max), dt)
        self._omega.follow(min(max(target.omega, -self.limits.omega_max), self.limits.omega_max), dt)
        return self.last

    def sent(self, command: Twist2D) -> None:
        """Tell the limiter what really went to the base, when the safety gate reduced its command."""
        for axis, value in ((self._v, command.v), (self._omega, command.omega)):
            if value != axis.value:
                axis.value, axis.rate = value, 0.0

    def reset(self) -> None:
        """The base stands."""
        self.sent(STANDSTILL)
        self._v.rate = self._omega.rate = 0.0
