"""Episodes: where the robot starts, what it is told, and what only the evaluator knows.

Three families: "object" (Go to the blue chair.), "relation" (Stop at the lamp next to the sofa.) and "route" (Leave
the room through the door on your left, then stop at the red cone.). The wordings are data (data/grammar_train.json
and grammar_test.json) and shared by no two splits; flats of the splits come from different seeds. An episode is
fixed by split, seed, family and number.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
from scipy import ndimage

from .draw import Draw
from .grid import DistanceField, Grid, Point, clear_line, grid_of, path_length
from .simulator import Pose, wrapped
from .worlds import LANDMARKS, Door, Flat, Item, gap_squared, make_flat, mark_near

FAMILIES = ("object", "relation", "route")
SPLITS = ("train", "test")
_FLAT_SEEDS = {"train": 0, "test": 10**9}  # flats of the splits never coincide
_SEEDS = 1000
EPISODES_PER_FLAT = 4  # of each family
SUCCESS_RADIUS = 1.0  # metres from the robot's centre to the goal object's footprint
MIN_DISTANCE, MAX_DISTANCE = 2.5, 16.0  # of start and goal, metres along the shortest path
NEXT_TO_CM, NOT_NEXT_TO_CM = 60, 150
_START_DRAWS = 60  # in a flat, before the next one is tried
_START_CLEARANCE_CELLS = 2  # more room at the start than planning needs


@dataclass(frozen=True)
class Episode:
    """`instruction` is all a planner gets; the rest belongs to the evaluator.

    goals: indices of the items of the flat that fulfil the instruction. shortest: metres from the start to the
    nearest place within SUCCESS_RADIUS of one of them from where nothing hides it.
    """

    split: str
    seed: int
    family: str
    number: int
    flat_seed: int
    instruction: str
    start: Pose
    goals: tuple[int, ...]
    shortest: float

    @property
    def name(self) -> str:
        return f"{self.split}-{self.seed}-{self.family}-{self.number:04d}"

    @property
    def flat(self) -> Flat:
        return make_flat(self.flat_seed)


@functools.cache
def grammar(split: str) -> dict[str, object]:
    """The wordings of a split."""
    return json.loads(resources.files(__package__).joinpath(f"data/grammar_{split}.json").read_text())


# ----------------------------------------------------------------------------------------------------- goal regions


def footprint_distance(item: Item, point: Point) -> float:
    """Metres from a point to an item's footprint; 0 inside."""
    nearest = nearest_footprint_point(item, point)
    return math.dist(point, nearest)


def nearest_footprint_point(item: Item, point: Point) -> Point:
    """The point of an item's footprint that is closest to `point`."""
    pose = Pose(item.x / 100.0, item.y / 100.0, math.radians(item.yaw))
    x, y = pose.to_local(point)
    half_x, half_y = item.width / 200.0, item.depth / 200.0
    return pose.to_world((min(max(x, -half_x), half_x), min(max(y, -half_y), half_y)))


@functools.lru_cache(maxsize=256)
def _floor_around(flat: Flat, goal: int) -> np.ndarray:
    """Cells through which an item can be seen: all but walls and the other items."""
    item = flat.items[goal]
    own = np.zeros_like(flat.occupied)
    mark_near(own, item.x, item.y, item.yaw, item.width, item.depth, 8)
    return ~flat.occupied | own


def is_in_sight(flat: Flat, goal: int, point: Point) -> bool:
    """Whether nothing, however low, stands between a point and the nearest point of an item's footprint."""
    return clear_line(_floor_around(flat, goal), point, nearest_footprint_point(flat.items[goal], point))


