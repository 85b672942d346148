"""What the viewer remembers of a run: where the robot was and which obstacles were seen. Plain Python, bounded."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from .geometry import Pose

SPACING = 0.05  # m between two remembered places of the driven path
MAX_PLACES = 5000
RECENT_POSES = 200  # four seconds of odometry at 50 Hz, to find the pose of an image
TOLERANCE_NS = 100_000_000  # a pose farther from an image's stamp than this is not that image's
JUMP = 0.75  # m between two odometry messages: the robot was put somewhere else
CELL = 0.05  # m
MAX_CELLS = 40_000


class Track:
    """The driven path and the newest poses, from odometry. A jump in place or time begins a new path."""

    def __init__(self) -> None:
        self._poses: deque[tuple[int, Pose]] = deque(maxlen=RECENT_POSES)
        self._places: deque[tuple[float, float]] = deque(maxlen=MAX_PLACES)
        self.distance = 0.0  # metres driven since the path began

    def add(self, stamp_ns: int, pose: Pose) -> bool:
        """Take an odometry message; True when it began a new path."""
        begins = not self._poses
        if self._poses:
            newest_ns, newest = self._poses[-1]
            step = math.dist((newest.x, newest.y), (pose.x, pose.y))
            begins = stamp_ns < newest_ns - TOLERANCE_NS or step > JUMP
            if begins:
                self._poses.clear()
                self._places.clear()
                self.distance = 0.0
        self._poses.append((stamp_ns, pose))
        step = math.dist(self._places[-1], (pose.x, pose.y)) if self._places else math.inf
        if step >= SPACING:
            self.distance += step if self._places else 0.0
            self._places.append((pose.x, pose.y))
        return begins

    @property
    def pose(self) -> Pose | None:
        """The newest pose in the frame of odometry."""
        return self._poses[-1][1] if self._poses else None

    def pose_at(self, stamp_ns: int) -> Pose | None:
        """The pose nearest to a stamp; None when there is none close to it."""
        nearest = min(self._poses, key=lambda known: abs(known[0] - stamp_ns), default=None)
        if nearest is None or abs(nearest[0] - stamp_ns) > TOLERANCE_NS:
            return None
        return nearest[1]

    def driven(self) -> np.ndarray:
        """The driven path (N, 2) up to the newest pose."""
        places = list(self._places)
        if self._poses:
            places.append((self._poses[-1][1].x, self._poses[-1][1].y))
        return np.array(places, dtype=np.float64).reshape(-1, 2)


class SeenObstacles:
    """Cells of the floor above which depth showed something; the oldest go first."""

    def __init__(self) -> None:
        self._cells: dict[tuple[int, int], None] = {}

    def add(self, points: np.ndarray) -> None:
        """Points (N, 2 or 3) of obstacles in the frame of odometry."""
        for cell in map(tuple, np.unique(np.floor(points[:, :2] / CELL).astype(np.int64), axis=0).tolist()):
            self._cells[cell] = None
        while len(self._cells) > MAX_CELLS:
            del self._cells[next(iter(self._cells))]

    def places(self) -> np.ndarray:
        """Centres (N, 2) of the cells."""
        return (np.array(list(self._cells), dtype=np.float64).reshape(-1, 2) + 0.5) * CELL

    def clear(self) -> None:
        self._cells.clear()
