"""From views to the tensors that `GroundingTask` takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dual_nav_training.conversation import NO_LABEL
from dual_nav_training.run_folder import RunError
from dual_nav_training.small.language import COLOURS, IMAGE_SIZE, KINDS, NUMBERS, PIXEL_STEP
from dual_nav_training.small.objective import CAMERAS, DRIVE, TURN
from dual_nav_training.small.questions import Question, mirrored, questions
from dual_nav_training.small.views import CELL, LOOK_DOWN_CELLS, PIXEL_GOAL
from nav_sim.oracles import SYMBOLS
from nav_sim.worlds import make_flat
from s2_planner_node.prompt import PromptProtocol, first_turn, look_down_turn
from s2_planner_node.sequence import ImageRef, expand_image_tokens, rope_positions

_PATCHES = 2  # to a cell's side


@dataclass(frozen=True)
class View:
    """One view (see views.py) with the (kind, colour) of its flat's items."""

    arrays: dict[str, np.ndarray]
    items: tuple[tuple[str, str], ...]


class Views(Dataset):
    """All views in some folders, in memory. RunError for a folder that has none."""

    def __init__(self, *folders: Path) -> None:
        self._flats: list[tuple[dict[str, np.ndarray], tuple[tuple[str, str], ...]]] = []
        for folder in folders:
            files = sorted(Path(folder).glob("*.npz"), key=lambda file: int(file.stem))
            if not files:
                raise RunError(f"{folder}: no views; make some with python -m dual_nav_training.small.views {folder}")
            for file in files:
                with np.load(file) as arrays:
                    items = tuple((item.kind, item.colour) for item in make_flat(int(file.stem)).items)
                    self._flats.append((dict(arrays), items))
        self._places = [
            (flat, n) for flat, (arrays, _) in enumerate(self._flats) for n in range(len(arrays["level"]))
        ]

    def __len__(self) -> int:
        return len(self._places)

    def set_epoch(self, epoch: int) -> None:
        """Views are the same in every epoch."""

    def __getitem__(self, index: int) -> View:
        flat, number = self._places[index]
        arrays, items = self._flats[flat]
        return View({name: array[number] for name, array in arrays.items()}, items)


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
            view = View(mirrored(view.arrays), view.items)
        asked = questions(view.arrays, view.items, self.count, rng, "train" if training else "test")
        return Item(view, tuple(asked))


