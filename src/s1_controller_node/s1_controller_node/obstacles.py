"""Obstacles from a depth image: what stands up from the floor where the robot could drive into it, and holes in it.

Three steps: `Camera` turns pixels into points of the base frame, `ObstacleDetector` removes the floor and what the
robot passes under and gathers the rest in cells of the ground plane, `ObstacleMemory` keeps cells in odom while they
are out of the camera's sight (a low box in front of the bumper is below the picture, and depth cameras are blind
nearer than about 0.3 m).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .bounds import check_bounds
from .geometry import inverse_transform_points, transform_points

UNCONFIRMED_TIME = 0.5  # a cell that was seen too seldom is forgotten after this [s]
# Who moves less than this many metres in this many seconds does not drive: odometry of a standing robot may tremble.
DRIVEN, DRIVEN_IN = 0.02, 1.0

# Optical frame (x right, y down, z forward) to a level body frame (x forward, y left, z up).
_OPTICAL_TO_BODY = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


@dataclass(frozen=True)
class CameraMount:
    """Where the depth camera sits on the base; base frame on the floor below the robot's centre, x forward, z up."""

    height: float = 0.6  # of the optical centre above the floor [m]
    pitch: float = 0.0  # downward tilt [rad], positive looks down
    roll: float = 0.0  # about the optical axis [rad], positive: its right side is lower
    x: float = 0.0  # ahead of the base's centre [m]
    y: float = 0.0  # left of the base's centre [m]
    yaw: float = 0.0  # counter-clockwise from straight ahead [rad]

    def __post_init__(self) -> None:
        check_bounds(
            self,
            height=(0.02, 3.0),
            pitch=(-math.pi / 2, math.pi / 2),
            roll=(-math.pi, math.pi),
            x=(-2.0, 2.0),
            y=(-2.0, 2.0),
            yaw=(-math.pi, math.pi),
        )

    def rotation(self) -> np.ndarray:
        """Matrix (3, 3) that turns vectors of the optical frame into the base frame."""
        cp, sp = math.cos(self.pitch), math.sin(self.pitch)
        cr, sr = math.cos(self.roll), math.sin(self.roll)
        cy, sy = math.cos(self.yaw), math.sin(self.yaw)
        yaw = np.array([[cy, -sy, 0.0], [sy, cy, 0.0], [0.0, 0.0, 1.0]])
        pitch = np.array([[cp, 0.0, sp], [0.0, 1.0, 0.0], [-sp, 0.0, cp]])
        roll = np.array([[1.0, 0.0, 0.0], [0.0, cr, -sr], [0.0, sr, cr]])
        return yaw @ pitch @ roll @ _OPTICAL_TO_BODY

    @classmethod
    def from_transform(cls, rotation: np.ndarray, translation: np.ndarray) -> CameraMount:
        """The mount for a transform from the optical frame to the base frame, as tf gives it.

        Args: rotation (3, 3), translation (3,) of the optical frame in the base frame, metres.

        Raises:
            ValueError: the matrix is no rotation, or a value is outside the bounds of the fields.
        """
        rotation, translation = np.asarray(rotation, dtype=float), np.asarray(translation, dtype=float)
        if rotation.shape != (3, 3) or not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3):
            raise ValueError(f"rotation: expected an orthonormal (3, 3) matrix, got {rotation.tolist()}")
        body = rotation @ _OPTICAL_TO_BODY.T  # yaw · pitch · roll
        return cls(
            height=float(translation[2]),
            pitch=math.asin(min(max(-body[2, 0], -1.0), 1.0)),
            roll=math.atan2(body[2, 1], body[2, 2]),
            x=float(translation[0]),
            y=float(translation[1]),
            yaw=math.atan2(body[1, 0], body[0, 0]),
        )


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole model of the depth image (that of the image it is aligned to), without distortion; pixels."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    def __post_init__(self) -> None:
        check_bounds(
            self,
            width=(8, 16384),
            height=(8, 16384),
            fx=(1.0, 1e5),
            fy=(1.0, 1e5),
            cx=(-1e5, 1e5),
            cy=(-1e5, 1e5),
        )


