"""When the robot must stand still although there is something to follow. Plain Python, no ROS.

Silence anywhere ends in standstill: each rule looks at the age of something that has to keep coming.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TimeLimits:
    """Oldest [s] the robot may still drive on.

    Attributes:
        sensor: newest camera frame (with depth where the model needs it).
        odometry: newest odometry.
        plan: image behind the plan being followed, and image behind the path being followed.
        future: how far a stamp may lie ahead of the clock.
    """

    sensor: float
    odometry: float
    plan: float
    future: float


@dataclass(frozen=True)
class Ages:
    """Ages in seconds at the moment of a command; None for what has not come yet.

    Attributes:
        clock_silence: seconds of the machine's own clock since ROS time last advanced.
        path: None also when no sampled path is being followed.
    """

    frame: float | None
    odometry: float | None
    plan: float | None
    path: float | None
    clock_silence: float


def sensors_missing(ages: Ages, limits: TimeLimits) -> str | None:
    """Why the robot cannot know where it is or what is ahead; None when it can."""
    if ages.clock_silence > limits.sensor:
        return f"ROS time has stood still for {ages.clock_silence:.2f} s (is /clock published?)"
    for name, age, limit, parameter in (
        ("camera frame", ages.frame, limits.sensor, "sensor_timeout"),
        ("odometry", ages.odometry, limits.odometry, "odometry_timeout"),
    ):
        if age is None:
            return f"no {name} has been received"
        if age > limit:
            return f"the newest {name} is {age:.2f} s old ({parameter} {limit:g} s){_clock_hint(age)}"
        if age < -limits.future:
            return f"the newest {name} lies {-age:.2f} s in the future (future_tolerance {limits.future:g} s)"
    return None


def plan_stale(ages: Ages, limits: TimeLimits) -> str | None:
    """Why the plan is not driven on any more; None when it is."""
    if ages.plan is not None and ages.plan > limits.plan:
        return f"the image of the newest plan is {ages.plan:.2f} s old (plan_timeout {limits.plan:g} s)"
    if ages.path is not None and ages.path > limits.plan:
        return f"the image of the newest path is {ages.path:.2f} s old (plan_timeout {limits.plan:g} s)"
    return None


def _clock_hint(age: float) -> str:
    day = 86400.0
    return ": does use_sim_time fit the source?" if age > day else ""
