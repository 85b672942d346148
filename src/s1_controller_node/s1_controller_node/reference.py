"""A path as the trackers need it: by arc length, with headings, curvature and projection.

The heading channel of a sampled trajectory is not used here: a differential drive can only go where the points go,
so headings come from the points (the channel agrees with them as far as the model was trained well).
"""

from __future__ import annotations

import functools
import math

import numpy as np

from .geometry import wrap_angle

SPACING = 0.05  # of the resampled points [m]; the models' labels have a point every 0.1 m
HEADING_WINDOW = 0.15  # headings are chords over ± this length [m], so that noise of single points does not show
MINIMUM_LENGTH = 0.05  # shorter than this a path is a place [m]


class ReferencePath:
    """A polyline in a fixed frame (here always odom), parametrised by arc length s from its first point.

    Attributes:
        points: (N, 2) positions every ``SPACING`` [m], the last one closer.
        s: (N,) arc length [m]. length: of the whole path [m].
    """

    def __init__(self, points: np.ndarray) -> None:
        """Args: points (M, 2) or (M, 3), metres; further columns are ignored, repeated points are dropped.

        Raises:
            ValueError: wrong shape, NaN or infinity, or a path shorter than ``MINIMUM_LENGTH``.
        """
        points = np.asarray(points, dtype=np.float64)
        if points.ndim != 2 or points.shape[0] < 2 or points.shape[1] < 2:
            raise ValueError(f"path: expected shape (at least 2, 2 or more), got {points.shape}")
        if not np.isfinite(points[:, :2]).all():
            raise ValueError("path: expected finite coordinates, got NaN or infinity")
        corners = points[:, :2]
        moved = np.concatenate([[True], np.hypot(*np.diff(corners, axis=0).T) > 1e-4])
        corners = corners[moved]
        at = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(corners, axis=0).T))])
        self.length = float(at[-1])
        if self.length < MINIMUM_LENGTH:
            raise ValueError(f"path: expected a length of at least {MINIMUM_LENGTH} m, got {self.length:.3f} m")
        count = max(2, math.ceil(self.length / SPACING) + 1)
        self.s = np.linspace(0.0, self.length, count)
        self.points = np.stack([np.interp(self.s, at, corners[:, 0]), np.interp(self.s, at, corners[:, 1])], axis=1)

    @functools.cached_property
    def heading(self) -> np.ndarray:
        """(N,) direction of travel [rad], continuous (not wrapped)."""
        ahead = np.minimum(self.s + HEADING_WINDOW, self.length)
        behind = np.maximum(self.s - HEADING_WINDOW, 0.0)
        chord = self._points_at(ahead) - self._points_at(behind)
        return np.unwrap(np.arctan2(chord[:, 1], chord[:, 0]))

    @functools.cached_property
    def curvature(self) -> np.ndarray:
        """(N,) [1/m], positive to the left."""
        return np.gradient(self.heading, self.s)

    def _points_at(self, s: np.ndarray) -> np.ndarray:
        return np.stack([np.interp(s, self.s, self.points[:, 0]), np.interp(s, self.s, self.points[:, 1])], axis=-1)

    def pose_at(self, s: float) -> np.ndarray:
        """Pose (3,) at arc length ``s`` [m]; beyond the end the path goes on straight."""
        point = self._points_at(np.float64(s))
        heading = float(np.interp(s, self.s, self.heading))
        beyond = max(0.0, s - self.length)
        return np.array(
            [point[0] + beyond * math.cos(heading), point[1] + beyond * math.sin(heading), wrap_angle(heading)]
        )

    def project(self, position: np.ndarray, s_from: float = 0.0, s_to: float = math.inf) -> float:
        """Arc length [m] of the point nearest to ``position`` (2,) among those from ``s_from`` to ``s_to``.

        The bounds make progress monotone and keep a path that crosses itself from being cut short.
        """
        s_from = min(max(s_from, 0.0), self.length)
        s_to = min(max(s_to, s_from), self.length)
        start, step = self.points[:-1], np.diff(self.points, axis=0)
        share = ((position[:2] - start) * step).sum(axis=1) / (step * step).sum(axis=1)
        candidate = np.clip(self.s[:-1] + np.clip(share, 0.0, 1.0) * np.diff(self.s), s_from, s_to)
        offset = self._points_at(candidate) - position[:2]
        return float(candidate[np.argmin((offset * offset).sum(axis=1))])

    def cut(self, s: float) -> np.ndarray:
        """Points (K, 2) of what is left from arc length ``s`` on, beginning exactly there."""
        return np.concatenate([self._points_at(np.array([s])), self.points[self.s > s]])

    def lateral_offset(self, position: np.ndarray, s: float) -> float:
        """Signed distance [m] of ``position`` from the path at ``s``, positive to its left."""
        x, y, heading = self.pose_at(s)
        return -math.sin(heading) * (position[0] - x) + math.cos(heading) * (position[1] - y)


def speed_profile(path: ReferencePath, cruise: float, omega_max: float, lateral: float, braking: float) -> np.ndarray:
    """Reference speed (N,) [m/s] at the points of a path.

    Slows down for curvature (yaw rate ``omega_max`` [rad/s] and lateral acceleration ``lateral`` [m/s²] are kept)
    and toward the end (standstill there), early enough for the deceleration ``braking`` [m/s²].
    """
    bend = np.maximum(np.abs(path.curvature), 1e-6)
    speed = np.minimum(cruise, np.minimum(omega_max / bend, np.sqrt(lateral / bend)))
    # Braking into what lies ahead: v(s)² <= v(s')² + 2·a·(s' - s) for every s' > s.
    squared = np.append(speed[:-1] ** 2, 0.0) + 2.0 * braking * path.s
    reachable = np.minimum.accumulate(squared[::-1])[::-1] - 2.0 * braking * path.s
    return np.sqrt(np.maximum(reachable, 0.0))
