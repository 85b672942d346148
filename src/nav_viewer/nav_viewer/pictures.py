"""The pictures of the page: camera with path and pixel goal, depth, map. RGB uint8; plain Python, no ROS."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .colours import BACKGROUND, DRIVEN, GOAL, PATH, ROBOT, WALL, depth_colours
from .geometry import Pose

CAMERA_WIDTH, DEPTH_WIDTH = 640, 480
MAP_SIZE = (640, 520)  # width, height
_MARGIN = 0.4  # m around what the map shows
_SMALLEST = 5.0  # m across the map at least
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_BLACK = (0, 0, 0)


@dataclass(frozen=True, eq=False)
class FloorPlan:
    """What is known of the surroundings: a picture (H, W, 3) that covers a rectangle of the map frame, top row
    farthest in y. x, y: its lower left corner; width, height; metres."""

    x: float
    y: float
    width: float
    height: float
    picture: np.ndarray


def plan_of_grid(cells: np.ndarray, resolution: float, x: float, y: float) -> FloorPlan:
    """The plan of an occupancy grid: cells (rows, columns) int8 from the lower left, 0 free to 100, -1 unknown."""
    shares = np.clip(cells[::-1].astype(np.float32), 0, 100)[..., None] / 100.0
    picture = np.array((38, 48, 58)) * (1 - shares) + np.array(WALL) * shares
    picture[cells[::-1] < 0] = BACKGROUND
    rows, columns = cells.shape
    return FloorPlan(x, y, columns * resolution, rows * resolution, picture.astype(np.uint8))


def camera_picture(rgb: np.ndarray, path: np.ndarray | None, goal: np.ndarray | None, width: int) -> np.ndarray:
    """The camera image `width` pixels wide, with path (N, 2) and goal (2,) drawn at their pixels of `rgb`.

    Pixels that are not finite lie behind the camera and are left out.
    """
    scale = width / rgb.shape[1]
    picture = cv2.resize(rgb, (width, round(rgb.shape[0] * scale)), interpolation=cv2.INTER_AREA)
    if path is not None:
        shown = path[np.isfinite(path).all(axis=1)] * scale
        _line(picture, shown, PATH, 4)
    if goal is not None and np.isfinite(goal).all() and np.all(np.abs(goal) < 1e5):
        place = _whole(goal * scale)
        for radius, colour, thickness in ((11, _BLACK, 6), (11, GOAL, 3), (3, GOAL, -1)):
            cv2.circle(picture, place, radius, colour, thickness, cv2.LINE_AA)
    return picture


def depth_picture(depth: np.ndarray, width: int) -> np.ndarray:
    """Depth (H, W) in metres, coloured, `width` pixels wide."""
    height = round(depth.shape[0] * width / depth.shape[1])
    return depth_colours(cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST))


def map_picture(
    plan: FloorPlan | None,
    robot: Pose | None,
    driven: np.ndarray,
    path: np.ndarray | None,
    goal: np.ndarray | None,
    obstacles: np.ndarray,
    robot_radius: float,
    size: tuple[int, int] = MAP_SIZE,
) -> np.ndarray:
    """The map from above, y upwards: plan or obstacles, driven path, path, goal, robot; all in the map frame, metres.

    It shows the whole plan, or, without one, everything that is known.
    """
    sheet = _Sheet(_extent(plan, robot, driven, obstacles), size)
    if plan is not None:
        sheet.lay(plan)
    for column, row in sheet.pixels(obstacles):
        cv2.circle(sheet.picture, (round(column), round(row)), 1, WALL, -1)
    _line(sheet.picture, sheet.pixels(driven), DRIVEN, 3)
    if path is not None:
        _line(sheet.picture, sheet.pixels(path), PATH, 3)
    if goal is not None:
        place = _whole(sheet.pixels(goal[None, :2])[0])
        cv2.circle(sheet.picture, place, 8, _BLACK, 5, cv2.LINE_AA)
        cv2.circle(sheet.picture, place, 8, GOAL, 3, cv2.LINE_AA)
    if robot is not None:
        _draw_robot(sheet, robot, robot_radius)
    _draw_scale(sheet)
    return sheet.picture


class _Sheet:
    """Paper for a rectangle of the world (x0, y0, x1, y1), centred in a picture of this size."""

    def __init__(self, extent: tuple[float, float, float, float], size: tuple[int, int]) -> None:
        x0, y0, x1, y1 = extent
        self.scale = min(size[0] / (x1 - x0), size[1] / (y1 - y0))  # pixels per metre
        self._left = (x0 + x1 - size[0] / self.scale) / 2
        self._top = (y0 + y1 + size[1] / self.scale) / 2
        self.picture = np.full((size[1], size[0], 3), BACKGROUND, np.uint8)

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Pixels (N, 2) of points (N, 2)."""
        return np.stack([(points[:, 0] - self._left) * self.scale, (self._top - points[:, 1]) * self.scale], axis=1)

    def lay(self, plan: FloorPlan) -> None:
        """Put a plan where it belongs."""
        left, top = _whole(self.pixels(np.array([[plan.x, plan.y + plan.height]]))[0])
        size = (max(1, int(plan.width * self.scale)), max(1, int(plan.height * self.scale)))
        shown = cv2.resize(plan.picture, size, interpolation=cv2.INTER_AREA)
        rows, columns = self.picture.shape[0] - top, self.picture.shape[1] - left
        self.picture[top : top + size[1], left : left + size[0]] = shown[:rows, :columns]


