"""What a sentence of a person's means in a flat, for the oracle planner: names of objects and rooms, no more.

"Go to the blue chair", "the lamp next to the sofa", "a chair in the kitchen", "to the kitchen". The first object
named is the goal; a room or another object says which one of several is meant.
"""

from __future__ import annotations

import math
import re

from .worlds import Flat, Item


def goals_of(flat: Flat, sentence: str) -> tuple[int, ...]:
    """Indices of the items that fulfil the sentence; empty when it names nothing that there is in the flat."""
    said = sentence.lower()
    rooms = {
        index
        for index, room in enumerate(flat.rooms)
        if re.search(rf"\b{re.escape(room.name)}\b", said) or re.search(rf"\b{re.escape(room.kind)}\b", said)
    }
    named = _named_items(flat, said)
    if not named:
        return tuple(index for index, item in enumerate(flat.items) if item.room in rooms)
    goals = named[0]
    if rooms:
        goals = [index for index in goals if flat.items[index].room in rooms] or goals
    if len(named) > 1:
        marks = [flat.items[index] for index in named[1]]
        nearest = {index: min(_gap(flat.items[index], mark) for mark in marks) for index in goals}
        goals = [min(nearest, key=nearest.__getitem__)]
    return tuple(goals)


def things_in(flat: Flat) -> str:
    """What a person can name in a flat."""
    return ", ".join(sorted({item.name for item in flat.items}))


def _named_items(flat: Flat, said: str) -> list[list[int]]:
    """The items meant by each name in a sentence, in the order of the names; "blue chair" is not also "chair"."""
    names: dict[str, list[int]] = {}
    for index, item in enumerate(flat.items):
        for name in (item.name, item.kind):
            names.setdefault(name, []).append(index)
    found = re.finditer(
        rf"\b({'|'.join(re.escape(name) for name in sorted(names, key=len, reverse=True))})s?\b", said
    )
    return [names[match[1]] for match in found]


def _gap(item: Item, mark: Item) -> float:
    """Metres between two items; an item is not its own mark."""
    if item is mark:
        return math.inf
    return math.hypot(item.x - mark.x, item.y - mark.y) / 100.0
