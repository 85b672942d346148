"""Train the small planner on views: `python -m dual_nav_training.small.train_s2 --views FOLDER --output RUN`.

Three stages in one run folder, see objective.py: `see`, `read`, `ground`. Started again it goes on from the last
checkpoint; with `--visited FOLDER` a fourth follows, `again`, with the views from where the result took the robot.
The result, RUN/model, is a checkpoint folder with an S1 that has yet to be trained. With `--go-on FOLDER` the planner
of another checkpoint folder is trained further, and S1 is that one's: `heads`, in which what only training has and no
checkpoint holds is learned again, and `again`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, TrainingArguments

from dual_nav_training.batches import TrainingSet
from dual_nav_training.draws import VisitSampler
from dual_nav_training.lerobot import fingerprint
from dual_nav_training.run_folder import MetricsFile, RunError, RunFolder
from dual_nav_training.small.batches import Ask, Collate, Views
from dual_nav_training.small.checkpoint import (
    SYSTEM1_SIZES,
    dual_config,
    load_planner_tensors,
    planner_tensors,
    write_small_checkpoint,
)
from dual_nav_training.small.language import CHAT_TEMPLATE, TEMPLATE, build_tokenizer
from dual_nav_training.small.muon import MuonTrainer
from dual_nav_training.small.network import SmallPlanner, small_config
from dual_nav_training.small.objective import GROUND, SEE, GroundingTask
from dual_nav_util.checkpoint import CheckpointError, CheckpointFolder, weights_fingerprint
from s1_controller_node.checkpoint import described, variant_of
from s2_planner_node.prompt import PromptProtocol

READ, AGAIN, HEADS = "read", "again", "heads"
_HEADS_STEPS = 150
# With all of the learning rate the vision tower forgets what it has learned to see while all else is new.
_VISION_SHARE = {GROUND: 0.3, AGAIN: 0.5}


@dataclass(frozen=True)
class Stage:
    """One stage of training."""

    name: str
    task: str  # of objective.STAGES
    steps: int
    images: int  # of a step
    questions: int  # about each image
    learning_rate: float = 1.2e-3
    vision: float = 1.0  # share of the learning rate that the vision tower learns with; 0: it stays as it is
    matrices: float = 4.0  # learning rate of Muon in parts of this one, which is AdamW's
    planner: bool = True  # whether the planner is trained, or the training's heads only


def build(config: dict[str, Any], seed: int) -> tuple[GroundingTask, Collate, Any]:
    """The untrained task, what makes its batches, and the tokenizer."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    task = GroundingTask(SmallPlanner(config), tokenizer)
    protocol = PromptProtocol(
        TEMPLATE, PreTrainedTokenizerFast(tokenizer_object=tokenizer), CHAT_TEMPLATE, config["image_token_id"]
    )
    return task, Collate(protocol, config["eos_token_id"], config["image_token_id"], config["n_query"]), tokenizer


