"""How well a small planner answers on views, as a JSON line: `python -m dual_nav_training.small.score MODEL VIEWS`.

Test wordings, greedy. `shuffled` is the same with the instructions of each view exchanged among its questions: what
remains right then is right without reading.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dual_nav_training.run_folder import RunError
from dual_nav_training.small.batches import Ask, Collate, Item, Views
from dual_nav_training.small.language import IMAGE_SIDE, PIXEL_STEP
from dual_nav_training.small.objective import GroundingTask
from dual_nav_training.small.train_s2 import build
from dual_nav_util.checkpoint import CheckpointError, CheckpointFolder, load_into
from s2_planner_node.checkpoint import LATENT_QUERIES, NETWORK_PREFIXES, installed_name

_VIEWS_AT_ONCE = 16


def load_task(folder: Path) -> tuple[GroundingTask, Collate]:
    """A small planner from a checkpoint folder; the training heads are new."""
    checkpoint = CheckpointFolder(folder)
    task, collate, _ = build(checkpoint.config, seed=0)
    network = task.planner.network
    tensors = checkpoint.load(checkpoint.select(NETWORK_PREFIXES), dtype=torch.float32)
    load_into(network, tensors, rename=lambda key: installed_name(key, network), where=str(folder))
    task.planner.latent_queries.data = checkpoint.load([LATENT_QUERIES], dtype=torch.float32)[LATENT_QUERIES]
    return task.eval(), collate


def score(task: GroundingTask, collate: Collate, views: Views, count: int, questions: int = 6) -> dict[str, float]:
    """Shares of right decisions, for goals in view and others, and errors of pixel goals; each also shuffled."""
    chosen = np.linspace(0, len(views) - 1, min(count, len(views))).astype(int)
    items = [Ask(questions)(views[int(n)], np.random.default_rng(int(n)), False) for n in chosen]
    result: dict[str, float] = {}
    for prefix, asked in (("", items), ("shuffled_", [_shuffled(item) for item in items])):
        right: dict[bool, list[bool]] = {True: [], False: []}
        errors: list[float] = []
        for start in range(0, len(asked), _VIEWS_AT_ONCE):
            _score_batch(task, collate(asked[start : start + _VIEWS_AT_ONCE]), right, errors)
        result |= {
            f"{prefix}decision": float(np.mean([*right[True], *right[False]])),
            f"{prefix}decision_in_view": float(np.mean(right[True])),
            f"{prefix}decision_not_in_view": float(np.mean(right[False])),
            f"{prefix}column_error": float(np.median(errors)),
            f"{prefix}column_within_10_percent": float(np.mean(np.asarray(errors) < IMAGE_SIDE / 10)),
        }
    return {name: round(value, 4) for name, value in result.items()}


def _shuffled(item: Item) -> Item:
    instructions = [question.instruction for question in item.questions]
    turned = instructions[1:] + instructions[:1]
    exchanged = [replace(q, instruction=other) for q, other in zip(item.questions, turned, strict=True)]
    return Item(item.view, tuple(exchanged))


@torch.inference_mode()
def _score_batch(
    task: GroundingTask, batch: dict[str, torch.Tensor], right: dict[bool, list[bool]], errors: list[float]
) -> None:
    hidden = task.decoded(task.planner.encode(batch["image"]), batch).hidden
    row, asked, drives = batch["row"], batch["asked"], batch["drives"]
    said = task.planner.network.lm_head(hidden[row, asked[:, 0]]).argmax(-1)
    hits = said == batch["ids"][row, asked[:, 0] + 1]
    for seen, hit in zip(batch["found"].tolist(), hits.tolist(), strict=True):
        right[seen].append(hit)
    column = task.coordinate_logits(hidden, row[drives], asked[drives, 1]).argmax(-1)
    errors += ((column - batch["pixel"][drives, 0]).abs() * PIXEL_STEP).tolist()


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