@dataclass(frozen=True)
class ObstacleConfig:
    """What counts as an obstacle."""

    floor_clearance: float = 0.05  # what is lower can be driven over [m]
    # The floor band widens with the distance by this angle: error of the camera's pitch and roll [rad].
    floor_angle: float = math.radians(2.0)
    robot_height: float = 0.8  # the robot passes under what is higher [m]
    drop: float = 0.15  # what lies this much lower than the floor is a hole or a stair downward [m]
    max_range: float = 3.0  # along the ground; farther obstacles do not matter yet [m]
    min_depth: float = 0.15  # nearer readings are noise [m]
    max_pixels: int = 24000  # of the image that are looked at; the rest is skipped evenly
    cell: float = 0.05  # of the ground grid [m]
    min_points: int = 3  # in a cell to make it an obstacle: single flying pixels are none
    confirmations: int = 2  # scans that have to see it, for the same reason
    memory_range: float = 2.0  # cells out of sight are forgotten this far from the robot [m]
    memory_time: float = 20.0  # and after driving for this long [s]; bounds what drift and ghosts can do

    def __post_init__(self) -> None:
        check_bounds(
            self,
            floor_clearance=(0.005, 0.5),
            floor_angle=(0.0, 0.3),
            robot_height=(0.05, 3.0),
            drop=(0.03, 5.0),
            max_range=(0.3, 20.0),
            min_depth=(0.01, 2.0),
            max_pixels=(500, 1_000_000),
            cell=(0.01, 0.3),
            min_points=(1, 100),
            confirmations=(1, 10),
            memory_range=(0.3, 20.0),
            memory_time=(0.0, 600.0),
        )
        if self.robot_height <= self.floor_clearance:
            raise ValueError(
                f"ObstacleConfig.robot_height: expected more than floor_clearance ({self.floor_clearance}), "
                f"got {self.robot_height}"
            )


@dataclass(frozen=True, eq=False)
class Obstacles:
    """Obstacle cells on the ground.

    Attributes:
        points: (N, 2) centres [m] in the frame the holder says.
        low, high: (N,) lowest and highest height seen in the cell [m].
    """

    points: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def none(cls) -> Obstacles:
        return cls(np.zeros((0, 2)), np.zeros(0), np.zeros(0))

    def where(self, mask: np.ndarray) -> Obstacles:
        """Those for which the boolean ``mask`` (N,) is true."""
        return Obstacles(self.points[mask], self.low[mask], self.high[mask])

    def joined(self, other: Obstacles) -> Obstacles:
        return Obstacles(
            np.concatenate([self.points, other.points]),
            np.concatenate([self.low, other.low]),
            np.concatenate([self.high, other.high]),
        )


@dataclass(frozen=True, eq=False)
class DepthScan:
    """What one depth image says about obstacles.

    Attributes:
        obstacles: in the base frame at the image's stamp.
        valid_share: share of the rays that must hit the floor or something before it, within `max_range`, and did
            return a depth, in [0, 1]. A camera that is covered, or nearer to a wall than it can measure, has no such
            returns: unknown is not free.
        depth: the reduced depth image [m], 0 = no reading; kept to tell which remembered cells it sees through.
    """

    obstacles: Obstacles
    valid_share: float
    depth: np.ndarray


@dataclass(frozen=True, eq=False)
class _FloorCells:
    """Cells of an empty floor as one camera sees it."""

    ray: np.ndarray  # (M,) flat index of each ray that meets the floor in range
    cell: np.ndarray  # (M,) which cell it meets
    rays: np.ndarray  # (K,) rays per cell
    centres: np.ndarray  # (K, 2) [m] in the base frame


