"""RGB images to the normalised patches Qwen2.5-VL's vision tower takes.

The same function as transformers' ``Qwen2VLImageProcessor`` on Pillow (checked by a parity vector), without its
need for torchvision and with the number of patches known before any pixel is touched.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MAX_ASPECT_RATIO = 200  # beyond it transformers refuses, too


def check_rgb(rgb: np.ndarray, name: str = "rgb") -> np.ndarray:
    """Return ``rgb`` if it is a uint8 image (height, width, 3) of non-zero size, else raise ``ValueError``."""
    if not isinstance(rgb, np.ndarray):
        raise ValueError(f"{name} is a {type(rgb).__name__}, expected a numpy array (height, width, 3) of uint8")
    if rgb.dtype != np.uint8:
        raise ValueError(f"{name} has dtype {rgb.dtype}, expected uint8")
    if rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise ValueError(f"{name} has shape {rgb.shape}, expected (height, width, 3) with non-zero size")
    return rgb


def resize_rgb(rgb: np.ndarray, width: int, height: int) -> np.ndarray:
    """Pillow's default (bicubic) resize to ``width`` x ``height`` pixels, aspect not kept; uint8 in and out."""
    check_rgb(rgb)
    if rgb.shape[:2] == (height, width):
        return rgb
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class ImageProcessor:
    """Parameters of ``preprocessor_config.json``; the defaults are Qwen2-VL's."""

    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280
    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2
    image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, RGB
    image_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        for name in ("min_pixels", "max_pixels", "patch_size", "temporal_patch_size", "merge_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"preprocessor_config.json: {name} is {value!r}, expected a positive integer")
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"preprocessor_config.json: min_pixels {self.min_pixels} > max_pixels {self.max_pixels}")
        for name in ("image_mean", "image_std"):
            value = getattr(self, name)
            if len(value) != 3 or not all(math.isfinite(x) for x in value):
                raise ValueError(f"preprocessor_config.json: {name} is {value!r}, expected three numbers")
        if min(self.image_std) <= 0:
            raise ValueError(f"preprocessor_config.json: image_std is {self.image_std!r}, expected positive numbers")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ImageProcessor:
        """From the contents of a checkpoint's ``preprocessor_config.json`` (old or new field names)."""
        size = config.get("size") or {}
        values: dict[str, Any] = {
            "min_pixels": config.get("min_pixels") or size.get("shortest_edge") or cls.min_pixels,
            "max_pixels": config.get("max_pixels") or size.get("longest_edge") or cls.max_pixels,
        }
        for name in ("patch_size", "temporal_patch_size", "merge_size"):
            if name in config:
                values[name] = config[name]
        for name in ("image_mean", "image_std"):
            if name in config:
                values[name] = tuple(config[name])
        return cls(**values)

    @classmethod
    def from_folder(cls, folder: Path) -> ImageProcessor:
        """From a checkpoint folder; one without ``preprocessor_config.json`` gets Qwen2-VL's defaults."""
        path = Path(folder) / "preprocessor_config.json"
        return cls.from_config(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else cls()

    def size_for(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) the image is resized to: multiples of a merged patch, area within the limits."""
        if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
            raise ValueError(
                f"image of {width}x{height} pixels has an aspect ratio above {MAX_ASPECT_RATIO}: cannot be processed"
            )
        unit = self.patch_size * self.merge_size
        new_height, new_width = round(height / unit) * unit, round(width / unit) * unit
        if new_height * new_width > self.max_pixels:
            scale = math.sqrt(height * width / self.max_pixels)
            new_height = max(unit, math.floor(height / scale / unit) * unit)
            new_width = max(unit, math.floor(width / scale / unit) * unit)
        elif new_height * new_width < self.min_pixels:
            scale = math.sqrt(self.min_pixels / (height * width))
            new_height = math.ceil(height * scale / unit) * unit
            new_width = math.ceil(width * scale / unit) * unit
        return new_height, new_width

    def grid(self, height: int, width: int) -> tuple[int, int, int]:
        """Patch grid (1, rows, columns) of an image of that size [px]."""
        new_height, new_width = self.size_for(height, width)
        return 1, new_height // self.patch_size, new_width // self.patch_size

    def __call__(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
        """Patches of uint8 RGB images (height, width, 3).

        Returns float32 (patches of all images, channels * temporal_patch_size * patch_size²), each image's
        patches ordered by merge_size x merge_size cell, and the patch grid of each image.
        """
        patches = [self._patches(check_rgb(image)) for image in images]
        return np.concatenate(patches), [self.grid(*image.shape[:2]) for image in images]

    def _patches(self, rgb: np.ndarray) -> np.ndarray:
        height, width = self.size_for(*rgb.shape[:2])
        pixels = resize_rgb(rgb, width, height).astype(np.float32)
        pixels *= np.float32(1 / 255)
        pixels -= np.asarray(self.image_mean, np.float32)
        pixels /= np.asarray(self.image_std, np.float32)
        p, m = self.patch_size, self.merge_size
        cells = pixels.reshape(height // (p * m), m, p, width // (p * m), m, p, 3)
        cells = cells.transpose(0, 3, 1, 4, 6, 2, 5)  # cell row, cell column, row in cell, column in cell, c, y, x
        patches = cells.reshape(-1, 3, 1, p * p)
        # A still image fills every frame of the temporal patch.
        return np.repeat(patches, self.temporal_patch_size, axis=2).reshape(len(patches), -1)
