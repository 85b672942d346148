"""The picture of a plan for people: the camera image with pixel goal and answer. Plain Python, no ROS."""

from __future__ import annotations

import cv2
import numpy as np

from .planner import Plan

ACTION_NAMES = {0: "stop", 1: "forward", 2: "left", 3: "right", 5: "look down"}
_GOAL_COLOUR, _TEXT_COLOUR, _BAND_COLOUR = (255, 64, 64), (255, 255, 255), (0, 0, 0)


def draw_plan(rgb: np.ndarray, plan: Plan) -> np.ndarray:
    """A copy of the image (height, width, 3) uint8 RGB the plan refers to, with goal and answer drawn on it."""
    picture = np.ascontiguousarray(rgb).copy()
    height, width = picture.shape[:2]
    unit = max(1, round(height / 240))
    if plan.pixel_goal is not None:
        # The middle of the goal's pixel, in a picture of another size.
        column, row = (
            int((place + 0.5) * shown / asked)
            for place, shown, asked in zip(plan.pixel_goal, (width, height), plan.image_size, strict=True)
        )
        cv2.circle(picture, (column, row), 6 * unit, _GOAL_COLOUR, 2 * unit)
        cv2.circle(picture, (column, row), unit, _GOAL_COLOUR, -1)
    band = 18 * unit
    cv2.rectangle(picture, (0, height - band), (width, height), _BAND_COLOUR, -1)
    cv2.putText(
        picture,
        describe(plan),
        (4 * unit, height - 5 * unit),
        cv2.FONT_HERSHEY_SIMPLEX,
        0.4 * unit,
        _TEXT_COLOUR,
        unit,
        cv2.LINE_AA,
    )
    return picture


def describe(plan: Plan) -> str:
    """The plan in a few words, ASCII only (OpenCV's fonts have no arrows)."""
    camera = " (look down)" if plan.look_down else ""
    if plan.pixel_goal is not None:
        return f"goal {plan.pixel_goal[0]} {plan.pixel_goal[1]}{camera}"
    return ", ".join(ACTION_NAMES[action] for action in plan.actions) + camera
