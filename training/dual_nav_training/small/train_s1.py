"""Train S1 behind a small planner.

`python -m dual_nav_training.small.train_s1 --model FOLDER --ways FOLDER --output RUN`: mode `dual` of train.py on
ways instead of a data set; the planner stays as it is, but for its latent queries. The result is RUN/<system1>/model.
With `--go-on` the S1 that FOLDER has is trained further, on other ways for example.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer

from dual_nav_training import batches
from dual_nav_training.checkpoint_writer import write_json
from dual_nav_training.conversation import ConversationMaker
from dual_nav_training.modules import Mode
from dual_nav_training.run_folder import RunError
from dual_nav_training.small.checkpoint import SYSTEM1_SIZES, dual_config, write_small_checkpoint
from dual_nav_training.small.ways import Ways
from dual_nav_training.train import Collate, train
from dual_nav_training.train_config import TrainConfig
from dual_nav_util.checkpoint import CheckpointError, CheckpointFolder, weights_fingerprint
from s1_controller_node.checkpoint import described, variant_of
from s2_planner_node.checkpoint import LATENT_QUERIES, NETWORK_PREFIXES, generation_settings, load_protocol
from s2_planner_node.image_processor import ImageProcessor


def open_ways(
    mode: Mode, config: TrainConfig, folder: CheckpointFolder, root: Path
) -> tuple[batches.TrainingSet, Collate]:
    """Ways prepared for a checkpoint, and what makes batches of them."""
    del mode
    model_config = described(folder)
    maker = ConversationMaker(
        load_protocol(folder),
        ImageProcessor.from_folder(folder.path),
        generation_settings(folder)[0][0],
        int(model_config["max_position_embeddings"]),
    )
    prepare = batches.PrepareDual(batches.PreparePrompt(maker, config.augment, config.vary_wording))
    ways = Ways(root, depth=variant_of(model_config) == "navdp_async")
    return batches.TrainingSet(ways, prepare, config.seed), partial(
        batches.collate_duals, pad_token_id=maker.end_token_id
    )


def with_untrained_system1(planner: Path, system1: str, folder: Path, seed: int) -> None:
    """Write a checkpoint folder with the planner of another one and a new S1 of this variant."""
    source = CheckpointFolder(planner)
    config = {name: value for name, value in source.config.items() if not name.startswith("system1")}
    tensors = source.load([*source.select(NETWORK_PREFIXES), LATENT_QUERIES], dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(source.path / "tokenizer.json"))
    write_small_checkpoint(folder, dual_config(config, system1), tensors, tokenizer, seed=seed)


def _start(planner: Path, system1: str, folder: Path, seed: int) -> None:
    """`with_untrained_system1`, once for a planner and seed. RunError for a folder that was made of another one."""
    note = folder.with_suffix(".json")
    identity = {"planner": weights_fingerprint(planner), "seed": seed}
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_json(note, identity)
        with_untrained_system1(planner, system1, folder, seed)
    elif not note.is_file() or json.loads(note.read_text()) != identity:
        raise RunError(f"{folder} was made of another planner than {planner} is now: give another --output")


def settings(steps: int, plans: int, learning_rate: float, seed: int) -> TrainConfig:
    """Of a run of so many steps with so many plans each."""
    return TrainConfig(
        seed=seed,
        dropout=0.0,
        augment=False,
        vary_wording=False,
        export_precision="float16",
        trainer={
            "max_steps": steps,
            "per_device_train_batch_size": plans,
            "per_device_eval_batch_size": plans,
            "learning_rate": learning_rate,
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr_rate": 0.02},
            "warmup_steps": min(100, steps // 5),
            "weight_decay": 0.01,
            "bf16": True,
            "logging_steps": 20,
            "eval_steps": 500,
            "save_steps": 250,
            "save_total_limit": 1,
        },
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="small.train_s1", description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder with a trained planner")
    parser.add_argument("--ways", type=Path, required=True)
    parser.add_argument("--eval-ways", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--system1", choices=sorted(SYSTEM1_SIZES), default="nextdit_async")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--plans", type=int, default=16, help="of a step")
    parser.add_argument("--learning-rate", type=float, default=8e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--go-on", action="store_true", help="from the S1 of --model instead of an untrained one")
    options = parser.parse_args(arguments)
    try:
        start = options.model if options.go_on else options.output / f"start_{options.system1}"
        if options.go_on and variant_of(described(CheckpointFolder(start))) != options.system1:
            raise RunError(f"--go-on: the S1 of {start} is no {options.system1}: say --system1, or leave out --go-on")
        if not options.go_on:
            _start(options.model, options.system1, start, options.seed)
        train(
            "dual",
            settings(options.steps, options.plans, options.learning_rate, options.seed),
            data=options.ways,
            checkpoint=str(start),
            output=options.output / options.system1,
            eval_data=options.eval_ways,
            opener=open_ways,
        )
    except (CheckpointError, RunError) as error:
        print(f"train_s1: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"train_s1: interrupted; the same command goes on in {options.output}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
