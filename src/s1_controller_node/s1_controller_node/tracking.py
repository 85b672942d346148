"""Path trackers: pose and path in, velocity command out.

`Tracker` does what every tracking law needs (prediction over the actuation delay, progress along the path, speed
profile, turning on the spot toward a path that starts sideways, the end of the path); a subclass adds its law:
`PurePursuitTracker` here, `MpcTracker` in mpc.py. `make_tracker` chooses one by configuration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from .bounds import check_bounds, check_choice
from .geometry import STANDSTILL, Twist2D, drive, wrap_angle
from .limits import DriveLimits
from .reference import ReferencePath, speed_profile


@dataclass(frozen=True)
class TrackerConfig:
    """Parameters of both trackers; velocities beyond the drive's limits are refused by the motion layer."""

    tracker: str = "mpc"  # "mpc" or "pure_pursuit"
    cruise_speed: float = 0.4  # reference speed on straight parts [m/s]
    omega_max: float = 0.6  # yaw rate used for path tracking [rad/s]
    lateral_acceleration: float = 0.4  # slows down in bends [m/s²]
    braking: float = 0.3  # deceleration toward bends and the path's end [m/s²]
    end_tolerance: float = 0.08  # the path is done this close to its end [m]
    actuation_delay: float = 0.12  # from command to motion: dead time plus time constant of the base [s]
    turn_in_above: float = 1.0  # a path that leaves at more than this angle is turned to on the spot [rad]
    turn_in_below: float = 0.25  # until the angle is smaller than this [rad]
    # pure pursuit
    look_ahead_time: float = 0.9  # look-ahead distance per speed [s]
    look_ahead_min: float = 0.25  # [m]
    look_ahead_max: float = 0.8  # [m]
    # MPC: 20 steps of 0.1 s as InternNav's robot client uses
    horizon: int = 20  # steps
    step: float = 0.1  # [s]
    solver_time_limit: float = 0.010  # [s]
    weight_along: float = 1.0  # per m² behind or ahead of the reference
    weight_across: float = 20.0  # per m² beside the path
    weight_heading: float = 3.0  # per rad²
    weight_speed: float = 1.0  # per (m/s)² off the reference speed
    weight_turn: float = 0.3  # per (rad/s)² off the reference yaw rate
    weight_speed_change: float = 2.0  # per (m/s)² between steps
    weight_turn_change: float = 1.0  # per (rad/s)² between steps

    def __post_init__(self) -> None:
        check_choice(self, "tracker", ("mpc", "pure_pursuit"))
        check_bounds(
            self,
            cruise_speed=(0.05, 3.0),
            omega_max=(0.05, 5.0),
            lateral_acceleration=(0.01, 10.0),
            braking=(0.01, 10.0),
            end_tolerance=(0.01, 1.0),
            actuation_delay=(0.0, 1.0),
            turn_in_above=(0.2, math.pi),
            turn_in_below=(0.02, math.pi),
            look_ahead_time=(0.1, 5.0),
            look_ahead_min=(0.05, 5.0),
            look_ahead_max=(0.05, 10.0),
            horizon=(2, 100),
            step=(0.02, 1.0),
            solver_time_limit=(1e-6, 1.0),
            weight_along=(0.0, 1e4),
            weight_across=(0.0, 1e4),
            weight_heading=(0.0, 1e4),
            weight_speed=(1e-6, 1e4),
            weight_turn=(1e-6, 1e4),
            weight_speed_change=(0.0, 1e4),
            weight_turn_change=(0.0, 1e4),
        )
        if self.turn_in_below >= self.turn_in_above:
            raise ValueError(
                f"TrackerConfig.turn_in_below: expected less than turn_in_above ({self.turn_in_above}), "
                f"got {self.turn_in_below}"
            )
        if self.look_ahead_max < self.look_ahead_min:
            raise ValueError(
                f"TrackerConfig.look_ahead_max: expected at least look_ahead_min ({self.look_ahead_min}), "
                f"got {self.look_ahead_max}"
            )


@dataclass(frozen=True)
class TrackingReport:
    """What the last call of a tracker found; for diagnostics and tests."""

    remaining: float = 0.0  # along the path to its end [m]
    cross_track: float = 0.0  # signed distance from the path, positive to its left [m]
    heading_error: float = 0.0  # heading of the robot minus that of the path [rad]
    done: bool = False  # the path's end is reached
    turning_in: bool = False  # turning on the spot toward the path
    solver_seconds: float = 0.0  # time spent in the optimiser, 0 when none ran
    fallback: str = ""  # why the optimiser's answer was not used; empty when it was


