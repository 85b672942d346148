"""Train the planner, a trajectory model, or both; the result is a checkpoint folder that the nodes load.

``python -m dual_nav_training.train MODE --config FILE --data FOLDER --checkpoint FOLDER --output FOLDER`` with MODE

    s2        vision tower and language model, on the assistant's answers
    s1_navdp  standalone NavDP with critic
    dual      latent queries and S1 (NextDiT or NavDP, as the checkpoint says); the rest of the planner is frozen
    joint     the same loss through the latents into the whole planner, too

Started again with the same output folder it goes on from the last checkpoint there. On several processes it runs
under ``accelerate launch -m``. See docs/training.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from accelerate import PartialState
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.data import Dataset
from transformers import TrainingArguments

from dual_nav_training import batches, lerobot, samples
from dual_nav_training.conversation import ConversationMaker
from dual_nav_training.draws import VisitSampler
from dual_nav_training.export import export_checkpoint
from dual_nav_training.modules import (
    MODES,
    Mode,
    TrainingModule,
    check_kind,
    load_module,
    set_dropout,
    trained_tensors,
)
from dual_nav_training.run_folder import MetricsFile, RunError, RunFolder, is_finished
from dual_nav_training.train_config import ConfigError, TrainConfig, load_config
from dual_nav_training.trainable import add_adapters, choose_parameters, table
from dual_nav_training.trainer import NavTrainer, reason
from dual_nav_util.checkpoint import CheckpointError, CheckpointFolder, weights_fingerprint
from s1_controller_node.checkpoint import build_model, described, variant_of
from s2_planner_node.checkpoint import generation_settings, load_protocol
from s2_planner_node.image_processor import ImageProcessor
from s2_planner_node.prompt import PromptError

Collate = Callable[[list[Any]], dict[str, Tensor]]
DataOpener = Callable[[Mode, TrainConfig, CheckpointFolder, Path], tuple[batches.TrainingSet, Collate]]


def train(
    mode: Mode,
    config: TrainConfig,
    *,
    data: Path,
    checkpoint: str,
    output: Path,
    eval_data: Path | None = None,
    opener: DataOpener | None = None,
) -> Path:
    """Train, or go on training, and write the result; returns its folder.

    opener: for data that are not a data set in one of the LeRobot layouts; as `open_data`.

    Raises:
        ConfigError, CheckpointError, lerobot.DataError, RunError: with what is wrong and what to do.
    """
    config.check_mode(mode)
    folder, run = CheckpointFolder(checkpoint), RunFolder(output)
    check_kind(mode, folder)
    arguments = _arguments(config, run, evaluate=eval_data is not None)
    with PartialState().main_process_first():  # it writes the index of the data, the others read it
        opener = opener or open_data
        training_set, collate = opener(mode, config, folder, data)
        evaluation_set = opener(mode, config, folder, eval_data)[0] if eval_data else None

    module = load_module(
        mode, folder, answer_weight=config.answer_weight, frozen_dtype=getattr(torch, config.frozen_precision)
    )
    set_dropout(module, config.dropout)
    choose_parameters(mode, described(folder), module)
    if config.lora is not None:
        add_adapters(module, config.lora)

    sampler = VisitSampler(
        getattr(training_set.samples, "weights", np.ones(len(training_set))),
        config.seed,
        config.fixed_draws,
        arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size,
    )
    if arguments.process_index == 0:
        description = {
            "mode": mode,
            "checkpoint": {"folder": str(folder.path), "weights": weights_fingerprint(folder.path)},
            "processes": arguments.world_size,
            "data": {"folder": str(data), "fingerprint": lerobot.fingerprint(data), "samples": len(training_set)},
            "eval_data": eval_data and {"folder": str(eval_data), "fingerprint": lerobot.fingerprint(eval_data)},
        }
        run.open(description, config.as_dict())
        print(f"mode {mode}, {len(training_set)} samples of {data}\n{table(module)}", flush=True)
    PartialState().wait_for_everyone()

    trainer = NavTrainer(
        module,
        arguments,
        training_set,
        collate,
        sampler,
        eval_dataset=evaluation_set,
        callbacks=[MetricsFile(run)],
        vision_learning_rate=config.vision_learning_rate,
    )
    if config.lora is not None and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        raise ConfigError("lora is for one process or plain data parallel training; shard the full weights instead")
    last = run.last_checkpoint()
    finished = last is not None and is_finished(last)
    if last is not None and arguments.process_index == 0:
        print(f"finished: {last} is after the last step" if finished else f"goes on from {last}", flush=True)
    if finished:
        trainer._load_from_checkpoint(str(last))  # train() would take one more step
    else:
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
    if skipped := training_set.samples.skipped:
        print(f"samples that could not be read and were left out: {skipped} times", flush=True)
    _export(trainer, module, folder, run, config)
    return run.model


def _arguments(config: TrainConfig, run: RunFolder, *, evaluate: bool) -> TrainingArguments:
    """TrainingArguments from the settings and what this project decides."""
    cuda = torch.cuda.is_available()
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run.path / "tensorboard")
    values: dict[str, Any] = {
        "report_to": ["tensorboard"],
        "logging_steps": 10,
        "save_total_limit": 3,
        "eval_strategy": "steps" if evaluate else "no",
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        **config.trainer,
        "output_dir": str(run.path),
        "seed": config.seed,
        "remove_unused_columns": False,
        "label_names": [],
        "logging_nan_inf_filter": False,
        # Releases have parameters that no computation uses.
        "ddp_find_unused_parameters": True,
    }
    if not evaluate:
        values["eval_strategy"] = "no"
    if "LOCAL_RANK" in os.environ:  # set by accelerate launch for several processes
        values.setdefault("ddp_backend", "nccl" if cuda else "gloo")
    try:
        arguments = TrainingArguments(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"trainer: {error}") from error
    if arguments.n_gpu > 1:
        raise ConfigError(
            f"one process sees {arguments.n_gpu} GPUs; start with accelerate launch, or set CUDA_VISIBLE_DEVICES"
        )
    return arguments


def open_data(
    mode: Mode, config: TrainConfig, folder: CheckpointFolder, root: Path
) -> tuple[batches.TrainingSet, Collate]:
    """The samples of a data set prepared for a mode and a checkpoint, and what makes batches of them."""
    settings = dict(config.data)
    on_problem = _choice(settings, "on_problem", get_args(lerobot.OnProblem))
    verify = _choice(settings, "verify", get_args(lerobot.Verify))
    prompts, frames = settings.pop("prompts", {}), settings.pop("frames", {})
    cameras = settings.pop("cameras", None)
    if settings:
        known = "on_problem, verify, cameras, prompts, frames"
        raise ConfigError(f"data: unknown settings {', '.join(settings)}; known: {known}")
    model_config = described(folder)
    try:
        if mode == "s1_navdp":
            sizes = build_model(model_config).config
            own = {
                "memory_size": sizes.memory_size,
                "predict_size": sizes.predict_size,
                "image_size": sizes.image_size,
                "pixel_channels": sizes.pixel_channel,
            }
            data = lerobot.VlnN1Data(root, on_problem, verify)
            _say_problems(data)
            chosen = samples.NavDpDataset(
                data, samples.NavDpSampleConfig(**{**frames, **own}), on_problem, config.seed
            )
            return batches.TrainingSet(chosen, batches.prepare_navdp, config.seed), batches.collate_navdp
        protocol = load_protocol(folder)
        setting = None if cameras is None else lerobot.CameraSetting.of(cameras)
        source = lerobot.VlnCeData(root, setting, on_problem, verify)
        _say_problems(source)
        prompt_config = samples.S2SampleConfig(**prompts)
        maker = ConversationMaker(
            protocol,
            ImageProcessor.from_folder(folder.path),
            generation_settings(folder)[0][0],
            int(model_config["max_position_embeddings"]),
        )
        prepare_prompt = batches.PreparePrompt(maker, config.augment, config.vary_wording)
        chosen: Dataset
        if mode == "s2":
            chosen = samples.S2Dataset(source, prompt_config, protocol.template, on_problem, config.seed)
            prepare, collate = prepare_prompt, batches.collate_conversations
        else:
            own = {
                "image_size": build_model(model_config).config.image_size,
                "depth": variant_of(model_config) == "navdp_async",
            }
            chosen = samples.DualDataset(
                source,
                samples.DualSampleConfig(**{**frames, **own}),
                prompt_config,
                protocol.template,
                on_problem,
                config.seed,
            )
            prepare, collate = batches.PrepareDual(prepare_prompt), batches.collate_duals
    except lerobot.DataError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"data: {error}") from error
    if not len(chosen):
        raise lerobot.DataError(f"{root}: no sample for mode {mode}")
    return batches.TrainingSet(chosen, prepare, config.seed), partial(collate, pad_token_id=maker.end_token_id)


def _choice(settings: dict[str, Any], name: str, allowed: Sequence[str]) -> Any:
    """The setting, taken out; the first of `allowed` where it is not given."""
    value = settings.pop(name, allowed[0])
    if value not in allowed:
        raise ConfigError(f"data.{name} is {value!r}, expected one of {', '.join(allowed)}")
    return value


def _say_problems(data: lerobot.VlnCeData | lerobot.VlnN1Data) -> None:
    """What the index left out, with on_problem: skip."""
    if data.problems and PartialState().is_main_process:
        print(f"{data.root}: {len(data.problems)} problems left out; the first: {data.problems[0]}", flush=True)


def _export(
    trainer: NavTrainer, module: TrainingModule, folder: CheckpointFolder, run: RunFolder, config: TrainConfig
) -> None:
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.args.process_index == 0:
        tensors = trained_tensors(module, state)
        if folder.config.get("tie_word_embeddings"):
            tensors.pop("lm_head.weight", None)
        try:
            export_checkpoint(run.model, folder, tensors, config.export_precision)
        except (OSError, SafetensorError) as error:
            raise RunError(f"the result could not be written to {run.model}: {reason(error)}") from error
        print(f"result: {run.model}", flush=True)
    trainer.accelerator.wait_for_everyone()


def main(arguments: Sequence[str] | None = None) -> int:
    """Console command; 0 when training came to its end, 1 when it could not, 130 when it was interrupted."""
    parser = argparse.ArgumentParser(
        prog="train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--config", type=Path, required=True, help="YAML file, see training/config")
    parser.add_argument("--data", type=Path, required=True, help="data set in one of the LeRobot layouts")
    parser.add_argument("--checkpoint", required=True, help="where to begin: checkpoint folder or hub id")
    parser.add_argument("--output", type=Path, required=True, help="run folder")
    parser.add_argument("--eval-data", type=Path, help="data set for the loss on samples not trained on")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting")
    options = parser.parse_args(arguments)
    try:
        config = load_config(options.config, options.set)
        train(
            options.mode,
            config,
            data=options.data,
            checkpoint=options.checkpoint,
            output=options.output,
            eval_data=options.eval_data,
        )
    except (ConfigError, CheckpointError, lerobot.DataError, PromptError, RunError) as error:
        text = str(error).strip()
        if "Original Traceback" in text:  # from a worker process: the last line is "module.Class: message"
            text = text.splitlines()[-1].partition(": ")[2]
        print(f"train: {text}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"train: {reason(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            f"train: interrupted; the same command goes on from the last checkpoint in {options.output}",
            file=sys.stderr,
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
