"""The simulated robot in its flat: commands and time in, images, odometry and contacts out. No ROS.

Time passes only in `step`, in physics steps of 5 ms, and everything random comes from the seed: the same flat, seed
and commands give the same poses and, on one machine, the same images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from .camera import Camera
from .draw import Draw
from .furniture import catalogue
from .grid import Grid, Point, grid_of, path_length
from .scene import ROBOT_MASS, ROBOT_RADIUS, SERVO_GAIN, TIMESTEP, Mover, available_look, load_scene, mujoco
from .worlds import DOOR_HEIGHT, Flat

STEP_NS = round(TIMESTEP * 1e9)
CONTACT_PAUSE = 0.5  # seconds without contact after which the next one counts as a new collision


@dataclass(frozen=True)
class OdometryNoise:
    """How odometry departs from the truth.

    scale, yaw_scale: relative error of distances and angles (wheel radius, wheel base). noise: standard deviation in
    metres per √metre driven; yaw_noise: in radians per √radian turned and per √metre driven.
    """

    scale: float = 0.0
    yaw_scale: float = 0.0
    noise: float = 0.0
    yaw_noise: float = 0.0


@dataclass(frozen=True)
class Config:
    """Robot and world settings; SI units."""

    look: str = ""  # "furniture", "plain", or empty: furniture where it is installed
    camera: Camera = field(default_factory=Camera)  # the level one; the second is the same, tilted
    max_linear: float = 1.0
    max_angular: float = 2.0
    linear_acceleration: float = 1.5
    angular_acceleration: float = 4.0
    command_timeout: float = 0.5
    odometry: OdometryNoise = field(default_factory=OdometryNoise)
    people: int = 0
    boxes: int = 0
    mover_speed: float = 0.4

    def __post_init__(self) -> None:
        positive = ("max_linear", "max_angular", "linear_acceleration", "angular_acceleration", "command_timeout")
        for name in (*positive, "mover_speed"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: expected a positive number, got {value}")
        for name in ("people", "boxes"):
            if not 0 <= getattr(self, name) <= 8:
                raise ValueError(f"{name}: expected 0 to 8, got {getattr(self, name)}")


@dataclass(frozen=True)
class Pose:
    """Position in metres and heading in radians (-π to π), in the frame of the flat or of odometry."""

    x: float
    y: float
    yaw: float

    def to_local(self, point: Point) -> Point:
        """A point of the frame this pose lives in, seen from this pose (x forward, y left)."""
        dx, dy = point[0] - self.x, point[1] - self.y
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        return dx * cos + dy * sin, dy * cos - dx * sin

    def to_world(self, point: Point) -> Point:
        """The inverse of `to_local`."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        return self.x + point[0] * cos - point[1] * sin, self.y + point[0] * sin + point[1] * cos


def wrapped(angle: float) -> float:
    """The same angle between -π and π."""
    return math.remainder(angle, 2 * math.pi)


def yaw_of(z: float, w: float) -> float:
    """Heading of a quaternion that turns about the vertical only."""
    return wrapped(2.0 * math.atan2(z, w))


@dataclass(frozen=True)
class Collision:
    """Begin of a contact: time in seconds, name of what was hit ("wall", "item3", "mover0"), robot position."""

    time: float
    what: str
    position: Point


