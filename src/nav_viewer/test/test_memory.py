"""What the viewer remembers of a run."""

import numpy as np
import pytest

from nav_viewer.geometry import Pose
from nav_viewer.memory import CELL, MAX_CELLS, MAX_PLACES, SeenObstacles, Track

PERIOD = 20_000_000  # ns


def drive(track, count, start=0, step=0.01):
    for index in range(start, start + count):
        track.add(index * PERIOD, Pose(index * step, 0.0, 0.0))


def test_the_driven_path_ends_at_the_newest_pose_and_its_length_is_what_was_driven():
    track = Track()
    drive(track, 101)
    driven = track.driven()
    assert driven[0] == pytest.approx([0.0, 0.0])
    assert driven[-1] == pytest.approx([1.0, 0.0])
    assert track.distance == pytest.approx(1.0, abs=0.05)
    assert len(driven) < 30  # not every message


def test_a_pose_is_found_by_the_stamp_of_an_image_and_only_near_it():
    track = Track()
    drive(track, 100)
    assert track.pose_at(50 * PERIOD + 1_000_000).x == pytest.approx(0.5)
    assert track.pose_at(99 * PERIOD + 200_000_000) is None
    assert Track().pose_at(0) is None


@pytest.mark.parametrize(
    ("stamp", "pose"), [(11 * PERIOD, Pose(9.0, 0.0, 0.0)), (-1_000_000_000, Pose(0.1, 0.0, 0.0))]
)
def test_a_jump_in_place_or_time_begins_a_new_path(stamp, pose):
    track = Track()
    drive(track, 10)
    assert track.add(stamp, pose)
    assert track.driven()[-1] == pytest.approx([pose.x, pose.y])
    assert len(track.driven()) == 2  # the place it began at, and where it is: the same
    assert track.distance == 0.0


def test_memory_is_bounded():
    track = Track()
    drive(track, MAX_PLACES + 500, step=0.06)
    assert len(track.driven()) == MAX_PLACES + 1
    obstacles = SeenObstacles()
    for row in range(3):
        columns = np.arange(MAX_CELLS // 2) * CELL
        obstacles.add(np.stack([columns, np.full(len(columns), row * CELL)], axis=1))
    assert len(obstacles.places()) == MAX_CELLS


def test_points_of_one_cell_are_one_obstacle_and_a_clear_forgets_it():
    obstacles = SeenObstacles()
    obstacles.add(np.array([[1.01, 2.01, 0.3], [1.02, 2.03, 0.9]]))
    assert obstacles.places() == pytest.approx(np.array([[1.025, 2.025]]))
    obstacles.clear()
    assert obstacles.places().shape == (0, 2)
