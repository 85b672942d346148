"""Camera messages become RGB or metres, or are refused with the topic and what was expected."""

import array

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from dual_nav_util import images
from dual_nav_util.images import (
    ImageError,
    depth_from_compressed,
    depth_from_image,
    image_from_array,
    rgb_from_compressed,
    rgb_from_image,
)

TOPIC = "/camera/rgb"


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)


def padded(message: Image, extra: int) -> Image:
    """The same image with `extra` bytes of 0xEE behind every row."""
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    wide = np.full((message.height, message.step + extra), 0xEE, np.uint8)
    wide[:, : message.step] = rows
    message.step += extra
    message.data = array.array("B", wide.tobytes())
    return message


def colour_message(rgb: np.ndarray, encoding: str) -> Image:
    alpha = np.full((*rgb.shape[:2], 1), 77, np.uint8)
    pixels = {
        "rgb8": rgb,
        "bgr8": rgb[..., ::-1],
        "rgba8": np.concatenate([rgb, alpha], axis=2),
        "bgra8": np.concatenate([rgb[..., ::-1], alpha], axis=2),
    }[encoding]
    return image_from_array(np.ascontiguousarray(pixels), encoding, Header())


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8"])
def test_every_colour_order_becomes_the_same_rgb(rgb, encoding, padding):
    message = padded(colour_message(rgb, encoding), padding)
    np.testing.assert_array_equal(rgb_from_image(message, TOPIC), rgb)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8"])
def test_cv_bridge_and_the_own_conversion_agree(rgb, encoding, monkeypatch):
    if not images.bridge_in_use():
        pytest.skip("cv_bridge is not installed here (it comes with a ROS installation)")
    message = (
        image_from_array(rgb[..., 0].copy(), "mono8", Header())
        if encoding == "mono8"
        else colour_message(rgb, encoding)
    )
    with_bridge = rgb_from_image(message, TOPIC)
    monkeypatch.setattr(images, "_bridge", None)
    np.testing.assert_array_equal(rgb_from_image(message, TOPIC), with_bridge)


def test_a_cv_bridge_that_mixes_up_colours_is_not_used(monkeypatch):
    class Swapped:
        def imgmsg_to_cv2(self, message, encoding):
            return np.frombuffer(message.data, np.uint8).reshape(1, 2, 3)

    module = type(images)("cv_bridge")
    module.CvBridge = Swapped
    monkeypatch.setitem(__import__("sys").modules, "cv_bridge", module)
    assert images._usable_bridge() is None


def test_grey_becomes_three_equal_channels(rgb):
    grey = rgb[..., 0].copy()
    result = rgb_from_image(padded(image_from_array(grey, "mono8", Header()), 2), TOPIC)
    np.testing.assert_array_equal(result, np.repeat(grey[..., None], 3, axis=2))


def test_rgb8_is_a_view_of_the_message(rgb):
    message = colour_message(rgb, "rgb8")
    assert np.shares_memory(rgb_from_image(message, TOPIC), np.frombuffer(message.data, np.uint8))


@pytest.mark.parametrize("padding", [0, 4])
def test_millimetres_become_metres_and_no_measurement_stays_zero(padding):
    depth = np.array([[0, 1, 1000], [65535, 5000, 250]], np.uint16)
    result = depth_from_image(padded(image_from_array(depth, "16UC1", Header()), padding), TOPIC)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, [[0, 0.001, 1], [65.535, 5, 0.25]], rtol=1e-6)


