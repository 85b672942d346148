"""A small recording made by calculation: a camera drives along a corridor with chequered walls.

Used where no real recording is at hand. Colour and depth agree pixel by pixel, and with the odometry.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dual_nav_bringup.make_bag import Intrinsics, RgbdFrame, write_bag

CAMERA = Intrinsics(width=320, height=240, fx=300.0, fy=300.0, cx=159.5, cy=119.5)
HALF_WIDTH, HEIGHT, END = 1.2, 2.4, 12.0  # of the corridor [m]
CAMERA_HEIGHT = 0.6  # [m]
SPEED, TURN = 0.4, 0.15  # [m/s], amplitude of the heading [rad]
RANGE = 8.0  # of the depth camera [m]


def poses(count: int, fps: float) -> np.ndarray:
    """x, y [m], yaw [rad] of the camera at each frame: float64 (count, 3)."""
    times = np.arange(count) / fps
    yaw = TURN * np.sin(times)
    steps = np.stack([np.cos(yaw), np.sin(yaw)], axis=1) * SPEED / fps
    position = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)[:-1]])
    return np.concatenate([position, yaw[:, None]], axis=1)


def render(pose: np.ndarray) -> RgbdFrame:
    """What the camera sees: rays against floor, ceiling, both walls and the end of the corridor."""
    x, y, yaw = pose
    column, row = np.meshgrid(np.arange(CAMERA.width), np.arange(CAMERA.height))
    left = -(column - CAMERA.cx) / CAMERA.fx  # for a step of 1 m along the optical axis
    up = -(row - CAMERA.cy) / CAMERA.fy
    direction = np.stack([np.cos(yaw) - left * np.sin(yaw), np.sin(yaw) + left * np.cos(yaw), up], axis=-1)
    origin = np.array([x, y, CAMERA_HEIGHT])
    surfaces = ((2, 0.0), (2, HEIGHT), (1, HALF_WIDTH), (1, -HALF_WIDTH), (0, END))
    colours = np.array([(150, 120, 90), (225, 225, 220), (90, 120, 170), (170, 100, 90), (120, 150, 110)])
    with np.errstate(divide="ignore", invalid="ignore"):
        depths = np.stack([(at - origin[axis]) / direction[..., axis] for axis, at in surfaces])
    depths[~(depths > 1e-6)] = np.inf
    nearest = depths.argmin(axis=0)
    depth = depths.min(axis=0)
    points = origin + direction * depth[..., None]
    tiles = np.floor(points / 0.5 + 1e-6).astype(int).sum(axis=-1) % 2
    shade = np.clip(1.1 - depth / 14, 0.35, 1.0) * (0.75 + 0.25 * tiles)
    rgb = (colours[nearest] * shade[..., None]).astype(np.uint8)
    return RgbdFrame(rgb, np.where(depth < RANGE, depth * 1000, 0).astype(np.uint16))


def write_corridor(out: Path, count: int = 30, fps: float = 5.0, **options) -> Path:
    """Write the recording; `options` as in write_bag."""
    way = poses(count, fps)

    def frames() -> Iterator[RgbdFrame]:
        return (render(pose) for pose in way)

    write_bag(out, frames(), CAMERA, way, "Drive along the corridor and stop at its end.", fps, **options)
    return out
