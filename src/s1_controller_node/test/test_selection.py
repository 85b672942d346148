"""Selection takes the sample its method promises."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from s1_controller_node.obstacles import CameraMount, Intrinsics, ObstacleConfig, ObstacleDetector
from s1_controller_node.selection import CLEAR, METHODS, path_clearance, select


def fan(*degrees: float, length: float = 2.0, points: int = 33) -> np.ndarray:
    """Straight paths (S, points, 3) of ``length`` metres into the given directions."""
    reach = np.linspace(0, length, points)
    paths = [(reach * math.cos(a), reach * math.sin(a), np.full(points, a)) for a in np.deg2rad(degrees)]
    return np.stack(paths).transpose(0, 2, 1).astype(np.float32)


def trajectories(paths, scores=None):
    return SimpleNamespace(paths=paths, scores=None if scores is None else np.array(scores, np.float32))


def test_mean_is_the_mean_of_all_samples():
    assert select(trajectories(fan(-30, 30)))[-1] == pytest.approx([2 * math.cos(math.radians(30)), 0, 0], abs=1e-6)


def test_random_takes_a_sample_and_the_generator_decides_which():
    samples = trajectories(fan(-30, 0, 30))
    taken = {tuple(select(samples, "random", rng=np.random.default_rng(seed))[-1]) for seed in range(20)}
    assert taken == {tuple(path[-1].astype(float)) for path in samples.paths}
    same = [select(samples, "random", rng=np.random.default_rng(1)) for _ in range(2)]
    assert np.array_equal(*same)


def test_critic_takes_the_highest_score():
    samples = trajectories(fan(-30, 0, 30), [0.1, -4.0, 0.3])
    assert np.array_equal(select(samples, "critic"), samples.paths[2])


@pytest.mark.parametrize(("side", "best"), [(0.25, 0), (-0.25, 2)])
def test_clearance_takes_the_sample_farthest_from_the_obstacle(side, best):
    samples = trajectories(fan(-30, 0, 30))
    obstacles = np.array([[1.0, side]])
    assert np.array_equal(select(samples, "clearance", obstacles=obstacles), samples.paths[best])


def test_clearance_with_nothing_in_sight_is_the_mean():
    samples = trajectories(fan(-30, 10, 30))
    assert np.array_equal(select(samples, "clearance", obstacles=np.zeros((0, 2))), select(samples))


def test_equal_clearance_takes_the_sample_nearest_to_the_mean():
    samples = trajectories(fan(-40, 5, 30))
    behind = np.array([[-0.3, 0.0]])  # nearest to the first points of all, which the radius makes equal
    chosen = select(samples, "clearance", obstacles=behind, robot_radius=1.0)
    assert np.array_equal(chosen, samples.paths[1])


@pytest.mark.parametrize(
    ("obstacle", "chosen"),
    [
        ((2.0, 2.0), None),  # far from everything: the mean
        ((0.5, 0.02), 2),  # in the mean's way: the nearest sample that keeps clear of it
        ((0.5, -0.1), 1),  # and of what is on that side, the one on the other
    ],
)
def test_the_mean_is_taken_unless_it_would_touch_something(obstacle, chosen):
    samples = trajectories(fan(80, 30, -28, -80))
    path = select(samples, "mean_if_clear", obstacles=np.array([obstacle]), robot_radius=0.1)
    expected = select(samples) if chosen is None else samples.paths[chosen]
    assert np.array_equal(path, expected)


def test_where_no_sample_keeps_clear_one_is_turned_as_little_as_is_needed():
    samples = trajectories(fan(-5, 0, 5, length=1.0))
    wall = np.stack([np.full(13, 0.5), np.linspace(-0.3, 0.3, 13)], axis=1)  # straight ahead, open to both sides
    path = select(samples, "mean_if_clear", obstacles=wall, robot_radius=0.1)
    assert path_clearance(path[None], wall, 0.1) >= CLEAR
    turned = math.degrees(math.atan2(path[-1, 1], path[-1, 0]))
    assert 45 <= abs(turned) <= 65
    assert math.degrees(path[-1, 2]) == pytest.approx(turned, abs=5.1)


def test_a_robot_that_stands_beside_a_thing_may_go_along_it_and_away_from_it():
    samples = trajectories(fan(40, 3, -40))
    beside = np.array([[0.0, 0.15]])  # 5 cm from the robot
    path = select(samples, "mean_if_clear", obstacles=beside, robot_radius=0.1)
    assert np.array_equal(path, select(samples))
    toward = trajectories(fan(80, 90, 70, -60))
    path = select(toward, "mean_if_clear", obstacles=beside, robot_radius=0.1)
    assert np.array_equal(path, toward.paths[3])


def test_where_no_path_keeps_clear_the_one_that_stays_farthest_is_taken():
    samples = trajectories(fan(-15, 8))
    around = np.deg2rad(np.arange(-150, 150, 5))
    obstacles = 0.6 * np.stack([np.cos(around), np.sin(around)], axis=1)
    obstacles[around > 0] *= 0.9
    path = select(samples, "mean_if_clear", obstacles=obstacles, robot_radius=0.1)
    best = path_clearance(path[None], obstacles, 0.1)
    assert best < CLEAR
    assert best >= path_clearance(samples.paths, obstacles, 0.1).max()


def test_clearance_is_the_smallest_distance_less_the_radius():
    clearance = path_clearance(fan(0, 90), np.array([[1.0, 0.5], [5.0, 5.0]]), robot_radius=0.2)
    assert clearance == pytest.approx([0.3, 0.8], abs=0.002)  # points every 6 cm
    assert path_clearance(fan(0), np.array([[1.0, 0.0]]), 0.2).tolist() == [0.0]


def test_a_box_in_a_depth_image_turns_the_choice_away_from_it():
    """Depth to ground plane to choice, with a camera 0.6 m high that looks 20° down."""
    intrinsics = Intrinsics(width=160, height=120, fx=120.0, fy=120.0, cx=79.5, cy=59.5)
    detector = ObstacleDetector(intrinsics, CameraMount(height=0.6, pitch=math.radians(20)), ObstacleConfig())
    rows, columns = np.mgrid[0:120, 0:160]
    angle = math.radians(20) + np.arctan2(rows - 59.5, 120.0)  # of a ray below the horizon, at the middle column
    ray = np.stack([np.ones_like(angle), (rows - 59.5) / 120.0])
    down = ray[0] * math.sin(math.radians(20)) + ray[1] * math.cos(math.radians(20))
    floor = np.where(down > 0.05, 0.6 / np.maximum(down, 0.05), 0.0)
    depth = np.where((angle > 0) & (floor < 8), floor, 0.0)
    left = columns < 70  # the left half of the picture shows a wall 1.2 m ahead, standing on the floor
    depth = np.where(left, np.minimum(np.where(depth > 0, depth, 9.0), 1.2), depth).astype(np.float32)
    obstacles = detector.scan(depth).obstacles.points
    assert len(obstacles)
    assert (obstacles[:, 1] > -0.1).all()  # all to the left, which is +y
    samples = trajectories(fan(-30, 0, 30))
    assert np.array_equal(select(samples, "clearance", obstacles=obstacles), samples.paths[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: select(t, "best"), f"method: expected one of {', '.join(METHODS)}, got 'best'"),
        (lambda t: select(t, "critic"), "method 'critic' needs scores"),
        (lambda t: select(t, "mean_if_clear"), r"needs obstacles \(N, 2\) from a depth image, got None"),
        (lambda t: select(t, "clearance"), r"needs obstacles \(N, 2\) from a depth image, got None"),
        (
            lambda t: select(t, "clearance", obstacles=np.zeros((3, 3))),
            r"obstacles: expected shape \(any, 2\), got \(3, 3\)",
        ),
        (
            lambda t: select(t, "clearance", obstacles=np.full((3, 2), np.nan)),
            "obstacles: expected finite values, got 6 NaN",
        ),
        (
            lambda t: select(t, "clearance", obstacles=np.zeros((3, 2)), robot_radius=-1.0),
            "robot_radius: expected a number",
        ),
        (lambda t: select(trajectories(np.full((2, 4, 3), np.nan))), "trajectories.paths: expected finite values"),
        (lambda t: select(trajectories(t.paths, [1.0]), "critic"), r"scores: expected shape \(2,\), got \(1,\)"),
    ],
)  # fmt: skip
def test_bad_input_is_an_error_with_expected_and_given_value(call, message):
    with pytest.raises(ValueError, match=message):
        call(trajectories(fan(-10, 10)))