def test_float_depth_without_measurement_becomes_zero():
    depth = np.array([[1.5, np.nan, np.inf], [-np.inf, -1, 0]], np.float32)
    result = depth_from_image(image_from_array(depth, "32FC1", Header()), TOPIC)
    np.testing.assert_array_equal(result, [[1.5, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(("field", "value"), [("height", 0), ("width", 0)])
def test_an_image_without_pixels_is_refused(rgb, field, value):
    message = colour_message(rgb, "rgb8")
    setattr(message, field, value)
    with pytest.raises(ImageError, match=rf"{TOPIC}: rgb8 image of \d+x\d+ has no pixels"):
        rgb_from_image(message, TOPIC)


@pytest.mark.parametrize("change", [-1, 1])
def test_data_that_does_not_fit_the_header_is_refused_with_both_sizes(rgb, change):
    message = colour_message(rgb, "bgr8")
    message.data = array.array("B", bytes(105 + change))
    with pytest.raises(ImageError, match=rf"{TOPIC}: bgr8 .* needs 105 bytes of data, got {105 + change}"):
        rgb_from_image(message, TOPIC)


def test_a_step_smaller_than_a_row_is_refused(rgb):
    message = colour_message(rgb, "rgb8")
    message.step = 14
    with pytest.raises(ImageError, match=r"step must be at least 15.*got 14"):
        rgb_from_image(message, TOPIC)


def test_foreign_byte_order_of_depth_is_refused_and_irrelevant_for_bytes(rgb):
    depth = image_from_array(np.ones((2, 2), np.uint16), "16UC1", Header())
    depth.is_bigendian = 1 - depth.is_bigendian
    with pytest.raises(ImageError, match=r"/depth: 16UC1 .* byte order"):
        depth_from_image(depth, "/depth")
    colour = colour_message(rgb, "rgb8")
    colour.is_bigendian = 1 - colour.is_bigendian
    np.testing.assert_array_equal(rgb_from_image(colour, TOPIC), rgb)


@pytest.mark.parametrize("encoding", ["yuv422", "8UC3", "16UC1", "bayer_rggb8", ""])
def test_other_encodings_are_refused_by_name(rgb, encoding):
    message = colour_message(rgb, "rgb8")
    message.encoding = encoding
    with pytest.raises(ImageError, match=f"{TOPIC}: encoding '{encoding}' is not supported for colour: use rgb8,"):
        rgb_from_image(message, TOPIC)


def test_colour_on_the_depth_topic_is_refused(rgb):
    with pytest.raises(ImageError, match="/depth: encoding 'rgb8' is not supported for depth: use 16UC1, 32FC1"):
        depth_from_image(colour_message(rgb, "rgb8"), "/depth")


def compressed(pixels: np.ndarray, suffix: str, text: str) -> CompressedImage:
    _, data = cv2.imencode(suffix, pixels)
    return CompressedImage(format=text, data=array.array("B", data.tobytes()))


def test_png_keeps_red_red(rgb):
    message = compressed(rgb[..., ::-1], ".png", "rgb8; png compressed bgr8")
    np.testing.assert_array_equal(rgb_from_compressed(message, TOPIC), rgb)


def test_jpeg_keeps_red_red():
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    result = rgb_from_compressed(compressed(red[..., ::-1], ".jpg", "jpeg"), TOPIC)
    np.testing.assert_allclose(result.reshape(-1, 3).mean(axis=0), [200, 0, 0], atol=3)  # JPEG is lossy


def test_a_cut_off_jpeg_is_refused_instead_of_filled_with_grey(rgb):
    message = compressed(rgb, ".jpg", "jpeg")
    message.data = message.data[: len(message.data) // 2]
    with pytest.raises(ImageError, match=f"{TOPIC}: compressed image .* ends before the end of the JPEG"):
        rgb_from_compressed(message, TOPIC)


@pytest.mark.parametrize("data", [b"", b"\x00" * 40, b"\xff\xd8\xff\xd9", b"\x89PNG\r\n\x1a\n" + b"\x00" * 20])
def test_damaged_compressed_data_is_refused(data):
    with pytest.raises(ImageError, match=f"{TOPIC}: compressed image"):
        rgb_from_compressed(CompressedImage(format="jpeg", data=array.array("B", data)), TOPIC)


def test_sixteen_bit_png_is_depth():
    depth = np.array([[0, 1234], [65535, 1]], np.uint16)
    result = depth_from_compressed(compressed(depth, ".png", "16UC1; png compressed"), "/depth")
    np.testing.assert_allclose(result, depth / 1000, rtol=1e-6)


def test_eight_bit_png_is_not_depth(rgb):
    with pytest.raises(ImageError, match=r"/depth: depth must be a PNG with one 16-bit channel.*got 3 x uint8"):
        depth_from_compressed(compressed(rgb, ".png", "png"), "/depth")


def test_compressed_depth_transport_is_refused_with_a_way_out():
    message = CompressedImage(format="16UC1; compressedDepth png", data=array.array("B", bytes(12)))
    with pytest.raises(ImageError, match=r"/depth: .*compressedDepth.*publish depth raw"):
        depth_from_compressed(message, "/depth")


def test_wrong_arrays_are_not_published(rgb):
    with pytest.raises(ImageError, match=r"rgb8 needs \(height, width, 3\) uint8, got \(7, 5\) uint8"):
        image_from_array(rgb[..., 0], "rgb8", Header())
    with pytest.raises(ImageError, match=r"16UC1 needs .* uint16, got .* float32"):
        image_from_array(np.ones((2, 2), np.float32), "16UC1", Header())
