"""Instructions for a view, each with the answer a planner should give.

Half of them name an object in view. The others name one that is not there, mostly with the colour or the kind of one
that is: without them it would be enough to look for either. Most name the object alone, others a landmark or a room
beside it, or a way. Of a way only its end matters to somebody without memory; as long as that is not in view, any
door ahead will do, and until there is one, the side that the instruction names first is looked at first. What is
beside a landmark is mostly smaller: while only the landmark is in view, that is where to go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dual_nav_training.small.language import (
    COLOURS,
    IMAGE_SIDE,
    KINDS,
    ROOMS,
    object_instruction,
    relation_instruction,
    right_first,
    route_instruction,
    with_unknown_words,
)
from dual_nav_training.small.views import LOOK_AROUND, LOOK_AROUND_RIGHT, PIXEL_GOAL, SIDE, encoded
from nav_sim.episodes import told_apart
from nav_sim.oracles import FORWARD, TURN_LEFT, TURN_RIGHT
from nav_sim.worlds import LANDMARKS, Flat

CLEARLY_IN_VIEW = 8e-4  # share of an image's pixels from which on somebody must have seen it
HARDLY_IN_VIEW = 1e-5  # share below which nobody can have seen it
_NOT_IN_VIEW = encoded(LOOK_AROUND)
# Pixels of IMAGE_SIDE that the way through a door may be off the middle for it to be taken when what is looked for
# may as well be here: so few that only one of the 24 directions does it, and it is mostly looked for here first.
_STRAIGHT_AHEAD = 40
_LANDMARKS = sorted(LANDMARKS)
_FAMILIES = ("relation", "route", "object")
_SHARES = (0.4, 0.2, 0.4)  # of the questions
# Of those about what is not in view, where a door is in view: it is in few.
_SHARES_BEFORE_DOOR = (0.3, 0.35, 0.35)
_TOLD_APART = 0.4  # of those about what a landmark tells from others of its kind, and more by the shares above
_BESIDE = 0.7  # of relations are to a landmark, the others to a room


@dataclass(frozen=True)
class Things:
    """What can be said of a flat's items, by their index: (kind, colour), kind of the room, landmarks that tell it
    from all others of its kind, and all landmarks beside it."""

    names: tuple[tuple[str, str], ...]
    rooms: tuple[str, ...]
    landmarks: tuple[tuple[int, ...], ...]
    beside: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, flat: Flat) -> Things:
        """Of a flat."""
        landmarks, beside = [], []
        every = range(len(flat.items))
        for index, item in enumerate(flat.items):
            alike = [number for number, other in enumerate(flat.items) if other.kind == item.kind]
            landmarks.append(tuple(mark for mark in every if told_apart(flat, index, alike, landmark=mark)))
            beside.append(tuple(mark for mark in every if told_apart(flat, index, [index], landmark=mark)))
        names = tuple((item.kind, item.colour) for item in flat.items)
        rooms = tuple(flat.rooms[item.room].kind for item in flat.items)
        return cls(names, rooms, tuple(landmarks), tuple(beside))


@dataclass(frozen=True)
class Question:
    """An instruction and its answer (kind, number of actions, column, row; see views.py).

    named: kind and colour that the goal is called by, the colour empty where it is not said. goals: items that fulfil
    the instruction, or landmarks that it names, none when none is in view; `goal`: the one the answer leads to, or -1
    (around or through a door).
    """

    instruction: str
    named: tuple[str, str]
    answer: tuple[int, int, int, int] = _NOT_IN_VIEW
    goals: tuple[int, ...] = ()
    goal: int = -1


def mirrored(view: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The view with left and right exchanged, answers and ways included."""
    turned = dict(view) | {"image": view["image"][:, ::-1]}
    for name in ("cover", "floor", "distance"):
        cells = view[name].reshape(*view[name].shape[:-1], SIDE, SIDE)
        turned[name] = cells[..., ::-1].reshape(view[name].shape)
    answers = view["answers"].copy()
    turns = np.isin(answers[:, 0], (TURN_LEFT, TURN_RIGHT))
    answers[turns, 0] = TURN_LEFT + TURN_RIGHT - answers[turns, 0]
    pixels = answers[:, 0] == PIXEL_GOAL
    answers[pixels, 2] = IMAGE_SIDE - 1 - answers[pixels, 2]
    door = view["door"].copy()
    if door[0] == PIXEL_GOAL:
        door[2] = IMAGE_SIDE - 1 - door[2]
    ways = {name: view[name] * np.asarray([1, -1], np.float32) for name in ("waypoints", "door_waypoints")}
    return turned | ways | {"answers": answers, "door": door}


def questions(
    view: Mapping[str, np.ndarray], things: Things, count: int, rng: np.random.Generator, split: str = "train"
) -> list[Question]:
    """Up to `count` questions for a view of a flat.

    split: of the wordings; those of the training get made-up words among theirs.
    """
    asker = _Asker(view, things, rng, split)
    made = [asker.about_one_in_view() if number % 2 == 0 else asker.about_none_in_view() for number in range(count)]
    return [question for question in made if question is not None]


