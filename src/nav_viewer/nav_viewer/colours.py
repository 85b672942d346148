"""The colours of the page, the same in every picture: RGB, 0 to 255."""

from __future__ import annotations

import cv2
import numpy as np

PATH = (0, 200, 255)  # the path S1 follows
DRIVEN = (255, 176, 32)  # where the robot has been
GOAL = (255, 64, 160)  # S2's pixel goal
ROBOT = (240, 244, 248)
WALL = (148, 163, 184)
BACKGROUND = (17, 24, 32)

GOOD, BUSY, RESTING, WARNING, BAD = "#22c55e", "#0ea5e9", "#64748b", "#f59e0b", "#ef4444"


def depth_colours(depth: np.ndarray, nearest: float = 0.2, farthest: float = 5.0) -> np.ndarray:
    """Depth (H, W) in metres as RGB (H, W, 3) uint8: near is red, far is blue, not measured is black."""
    share = np.clip((farthest - depth) / (farthest - nearest), 0.0, 1.0)
    coloured = cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1].copy()
    coloured[depth <= 0.0] = 0
    return coloured


def css(colour: tuple[int, int, int]) -> str:
    """#rrggbb"""
    return "#{:02x}{:02x}{:02x}".format(*colour)
