"""Procedural flats: the same seed gives the same flat on every machine.

Everything that makes a flat is integer arithmetic on draws of `Draw`: centimetres, degrees in steps of 15, percent.
No step depends on floating point, on hashing or on whether furniture models are installed.

A flat that is handed out is one connected piece for the robot: after each wall and each item the floor where the
robot's centre may be (`PLANNING_RADIUS` from everything) is still a single component, and each item can be driven
up to.

Frame of a flat: x to the right and y up on the plan, z up, origin in the lower left corner of the outer walls' centre
lines; yaw counter-clockwise. An item with yaw 0 faces -y (see furniture.py).
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import numpy as np
from scipy import ndimage

from .draw import Draw
from .furniture import Entry, catalogue

CELL = 5  # centimetres per cell of the occupancy grid
WALL = 12  # thickness of all walls
ROBOT_RADIUS = 20
PLANNING_RADIUS = 28  # the robot's radius and a margin: where the robot's centre may be planned
APPROACH = 60  # an item counts as reachable if the robot's centre can get this close to its footprint
DOOR_HEIGHT = 206
DOOR_ZONE = 80  # floor kept free on both sides of a door

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
FLOORS = ("oak", "walnut", "ash", "white tiles", "grey tiles", "terracotta", "beige carpet", "blue carpet")
WALL_TINTS = ("white", "cream", "sand", "sage", "sky", "rose", "grey", "terracotta")
ROOM_FLOORS = {
    "living room": (0, 1, 2, 6),
    "bedroom": (0, 1, 2, 6, 7),
    "kitchen": (3, 4, 5),
    "bathroom": (3, 4),
    "office": (0, 1, 2, 7),
    "corridor": (0, 1, 4, 5),
}
# What stands in a room: kinds that make it what it is, in this order, and kinds that may be there.
FURNISHING = {
    "living room": (("sofa", "coffee table"), ("tv stand", "armchair", "bookcase", "lamp", "plant", "piano",
                                               "fireplace", "ottoman")),
    "bedroom": (("bed", "wardrobe"), ("dresser", "lamp", "chair", "plant", "ottoman", "armchair")),
    "kitchen": (("fridge", "table"), ("cabinet", "chair", "chair", "washing machine", "stool", "water cooler")),
    "bathroom": (("bathtub", "toilet"), ("sink", "basket", "washing machine", "stool")),
    "office": (("desk", "chair"), ("bookcase", "cabinet", "plant", "armchair", "water cooler", "exercise bike")),
    "corridor": ((), ("plant", "stool", "dresser")),
}  # fmt: skip
AGAINST_WALL = frozenset((
    "sofa", "tv stand", "bookcase", "piano", "fireplace", "bed", "wardrobe", "dresser", "fridge", "cabinet",
    "washing machine", "bathtub", "toilet", "sink", "desk", "water cooler",
))  # fmt: skip
ALIGNED = frozenset(("table", "coffee table"))  # free in the room, but parallel to its walls
# Things that may stand anywhere, and kinds they are recognisably next to.
MOVABLE = ("cone", "crate", "barrel", "suitcase", "box", "stool", "lamp", "plant", "basket", "chair", "ottoman")
LANDMARKS = frozenset((
    "sofa", "table", "bed", "wardrobe", "bookcase", "desk", "fridge", "bathtub", "toilet", "piano", "fireplace",
    "tv stand", "dresser", "armchair", "sink", "coffee table", "cabinet",
))  # fmt: skip
MAX_ITEMS = 15
MIN_ITEMS = 6

# cos and sin of 0, 15, … 345 degrees times 10000, so that turning a rectangle is integer arithmetic.
_QUARTER = (10000, 9659, 8660, 7071, 5000, 2588, 0)
COSINES = tuple(
    [_QUARTER[i] for i in range(7)]
    + [-_QUARTER[12 - i] for i in range(7, 13)]
    + [-_QUARTER[i - 12] for i in range(13, 19)]
    + [_QUARTER[24 - i] for i in range(19, 24)]
)
SINES = tuple(COSINES[(i - 6) % 24] for i in range(24))


@dataclass(frozen=True)
class Box:
    """Axis-parallel rectangle, centimetres."""

    x0: int
    y0: int
    x1: int
    y1: int


@dataclass(frozen=True)
class Room:
    """A room between the centre lines of its walls."""

    name: str  # unique in the flat: "kitchen", "second bedroom"
    kind: str
    box: Box
    floor: int  # index into FLOORS
    walls: int  # index into WALL_TINTS

    @property
    def inside(self) -> Box:
        half = WALL // 2
        return Box(self.box.x0 + half, self.box.y0 + half, self.box.x1 - half, self.box.y1 - half)


@dataclass(frozen=True)
class Door:
    """Opening in a wall between two rooms (indices); `along` is the direction of the wall, "x" or "y"."""

    x: int
    y: int
    along: str
    width: int
    rooms: tuple[int, int]


@dataclass(frozen=True)
class Window:
    """Window in an outer wall of a room; `side` of the room it is on: "north", "south", "east", "west"."""

    room: int
    side: str
    centre: int  # along the wall
    width: int


@dataclass(frozen=True)
class Picture:
    """Picture on a wall of a room."""

    room: int
    side: str
    centre: int
    width: int
    height: int
    motif: int


@dataclass(frozen=True)
class Item:
    """A piece of furniture or another object standing on the floor; sizes along its own axes (see furniture.py)."""

    kind: str
    colour: str
    model: str  # key in the furniture catalogue
    room: int
    x: int
    y: int
    yaw: int  # degrees, a multiple of 15
    width: int
    depth: int
    height: int

    @property
    def name(self) -> str:
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True)
class Flat:
    """A furnished flat."""

    seed: int
    width: int
    height: int  # of the plan
    ceiling: int
    rooms: tuple[Room, ...]
    doors: tuple[Door, ...]
    walls: tuple[Box, ...]
    windows: tuple[Window, ...]
    pictures: tuple[Picture, ...]
    items: tuple[Item, ...]
    brightness: int  # percent
    warmth: int  # percent: 0 cold daylight, 100 warm lamps

    def __hash__(self) -> int:
        # Flats are keys of caches; hashing every field each time would cost more than what is cached.
        return hash(self.seed)

    def fingerprint(self) -> str:
        """Hash of everything above."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    @functools.cached_property
    def occupied(self) -> np.ndarray:
        """(rows, columns) bool: walls and items; cell [j, i] is centred at ((i + ½)·CELL, (j + ½)·CELL)."""
        return ~_free(self, 3)

    @functools.cached_property
    def drivable(self) -> np.ndarray:
        """(rows, columns) bool: where the robot's centre may be planned; one connected component."""
        return _free(self, PLANNING_RADIUS)

    @functools.cached_property
    def passable(self) -> np.ndarray:
        """(rows, columns) bool: where the robot's centre is just clear of everything; more than `drivable`."""
        return _free(self, ROBOT_RADIUS + 4)

    def room_at(self, x_cm: float, y_cm: float) -> int:
        """Index of the room a point lies in (on a wall: a room beside it); -1 outside of the flat."""
        for index, room in enumerate(self.rooms):
            if room.box.x0 <= x_cm <= room.box.x1 and room.box.y0 <= y_cm <= room.box.y1:
                return index
        return -1


