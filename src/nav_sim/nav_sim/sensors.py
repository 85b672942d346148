"""What a RealSense makes of the true depth: millimetres, a limited range, holes and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DepthSensor:
    """minimum, maximum: range in metres, outside of it there is no measurement (0). dropout: share of pixels lost
    anywhere; edge_dropout: share lost at jumps of depth. noise: standard deviation relative to the squared distance,
    1/m (stereo: the error grows with z²; 0.002 is 8 mm at 2 m).
    """

    minimum: float = 0.2
    maximum: float = 10.0
    dropout: float = 0.0
    edge_dropout: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.minimum < self.maximum <= 65.0:
            raise ValueError(
                f"depth range: expected 0 <= minimum < maximum <= 65 m, got {self.minimum}, {self.maximum}"
            )
        for name in ("dropout", "edge_dropout"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}: expected a share from 0 to 1, got {getattr(self, name)}")
        if not 0.0 <= self.noise < 1.0:
            raise ValueError(f"noise: expected 0 <= noise < 1 per metre, got {self.noise}")

    def measure(self, depth: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """True depth (H, W) in metres to a 16UC1 image (H, W) in millimetres, 0 where there is no measurement."""
        measured = depth
        if self.noise:
            measured = depth + self.noise * depth * depth * random.standard_normal(depth.shape, np.float32)
        lost = (measured < self.minimum) | (measured > self.maximum)
        if self.dropout:
            lost |= random.random(depth.shape, np.float32) < self.dropout
        if self.edge_dropout:
            jump = np.zeros(depth.shape, bool)
            jump[:, 1:] |= np.abs(np.diff(depth, axis=1)) > 0.1 * depth[:, 1:]
            jump[1:] |= np.abs(np.diff(depth, axis=0)) > 0.1 * depth[1:]
            lost |= jump & (random.random(depth.shape, np.float32) < self.edge_dropout)
        millimetres = (measured * 1000.0 + 0.5).astype(np.uint16)
        millimetres[lost] = 0
        return millimetres