def _extent(
    plan: FloorPlan | None, robot: Pose | None, driven: np.ndarray, obstacles: np.ndarray
) -> tuple[float, float, float, float]:
    if plan is not None:
        places = np.array([[plan.x, plan.y], [plan.x + plan.width, plan.y + plan.height]])
    else:
        here = [[robot.x, robot.y]] if robot is not None else [[0.0, 0.0]]
        places = np.concatenate([np.array(here), driven[:, :2], obstacles[:, :2]])
    low, high = places.min(axis=0) - _MARGIN, places.max(axis=0) + _MARGIN
    missing = np.maximum(0.0, _SMALLEST - (high - low)) / 2
    (x0, y0), (x1, y1) = low - missing, high + missing
    return float(x0), float(y0), float(x1), float(y1)


def _draw_robot(sheet: _Sheet, robot: Pose, radius: float) -> None:
    arrow = np.array([[1.0, 0.0], [-0.75, 0.72], [-0.35, 0.0], [-0.75, -0.72]]) * max(radius, 11 / sheet.scale)
    corners = np.int32(np.round(sheet.pixels(robot.place(arrow))))
    cv2.fillPoly(sheet.picture, [corners], ROBOT, cv2.LINE_AA)
    cv2.polylines(sheet.picture, [corners], True, _BLACK, 2, cv2.LINE_AA)


def _draw_scale(sheet: _Sheet) -> None:
    height = sheet.picture.shape[0]
    end = round(14 + sheet.scale)
    cv2.line(sheet.picture, (14, height - 14), (end, height - 14), ROBOT, 3)
    cv2.putText(sheet.picture, "1 m", (end + 8, height - 9), _FONT, 0.5, ROBOT, 1, cv2.LINE_AA)


def _line(picture: np.ndarray, pixels: np.ndarray, colour: tuple[int, int, int], width: int) -> None:
    """A polyline with a dark edge, so that it shows on any ground."""
    if len(pixels) < 2:
        return
    corners = np.int32(np.round(np.clip(pixels, -1e4, 1e4)))
    cv2.polylines(picture, [corners], False, _BLACK, width + 3, cv2.LINE_AA)
    cv2.polylines(picture, [corners], False, colour, width, cv2.LINE_AA)


def _whole(pixel: np.ndarray) -> tuple[int, int]:
    return round(float(pixel[0])), round(float(pixel[1]))