def cells_near(flat: Flat, goals: Sequence[int], radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Free cells (N, 2: row, column) within `radius` metres of a goal item with it in sight, and their distances."""
    cells, distances = [], []
    for goal in goals:
        item = flat.items[goal]
        near = np.zeros_like(flat.occupied)
        mark_near(near, item.x, item.y, item.yaw, item.width, item.depth, round(radius * 100))
        for row, column in np.argwhere(near & flat.drivable):
            centre = Grid.centre(row, column)
            if is_in_sight(flat, goal, centre):
                cells.append((row, column))
                distances.append(footprint_distance(item, centre))
    return np.asarray(cells, int).reshape(-1, 2), np.asarray(distances)


@functools.lru_cache(maxsize=64)
def success_field(flat: Flat, goals: tuple[int, ...], radius: float = SUCCESS_RADIUS) -> DistanceField:
    """How far it is to the nearest place where a STOP would count."""
    cells, _ = cells_near(flat, goals, radius)
    return grid_of(flat).distance_field(cells)


@functools.lru_cache(maxsize=64)
def goal_field(flat: Flat, goals: tuple[int, ...], radius: float = SUCCESS_RADIUS) -> DistanceField:
    """How far it is to the nearest goal object itself: to its surroundings, then straight to its footprint."""
    return grid_of(flat).distance_field(*cells_near(flat, goals, radius))


# --------------------------------------------------------------------------------------------------- descriptions


@dataclass(frozen=True)
class _Task:
    """Words to fill in, which templates to choose from, and the goals."""

    templates: str
    words: dict[str, str]
    goals: tuple[int, ...]
    start: Pose | None = None  # given by the task (route) or left to draw


def _unique_names(items: Sequence[Item]) -> dict[int, list[str]]:
    """For each item (by position in `items`) the descriptions that fit it alone: by kind, or by colour and kind."""
    kinds = Counter(item.kind for item in items)
    names = Counter(item.name for item in items)
    return {
        index: [*([item.kind] if kinds[item.kind] == 1 else []), *([item.name] if names[item.name] == 1 else [])]
        for index, item in enumerate(items)
    }


def _object_tasks(flat: Flat, draw: Draw) -> list[_Task]:
    names = _unique_names(flat.items)
    tasks = []
    for index, item in enumerate(flat.items):
        if names[index]:
            # Mostly with the colour; the kind alone says it too where there is only one.
            name = names[index][-1] if draw.chance(75) else names[index][0]
            tasks.append(_Task("object", {"object": f"unique:{name}"}, (index,)))
        else:
            same = tuple(other for other, candidate in enumerate(flat.items) if candidate.name == item.name)
            if same[0] == index:
                tasks.append(_Task("object", {"object": f"any:{item.name}"}, same))
    return tasks


def told_apart(flat: Flat, index: int, alike: Sequence[int], landmark: int) -> bool:
    """Whether "next to the landmark" tells an item from all others that are called like it. Indices of items; `alike`
    has the item itself, too."""
    item, mark = flat.items[index], flat.items[landmark]
    others = [flat.items[i] for i in alike if i != index]
    return (
        landmark not in alike
        and mark.kind in LANDMARKS
        and mark.room == item.room
        and gap_squared(item, mark) <= NEXT_TO_CM**2
        and all(gap_squared(other, mark) >= NOT_NEXT_TO_CM**2 for other in others)
    )


def _relation_tasks(flat: Flat, draw: Draw) -> list[_Task]:
    """Objects that only their place tells apart: next to a landmark, or in a room of which there is one."""
    names = _unique_names(flat.items)
    tasks = []
    for index, item in enumerate(flat.items):
        for description in (item.kind, item.name):
            alike = [i for i, other in enumerate(flat.items) if description in (other.kind, other.name)]
            if len(alike) < 2:
                continue
            for mark in range(len(flat.items)):
                if names[mark] and told_apart(flat, index, alike, landmark=mark):
                    words = {"object": description, "landmark": draw.choice(names[mark])}
                    tasks.append(_Task("next_to", words, (index,)))
            room = flat.rooms[item.room]
            alone = sum(flat.items[i].room == item.room for i in alike) == 1
            if alone and sum(other.kind == room.kind for other in flat.rooms) == 1:
                tasks.append(_Task("in_room", {"object": description, "room": room.kind}, (index,)))
    # Both kinds of relation equally often, however many there are of each.
    by_landmark = [task for task in tasks if task.templates == "next_to"]
    by_room = [task for task in tasks if task.templates == "in_room"]
    if by_landmark and by_room:
        return by_landmark if draw.chance(60) else by_room
    return tasks


def _sector(bearing: float) -> str:
    """Where something is as a person would say it; empty near the borders of the words."""
    degrees = math.degrees(bearing)
    if abs(degrees) <= 25:
        return "ahead"
    if abs(degrees) >= 150:
        return "behind"
    if 35 <= abs(degrees) <= 125:
        return "left" if degrees > 0 else "right"
    return ""


def _bearing(pose: Pose, point: Point) -> float:
    return wrapped(math.atan2(point[1] - pose.y, point[0] - pose.x) - pose.yaw)


def door_point(door: Door) -> Point:
    return door.x / 100.0, door.y / 100.0


def doors_of(flat: Flat, room: int) -> list[Door]:
    return [door for door in flat.doors if room in door.rooms]


def other_room(door: Door, room: int) -> int:
    return door.rooms[1] if door.rooms[0] == room else door.rooms[0]


def _told_apart(pose: Pose, doors: Sequence[Door], wanted: Door) -> str:
    """The word for the side `wanted` is on, if no other door is on that side; empty otherwise."""
    side = _sector(_bearing(pose, door_point(wanted)))
    # A door near the border of a word makes that word ambiguous.
    for door in doors:
        if door is wanted:
            continue
        bearing = math.degrees(_bearing(pose, door_point(door)))
        centre = {"ahead": 0.0, "left": 90.0, "right": -90.0, "behind": 180.0}.get(side, 0.0)
        reach = 40.0 if side in ("ahead", "behind") else 75.0
        if abs(math.degrees(wrapped(math.radians(bearing - centre)))) <= reach:
            return ""
    return side


def entering(door: Door, room: int, flat: Flat) -> Pose:
    """Half a metre behind a door, looking into `room`."""
    x, y = door_point(door)
    box = flat.rooms[room].box
    if door.along == "x":
        sign = 1 if (box.y0 + box.y1) / 200.0 > y else -1
        return Pose(x, y + sign * 0.5, sign * math.pi / 2)
    sign = 1 if (box.x0 + box.x1) / 200.0 > x else -1
    return Pose(x + sign * 0.5, y, 0.0 if sign > 0 else math.pi)


def _route_tasks(flat: Flat, draw: Draw) -> list[_Task]:
    """Through one or two doors, each told apart by its side, to an object that is unique in the room behind."""
    tasks: list[_Task] = []
    cells = _start_cells(flat)
    for _ in range(40):
        pose = _draw_pose(draw, cells)
        room = flat.room_at(pose.x * 100, pose.y * 100)
        doors = doors_of(flat, room)
        if not doors:
            continue
        first = draw.choice(doors)
        side = _told_apart(pose, doors, first)
        second_room = other_room(first, room)
        if not side:
            continue
        words = {"side": side}
        target_room, templates = second_room, "one_door"
        inside = entering(first, second_room, flat)
        onward = [door for door in doors_of(flat, second_room) if door is not first]
        if onward and (draw.chance(50) or not _items_in(flat, second_room)):
            second = draw.choice(onward)
            next_side = _told_apart(inside, onward, second)
            if next_side not in ("left", "right", "ahead") or other_room(second, second_room) == room:
                continue
            words["next_side"] = next_side
            target_room, templates = other_room(second, second_room), "two_doors"
        indices = _items_in(flat, target_room)
        if not indices:
            continue
        names = _unique_names([flat.items[i] for i in indices])
        choices = [(index, names[position]) for position, index in enumerate(indices) if names[position]]
        if choices:
            index, descriptions = draw.choice(choices)
            words["object"] = draw.choice(descriptions)
            tasks.append(_Task(templates, words, (index,), pose))
    return tasks


def _items_in(flat: Flat, room: int) -> list[int]:
    return [index for index, item in enumerate(flat.items) if item.room == room]


_TASKS = {"object": _object_tasks, "relation": _relation_tasks, "route": _route_tasks}


def _wording(task: _Task, split: str, draw: Draw) -> str:
    rules = grammar(split)
    words = dict(task.words)
    if task.templates == "object":
        rule, _, name = words["object"].partition(":")
        words["object"] = draw.choice(rules[rule]).format(object=name)
    for rule in ("side", "next_side"):
        if rule in words:
            words[rule] = rules[rule][words[rule]]
    sentence = draw.choice(rules[task.templates]).format(**words)
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", sentence)


# ------------------------------------------------------------------------------------------------------- episodes


@functools.lru_cache(maxsize=64)
def _start_cells(flat: Flat) -> np.ndarray:
    roomy = ndimage.binary_erosion(flat.drivable, iterations=_START_CLEARANCE_CELLS)
    return np.argwhere(roomy if roomy.any() else flat.drivable)


def draw_start(draw: Draw, flat: Flat) -> Pose:
    """A pose with some room around it."""
    return _draw_pose(draw, _start_cells(flat))


def _draw_pose(draw: Draw, cells: np.ndarray) -> Pose:
    row, column = cells[draw.below(len(cells))]
    x, y = Grid.centre(int(row), int(column))
    return Pose(x, y, wrapped(math.radians(draw.between(0, 355, 5))))


def make_episode(split: str, seed: int, family: str, number: int) -> Episode:
    """The episode with these four keys. ValueError for an unknown split or family, or a seed outside of 0..999."""
    return make_worded_episode(split, seed, family, number, 1)[0]


def make_worded_episode(
    split: str, seed: int, family: str, number: int, wordings: int
) -> tuple[Episode, tuple[str, ...]]:
    """An episode, and up to so many different wordings of its task; the first is the episode's instruction."""
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    if family not in FAMILIES:
        raise ValueError(f"family: expected one of {', '.join(FAMILIES)}, got {family!r}")
    if not 0 <= seed < _SEEDS or not 0 <= number < 100_000:
        raise ValueError(f"expected a seed from 0 to {_SEEDS - 1} and a number from 0 to 99999, got {seed}, {number}")
    draw = Draw(SPLITS.index(split), seed, FAMILIES.index(family), number, 11)
    first_flat = _FLAT_SEEDS[split] + seed * 1_000_000 + number // EPISODES_PER_FLAT * 40
    attempt = 0
    while True:
        # Not every flat has a task of each family: flats after the first are tried in turn.
        flat_seed = first_flat + attempt // 4
        attempt += 1
        flat = make_flat(flat_seed)
        tasks = _TASKS[family](flat, draw)
        if not tasks:
            continue
        task = draw.choice(tasks)
        if not len(cells_near(flat, task.goals, SUCCESS_RADIUS)[0]):
            continue
        field = success_field(flat, task.goals)
        for _ in range(1 if task.start else _START_DRAWS):
            start = task.start or draw_start(draw, flat)
            # An instruction that names no way can only be followed to what can be seen after a turn on the spot.
            if not task.start and not any(is_in_sight(flat, goal, (start.x, start.y)) for goal in task.goals):
                continue
            if MIN_DISTANCE <= field.at((start.x, start.y)) <= MAX_DISTANCE:
                shortest = path_length(field.path((start.x, start.y)))
                words = dict.fromkeys(_wording(task, split, draw) for _ in range(wordings))
                instruction = next(iter(words))
                episode = Episode(split, seed, family, number, flat_seed, instruction, start, task.goals, shortest)
                return episode, tuple(words)


def other_instruction(episode: Episode) -> str:
    """What another episode asks for: one in the same flat with other goals, or where there is none, any other."""
    first = episode.number // EPISODES_PER_FLAT * EPISODES_PER_FLAT
    for family in (episode.family, *FAMILIES):
        for number in range(first, first + EPISODES_PER_FLAT):
            other = make_episode(episode.split, episode.seed, family, number)
            if other.flat_seed == episode.flat_seed and set(other.goals).isdisjoint(episode.goals):
                return other.instruction
    return make_episode(episode.split, episode.seed, episode.family, first + EPISODES_PER_FLAT).instruction


def make_episodes(split: str, seed: int, count: int, families: Sequence[str] = FAMILIES) -> Iterator[Episode]:
    """`count` episodes, the families in turn."""
    for index in range(count):
        yield make_episode(split, seed, families[index % len(families)], index // len(families))
