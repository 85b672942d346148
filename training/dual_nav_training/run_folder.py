"""The folder of a training run: what was trained with what, its metrics, its checkpoints and its result.

run.json            mode, settings, checkpoint, data with fingerprint, git revision, versions
config.yaml         the settings, for the next run
metrics.jsonl       a line per logging and evaluation
tensorboard/        the same as curves
checkpoint-<step>/  to go on from; complete under this name, or not there
model/              the result, in the layout both nodes load
"""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from dual_nav_training.checkpoint_writer import write_json
from dual_nav_training.revision import git_revision

# What a run may change when it goes on: nothing that decides what the next step computes.
_FREE_SETTINGS = ("logging_steps", "save_steps", "save_total_limit", "eval_steps", "dataloader_num_workers")
_PARTIAL = ".partial"


class RunError(RuntimeError):
    """A run that cannot go on; the message says why and what to do."""


class RunFolder:
    """One folder per run; starting the same run again goes on from its last checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @property
    def model(self) -> Path:
        """Where the result goes."""
        return self.path / "model"

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint; all are complete."""
        found = get_last_checkpoint(str(self.path)) if self.path.is_dir() else None
        return Path(found) if found else None

    def open(self, description: dict[str, Any], settings: dict[str, Any]) -> None:
        """Make the folder, or check that it belongs to the same run.

        Args:
            description: mode, checkpoint, data and its fingerprint.
            settings: of the run.

        Raises:
            RunError: the folder is of another run; what differs is named.
        """
        record = self.path / "run.json"
        identity = {**description, "settings": _binding(settings)}
        if record.is_file():
            before = json.loads(record.read_text(encoding="utf-8"))
            before = {name: before.get(name) for name in description} | {"settings": _binding(before["settings"])}
            if differing := _differences(before, identity):
                raise RunError(
                    f"{self.path} holds another run ({'; '.join(differing)}); choose another output folder, or "
                    "remove this one"
                )
            return
        if self.path.is_dir() and any(file.suffix != _PARTIAL for file in self.path.iterdir()):
            raise RunError(f"{self.path} is not empty and holds no run; choose another output folder")
        self.path.mkdir(parents=True, exist_ok=True)
        facts = {"git": git_revision(), "versions": _versions(), "machine": platform.machine()}
        partial = record.with_suffix(_PARTIAL)
        write_json(partial, {**description, "settings": settings, **facts})
        partial.rename(record)
        (self.path / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


def is_finished(checkpoint: Path) -> bool:
    """Whether a checkpoint is the one after the last step."""
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    return state.global_step >= state.max_steps


def _binding(settings: dict[str, Any]) -> dict[str, Any]:
    trainer = {name: value for name, value in settings["trainer"].items() if name not in _FREE_SETTINGS}
    return json.loads(json.dumps({**settings, "trainer": trainer}))


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    old, new = _flat(before), _flat(now)
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return [f"{name} was {old.get(name)!r}, is {new.get(name)!r}" for name in names]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("torch", "transformers", "accelerate", "numpy")}
    return {"python": platform.python_version(), **packages}


class MetricsFile(TrainerCallback):
    """Writes ``metrics.jsonl``; lines behind the checkpoint a run goes on from are taken out first."""

    def __init__(self, folder: RunFolder) -> None:
        self._file = folder.path / "metrics.jsonl"

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero and self._file.is_file():
            lines = self._file.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if _step(line) <= state.global_step]
            self._file.write_text("".join(kept), encoding="utf-8")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if state.is_world_process_zero and logs:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")


def _step(line: str) -> float:
    """Step of a line; a line cut off by a kill goes."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
