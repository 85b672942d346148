"""Shortest paths and lines of sight on the occupancy grid of a flat. Metres and radians in the frame of the flat."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse import csgraph

from .worlds import CELL, Flat

CELL_M = CELL / 100.0
Point = tuple[float, float]
# Moves to neighbours, those of a chess knight included: the length of a path is then at most 2.7 % above the shortest
# one (8 % without them).
_MOVES = [(i, j) for i in range(-2, 3) for j in range(-2, 3) if math.gcd(i, j) == 1]


def _crossed(i: int, j: int) -> list[tuple[int, int]]:
    """Cells besides start and end that a move by (i, j) touches."""
    if abs(i) + abs(j) == 1:
        return []
    if abs(i) == abs(j) == 1:
        return [(i, 0), (0, j)]
    if abs(i) == 2:
        return [(i // 2, 0), (i // 2, j)]
    return [(0, j // 2), (i, j // 2)]


class Grid:
    """Where the robot may drive, and how far it is from anywhere to a goal.

    `comfort` > 0 makes cells near obstacles dearer, so that paths keep some distance where there is room for it;
    lengths given by `distance` then are costs, not metres.
    """

    def __init__(self, flat: Flat, comfort: float = 0.0) -> None:
        self.flat = flat
        self.free = flat.drivable
        self.occupied = flat.occupied
        self._number = np.full(self.free.shape, -1)
        self._rows, self._columns = np.nonzero(self.free)
        self._number[self._rows, self._columns] = np.arange(len(self._rows))
        self._graph = self._edges(comfort)

    def _edges(self, comfort: float) -> sparse.csr_matrix:
        clearance = ndimage.distance_transform_edt(self.free) * CELL_M
        self.price = price = 1.0 + comfort * np.clip(1.0 - clearance / 0.25, 0.0, 1.0)  # cost of a metre, by cell
        rows, columns, starts, ends, weights = self._rows, self._columns, [], [], []
        height, width = self.free.shape
        padded = np.pad(self.free, 2)
        for i, j in _MOVES:
            possible = padded[rows + 2 + j, columns + 2 + i]
            for di, dj in _crossed(i, j):
                possible = possible & padded[rows + 2 + dj, columns + 2 + di]
            r, c = rows[possible], columns[possible]
            starts.append(self._number[r, c])
            ends.append(self._number[np.minimum(r + j, height - 1), np.minimum(c + i, width - 1)])
            weights.append(math.hypot(i, j) * CELL_M * (price[r, c] + price[r + j, c + i]) / 2)
        shape = (len(rows), len(rows))
        return sparse.csr_matrix((np.concatenate(weights), (np.concatenate(starts), np.concatenate(ends))), shape)

    def cell(self, point: Point) -> tuple[int, int]:
        """(row, column) of the cell a point lies in, clipped to the grid."""
        row, column = math.floor(point[1] / CELL_M), math.floor(point[0] / CELL_M)
        return min(max(row, 0), self.free.shape[0] - 1), min(max(column, 0), self.free.shape[1] - 1)

    @staticmethod
    def centre(row: int, column: int) -> Point:
        return (column + 0.5) * CELL_M, (row + 0.5) * CELL_M

    def nearest_free(self, point: Point) -> tuple[int, int]:
        """The free cell whose centre is closest to a point."""
        row, column = self.cell(point)
        if self.free[row, column]:
            return row, column
        x, y = (self._columns + 0.5) * CELL_M, (self._rows + 0.5) * CELL_M
        best = int(np.argmin((x - point[0]) ** 2 + (y - point[1]) ** 2))
        return int(self._rows[best]), int(self._columns[best])

    def is_drivable(self, point: Point) -> bool:
        return bool(self.free[self.cell(point)])

    def distance_field(self, cells: np.ndarray, start_costs: np.ndarray | None = None) -> DistanceField:
        """Distance from every free cell to the nearest of `cells` (N, 2: row, column), plus that one's start cost."""
        goals = self._number[cells[:, 0], cells[:, 1]]
        costs = np.zeros(len(goals)) if start_costs is None else np.asarray(start_costs, float)
        goals, costs = goals[goals >= 0], costs[goals >= 0]
        if not len(goals):
            raise ValueError("distance_field: none of the goal cells is free")
        # One more node, joined to all goals; zero would mean no edge.
        count = self._graph.shape[0]
        row = sparse.csr_matrix((costs + 1e-9, (np.zeros(len(goals), int), goals)), (1, count))
        graph = sparse.bmat([[self._graph, None], [row, sparse.csr_matrix((1, 1))]], format="csr")
        distances, previous = csgraph.dijkstra(graph, indices=count, return_predecessors=True)
        return DistanceField(self, distances[:count], previous[:count])

    def to_point(self, point: Point) -> DistanceField:
        """Distances to one point."""
        return self.distance_field(np.asarray([self.nearest_free(point)]))

    def drivable_line(self, a: Point, b: Point) -> bool:
        """Whether the robot can drive straight from a to b."""
        return clear_line(self.free, a, b)

    def line_of_sight(self, a: Point, b: Point) -> bool:
        """Whether nothing, however low, stands between two points on the floor."""
        return clear_line(~self.occupied, a, b)

    def shortened(self, path: Sequence[Point]) -> list[Point]:
        """The corners of a path: points that the robot can drive past in a straight line are left out."""
        corners = [path[0]]
        index = 0
        while index < len(path) - 1:
            reach = index + 1
            for candidate in range(len(path) - 1, index + 1, -1):
                if self.drivable_line(path[index], path[candidate]):
                    reach = candidate
                    break
            corners.append(path[reach])
            index = reach
        return corners


