"""Camera, depth and map as pictures."""

import math

import numpy as np
import pytest

from nav_viewer.colours import DRIVEN, GOAL, PATH, depth_colours
from nav_viewer.geometry import Pose
from nav_viewer.pictures import MAP_SIZE, camera_picture, depth_picture, map_picture, plan_of_grid

NOTHING = np.zeros((0, 2))


def pixels_of(picture, colour):
    """(N, 2) columns and rows of pixels of exactly this colour."""
    rows, columns = np.nonzero((picture == colour).all(axis=2))
    return np.stack([columns, rows], axis=1)


def test_the_goal_is_drawn_at_its_pixel_in_a_picture_of_another_size():
    picture = camera_picture(np.zeros((480, 640, 3), np.uint8), None, np.array([400.0, 300.0]), 320)
    assert picture.shape == (240, 320, 3)
    assert pixels_of(picture, GOAL).mean(axis=0) == pytest.approx([200.0, 150.0], abs=1.0)


def test_the_path_is_drawn_where_it_can_be_seen_and_leaves_the_image_alone():
    rgb = np.zeros((480, 640, 3), np.uint8)
    path = np.array([[np.nan, np.nan], [100.0, 400.0], [300.0, 400.0], [300.0, 1e9]])
    picture = camera_picture(rgb, path, np.array([np.nan, np.nan]), 640)
    assert [200, 400] in pixels_of(picture, PATH).tolist()
    assert not len(pixels_of(picture, GOAL))
    assert not rgb.any()


def test_near_is_red_far_is_blue_and_unmeasured_is_black():
    near, far, unmeasured = depth_colours(np.array([[0.3, 4.9, 0.0]], np.float32))[0]
    assert near[0] > near[2]
    assert far[2] > far[0]
    assert not unmeasured.any()
    assert depth_picture(np.ones((480, 640), np.float32), 320).shape == (240, 320, 3)


def test_a_grid_becomes_a_plan_whose_top_is_far_in_y():
    cells = np.zeros((4, 8), np.int8)
    cells[3, 0] = 100  # the upper left corner
    plan = plan_of_grid(cells, 0.5, 1.0, 2.0)
    assert (plan.x, plan.y, plan.width, plan.height) == (1.0, 2.0, 4.0, 2.0)
    assert plan.picture[0, 0].sum() > plan.picture[1:, 1:].sum(axis=2).max()


def test_the_map_shows_driven_path_path_goal_and_robot_where_they_are():
    driven = np.array([[-1.0, 0.0], [0.0, 0.0]])
    path = np.array([[0.4, 0.0], [2.0, 0.0]])
    picture = map_picture(None, Pose(), driven, path, np.array([2.0, 1.0, 0.0]), NOTHING, 0.2)
    assert picture.shape == (MAP_SIZE[1], MAP_SIZE[0], 3)
    left, right = pixels_of(picture, DRIVEN)[:, 0].max(), pixels_of(picture, PATH)[:, 0].min()
    assert left < right
    assert pixels_of(picture, GOAL)[:, 1].mean() < pixels_of(picture, PATH)[:, 1].mean()  # y is up


def test_the_map_grows_with_what_is_known_and_lies_whole_in_the_picture():
    far = np.array([[0.0, 0.0], [40.0, 25.0]])
    picture = map_picture(None, Pose(40.0, 25.0, math.pi), far, None, None, far, 0.2)
    shown = pixels_of(picture, DRIVEN)
    assert shown.min() >= 0
    assert np.ptp(shown[:, 0]) > MAP_SIZE[0] / 2


def test_an_empty_map_is_a_picture():
    assert map_picture(None, None, NOTHING, None, None, NOTHING, 0.2).shape == (MAP_SIZE[1], MAP_SIZE[0], 3)
