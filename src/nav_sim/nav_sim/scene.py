"""A flat as a MuJoCo model: what the cameras see, what the robot bumps into, and the robot itself.

Geoms come in groups: walls, floors and everything that is always drawn; furniture; the robot's own body; colliders,
never drawn. They are boxes of the sizes in the plan, or prisms where the catalogue has an outline: a camera could not
see the corners of a round thing's box. Both looks are the same world to the physics.

Light comes from the side of the sky for every surface alike (directional lights without shadows); the shade of
furniture and corners is part of the floor and wall textures. That keeps the rate of drawing that shadow maps would
halve, and gives depth cues all the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy import ndimage

from . import furniture, gl, shapes, textures, worlds
from .camera import TILT, Camera
from .paths import state_folder
from .worlds import CELL, WALL, Flat, Item

gl.choose()
import mujoco  # noqa: E402 (MUJOCO_GL has to be set before)

LOOKS = ("furniture", "plain")
GROUP_HOUSE, GROUP_FURNITURE, GROUP_ROBOT, GROUP_COLLIDER, GROUP_CULLED = 0, 1, 2, 3, 5
TIMESTEP = 0.005
ROBOT_MASS = 12.0
ROBOT_RADIUS = worlds.ROBOT_RADIUS / 100.0
SERVO_GAIN = (1200.0, 60.0)  # N per m/s and N·m per rad/s: time constants of 10 and 5 ms or so
SERVO_LIMIT = (60.0, 20.0)  # N and N·m: the motors stall against a wall instead of pushing through it
NEAR, FAR = 0.02, 40.0
_VERSION = 3  # of what this module builds; part of the cache key


class SceneError(ValueError):
    """A scene was asked for that cannot be built; the message names the setting."""


@dataclass(frozen=True)
class Mover:
    """A person or a box that moves about: bodies of this scene that the simulator drives (see simulator.py)."""

    kind: str  # "person" or "box"
    model: str  # key in the furniture catalogue


def available_look(wanted: str = "") -> str:
    """`wanted`, or "furniture" where the models are there and "plain" otherwise, when it is empty."""
    if wanted and wanted not in LOOKS:
        raise SceneError(f"look: expected one of {', '.join(LOOKS)}, got {wanted!r}")
    if wanted == "furniture" and furniture.archives_folder() is None:
        raise SceneError("look: furniture is not installed; run 'python3 scripts/fetch_debian.py', or choose plain")
    return wanted or ("furniture" if furniture.archives_folder() else "plain")


# ------------------------------------------------------------------------------------------------------ small parts


class _Quads:
    """Rectangles collected into one mesh: vertices, normals, texture coordinates and faces."""

    def __init__(self) -> None:
        self.vertices: list[tuple[float, float, float]] = []
        self.normals: list[tuple[float, float, float]] = []
        self.texcoords: list[tuple[float, float]] = []
        self.faces: list[tuple[int, int, int]] = []

    def add(
        self, corner: Sequence[float], right: Sequence[float], up: Sequence[float], uv: Sequence[float] = (0, 0, 1, 1)
    ) -> None:
        """A rectangle from its lower left corner, seen from the side its normal right × up points to."""
        a, r, u = (np.asarray(value, float) for value in (corner, right, up))
        normal = np.cross(r, u)
        normal /= np.linalg.norm(normal)
        first = len(self.vertices)
        self.vertices += [tuple(p) for p in (a, a + r, a + r + u, a + u)]
        self.normals += [tuple(normal)] * 4
        u0, v0, u1, v1 = uv
        self.texcoords += [(u0, v0), (u1, v0), (u1, v1), (u0, v1)]
        self.faces += [(first, first + 1, first + 2), (first, first + 2, first + 3)]


class _Builder:
    """Thin layer over MjSpec: names, materials and visual meshes."""

    def __init__(self, textured: bool) -> None:
        self.spec = mujoco.MjSpec()
        self.textured = textured
        self._materials: dict[tuple[object, ...], str] = {}
        self._meshes: dict[str, str] = {}

    def material(
        self,
        colour: Sequence[float],
        texture: np.ndarray | None = None,
        key: str = "",
        specular: float = 0.0,
        emission: float = 0.0,
    ) -> str:
        """Name of a material; made once for each combination. `key` tells textures apart."""
        texture = texture if self.textured else None
        rgba = (*(round(float(value), 4) for value in colour), 1.0)
        identity = (rgba, key if texture is not None else "", specular, emission)
        if identity in self._materials:
            return self._materials[identity]
        name = f"material{len(self._materials)}"
        made = self.spec.add_material(name=name, rgba=rgba, specular=specular, shininess=0.3, emission=emission)
        if texture is not None:
            if self.spec.texture(key) is None:
                image = self.spec.add_texture(name=key, type=mujoco.mjtTexture.mjTEXTURE_2D, nchannel=3)
                image.height, image.width, _ = texture.shape
                image.data = np.ascontiguousarray(texture[::-1]).tobytes()
            made.textures[int(mujoco.mjtTextureRole.mjTEXROLE_RGB)] = key
        self._materials[identity] = name
        return name

    def mesh(
        self, key: str, vertices: np.ndarray, normals: np.ndarray, texcoords: np.ndarray, faces: np.ndarray
    ) -> str:
        """Name of a visual mesh; made once for each key. Coordinates are kept as they are."""
        if key not in self._meshes:
            name = f"mesh{len(self._meshes)}"
            self.spec.add_mesh(
                name=name,
                uservert=np.asarray(vertices, np.float32).ravel(),
                usernormal=np.asarray(normals, np.float32).ravel(),
                usertexcoord=np.asarray(texcoords, np.float32).ravel(),
                userface=np.asarray(faces, np.int32).ravel(),
                inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL,
            )
            self._meshes[key] = name
        return self._meshes[key]

    def draw_mesh(self, mesh: str, material: str, group: int, position: Sequence[float] = (0, 0, 0), yaw: float = 0.0,
                  body: object = None, name: str = "") -> None:  # fmt: skip
        (body or self.spec.worldbody).add_geom(
            name=name, type=mujoco.mjtGeom.mjGEOM_MESH, meshname=mesh, material=material, pos=list(position),
            quat=[math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)], group=group, contype=0, conaffinity=0, mass=0,
        )  # fmt: skip

    def draw_shape(self, shape: shapes.Shape, group: int, position: Sequence[float], yaw: float,
                   body: object = None) -> None:  # fmt: skip
        kinds = {
            "box": mujoco.mjtGeom.mjGEOM_BOX,
            "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
            "ellipsoid": mujoco.mjtGeom.mjGEOM_ELLIPSOID,
        }
        x, y, z = shape.centre
        cos, sin = math.cos(yaw), math.sin(yaw)
        half = shape.half
        size = [min(half[0], half[1]), half[2], 0] if shape.type == "cylinder" else list(half)
        (body or self.spec.worldbody).add_geom(
            type=kinds[shape.type], size=size, material=self.material(shape.colour, specular=0.1),
            pos=[position[0] + cos * x - sin * y, position[1] + sin * x + cos * y, position[2] + z],
            quat=[math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)], group=group, contype=0, conaffinity=0, mass=0,
        )  # fmt: skip

    def collider(self, centre: Sequence[float], half: Sequence[float], yaw: float = 0.0, name: str = "",
                 body: object = None) -> None:  # fmt: skip
        (body or self.spec.worldbody).add_geom(
            name=name, type=mujoco.mjtGeom.mjGEOM_BOX, size=list(half), pos=list(centre),
            quat=[math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)], group=GROUP_COLLIDER, contype=1, conaffinity=2,
            rgba=[1, 0, 1, 1], friction=[0.3, 0.005, 0.0001], solref=[0.01, 1.0], mass=0,
        )  # fmt: skip

    def item_collider(
        self, item: Item, position: Sequence[float], yaw: float, name: str, body: object = None
    ) -> None:
        """Of an item that stands at `position` (x, y, of the floor)."""
        half = [item.width / 200.0, item.depth / 200.0, item.height / 200.0]
        outline = furniture.entry(item.model).outline
        if not outline:
            self.collider([*position, half[2]], half, yaw, name, body)
            return
        key = f"{item.model}.outline.{item.width}.{item.depth}.{item.height}"
        if key not in self._meshes:
            self._meshes[key] = f"mesh{len(self._meshes)}"
            corners = [[2 * x * half[0], 2 * y * half[1], z] for z in (0.0, 2 * half[2]) for x, y in outline]
            self.spec.add_mesh(name=self._meshes[key], uservert=np.asarray(corners, np.float32).ravel())
        (body or self.spec.worldbody).add_geom(
            name=name, type=mujoco.mjtGeom.mjGEOM_MESH, meshname=self._meshes[key], pos=[*position, 0.0],
            quat=[math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)], group=GROUP_COLLIDER, contype=1, conaffinity=2,
            rgba=[1, 0, 1, 1], friction=[0.3, 0.005, 0.0001], solref=[0.01, 1.0], mass=0,
        )  # fmt: skip


# ------------------------------------------------------------------------------------------------------- the house


def _floor_shade(flat: Flat, box: worlds.Box) -> np.ndarray:
    """How much light reaches the floor of a room: less below and beside furniture and along walls."""
    i0, i1, j0, j1 = box.x0 // CELL, -(-box.x1 // CELL), box.y0 // CELL, -(-box.y1 // CELL)
    pad = 12
    padded = np.pad(flat.occupied.astype(np.float32), pad, mode="edge")
    window = padded[j0 : j1 + 2 * pad, i0 : i1 + 2 * pad]
    near = ndimage.gaussian_filter(window, 1.2)
    wide = ndimage.gaussian_filter(window, 5.0)
    return (1.0 - 0.45 * near - 0.35 * wide)[pad:-pad, pad:-pad].clip(0.25, 1.0)


def _add_house(builder: _Builder, flat: Flat) -> None:
    ceiling = flat.ceiling / 100.0
    for number, room in enumerate(flat.rooms):
        seed = flat.seed * 16 + number
        box = room.box
        x0, y0, x1, y1 = (value / 100.0 for value in (box.x0, box.y0, box.x1, box.y1))
        kind = worlds.FLOORS[room.floor]
        floor = _Quads()
        floor.add((x0, y0, 0), (x1 - x0, 0, 0), (0, y1 - y0, 0))
        image = textures.floor(kind, seed, (x1 - x0, y1 - y0), _floor_shade(flat, box)) if builder.textured else None
        paint = (1, 1, 1) if builder.textured else textures.FLOOR_COLOURS[kind]
        _add_quads(builder, f"floor{number}", floor, builder.material(paint, image, f"floor{number}", specular=0.05))

        top = _Quads()
        top.add((x0, y1, ceiling), (x1 - x0, 0, 0), (0, y0 - y1, 0))
        _add_quads(builder, f"ceiling{number}", top, builder.material((0.93, 0.93, 0.92)))

        walls = _Quads()
        for side in worlds.SIDES:
            _add_wall(walls, flat, room, side, ceiling)
        tint = worlds.WALL_TINTS[room.walls]
        image = textures.wall(tint, seed, ceiling) if builder.textured else None
        paint = (1, 1, 1) if builder.textured else textures.WALL_COLOURS[tint]
        _add_quads(builder, f"walls{number}", walls, builder.material(paint, image, f"walls{number}"))

    for door in flat.doors:
        _add_door_frame(builder, door, ceiling)
    for number, window in enumerate(flat.windows):
        _add_panel(builder, flat, f"window{number}", window.room, window.side, window.centre, window.width, (95, 215),
                   textures.window(flat.seed * 16 + number), (0.80, 0.90, 1.0), emission=0.35)  # fmt: skip
    for number, picture in enumerate(flat.pictures):
        heights = (155 - picture.height // 2, 155 + picture.height // 2)
        _add_panel(builder, flat, f"picture{number}", picture.room, picture.side, picture.centre, picture.width,
                   heights, textures.picture(picture.motif), (0.45, 0.42, 0.38))  # fmt: skip

    for wall in flat.walls:
        half = [(wall.x1 - wall.x0) / 200.0, (wall.y1 - wall.y0) / 200.0, ceiling / 2]
        builder.collider([(wall.x0 + wall.x1) / 200.0, (wall.y0 + wall.y1) / 200.0, ceiling / 2], half)


def _add_quads(builder: _Builder, key: str, quads: _Quads, material: str, group: int = GROUP_HOUSE) -> None:
    mesh = builder.mesh(
        key,
        np.asarray(quads.vertices),
        np.asarray(quads.normals),
        np.asarray(quads.texcoords),
        np.asarray(quads.faces),
    )
    builder.draw_mesh(mesh, material, group)


_INWARD = {"north": (0, -1), "south": (0, 1), "east": (-1, 0), "west": (1, 0)}


def _wall_point(room: worlds.Room, side: str, along_cm: float) -> tuple[float, float]:
    """Point on the inner face of a wall, metres."""
    direction, across, _, _ = worlds.wall_of(room, side)
    return (along_cm / 100.0, across / 100.0) if direction == "x" else (across / 100.0, along_cm / 100.0)


def _face(room: worlds.Room, side: str, low: float, high: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Left end of a stretch of wall as seen from inside of the room, and the vector to its right end (metres)."""
    # Seen from inside, right is the inward normal turned by +90°.
    normal = _INWARD[side]
    right = (-normal[1], normal[0])
    start = low if right[0] + right[1] > 0 else high
    point = _wall_point(room, side, start)
    length = (high - low) / 100.0
    return point, (right[0] * length, right[1] * length)