# ------------------------------------------------------------------------------------------------------- geometry


@functools.lru_cache(maxsize=8)
def _centres(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Doubled centimetres of the cell centres (columns, rows): integers also for an odd CELL."""
    rows, columns = shape
    return CELL * (2 * np.arange(columns, dtype=np.int64) + 1), CELL * (2 * np.arange(rows, dtype=np.int64) + 1)


def mark_near(grid: np.ndarray, x: int, y: int, yaw: int, width: int, depth: int, radius: int) -> None:
    """Set the cells whose centre is closer than `radius` to a turned rectangle (centre, size; centimetres)."""
    columns, rows = _centres(grid.shape)
    reach = width + depth + 2 * radius  # doubled half-diagonal, rounded up
    i0, i1 = np.searchsorted(columns, [2 * x - reach, 2 * x + reach])
    j0, j1 = np.searchsorted(rows, [2 * y - reach, 2 * y + reach])
    c, s = COSINES[yaw // 15 % 24], SINES[yaw // 15 % 24]
    dx, dy = columns[None, i0:i1] - 2 * x, rows[j0:j1, None] - 2 * y
    beyond_x = np.maximum(np.abs(dx * c + dy * s) - width * 10000, 0)
    beyond_y = np.maximum(np.abs(dy * c - dx * s) - depth * 10000, 0)
    limit = 2 * radius * 10000
    grid[j0:j1, i0:i1] |= beyond_x * beyond_x + beyond_y * beyond_y < limit * limit


def _shape(width: int, height: int) -> tuple[int, int]:
    return (-(-height // CELL), -(-width // CELL))


def _mark_box(grid: np.ndarray, box: Box, radius: int) -> None:
    # Even sizes keep the centre whole; walls and doors are laid out on even centimetres.
    mark_near(grid, (box.x0 + box.x1) // 2, (box.y0 + box.y1) // 2, 0, box.x1 - box.x0, box.y1 - box.y0, radius)


def _free(flat: Flat, radius: int) -> np.ndarray:
    """Cells at least `radius` from all walls and items, inside of the flat."""
    taken = np.zeros(_shape(flat.width, flat.height), bool)
    for wall in flat.walls:
        _mark_box(taken, wall, radius)
    for item in flat.items:
        mark_near(taken, item.x, item.y, item.yaw, item.width, item.depth, radius)
    return ~taken


def is_connected(free: np.ndarray) -> bool:
    """Whether the free cells are a single component (4-neighbourhood) and there are any."""
    return ndimage.label(free)[1] == 1


def gap_squared(a: Item, b: Item) -> int:
    """Squared distance between the bounding boxes of two footprints, cm²; 0 when they overlap."""
    first, second = extent(a), extent(b)
    dx = max(first.x0 - second.x1, second.x0 - first.x1, 0)
    dy = max(first.y0 - second.y1, second.y0 - first.y1, 0)
    return dx * dx + dy * dy


def extent(item: Item) -> Box:
    """Bounding box of an item's footprint, rounded outwards."""
    c, s = abs(COSINES[item.yaw // 15 % 24]), abs(SINES[item.yaw // 15 % 24])
    half_x = -(-(item.width * c + item.depth * s) // 20000)
    half_y = -(-(item.width * s + item.depth * c) // 20000)
    return Box(item.x - half_x, item.y - half_y, item.x + half_x, item.y + half_y)


# ---------------------------------------------------------------------------------------------------- rooms, walls


def _corridor_plan(draw: Draw) -> tuple[list[Box], int]:
    """Rooms along one or both sides of a corridor; the last box is the corridor. All lines on even centimetres."""
    width = draw.between(840, 1240, 20)
    corridor = draw.between(150, 190, 10)
    south = draw.between(320, 440, 20)
    sides = [(0, south)]
    if draw.chance(65):
        sides.append((south + corridor, south + corridor + draw.between(320, 440, 20)))
    boxes = []
    wanted = draw.between(3, 5)
    for number, (y0, y1) in enumerate(sides):
        share = wanted if len(sides) == 1 else (wanted // 2 if number else wanted - wanted // 2)
        count = max(1, min(share, width // 280))
        cuts = [0]
        for index in range(1, count):
            middle = width * index // count
            cuts.append((middle + draw.between(-40, 40, 20)) // 2 * 2)
        cuts.append(width)
        boxes += [Box(x0, y0, x1, y1) for x0, x1 in pairwise(cuts)]
    boxes.append(Box(0, south, width, south + corridor))
    return boxes, len(boxes) - 1


def _split_plan(draw: Draw) -> tuple[list[Box], int]:
    """Rooms by splitting a rectangle again and again; no corridor."""
    boxes = [Box(0, 0, draw.between(760, 1120, 20), draw.between(620, 940, 20))]
    wanted = draw.between(3, 6)
    while len(boxes) < wanted:
        boxes.sort(key=lambda b: (-(b.x1 - b.x0) * (b.y1 - b.y0), b.x0, b.y0))
        box = boxes[0]
        wide = box.x1 - box.x0 >= box.y1 - box.y0
        length = max(box.x1 - box.x0, box.y1 - box.y0)
        if length < 560:
            break
        cut = length * draw.between(42, 58) // 200 * 2
        boxes[0] = Box(box.x0, box.y0, box.x0 + cut, box.y1) if wide else Box(box.x0, box.y0, box.x1, box.y0 + cut)
        boxes.append(Box(box.x0 + cut, box.y0, box.x1, box.y1) if wide else Box(box.x0, box.y0 + cut, box.x1, box.y1))
    return boxes, -1


def _shared_wall(a: Box, b: Box) -> tuple[str, int, int, int] | None:
    """The wall two rooms share: direction, position across, and its ends along; None if they touch nowhere."""
    for first, second in ((a, b), (b, a)):
        if first.x1 == second.x0:
            low, high = max(a.y0, b.y0), min(a.y1, b.y1)
            if low < high:
                return "y", first.x1, low, high
        if first.y1 == second.y0:
            low, high = max(a.x0, b.x0), min(a.x1, b.x1)
            if low < high:
                return "x", first.y1, low, high
    return None


def _make_doors(draw: Draw, boxes: list[Box], corridor: int) -> list[Door]:
    """A tree of doors that reaches every room (through the corridor, where there is one), sometimes one more."""
    possible: dict[tuple[int, int], Door] = {}
    for a in range(len(boxes)):
        for b in range(a + 1, len(boxes)):
            shared = _shared_wall(boxes[a], boxes[b])
            if shared is None or shared[3] - shared[2] < 150:
                continue
            along, across, low, high = shared
            width = draw.between(90, 110, 10)
            margin = WALL // 2 + 25 + width // 2
            centre = (low + margin) // 2 * 2 + draw.between(0, max(0, high - low - 2 * margin), 2)
            position = (across, centre) if along == "y" else (centre, across)
            possible[a, b] = Door(*position, along, width, (a, b))
    doors: list[Door] = []
    reached = {corridor if corridor >= 0 else draw.below(len(boxes))}
    pairs = draw.shuffled(sorted(possible))
    while len(reached) < len(boxes):
        # Rooms open to the corridor first; the others behind them.
        pairs.sort(key=lambda pair: corridor not in pair)
        pair = next((p for p in pairs if (p[0] in reached) != (p[1] in reached)), None)
        if pair is None:
            return []
        reached |= set(pair)
        doors.append(possible[pair])
    taken = {door.rooms for door in doors}
    doors += [possible[pair] for pair in pairs if pair not in taken and draw.chance(30)]
    return doors


def _make_walls(boxes: list[Box], doors: list[Door]) -> list[Box]:
    """Wall pieces on all room boundaries, with openings for the doors."""
    lines: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for box in boxes:
        for across in (box.x0, box.x1):
            lines.setdefault(("y", across), []).append((box.y0, box.y1))
        for across in (box.y0, box.y1):
            lines.setdefault(("x", across), []).append((box.x0, box.x1))
    walls: list[Box] = []
    half = WALL // 2
    for (along, across), spans in sorted(lines.items()):
        openings = sorted(
            (position - door.width // 2, position + door.width // 2)
            for door in doors
            for position, line in [(door.y, door.x) if door.along == "y" else (door.x, door.y)]
            if door.along == along and line == across
        )
        merged: list[list[int]] = []
        for low, high in sorted(spans):
            if merged and low <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], high)
            else:
                merged.append([low, high])
        for low, high in merged:
            # Walls along x close the corners.
            start, end = (low - half, high + half) if along == "x" else (low + half, high - half)
            edges = [start, *(edge for opening in openings if low < opening[0] < high for edge in opening), end]
            for a, b in zip(edges[::2], edges[1::2], strict=True):
                walls.append(
                    Box(a, across - half, b, across + half)
                    if along == "x"
                    else Box(across - half, a, across + half, b)
                )
    return walls


ORDINALS = ("", "second ", "third ", "fourth ")


def _make_rooms(draw: Draw, boxes: list[Box], corridor: int) -> list[Room]:
    """Give each box a use: the largest is the living room, the smallest the bathroom."""
    order = sorted((i for i in range(len(boxes)) if i != corridor), key=lambda i: (_area(boxes[i]), i))
    kinds = ["bathroom", *draw.shuffled(["kitchen", "bedroom", "office", "bedroom"])[: len(order) - 2], "living room"]
    if "kitchen" not in kinds and len(order) > 2:
        kinds[1] = "kitchen"
    use = dict(zip(order, kinds, strict=True))
    if corridor >= 0:
        use[corridor] = "corridor"
    tint = draw.below(len(WALL_TINTS))
    rooms = []
    for index, box in enumerate(boxes):
        kind = use[index]
        before = sum(room.kind == kind for room in rooms)
        walls = draw.below(len(WALL_TINTS)) if draw.chance(50) else tint
        rooms.append(Room(ORDINALS[before] + kind, kind, box, draw.choice(ROOM_FLOORS[kind]), walls))
    return rooms


def _area(box: Box) -> int:
    return (box.x1 - box.x0) * (box.y1 - box.y0)


SIDES = ("north", "south", "east", "west")


def wall_of(room: Room, side: str) -> tuple[str, int, int, int]:
    """Direction, position across of the inner face, and ends along, of one wall of a room."""
    inside = room.inside
    if side in ("north", "south"):
        return "x", inside.y1 if side == "north" else inside.y0, inside.x0, inside.x1
    return "y", inside.x1 if side == "east" else inside.x0, inside.y0, inside.y1


def _free_stretches(room: Room, side: str, doors: list[Door]) -> list[tuple[int, int]]:
    """Parts of a room's wall without a door, at least half a metre long."""
    along, across, low, high = wall_of(room, side)
    edges = [low]
    for door in sorted(doors, key=lambda d: (d.x, d.y)):
        line, position = (door.x, door.y) if along == "y" else (door.y, door.x)
        if door.along == along and abs(line - across) <= WALL and low < position < high:
            edges += [position - door.width // 2 - 10, position + door.width // 2 + 10]
    edges.append(high)
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a >= 50]


def _decorate(draw: Draw, flat_box: Box, rooms: list[Room], doors: list[Door]) -> tuple[list[Window], list[Picture]]:
    """Windows in outer walls, pictures on inner ones."""
    windows: list[Window] = []
    pictures: list[Picture] = []
    for index, room in enumerate(rooms):
        for side in SIDES:
            along, across, low, high = wall_of(room, side)
            outer = (flat_box.y0, flat_box.y1) if along == "x" else (flat_box.x0, flat_box.x1)
            stretches = _free_stretches(room, side, doors)
            if min(abs(across - edge) for edge in outer) <= WALL:
                if high - low > 200 and draw.chance(75):
                    windows.append(
                        Window(index, side, (low + high) // 2 + draw.between(-20, 20), draw.between(100, 170, 10))
                    )
            elif stretches and draw.chance(55):
                a, b = draw.choice(stretches)
                width = min(draw.between(40, 100, 10), b - a - 10)
                centre = (a + b) // 2
                pictures.append(Picture(index, side, centre, width, draw.between(40, 80, 10), draw.below(1 << 16)))
    return windows, pictures


# ---------------------------------------------------------------------------------------------------------- items


class _Furnisher:
    """Places items one by one and keeps the flat drivable."""

    def __init__(
        self, draw: Draw, rooms: list[Room], doors: list[Door], walls: list[Box], size: tuple[int, int]
    ) -> None:
        self.draw, self.rooms, self.doors = draw, rooms, doors
        shape = _shape(*size)
        self.solid = np.zeros(shape, bool)  # walls, items and door zones: nothing may be placed here
        self.blocked = np.zeros(shape, bool)  # the robot's centre may not be here
        for wall in walls:
            _mark_box(self.solid, wall, 1)
            _mark_box(self.blocked, wall, PLANNING_RADIUS)
        for door in doors:
            across, along = (DOOR_ZONE, door.width // 2 + 10)
            half_x, half_y = (along, across) if door.along == "x" else (across, along)
            _mark_box(self.solid, Box(door.x - half_x, door.y - half_y, door.x + half_x, door.y + half_y), 1)
        self.items: list[Item] = []

    def _fits(self, item: Item) -> bool:
        inside = self.rooms[item.room].inside
        box = extent(item)
        if box.x0 < inside.x0 or box.y0 < inside.y0 or box.x1 > inside.x1 or box.y1 > inside.y1:
            return False
        shadow = np.zeros_like(self.solid)
        # 2 cm in from the edge, so that an item may touch the wall behind it.
        mark_near(shadow, item.x, item.y, item.yaw, item.width - 4, item.depth - 4, 1)
        if bool((shadow & self.solid).any()):
            return False
        after = self.blocked.copy()
        mark_near(after, item.x, item.y, item.yaw, item.width, item.depth, PLANNING_RADIUS)
        if not is_connected(~after):
            return False
        return all(_is_approachable(other, after) for other in [*self.items, item])

    def _accept(self, item: Item) -> None:
        self.items.append(item)
        mark_near(self.solid, item.x, item.y, item.yaw, item.width, item.depth, 1)
        mark_near(self.blocked, item.x, item.y, item.yaw, item.width, item.depth, PLANNING_RADIUS)

    def make(self, kind: str, room: int, x: int, y: int, yaw: int, like: Item | None) -> Item:
        """An item of a kind, or another one `like` an existing item."""
        if like is not None:
            return Item(like.kind, like.colour, like.model, room, x, y, yaw, like.width, like.depth, like.height)
        model: Entry = self.draw.choice([e for e in catalogue() if e.kind == kind])
        scale = self.draw.between(95, 105)
        size = [length * scale // 100 // 2 * 2 for length in (model.width, model.depth, model.height)]
        return Item(kind, model.colour or self.draw.choice(COLOURS), model.key, room, x, y, yaw, *size)

    def place(self, kind: str, room: int, beside: Item | None = None, like: Item | None = None) -> Item | None:
        """Try to place an item in a room: against a wall, in a corner or free, or beside another item."""
        inside = self.rooms[room].inside
        for _ in range(24):
            item = self.make(kind, room, 0, 0, 0, like)
            if beside is not None:
                item = self._moved(item, *self._spot_beside(item, beside))
            elif kind == "coffee table" and self._sofa_of(room):
                item = self._moved(item, *self._spot_in_front(item, self._sofa_of(room)))
            elif kind in AGAINST_WALL:
                item = self._moved(item, *self._spot_at_wall(item, inside))
            else:
                turn = self.draw.between(0, 270, 90) if kind in ALIGNED else self.draw.between(0, 345, 15)
                half = -(-(item.width + item.depth) // 2)
                if inside.x1 - inside.x0 <= 2 * half or inside.y1 - inside.y0 <= 2 * half:
                    continue
                x = self.draw.between(inside.x0 + half // 2, inside.x1 - half // 2)
                y = self.draw.between(inside.y0 + half // 2, inside.y1 - half // 2)
                item = self._moved(item, x, y, turn)
            if self._fits(item):
                self._accept(item)
                return item
        return None

    def _moved(self, item: Item, x: int, y: int, yaw: int) -> Item:
        return Item(item.kind, item.colour, item.model, item.room, x, y, yaw, item.width, item.depth, item.height)

    def _spot_at_wall(self, item: Item, inside: Box) -> tuple[int, int, int]:
        side = self.draw.choice(SIDES)
        back = item.depth // 2 + 2
        half = item.width // 2 + 2
        if side in ("north", "south"):
            low, high = inside.x0 + half, inside.x1 - half
            x = self.draw.between(low, max(low, high))
            return (x, inside.y1 - back, 0) if side == "north" else (x, inside.y0 + back, 180)
        low, high = inside.y0 + half, inside.y1 - half
        y = self.draw.between(low, max(low, high))
        return (inside.x1 - back, y, 270) if side == "east" else (inside.x0 + back, y, 90)

    def _sofa_of(self, room: int) -> Item | None:
        return next((item for item in self.items if item.kind == "sofa" and item.room == room), None)

    def _spot_in_front(self, item: Item, other: Item) -> tuple[int, int, int]:
        distance = other.depth // 2 + item.depth // 2 + self.draw.between(35, 60)
        step = other.yaw // 15 % 24
        return (other.x + distance * SINES[step] // 10000, other.y - distance * COSINES[step] // 10000, other.yaw)

    def _spot_beside(self, item: Item, other: Item) -> tuple[int, int, int]:
        box = extent(other)
        gap = self.draw.between(8, 35)
        half = max(item.width, item.depth) // 2
        side = self.draw.choice(SIDES)
        yaw = self.draw.between(0, 345, 15)
        if side in ("north", "south"):
            x = self.draw.between(box.x0, box.x1)
            return (x, box.y1 + gap + half, yaw) if side == "north" else (x, box.y0 - gap - half, yaw)
        y = self.draw.between(box.y0, box.y1)
        return (box.x1 + gap + half, y, yaw) if side == "east" else (box.x0 - gap - half, y, yaw)


def _is_approachable(item: Item, blocked: np.ndarray) -> bool:
    near = np.zeros_like(blocked)
    mark_near(near, item.x, item.y, item.yaw, item.width, item.depth, APPROACH)
    return bool((near & ~blocked).any())


def _furnish(draw: Draw, rooms: list[Room], doors: list[Door], walls: list[Box], size: tuple[int, int]) -> list[Item]:
    """What makes the rooms what they are, then twins beside different landmarks, then whatever else fits."""
    work = _Furnisher(draw, rooms, doors, walls, size)
    for index, room in enumerate(rooms):
        for number, kind in enumerate(FURNISHING[room.kind][0]):
            if number == 0 or draw.chance(65):
                work.place(kind, index)
    for _ in range(draw.between(1, 2)):
        landmarks = draw.shuffled([item for item in work.items if item.kind in LANDMARKS])
        kinds_seen: set[str] = set()
        twin: Item | None = None
        for landmark in landmarks:
            if landmark.kind in kinds_seen or len(kinds_seen) == 2:
                continue
            placed = work.place(twin.kind if twin else draw.choice(MOVABLE), landmark.room, landmark, twin)
            if placed:
                twin = placed
                kinds_seen.add(landmark.kind)
    optional = [(index, kind) for index, room in enumerate(rooms) for kind in FURNISHING[room.kind][1]]
    optional += [(draw.below(len(rooms)), kind) for kind in MOVABLE]
    wanted = draw.between(10, MAX_ITEMS)
    for index, kind in draw.shuffled(optional):
        if len(work.items) >= wanted:
            break
        work.place(kind, index)
    return work.items


# ------------------------------------------------------------------------------------------------------------ flat


def _attempts(seed: int) -> Iterator[Flat]:
    attempt = 0
    while True:
        draw = Draw(seed, attempt)
        attempt += 1
        boxes, corridor = _corridor_plan(draw) if draw.chance(60) else _split_plan(draw)
        doors = _make_doors(draw, boxes, corridor)
        if not doors:
            continue
        rooms = _make_rooms(draw, boxes, corridor)
        walls = _make_walls(boxes, doors)
        width, height = max(b.x1 for b in boxes), max(b.y1 for b in boxes)
        windows, pictures = _decorate(draw, Box(0, 0, width, height), rooms, doors)
        bare = Flat(seed, width, height, draw.between(245, 275, 5), tuple(rooms), tuple(doors), tuple(walls),
                    tuple(windows), tuple(pictures), (), draw.between(80, 115), draw.between(0, 100))  # fmt: skip
        if not is_connected(bare.drivable):
            continue
        items = _furnish(draw, rooms, doors, walls, (width, height))
        if MIN_ITEMS <= len(items) <= MAX_ITEMS:
            yield replace(bare, items=tuple(items))


@functools.lru_cache(maxsize=64)
def make_flat(seed: int) -> Flat:
    """The flat of a seed (a non-negative integer): 3 to 6 rooms with doors, 6 to 15 items, all of it reachable."""
    if seed < 0:
        raise ValueError(f"seed: expected a non-negative integer, got {seed}")
    return next(_attempts(seed))
