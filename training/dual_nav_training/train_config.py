"""The settings of a training run: a YAML file, checked before anything is loaded.

What transformers' ``TrainingArguments`` has (steps, batch, accumulation, learning rate and its schedule, precision,
gradient checkpointing, logging, evaluation, saving, …) stands under ``trainer`` with the names it has there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from dual_nav_training.modules import Mode

EXPORT_PRECISIONS = ("float16", "bfloat16", "float32")
_FROZEN_PRECISIONS = ("bfloat16", "float32")
# Set by this project, or at odds with how it saves and resumes.
_RESERVED = (
    "output_dir",
    "seed",
    "data_seed",
    "remove_unused_columns",
    "load_best_model_at_end",
    "resume_from_checkpoint",
    "label_names",
    "ddp_find_unused_parameters",
    "average_tokens_across_devices",
    "logging_nan_inf_filter",
    "train_sampling_strategy",
)


class ConfigError(ValueError):
    """A setting that is unknown or out of range; the message names it."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run; see docs/training.md.

    Attributes:
        seed: of everything drawn.
        vision_learning_rate: of the vision tower where it is trained; None: as everything else.
        dropout: in S1 while it trains.
        augment: change the colours of the planner's and the dual system's images.
        vary_wording: draw the phrase before an image from the seven of the release.
        fixed_draws: the same noise, time step, colours and wording for a sample in every epoch (overfitting checks).
        answer_weight: in mode joint, of the language-model loss beside the trajectory loss.
        frozen_precision: of the planner while it is frozen (mode dual).
        lora: fields of peft's LoraConfig, in mode s2: adapters instead of all weights.
        export_precision: of the checkpoint that comes out.
        data: settings of the data set: ``on_problem``, ``verify``, ``cameras`` (height, level pitch and downward
            pitch of a VLN-CE data set that has several), ``prompts`` (S2SampleConfig) and ``frames``
            (DualSampleConfig or NavDpSampleConfig).
        trainer: transformers.TrainingArguments.
    """

    seed: int = 0
    vision_learning_rate: float | None = None
    dropout: float = 0.1
    augment: bool = True
    vary_wording: bool = True
    fixed_draws: bool = False
    answer_weight: float = 0.0
    frozen_precision: str = "float32"
    lora: dict[str, Any] | None = None
    export_precision: str = "float32"
    data: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("augment", "vary_wording", "fixed_draws"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {getattr(self, name)!r}, expected true or false")
        for name, low, high in (("dropout", 0, 0.9), ("answer_weight", 0, 1000), ("vision_learning_rate", 0, 1)):
            value = getattr(self, name)
            if value is None and name == "vision_learning_rate":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise ConfigError(f"{name} is {value!r}, expected a number in [{low}, {high}]")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ConfigError(f"seed is {self.seed!r}, expected an integer of at least 0")
        for name, allowed in (("export_precision", EXPORT_PRECISIONS), ("frozen_precision", _FROZEN_PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(allowed)}")
        for name in ("data", "trainer"):
            if not isinstance(getattr(self, name), dict):
                raise ConfigError(f"{name} is {getattr(self, name)!r}, expected names and values")
        if self.lora is not None and not (isinstance(self.lora, dict) and self.lora.get("target_modules")):
            raise ConfigError(f"lora is {self.lora!r}, expected fields of peft's LoraConfig with target_modules")
        if reserved := sorted(set(self.trainer) & set(_RESERVED)):
            raise ConfigError(f"trainer: {', '.join(reserved)} cannot be set here: the trainer of this project does")

    def check_mode(self, mode: Mode) -> None:
        """Raise ``ConfigError`` for a setting that does nothing in this mode."""
        for name, unset, modes in (
            ("lora", None, ("s2",)),
            ("answer_weight", 0, ("joint",)),
            ("vision_learning_rate", None, ("s2", "joint")),
        ):
            if getattr(self, name) != unset and mode not in modes:
                raise ConfigError(f"{name} is set, but does nothing in mode {mode}; only in {', '.join(modes)}")
        if mode == "s1_navdp" and self.trainer.get("gradient_checkpointing"):
            raise ConfigError("trainer.gradient_checkpointing is true, but mode s1_navdp has no planner to save on")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def load_config(file: Path, changes: Sequence[str] = ()) -> TrainConfig:
    """The settings in a YAML file, with ``changes`` such as ``trainer.max_steps=100`` on top.

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown or out of range.
    """
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: not readable as YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: expected names and values, got {type(content).__name__}")
    for change in changes:
        _apply(content, change)
    known = {item.name for item in fields(TrainConfig)}
    if unknown := sorted(set(content) - known):
        raise ConfigError(f"{file}: unknown settings {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    return TrainConfig(**_numbers(content))


def _apply(content: dict[str, Any], change: str) -> None:
    name, equals, text = change.partition("=")
    *groups, last = name.split(".")
    if not equals or not last:
        raise ConfigError(f"--set {change}: expected NAME=VALUE, such as trainer.max_steps=100")
    place = content
    for group in groups:
        place = place.setdefault(group, {})
        if not isinstance(place, dict):
            raise ConfigError(f"--set {change}: {group} has no settings below it")
    place[last] = yaml.safe_load(text)


def _numbers(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 as text; people mean a number."""
    if isinstance(value, Mapping):
        return {key: _numbers(item) for key, item in value.items()}
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
