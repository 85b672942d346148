"""From views to the tensors that `GroundingTask` takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dual_nav_training.conversation import NO_LABEL
from dual_nav_training.run_folder import RunError
from dual_nav_training.small.language import COLOURS, DRIVE, IMAGE_SIDE, KINDS, NUMBERS, PIXEL_STEP, ROOMS
from dual_nav_training.small.objective import advised
from dual_nav_training.small.questions import HARDLY_IN_VIEW, Question, Things, mirrored, questions
from dual_nav_training.small.views import CELL, CELLS, PIXEL_GOAL, SIDE, action_symbols
from nav_sim.worlds import make_flat
from s2_planner_node.prompt import PromptProtocol, first_turn
from s2_planner_node.sequence import ImageRef, expand_image_tokens, rope_positions

_GRID = (1, 2 * SIDE, 2 * SIDE)  # patches of the image
# Tokens that a batch's length is a multiple of: matrix products are compiled for each size they have, and a batch
# of a length of its own takes a third longer.
_LENGTHS = 32
_SHOWS = 31  # of 255, the share of a cell that an object must fill to be what the cell shows


@dataclass(frozen=True)
class View:
    """One view (see views.py) with what can be said of its flat's items."""

    arrays: dict[str, np.ndarray]
    things: Things


class Views(Dataset):
    """All views in some folders, in memory. RunError for a folder that has none."""

    def __init__(self, *folders: Path) -> None:
        self._flats: list[tuple[dict[str, np.ndarray], Things]] = []
        for folder in folders:
            files = sorted(Path(folder).glob("*.npz"), key=lambda file: int(file.stem))
            if not files:
                raise RunError(f"{folder}: no views; make some with python -m dual_nav_training.small.views {folder}")
            for file in files:
                with np.load(file) as arrays:
                    self._flats.append((dict(arrays), Things.of(make_flat(int(file.stem)))))
        self._places = [
            (flat, n) for flat, (arrays, _) in enumerate(self._flats) for n in range(len(arrays["image"]))
        ]

    def __len__(self) -> int:
        return len(self._places)

    def set_epoch(self, epoch: int) -> None:
        """Views are the same in every epoch."""

    def __getitem__(self, index: int) -> View:
        flat, number = self._places[index]
        arrays, things = self._flats[flat]
        return View({name: array[number] for name, array in arrays.items()}, things)


@dataclass(frozen=True)
class Item:
    """A view with its questions."""

    view: View
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Ask:
    """Draws questions for a view: other ones, mirrored or not, on every visit; test wordings in evaluation."""

    count: int

    def __call__(self, view: View, rng: np.random.Generator, training: bool) -> Item:
        if training and rng.random() < 0.5:
            view = View(mirrored(view.arrays), view.things)
        asked = questions(view.arrays, view.things, self.count, rng, "train" if training else "test")
        return Item(view, tuple(asked))


@dataclass
class _Packed:
    """Tokens of one image and the questions about it, one after the other; part: 0 the image, then the questions."""

    ids: list[int]
    labels: list[int]
    positions: list[np.ndarray]
    part: list[int]
    query: list[int]