class Tracker:
    """Follows a :class:`ReferencePath`. Keeps the progress along it and nothing else about the robot."""

    def __init__(self, config: TrackerConfig, limits: DriveLimits) -> None:
        self.config = config
        self.limits = limits
        self.report = TrackingReport()
        self.path: ReferencePath | None = None
        self._profile = np.zeros(0)
        self._progress = 0.0
        self._turning_in = False

    def command(self, pose: np.ndarray, velocity: Twist2D, path: ReferencePath, dt: float) -> Twist2D:
        """The velocity to ask for now.

        Args:
            pose: (3,) of the robot, in the frame of the path.
            velocity: what was last commanded; the next command continues from it.
            path: to follow. Progress starts anew with every new object, and never goes back on the same one.
            dt: control period [s].

        Raises:
            ValueError: pose or velocity not finite.
        """
        if not (np.isfinite(pose).all() and math.isfinite(velocity.v) and math.isfinite(velocity.omega)):
            raise ValueError(f"pose, velocity: expected finite values, got {pose}, {velocity}")
        if path is not self.path:
            self._start(path)
        # The command takes effect only after the actuation delay: steer for where the robot will be then.
        ahead = drive(pose, velocity, self.config.actuation_delay)
        reach = self._progress + velocity.v * (dt + self.config.actuation_delay) + 0.3
        self._progress = path.project(ahead, self._progress, reach)
        on_path = path.pose_at(self._progress)
        heading_error = wrap_angle(ahead[2] - on_path[2])
        self.report = TrackingReport(
            remaining=path.length - self._progress,
            cross_track=path.lateral_offset(ahead, self._progress),
            heading_error=heading_error,
            done=path.length - self._progress <= self.config.end_tolerance,
        )
        if self.report.done:
            return STANDSTILL
        threshold = self.config.turn_in_below if self._turning_in else self.config.turn_in_above
        self._turning_in = abs(heading_error) > threshold
        if self._turning_in:
            self.report = replace(self.report, turning_in=True)
            return Twist2D(0.0, turn_rate(-heading_error, self.config.omega_max, self.limits.angular_acceleration))
        wanted = self._law(ahead, velocity, path, dt)
        return Twist2D(
            min(max(wanted.v, 0.0), self.limits.v_max),
            min(max(wanted.omega, -self.config.omega_max), self.config.omega_max),
        )

    def reset(self) -> None:
        """Forget the path, for example at a new episode."""
        self.path = None
        self.report = TrackingReport()

    def _start(self, path: ReferencePath) -> None:
        config = self.config
        self.path = path
        self._progress = 0.0
        self._turning_in = False
        # A tenth of the yaw rate stays in reserve for corrections.
        self._profile = speed_profile(
            path, config.cruise_speed, 0.9 * config.omega_max, config.lateral_acceleration, config.braking
        )

    def _reference_speed(self, s: float) -> float:
        """Speed of the profile at ``s`` [m/s]; never so slow before the end that the robot would not arrive."""
        if s >= self.path.length:
            return 0.0
        return max(float(np.interp(s, self.path.s, self._profile)), 0.06)

    def _law(self, pose: np.ndarray, velocity: Twist2D, path: ReferencePath, dt: float) -> Twist2D:
        raise TypeError(f"{type(self).__name__} has no tracking law; use make_tracker")


class PurePursuitTracker(Tracker):
    """Regulated pure pursuit: steer an arc through a point ahead on the path, slower in bends and near the end.

    The look-ahead distance adapts to the speed. Curvature of the arc through a point (x, y) of the robot frame:
    2y / (x² + y²) (Coulter, "Implementation of the Pure Pursuit Path Tracking Algorithm", CMU-RI-TR-92-01); the
    regulation follows the idea of Macenski et al., "Regulated Pure Pursuit for Robot Path Tracking", 2023.
    """

    def _law(self, pose: np.ndarray, velocity: Twist2D, path: ReferencePath, dt: float) -> Twist2D:
        return pursue(self.config, pose, velocity.v, path, self._progress, self._reference_speed(self._progress))


def pursue(
    config: TrackerConfig,
    pose: np.ndarray,
    speed: float,
    path: ReferencePath,
    progress: float,
    wanted_speed: float,
) -> Twist2D:
    """The pure pursuit law. ``speed`` is the present one, ``wanted_speed`` the profile's [m/s]."""
    look_ahead = min(max(speed * config.look_ahead_time, config.look_ahead_min), config.look_ahead_max)
    target = path.pose_at(progress + look_ahead)
    dx, dy = target[0] - pose[0], target[1] - pose[1]
    y = -math.sin(pose[2]) * dx + math.cos(pose[2]) * dy
    curvature = 2.0 * y / max(dx * dx + dy * dy, 1e-4)
    v = min(wanted_speed, config.omega_max / max(abs(curvature), 1e-6))
    return Twist2D(v, v * curvature)


def turn_rate(angle: float, omega_max: float, angular_acceleration: float, omega_measured: float = 0.0) -> float:
    """Yaw rate [rad/s] of a turn on the spot with ``angle`` [rad] left to go.

    A PD law (gain 2.5 1/s on the angle, 0.15 on the measured rate), bounded by ``omega_max`` and by the rate from
    which the turn can still be stopped in the angle left at half the angular acceleration.
    """
    bound = min(omega_max, math.sqrt(angular_acceleration * abs(angle)))
    return min(max(2.5 * angle - 0.15 * omega_measured, -bound), bound)


def make_tracker(config: TrackerConfig, limits: DriveLimits) -> Tracker:
    """The tracker named by ``config.tracker``.

    Raises:
        ImportError: "mpc" without the package osqp; says what to install or choose.
    """
    if config.tracker == "pure_pursuit":
        return PurePursuitTracker(config, limits)
    try:
        from .mpc import MpcTracker
    except ImportError as error:
        raise ImportError(
            f"tracker 'mpc' needs the package osqp ({error}); install it or choose pure_pursuit"
        ) from None
    return MpcTracker(config, limits)