class Collate:
    """Makes a batch of items."""

    def __init__(self, protocol: PromptProtocol, end_token_id: int, image_token_id: int, queries: int) -> None:
        self._protocol, self._end = protocol, end_token_id
        self._image, self._queries = image_token_id, queries

    def __call__(self, items: Sequence[Item]) -> dict[str, Tensor]:
        views = [item.view for item in items]
        batch = dict(_image_labels(views))
        asked = [(number, question) for number, item in enumerate(items) for question in item.questions]
        for group, drives in ((TURN, False), (DRIVE, True)):
            chosen = [(n, question) for n, question in asked if (question.answer[0] == PIXEL_GOAL) == drives]
            if chosen:
                made = [self._question(question, views[n].arrays) for n, question in chosen]
                batch[f"{group}_image"] = torch.tensor([n for n, _ in chosen])
                batch |= {f"{group}_{name}": _padded(name, [one[name] for one in made]) for name in made[0]}
        return batch | {"weights": torch.tensor([float(len(asked) or len(items))])}

    def _question(self, question: Question, view: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Tokens, labels and what else the loss needs for one question."""
        kind, actions, column, row = question.answer
        drives = kind == PIXEL_GOAL
        grids = [(1, *(_PATCHES * n for n in CAMERAS[camera])) for camera in list(CAMERAS)[: 1 + drives]]
        messages = first_turn(self._protocol.template, question.instruction, 0)
        answer = "↓" if drives else SYMBOLS[kind] * actions
        ids = self._expanded(self._protocol.tokenize(messages), grids[:1])
        asked = [len(ids) - 1]
        labels = [NO_LABEL] * len(ids)
        said = [*self._protocol.encode_answer(answer), self._end]
        ids, labels = ids + said, labels + said
        made: dict[str, np.ndarray] = {}
        if drives:
            ids = self._expanded(
                self._protocol.tokenize(look_down_turn(self._protocol.template, messages, answer)), grids
            )
            steps = [min(round(value / PIXEL_STEP), len(NUMBERS) - 1) for value in (column, row)]
            said = [*self._protocol.encode_answer(" ".join(NUMBERS[step] for step in steps)), self._end]
            asked += [len(ids) - 1, len(ids) + 1]
            labels += [NO_LABEL] * (len(ids) - len(labels))
            # Coordinates have a loss of their own.
            labels += [NO_LABEL, said[1], NO_LABEL, said[3]] + [NO_LABEL] * self._queries
            ids = ids + said + [self._end] * self._queries  # where the latent queries go
            rows, columns = LOOK_DOWN_CELLS
            cell_row, cell_column = row * rows // IMAGE_SIZE[1], column * columns // IMAGE_SIZE[0]
            made = {
                "pixel": np.asarray(steps),
                "pixel_cell": np.asarray(cell_row * columns + cell_column),
                "queries": np.asarray(len(ids) - self._queries),
                "waypoints": view["waypoints"][question.goal],
            }
        cells = [view[f"{camera}_items"].ravel() for camera in list(CAMERAS)[: 1 + drives]]
        return made | {
            "ids": np.asarray(ids),
            "labels": np.asarray(labels),
            "positions": rope_positions(np.asarray(ids), grids, self._image, _PATCHES),
            "asked": np.asarray(asked),
            "goal_cells": np.isin(np.concatenate(cells), question.goals).astype(np.float32),
        }

    def _expanded(self, ids: list[int], grids: Sequence[tuple[int, int, int]]) -> list[int]:
        refs = [ImageRef(number, grid) for number, grid in enumerate(grids)]
        return expand_image_tokens(ids, refs, self._image, _PATCHES).tolist()


_PADDING = {"labels": NO_LABEL, "ids": 0, "positions": 0}


def _padded(name: str, arrays: Sequence[np.ndarray]) -> Tensor:
    """Stacked, tokens filled up on the right to the longest."""
    if name in _PADDING:
        length = max(array.shape[-1] for array in arrays)
        arrays = [
            np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, length - a.shape[-1])], constant_values=_PADDING[name])
            for a in arrays
        ]
    return torch.from_numpy(np.stack(arrays))


def _image_labels(views: Sequence[View]) -> Iterator[tuple[str, Tensor]]:
    """Images and what their cells show."""
    for camera, (rows, columns) in CAMERAS.items():
        images = np.stack([view.arrays[camera] for view in views])
        assert images.shape[1:3] == (rows * CELL, columns * CELL), images.shape
        yield camera, torch.from_numpy(images)
        for what, names, number in (("kind", KINDS, 0), ("colour", COLOURS, 1)):
            index = {name: n for n, name in enumerate(names)}
            tables = [[index[item[number]] for item in view.items] + [len(names)] for view in views]
            shown = [
                np.asarray(table)[view.arrays[f"{camera}_items"].ravel()]  # -1, nothing, is the last entry
                for table, view in zip(tables, views, strict=True)
            ]
            yield f"{camera}_{what}", torch.from_numpy(np.stack(shown))
        floor = np.stack([view.arrays[f"{camera}_floor"].ravel() for view in views]) / np.float32(255)
        distance = np.stack([view.arrays[f"{camera}_distance"].ravel() for view in views]).astype(np.float32)
        yield f"{camera}_floor", torch.from_numpy(floor)
        yield f"{camera}_distance", torch.from_numpy(np.clip(distance, 0.2, None))
