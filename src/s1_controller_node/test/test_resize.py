"""Every image comes out as from Pillow, to the last bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dual_nav_resize import resize_depth, resize_rgb

SIDES = st.integers(1, 90)


def noise(kind, height, width, seed):
    rng = np.random.default_rng(seed)
    if kind == "rgb":
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return rng.uniform(0.0, 8.0, (height, width)).astype(np.float32) * rng.choice([0.0, 1.0], (height, width)).astype(
        "f"
    )


def resized(image, width, height):
    return resize_rgb(image, width, height) if image.ndim == 3 else resize_depth(image, width, height)


def of_pillow(image, width, height):
    """One direction after the other: since release 13 Pillow resizes some images in the other order."""
    image = Image.fromarray(image)
    return np.array(image.resize((width, image.height)).resize((width, height)))


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(["rgb", "depth"]), SIDES, SIDES, SIDES, SIDES, st.integers(0, 2**32 - 1))
def test_any_image_to_any_size_equals_pillow(kind, height, width, out_height, out_width, seed):
    image = noise(kind, height, width, seed)
    np.testing.assert_array_equal(resized(image, out_width, out_height), of_pillow(image, out_width, out_height))


@pytest.mark.parametrize("camera", [(480, 640), (720, 1280), (1080, 1920), (481, 641)])
@pytest.mark.parametrize("side", [112, 224, 384])
def test_camera_images_equal_pillow_also_where_it_overshoots(camera, side):
    edges = np.random.default_rng(side).choice(np.asarray([0, 255], np.uint8), (*camera, 3))
    for image in (noise("rgb", *camera, side), noise("depth", *camera, side), edges):
        np.testing.assert_array_equal(resized(image, side, side), of_pillow(image, side, side))
        np.testing.assert_array_equal(
            resized(image, side, side), np.array(Image.fromarray(image).resize((side, side)))
        )


@pytest.mark.parametrize("kind", ["rgb", "depth"])
def test_views_with_padded_rows_or_another_order_are_read_right(kind):
    image = noise(kind, 48, 70, 0)
    for view in (image[:, :64], image[::2], image[:, ::-1], image[..., ::-1], image[::-1], image[:, ::2]):
        np.testing.assert_array_equal(resized(view, 32, 24), of_pillow(np.ascontiguousarray(view), 32, 24))


@pytest.mark.parametrize(
    ("shape", "kind", "width", "error"),
    [
        ((4, 4, 3), np.float32, 2, TypeError),
        ((4, 4), np.uint8, 2, ValueError),
        ((4, 4, 4), np.uint8, 2, ValueError),
        ((0, 4, 3), np.uint8, 2, ValueError),
        ((4, 4, 3), np.uint8, 0, ValueError),
    ],
)
def test_what_is_no_colour_image_is_refused(shape, kind, width, error):
    with pytest.raises(error, match="rgb: expected"):
        resize_rgb(np.zeros(shape, kind), width, 2)


@pytest.mark.parametrize(
    ("shape", "kind", "error"),
    [((4, 4), np.float64, TypeError), ((4, 4), np.uint16, TypeError), ((4, 4, 1), np.float32, ValueError)],
)
def test_what_is_no_depth_image_is_refused(shape, kind, error):
    with pytest.raises(error, match="depth: expected"):
        resize_depth(np.zeros(shape, kind), 2, 2)
