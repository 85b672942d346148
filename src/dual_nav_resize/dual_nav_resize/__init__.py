"""Pillow's bicubic resize of RGB images, bit for bit, in a third of its time.

A camera image waits for its resize before the model can begin, and nothing else on that way takes as long. Libraries
that are faster than Pillow round differently. The loops are in resize.cpp and run without Python's lock.
"""

from __future__ import annotations

import ctypes
import functools
import math
import operator
from pathlib import Path

import numpy as np

_FRACTION = 22  # bits of the weights behind the point, as in resize.cpp
_SUPPORT = 2.0  # of the bicubic kernel, in pixels of the smaller image
_SHARPNESS = -0.5  # the kernel's free parameter


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(Path(__file__).with_name("libresize.so")))
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    library.resize_width.argtypes = [pointer, size, size, size, pointer, pointer, size, pointer, size]
    library.resize_height.argtypes = [pointer, size, pointer, pointer, size, pointer, size]
    library.resize_width.restype = library.resize_height.restype = None
    return library


_resize = _library()


def resize_rgb(rgb: np.ndarray, width: int, height: int) -> np.ndarray:
    """RGB (H, W, 3) uint8 to (height, width, 3) uint8, as `PIL.Image.resize((width, height))` does by default.

    Rows first, then columns, as Pillow did always before its release 13, which turns that round for some sizes.

    Raises:
        TypeError, ValueError: another type, rank or number of channels, or an empty image.
    """
    if rgb.dtype != np.uint8:
        raise TypeError(f"rgb: expected uint8, got {rgb.dtype}")
    if rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape or min(width, height) < 1:
        raise ValueError(f"rgb: expected (H, W, 3) and a size of at least 1x1, got {rgb.shape} to {width}x{height}")
    if rgb.strides[1:] != (3, 1):
        rgb = np.ascontiguousarray(rgb)
    rows, columns = rgb.shape[:2]
    weights, first = _weights(columns, width)
    narrow = np.empty((rows, width, 3), np.uint8)
    _resize.resize_width(
        rgb.ctypes.data, rgb.strides[0], rows, columns,
        weights.ctypes.data, first.ctypes.data, weights.shape[1], narrow.ctypes.data, width,
    )  # fmt: skip
    weights, first = _weights(rows, height)
    resized = np.empty((height, width, 3), np.uint8)
    _resize.resize_height(
        narrow.ctypes.data, width,
        weights.ctypes.data, first.ctypes.data, weights.shape[1], resized.ctypes.data, height,
    )  # fmt: skip
    return resized


@functools.lru_cache(maxsize=16)
def _weights(size: int, out_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Fixed-point weights (out_size, taps) int32 of the inputs that each output is made of, and the first of these.

    All rows have the same number of taps, filled up with zeros and shifted so that none leaves the input.
    """
    scale = size / out_size
    stretch = max(scale, 1.0)  # a smaller image is made of all its pixels, a larger one of the nearest
    reach = _SUPPORT * stretch
    rows, starts = [], []
    for n in range(out_size):
        centre = (n + 0.5) * scale
        start = max(int(centre - reach + 0.5), 0)
        end = min(int(centre + reach + 0.5), size)
        row = [_bicubic((x - centre + 0.5) * (1.0 / stretch)) for x in range(start, end)]
        total = functools.reduce(operator.add, row)  # sum() would round better than Pillow
        rows.append([_fixed_point(weight / total) for weight in row])
        starts.append(start)
    taps = max(len(row) for row in rows)
    weights, first = np.zeros((out_size, taps), np.int32), np.zeros(out_size, np.int32)
    for n, (row, start) in enumerate(zip(rows, starts, strict=True)):
        first[n] = min(start, size - taps)
        weights[n, start - first[n] : start - first[n] + len(row)] = row
    return weights, first


def _bicubic(x: float) -> float:
    x = abs(x)
    if x < 1.0:
        return ((_SHARPNESS + 2.0) * x - (_SHARPNESS + 3.0)) * x * x + 1.0
    if x < 2.0:
        return (((x - 5.0) * x + 8.0) * x - 4.0) * _SHARPNESS
    return 0.0


def _fixed_point(weight: float) -> int:
    return int(weight * (1 << _FRACTION) + math.copysign(0.5, weight))
