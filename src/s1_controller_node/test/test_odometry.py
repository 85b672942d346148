"""The pose at a stamp is interpolated along the arc, and never guessed across a gap."""

import math

import numpy as np
import pytest

from s1_controller_node.geometry import STANDSTILL, Twist2D, drive
from s1_controller_node.odometry import OdometryBuffer, OdometryError, OdometryGap, OdometrySample, planar_pose

SECOND = 1_000_000_000


def filled(poses, twist=STANDSTILL, capacity=100, max_gap=0.3) -> OdometryBuffer:
    buffer = OdometryBuffer(capacity, max_gap)
    for seconds, pose in poses:
        buffer.add(OdometrySample(round(seconds * SECOND), np.asarray(pose, dtype=float), twist))
    return buffer


def test_the_pose_on_an_arc_is_exact_between_samples():
    twist, start = Twist2D(0.4, 0.5), np.array([1.0, -2.0, 3.0])  # passes the yaw of ±pi
    buffer = filled([(t / 10, drive(start, twist, t / 10)) for t in range(21)])
    for t in (0.017, 0.55, 1.234, 1.999):
        np.testing.assert_allclose(buffer.pose_at(round(t * SECOND)), drive(start, twist, t), atol=1e-9)


def test_a_stored_stamp_gives_the_stored_pose():
    buffer = filled([(0.0, [0, 0, 0]), (0.1, [1, 2, 3])])
    np.testing.assert_array_equal(buffer.pose_at(SECOND // 10), [1, 2, 3])


def test_a_short_time_after_the_newest_sample_is_extrapolated_with_its_velocity():
    buffer = filled([(0.0, [0, 0, 0])], twist=Twist2D(0.4, 0.0))
    np.testing.assert_allclose(buffer.pose_at(SECOND // 10), [0.04, 0, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("stamp", "message"),
    [
        (1.2, "gap of 1.000 s around the frame"),
        (2.5, "newest odometry is 0.500 s older than the frame"),
        (0.5, "0.500 s older than the oldest odometry"),
    ],
)
def test_where_odometry_is_missing_nothing_is_guessed(stamp, message):
    buffer = filled([(1.0, [0, 0, 0]), (2.0, [1, 0, 0])])
    with pytest.raises(OdometryGap, match=message):
        buffer.pose_at(round(stamp * SECOND))


def test_no_odometry_at_all_says_so():
    with pytest.raises(OdometryGap, match="no odometry has been received yet"):
        OdometryBuffer(10, 0.3).pose_at(0)


def test_memory_is_bounded():
    buffer = filled([(t / 10, [t, 0, 0]) for t in range(200)], capacity=5)
    assert buffer.newest().pose[0] == 199
    with pytest.raises(OdometryGap, match="older than the oldest"):
        buffer.pose_at(19 * SECOND)


def test_a_stamp_that_does_not_rise_is_refused():
    buffer = filled([(1.0, [0, 0, 0])])
    with pytest.raises(OdometryError, match="is not after the newest"):
        buffer.add(OdometrySample(SECOND, np.zeros(3), Twist2D(0.0, 0.0)))


def test_a_velocity_that_is_not_a_number_is_refused():
    with pytest.raises(OdometryError, match="velocity is"):
        filled([(0.0, [0, 0, 0])], twist=Twist2D(math.nan, 0.0))


@pytest.mark.parametrize("yaw", [-3.0, -0.5, 0.0, 1.0, 3.1])
def test_heading_comes_from_the_quaternion(yaw):
    pose = planar_pose(1.0, 2.0, (0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2)))
    np.testing.assert_allclose(pose, [1, 2, yaw], atol=1e-12)


def test_pitch_does_not_change_the_heading():
    yaw, pitch = 0.7, 0.3
    cy, sy, cp, sp = math.cos(yaw / 2), math.sin(yaw / 2), math.cos(pitch / 2), math.sin(pitch / 2)
    assert planar_pose(0, 0, (-sy * sp, cy * sp, sy * cp, cy * cp))[2] == pytest.approx(yaw)


@pytest.mark.parametrize("quaternion", [(0.0, 0.0, 0.0, 0.0), (math.nan, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0, 2.0)])
def test_what_is_no_orientation_is_refused(quaternion):
    with pytest.raises(OdometryError, match="unit quaternion"):
        planar_pose(0.0, 0.0, quaternion)


def test_what_is_no_position_is_refused():
    with pytest.raises(OdometryError, match="position is"):
        planar_pose(math.inf, 0.0, (0.0, 0.0, 0.0, 1.0))
