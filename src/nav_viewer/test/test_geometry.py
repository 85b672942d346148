"""From pixels to places and back."""

import math

import numpy as np
import pytest

from nav_viewer.geometry import Camera, Mount, Pose, dense, segments

CAMERA = Camera(640, 480, 388.0, 388.0, 319.5, 239.5, Mount(height=0.6, pitch=0.0, x=0.12))


def test_a_pose_places_points_of_its_frame_and_its_inverse_brings_them_back():
    pose = Pose(2.0, 1.0, math.pi / 2)
    points = np.array([[1.0, 0.0, 0.3], [0.0, -2.0, 0.0]])
    placed = pose.place(points)
    assert placed == pytest.approx(np.array([[2.0, 2.0, 0.3], [4.0, 1.0, 0.0]]))
    assert pose.inverse().place(placed) == pytest.approx(points)
    slanted, cos, sin = Pose(2.0, 1.0, 0.7), math.cos(0.7), math.sin(0.7)
    axes = slanted.place(np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert axes == pytest.approx(np.array([[2.0 + cos, 1.0 + sin], [2.0 - sin, 1.0 + cos]]))
    assert slanted.inverse().place(slanted.place(points)) == pytest.approx(points)


def test_a_pose_after_another_is_placed_in_its_frame():
    together = Pose(2.0, 1.0, math.pi / 2).then(Pose(1.0, 0.0, 0.1))
    assert (together.x, together.y, together.yaw) == pytest.approx((2.0, 2.0, math.pi / 2 + 0.1))


@pytest.mark.parametrize("pitch", [0.0, 0.52])
def test_what_a_pixel_shows_on_the_floor_is_seen_at_that_pixel(pitch):
    camera = CAMERA.mounted(Mount(0.6, pitch, 0.12))
    place = camera.place_of(400.0, 420.0)
    assert place[2] == pytest.approx(0.0, abs=1e-9)
    assert camera.pixels_of(place[None])[0] == pytest.approx([400.0, 420.0])


def test_the_middle_of_a_level_camera_with_depth_is_straight_ahead_at_its_height():
    assert CAMERA.place_of(319.5, 239.5, 2.0) == pytest.approx([2.12, 0.0, 0.6])


def test_a_pixel_above_the_horizon_without_depth_shows_no_place():
    assert CAMERA.place_of(320.0, 100.0) is None


def test_what_is_behind_the_camera_has_no_pixel():
    assert np.isnan(CAMERA.pixels_of(np.array([[-1.0, 0.0, 0.0]]))).all()


def test_the_cloud_of_a_wall_is_flat_coloured_like_the_image_and_without_what_was_not_measured():
    depth = np.full((480, 640), 3.0, np.float32)
    depth[:, :320] = 0.0
    rgb = np.zeros((240, 320, 3), np.uint8)
    rgb[:, 160:] = (10, 20, 30)
    points, colours = CAMERA.cloud(depth, rgb, 8, 6.0, 10.0)
    assert len(points) == len(colours) == 60 * 40
    assert points[:, 0] == pytest.approx(np.full(len(points), 3.12))
    assert (points[:, 1] < 0).all()  # the right half
    assert (colours == (10, 20, 30)).all()


def test_the_cloud_ends_below_the_ceiling_and_before_the_distance():
    depth = np.full((480, 640), 3.0, np.float32)
    points, _ = CAMERA.cloud(depth, None, 8, 6.0, 1.0)
    assert 0.9 < points[:, 2].max() < 1.0
    assert len(CAMERA.cloud(depth, None, 8, 2.0, 1.0)[0]) == 0


def test_a_line_becomes_segments_at_a_height_and_dense_points():
    line = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.5]])
    assert segments(line, 0.2) == pytest.approx(
        np.array([[[0.0, 0.0, 0.2], [1.0, 0.0, 0.2]], [[1.0, 0.0, 0.2], [1.0, 0.5, 0.2]]])
    )
    points = dense(line, 0.1)
    assert np.linalg.norm(np.diff(points, axis=0), axis=1).max() <= 0.1 + 1e-9
    assert points[0] == pytest.approx(line[0])
    assert points[-1] == pytest.approx(line[-1])