class Collate:
    """Makes a batch of items.

    Of B images with L tokens (padding is a part of its own): image, and of its cells kind, colour (B, CELLS),
    beside (B, CELLS, kinds and rooms) and advice (B, CELLS, 3), floor, distance; ids, labels, part, query (B, L),
    query being the number of the latent query that stands there or -1, positions (B, 3, L). Of all N questions: row
    (N,); asked (N, 3), the tokens after which decision, column and row are said; drives (N,); found (N,), the goal or
    its landmark in view; pixel (N, 2) in steps; named (N, 2); look_at (N, tokens of the image's part), where
    attention should go; waypoints (N, WAYPOINTS, 2).
    """

    def __init__(self, protocol: PromptProtocol, end_token_id: int, image_token_id: int, queries: int) -> None:
        self._protocol, self._end = protocol, end_token_id
        self._image, self._queries = image_token_id, queries
        ids = self._prompt("")
        self._first_cell = ids.index(image_token_id)
        self._shared = self._first_cell + CELLS + 1  # tokens before the instruction
        self._beginning = ids[: self._shared], self._positions(ids[: self._shared])

    def __call__(self, items: Sequence[Item]) -> dict[str, Tensor]:
        packed = [self._empty() for _ in items]
        asked = [(number, question) for number, item in enumerate(items) for question in item.questions]
        made = [self._add(packed[n], question, items[n].view.arrays) for n, question in asked]
        batch = _image_labels([item.view for item in items])
        if asked:
            batch |= {name: torch.from_numpy(np.stack([one[name] for one in made])) for name in made[0]}
            batch["row"] = torch.tensor([n for n, _ in asked])
        length = math.ceil(max(len(one.ids) for one in packed) / _LENGTHS) * _LENGTHS
        for name, padding in (("ids", self._end), ("labels", NO_LABEL), ("part", -1), ("query", -1)):
            rows = [getattr(one, name) for one in packed]
            batch[name] = torch.tensor([row + [padding] * (length - len(row)) for row in rows])
        positions = np.zeros((len(items), 3, length), np.int64)
        for row, one in enumerate(packed):
            whole = np.concatenate(one.positions, 1)
            positions[row, :, : whole.shape[1]] = whole
        batch["positions"] = torch.from_numpy(positions)
        return batch | {"weights": torch.tensor([float(len(asked) or len(items))])}

    def _empty(self) -> _Packed:
        ids, positions = self._beginning
        return _Packed(list(ids), [NO_LABEL] * self._shared, [positions], [0] * self._shared, [-1] * self._shared)

    def _add(self, packed: _Packed, question: Question, view: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Append a question; returns what else the loss needs of it."""
        kind, actions, column, row = question.answer
        drives = kind == PIXEL_GOAL
        prompt = self._prompt(question.instruction)
        assert prompt[: self._shared] == packed.ids[: self._shared]
        steps = [min(round(value / PIXEL_STEP), len(NUMBERS) - 1) if drives else 0 for value in (column, row)]
        answer = f"{DRIVE}{NUMBERS[steps[0]]} {NUMBERS[steps[1]]}" if drives else action_symbols(kind, actions)
        said = [*self._protocol.encode_answer(answer), self._end]
        queries = list(range(self._queries)) if drives else []
        whole = prompt + said + [self._end] * len(queries)  # where the latent queries go
        own = whole[self._shared :]
        first = len(packed.ids) - self._shared + len(prompt) - 1
        labels = [NO_LABEL] * (len(prompt) - self._shared) + said + [NO_LABEL] * len(queries)
        if drives:  # sign, column, blank, row, end: coordinates have a loss of their own
            labels[-len(queries) - 4] = labels[-len(queries) - 2] = NO_LABEL
        packed.ids += own
        packed.labels += labels
        packed.positions.append(self._positions(whole)[:, self._shared :])
        packed.part += [packed.part[-1] + 1] * len(own)
        packed.query += [-1] * (len(own) - len(queries)) + queries
        look_at = np.zeros(self._shared, np.float32)
        shown = view["cover"][list(question.goals)].sum(0, dtype=np.float32)
        if question.goal >= 0:
            look_at[self._first_cell : self._first_cell + CELLS] = shown / shown.sum()
        elif drives:  # through a door: the floor behind it
            look_at[self._first_cell + row * SIDE // IMAGE_SIDE * SIDE + column * SIDE // IMAGE_SIDE] = 1.0
        else:
            look_at[self._first_cell - 1] = 1.0
        colours = [*COLOURS, ""]
        return {
            "asked": np.asarray([first, first + 1, first + 3] if drives else [first] * 3),
            "drives": np.asarray(drives),
            "found": np.asarray(question.goal >= 0),
            "pixel": np.asarray(steps),
            "named": np.asarray([KINDS.index(question.named[0]), colours.index(question.named[1])]),
            "look_at": look_at,
            "waypoints": view["waypoints"][question.goal] if question.goal >= 0 else view["door_waypoints"],
        }

    def token(self, word: str) -> int:
        """Id of a symbol or word that is one token."""
        (token,) = self._protocol.encode_answer(word)
        return token

    def _prompt(self, instruction: str) -> list[int]:
        ids = self._protocol.tokenize(first_turn(self._protocol.template, instruction, 0))
        return expand_image_tokens(ids, [ImageRef(0, _GRID)], self._image, 2).tolist()

    def _positions(self, ids: Sequence[int]) -> np.ndarray:
        return rope_positions(np.asarray(ids), [_GRID], self._image, 2)


def _image_labels(views: Sequence[View]) -> dict[str, Tensor]:
    """Images and what their cells show."""
    images = np.stack([view.arrays["image"] for view in views])
    assert images.shape[1:3] == (SIDE * CELL, SIDE * CELL), images.shape
    cover = np.stack([view.arrays["cover"] for view in views])
    shown = np.where(cover.max(1) >= _SHOWS, cover.argmax(1), -1)  # -1, nothing, is the last entry of tables
    labels = {"image": torch.from_numpy(images)}
    for what, names, number in (("kind", KINDS, 0), ("colour", COLOURS, 1)):
        index = {name: n for n, name in enumerate(names)}
        tables = [[index[name[number]] for name in view.things.names] + [len(names)] for view in views]
        labels[what] = torch.from_numpy(
            np.stack([np.asarray(table)[cells] for table, cells in zip(tables, shown, strict=True)])
        )
    answers = [np.vstack([view.arrays["answers"], np.full((1, 4), -1)]) for view in views]
    answers = np.stack([table[cells] for table, cells in zip(answers, shown, strict=True)])
    labels["beside"] = torch.from_numpy(
        np.stack([_beside(view, cells) for view, cells in zip(views, shown, strict=True)])
    )
    floor = np.stack([view.arrays["floor"] for view in views]) / np.float32(255)
    distance = np.stack([view.arrays["distance"] for view in views]).astype(np.float32)
    return labels | {
        "advice": advised(torch.from_numpy(answers)),
        "floor": torch.from_numpy(floor),
        "distance": torch.from_numpy(np.clip(distance, 0.2, None)),
    }


def _beside(view: View, shown: np.ndarray) -> np.ndarray:
    """(CELLS, kinds and rooms) of the cells that show these items (-1: none): 1 for the kinds of landmarks that are
    beside it and in view, 0 for other kinds, -1 for kinds that are beside it out of view; 1 for the room it is in, 0
    for the others. All -1 of cells that show nothing."""
    things, present = view.things, view.arrays["shares"] > HARDLY_IN_VIEW
    table = np.zeros((len(things.names) + 1, len(KINDS) + len(ROOMS)), np.float32)
    table[-1] = -1
    for item, marks in enumerate(things.beside):
        for seen in (False, True):  # of two of a kind the one that is seen counts
            kinds = [KINDS.index(things.names[mark][0]) for mark in marks if present[mark] == seen]
            table[item, kinds] = 1 if seen else -1
        table[item, len(KINDS) + ROOMS.index(things.rooms[item])] = 1
    return table[shown]
