"""Frames reach the models as the reference prepares them."""

from __future__ import annotations

import numpy as np
import pytest
from navdp_vectors import require_vectors

import dual_nav_resize
from s1_controller_node import preprocess
from s1_controller_node.preprocess import (
    clip_depth,
    letterbox_depth,
    letterbox_pixel,
    letterbox_rgb,
    resize_depth,
    resize_rgb,
    without_invalid_readings,
)


@pytest.fixture(scope="module")
def case():
    return require_vectors().load_case("s1_preprocess")


def test_rgb_equals_the_reference_to_the_last_bit(case):
    images = [resize_rgb(case.inputs[name]) for name in ("goal_rgb_u8", "current_rgb_u8")]
    case.check("images_u8", np.stack(images)[None])


def test_images_are_resized_by_the_compiled_loops():
    assert preprocess.resizing is dual_nav_resize


def test_where_the_compiled_loops_are_not_built_images_are_the_same(monkeypatch):
    random = np.random.default_rng(0)
    rgb, depth = (
        random.integers(0, 256, (48, 64, 3), dtype=np.uint8),
        random.uniform(0, 5, (48, 64)).astype(np.float32),
    )
    compiled = resize_rgb(rgb), resize_depth(depth)
    monkeypatch.setattr(preprocess, "resizing", None)
    np.testing.assert_array_equal(resize_rgb(rgb), compiled[0])
    np.testing.assert_array_equal(resize_depth(depth), compiled[1])


def test_depth_equals_the_real_world_and_the_simulation_agent(case):
    depths = [resize_depth(case.inputs[name]) for name in ("goal_depth_m", "current_depth_m")]
    case.check("depths_realworld", np.stack(depths)[None, ..., None])
    case.check("depths_sim_agent", np.stack([clip_depth(depth) for depth in depths])[None, ..., None])


def test_inputs_are_not_modified():
    rgb, depth = np.full((20, 30, 3), 7, np.uint8), np.full((20, 30), 9.0, np.float32)
    for function in (resize_rgb, letterbox_rgb):
        function(rgb)
    for function in (resize_depth, letterbox_depth, clip_depth):
        function(depth)
    assert (rgb == 7).all()
    assert (depth == 9.0).all()


def test_letterbox_keeps_the_aspect_and_pads_with_zeros():
    rgb = np.full((60, 120, 3), 200, np.uint8)
    boxed = letterbox_rgb(rgb, 56)
    assert boxed.shape == (56, 56, 3)
    assert (boxed[14:42] == 200).all()
    assert not boxed[:14].any()
    assert not boxed[42:].any()


def test_letterboxed_pixel_shows_the_same_point_as_the_image():
    rgb = np.zeros((120, 60, 3), np.uint8)
    rgb[80:100, 10:30] = 255
    column, row = letterbox_pixel((20, 90), 60, 120, 224)
    boxed = letterbox_rgb(rgb, 224)
    assert boxed[round(row), round(column)].min() == 255
    assert np.argwhere(boxed[..., 0] > 127).mean(axis=0) == pytest.approx([row, column], abs=1.5)


def test_letterboxed_depth_drops_what_is_too_near_or_too_far():
    depth = np.full((56, 56), 2.0)
    depth[:, :10], depth[:, -10:] = 0.05, 7.0
    boxed = letterbox_depth(depth, 56)
    assert boxed.dtype == np.float32
    assert (boxed[:, 12:44] == 2.0).all()
    assert not boxed[:, :10].any()
    assert not boxed[:, -10:].any()


def test_non_numbers_of_a_depth_camera_become_no_reading():
    depth = np.array([[1.0, np.nan], [np.inf, -np.inf]], np.float32)
    assert without_invalid_readings(depth).tolist() == [[1.0, 0.0], [0.0, 0.0]]


_RGB, _DEPTH = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: resize_rgb(_RGB[..., 0]), ValueError, r"rgb: expected shape \(any, any, 3\), got \(4, 6\)"),
        (lambda: resize_rgb(_RGB[:0]), ValueError, r"got \(0, 6, 3\)"),
        (lambda: resize_rgb(_RGB.astype(np.float32)), TypeError, "rgb: expected dtype uint8, got float32"),
        (lambda: resize_rgb(_RGB, 0), ValueError, "size: expected at least 1, got 0"),
        (lambda: letterbox_rgb(np.zeros((4, 6, 4), np.uint8)), ValueError, r"got \(4, 6, 4\)"),
        (lambda: resize_depth(_DEPTH - 1), ValueError, "depth: expected values of at least 0.0, got -1.0"),
        (lambda: resize_depth(_DEPTH + np.nan), ValueError, "depth: expected finite values, got 24 NaN"),
        (lambda: resize_depth(_DEPTH.astype(np.uint16)), TypeError, "depth: expected dtype float, got uint16"),
        (lambda: letterbox_depth(_DEPTH[None]), ValueError, r"depth: expected shape \(any, any\), got \(1, 4, 6\)"),
        (lambda: letterbox_depth(_DEPTH - 1), ValueError, "got -1.0"),
        (lambda: clip_depth(_DEPTH, -1.0), ValueError, r"maximum: expected a number in \[0.0, inf\], got -1.0"),
        (lambda: letterbox_pixel((60, 5), 60, 120), ValueError, r"inside 60x120, got \(60, 5\)"),
        (lambda: without_invalid_readings(_DEPTH.astype(int)), TypeError, "depth: expected a float array"),
    ],
)
def test_bad_input_is_an_error_with_expected_and_given_value(call, error, message):
    with pytest.raises(error, match=message):
        call()
