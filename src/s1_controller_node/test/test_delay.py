"""Delay compensation: each path lies where its image was taken, however late it arrives."""

import math

import numpy as np
import pytest
from motion_simulation import NANOSECONDS, Base, Odometer, s_curve, sampled_path

from s1_controller_node.delay import check_path, compensate_delay
from s1_controller_node.geometry import Twist2D, compose, drive, inverse_transform_points, relative, transform_points
from s1_controller_node.odometry import OdometryBuffer, OdometryGap, OdometrySample
from s1_controller_node.reference import ReferencePath

DELAY = 0.7  # inference [s]
COURSE = s_curve(20.0)


def drive_s_curve(rate, jitter, latency=0.01, seconds=20.0, seed=1):
    """Drive an S-curve at 0.4 m/s and up to 0.5 rad/s; returns per path its placement error [m], [rad] and length.

    Odometry is sampled at ``rate`` Hz, arrives ``latency`` s later, and its stamps are off by ``jitter`` s (1 sigma).
    A path's placement is wrong by the difference of two motions: the one the compensation assumed between image and
    now (from odometry) and the true one. What odometry has drifted before the image does not matter to the robot.
    """
    random = np.random.default_rng(seed)
    base = Base(gain=(1.0, 1.0))
    odometer = Odometer(random)
    buffer = OdometryBuffer(400, 0.25)
    step = 0.005
    true_poses, next_odometry, waiting, results = [], 0.0, [], []
    for i in range(round(seconds / step)):
        t = i * step
        s = 0.4 * t
        base.move(Twist2D(0.4, 0.5 * math.cos(2.0 * math.pi * s / 4.0)), step)
        true_poses.append(base.pose)
        now = (i + 1) * step
        if now >= next_odometry:
            pose, twist = odometer.read(base.pose, base.twist)
            stamp = now + np.clip(random.normal(0.0, jitter), -0.4 / rate, 0.4 / rate)
            waiting.append((now + latency, OdometrySample(round(stamp * NANOSECONDS) + NANOSECONDS, pose, twist)))
            next_odometry += 1.0 / rate * (1.0 + random.uniform(-0.2, 0.2) * (jitter > 0.0))
        while waiting and waiting[0][0] <= now:
            buffer.add(waiting.pop(0)[1])
        image = i - round(DELAY / step)
        if image > 100 and i % 67 == 0:
            image_time = (image + 1) * step
            image_pose = buffer.pose_at(round(image_time * NANOSECONDS) + NANOSECONDS)
            pose_now = buffer.pose_at(round(now * NANOSECONDS) + NANOSECONDS)
            path = sampled_path(COURSE, true_poses[image])
            placed = compensate_delay(path, image_pose, pose_now)
            seen = relative(pose_now, np.append(placed.points[-1], 0.0))[:2]
            assert seen == pytest.approx(relative(relative(image_pose, pose_now), path[-1])[:2], abs=1e-6)
            error = relative(relative(image_pose, pose_now), relative(true_poses[image], base.pose))
            results.append((math.hypot(error[0], error[1]), abs(error[2]), placed.length))
    return results


@pytest.mark.parametrize(
    ("rate", "jitter", "latency"), [(50.0, 0.0, 0.01), (30.0, 0.003, 0.02), (20.0, 0.005, 0.03), (100.0, 0.001, 0.0)]
)
def test_paths_delayed_by_seven_tenths_of_a_second_are_placed_within_two_centimetres_and_one_degree(
    rate, jitter, latency
):
    results = drive_s_curve(rate, jitter, latency)
    assert len(results) > 40
    offsets, angles, lengths = np.array(results).T
    assert offsets.max() <= 0.02
    assert angles.max() <= math.radians(1.0)
    # 0.28 m were driven during inference and are cut off (3.2 m path)
    assert lengths.mean() == pytest.approx(3.2 - 0.4 * DELAY, abs=0.05)


def test_without_compensation_the_same_paths_would_be_wrong_by_far_more():
    """The fault this function exists for: a path placed at the newest pose is shifted by the way driven."""
    newest, image = np.array([0.28, 0.02, 0.15]), np.zeros(3)
    path = sampled_path(COURSE, COURSE[0])
    right = compensate_delay(path, image, newest)
    shifted = compensate_delay(path, newest, newest)
    assert math.dist(right.points[-1], shifted.points[-1]) > 0.25


