"""The one place where camera messages become arrays and arrays become messages.

Colour always leaves as RGB uint8 (height, width, 3), depth as float32 metres (height, width). What cannot be
converted without guessing is refused with an `ImageError` that names topic, encoding, what was expected and what
came. Nothing here needs a ROS node; only message classes are imported.

Depth without a measurement is 0: zeros of 16UC1 stay, NaN, infinities and negative values of 32FC1 (REP-118)
become 0, so that no NaN travels on.
"""

from __future__ import annotations

import array
import sys
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

MILLIMETRE = np.float32(0.001)

# encoding: (channel type, channels, OpenCV's code for conversion to RGB, None when it is RGB already)
_COLOUR_ENCODINGS: dict[str, tuple[type, int, int | None]] = {
    "rgb8": (np.uint8, 3, None),
    "bgr8": (np.uint8, 3, cv2.COLOR_BGR2RGB),
    "rgba8": (np.uint8, 4, cv2.COLOR_RGBA2RGB),
    "bgra8": (np.uint8, 4, cv2.COLOR_BGRA2RGB),
    "mono8": (np.uint8, 1, cv2.COLOR_GRAY2RGB),
}
_DEPTH_ENCODINGS: dict[str, tuple[type, int]] = {"16UC1": (np.uint16, 1), "32FC1": (np.float32, 1)}
_CHANNEL_NAMES = {np.uint8: "uint8", np.uint16: "uint16", np.float32: "float32"}

_JPEG_START, _JPEG_END, _PNG_START = b"\xff\xd8", b"\xff\xd9", b"\x89PNG\r\n\x1a\n"
_JPEG_PADDING = 64  # bytes some encoders leave behind the end marker


class ImageError(ValueError):
    """An image message that cannot be converted; the text names topic, encoding, expected and actual."""


def _usable_bridge() -> Any:
    """cv_bridge where ROS provides it and it converts colours correctly here; None otherwise.

    Versions of cv_bridge built against another numpy or OpenCV import and then fail on the first image, so it has
    to show its work once.
    """
    try:
        from cv_bridge import CvBridge

        bridge = CvBridge()
        probe = Image(height=1, width=2, encoding="bgr8", step=6, data=array.array("B", [1, 2, 3, 4, 5, 6]))
        probe.is_bigendian = int(sys.byteorder == "big")
        answer = np.asarray(bridge.imgmsg_to_cv2(probe, "rgb8"))
    except Exception:
        return None
    return bridge if answer.tolist() == [[[3, 2, 1], [6, 5, 4]]] else None


_bridge = _usable_bridge()


def bridge_in_use() -> bool:
    """Whether colour conversion goes through ROS's cv_bridge on this machine."""
    return _bridge is not None


def rgb_from_image(message: Image, topic: str) -> np.ndarray:
    """RGB uint8 (height, width, 3) of a colour image; a view into the message when it is rgb8.

    Args:
        message: encoding rgb8, bgr8, rgba8, bgra8 or mono8; rows may be padded.
        topic: for the error text.

    Raises:
        ImageError: another encoding, a zero size, or data that does not fit the header.
    """
    if message.encoding not in _COLOUR_ENCODINGS:
        raise _refused_encoding(message, topic, "colour", _COLOUR_ENCODINGS)
    channel, channels, code = _COLOUR_ENCODINGS[message.encoding]
    pixels = _pixels(message, topic, channel, channels)
    if code is None:
        return pixels
    if _bridge is not None:
        return np.asarray(_bridge.imgmsg_to_cv2(message, "rgb8"))
    return cv2.cvtColor(pixels, code)


def depth_from_image(message: Image, topic: str) -> np.ndarray:
    """Depth float32 metres (height, width) of a 16UC1 (mm) or 32FC1 (m) image; 0 where nothing was measured.

    Raises:
        ImageError: another encoding, a zero size, foreign byte order, or data that does not fit the header.
    """
    if message.encoding not in _DEPTH_ENCODINGS:
        raise _refused_encoding(message, topic, "depth", _DEPTH_ENCODINGS)
    channel, channels = _DEPTH_ENCODINGS[message.encoding]
    return _metres(_pixels(message, topic, channel, channels))


def rgb_from_compressed(message: CompressedImage, topic: str) -> np.ndarray:
    """RGB uint8 (height, width, 3) of a JPEG or PNG; its orientation tag is ignored, as cameras do not set it.

    Raises:
        ImageError: another format, or data that is damaged or cut off.
    """
    return cv2.cvtColor(_decoded(message, topic, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION), cv2.COLOR_BGR2RGB)