class Simulator:
    """One robot in one flat. Rendering begins with the first `render`, on the thread that calls it."""

    def __init__(self, flat: Flat, config: Config | None = None, seed: int = 0) -> None:
        self.flat = flat
        self.config = config or Config()
        self.seed = seed
        self.look = available_look(self.config.look)
        self.cameras = {"level": self.config.camera, "look_down": self.config.camera.tilted()}
        self._draw = Draw(seed, 7)
        self._movers = [_MovingThing(*plan) for plan in _plan_movers(flat, self.config, self._draw)]
        self.model = load_scene(flat, self.look, self.config.camera, [thing.mover for thing in self._movers])
        self.data = mujoco.MjData(self.model)
        self._renderer = None
        self._item_geoms = _geoms_by_item(self.model, flat)
        self.reset(*grid_of(flat).centre(*np.argwhere(flat.drivable)[0]), 0.0)

    # ------------------------------------------------------------------------------------------------ motion

    def reset(self, x: float, y: float, yaw: float) -> None:
        """Put the robot somewhere, at rest; time, odometry and collisions start again."""
        if not all(math.isfinite(value) for value in (x, y, yaw)):
            raise ValueError(f"reset: expected finite numbers, got ({x}, {y}, {yaw})")
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:3] = (x, y, yaw)
        self._steps = 0
        self._wanted = (0.0, 0.0)
        self._set_point = (0.0, 0.0)
        self._command_step = -(10**9)
        self._odometry = (x, y, yaw)
        self._noise = np.random.default_rng([self.seed, 5])
        self.collisions: list[Collision] = []
        self.distance_driven = 0.0
        self._last_contact = -math.inf
        for index, thing in enumerate(self._movers):
            thing.reset()
            self._place_mover(index, thing)
        mujoco.mj_forward(self.model, self.data)

    def place(self, pose: Pose) -> None:
        """Put the robot somewhere, at rest, without anything else beginning anew."""
        self.data.qpos[:3] = (pose.x, pose.y, pose.yaw)
        self.data.qvel[:3] = 0.0
        mujoco.mj_forward(self.model, self.data)

    def command(self, linear: float, angular: float) -> None:
        """Velocity command, m/s and rad/s; it holds for `command_timeout`. ValueError for what is not finite."""
        if not (math.isfinite(linear) and math.isfinite(angular)):
            raise ValueError(f"command: expected finite numbers, got ({linear}, {angular})")
        limit, turn = self.config.max_linear, self.config.max_angular
        self._wanted = (min(max(linear, -limit), limit), min(max(angular, -turn), turn))
        self._command_step = self._steps

    def step(self, duration: float) -> None:
        """Let `duration` seconds pass (rounded to physics steps of 5 ms)."""
        for _ in range(round(duration / TIMESTEP)):
            self._physics_step()

    def _physics_step(self) -> None:
        config = self.config
        if (self._steps - self._command_step) * TIMESTEP >= config.command_timeout:
            self._wanted = (0.0, 0.0)
        v = _toward(self._set_point[0], self._wanted[0], config.linear_acceleration * TIMESTEP)
        w = _toward(self._set_point[1], self._wanted[1], config.angular_acceleration * TIMESTEP)
        self._set_point = (v, w)
        x, y, yaw = self.data.qpos[:3]
        # The servo follows with a delay of mass / gain; aiming ahead by it keeps a turning robot from slipping
        # sideways.
        heading = yaw + w * (ROBOT_MASS / SERVO_GAIN[0] + TIMESTEP / 2)
        self.data.ctrl[:3] = (v * math.cos(heading), v * math.sin(heading), w)
        for index, thing in enumerate(self._movers):
            thing.move(config.mover_speed * TIMESTEP, (x, y))
            self._place_mover(index, thing)
        mujoco.mj_step(self.model, self.data)
        self._steps += 1
        self._integrate_odometry(x, y, yaw)
        if self.data.ncon:
            self._note_contact()

    def _integrate_odometry(self, x: float, y: float, yaw: float) -> None:
        new_x, new_y, new_yaw = self.data.qpos[:3]
        middle = (yaw + new_yaw) / 2
        dx, dy, turn = new_x - x, new_y - y, new_yaw - yaw
        ahead = dx * math.cos(middle) + dy * math.sin(middle)
        self.distance_driven += math.hypot(dx, dy)
        noise = self.config.odometry
        if noise != OdometryNoise():
            first, second = self._noise.standard_normal(2)
            turned = abs(turn) + abs(ahead)
            turn += turn * noise.yaw_scale + second * noise.yaw_noise * math.sqrt(turned)
            ahead += ahead * noise.scale + first * noise.noise * math.sqrt(abs(ahead))
        ox, oy, oyaw = self._odometry
        self._odometry = (
            ox + ahead * math.cos(oyaw + turn / 2), oy + ahead * math.sin(oyaw + turn / 2), oyaw + turn
        )  # fmt: skip

    def _note_contact(self) -> None:
        if self.time - self._last_contact > CONTACT_PAUSE:
            contact = self.data.contact[0]
            robot = self.model.geom("robot").id
            other = int(contact.geom1 if contact.geom2 == robot else contact.geom2)
            what = self.model.geom(other).name or "wall"
            self.collisions.append(Collision(self.time, what, tuple(self.data.qpos[:2].tolist())))
        self._last_contact = self.time

    def _place_mover(self, index: int, thing: _MovingThing) -> None:
        self.data.mocap_pos[index] = (*thing.position, 0.0)
        # Models face -y: turned by 90° they look along x.
        half = (thing.heading + math.pi / 2) / 2
        self.data.mocap_quat[index] = (math.cos(half), 0.0, 0.0, math.sin(half))

    # ----------------------------------------------------------------------------------------------- what is known

    @property
    def time_ns(self) -> int:
        """Simulated time since the reset, nanoseconds."""
        return self._steps * STEP_NS

    @property
    def time(self) -> float:
        """Simulated time since the reset, seconds."""
        return self._steps * TIMESTEP

    @property
    def pose(self) -> Pose:
        """The true pose."""
        x, y, yaw = (float(value) for value in self.data.qpos[:3])
        return Pose(x, y, wrapped(yaw))

    @property
    def odometry(self) -> Pose:
        """The pose as the robot's odometry has it: starts at the truth and drifts as configured."""
        x, y, yaw = self._odometry
        return Pose(float(x), float(y), wrapped(float(yaw)))

    @property
    def velocity(self) -> tuple[float, float]:
        """Forward and angular velocity of the robot, m/s and rad/s."""
        vx, vy, w = (float(value) for value in self.data.qvel[:3])
        yaw = float(self.data.qpos[2])
        return vx * math.cos(yaw) + vy * math.sin(yaw), w

    @property
    def movers(self) -> list[tuple[str, Point]]:
        """Kind and position of what moves about."""
        return [(thing.mover.kind, thing.position) for thing in self._movers]

    # -------------------------------------------------------------------------------------------------- cameras

    def _get_renderer(self):
        if self._renderer is None:
            from .renderer import Renderer

            self._renderer = Renderer(self.model, self.config.camera)
        # Positions of cameras and geoms follow from the state only in the next step: bring them up to date.
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        return self._renderer

    def render(self, camera: str = "level") -> tuple[np.ndarray, np.ndarray]:
        """RGB (H, W, 3) uint8 and depth along the optical axis (H, W) float32 in metres of "level" or "look_down"."""
        if camera not in self.cameras:
            raise ValueError(f"camera: expected one of {', '.join(self.cameras)}, got {camera!r}")
        return self._get_renderer().render(self.data, camera)

    def visible_share(self, item: int, camera: str = "level") -> float:
        """Share of the image's pixels that show an item (index in the flat) from the current pose."""
        pixels = self._get_renderer().visible_pixels(self.data, camera, self._item_geoms[item])
        return pixels / (self.config.camera.width * self.config.camera.height_px)

    def shown_items(self, camera: str = "level") -> np.ndarray:
        """(H, W) int16: the item (index in the flat) that each pixel shows from the current pose; -1 elsewhere."""
        item_of = np.full(self.model.ngeom + 1, -1, np.int16)  # the last entry is that of geom -1, nothing
        for item, geoms in enumerate(self._item_geoms):
            item_of[geoms] = item
        return item_of[self._get_renderer().shown_geoms(self.data, camera)]

    def plan_view(self, width: int = 960, robot: bool = True) -> tuple[np.ndarray, float]:
        """The flat straight from above, for people: (H, W, 3) uint8, and its scale in pixels per metre.

        The lower left corner of the image is the origin of the flat.
        """
        extent = (self.flat.width / 100, self.flat.height / 100)
        return self._get_renderer().plan_view(self.data, extent, DOOR_HEIGHT / 100, width, robot), width / extent[0]

    def close(self) -> None:
        """Free what rendering holds; call it on the thread that rendered."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def __enter__(self) -> Simulator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _toward(value: float, target: float, step: float) -> float:
    return min(value + step, target) if target > value else max(value - step, target)


def _geoms_by_item(model: mujoco.MjModel, flat: Flat) -> list[np.ndarray]:
    """Ids of the drawn geoms of each item: they come in the order of the items, each after its collider."""
    starts = [model.geom(f"item{number}").id for number in range(len(flat.items))]
    result = []
    for start in starts:
        end = start + 1
        while end < model.ngeom and model.geom_contype[end] == 0 and model.geom_bodyid[end] == 0:
            end += 1
        result.append(np.arange(start + 1, end))
    return result


# ------------------------------------------------------------------------------------------------- moving things


class _MovingThing:
    """A person or box that goes back and forth along a path, and waits while the robot is in its way."""

    def __init__(self, mover: Mover, path: Sequence[Point], start: float) -> None:
        self.mover = mover
        self._path = list(path)
        lengths = [math.dist(a, b) for a, b in pairwise(self._path)]
        self._ends = np.concatenate([[0.0], np.cumsum(lengths)])
        self._start = start * float(self._ends[-1])
        self.reset()

    def reset(self) -> None:
        self._along, self._direction = self._start, 1
        self._update()

    def _update(self) -> None:
        self.position, ahead = self._at(self._along), self._at(self._along + 0.05 * self._direction)
        if math.dist(self.position, ahead) > 1e-6:
            self.heading = math.atan2(ahead[1] - self.position[1], ahead[0] - self.position[0])

    def _at(self, along: float) -> Point:
        along = min(max(along, 0.0), float(self._ends[-1]))
        index = min(int(np.searchsorted(self._ends, along, side="right")) - 1, len(self._path) - 2)
        share = (along - self._ends[index]) / max(self._ends[index + 1] - self._ends[index], 1e-9)
        a, b = self._path[index], self._path[index + 1]
        return a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share

    def move(self, distance: float, robot: Point) -> None:
        to_robot = (robot[0] - self.position[0], robot[1] - self.position[1])
        ahead = to_robot[0] * math.cos(self.heading) + to_robot[1] * math.sin(self.heading)
        if ahead > 0 and math.hypot(*to_robot) < ROBOT_RADIUS + 0.6:
            return
        self._along += distance * self._direction
        if not 0.0 < self._along < self._ends[-1]:
            self._direction = -self._direction
        self._update()


def _plan_movers(flat: Flat, config: Config, draw: Draw) -> list[tuple[Mover, list[Point], float]]:
    """Model, path (at least 3 m, where the flat allows it) and starting place of each moving thing."""
    plans = []
    people = [entry.key for entry in catalogue() if entry.kind == "person"]
    kinds = [("person", people)] * config.people + [("box", ["box_1"])] * config.boxes
    if not kinds:
        return plans
    grid: Grid = grid_of(flat, 2.0)
    cells = np.argwhere(flat.drivable)
    for kind, models in kinds:
        longest: list[Point] = []
        start = grid.centre(*cells[draw.below(len(cells))])
        for _ in range(8):
            path = grid.to_point(grid.centre(*cells[draw.below(len(cells))])).path(start)
            if len(path) > 1 and path_length(path) > path_length(longest):
                longest = path
            if path_length(longest) >= 3.0:
                break
        plans.append((Mover(kind, draw.choice(models)), longest, draw.below(100) / 100.0))
    return plans
