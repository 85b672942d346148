"""transformers' Trainer with what this project needs on top: exact means, draws by sample, checkpoints that hold."""

from __future__ import annotations

import errno
import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from dual_nav_training.batches import TrainingSet
from dual_nav_training.draws import VisitSampler
from dual_nav_training.run_folder import RunError

_PARTIAL = "checkpoint.partial"  # a folder; its contents move out when complete


class NavTrainer(Trainer):
    """Trains a module of ``modules.py``.

    - The loss of a step is the mean over all frames, tokens or samples of the global batch, whether it came from one
      process or from several with accumulation: every term of a micro-batch counts by its share of ``weights``.
    - Checkpoints hold the trained parameters only; the others come from the checkpoint that training began with.
      A checkpoint has its name only when it is complete.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        train_dataset: TrainingSet,
        data_collator: Callable[[list[Any]], dict[str, Tensor]],
        sampler: VisitSampler,
        eval_dataset: TrainingSet | None = None,
        callbacks: list[TrainerCallback] | None = None,
        vision_learning_rate: float | None = None,
    ) -> None:
        self._sampler, self._vision_learning_rate = sampler, vision_learning_rate
        self._writing = False
        self._parts: dict[str, Tensor] = {}
        self._parts_since = 0  # step after which they are summed up
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            data_collator=data_collator,
            eval_dataset=eval_dataset,
            callbacks=[_SetEpoch(sampler, train_dataset), *(callbacks or [])],
        )
        self.model_accepts_loss_kwargs = True  # losses are divided by the global batch's weights, here

    # ---- data

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
        return self._sampler

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> Tensor:
        """Weights (terms,) of the whole step, over all micro-batches and processes."""
        weights = torch.stack([batch["weights"] for batch in batch_samples]).sum(0).to(device)
        return self.accelerator.reduce(weights, "sum") if self.args.world_size > 1 else weights

    # ---- loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        weights = inputs.pop("weights")
        outputs = model(**inputs)
        losses, parts = outputs["losses"], outputs["parts"]
        if num_items_in_batch is None:
            share = torch.ones_like(losses)
        else:
            share = (weights / num_items_in_batch)[: len(losses)]
            if not self._parts:  # also the first after a resume, which did not begin at step 0
                self._parts_since = self.state.global_step
            for number, (name, value) in enumerate(parts.items()):
                own = share[number] if len(losses) > 1 else share[0]
                self._parts[name] = self._parts.get(name, 0.0) + value * own
            # Processes average their gradients; their losses are to be added up.
            share = share * self.accelerator.num_processes
        loss = (losses * share).sum()
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, None, None]:
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            if not math.isfinite(logs["loss"]):
                raise RunError(
                    f"the loss is {logs['loss']} at step {self.state.global_step}; begin a new run with a lower "
                    "learning rate, or with float32"
                )
            steps = max(1, self.state.global_step - self._parts_since)
            for name, value in self._parts.items():
                total = self.accelerator.reduce(value, "sum") if self.args.world_size > 1 else value
                logs[name] = round(total.item() / steps, 6)
            self._parts = {}
        super().log(logs, start_time)

    # ---- optimiser

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As the base class, with a learning rate of its own for the vision tower."""
        if self.optimizer is not None or self._vision_learning_rate is None:
            return super().create_optimizer(model)
        model = self.model if model is None else model
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, model)
        self.optimizer = kind(self.parameter_groups(model, model.named_parameters()), **options)
        return self.optimizer

    def parameter_groups(self, model: nn.Module, named: Iterable[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
        """An optimiser's groups of these trained parameters of the model: vision tower and the rest, each with and
        without weight decay."""
        decayed = set(self.get_decay_parameter_names(model))
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in named:
            if parameter.requires_grad:
                groups.setdefault((".visual." in name, name in decayed), []).append(parameter)
        rate = self.args.learning_rate
        return [
            {
                "params": parameters,
                "weight_decay": self.args.weight_decay if decay else 0.0,
                "lr": (self._vision_learning_rate or rate) if vision else rate,
            }
            for (vision, decay), parameters in groups.items()
        ]

    # ---- checkpoints

    def _save(self, output_dir: str | None = None, state_dict: Mapping[str, Tensor] | None = None) -> None:
        trained = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        state = self.model.state_dict() if state_dict is None else state_dict
        super()._save(output_dir, {name: value for name, value in state.items() if name in trained})

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        trained = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        absent = sorted(trained & set(load_result.missing_keys))
        if absent or load_result.unexpected_keys:
            raise RunError(
                f"the checkpoint does not fit: {len(absent)} trained parameters are missing "
                f"({', '.join(absent[:3])}), {len(load_result.unexpected_keys)} are unknown "
                f"({', '.join(load_result.unexpected_keys[:3])})"
            )

    def _get_output_dir(self, trial: Any) -> str:
        return str(Path(self.args.output_dir) / _PARTIAL) if self._writing else self.args.output_dir

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run = Path(self.args.output_dir)
        name = f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(run / _PARTIAL, ignore_errors=True)  # of a run that was killed
        self.accelerator.wait_for_everyone()
        self._writing = True
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(run / _PARTIAL, ignore_errors=True)
            raise RunError(f"{name} could not be written to {run}: {reason(error)}") from error
        finally:
            self._writing = False
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            shutil.rmtree(run / name, ignore_errors=True)
            (run / _PARTIAL / name).rename(run / name)
            (run / _PARTIAL).rmdir()
            rotate_checkpoints(str(run), self.args.save_total_limit)
        self.accelerator.wait_for_everyone()


class _SetEpoch(TrainerCallback):
    """Tells sampler and data set the epoch, also in the middle of one that is gone on with; and the trainer how often
    to log, evaluate and save, which a resumed run would otherwise go on doing as before."""

    def __init__(self, sampler: VisitSampler, data: TrainingSet) -> None:
        self._sampler, self._data = sampler, data

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        state.compute_steps(args, state.max_steps)

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        epoch = int(state.epoch or 0)
        self._sampler.set_epoch(epoch)
        self._data.start_epoch(self._sampler.draws_epoch)


def reason(error: BaseException) -> str:
    """Why writing failed, in words; full disks are told apart from the rest."""
    text = " ".join(str(error).split())
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    # torch.save says no more than that its container has another length than it should.
    if full or any(sign in text for sign in ("No space left", "quota", "File too large", "inline_container")):
        return f"no room on the disk ({text}); make room and start the same command again"
    return text
