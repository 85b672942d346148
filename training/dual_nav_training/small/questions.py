"""Instructions for a view, each with the answer a planner should give.

Half of them name an object in view. The others name one that is not there, mostly with the colour or the kind of one
that is: without them it would be enough to look for either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dual_nav_training.small.language import (
    COLOURS,
    IMAGE_SIZE,
    KINDS,
    object_instruction,
    with_unknown_words,
)
from dual_nav_training.small.views import LOOK_AROUND, PIXEL_GOAL, encoded
from nav_sim.oracles import TURN_LEFT, TURN_RIGHT

CLEARLY_IN_VIEW = 1.2e-3  # share of an image's pixels from which on somebody must have seen it
HARDLY_IN_VIEW = 1e-5  # share below which nobody can have seen it
_NOT_IN_VIEW = encoded(LOOK_AROUND)


@dataclass(frozen=True)
class Question:
    """An instruction and its answer (kind, number of actions, column, row; see views.py).

    goals: items that fulfil the instruction, none when none is in view; `goal`: the one the answer leads to, or -1.
    """

    instruction: str
    answer: tuple[int, int, int, int]
    goals: tuple[int, ...] = ()
    goal: int = -1


def mirrored(view: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The view with left and right exchanged, answers and ways included."""
    turned = dict(view)
    for name in view:
        if name.startswith(("level", "look_down")):
            turned[name] = view[name][:, ::-1]
    answers = view["answers"].copy()
    turns = np.isin(answers[:, 0], (TURN_LEFT, TURN_RIGHT))
    answers[turns, 0] = TURN_LEFT + TURN_RIGHT - answers[turns, 0]
    pixels = answers[:, 0] == PIXEL_GOAL
    answers[pixels, 2] = IMAGE_SIZE[0] - 1 - answers[pixels, 2]
    return turned | {"answers": answers, "waypoints": view["waypoints"] * np.asarray([1, -1], np.float32)}


def questions(
    view: Mapping[str, np.ndarray],
    items: Sequence[tuple[str, str]],
    count: int,
    rng: np.random.Generator,
    split: str = "train",
) -> list[Question]:
    """Up to `count` questions for a view of a flat with these items (kind, colour).

    split: of the wordings; those of the training get made-up words among theirs.
    """
    shares = view["shares"][: len(items)]
    clear = [i for i in range(len(items)) if shares[i] > CLEARLY_IN_VIEW and view["answers"][i, 0] >= 0]
    present = [i for i in range(len(items)) if shares[i] > HARDLY_IN_VIEW]
    made = []
    for number in range(count):
        if clear and number % 2 == 0:
            question = _about_one_in_view(view, items, clear, present, rng, split)
        else:
            question = _about_none_in_view(items, clear, present, rng, split)
        if question is not None:
            made.append(question)
    return made


def _about_one_in_view(
    view: Mapping[str, np.ndarray],
    items: Sequence[tuple[str, str]],
    clear: Sequence[int],
    present: Sequence[int],
    rng: np.random.Generator,
    split: str,
) -> Question:
    goal = clear[rng.integers(len(clear))]
    kind, colour = items[goal]
    alike = tuple(i for i in present if items[i] == items[goal])
    if rng.random() < 0.25 and all(items[i][0] != kind for i in present if i != goal):
        return _question(rng, split, kind, False, tuple(view["answers"][goal].tolist()), (goal,), goal)
    # Of several that are named alike, the one that shows most is gone to.
    answered = [i for i in alike if view["answers"][i, 0] >= 0]
    goal = max(answered, key=lambda i: view["shares"][i])
    several = len(alike) > 1 or rng.random() < 0.1
    return _question(rng, split, f"{colour} {kind}", several, tuple(view["answers"][goal].tolist()), alike, goal)


def _about_none_in_view(
    items: Sequence[tuple[str, str]],
    clear: Sequence[int],
    present: Sequence[int],
    rng: np.random.Generator,
    split: str,
) -> Question | None:
    seen = {items[i] for i in present}
    for _ in range(20):
        if clear and rng.random() < 0.5:
            kind, colour = items[clear[rng.integers(len(clear))]]
            if rng.random() < 0.5:
                kind = KINDS[rng.integers(len(KINDS))]
            else:
                colour = COLOURS[rng.integers(len(COLOURS))]
        else:
            kind, colour = items[rng.integers(len(items))]
        if (kind, colour) in seen:
            continue
        by_kind = all(kind != other for other, _ in seen) and rng.random() < 0.2
        return _question(rng, split, kind if by_kind else f"{colour} {kind}", rng.random() < 0.15, _NOT_IN_VIEW)
    return None


def _question(
    rng: np.random.Generator,
    split: str,
    name: str,
    several: bool,
    answer: tuple[int, int, int, int],
    goals: tuple[int, ...] = (),
    goal: int = -1,
) -> Question:
    sentence = object_instruction(rng, name, several, split)
    return Question(with_unknown_words(rng, sentence) if split == "train" else sentence, answer, goals, goal)
