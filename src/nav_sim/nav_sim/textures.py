"""Textures drawn by program: floors with the shade of what stands on them, walls, windows, pictures."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

PIXELS_PER_METRE = 80
FLOOR_COLOURS = {
    "oak": (0.66, 0.50, 0.33),
    "walnut": (0.42, 0.28, 0.19),
    "ash": (0.74, 0.66, 0.54),
    "white tiles": (0.86, 0.86, 0.84),
    "grey tiles": (0.55, 0.56, 0.57),
    "terracotta": (0.68, 0.38, 0.26),
    "beige carpet": (0.70, 0.63, 0.53),
    "blue carpet": (0.33, 0.39, 0.50),
}
WALL_COLOURS = {
    "white": (0.92, 0.92, 0.90),
    "cream": (0.93, 0.89, 0.78),
    "sand": (0.84, 0.76, 0.63),
    "sage": (0.74, 0.81, 0.70),
    "sky": (0.72, 0.82, 0.90),
    "rose": (0.90, 0.77, 0.76),
    "grey": (0.74, 0.74, 0.75),
    "terracotta": (0.80, 0.56, 0.45),
}
WALL_TEXTURE_METRES = 4.0  # width of the wall texture before it repeats
BASEBOARD = 0.08


def _noise(random: np.random.Generator, shape: tuple[int, int], sigma: tuple[float, float]) -> np.ndarray:
    """Smooth noise of standard deviation 1, periodic."""
    values = ndimage.gaussian_filter(random.standard_normal(shape), sigma, mode="wrap")
    return values / max(float(values.std()), 1e-9)


def _to_image(colour: np.ndarray) -> np.ndarray:
    return (np.clip(colour, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def _planks(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Brightness of floor boards 13 cm wide and 1.2 m long, staggered."""
    rows, columns = shape
    y, x = np.arange(rows) / PIXELS_PER_METRE, np.arange(columns) / PIXELS_PER_METRE
    board = np.floor(y / 0.13).astype(int)
    offset = random.random(board.max() + 1)[board] * 1.2
    along = (x[None, :] + offset[:, None]) / 1.2
    number = np.floor(along).astype(int)
    tone = random.normal(1.0, 0.07, (board.max() + 1, number.max() + 2))[board[:, None], number]
    tone = tone * (1.0 + 0.035 * _noise(random, shape, (0.7, 14.0)) + 0.02 * _noise(random, shape, (2.0, 40.0)))
    pixel = 1.0 / PIXELS_PER_METRE
    joint = ((y % 0.13) < pixel)[:, None] | ((along % 1.0) * 1.2 < pixel)
    return np.where(joint, tone * 0.72, tone)


def _tiles(random: np.random.Generator, shape: tuple[int, int], side: float) -> np.ndarray:
    """Brightness of square tiles with joints."""
    rows, columns = shape
    y, x = np.arange(rows) / PIXELS_PER_METRE, np.arange(columns) / PIXELS_PER_METRE
    j, i = np.floor(y / side).astype(int), np.floor(x / side).astype(int)
    tone = random.normal(1.0, 0.03, (j.max() + 1, i.max() + 1))[j[:, None], i[None, :]]
    tone = tone * (1.0 + 0.012 * _noise(random, shape, (4.0, 4.0)))
    pixel = 1.0 / PIXELS_PER_METRE
    joint = ((y % side) < pixel)[:, None] | ((x % side) < pixel)[None, :]
    return np.where(joint, 0.78, tone)


