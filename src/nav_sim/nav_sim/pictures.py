"""A picture of an episode from above: the flat, the path driven, the plans, start and goal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from .episodes import Episode
from .grid import Point
from .judge import Result
from .simulator import Simulator
from .worlds import Flat

WIDTH = 960
_BAND = 64  # pixels for the text below the picture
_PATH, _PLAN, _START, _GOAL, _WALL = (30, 90, 230), (230, 120, 0), (30, 160, 60), (220, 30, 120), (58, 56, 54)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def episode_picture(
    episode: Episode, simulator: Simulator, driven: Sequence[Point], goals: Sequence[Point], result: Result
) -> np.ndarray:
    """(H, W, 3) uint8 RGB. driven: the robot's path; goals: where the pixel goals of the plans lay; metres."""
    map_image, scale = simulator.plan_view(WIDTH)
    height = map_image.shape[0]
    image = np.full((height + _BAND, WIDTH, 3), 255, np.uint8)
    image[:height] = map_image

    def pixel(point: Point) -> tuple[int, int]:
        return round(point[0] * scale), round(height - 1 - point[1] * scale)

    draw_walls(image[:height], episode.flat, scale)
    for goal in episode.goals:
        item = episode.flat.items[goal]
        corners = cv2.boxPoints(
            (pixel((item.x / 100, item.y / 100)), (item.width / 100 * scale, item.depth / 100 * scale), -item.yaw)
        )
        cv2.polylines(image, [np.intp(corners)], True, _GOAL, 3, cv2.LINE_AA)
    if len(driven) > 1:
        cv2.polylines(image, [np.asarray([pixel(p) for p in driven])], False, (255, 255, 255), 6, cv2.LINE_AA)
        cv2.polylines(image, [np.asarray([pixel(p) for p in driven])], False, _PATH, 3, cv2.LINE_AA)
    for point in goals:
        cv2.drawMarker(image, pixel(point), _PLAN, cv2.MARKER_TILTED_CROSS, 10, 2, cv2.LINE_AA)
    start = episode.start
    tip = start.to_world((0.35, 0.0))
    cv2.circle(image, pixel((start.x, start.y)), 7, _START, -1, cv2.LINE_AA)
    cv2.arrowedLine(image, pixel((start.x, start.y)), pixel(tip), _START, 3, cv2.LINE_AA, tipLength=0.4)
    for collision in simulator.collisions:
        cv2.drawMarker(image, pixel(collision.position), (230, 0, 0), cv2.MARKER_STAR, 18, 2, cv2.LINE_AA)
    verdict = "success" if result.success else f"failure ({result.outcome})"
    figures = (
        f"{episode.name}: {verdict}, SPL {result.spl:.2f}, {result.distance_at_stop:.2f} m from the goal, "
        f"{result.collisions} collisions, {result.time:.0f} s, {result.path_length:.1f} m"
    )
    for row, text in enumerate((episode.instruction, figures)):
        size = min(0.6, 0.6 * (WIDTH - 16) / max(1, cv2.getTextSize(text, _FONT, 0.6, 1)[0][0]))
        cv2.putText(image, text, (8, height + 24 + 26 * row), _FONT, size, (20, 20, 20), 1, cv2.LINE_AA)
    return image


def draw_walls(image: np.ndarray, flat: Flat, scale: float) -> None:
    """Fill the walls in a picture of the flat from above (`Simulator.plan_view`)."""
    for wall in flat.walls:
        corners = [
            (round(x / 100 * scale), round(image.shape[0] - 1 - y / 100 * scale))
            for x, y in ((wall.x0, wall.y0), (wall.x1, wall.y1))
        ]
        cv2.rectangle(image, corners[0], corners[1], _WALL, -1)


def save(image: np.ndarray, path: Path) -> None:
    """Write an RGB picture as PNG, whole or not at all."""
    done, data = cv2.imencode(".png", image[..., ::-1])
    if not done:
        raise OSError(f"{path}: the picture could not be encoded")
    partial = path.with_suffix(".tmp")
    partial.write_bytes(data.tobytes())
    partial.replace(path)
