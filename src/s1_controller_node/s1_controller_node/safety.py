"""The safety gate: the last thing before cmd_vel. It can only reduce a command.

Whatever comes in, |v| and |omega| never grow, no sign ever flips, and the robot is never driven backwards. Every
reduction has a reason. The gate knows nothing of plans and paths; what may stop the robot is: missing or old sensors,
odometry or plan, a camera that cannot see, an obstacle in the way of the footprint, a command that is no number, an
emergency stop, a disable request, and a base that does not move as it is told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntFlag

import numpy as np

from .bounds import check_bounds
from .geometry import STANDSTILL, Twist2D, wrap_angle
from .stop_rules import Ages, TimeLimits, plan_stale, sensors_missing


class Reason(IntFlag):
    """Why a command was reduced."""

    NONE = 0
    EMERGENCY_STOP = 1  # latched until released
    DISABLED = 2  # by the enable service
    NOT_FINITE = 4  # NaN or infinity in the command
    STALLED = 8  # the base was told to move and odometry saw nothing; latched until reset
    SENSORS = 16  # camera or odometry missing, old or from the future; or ROS time stands still
    NO_DEPTH = 32  # depth missing or old
    BLIND = 64  # depth arrives and shows nothing where the floor must be
    STALE_PLAN = 128  # plan or path older than plan_timeout
    OBSTACLE_STOP = 256
    OBSTACLE_SLOW = 512
    REVERSE = 1024  # a negative forward velocity was asked for
    OVER_LIMIT = 2048  # more than the drive's limits was asked for


class Footprint:
    """Outline of the robot on the ground, in the base frame: a circle or a polygon.

    Args:
        radius: of a circle around the base's centre [m], used when there is no polygon.
        polygon: corners (x, y) [m] in order, at least three; must contain the base's centre.

    Raises:
        ValueError: names what is wrong.
    """

    def __init__(self, radius: float = 0.25, polygon: tuple[tuple[float, float], ...] = ()) -> None:
        if not polygon:
            if not (math.isfinite(radius) and 0.02 <= radius <= 3.0):
                raise ValueError(f"footprint radius: expected a number in [0.02, 3] m, got {radius!r}")
            self.corners = None
            self.radius = float(radius)
            return
        corners = np.asarray(polygon, dtype=np.float64)
        if corners.ndim != 2 or corners.shape[0] < 3 or corners.shape[1] != 2 or not np.isfinite(corners).all():
            raise ValueError(f"footprint polygon: expected at least three finite (x, y), got {polygon!r}")
        self.corners = corners
        self.radius = float(np.hypot(*corners.T).max())  # of the circle around the base's centre that holds it
        if self.clearance(np.zeros((1, 2)))[0] >= 0.0:
            raise ValueError(f"footprint polygon: expected it to contain (0, 0), got {polygon!r}")

    def outline(self) -> np.ndarray:
        """Corners (N, 2) [m] in order; 32 for a circle."""
        if self.corners is not None:
            return self.corners
        angles = np.linspace(0.0, 2.0 * math.pi, 32, endpoint=False)
        return self.radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def clearance(self, points: np.ndarray) -> np.ndarray:
        """Distance [m] of points (..., 2) from the outline, negative inside."""
        if self.corners is None:
            return np.hypot(points[..., 0], points[..., 1]) - self.radius
        start, edge = self.corners, np.roll(self.corners, -1, axis=0) - self.corners
        offset = points[..., None, :] - start  # (..., edges, 2)
        share = np.clip((offset * edge).sum(-1) / (edge * edge).sum(-1), 0.0, 1.0)
        nearest = offset - share[..., None] * edge
        distance = np.hypot(nearest[..., 0], nearest[..., 1]).min(axis=-1)
        # A ray to +x crosses the outline an odd number of times exactly when the point is inside.
        end = start + edge
        spans = (start[:, 1] > points[..., None, 1]) != (end[:, 1] > points[..., None, 1])
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = start[:, 0] + (points[..., None, 1] - start[:, 1]) / edge[:, 1] * edge[:, 0]
        inside = (spans & (points[..., None, 0] < crossing)).sum(axis=-1) % 2 == 1
        return np.where(inside, -distance, distance)


@dataclass(frozen=True)
class SafetyConfig:
    """Limits of the gate. Velocity limits are those of the drive, given to the gate separately."""

    radius: float = 0.25  # of the robot, when there is no polygon [m]
    polygon: tuple[tuple[float, float], ...] = ()  # corners of the robot's outline [m]
    side_margin: float = 0.05  # added all around the outline [m]
    stop_margin: float = 0.10  # left free ahead of it when the robot stands [m]
    # From an obstacle's image to the base braking: exposure, transport, scan, control period, dead time [s].
    reaction_time: float = 0.25
    deceleration: float = 0.8  # what the base surely achieves when it is told to stop [m/s²]
    angular_deceleration: float = 2.0  # [rad/s²]
    resume_speed: float = 0.10  # after a stop the way must allow this speed before the robot moves again [m/s]
    use_depth: bool = True  # without depth there is no obstacle stop: only for a base that has its own
    min_valid_share: float = 0.3  # of the rays that must meet the floor or something before it
    sensor_timeout: float = 0.5  # camera frame and depth [s]
    odometry_timeout: float = 0.25  # [s]
    plan_timeout: float = 5.0  # image behind the plan and image behind the path [s]
    future_tolerance: float = 0.2  # stamps this far ahead of the clock are an offset of clocks, not the future [s]
    stall_distance: float = 0.4  # told to drive this far while odometry stands: something is broken [m]

    def __post_init__(self) -> None:
        check_bounds(
            self,
            side_margin=(0.0, 1.0),
            stop_margin=(0.02, 2.0),
            reaction_time=(0.0, 2.0),
            deceleration=(0.05, 20.0),
            angular_deceleration=(0.05, 100.0),
            resume_speed=(0.02, 1.0),
            min_valid_share=(0.0, 1.0),
            sensor_timeout=(0.05, 10.0),
            odometry_timeout=(0.02, 10.0),
            plan_timeout=(0.1, 120.0),
            future_tolerance=(0.0, 10.0),
            stall_distance=(0.05, 10.0),
        )
        Footprint(self.radius, self.polygon)

    @property
    def time_limits(self) -> TimeLimits:
        return TimeLimits(
            sensor=self.sensor_timeout,
            odometry=self.odometry_timeout,
            plan=self.plan_timeout,
            future=self.future_tolerance,
        )


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What the gate is told at the moment of a command.

    Attributes:
        ages: of everything that has to keep coming [s].
        pose: (3,) of the robot in odom, None when it is not known.
        depth_age: of the newest depth scan [s], None without one.
        valid_share: of that scan (see obstacles.DepthScan).
        obstacles: (N, 2) in the base frame of now [m].
        manual: the command comes from a person: the age of plans does not matter.
    """

    ages: Ages
    pose: np.ndarray | None = None
    depth_age: float | None = None
    valid_share: float = 0.0
    obstacles: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    manual: bool = False