def _add_wall(quads: _Quads, flat: Flat, room: worlds.Room, side: str, ceiling: float) -> None:
    """The inner face of one wall of a room, around its doors."""
    direction, across, low, high = worlds.wall_of(room, side)
    openings = []
    for door in flat.doors:
        line, position = (door.x, door.y) if direction == "y" else (door.y, door.x)
        if door.along == direction and abs(line - across) <= WALL and low < position < high:
            openings.append((position - door.width // 2, position + door.width // 2))
    lintel = worlds.DOOR_HEIGHT / 100.0
    edges = [low, *(edge for opening in sorted(openings) for edge in opening), high]
    for index, (a, b) in enumerate(pairwise(edges)):
        if b <= a:
            continue
        point, right = _face(room, side, a, b)
        bottom = lintel if index % 2 else 0.0  # every second stretch is above a door
        length = math.hypot(*right)
        start = a / 100.0 / textures.WALL_TEXTURE_METRES
        uv = (start, bottom / ceiling, start + length / textures.WALL_TEXTURE_METRES, 1.0)
        quads.add((*point, bottom), (*right, 0), (0, 0, ceiling - bottom), uv)


def _add_panel(builder: _Builder, flat: Flat, key: str, room: int, side: str, centre: int, width: int,
               heights: tuple[int, int], image: np.ndarray, plain: Sequence[float],
               emission: float = 0.0) -> None:  # fmt: skip
    """A picture or window: a rectangle a centimetre in front of a wall."""
    point, right = _face(flat.rooms[room], side, centre - width // 2, centre + width // 2)
    normal = _INWARD[side]
    corner = (point[0] + normal[0] * 0.01, point[1] + normal[1] * 0.01, heights[0] / 100.0)
    quads = _Quads()
    quads.add(corner, (*right, 0), (0, 0, (heights[1] - heights[0]) / 100.0))
    paint = (1, 1, 1) if builder.textured else plain
    _add_quads(builder, key, quads, builder.material(paint, image, key, emission=emission))


def _add_door_frame(builder: _Builder, door: worlds.Door, ceiling: float) -> None:
    """Jambs and lintel; the jambs lie inside of the wall and cover its cut faces."""
    x, y = door.x / 100.0, door.y / 100.0
    half_width, half_wall, jamb = door.width / 200.0, WALL / 200.0 + 0.015, 0.03
    top = worlds.DOOR_HEIGHT / 100.0
    colour = (0.86, 0.85, 0.82)

    def part(along: float, z: float, half_along: float, half_z: float) -> None:
        centre = (x + along, y, z) if door.along == "x" else (x, y + along, z)
        half = (half_along, half_wall, half_z) if door.along == "x" else (half_wall, half_along, half_z)
        builder.draw_shape(shapes.Shape("box", (0, 0, 0), half, colour), GROUP_HOUSE, centre, 0.0)

    for sign in (-1, 1):
        part(sign * (half_width + jamb), top / 2, jamb, top / 2)
    part(0.0, top + jamb, half_width + 2 * jamb, jamb)


# ------------------------------------------------------------------------------------------------------------ items


def _add_item_look(builder: _Builder, item: Item, look: str, position: Sequence[float], yaw: float,
                   body: object = None, group: int = GROUP_FURNITURE) -> None:  # fmt: skip
    if look == "plain":
        for shape in shapes.shapes_of(item):
            builder.draw_shape(shape, group, position, yaw, body)
        return
    entry = furniture.entry(item.model)
    paint = shapes.PAINTS[item.colour] if item.colour else (1.0, 1.0, 1.0)
    # Sizes of items vary by a few percent around the catalogue's: one mesh for each size.
    size = (item.width, item.depth, item.height)
    ratio = np.asarray(size) / np.asarray((entry.width, entry.depth, entry.height))
    for number, part in enumerate(furniture.model_parts(item.model)):
        key = f"{item.model}.{number}"
        if part.material in entry.paint:
            texture = furniture.painted(part.texture) if part.texture is not None else None
            material = builder.material(paint, texture, f"{key}.paint", specular=0.15)
        else:
            material = builder.material(part.colour, part.texture, key, specular=0.15)
        vertices, normals = part.vertices * ratio, part.normals / ratio
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6)
        mesh = builder.mesh(f"{key}.{size}", vertices, normals, part.texcoords, part.faces)
        builder.draw_mesh(mesh, material, group, position, yaw, body)


def _add_items(builder: _Builder, flat: Flat, look: str) -> None:
    for number, item in enumerate(flat.items):
        x, y, yaw = item.x / 100.0, item.y / 100.0, math.radians(item.yaw)
        builder.item_collider(item, (x, y), yaw, f"item{number}")
        _add_item_look(builder, item, look, (x, y, 0.0), yaw)


def _add_movers(builder: _Builder, movers: Sequence[Mover], look: str) -> None:
    for number, mover in enumerate(movers):
        entry = furniture.entry(mover.model)
        item = Item(
            mover.kind, entry.colour or "orange", mover.model, 0, 0, 0, 0, entry.width, entry.depth, entry.height
        )
        body = builder.spec.worldbody.add_body(name=f"mover{number}", mocap=True, pos=[-5.0 - number, -5.0, 0.0])
        builder.item_collider(item, (0, 0), 0.0, f"mover{number}", body)
        _add_item_look(builder, item, look, (0, 0, 0), 0.0, body)


# ------------------------------------------------------------------------------------------------------------ robot


def _add_robot(builder: _Builder, camera: Camera) -> None:
    """A round base on a planar joint, driven by velocity servos along the world's axes (simulator.py turns them)."""
    spec = builder.spec
    body = spec.worldbody.add_body(name="robot", pos=[0, 0, 0])
    joint = mujoco.mjtJoint
    body.add_joint(name="x", type=joint.mjJNT_SLIDE, axis=[1, 0, 0])
    body.add_joint(name="y", type=joint.mjJNT_SLIDE, axis=[0, 1, 0])
    body.add_joint(name="yaw", type=joint.mjJNT_HINGE, axis=[0, 0, 1])
    height = max(camera.height, 0.3)
    body.add_geom(
        name="robot", type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=[ROBOT_RADIUS, height / 2 - 0.01, 0],
        pos=[0, 0, height / 2 + 0.01], mass=ROBOT_MASS, group=GROUP_COLLIDER, contype=2, conaffinity=1,
        rgba=[1, 0, 1, 1], friction=[0.3, 0.005, 0.0001], solref=[0.01, 1.0],
    )  # fmt: skip
    looks = (
        ("cylinder", (0, 0, 0.10), (ROBOT_RADIUS, ROBOT_RADIUS, 0.08), (0.20, 0.21, 0.24)),
        ("cylinder", (0, 0, height / 2), (0.025, 0.025, height / 2), (0.55, 0.56, 0.58)),
        ("box", (camera.forward - 0.02, 0, camera.height), (0.015, 0.06, 0.015), (0.75, 0.76, 0.78)),
        ("box", (ROBOT_RADIUS - 0.03, 0, 0.19), (0.03, 0.03, 0.01), (0.95, 0.5, 0.1)),
    )
    for type_, centre, half, colour in looks:
        builder.draw_shape(shapes.Shape(type_, centre, half, colour), GROUP_ROBOT, (0, 0, 0), 0.0, body)
    for name, tilt in (("level", 0.0), ("look_down", TILT)):
        # A MuJoCo camera looks along its -z: x to the robot's right, y up and, tilted, forward.
        axes = np.asarray([[0, math.sin(tilt), -math.cos(tilt)], [-1, 0, 0], [0, math.cos(tilt), math.sin(tilt)]])
        quaternion = np.zeros(4)
        mujoco.mju_mat2Quat(quaternion, axes.ravel())
        position = [camera.forward, 0, camera.height]
        body.add_camera(name=name, pos=position, quat=quaternion, fovy=math.degrees(camera.vfov))
    for name, gain, limit in (
        ("x", SERVO_GAIN[0], SERVO_LIMIT[0]),
        ("y", SERVO_GAIN[0], SERVO_LIMIT[0]),
        ("yaw", SERVO_GAIN[1], SERVO_LIMIT[1]),
    ):
        servo = spec.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        servo.set_to_velocity(kv=gain)
        servo.forcelimited = True
        servo.forcerange = [-limit, limit]


# ------------------------------------------------------------------------------------------------------------- light


def _add_light(builder: _Builder, flat: Flat) -> None:
    spec = builder.spec
    warm = flat.warmth / 100.0
    tint = np.asarray((1.0, 1.0 - 0.06 * warm, 1.0 - 0.16 * warm)) * flat.brightness / 100.0
    spec.visual.headlight.ambient = list(0.50 * tint)
    spec.visual.headlight.diffuse = list(0.12 * tint)
    spec.visual.headlight.specular = [0.05] * 3
    for direction, strength in (((0.45, 0.30, -0.9), 0.44), ((-0.7, -0.4, -0.35), 0.30), ((0.25, -0.1, 1.0), 0.32)):
        spec.worldbody.add_light(
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, dir=list(direction), diffuse=list(strength * tint),
            ambient=[0, 0, 0], specular=[0.1 * strength] * 3, castshadow=False,
        )  # fmt: skip


def _add_render_settings(builder: _Builder, camera: Camera) -> None:
    """One pass without multisampling (which would also blur the depth), few slices; metric depth needs extent 1."""
    visual = builder.spec.visual
    visual.quality.offsamples = 0
    visual.quality.shadowsize = 0
    visual.quality.numslices = 16
    visual.quality.numstacks = 8
    visual.quality.numquads = 1
    visual.global_.offwidth = max(camera.width, 960)
    visual.global_.offheight = max(camera.height_px, 720)
    visual.map.znear = NEAR
    visual.map.zfar = FAR
    builder.spec.stat.extent = 1.0
    builder.spec.stat.center = [0, 0, 0]


# ------------------------------------------------------------------------------------------------------------ public


def build_spec(flat: Flat, look: str, camera: Camera, movers: Sequence[Mover] = ()) -> mujoco.MjSpec:
    """The scene as an MjSpec."""
    builder = _Builder(textured=look == "furniture")
    _add_render_settings(builder, camera)
    _add_light(builder, flat)
    _add_house(builder, flat)
    _add_items(builder, flat, look)
    _add_movers(builder, movers, look)
    _add_robot(builder, camera)
    builder.spec.option.timestep = TIMESTEP
    builder.spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    builder.spec.option.gravity = [0, 0, 0]  # nothing can fall: the robot has planar joints, items are fixed
    return builder.spec


def load_scene(flat: Flat, look: str, camera: Camera, movers: Sequence[Mover] = ()) -> mujoco.MjModel:
    """The compiled scene; one with furniture from the cache below the state folder, if it was built before."""
    if look == "plain":
        return build_spec(flat, look, camera, movers).compile()
    parts = (_VERSION, mujoco.__version__, flat.fingerprint(), camera, tuple(movers), furniture.catalogue())
    name = hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
    cached = state_folder() / "scenes" / f"{name}.mjb"
    if cached.is_file():
        try:
            model = mujoco.MjModel.from_binary_path(str(cached))
            os.utime(cached)
            return model
        except (ValueError, RuntimeError, OSError):  # cut off by a full disk, or removed at this moment
            cached.unlink(missing_ok=True)
    model = build_spec(flat, look, camera, movers).compile()
    _store(model, cached)
    return model


CACHE_BYTES = 2_000_000_000


def _store(model: mujoco.MjModel, path: Path) -> None:
    """Write a scene to the cache, and drop those not used for longest when the cache is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    mujoco.mj_saveModel(model, str(partial), None)
    partial.replace(path)
    kept = 0
    for _used, size, old in sorted(_cached_scenes(path.parent), reverse=True):
        kept += size
        if kept > CACHE_BYTES:
            old.unlink(missing_ok=True)


def _cached_scenes(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """When last used, bytes and file of each scene; other processes may remove some meanwhile."""
    for file in folder.glob("*.mjb"):
        with contextlib.suppress(FileNotFoundError):
            stat = file.stat()
            yield stat.st_mtime, stat.st_size, file
