"""A small recording made by calculation: a camera drives along a corridor with chequered walls.

Used where no real recording is at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dual_nav_bringup.make_bag import RgbdFrame, write_bag
from dual_nav_bringup.scenes import CAMERA, render

SPEED, TURN = 0.4, 0.15  # [m/s], amplitude of the heading [rad]


def poses(count: int, fps: float) -> np.ndarray:
    """x, y [m], yaw [rad] of the camera at each frame: float64 (count, 3)."""
    times = np.arange(count) / fps
    yaw = TURN * np.sin(times)
    steps = np.stack([np.cos(yaw), np.sin(yaw)], axis=1) * SPEED / fps
    position = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)[:-1]])
    return np.concatenate([position, yaw[:, None]], axis=1)


def write_corridor(out: Path, count: int = 30, fps: float = 5.0, **options) -> Path:
    """Write the recording; `options` as in write_bag."""
    way = poses(count, fps)

    def frames() -> Iterator[RgbdFrame]:
        return (render(pose) for pose in way)

    write_bag(out, frames(), CAMERA, way, "Drive along the corridor and stop at its end.", fps, **options)
    return out
