"""A trained module as a checkpoint folder in the released layout, which both nodes load as it is."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dual_nav_training.checkpoint_writer import complete_or_absent, write_json, write_weights
from dual_nav_util.checkpoint import INDEX_NAME, CheckpointFolder
from s1_controller_node.checkpoint import described

_COPIED = ("*.json", "*.jinja", "*.model", "LICENSE*", "merges.txt")
_WRITTEN = ("config.json", INDEX_NAME)


def export_checkpoint(
    folder: Path,
    source: CheckpointFolder,
    tensors: Mapping[str, Tensor],
    precision: str,
    *,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint folder: ``source`` with ``tensors`` (released keys) in the place of its own.

    Everything else of the source comes along: the other process's weights, tokenizer, chat template, prompt
    template, image processor, licence. The folder appears under its name only when it is complete.

    Args:
        precision: ``float16``, ``bfloat16`` or ``float32``.
        config: contents of config.json where ``tensors`` adds to the source; without, every tensor must be one of
            the source's.

    Raises:
        ValueError: a tensor is not one of the source's, or has another shape, or does not fit the precision.
    """
    shapes = source.shapes()
    for key, tensor in tensors.items():
        if config is not None:
            shapes.setdefault(key, tuple(tensor.shape))
        if shapes.get(key) != tuple(tensor.shape):
            raise ValueError(f"{key}: shape {tuple(tensor.shape)}, in {source.path} it is {shapes.get(key)}")
    with complete_or_absent(folder) as partial:
        write_weights(
            partial,
            shapes,
            lambda key: tensors[key] if key in tensors else source.load([key])[key],
            getattr(torch, precision),
        )
        write_json(partial / "config.json", {**(config or described(source)), "torch_dtype": precision})
        if (source.path / "config.json").is_file():  # else a lone weights file among who knows what
            for file in {file for pattern in _COPIED for file in source.path.glob(pattern)}:
                if file.name not in _WRITTEN:
                    shutil.copy2(file, partial / file.name)
    return folder
