"""Poses in the plane and the pinhole camera: from pixels to places and back. Plain Python, no ROS.

Robot frame: x forward, y left, z up, origin on the floor below the robot's centre; metres and radians.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

# Optical frame (x right, y down, z forward) to a level body frame (x forward, y left, z up).
_OPTICAL_TO_BODY = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
_MIN_FALL = 1e-3  # metres down for each metre of ray; less never meets the floor


@dataclass(frozen=True)
class Pose:
    """Where one frame lies in another: x, y [m], yaw [rad] counter-clockwise."""

    x: float = 0.0
    y: float = 0.0
    yaw: float = 0.0

    def place(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 2 or 3) of this pose's frame, in the outer frame; heights stay."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        placed = np.array(points, dtype=np.float64)
        placed[:, 0] = self.x + cos * points[:, 0] - sin * points[:, 1]
        placed[:, 1] = self.y + sin * points[:, 0] + cos * points[:, 1]
        return placed

    def then(self, inner: Pose) -> Pose:
        """The pose `inner`, given in this pose's frame, in the outer frame."""
        (point,) = self.place(np.array([[inner.x, inner.y]]))
        return Pose(float(point[0]), float(point[1]), self.yaw + inner.yaw)

    def inverse(self) -> Pose:
        """The outer frame in this pose's frame."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        return Pose(-cos * self.x - sin * self.y, sin * self.x - cos * self.y, -self.yaw)


@dataclass(frozen=True)
class Mount:
    """Where a camera sits: `height` above the floor, `x` ahead of the robot's centre, `pitch` positive downwards."""

    height: float = 0.6
    pitch: float = 0.0
    x: float = 0.0


@dataclass(frozen=True)
class Camera:
    """Intrinsics in pixels, without distortion, and the mount."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    mount: Mount = Mount()

    def mounted(self, mount: Mount) -> Camera:
        """The same camera in another place."""
        return replace(self, mount=mount)

    def _rotation(self) -> np.ndarray:
        """Matrix (3, 3) from the optical frame to the robot frame."""
        cos, sin = math.cos(self.mount.pitch), math.sin(self.mount.pitch)
        return np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]]) @ _OPTICAL_TO_BODY

    @property
    def centre(self) -> np.ndarray:
        """The optical centre (3,) in the robot frame."""
        return np.array([self.mount.x, 0.0, self.mount.height])

    def rays(self, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Vectors (N, 3) of the robot frame through pixels, one metre long along the optical axis."""
        optical = np.stack([(columns - self.cx) / self.fx, (rows - self.cy) / self.fy, np.ones(len(columns))], axis=1)
        return optical @ self._rotation().T

    def place_of(self, column: float, row: float, depth: float = 0.0) -> np.ndarray | None:
        """What a pixel shows, (3,) in the robot frame: at `depth` metres, or on the floor when that is not known (0).

        None for a pixel without depth that shows no floor.
        """
        (ray,) = self.rays(np.array([column]), np.array([row]))
        if depth <= 0.0:
            if -ray[2] < _MIN_FALL:
                return None
            depth = self.mount.height / -ray[2]
        return self.centre + depth * ray

    def pixels_of(self, points: np.ndarray, nearest: float = 0.05) -> np.ndarray:
        """Pixels (N, 2) of points (N, 3) of the robot frame; NaN where nearer than `nearest` m or behind."""
        optical = (points - self.centre) @ self._rotation()
        depth = np.where(optical[:, 2] > nearest, optical[:, 2], np.nan)
        return np.stack(
            [self.cx + self.fx * optical[:, 0] / depth, self.cy + self.fy * optical[:, 1] / depth], axis=1
        )

    def cloud(
        self, depth: np.ndarray, rgb: np.ndarray | None, step: int, farthest: float, highest: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Every `step`-th pixel of a depth image as points (N, 3) float32 of the robot frame and their colours.

        Args:
            depth: (height, width) metres; 0 where nothing was measured.
            rgb: uint8 of the same camera, of any size; None gives grey points.
            farthest, highest: what lies beyond [m] is left out, so that ceilings do not hide the robot.

        Returns: points and colours (N, 3) uint8.
        """
        height, width = depth.shape
        rows, columns = (part.ravel() for part in np.mgrid[step // 2 : height : step, step // 2 : width : step])
        reach = depth[rows, columns]
        points = self.centre + self.rays(columns, rows) * reach[:, None]
        kept = (reach > 0.0) & (reach < farthest) & (points[:, 2] < highest)
        if rgb is None:
            colours = np.full((int(kept.sum()), 3), 160, np.uint8)
        else:
            colours = rgb[rows[kept] * rgb.shape[0] // height, columns[kept] * rgb.shape[1] // width]
        return points[kept].astype(np.float32), colours


def segments(line: np.ndarray, height: float) -> np.ndarray:
    """A polyline (N, 2) as segments (N - 1, 2, 3) float32 at a height above the floor."""
    raised = np.column_stack([line[:, :2], np.full(len(line), height)]).astype(np.float32)
    return np.stack([raised[:-1], raised[1:]], axis=1)


def dense(line: np.ndarray, spacing: float = 0.05) -> np.ndarray:
    """Points (M, 2) along a polyline (N, 2), no farther apart than `spacing` metres: so that parts can be seen."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line[:, :2], axis=0), axis=1))])
    places = np.union1d(along, np.arange(0.0, along[-1], spacing))
    return np.stack([np.interp(places, along, line[:, axis]) for axis in (0, 1)], axis=1)