def test_the_path_stays_where_it_is_in_the_world_while_the_robot_drives_along_it():
    path = np.stack([np.linspace(0.0, 3.2, 33), np.zeros(33), np.zeros(33)], axis=1)
    image = np.array([1.0, 2.0, math.radians(90.0)])
    for driven in (0.0, 0.13, 0.5, 3.0):
        placed = compensate_delay(path, image, drive(image, Twist2D(0.5, 0.0), driven / 0.5))
        assert placed.points[0] == pytest.approx([1.0, 2.0 + driven], abs=1e-9)
        assert placed.points[-1] == pytest.approx([1.0, 5.2], abs=1e-9)
        assert placed.length == pytest.approx(3.2 - driven, abs=1e-9)


def test_a_path_that_is_already_driven_leaves_nothing():
    path = np.stack([np.linspace(0.0, 0.3, 7), np.zeros(7), np.zeros(7)], axis=1)
    assert compensate_delay(path, np.zeros(3), np.array([0.29, 0.0, 0.0])) is None
    assert compensate_delay(np.zeros((33, 3)), np.zeros(3), np.zeros(3)) is None


def test_a_path_that_returns_to_the_robot_is_not_cut_short():
    angle = np.linspace(0.0, 2.0 * math.pi * 0.98, 40)
    loop = np.stack([np.sin(angle), 1.0 - np.cos(angle), angle], axis=1)
    placed = compensate_delay(loop, np.zeros(3), np.array([-0.02, 0.0, 0.0]))
    assert placed.length > 6.0


def test_the_given_path_is_not_changed():
    path = sampled_path(COURSE, COURSE[0])
    before = path.copy()
    compensate_delay(path, np.array([1.0, 1.0, 1.0]), np.array([1.1, 1.1, 1.0]))
    assert (path == before).all()


@pytest.mark.parametrize("missing", [(2.0, 2.4), (0.0, 5.0), (4.5, 9.0)])
def test_a_gap_in_odometry_around_the_image_is_refused_instead_of_guessed(missing):
    buffer = OdometryBuffer(400, 0.25)
    stamps = np.arange(0.0, 5.0, 0.02)
    for t in stamps:
        if not missing[0] < t < missing[1]:
            buffer.add(OdometrySample(round(t * NANOSECONDS), np.array([0.4 * t, 0.0, 0.0]), Twist2D(0.4, 0.0)))
    image = {2.0: 2.2, 0.0: 3.0, 4.5: 4.9}[missing[0]]
    with pytest.raises(OdometryGap):
        buffer.pose_at(round(image * NANOSECONDS))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (np.zeros((33, 2)), "shape"),
        (np.zeros(3), "shape"),
        (np.zeros((1, 3)), "shape"),
        (np.full((33, 3), np.nan), "finite"),
        (np.array([[0.0, 0.0, 0.0], [math.inf, 0.0, 0.0]]), "finite"),
        (np.array([[3.0, 0.0, 0.0], [3.1, 0.0, 0.0]]), "start at the robot"),
        (np.array([[0.0, 0.0, 0.0], [25.0, 0.0, 0.0]]), "steps of at most"),
        (np.array([["a", "b", "c"], ["d", "e", "f"]]), "dtype"),
    ],
)
def test_a_malformed_path_is_refused_with_what_is_wrong(path, message):
    with pytest.raises(ValueError, match=message):
        check_path(path)


def test_frames_compose_and_invert():
    random = np.random.default_rng(0)
    for _ in range(50):
        a, b = random.uniform(-3.0, 3.0, (2, 3))
        assert relative(a, compose(a, b)) == pytest.approx([b[0], b[1], b[2]], abs=1e-9)
        points = random.uniform(-5.0, 5.0, (7, 2))
        assert inverse_transform_points(a, transform_points(a, points)) == pytest.approx(points, abs=1e-9)
    # an exact arc: a quarter circle of radius 1 m
    assert drive(np.zeros(3), Twist2D(math.pi / 2, math.pi / 2), 1.0) == pytest.approx([1.0, 1.0, math.pi / 2])


def test_projection_finds_the_nearest_point_within_its_bounds():
    path = ReferencePath(np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0]]))
    assert path.project(np.array([1.0, 0.3])) == pytest.approx(1.0)
    assert path.project(np.array([1.0, 0.3]), 1.5) == pytest.approx(1.5)
    assert path.project(np.array([5.0, 5.0])) == pytest.approx(4.0)
    assert path.project(np.array([5.0, 5.0]), 0.0, 0.7) == pytest.approx(0.7)
    assert path.lateral_offset(np.array([1.0, 0.3]), 1.0) == pytest.approx(0.3)
