"""Instructions and what the evaluator knows: unambiguous, solvable, and separate for training and test."""

import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from nav_sim.draw import Draw
from nav_sim.episodes import (
    FAMILIES,
    MAX_DISTANCE,
    MIN_DISTANCE,
    SUCCESS_RADIUS,
    _relation_tasks,
    footprint_distance,
    grammar,
    is_in_sight,
    make_episode,
    make_episodes,
    other_instruction,
    success_field,
)
from nav_sim.grid import CELL_M, grid_of, path_length
from nav_sim.understanding import goals_of
from nav_sim.worlds import Item, gap_squared, make_flat

EPISODES = list(make_episodes("test", 5, 60))


def words_of(family):
    return [episode for episode in EPISODES if episode.family == family]


# ------------------------------------------------------------------------------------------------------------ grid


@pytest.mark.parametrize("seed", [0, 3, 8])
def test_a_path_is_drivable_and_no_longer_than_the_grid_says(seed):
    flat = make_flat(seed)
    grid = grid_of(flat)
    cells = np.argwhere(flat.drivable)
    start, goal = (grid.centre(*cells[index]) for index in (len(cells) // 7, len(cells) * 6 // 7))
    field = grid.to_point(goal)
    path = field.path(start)
    assert path[0] == start
    assert path[-1] == goal
    assert all(grid.drivable_line(a, b) for a, b in itertools.pairwise(path))
    length = path_length(path)
    assert math.dist(start, goal) - 1e-9 <= length <= field.at(start) + 1e-6
    assert field.at(start) <= 1.03 * length + 2 * CELL_M
    assert field.at(goal) == pytest.approx(0.0, abs=1e-6)


def test_an_open_way_is_measured_straight():
    grid = grid_of(make_flat(1))
    a, b = (2.025, 5.025), (9.025, 5.325)
    assert grid.drivable_line(a, b)
    assert path_length(grid.to_point(b).path(a)) == pytest.approx(math.dist(a, b), rel=0.01)


def test_there_is_no_line_of_sight_through_a_wall():
    flat = make_flat(1)
    grid = grid_of(flat)
    room, corridor = flat.rooms[0].inside, flat.rooms[-1].inside
    inside = ((room.x0 + room.x1) / 200, (room.y0 + room.y1) / 200)
    door = next(d for d in flat.doors if 0 in d.rooms)
    assert not grid.line_of_sight(inside, (11.5, (corridor.y0 + corridor.y1) / 200))
    assert grid.line_of_sight((door.x / 100, door.y / 100 - 0.5), (door.x / 100, door.y / 100 + 0.5))


# -------------------------------------------------------------------------------------------------------- episodes


def test_an_episode_is_fixed_by_its_keys():
    episode = make_episode("test", 0, "object", 0)
    assert episode.instruction == "Make your way to some white crate, then halt."
    assert episode.goals == (6, 7)
    assert (episode.start.x, episode.start.y) == pytest.approx((2.675, 0.825))
    assert make_episode("train", 3, "route", 2).instruction == "Take the door on your right. Stop at the fridge."
    assert make_episode("test", 0, "object", 0) == episode


def test_a_goal_to_which_no_way_is_told_is_in_sight_of_the_start():
    for episode in EPISODES:
        if episode.family != "route":
            start = (episode.start.x, episode.start.y)
            assert any(is_in_sight(episode.flat, goal, start) for goal in episode.goals), episode.name


def test_no_wording_is_shared_by_training_and_test():
    train, test = grammar("train"), grammar("test")
    for rule in ("object", "next_to", "in_room", "one_door", "two_doors", "any", "side", "next_side"):
        first, second = (list(g[rule].values()) if isinstance(g[rule], dict) else g[rule] for g in (train, test))
        assert len(first) == len(set(first)) > 1
        assert not set(first) & set(second), rule
    train_flats = {episode.flat_seed for episode in make_episodes("train", 5, 30)}
    assert not train_flats & {episode.flat_seed for episode in EPISODES}


def test_families_take_turns_and_starts_are_drivable_and_far_enough():
    assert [episode.family for episode in EPISODES[:4]] == [*FAMILIES, "object"]
    for episode in EPISODES:
        start = (episode.start.x, episode.start.y)
        assert grid_of(episode.flat).is_drivable(start)
        assert MIN_DISTANCE <= success_field(episode.flat, episode.goals).at(start) <= MAX_DISTANCE
        assert MIN_DISTANCE * 0.9 <= episode.shortest <= MAX_DISTANCE


def test_the_shortest_path_ends_where_a_stop_counts():
    for episode in EPISODES[:15]:
        path = success_field(episode.flat, episode.goals).path((episode.start.x, episode.start.y))
        assert path_length(path) == pytest.approx(episode.shortest)
        assert any(
            footprint_distance(episode.flat.items[goal], path[-1]) <= SUCCESS_RADIUS + 1e-6
            and is_in_sight(episode.flat, goal, path[-1])
            for goal in episode.goals
        )


def test_every_item_an_object_instruction_fits_is_a_goal():
    for episode in words_of("object"):
        named = {item.kind for item in episode.flat.items if item.kind in episode.instruction}
        kind = max(named, key=len)  # "coffee table" rather than "table"
        fitting = {
            index
            for index, item in enumerate(episode.flat.items)
            if item.kind == kind and (item.name in episode.instruction or not any(
                other.name in episode.instruction for other in episode.flat.items if other.kind == kind
            ))
        }  # fmt: skip
        assert set(episode.goals) == fitting, episode.instruction


def test_a_relation_is_needed_and_true_of_one_object_only():
    for episode in words_of("relation"):
        items = episode.flat.items
        (goal,) = episode.goals
        alike = [i for i, item in enumerate(items) if item.kind == items[goal].kind]
        assert len(alike) > 1, episode.instruction
        rooms = Counter(room.kind for room in episode.flat.rooms)
        room = next((kind for kind in rooms if f"the {kind}" in episode.instruction), None)
        if room is not None:
            assert episode.flat.rooms[items[goal].room].kind == room
            continue
        marks = [i for i, item in enumerate(items) if i not in alike and item.kind in episode.instruction]
        described = [
            i for i in alike if items[goal].name not in episode.instruction or items[i].name == items[goal].name
        ]
        true_of = [
            mark
            for mark in marks
            if gap_squared(items[goal], items[mark]) <= 60**2
            and all(gap_squared(items[i], items[mark]) >= 150**2 for i in described if i != goal)
        ]
        assert true_of, episode.instruction


def test_next_to_is_not_said_where_it_is_true_of_two():
    flat = make_flat(1)
    room = flat.rooms[-1].inside  # the corridor, long enough
    middle = (room.y0 + room.y1) // 2
    sofa = Item("sofa", "black", "sofa_1", len(flat.rooms) - 1, room.x0 + 300, middle, 0, 194, 76, 80)
    near = Item("stool", "red", "stool_2", sofa.room, sofa.x - 97 - 40, middle, 0, 36, 36, 78)
    other_side = replace(near, x=sofa.x + 97 + 40)
    far = replace(near, x=sofa.x + 97 + 300)

    def said(*items):
        tasks = _relation_tasks(replace(flat, items=items), Draw(1))
        return {(task.words["landmark"], task.goals) for task in tasks if task.templates == "next_to"}

    assert said(sofa, near, far) in ({("sofa", (1,))}, {("black sofa", (1,))}, {("sofa", (1,)), ("black sofa", (1,))})
    assert said(sofa, near, other_side) == set()


def test_a_route_leads_through_a_door_to_another_room():
    sides = {"left": 1, "right": -1}
    seen = set()
    for episode in words_of("route"):
        flat, start = episode.flat, episode.start
        room = flat.room_at(start.x * 100, start.y * 100)
        (goal,) = episode.goals
        assert flat.items[goal].room != room
        first = episode.instruction.split(",")[0]
        side = next((word for word in sides if f"to your {word}" in first), None)
        if side is None:
            continue
        seen.add(side)
        doors = [door for door in flat.doors if room in door.rooms]
        bearings = [start.to_local((door.x / 100, door.y / 100)) for door in doors]
        on_side = [
            door
            for door, (x, y) in zip(doors, bearings, strict=True)
            if 35 <= abs(math.degrees(math.atan2(y, x))) <= 125 and y * sides[side] > 0
        ]
        assert len(on_side) == 1, episode.instruction
    assert seen == {"left", "right"}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_instruction_of_another_episode_leads_elsewhere(family):
    in_same_flat = 0
    for number in range(12):
        episode = make_episode("test", 0, family, number)
        other = other_instruction(episode)
        assert other != episode.instruction
        goals = goals_of(episode.flat, other)
        in_same_flat += bool(goals)
        assert set(goals).isdisjoint(episode.goals)
    assert in_same_flat > 6


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (("dev", 0, "object", 0), "split: expected one of train, test, got 'dev'"),
        (("test", 0, "riddle", 0), "family: expected one of object, relation, route, got 'riddle'"),
        (("test", -1, "object", 0), "expected a seed from 0 to 999"),
    ],
)
def test_unknown_keys_are_refused(keys, text):
    with pytest.raises(ValueError, match=text):
        make_episode(*keys)
