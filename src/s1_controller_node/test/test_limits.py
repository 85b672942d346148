"""Velocity, acceleration and jerk limits of commands."""

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s1_controller_node.geometry import STANDSTILL, Twist2D
from s1_controller_node.limits import CommandLimiter, DriveLimits

DT = 0.05
LIMITS = DriveLimits()

targets = st.tuples(st.floats(-2.0, 2.0), st.floats(-4.0, 4.0))
steps = st.lists(st.tuples(targets, st.floats(0.005, 0.15)), min_size=1, max_size=40)


@settings(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_no_command_ever_exceeds_a_velocity_acceleration_or_jerk_limit(sequence):
    limiter = CommandLimiter(LIMITS)
    before, rate = STANDSTILL, Twist2D(0.0, 0.0)
    for (v, omega), dt in sequence:
        after = limiter.limit(Twist2D(v, omega), dt)
        assert 0.0 <= after.v <= LIMITS.v_max
        assert abs(after.omega) <= LIMITS.omega_max
        dv, domega = after.v - before.v, after.omega - before.omega
        assert -LIMITS.deceleration * dt - 1e-9 <= dv <= LIMITS.acceleration * dt + 1e-9
        assert abs(domega) <= LIMITS.angular_acceleration * dt + 1e-9
        # the build-up of an acceleration is bounded by jerk
        assert dv / dt - max(rate.v, 0.0) <= LIMITS.jerk * dt + 1e-6
        rise = abs(domega / dt) - (abs(rate.omega) if rate.omega * domega > 0.0 else 0.0)
        assert rise <= LIMITS.angular_jerk * dt + 1e-6
        before, rate = after, Twist2D(dv / dt, domega / dt)


def test_a_target_is_reached_without_overshoot_and_held():
    limiter = CommandLimiter(LIMITS)
    commands = [limiter.limit(Twist2D(0.4, -0.5), DT) for _ in range(60)]
    assert max(c.v for c in commands) <= 0.4 + 1e-9
    assert min(c.omega for c in commands) >= -0.5 - 1e-9
    assert commands[-1] == Twist2D(0.4, -0.5)
    # 0.4 m/s at 0.5 m/s² takes 0.8 s, and jerk adds acceleration / jerk = 0.17 s
    reached = next(i for i, c in enumerate(commands) if c.v == pytest.approx(0.4)) * DT
    assert 0.8 <= reached <= 1.25


def test_slowing_down_begins_in_the_first_period_even_while_speeding_up():
    limiter = CommandLimiter(LIMITS)
    for _ in range(8):
        limiter.limit(Twist2D(0.5, 0.0), DT)
    before = limiter.last.v
    assert limiter.limit(STANDSTILL, DT).v < before


def test_after_the_gate_reduced_a_command_the_next_one_continues_from_what_was_sent():
    limiter = CommandLimiter(LIMITS)
    for _ in range(60):
        limiter.limit(Twist2D(0.5, 0.0), DT)
    limiter.sent(STANDSTILL)
    assert limiter.limit(Twist2D(0.5, 0.0), DT).v <= LIMITS.jerk * DT * DT + 1e-9


def test_a_late_call_is_granted_a_bounded_change_only():
    limiter = CommandLimiter(LIMITS)
    for _ in range(3):
        limiter.limit(Twist2D(0.5, 0.0), 0.2)
    before = limiter.last.v
    assert limiter.limit(Twist2D(0.5, 0.0), 30.0).v - before <= LIMITS.acceleration * 0.2 + 1e-9


@pytest.mark.parametrize("target", [Twist2D(math.nan, 0.0), Twist2D(0.1, math.inf), Twist2D(-math.inf, 0.0)])
def test_a_command_that_is_not_finite_is_refused_and_changes_nothing(target):
    limiter = CommandLimiter(LIMITS)
    limiter.limit(Twist2D(0.3, 0.1), DT)
    before = limiter.last
    with pytest.raises(ValueError, match="target: expected finite"):
        limiter.limit(target, DT)
    assert limiter.last == before


@pytest.mark.parametrize("dt", [0.0, -0.05, math.nan])
def test_a_period_that_is_not_positive_is_refused(dt):
    with pytest.raises(ValueError, match="dt: expected a positive time"):
        CommandLimiter(LIMITS).limit(STANDSTILL, dt)


@pytest.mark.parametrize(
    ("field", "value"),
    [("v_max", 0.0), ("omega_max", math.nan), ("acceleration", -1.0), ("jerk", "fast"), ("deceleration", 100.0)],
)
def test_a_bad_limit_is_refused_with_its_name(field, value):
    with pytest.raises(ValueError, match=f"DriveLimits.{field}"):
        DriveLimits(**{field: value})