def floor(kind: str, seed: int, size: tuple[float, float], shade: np.ndarray) -> np.ndarray:
    """Floor of a room: (rows, columns, 3) uint8, first row at the upper edge (largest y).

    kind: key of FLOOR_COLOURS. size: width and depth of the floor in metres. shade: (any rows, any columns) of how
    much light arrives (1 = all), first row at the lower edge; it is scaled to the floor.
    """
    random = np.random.default_rng([seed, 1])
    shape = (max(8, round(size[1] * PIXELS_PER_METRE)), max(8, round(size[0] * PIXELS_PER_METRE)))
    if "tiles" in kind or kind == "terracotta":
        tone = _tiles(random, shape, 0.33 if kind == "terracotta" else 0.4)
    elif "carpet" in kind:
        tone = 1.0 + 0.05 * random.standard_normal(shape) + 0.03 * _noise(random, shape, (12.0, 12.0))
    else:
        tone = _planks(random, shape)
    scaled = ndimage.zoom(shade, (shape[0] / shade.shape[0], shape[1] / shade.shape[1]), order=1)
    light = np.ones(shape)
    rows, columns = min(shape[0], scaled.shape[0]), min(shape[1], scaled.shape[1])
    light[:rows, :columns] = scaled[:rows, :columns]
    colour = np.asarray(FLOOR_COLOURS[kind]) * tone[..., None] * light[::-1, :, None]
    return _to_image(colour)


def wall(kind: str, seed: int, height: float) -> np.ndarray:
    """Wall paint with a baseboard, a little darker towards floor and ceiling: (256, 512, 3) uint8, top row first."""
    random = np.random.default_rng([seed, 2])
    shape = (256, 512)
    z = (shape[0] - 0.5 - np.arange(shape[0])) / shape[0] * height
    light = 1.0 - 0.16 * np.exp(-z / 0.25) - 0.12 * np.exp(-(height - z) / 0.30)
    tone = 1.0 + 0.010 * _noise(random, shape, (1.0, 1.0)) + 0.008 * _noise(random, shape, (20.0, 20.0))
    colour = np.asarray(WALL_COLOURS[kind]) * (tone * light[:, None])[..., None]
    board = z < BASEBOARD
    colour[board] = np.asarray((0.88, 0.87, 0.84)) * light[board][:, None, None]
    edge = np.argmax(board)
    colour[edge] *= 0.75
    return _to_image(colour)


def window(seed: int) -> np.ndarray:
    """A window with the sky and something green behind it: (128, 128, 3) uint8."""
    random = np.random.default_rng([seed, 3])
    side = 128
    y = np.linspace(0, 1, side)[:, None, None]
    picture = (1 - y) * np.asarray((0.62, 0.80, 0.98)) + y * np.asarray((0.95, 0.98, 1.0))
    picture = np.broadcast_to(picture, (side, side, 3)).copy()
    clouds = _noise(random, (side, side), (6.0, 16.0))
    picture += np.clip(clouds - 0.6, 0, 1)[..., None] * 0.25
    skyline = 0.68 + 0.05 * ndimage.gaussian_filter(random.standard_normal(side), 6, mode="wrap") / 0.15
    green = y[..., 0] > skyline[None, :]
    picture[green] = np.asarray((0.42, 0.55, 0.36)) * (1 + 0.1 * random.standard_normal((int(green.sum()), 1)))
    frame = np.zeros((side, side), bool)
    frame[:7] = frame[-7:] = frame[:, :6] = frame[:, -6:] = True
    frame[:, side // 2 - 3 : side // 2 + 3] = True
    picture[frame] = (0.93, 0.93, 0.92)
    edges = frame & ~ndimage.binary_erosion(frame, border_value=1)
    picture[edges] = (0.72, 0.72, 0.72)
    return _to_image(picture)


def picture(motif: int) -> np.ndarray:
    """An abstract picture in a dark frame with a white mat: (96, 96, 3) uint8."""
    random = np.random.default_rng([motif, 4])
    side = 96
    image = np.ones((side, side, 3)) * np.asarray((0.95, 0.94, 0.91))
    inner = slice(16, side - 16)
    size = side - 32
    base, other, third = random.random((3, 3)) * 0.8 + 0.1
    field = _noise(random, (size, size), (9.0, 9.0))
    content = np.where(field[..., None] > 0.4, other, base) * np.ones((size, size, 1))
    content[_noise(random, (size, size), (5.0, 14.0)) > 1.0] = third
    image[inner, inner] = content
    tone = random.random() * 0.25 + 0.05
    image[:5] = image[-5:] = image[:, :5] = image[:, -5:] = (tone, tone * 0.8, tone * 0.6)
    return _to_image(image)