@dataclass(frozen=True)
class SafeCommand:
    """What may go to the base, and why it is less than what was asked for (empty text: it is not)."""

    twist: Twist2D
    reasons: Reason = Reason.NONE
    text: str = ""


class SafetyGate:
    """See the module. Keeps three latches: emergency stop, disabled, stalled."""

    def __init__(self, config: SafetyConfig, v_max: float, omega_max: float, *, watch_odometry: bool = True) -> None:
        self.config = config
        self._watches_odometry = watch_odometry  # not where a recording is played
        self.footprint = Footprint(config.radius, config.polygon)
        self._v_max, self._omega_max = v_max, omega_max
        self._enabled = True
        self._looked_at = STANDSTILL  # the command whose way was last looked at
        self._emergency = ""
        self._held = False  # stopped for an obstacle
        self._unanswered = 0.0  # metres commanded since odometry last moved
        self._anchor: np.ndarray | None = None
        self._stalled = False

    def limit(self, v_max: float, omega_max: float) -> None:
        """Other limits of the drive from the next command on."""
        self._v_max, self._omega_max = v_max, omega_max

    def emergency_stop(self, text: str) -> None:
        """Stand still until :meth:`release`."""
        self._emergency = text or "emergency stop"

    def release(self) -> None:
        """Lift the emergency stop."""
        self._emergency = ""

    def enable(self, enabled: bool) -> None:
        """Allow or forbid motion."""
        self._enabled = enabled

    def reset(self) -> None:
        """Forget that the base stalled and that an obstacle held it; the other latches stay."""
        self._stalled = self._held = False
        self._unanswered, self._anchor = 0.0, None

    def check(self, command: Twist2D, around: Surroundings, dt: float) -> SafeCommand:
        """What of a command may go to the base now.

        Args:
            command: after the limits. around: see :class:`Surroundings`. dt: control period [s].
        """
        stop = self._must_stand(command, around)
        if stop is not None:
            self._unanswered, self._looked_at = 0.0, STANDSTILL
            return SafeCommand(STANDSTILL, *stop)
        reasons, texts = Reason.NONE, []
        v, omega = command
        if v < 0.0:
            v, reasons = 0.0, reasons | Reason.REVERSE
            texts.append(f"driving backwards was asked for ({command.v:.2f} m/s)")
        if v > self._v_max or abs(omega) > self._omega_max:
            v = min(v, self._v_max)
            omega = math.copysign(min(abs(omega), self._omega_max), omega)
            reasons |= Reason.OVER_LIMIT
            texts.append(f"{command.v:.2f} m/s, {command.omega:.2f} rad/s is more than the drive's limits")
        factor, blocked = self._allowed_share(Twist2D(v, omega), around.obstacles)
        if blocked:
            reasons |= Reason.OBSTACLE_STOP
            texts.append(blocked)
        elif factor < 1.0:
            reasons |= Reason.OBSTACLE_SLOW
            texts.append(f"an obstacle ahead allows {v * factor:.2f} m/s")
        # Both together, so that the robot slows down on the arc that was looked at and not on another one.
        twist = Twist2D(v * factor, omega * factor)
        if self._watches_odometry:
            self._watch_odometry(twist, around.pose, dt)
        return SafeCommand(twist, reasons, "; ".join(texts))

    def _must_stand(self, command: Twist2D, around: Surroundings) -> tuple[Reason, str] | None:
        """The gravest reason to stand still whatever the command is."""
        config = self.config
        if self._emergency:
            return Reason.EMERGENCY_STOP, self._emergency
        if not (math.isfinite(command.v) and math.isfinite(command.omega)):
            return Reason.NOT_FINITE, f"the command is not finite: v={command.v}, omega={command.omega}"
        if self._stalled:
            text = (
                f"{config.stall_distance:g} m were commanded and odometry saw no motion (stuck, or odometry frozen)"
            )
            return Reason.STALLED, text
        missing = sensors_missing(around.ages, config.time_limits)
        if missing is not None:
            return Reason.SENSORS, missing
        if around.pose is None:
            return Reason.SENSORS, "the pose of the robot is not known"
        if config.use_depth:
            if around.depth_age is None:
                return Reason.NO_DEPTH, "no depth image has been received"
            if not -config.future_tolerance <= around.depth_age <= config.sensor_timeout:
                age = f"{around.depth_age:.2f} s old"
                return Reason.NO_DEPTH, f"the newest depth is {age} (sensor_timeout {config.sensor_timeout:g} s)"
            if around.valid_share < config.min_valid_share:
                text = (
                    f"depth shows {around.valid_share:.0%} of the floor ahead (min_valid_share "
                    f"{config.min_valid_share:.0%}): covered camera, or too near to something"
                )
                return Reason.BLIND, text
        if not self._enabled:
            return Reason.DISABLED, "motion is disabled"
        if not around.manual:
            stale = plan_stale(around.ages, config.time_limits)
            if stale is not None:
                return Reason.STALE_PLAN, stale
        return None

    def _allowed_share(self, twist: Twist2D, obstacles: np.ndarray) -> tuple[float, str]:
        """Factor in [0, 1] on a command that keeps clear of obstacles, and why it is 0 when it is."""
        self._looked_at = twist
        if not self.config.use_depth or twist == STANDSTILL:
            return 1.0, ""
        driving, speed, braking, margin = self._stopping(twist)
        # Look as far as the robot would need to stop, and a little more so that it slows down smoothly.
        horizon = self._stopping_way(twist) + (0.5 if driving else 0.35)
        free = self._free_way(twist, horizon / speed, obstacles) * speed
        if free >= horizon:
            self._held = False
            return 1.0, ""
        # The speed from which the robot stands after the free way: v·t + v²/(2a) = free − margin.
        lag = braking * self.config.reaction_time
        allowed = math.sqrt(lag * lag + 2.0 * braking * max(free - margin, 0.0)) - lag
        floor = self.config.resume_speed if self._held else 0.4 * self.config.resume_speed
        self._held = allowed < floor
        if self._held:
            return 0.0, f"an obstacle {max(free, 0.0):.2f} {'m' if driving else 'rad'} ahead in the robot's way"
        return min(1.0, allowed / speed), ""

    def stop_zone(self, spacing: float = 0.05) -> np.ndarray:
        """Where an obstacle would hinder the last command looked at: (N, 2) places of a grid in the base frame [m].

        The footprint with its side margin, swept along the command's arc as far as the robot needs to stop. Empty
        for a command to stand, and without depth.
        """
        twist = self._looked_at
        if not self.config.use_depth or twist == STANDSTILL:
            return np.zeros((0, 2))
        _, speed, _, _ = self._stopping(twist)
        duration = self._stopping_way(twist) / speed
        reach = self.footprint.radius + self.config.side_margin + twist.v * duration
        axis = np.arange(-math.ceil(reach / spacing), math.ceil(reach / spacing) + 1) * spacing
        grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
        _, clearance = self._clearance_along(twist, duration, grid, step=spacing)
        return grid[(clearance < self.config.side_margin).any(axis=0)]

    def _stopping(self, twist: Twist2D) -> tuple[bool, float, float, float]:
        """Whether a command drives or turns on the spot; its speed, braking and margin in metres or radians."""
        config = self.config
        if twist.v > 0.05 * abs(twist.omega):
            return True, twist.v, config.deceleration, config.stop_margin
        return False, abs(twist.omega), config.angular_deceleration, math.radians(3.0)

    def _stopping_way(self, twist: Twist2D) -> float:
        """Metres (radians, turning on the spot) until the robot stands, with its margin."""
        _, speed, braking, margin = self._stopping(twist)
        return speed * self.config.reaction_time + speed * speed / (2.0 * braking) + margin

    def _free_way(self, twist: Twist2D, duration: float, obstacles: np.ndarray) -> float:
        """Time [s] until the footprint with its margin meets an obstacle at constant ``twist``, at most ``duration``.

        Where something is inside the margin already (a wall alongside) the margin shrinks to it: the robot may drive
        along, only not nearer to anything than it is.
        """
        within = self.footprint.radius + self.config.side_margin + twist.v * duration
        near = obstacles[np.hypot(obstacles[:, 0], obstacles[:, 1]) <= within]
        if not len(near):
            return duration
        times, clearance = self._clearance_along(twist, duration, near, step=0.02)
        margin = min(max(float(clearance[0].min()) - 0.005, 0.0), self.config.side_margin)
        met = (clearance < margin) & (clearance < clearance[0] - 0.005)
        hit = met.any(axis=1)
        return float(times[max(int(np.argmax(hit)) - 1, 0)]) if hit.any() else duration

    def _clearance_along(
        self, twist: Twist2D, duration: float, points: np.ndarray, step: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Times (K,) [s], `step` metres apart on the command's arc, and the distance (K, N) [m] of the points (N, 2)
        from the footprint then, negative inside."""
        length = twist.v * duration + self.footprint.radius * abs(twist.omega) * duration
        times = np.linspace(0.0, duration, max(2, math.ceil(length / step)) + 1)
        yaw = twist.omega * times
        chord = twist.v * times * np.sinc(0.5 * yaw / math.pi)
        place = np.stack([chord * np.cos(0.5 * yaw), chord * np.sin(0.5 * yaw)], axis=1)
        offset = points[None] - place[:, None]  # (times, points, 2)
        c, s = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
        local = np.stack([c * offset[..., 0] + s * offset[..., 1], -s * offset[..., 0] + c * offset[..., 1]], axis=-1)
        return times, self.footprint.clearance(local)

    def _watch_odometry(self, sent: Twist2D, pose: np.ndarray, dt: float) -> None:
        if self._anchor is not None:
            moved = math.dist(pose[:2], self._anchor[:2]) > 0.03 or abs(wrap_angle(pose[2] - self._anchor[2])) > 0.06
            self._unanswered = 0.0 if moved else self._unanswered + (sent.v + 0.3 * abs(sent.omega)) * dt
            self._stalled = self._unanswered > self.config.stall_distance
        if self._anchor is None or self._unanswered == 0.0:
            self._anchor = np.array(pose)
