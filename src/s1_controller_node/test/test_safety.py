"""The safety gate can only reduce a command, whatever it is told."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s1_controller_node.geometry import STANDSTILL, Twist2D, drive
from s1_controller_node.safety import Footprint, Reason, SafetyConfig, SafetyGate, Surroundings
from s1_controller_node.stop_rules import Ages

DT = 0.05
FRESH = Ages(frame=0.05, odometry=0.02, plan=0.5, path=0.3, clock_silence=0.0)
CLEAR = Surroundings(ages=FRESH, pose=np.zeros(3), depth_age=0.05, valid_share=0.9)
CONFIG = SafetyConfig()
SQUARE = ((0.3, 0.2), (-0.3, 0.2), (-0.3, -0.2), (0.3, -0.2))


def gate(**changes):
    return SafetyGate(replace(CONFIG, **changes), 0.5, 0.8)


def near(*points):
    return replace(CLEAR, obstacles=np.array(points, dtype=float).reshape(-1, 2))


anything = st.floats(allow_nan=True, allow_infinity=True)
plain = st.floats(-3.0, 3.0)
ages = st.one_of(st.none(), st.floats(-5.0, 5.0))
surroundings = st.builds(
    Surroundings,
    ages=st.builds(Ages, frame=ages, odometry=ages, plan=ages, path=ages, clock_silence=st.floats(0.0, 2.0)),
    pose=st.one_of(st.none(), st.just(np.zeros(3))),
    depth_age=ages,
    valid_share=st.floats(0.0, 1.0),
    obstacles=st.lists(st.tuples(st.floats(-2.0, 2.0), st.floats(-2.0, 2.0)), max_size=5).map(
        lambda p: np.array(p, dtype=float).reshape(-1, 2)
    ),
    manual=st.booleans(),
)
clear = st.builds(lambda p: near(*p), st.lists(st.tuples(st.floats(-2.0, 2.0), st.floats(-2.0, 2.0)), max_size=5))
commands = st.builds(Twist2D, st.one_of(plain, anything), st.one_of(plain, anything))


@settings(max_examples=400, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(commands, st.one_of(surroundings, clear)), min_size=1, max_size=6), st.booleans())
def test_the_gate_only_reduces(sequence, polygon):
    tested = gate(polygon=SQUARE if polygon else ())
    for command, around in sequence:
        out = tested.check(command, around, DT).twist
        assert math.isfinite(out.v)
        assert math.isfinite(out.omega)
        assert 0.0 <= out.v <= 0.5
        assert abs(out.omega) <= 0.8
        if math.isfinite(command.v) and math.isfinite(command.omega):
            assert out.v <= abs(command.v)
            assert abs(out.omega) <= abs(command.omega)
            assert out.v * command.v >= 0.0
            assert out.omega * command.omega >= 0.0
        else:
            assert out == STANDSTILL


def test_a_good_command_on_a_free_way_passes_unchanged():
    safe = gate().check(Twist2D(0.4, -0.3), CLEAR, DT)
    assert safe == (safe.__class__)(Twist2D(0.4, -0.3))
    assert safe.reasons == Reason.NONE


@pytest.mark.parametrize(
    ("around", "reason", "text"),
    [
        (replace(CLEAR, ages=replace(FRESH, frame=0.51)), Reason.SENSORS, "camera frame is 0.51 s old"),
        (replace(CLEAR, ages=replace(FRESH, frame=None)), Reason.SENSORS, "no camera frame"),
        (replace(CLEAR, ages=replace(FRESH, frame=-0.3)), Reason.SENSORS, "in the future"),
        (replace(CLEAR, ages=replace(FRESH, odometry=0.26)), Reason.SENSORS, "odometry is 0.26 s old"),
        (replace(CLEAR, ages=replace(FRESH, odometry=None)), Reason.SENSORS, "no odometry"),
        (replace(CLEAR, ages=replace(FRESH, clock_silence=0.6)), Reason.SENSORS, "ROS time has stood still"),
        (replace(CLEAR, pose=None), Reason.SENSORS, "pose of the robot is not known"),
        (replace(CLEAR, depth_age=0.6), Reason.NO_DEPTH, "depth is 0.60 s old"),
        (replace(CLEAR, depth_age=None), Reason.NO_DEPTH, "no depth image"),
        (replace(CLEAR, valid_share=0.2), Reason.BLIND, "20%"),
        (replace(CLEAR, ages=replace(FRESH, plan=5.1)), Reason.STALE_PLAN, "newest plan is 5.10 s old"),
        (replace(CLEAR, ages=replace(FRESH, path=5.1)), Reason.STALE_PLAN, "newest path is 5.10 s old"),
    ],
)
def test_what_is_missing_or_old_means_standstill_and_says_what(around, reason, text):
    safe = gate().check(Twist2D(0.4, 0.3), around, DT)
    assert safe.twist == STANDSTILL
    assert safe.reasons == reason
    assert text in safe.text


def test_without_depth_use_the_depth_rules_are_off_and_no_other():
    bare = replace(CLEAR, depth_age=None, valid_share=0.0, obstacles=np.array([[0.3, 0.0]]))
    assert gate(use_depth=False).check(Twist2D(0.4, 0.0), bare, DT).twist.v == 0.4
    old = replace(bare, ages=replace(FRESH, odometry=1.0))
    assert gate(use_depth=False).check(Twist2D(0.4, 0.0), old, DT).twist == STANDSTILL


def test_manual_driving_does_not_need_a_plan_but_everything_else():
    manual = replace(CLEAR, manual=True, ages=replace(FRESH, plan=99.0, path=99.0))
    assert gate().check(Twist2D(0.3, 0.0), manual, DT).twist.v == 0.3
    assert gate().check(Twist2D(0.3, 0.0), replace(manual, obstacles=np.array([[0.35, 0.0]])), DT).twist.v == 0.0


def test_reverse_is_never_and_limits_are_kept():
    safe = gate().check(Twist2D(-0.3, 0.2), CLEAR, DT)
    assert (safe.twist, safe.reasons) == (Twist2D(0.0, 0.2), Reason.REVERSE)
    safe = gate().check(Twist2D(2.0, -3.0), CLEAR, DT)
    assert (safe.twist, safe.reasons) == (Twist2D(0.5, -0.8), Reason.OVER_LIMIT)


def test_an_emergency_stop_latches_until_it_is_released_and_a_reset_does_not_release_it():
    tested = gate()
    tested.emergency_stop("button")
    for _ in range(3):
        assert tested.check(Twist2D(0.4, 0.0), CLEAR, DT).twist == STANDSTILL
    tested.reset()
    tested.enable(True)
    assert tested.check(Twist2D(0.4, 0.0), CLEAR, DT).reasons == Reason.EMERGENCY_STOP
    tested.release()
    assert tested.check(Twist2D(0.4, 0.0), CLEAR, DT).twist.v == 0.4


def test_disabled_means_standstill_until_enabled():
    tested = gate()
    tested.enable(False)
    assert tested.check(Twist2D(0.4, 0.0), CLEAR, DT).reasons == Reason.DISABLED
    tested.enable(True)
    assert tested.check(Twist2D(0.4, 0.0), CLEAR, DT).twist.v == 0.4


@pytest.mark.parametrize("speed", [0.1, 0.25, 0.4, 0.5])
def test_the_robot_can_always_stop_before_what_it_sees(speed):
    """Drive at an obstacle with the reaction time the gate assumes and the weakest allowed brakes."""
    tested = gate()
    x, v, pipeline = 0.0, speed, [speed] * round(CONFIG.reaction_time / DT)
    wall, moved = 1.5, 0.0
    for _ in range(400):
        around = replace(near((wall - x, 0.0)), pose=np.array([x, 0.0, 0.0]))
        pipeline.append(tested.check(Twist2D(speed, 0.0), around, DT).twist.v)
        wanted = pipeline.pop(0)
        v = wanted if wanted > v else max(wanted, v - CONFIG.deceleration * DT)
        x += v * DT
        moved = max(moved, x)
    gap = wall - moved - CONFIG.radius
    assert v == 0.0
    assert 0.05 <= gap <= CONFIG.side_margin + CONFIG.stop_margin + 0.05


def test_slowing_down_keeps_the_arc():
    safe = gate().check(Twist2D(0.4, 0.2), near((0.55, 0.1)), DT)
    assert safe.reasons & Reason.OBSTACLE_SLOW
    assert 0.0 < safe.twist.v < 0.4
    assert safe.twist.omega / safe.twist.v == pytest.approx(0.5)


@pytest.mark.parametrize("footprint", [(), tuple((0.5 * x, 0.75 * y) for x, y in SQUARE)])
def test_only_what_lies_in_the_swept_footprint_counts(footprint):
    tested = gate(radius=0.15, polygon=footprint, reaction_time=0.6)
    assert tested.check(Twist2D(0.4, 0.0), near((0.5, 0.45), (0.6, -0.45), (-0.4, 0.0)), DT).twist.v == 0.4
    # On a left arc of 0.5 m radius the robot meets what lies ahead to the left, and not what lies straight ahead.
    left = drive(np.zeros(3), Twist2D(0.4, 0.8), 1.3)[:2]
    assert tested.check(Twist2D(0.4, 0.8), near(left), DT).twist.v < 0.4
    assert tested.check(Twist2D(0.4, 0.0), near(left), DT).twist.v == 0.4


def test_beside_a_wall_inside_the_margin_the_robot_drives_along_it_and_away_but_not_into_it():
    wall = [(x, 0.28) for x in np.arange(-1.0, 2.0, 0.05)]  # 3 cm from the robot, margin 5 cm
    assert gate().check(Twist2D(0.3, 0.0), near(*wall), DT).twist.v == pytest.approx(0.3)
    assert gate().check(Twist2D(0.3, -0.4), near(*wall), DT).twist.v == pytest.approx(0.3)
    assert gate().check(Twist2D(0.3, 0.4), near(*wall), DT).twist.v == 0.0


def test_a_round_robot_may_always_turn_and_a_long_one_only_where_its_corners_pass():
    close = near((0.33, 0.0))
    assert gate().check(Twist2D(0.0, 0.6), close, DT).twist.omega == 0.6
    beside_corner = near((0.15, 0.27))
    long = gate(polygon=((0.5, 0.2), (-0.5, 0.2), (-0.5, -0.2), (0.5, -0.2)), side_margin=0.02)
    assert long.check(Twist2D(0.0, 0.6), beside_corner, DT).twist.omega < 0.6
    assert long.check(Twist2D(0.0, 0.6), near((0.9, 0.0)), DT).twist.omega == 0.6


def test_after_a_stop_the_robot_goes_on_only_when_there_is_room_and_does_not_flutter():
    tested = gate()
    touching = CONFIG.radius + CONFIG.side_margin + CONFIG.stop_margin
    assert tested.check(Twist2D(0.4, 0.0), near((touching, 0.0)), DT).reasons & Reason.OBSTACLE_STOP
    for jitter in (0.0, 0.01, 0.02, 0.01, 0.02):
        for speed in (0.01, 0.4):
            assert tested.check(Twist2D(speed, 0.0), near((touching + jitter, 0.0)), DT).twist.v == 0.0
    assert tested.check(Twist2D(0.4, 0.0), near((touching + 0.2, 0.0)), DT).twist.v > 0.1


def test_a_base_that_is_told_to_drive_and_does_not_move_is_a_latched_stall():
    tested = gate()
    driven = 0
    while tested.check(Twist2D(0.4, 0.0), CLEAR, DT).reasons == Reason.NONE:
        driven += 1
        assert driven < 100
    assert driven * 0.4 * DT <= CONFIG.stall_distance + 0.05
    elsewhere = replace(CLEAR, pose=np.array([1.0, 0.0, 0.0]))
    assert tested.check(Twist2D(0.4, 0.0), elsewhere, DT).reasons == Reason.STALLED
    tested.reset()
    assert tested.check(Twist2D(0.4, 0.0), elsewhere, DT).reasons == Reason.NONE
    moving = gate()
    for i in range(200):
        pose = np.array([0.4 * DT * i, 0.0, 0.0])
        assert moving.check(Twist2D(0.4, 0.0), replace(CLEAR, pose=pose), DT).reasons == Reason.NONE


def test_clearance_of_a_polygon_agrees_with_a_dense_outline():
    footprint = Footprint(polygon=((0.4, 0.0), (0.1, 0.3), (-0.3, 0.2), (-0.2, 0.0), (-0.3, -0.2), (0.1, -0.3)))
    corners = footprint.corners
    share = np.linspace(0.0, 1.0, 2000)[:, None]
    outline = np.concatenate(
        [corners[i] + share * (corners[(i + 1) % len(corners)] - corners[i]) for i in range(len(corners))]
    )
    points = np.random.default_rng(0).uniform(-0.6, 0.6, (300, 2))
    distance = np.hypot(*(points[:, None] - outline[None]).transpose(2, 0, 1)).min(axis=1)
    assert np.abs(np.abs(footprint.clearance(points)) - distance).max() < 1e-3
    from matplotlib.path import Path

    assert ((footprint.clearance(points) < 0.0) == Path(corners).contains_points(points)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"radius": 0.0}, "footprint radius"),
        ({"polygon": ((1.0, 1.0), (2.0, 1.0), (2.0, 2.0))}, "expected it to contain"),
        ({"polygon": ((1.0, 1.0),)}, "at least three"),
        ({"deceleration": 0.0}, "SafetyConfig.deceleration"),
        ({"sensor_timeout": math.inf}, "SafetyConfig.sensor_timeout"),
    ],
)
def test_a_bad_parameter_is_refused_with_its_name(changes, message):
    with pytest.raises(ValueError, match=message):
        SafetyConfig(**changes)


@pytest.mark.parametrize("polygon", [(), SQUARE])
@pytest.mark.parametrize("twist", [Twist2D(0.4, 0.0), Twist2D(0.4, 0.6), Twist2D(0.0, -0.6)])
def test_an_obstacle_in_the_stop_zone_hinders_the_command_and_one_far_from_it_does_not(twist, polygon):
    tested = gate(polygon=polygon)
    tested.check(twist, CLEAR, DT)
    zone = tested.stop_zone()
    assert len(zone) > 50
    outside = zone[Footprint(polygon=polygon).clearance(zone) > CONFIG.side_margin + 0.03]
    for place in outside[:: max(1, len(outside) // 15)]:
        safe = gate(polygon=polygon).check(twist, near(place), DT)
        assert safe.reasons & (Reason.OBSTACLE_STOP | Reason.OBSTACLE_SLOW), place
    grid = np.stack(np.meshgrid(np.arange(-1.5, 2.0, 0.2), np.arange(-1.5, 2.0, 0.2)), axis=-1).reshape(-1, 2)
    distance = np.hypot(*(grid[:, None] - zone[None]).transpose(2, 0, 1)).min(axis=1)
    for place in grid[(distance > 0.6) | (grid[:, 0] < -0.5)]:  # farther than what slows the robot down
        assert gate(polygon=polygon).check(twist, near(place), DT).reasons == Reason.NONE, place


def test_there_is_no_stop_zone_for_a_robot_that_is_told_to_stand():
    tested = gate()
    tested.check(Twist2D(0.4, 0.0), CLEAR, DT)
    tested.check(STANDSTILL, CLEAR, DT)
    assert not len(tested.stop_zone())
    tested.check(Twist2D(0.4, 0.0), CLEAR, DT)
    tested.emergency_stop("test")
    tested.check(Twist2D(0.4, 0.0), CLEAR, DT)
    assert not len(tested.stop_zone())
