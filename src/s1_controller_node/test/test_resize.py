"""Every image comes out as from Pillow, to the last bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dual_nav_resize import resize_rgb

SIDES = st.integers(1, 90)


def of_pillow(rgb, width, height):
    """One direction after the other: since release 13 Pillow resizes some images in the other order."""
    image = Image.fromarray(rgb)
    return np.array(image.resize((width, image.height)).resize((width, height)))


@settings(deadline=None, max_examples=300)
@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 2**32 - 1))
def test_any_image_to_any_size_equals_pillow(height, width, out_height, out_width, seed):
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_rgb(rgb, out_width, out_height), of_pillow(rgb, out_width, out_height))


@pytest.mark.parametrize("camera", [(480, 640), (720, 1280), (1080, 1920), (481, 641)])
@pytest.mark.parametrize("side", [112, 224, 384])
def test_camera_images_equal_pillow_also_where_it_overshoots(camera, side):
    rng = np.random.default_rng(side)
    noise = rng.integers(0, 256, (*camera, 3), dtype=np.uint8)
    edges = rng.choice(np.asarray([0, 255], np.uint8), (*camera, 3))
    for rgb in (noise, edges):
        np.testing.assert_array_equal(resize_rgb(rgb, side, side), of_pillow(rgb, side, side))
        np.testing.assert_array_equal(
            resize_rgb(rgb, side, side), np.array(Image.fromarray(rgb).resize((side, side)))
        )


def test_views_with_padded_rows_or_turned_channels_are_read_right():
    rgb = np.random.default_rng(0).integers(0, 256, (48, 70, 3), dtype=np.uint8)
    for view in (rgb[:, :64], rgb[::2], rgb[:, ::-1], rgb[..., ::-1], rgb[::-1]):
        np.testing.assert_array_equal(resize_rgb(view, 32, 24), of_pillow(np.ascontiguousarray(view), 32, 24))


@pytest.mark.parametrize(
    ("rgb", "width", "error"),
    [
        (np.zeros((4, 4, 3), np.float32), 2, TypeError),
        (np.zeros((4, 4), np.uint8), 2, ValueError),
        (np.zeros((4, 4, 4), np.uint8), 2, ValueError),
        (np.zeros((0, 4, 3), np.uint8), 2, ValueError),
        (np.zeros((4, 4, 3), np.uint8), 0, ValueError),
    ],
)
def test_what_is_no_image_is_refused(rgb, width, error):
    with pytest.raises(error, match="rgb: expected"):
        resize_rgb(rgb, width, 2)
