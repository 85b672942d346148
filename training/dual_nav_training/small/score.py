"""How well a small planner answers on views, as a JSON line: `python -m dual_nav_training.small.score MODEL VIEWS`.

Test wordings, greedy. `shuffled` is the same with the instructions of each view exchanged among its questions: what
remains right then is right without reading.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from dual_nav_training.run_folder import RunError
from dual_nav_training.small.batches import Ask, Collate, Item, View, Views
from dual_nav_training.small.checkpoint import load_planner_tensors
from dual_nav_training.small.language import DRIVE, IMAGE_SIDE, PIXEL_STEP
from dual_nav_training.small.objective import GroundingTask
from dual_nav_training.small.questions import CLEARLY_IN_VIEW, Question
from dual_nav_training.small.train_s2 import build
from dual_nav_training.small.views import CELLS, PIXEL_GOAL
from dual_nav_util.checkpoint import CheckpointError, CheckpointFolder
from nav_sim.oracles import SYMBOLS

_VIEWS_AT_ONCE = 16


def load_task(folder: Path) -> tuple[GroundingTask, Collate]:
    """A small planner from a checkpoint folder; the training heads are new."""
    checkpoint = CheckpointFolder(folder)
    task, collate, _ = build(checkpoint.config, seed=0)
    load_planner_tensors(task.planner, checkpoint)
    return task.eval(), collate


@dataclass
class Answers:
    """What was said to questions about views, and what was right.

    row: number of the view; wanted, said: kinds of answers (see views.py; -1 for what is none); found: a goal is in
    view; alike: none is, but something that is called so; attention: (questions, CELLS) of the place that decides;
    column_errors: of the pixel goals among the right answers, in pixels, whatever was said.
    """

    instructions: list[str] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)
    said: list[int] = field(default_factory=list)
    found: list[bool] = field(default_factory=list)
    alike: list[bool] = field(default_factory=list)
    attention: list[np.ndarray] = field(default_factory=list)
    column_errors: list[float] = field(default_factory=list)

    @property
    def right(self) -> np.ndarray:
        """(questions,) bool."""
        return np.asarray(self.said) == np.asarray(self.wanted)


@torch.inference_mode()
def answers_to(task: GroundingTask, collate: Collate, items: Sequence[Item]) -> Answers:
    """Greedy answers to the questions of all items."""
    answers = Answers()
    tokens = {collate.token(symbol): kind for kind, symbol in {**SYMBOLS, PIXEL_GOAL: DRIVE}.items()}
    for start in range(0, len(items), _VIEWS_AT_ONCE):
        some = items[start : start + _VIEWS_AT_ONCE]
        batch = collate(some)
        decoded = task.decoded(task.planner.encode(batch["image"]), batch)
        row, asked, drives = batch["row"], batch["asked"], batch["drives"]
        said = task.planner.network.lm_head(decoded.hidden[row, asked[:, 0]]).argmax(-1).tolist()
        wanted = batch["ids"][row, asked[:, 0] + 1].tolist()
        answers.instructions += [question.instruction for item in some for question in item.questions]
        answers.row += [start + number for number in row.tolist()]
        answers.said += [tokens.get(token, -1) for token in said]
        answers.wanted += [tokens[token] for token in wanted]
        answers.found += batch["found"].tolist()
        answers.alike += [_sees_another(item.view, question) for item in some for question in item.questions]
        attention = decoded.attention[:, 0].softmax(-1).mean(1)
        first = int((batch["ids"][0] == task.image_token_id).nonzero()[0])
        answers.attention += list(attention[:, first : first + CELLS].float().numpy())
        column = task.coordinate_logits(decoded.hidden, row[drives], asked[drives, 1]).argmax(-1)
        answers.column_errors += ((column - batch["pixel"][drives, 0]).abs() * PIXEL_STEP).tolist()
    return answers


def _sees_another(view: View, question: Question) -> bool:
    kind, colour = question.named
    seen = zip(view.things.names, view.arrays["shares"], strict=False)  # shares: one for any item there can be
    return question.goal < 0 and any(
        share > CLEARLY_IN_VIEW and own_kind == kind and colour in ("", own_colour)
        for (own_kind, own_colour), share in seen
    )


def score(task: GroundingTask, collate: Collate, views: Views, count: int, questions: int = 6) -> dict[str, float]:
    """Shares of right decisions, for goals in view and others, of these where something that is called so is in view,
    too, and errors of pixel goals; each also shuffled."""
    chosen = np.linspace(0, len(views) - 1, min(count, len(views))).astype(int)
    items = [Ask(questions)(views[int(n)], np.random.default_rng(int(n)), False) for n in chosen]
    result: dict[str, float] = {}
    for prefix, asked in (("", items), ("shuffled_", [shuffled(item) for item in items])):
        answers = answers_to(task, collate, asked)
        right, found, errors = answers.right, np.asarray(answers.found), np.asarray(answers.column_errors)
        result |= {
            f"{prefix}decision": float(np.mean(right)),
            f"{prefix}decision_in_view": float(np.mean(right[found])),
            f"{prefix}decision_not_in_view": float(np.mean(right[~found])),
            f"{prefix}decision_another_in_view": float(np.mean(right[answers.alike])),
            f"{prefix}column_error": float(np.median(errors)),
            f"{prefix}column_within_10_percent": float(np.mean(errors < IMAGE_SIDE / 10)),
        }
    return {name: round(value, 4) for name, value in result.items()}


def shuffled(item: Item) -> Item:
    """The item with its questions' instructions exchanged."""
    instructions = [question.instruction for question in item.questions]
    turned = instructions[1:] + instructions[:1]
    exchanged = [replace(q, instruction=other) for q, other in zip(item.questions, turned, strict=True)]
    return Item(item.view, tuple(exchanged))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="small.score", description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=Path, help="checkpoint folder")
    parser.add_argument("views", type=Path, help="folder of views, of flats not trained on")
    parser.add_argument("--count", type=int, default=300, help="views")
    options = parser.parse_args(arguments)
    try:
        task, collate = load_task(options.model)
        print(json.dumps(score(task, collate, Views(options.views), options.count)))
    except (CheckpointError, RunError) as error:
        print(f"score: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