def best(view: Mapping[str, np.ndarray], alike: Sequence[int]) -> int:
    """Of several items that will do, all of them in view, the one to go to: the one that shows most. But nobody turns
    to one, and then back to the other, who has one of them ahead."""

    def rank(item: int) -> tuple[int, float]:
        kind, actions, *_ = view["answers"][item]
        return int(actions) if kind in (TURN_LEFT, TURN_RIGHT) else 0, -float(view["shares"][item])

    return min(alike, key=rank)


def elsewhere(door: np.ndarray, family: str, sentence: str) -> Sequence[int]:
    """The answer to an instruction whose goal is not in view. door: that of the view, see views.py."""
    on_route = family == "route"
    through = door[0] == FORWARD or abs(int(door[2]) - IMAGE_SIDE / 2) <= _STRAIGHT_AHEAD
    if door[0] >= 0 and (on_route or through):
        return door
    return encoded(LOOK_AROUND_RIGHT) if on_route and right_first(sentence) else _NOT_IN_VIEW


class _Asker:
    """Draws questions for one view."""

    def __init__(self, view: Mapping[str, np.ndarray], things: Things, rng: np.random.Generator, split: str) -> None:
        self._view, self._things, self._rng, self._split = view, things, rng, split
        shares = view["shares"][: len(things.names)]
        answered = view["answers"][: len(things.names), 0] >= 0
        self._clear = np.flatnonzero((shares > CLEARLY_IN_VIEW) & answered).tolist()
        self._present = np.flatnonzero(shares > HARDLY_IN_VIEW).tolist()

    def about_one_in_view(self) -> Question | None:
        if not self._clear:
            return self.about_none_in_view()
        names, rng = self._things.names, self._rng
        goal = self._one_of(self._clear)
        kind, colour = names[goal]
        marks = self._things.landmarks[goal]
        family = "relation" if marks and rng.random() < _TOLD_APART else rng.choice(_FAMILIES, p=_SHARES)
        if family == "relation":
            colour = colour if rng.random() < 0.5 else ""
            landmark = _name(*self._called(self._one_of(marks))) if marks and rng.random() < _BESIDE else None
            rooms = self._things.rooms
            sentence = relation_instruction(rng, _name(kind, colour), landmark, rooms[goal], self._split)
            alike = (goal,)
            if landmark is None:  # whatever is called so in that room will do
                called = [i for i in self._present if self._is_called(i, kind, colour)]
                alike = tuple(i for i in called if rooms[i] == rooms[goal])
                goal = best(self._view, [i for i in alike if i in self._clear])
            return self._question(sentence, (kind, colour), alike, goal)
        if rng.random() < 0.25 and all(names[i][0] != kind for i in self._present if i != goal):
            colour = ""
        alike = tuple(i for i in self._present if names[i] == (kind, colour or names[goal][1]))
        goal = best(self._view, [i for i in alike if i in self._clear])
        several = len(alike) > 1 or rng.random() < 0.1
        return self._question(self._sentence(family, kind, colour, several), (kind, colour), alike, goal)

    def about_none_in_view(self) -> Question | None:
        names, rng = self._things.names, self._rng
        seen = {names[i] for i in self._present}
        family = rng.choice(_FAMILIES, p=_SHARES if self._view["door"][0] < 0 else _SHARES_BEFORE_DOOR)
        relation = self._relation_of_none_in_view() if family == "relation" else None
        if relation is not None:
            return relation
        for _ in range(20):
            kind, colour = self._near_miss()
            if (kind, colour) in seen:
                continue
            if all(kind != other for other, _ in seen) and rng.random() < 0.2:
                colour = ""
            if family != "relation":
                sentence = self._sentence(family, kind, colour, rng.random() < 0.15)
                return self._question(
                    sentence, (kind, colour), answer=elsewhere(self._view["door"], family, sentence)
                )
            marks = [i for i in self._clear or range(len(names)) if names[i][0] in LANDMARKS and names[i][0] != kind]
            if marks and rng.random() < _BESIDE:
                return self._beside(kind, colour, self._one_of(marks))
            return self._in_room(kind, colour, self._one_of(ROOMS))
        return None

    def _relation_of_none_in_view(self) -> Question | None:
        """Mostly something is there that is called so, but another one is meant: beside something else, or in another
        room. Who is sent to one of two and sees the first is wrong as often as not. In other cases it is about what
        can hardly be seen beside a landmark that can. None for the rest, and where there is no such thing."""
        case = self._rng.choice(["hidden", "beside", "room", ""], p=[0.2, 0.45, 0.25, 0.1])
        if case == "hidden":
            return self._hidden()
        if case == "beside":
            return self._beside_another()
        return self._in_another_room() if case == "room" else None

    def _hidden(self) -> Question | None:
        landmarks = self._things.landmarks
        hidden = [i for i in range(len(landmarks)) if i not in self._clear]
        pairs = [(i, mark) for i in hidden for mark in landmarks[i] if mark in self._clear]
        if not pairs:
            return None
        goal, mark = self._one_of(pairs)
        return self._beside(*self._called(goal), mark)

    def _beside_another(self) -> Question | None:
        """About an item out of view that is called as one in view, or about none that there is: beside a landmark of
        a kind that is in no room of those in view."""
        names, rooms, landmarks = self._things.names, self._things.rooms, self._things.landmarks
        seen = {names[i] for i in self._present}
        beside = {(names[i][0], names[mark][0]) for i in self._present for mark in self._things.beside[i]}
        others = [
            (i, mark)
            for i in range(len(names))
            if i not in self._present and any(names[i][0] == kind for kind, _ in seen)
            for mark in landmarks[i]
            if (names[i][0], names[mark][0]) not in beside
        ]
        if others and self._rng.random() < 0.7:
            goal, mark = self._one_of(others)
            # Also with its colour, where what is in view has that, too.
            colour = names[goal][1] if names[goal] in seen and self._rng.random() < 0.5 else ""
            return self._beside(names[goal][0], colour, mark)
        if not self._clear:
            return None
        kind, colour = self._called(self._one_of(self._clear))
        around = {rooms[i] for i in self._present if self._is_called(i, kind, colour)}
        near = {name for (name, _), room in zip(names, rooms, strict=True) if room in around} | {k for k, _ in seen}
        away = [mark for mark in _LANDMARKS if mark not in near and mark != kind]
        if not away:
            return None
        mark = self._one_of(away)
        landmark = _name(mark, self._one_of(COLOURS) if self._rng.random() < 0.5 else "")
        sentence = relation_instruction(self._rng, _name(kind, colour), landmark, "", self._split)
        return self._question(sentence, (kind, colour), answer=elsewhere(self._view["door"], "relation", sentence))

    def _in_another_room(self) -> Question | None:
        if not self._clear:
            return None
        name = self._called(self._one_of(self._clear))
        rooms = {self._things.rooms[i] for i in self._present if self._is_called(i, *name)}
        return self._in_room(*name, self._one_of([room for room in ROOMS if room not in rooms]))

    def _beside(self, kind: str, colour: str, mark: int) -> Question:
        """About what is not in view, beside a landmark: to that, where it is in view and some way off."""
        landmark = self._called(mark)
        sentence = relation_instruction(self._rng, _name(kind, colour), _name(*landmark), "", self._split)
        alike = tuple(i for i in self._present if self._is_called(i, *landmark))
        shown = [i for i in alike if i in self._clear and self._view["answers"][i, 0] == PIXEL_GOAL]
        if shown:
            return self._question(sentence, (kind, colour), alike, best(self._view, shown))
        return self._question(sentence, (kind, colour), answer=elsewhere(self._view["door"], "relation", sentence))

    def _in_room(self, kind: str, colour: str, room: str) -> Question:
        """About what is in a room, and not in view."""
        sentence = relation_instruction(self._rng, _name(kind, colour), None, room, self._split)
        return self._question(sentence, (kind, colour), answer=elsewhere(self._view["door"], "relation", sentence))

    def _near_miss(self) -> tuple[str, str]:
        """Kind and colour: those of an item in view but for one of both, or of any item."""
        names, rng = self._things.names, self._rng
        if not self._clear or rng.random() < 0.5:
            return self._one_of(names)
        kind, colour = names[self._one_of(self._clear)]
        return (self._one_of(KINDS), colour) if rng.random() < 0.5 else (kind, self._one_of(COLOURS))

    def _sentence(self, family: str, kind: str, colour: str, several: bool) -> str:
        if family == "route":
            return route_instruction(self._rng, _name(kind, colour), self._split)
        return object_instruction(self._rng, _name(kind, colour), several, self._split)

    def _called(self, item: int) -> tuple[str, str]:
        """Kind, and in half of the cases colour."""
        kind, colour = self._things.names[item]
        return kind, colour if self._rng.random() < 0.5 else ""

    def _is_called(self, item: int, kind: str, colour: str) -> bool:
        own_kind, own_colour = self._things.names[item]
        return own_kind == kind and colour in ("", own_colour)

    def _one_of(self, options: Sequence):
        return options[self._rng.integers(len(options))]

    def _question(
        self,
        sentence: str,
        named: tuple[str, str],
        goals: tuple[int, ...] = (),
        goal: int = -1,
        answer: Sequence[int] = _NOT_IN_VIEW,
    ) -> Question:
        if self._split == "train":
            sentence = with_unknown_words(self._rng, sentence)
        if goal >= 0:
            answer = self._view["answers"][goal]
        kind, actions, column, row = (int(value) for value in answer)
        return Question(sentence, named, (kind, actions, column, row), goals, goal)


def _name(kind: str, colour: str) -> str:
    return f"{colour} {kind}" if colour else kind
