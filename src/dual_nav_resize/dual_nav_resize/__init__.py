"""Pillow's bicubic resize of RGB and depth images, bit for bit, in a third of its time.

A camera image waits for its resize before the model can begin, and little else on that way takes as long. Libraries
that are faster than Pillow round differently. The loops are in resize.cpp and run without Python's lock.

Rows are resized first, then columns, as Pillow did before its release 13, which turns that round for some sizes.
"""

from __future__ import annotations

import ctypes
import functools
import operator
from pathlib import Path
from typing import Any

import numpy as np

_FRACTION = 22  # bits of the weights of RGB behind the point, as in resize.cpp
_SUPPORT = 2.0  # of the bicubic kernel, in pixels of the smaller image
_SHARPNESS = -0.5  # the kernel's free parameter


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(Path(__file__).with_name("libresize.so")))
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    for function in (library.rgb_width, library.depth_width):
        function.argtypes = [pointer, size, size, size, pointer, pointer, size, pointer, size]
    for function in (library.rgb_height, library.depth_height):
        function.argtypes = [pointer, size, pointer, pointer, size, pointer, size]
    for function in (library.rgb_width, library.depth_width, library.rgb_height, library.depth_height):
        function.restype = None
    return library


_resize = _library()


def resize_rgb(rgb: np.ndarray, width: int, height: int) -> np.ndarray:
    """RGB (H, W, 3) uint8 to (height, width, 3) uint8, as `PIL.Image.resize((width, height))` does by default.

    Raises:
        TypeError, ValueError: another type, rank or number of channels, or an empty image.
    """
    _check("rgb", rgb, np.uint8, ("H", "W", 3), width, height)
    if rgb.strides[1:] != (3, 1):
        rgb = np.ascontiguousarray(rgb)
    return _resized(rgb, width, height, _fixed_point_weights, _resize.rgb_width, _resize.rgb_height)


def resize_depth(depth: np.ndarray, width: int, height: int) -> np.ndarray:
    """Depth (H, W) float32 to (height, width) float32, like `resize_rgb`; it may overshoot at edges.

    Raises:
        TypeError, ValueError: another type or rank, or an empty image.
    """
    _check("depth", depth, np.float32, ("H", "W"), width, height)
    if depth.strides[1] != depth.itemsize:
        depth = np.ascontiguousarray(depth)
    return _resized(depth, width, height, _weights, _resize.depth_width, _resize.depth_height)


def _check(name: str, image: np.ndarray, kind: type, shape: tuple[str | int, ...], width: int, height: int) -> None:
    if image.dtype != kind:
        raise TypeError(f"{name}: expected {np.dtype(kind)}, got {image.dtype}")
    if image.ndim != len(shape) or image.shape[2:] != shape[2:] or 0 in image.shape or min(width, height) < 1:
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"{name}: expected ({wanted}) and no empty image, got {image.shape} to {width}x{height}")


def _resized(image: np.ndarray, width: int, height: int, weights_of: Any, across: Any, down: Any) -> np.ndarray:
    rows, columns, *channels = image.shape
    narrow = np.empty((rows, width, *channels), image.dtype)
    weights, first = weights_of(columns, width)
    across(
        image.ctypes.data, image.strides[0], rows, columns,
        weights.ctypes.data, first.ctypes.data, weights.shape[1], narrow.ctypes.data, width,
    )  # fmt: skip
    resized = np.empty((height, width, *channels), image.dtype)
    weights, first = weights_of(rows, height)
    down(
        narrow.ctypes.data, width,
        weights.ctypes.data, first.ctypes.data, weights.shape[1], resized.ctypes.data, height,
    )  # fmt: skip
    return resized


@functools.lru_cache(maxsize=16)
def _weights(size: int, out_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (out_size, taps) of the inputs that each output is made of, and the first of these, int32.

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
        rows.append([weight / total for weight in row])
        starts.append(start)
    taps = max(len(row) for row in rows)
    weights, first = np.zeros((out_size, taps)), np.zeros(out_size, np.int32)
    for n, (row, start) in enumerate(zip(rows, starts, strict=True)):
        first[n] = min(start, size - taps)
        weights[n, start - first[n] : start - first[n] + len(row)] = row
    return weights, first


@functools.lru_cache(maxsize=16)
def _fixed_point_weights(size: int, out_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The same, with weights as int32 of _FRACTION bits behind the point."""
    weights, first = _weights(size, out_size)
    return np.trunc(weights * (1 << _FRACTION) + np.copysign(0.5, weights)).astype(np.int32), first


def _bicubic(x: float) -> float:
    x = abs(x)
    if x < 1.0:
        return ((_SHARPNESS + 2.0) * x - (_SHARPNESS + 3.0)) * x * x + 1.0
    if x < 2.0:
        return (((x - 5.0) * x + 8.0) * x - 4.0) * _SHARPNESS
    return 0.0
