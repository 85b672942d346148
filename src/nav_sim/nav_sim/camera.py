"""The pinhole model of the robot's two cameras: pixels to rays and points to pixels.

Camera frame (optical, REP-103): x right, y down, z forward; metres. The cameras sit on the robot's middle line,
`forward` metres ahead of its centre and `height` metres above the floor; the second looks down by `TILT`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

TILT = math.radians(30.0)
NAMES = ("level", "look_down")


@dataclass(frozen=True)
class Camera:
    """Intrinsics and mounting. hfov [rad] is the horizontal field of view; tilt [rad] is positive downwards."""

    width: int = 640
    height_px: int = 480
    hfov: float = math.radians(79.0)
    height: float = 0.6
    forward: float = 0.12
    tilt: float = 0.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("width", 16, 4096),
            ("height_px", 16, 4096),
            ("hfov", 0.1, 3.0),
            ("height", 0.1, 2.0),
            ("forward", 0.0, 0.2),
            ("tilt", 0.0, 1.2),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"camera {name}: expected a value in [{low}, {high}], got {value}")

    @property
    def focal(self) -> float:
        """Focal length in pixels, the same for both axes (square pixels); 388.2 for 640 columns and 79°."""
        return self.width / 2.0 / math.tan(self.hfov / 2.0)

    @property
    def centre(self) -> tuple[float, float]:
        """Principal point (column, row): the middle of the image; the centre of the first pixel is (0, 0)."""
        return (self.width - 1) / 2.0, (self.height_px - 1) / 2.0

    @property
    def vfov(self) -> float:
        """Vertical field of view, rad."""
        return 2.0 * math.atan(self.height_px / 2.0 / self.focal)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points (N, 3) in the robot frame (x forward, y left, z up, origin on the floor below the centre) to pixels.

        Returns (N, 2) columns and rows, and (N,) depth along the optical axis [m]; points behind the camera have a
        depth <= 0 and meaningless pixels.
        """
        x, y, z = points[:, 0] - self.forward, points[:, 1], points[:, 2] - self.height
        cos, sin = math.cos(self.tilt), math.sin(self.tilt)
        depth = x * cos - z * sin
        down = -x * sin - z * cos
        safe = np.where(depth > 1e-6, depth, 1.0)
        pixels = np.stack([self.centre[0] - self.focal * y / safe, self.centre[1] + self.focal * down / safe], axis=1)
        return pixels, depth

    def floor_point(self, column: float, row: float) -> tuple[float, float] | None:
        """Where the ray through a pixel meets the floor, (x, y) in the robot frame; None at or above the horizon."""
        right = (column - self.centre[0]) / self.focal
        down = (row - self.centre[1]) / self.focal
        cos, sin = math.cos(self.tilt), math.sin(self.tilt)
        fall = down * cos + sin  # metres down for each metre of depth
        if fall <= 1e-3:
            return None
        depth = self.height / fall
        return self.forward + depth * (cos - down * sin), -depth * right

    def tilted(self) -> Camera:
        """The second camera: in the same place, looking down by TILT."""
        return replace(self, tilt=TILT)

    def contains(self, column: float, row: float, margin: float = 0.0) -> bool:
        """Whether a pixel lies in the image, at least `margin` pixels from its edge."""
        return margin <= column <= self.width - 1 - margin and margin <= row <= self.height_px - 1 - margin
