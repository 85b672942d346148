"""Changes of colour that a camera could make, as the releases were trained with.

Brightness and saturation by up to 20 %, and each with probability one half: 4 bits per channel, sharpness 1.5,
contrast stretched to the full range. One draw holds for all images of a sample, which come from one camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

_JITTER = 0.2  # of brightness and saturation
_POSTERISE_BITS = 4
_SHARPNESS = 1.5
_PROBABILITY = 0.5


@dataclass(frozen=True)
class ColourChange:
    """What happens to the images of one sample; the defaults change nothing."""

    brightness: float = 1.0
    saturation: float = 1.0
    posterise: bool = False
    sharpen: bool = False
    autocontrast: bool = False

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> ColourChange:
        jitter = rng.uniform(1 - _JITTER, 1 + _JITTER, 2)
        return cls(float(jitter[0]), float(jitter[1]), *(rng.random(3) < _PROBABILITY).tolist())

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """uint8 RGB (H, W, 3) to the same."""
        image = Image.fromarray(rgb)
        image = ImageEnhance.Brightness(image).enhance(self.brightness)
        image = ImageEnhance.Color(image).enhance(self.saturation)
        if self.posterise:
            image = ImageOps.posterize(image, _POSTERISE_BITS)
        if self.sharpen:
            image = ImageEnhance.Sharpness(image).enhance(_SHARPNESS)
        if self.autocontrast:
            image = ImageOps.autocontrast(image)
        return np.asarray(image)