def train(
    views: Path,
    output: Path,
    stages: Sequence[Stage],
    *,
    system1: str,
    seed: int,
    visited: Path | None = None,
    eval_views: Path | None = None,
    start: Path | None = None,
) -> Path:
    """Train, or go on training; returns the folder of the result. RunError says what is wrong.

    visited: views that the stage AGAIN has beside the others. start: checkpoint folder whose planner is trained
    further, and whose S1 the result has; CheckpointError for one that does not fit.
    """
    config = small_config()
    task, collate, tokenizer = build(config, seed)
    tensors: dict[str, Tensor] = {}
    if start is not None:
        source = CheckpointFolder(start)
        tensors = source.load(source.keys(), dtype=torch.float32)
        load_planner_tensors(task.planner, source)
        system1 = variant_of(described(source))
    samples = Views(views)
    more = Views(views, visited) if visited else samples
    held_back = Views(eval_views) if eval_views else None
    for stage in stages:
        run = RunFolder(output / stage.name)
        task.stage = stage.task
        task.planner.requires_grad_(stage.planner)
        task.planner.visual.requires_grad_(stage.planner and stage.vision > 0)
        data = more if stage.name == AGAIN else samples
        arguments = _arguments(run, stage, seed, evaluate=held_back is not None)
        folders = [views, visited] if visited and stage.name == AGAIN else [views]
        description = {
            "views": {str(folder): fingerprint(folder) for folder in folders},
            "samples": len(data),
            "config": config,
        }
        if start is not None:
            description["start"] = {"folder": str(start), "weights": weights_fingerprint(start)}
        run.open(description, {"stage": vars(stage), "seed": seed, "trainer": {}})
        ask = Ask(stage.questions)
        trainer = MuonTrainer(
            task,
            arguments,
            TrainingSet(data, ask, seed),
            collate,
            VisitSampler(np.ones(len(data)), seed),
            eval_dataset=TrainingSet(held_back, ask, seed) if held_back else None,
            callbacks=[MetricsFile(run)],
            vision_learning_rate=stage.learning_rate * stage.vision,
            matrices_rate=stage.matrices,
        )
        last = run.last_checkpoint()
        if last is not None and last.name == f"checkpoint-{stage.steps}":
            trainer._load_from_checkpoint(str(last))  # finished: going on would train one step more
        else:
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
    tensors |= planner_tensors(task.planner)
    return write_small_checkpoint(output / "model", dual_config(config, system1), tensors, tokenizer, seed=seed)


def _arguments(run: RunFolder, stage: Stage, seed: int, *, evaluate: bool) -> TrainingArguments:
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run.path / "tensorboard")
    return TrainingArguments(
        output_dir=str(run.path),
        max_steps=stage.steps,
        per_device_train_batch_size=stage.images,
        per_device_eval_batch_size=stage.images,
        learning_rate=stage.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.05},
        warmup_steps=min(100, stage.steps // 5),
        weight_decay=0.02,
        adam_beta2=0.98,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        eval_strategy="steps" if evaluate else "no",
        eval_steps=500,
        logging_steps=20,
        save_steps=250,
        save_total_limit=1,
        report_to=["tensorboard"],
        seed=seed,
        remove_unused_columns=False,
        label_names=[],
        logging_nan_inf_filter=False,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="small.train_s2", description=__doc__.split("\n\n")[0])
    parser.add_argument("--views", type=Path, required=True)
    parser.add_argument("--eval-views", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--see-steps", type=int, default=1000)
    parser.add_argument("--read-steps", type=int, default=3000)
    parser.add_argument("--ground-steps", type=int, default=10000)
    parser.add_argument("--visited", type=Path, help="views made with --planner RUN/model")
    parser.add_argument("--again-steps", type=int, default=2000)
    parser.add_argument("--go-on", type=Path, metavar="FOLDER", help="checkpoint whose planner is trained further")
    parser.add_argument("--images", type=int, default=8, help="of a step; twice as many while only seeing")
    parser.add_argument("--questions", type=int, default=6, help="about each image")
    parser.add_argument("--system1", choices=sorted(SYSTEM1_SIZES), default="nextdit_async")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    images, questions = options.images, options.questions
    again = Stage(AGAIN, GROUND, options.again_steps, images, questions, 4e-4, _VISION_SHARE[AGAIN], matrices=1.0)
    if options.go_on:
        stages = [Stage(HEADS, GROUND, _HEADS_STEPS, images, questions, planner=False), again]
    else:
        stages = [
            Stage(SEE, SEE, options.see_steps, 2 * images, 0),
            Stage(READ, GROUND, options.read_steps, images, questions, vision=0.0),
            Stage(GROUND, GROUND, options.ground_steps, images, questions, 8e-4, _VISION_SHARE[GROUND]),
        ]
        stages += [again] if options.visited else []
    try:
        model = train(
            options.views,
            options.output,
            stages,
            system1=options.system1,
            seed=options.seed,
            visited=options.visited,
            eval_views=options.eval_views,
            start=options.go_on,
        )
    except (CheckpointError, RunError) as error:
        print(f"train_s2: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"train_s2: interrupted; the same command goes on in {options.output}", file=sys.stderr)
        return 130
    print(f"result: {model}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
