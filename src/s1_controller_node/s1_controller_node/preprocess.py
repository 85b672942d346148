"""Camera images to the sizes and value ranges the System 1 models were trained on.

In the dual system both RGB and depth are squeezed to a square without keeping their aspect, with Pillow's
default filter (bicubic, which overshoots at depth edges). The standalone NavDP keeps the aspect and pads.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from .checks import check_array, check_number, check_positive_int

try:
    import dual_nav_resize as resizing
except (ImportError, OSError):  # not built: Pillow makes the same image, later
    resizing = None

MAX_DEPTH = 5.0  # metres; the training data were cut here
MIN_DEPTH_STANDALONE = 0.1  # metres; the standalone NavDP takes nearer readings as none


def without_invalid_readings(depth: np.ndarray) -> np.ndarray:
    """A depth image in metres with its non-numbers (REP 118: NaN no return, +inf too far) as 0, "no reading"."""
    if not isinstance(depth, np.ndarray) or depth.dtype.kind != "f":
        raise TypeError(
            f"depth: expected a float array in metres, got {getattr(depth, 'dtype', type(depth).__name__)}"
        )
    return np.where(np.isfinite(depth), depth, depth.dtype.type(0))


def resize_rgb(rgb: np.ndarray, size: int = 224) -> np.ndarray:
    """RGB (H, W, 3) uint8 to (size, size, 3) uint8, aspect not kept."""
    check_array("rgb", rgb, (None, None, 3), kind="u8")
    return _resized(rgb, _side(size))


def resize_depth(depth: np.ndarray, size: int = 224) -> np.ndarray:
    """Depth (H, W) float in metres, 0 = no reading, to (size, size) float32; not clipped, may overshoot at edges.

    Raises:
        TypeError, ValueError: another dtype or rank, negative depth, NaN or infinity (see
            :func:`without_invalid_readings`).
    """
    check_array("depth", depth, (None, None), minimum=0.0)
    return _resized(depth.astype(np.float32, copy=False), _side(size))


def clip_depth(depth: np.ndarray, maximum: float = MAX_DEPTH) -> np.ndarray:
    """Depth in metres with everything beyond ``maximum`` moved there, as in the training data of the dual system."""
    check_array("depth", depth, (None, None))
    return np.minimum(depth, np.float32(check_number("maximum", maximum, 0.0)))


def letterbox_rgb(rgb: np.ndarray, size: int = 224) -> np.ndarray:
    """RGB (H, W, 3) uint8 to (size, size, 3) uint8: longer side to ``size``, zeros around the shorter."""
    check_array("rgb", rgb, (None, None, 3), kind="u8")
    return _letterbox(rgb, _side(size))


def letterbox_depth(depth: np.ndarray, size: int = 224) -> np.ndarray:
    """Depth (H, W) float in metres to (size, size) float32; beyond 5.0 m and below 0.1 m it becomes 0."""
    check_array("depth", depth, (None, None), minimum=0.0)
    boxed = _letterbox(depth.astype(np.float32), _side(size))
    boxed[(boxed > MAX_DEPTH) | (boxed < MIN_DEPTH_STANDALONE)] = 0.0
    return boxed


def letterbox_pixel(pixel: tuple[float, float], width: int, height: int, size: int = 224) -> tuple[float, float]:
    """Where pixel (column, row) of a (height, width) image lies after :func:`letterbox_rgb`.

    Raises:
        ValueError: the pixel is outside the image.
    """
    column, row = pixel
    if not (0 <= column < width and 0 <= row < height):
        raise ValueError(f"pixel: expected (column, row) inside {width}x{height}, got ({column}, {row})")
    columns, rows, left, top = _box(width, height, _side(size))
    return column * columns / width + left, row * rows / height + top


def _side(size: int) -> int:
    return check_positive_int("size", size)


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    if resizing is None:
        return np.array(Image.fromarray(image).resize((size, size)))
    resize = resizing.resize_rgb if image.ndim == 3 else resizing.resize_depth
    return resize(image, size, size)


def _box(width: int, height: int, size: int) -> tuple[int, int, int, int]:
    """Width and height of the scaled image and the columns and rows of padding before it."""
    scale = size / max(width, height)
    columns, rows = max(1, round(width * scale)), max(1, round(height * scale))
    return columns, rows, (size - columns) // 2, (size - rows) // 2


def _letterbox(image: np.ndarray, size: int) -> np.ndarray:
    columns, rows, left, top = _box(image.shape[1], image.shape[0], size)
    boxed = np.zeros((size, size, *image.shape[2:]), dtype=image.dtype)
    boxed[top : top + rows, left : left + columns] = cv2.resize(image, (columns, rows))
    return boxed
