"""The pinhole model and what a depth camera makes of the truth."""

import math

import numpy as np
import pytest

from nav_sim.camera import TILT, Camera
from nav_sim.sensors import DepthSensor


def test_the_focal_length_is_that_of_a_realsense():
    assert Camera().focal == pytest.approx(388.2, abs=0.05)
    assert math.degrees(Camera().vfov) == pytest.approx(63.45, abs=0.05)


@pytest.mark.parametrize("tilt", [0.0, TILT])
@pytest.mark.parametrize("point", [(1.5, 0.4), (3.0, -1.2), (0.9, 0.0)])
def test_a_floor_point_comes_back_from_its_pixel(tilt, point):
    camera = Camera(tilt=tilt)
    pixels, depth = camera.project(np.asarray([[*point, 0.0]]))
    assert depth[0] > 0
    assert camera.floor_point(*pixels[0]) == pytest.approx(point, abs=1e-9)


def test_left_is_left_and_far_is_up():
    camera = Camera()
    pixels, _ = camera.project(np.asarray([[2.0, 0.5, 0.0], [2.0, -0.5, 0.0], [4.0, 0.5, 0.0]]))
    assert pixels[0, 0] < 320 < pixels[1, 0]
    assert pixels[2, 1] < pixels[0, 1]


def test_there_is_no_floor_above_the_horizon():
    assert Camera().floor_point(320, 200) is None
    assert Camera().tilted().floor_point(320, 200) is not None


@pytest.mark.parametrize(("field", "value"), [("width", 8), ("hfov", 4.0), ("height", math.nan)])
def test_a_camera_that_cannot_be_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"camera {field}: expected"):
        Camera(**{field: value})


def test_depth_is_in_millimetres_and_zero_outside_of_the_range():
    depth = np.asarray([[0.1, 0.2, 1.2344, 9.99, 10.01]], np.float32)
    measured = DepthSensor(0.2, 10.0).measure(depth, np.random.default_rng(0))
    assert measured.dtype == np.uint16
    assert measured.tolist() == [[0, 200, 1234, 9990, 0]]


def test_dropout_and_noise_are_as_configured():
    depth = np.full((200, 200), 2.0, np.float32)
    depth[:, 100:] = 4.0
    sensor = DepthSensor(dropout=0.1, edge_dropout=0.8, noise=0.002)
    measured = sensor.measure(depth, np.random.default_rng(0))
    flat = measured[:, :99]
    assert (flat == 0).mean() == pytest.approx(0.1, abs=0.01)
    assert flat[flat > 0].std() == pytest.approx(8.0, rel=0.05)  # mm: 0.002 · 2²
    assert measured[:, 110:][measured[:, 110:] > 0].std() == pytest.approx(32.0, rel=0.05)
    assert (measured[:, 100] == 0).mean() > 0.7
    assert (sensor.measure(depth, np.random.default_rng(0)) == measured).all()


def test_an_impossible_depth_range_is_refused():
    with pytest.raises(ValueError, match="depth range"):
        DepthSensor(minimum=3.0, maximum=2.0)
    with pytest.raises(ValueError, match="dropout"):
        DepthSensor(dropout=1.5)