class ObstacleDetector:
    """Depth images of one camera to obstacles. Everything that does not depend on the image is computed once."""

    def __init__(self, intrinsics: Intrinsics, mount: CameraMount, config: ObstacleConfig) -> None:
        self.intrinsics, self.mount, self.config = intrinsics, mount, config
        self.stride = max(1, math.ceil(math.sqrt(intrinsics.width * intrinsics.height / config.max_pixels)))
        self._offset = self.stride // 2
        rows = np.arange(self._offset, intrinsics.height, self.stride)
        columns = np.arange(self._offset, intrinsics.width, self.stride)
        right = (columns[None, :] - intrinsics.cx) / intrinsics.fx
        down = (rows[:, None] - intrinsics.cy) / intrinsics.fy
        optical = np.stack(np.broadcast_arrays(right, down, np.float64(1.0)))
        self._rotation = mount.rotation()
        # Point of the base frame per metre of depth, three images (x, y, z); float32 halves the memory traffic.
        self._rays = np.einsum("ij,jrc->irc", self._rotation, optical).astype(np.float32)
        self._origin = np.array([mount.x, mount.y, mount.height])
        with np.errstate(divide="ignore"):
            floor_depth = np.where(self._rays[2] < -1e-3, -mount.height / self._rays[2], np.inf)
        ground = floor_depth * np.hypot(self._rays[0], self._rays[1])
        self._sees_floor = ground < config.max_range
        self._deep = -(config.drop + np.minimum(ground, config.max_range) * math.tan(config.floor_angle))
        # Where the rays meet the floor never changes: cells of the floor and how many rays each has.
        meets = np.flatnonzero(self._sees_floor)
        depth_there = floor_depth.ravel()[meets]
        places = np.stack([depth_there * self._rays[i].ravel()[meets] for i in (0, 1)], axis=1)
        places += self._origin[:2]
        _, first, cell, rays = np.unique(
            _cell_keys(places, config.cell), return_index=True, return_inverse=True, return_counts=True
        )
        self._floor = _FloorCells(meets, cell, rays, _cell_centres(places[first], config.cell))
        if self._sees_floor.mean() < 0.02:  # a camera that looks up or far: judge the whole picture instead
            self._sees_floor = np.ones_like(self._sees_floor)

    def scan(self, depth: np.ndarray) -> DepthScan:
        """Obstacles in a depth image.

        Args:
            depth: (height, width) of the intrinsics; uint16 millimetres or float metres. 0, NaN and infinity are
                "no reading".

        Raises:
            TypeError: another dtype. ValueError: another size, or negative depth.
        """
        config, mount = self.config, self.mount
        size = (self.intrinsics.height, self.intrinsics.width)
        if not isinstance(depth, np.ndarray) or depth.dtype.kind not in "fu":
            raise TypeError(
                f"depth: expected uint16 millimetres or float metres, got {getattr(depth, 'dtype', depth)}"
            )
        if depth.shape != size:
            raise ValueError(f"depth: expected (height, width) = {size} of camera_info, got {depth.shape}")
        reduced = depth[self._offset :: self.stride, self._offset :: self.stride]
        if depth.dtype.kind == "u":
            z = reduced.astype(np.float32) * np.float32(1e-3)
        else:
            z = np.where(np.isfinite(reduced), reduced, 0.0).astype(np.float32)
            if z.min() < 0.0:
                raise ValueError(f"depth: expected metres of at least 0, got {z.min()}")
        valid = z >= config.min_depth
        height = z * self._rays[2] + np.float32(mount.height)
        # Heights first: most pixels show floor or ceiling, and only the rest need a place.
        upright = valid & (height > config.floor_clearance) & (height < config.robot_height)
        candidate = np.flatnonzero(upright)
        height_kept, z_kept = height.ravel()[candidate], z.ravel()[candidate]
        x = z_kept * self._rays[0].ravel()[candidate]
        y = z_kept * self._rays[1].ravel()[candidate]
        ground = np.hypot(x, y)
        keep = ground < config.max_range
        keep &= height_kept > config.floor_clearance + ground * math.tan(config.floor_angle)
        points = np.stack([x[keep] + mount.x, y[keep] + mount.y], axis=1)
        standing = _gather(points, height_kept[keep], config.cell, config.min_points)
        return DepthScan(
            obstacles=standing.joined(self._holes(valid & (height < self._deep))),
            valid_share=float(valid[self._sees_floor].mean()),
            depth=z,
        )

    def _holes(self, below: np.ndarray) -> Obstacles:
        """Cells of the floor through which most rays go deeper than ``drop``; ``below`` says which rays do."""
        floor = self._floor
        deep = np.bincount(floor.cell, weights=below.ravel()[floor.ray], minlength=len(floor.rays))
        found = floor.centres[(deep >= self.config.min_points) & (deep > 0.5 * floor.rays)]
        return Obstacles(found, np.zeros(len(found)), np.zeros(len(found)))

    def sees_through(self, obstacles: Obstacles, scan: DepthScan) -> np.ndarray:
        """(N,) bool: the scan looks through the place of a cell, so that what was there is gone.

        ``obstacles`` in the base frame of the scan. Four heights of each cell are checked; one that lies in the
        picture and before what the camera measured there is enough, since the obstacle reached over all of them.
        """
        if not len(obstacles.points):
            return np.zeros(0, dtype=bool)
        share = np.linspace(0.0, 1.0, 4)
        heights = obstacles.low + share[:, None] * (obstacles.high - obstacles.low)  # (4, N)
        places = np.broadcast_to(obstacles.points, (4, *obstacles.points.shape))
        base = np.concatenate([places, heights[..., None]], axis=-1) - self._origin
        optical = base @ self._rotation  # inverse rotation, row vectors
        forward = np.maximum(optical[..., 2], 1e-3)
        k = self.intrinsics
        column = (optical[..., 0] / forward * k.fx + k.cx - self._offset) / self.stride
        row = (optical[..., 1] / forward * k.fy + k.cy - self._offset) / self.stride
        column, row = np.rint(column).astype(int), np.rint(row).astype(int)
        rows, columns = scan.depth.shape
        inside = (optical[..., 2] > self.config.min_depth) & (column >= 0) & (column < columns)
        inside &= (row >= 0) & (row < rows)
        measured = scan.depth[np.clip(row, 0, rows - 1), np.clip(column, 0, columns - 1)]
        return (inside & (measured > forward + 2.0 * self.config.cell)).any(axis=0)