def clear_line(free: np.ndarray, a: Point, b: Point) -> bool:
    """Whether all cells between two points (metres) are set in `free`, sampled at half the cell size."""
    steps = max(2, math.ceil(math.hypot(b[0] - a[0], b[1] - a[1]) / (CELL_M / 2)) + 1)
    share = np.linspace(0.0, 1.0, steps)
    columns = np.floor((a[0] + (b[0] - a[0]) * share) / CELL_M).astype(int)
    rows = np.floor((a[1] + (b[1] - a[1]) * share) / CELL_M).astype(int)
    inside = (columns >= 0) & (rows >= 0) & (columns < free.shape[1]) & (rows < free.shape[0])
    return bool(inside.all() and free[rows, columns].all())


class DistanceField:
    """Distances of all free cells to a goal, and the way there."""

    def __init__(self, grid: Grid, distances: np.ndarray, previous: np.ndarray) -> None:
        self._grid = grid
        self._distances = distances
        self._previous = previous

    def at(self, point: Point) -> float:
        """Distance from a point to the goal, metres (a cost with `comfort`); from a wall: of the cell nearby."""
        return float(self._distances[self._grid._number[self._grid.nearest_free(point)]])

    def everywhere(self) -> np.ndarray:
        """(rows, columns) distance of each cell; of one that is not free: of the nearest free one, and the way there
        at four times its length."""
        grid = self._grid
        values = np.full(grid.free.shape, np.inf)
        values[grid._rows, grid._columns] = self._distances
        away, (rows, columns) = ndimage.distance_transform_edt(~grid.free, return_indices=True)
        return values[rows, columns] + 4.0 * CELL_M * away

    def directions(self, cells: int) -> np.ndarray:
        """(rows, columns) direction [rad] from each free cell to the one `cells` moves down its way; NaN at the goal
        and where it is not free."""
        grid, here = self._grid, np.arange(len(self._previous))
        # The node that all goals are joined to leads nowhere.
        following = np.where((self._previous < 0) | (self._previous >= len(here)), here, self._previous)
        ahead = here
        for _ in range(cells):
            ahead = following[ahead]
        dx, dy = grid._columns[ahead] - grid._columns, grid._rows[ahead] - grid._rows
        directions = np.full(grid.free.shape, np.nan)
        directions[grid._rows, grid._columns] = np.where(ahead == here, np.nan, np.arctan2(dy, dx))
        return directions

    def path(self, start: Point) -> list[Point]:
        """Way from `start` to the goal: `start`, then corners, the last one the centre of a goal cell."""
        grid = self._grid
        number = int(grid._number[grid.nearest_free(start)])
        points = [start]
        while 0 <= number < len(self._distances):
            points.append(grid.centre(int(grid._rows[number]), int(grid._columns[number])))
            number = int(self._previous[number])
        if len(points) > 2 and grid.drivable_line(start, points[2]):
            del points[1]
        return grid.shortened(points)


def path_length(path: Sequence[Point]) -> float:
    """Length of a polyline, metres."""
    return sum(math.dist(a, b) for a, b in pairwise(path))


@functools.lru_cache(maxsize=16)
def grid_of(flat: Flat, comfort: float = 0.0) -> Grid:
    """The grid of a flat, made once."""
    return Grid(flat, comfort)