def depth_from_compressed(message: CompressedImage, topic: str) -> np.ndarray:
    """Depth float32 metres (height, width) of a 16-bit PNG in millimetres.

    Raises:
        ImageError: another format (compressedDepth has a header of its own), bit depth or channel count, or
            damaged data.
    """
    if "compressedDepth" in message.format:
        raise ImageError(
            f"{topic}: format {message.format!r} is not supported: publish depth raw, or as a plain 16-bit PNG"
        )
    pixels = _decoded(message, topic, cv2.IMREAD_UNCHANGED)
    if pixels.dtype != np.uint16 or pixels.ndim != 2:
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        raise ImageError(
            f"{topic}: depth must be a PNG with one 16-bit channel (mm), got {channels} x {pixels.dtype} "
            f"(format {message.format!r})"
        )
    return _metres(pixels)


def image_from_array(pixels: np.ndarray, encoding: str, header: Header) -> Image:
    """The message for an array, without row padding.

    Args:
        pixels: (height, width, channels), or (height, width) for one channel, in the encoding's own type.
        encoding: any encoding this module reads.

    Raises:
        ImageError: type or shape do not fit the encoding.
    """
    if encoding in _COLOUR_ENCODINGS:
        channel, channels, _ = _COLOUR_ENCODINGS[encoding]
    elif encoding in _DEPTH_ENCODINGS:
        channel, channels = _DEPTH_ENCODINGS[encoding]
    else:
        known = ", ".join([*_COLOUR_ENCODINGS, *_DEPTH_ENCODINGS])
        raise ImageError(f"encoding {encoding!r} is not one of {known}")
    wanted_rank = 2 if channels == 1 else 3
    if pixels.dtype != channel or pixels.ndim != wanted_rank or (channels > 1 and pixels.shape[2] != channels):
        raise ImageError(
            f"{encoding} needs (height, width{'' if channels == 1 else f', {channels}'}) {_CHANNEL_NAMES[channel]}, "
            f"got {pixels.shape} {pixels.dtype}"
        )
    # Only array.array is stored by the message without a check of every element.
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(pixels).data.cast("B"))
    height, width = pixels.shape[:2]
    return Image(
        header=header,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(sys.byteorder == "big"),
        step=width * channels * np.dtype(channel).itemsize,
        data=data,
    )


def _refused_encoding(message: Image, topic: str, what: str, known: dict) -> ImageError:
    return ImageError(f"{topic}: encoding {message.encoding!r} is not supported for {what}: use {', '.join(known)}")


def _pixels(message: Image, topic: str, channel: type, channels: int) -> np.ndarray:
    """View of the message's pixels, (height, width[, channels]), after checking that data and header agree."""
    height, width, step = message.height, message.width, message.step
    item = np.dtype(channel).itemsize
    label = f"{topic}: {message.encoding} image of {width}x{height}"
    if height == 0 or width == 0:
        raise ImageError(f"{label} has no pixels")
    row = width * channels * item
    if step < row or step % item:
        raise ImageError(f"{label}: step must be at least {row} and a multiple of {item} bytes, got {step}")
    if len(message.data) != step * height:
        raise ImageError(f"{label} with step {step} needs {step * height} bytes of data, got {len(message.data)}")
    if item > 1 and bool(message.is_bigendian) != (sys.byteorder == "big"):
        wanted = f"is_bigendian {int(sys.byteorder == 'big')}"
        raise ImageError(f"{label}: byte order differs from this machine's, expected {wanted}")
    rows = np.frombuffer(message.data, dtype=channel).reshape(height, step // item)[:, : width * channels]
    return rows if channels == 1 else rows.reshape(height, width, channels)


def _metres(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint16:
        return np.multiply(pixels, MILLIMETRE, dtype=np.float32)
    measured = (pixels > 0) & (pixels < np.float32(np.inf))  # NaN compares false
    return np.where(measured, pixels, np.float32(0))


def _decoded(message: CompressedImage, topic: str, flags: int) -> np.ndarray:
    data = np.frombuffer(message.data, dtype=np.uint8)
    label = f"{topic}: compressed image (format {message.format!r}, {data.size} bytes)"
    head = data[: len(_PNG_START)].tobytes()
    is_jpeg = head.startswith(_JPEG_START)
    if not is_jpeg and head != _PNG_START:
        raise ImageError(f"{label} is neither JPEG nor PNG")
    # The JPEG decoder fills what is missing with grey instead of failing.
    if is_jpeg and _JPEG_END not in data[-_JPEG_PADDING:].tobytes():
        raise ImageError(f"{label} ends before the end of the JPEG")
    try:
        pixels = cv2.imdecode(data, flags)
    except cv2.error as error:
        raise ImageError(f"{label} cannot be decoded: {error.err}") from error
    if pixels is None:
        raise ImageError(f"{label} cannot be decoded")
    return pixels