class ObstacleMemory:
    """Obstacle cells in odom: what the newest scan sees, and what earlier ones saw and none has seen through since.

    A cell counts once ``confirmations`` scans have seen it or a neighbour of it: noise does not come twice.
    """

    def __init__(self, config: ObstacleConfig) -> None:
        self._config = config
        self.clear()

    def update(self, detector: ObstacleDetector, scan: DepthScan, pose: np.ndarray, stamp_ns: int) -> None:
        """Take in a scan made at ``pose`` (3,) in odom at ``stamp_ns``."""
        config = self._config
        self._stay_young_while_standing(pose, stamp_ns)
        here = inverse_transform_points(pose, self._cells.points)
        age = (stamp_ns - self._seen_ns) * 1e-9
        keep = ~detector.sees_through(Obstacles(here, self._cells.low, self._cells.high), scan)
        keep &= (self._sightings >= config.confirmations) | (age < UNCONFIRMED_TIME)
        keep &= (np.hypot(here[:, 0], here[:, 1]) < config.memory_range) & (age < config.memory_time) & (age >= 0.0)
        fresh = Obstacles(transform_points(pose, scan.obstacles.points), scan.obstacles.low, scan.obstacles.high)
        sightings = 1 + self._sightings_near(fresh.points)
        # A cell seen again is replaced, so that the number of cells stays bounded.
        keep &= ~np.isin(_cell_keys(self._cells.points, config.cell), _cell_keys(fresh.points, config.cell))
        self._cells = self._cells.where(keep).joined(fresh)
        self._seen_ns = np.concatenate([self._seen_ns[keep], np.full(len(fresh.points), stamp_ns)])
        self._sightings = np.concatenate([self._sightings[keep], sightings])

    def around(self, pose: np.ndarray) -> np.ndarray:
        """(N, 2) centres of confirmed cells in the base frame of a robot at ``pose`` (3,) in odom."""
        confirmed = self._sightings >= self._config.confirmations
        return inverse_transform_points(pose, self._cells.points[confirmed])

    def clear(self) -> None:
        """Forget everything, as after a jump of odometry."""
        self._cells = Obstacles.none()
        self._seen_ns = np.zeros(0, dtype=np.int64)
        self._sightings = np.zeros(0, dtype=np.int64)  # scans that saw the cell
        self._last: tuple[np.ndarray, int] | None = None  # pose and stamp that driving is judged from

    def _stay_young_while_standing(self, pose: np.ndarray, stamp_ns: int) -> None:
        """Confirmed cells do not age while the robot does not drive: one that stands before something low, which it
        cannot see from there, would after a while take the way for free."""
        if self._last is not None:
            before, before_ns = self._last
            passed = stamp_ns - before_ns
            if 0 <= passed < DRIVEN_IN * 1e9:
                return
            if passed > 0 and np.hypot(*(pose[:2] - before[:2])) < DRIVEN:
                confirmed = self._sightings >= self._config.confirmations
                self._seen_ns[confirmed] = np.minimum(self._seen_ns[confirmed] + passed, stamp_ns)
        self._last = np.array(pose), stamp_ns

    def _sightings_near(self, points: np.ndarray) -> np.ndarray:
        """(N,) most sightings of a remembered cell among the one of each point and its eight neighbours."""
        found = np.zeros(len(points), dtype=np.int64)
        if not len(points) or not len(self._cells.points):
            return found
        cell = self._config.cell
        keys = _cell_keys(self._cells.points, cell)
        order = np.lexsort((self._sightings, keys))
        keys, sightings = keys[order], self._sightings[order]
        for dx in (-cell, 0.0, cell):
            for dy in (-cell, 0.0, cell):
                wanted = _cell_keys(points + np.array([dx, dy]), cell)
                at = np.searchsorted(keys, wanted, side="right") - 1
                found = np.maximum(found, np.where((at >= 0) & (keys[at] == wanted), sightings[at], 0))
        return found


def _cell_keys(points: np.ndarray, cell: float) -> np.ndarray:
    index = np.floor(points / cell).astype(np.int64)
    return index[:, 0] * 1_000_003 + index[:, 1]


def _cell_centres(points: np.ndarray, cell: float) -> np.ndarray:
    return (np.floor(points / cell) + 0.5) * cell


def _gather(points: np.ndarray, height: np.ndarray, cell: float, min_points: int) -> Obstacles:
    """Points (M, 2) with heights (M,) as cells that hold at least ``min_points`` of them."""
    if not len(points):
        return Obstacles.none()
    keys = _cell_keys(points, cell)
    order = np.argsort(keys, kind="stable")
    first = np.flatnonzero(np.concatenate([[True], np.diff(keys[order]) != 0]))
    count = np.diff(np.append(first, len(keys)))
    height = height[order].astype(np.float64)
    centres = np.stack([np.add.reduceat(points[order, i].astype(np.float64), first) for i in (0, 1)], axis=1)
    found = Obstacles(
        centres / count[:, None], np.minimum.reduceat(height, first), np.maximum.reduceat(height, first)
    )
    return found.where(count >= min_points)
