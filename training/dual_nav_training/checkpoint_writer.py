"""Writing tensors as sharded safetensors in the layout of the releases."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dual_nav_util.checkpoint import INDEX_NAME

_RELEASE_SHARD_BYTES = 5 * 10**9
_MIN_SHARDS = 3  # a small checkpoint is sharded, too: it goes through the same code
Progress = Callable[[str], None]


def write_weights(
    folder: Path,
    shapes: Mapping[str, Sequence[int]],
    tensor_of: Callable[[str], Tensor],
    dtype: torch.dtype,
    progress: Progress = lambda line: None,
) -> None:
    """Write the tensors of ``shapes`` and their index; ``tensor_of(key)`` is asked for one shard's keys at a time.

    Raises:
        ValueError: a value does not fit into ``dtype`` (float16 ends at 65504); the key is named.
    """
    item_bytes = torch.empty((), dtype=dtype).element_size()
    shards = _plan_shards(shapes, item_bytes)
    weight_map: dict[str, str] = {}
    for number, keys in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {key: _converted(key, tensor_of(key), dtype) for key in keys}
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(keys, name)
        progress(f"{name}: {len(keys)} tensors, {sum(t.nbytes for t in tensors.values()) / 1e6:.1f} MB")
    total = sum(math.prod(shape) for shape in shapes.values()) * item_bytes
    write_json(folder / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": weight_map})


def write_json(file: Path, content: Any) -> None:
    """JSON as people read it, with a line break at the end."""
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def complete_or_absent(folder: Path) -> Iterator[Path]:
    """A folder to write into that takes the name ``folder`` only when the block ends well.

    What was there before is replaced then, and stays as it was if the block fails or the process dies.
    """
    partial, old = folder.with_name(folder.name + ".partial"), folder.with_name(folder.name + ".old")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _converted(key: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    converted = tensor.detach().to("cpu", dtype, copy=True).contiguous()
    if not torch.isfinite(converted).all():
        raise ValueError(
            f"{key}: values up to {tensor.abs().max().item():.3g} do not fit into {dtype}, or are not finite; "
            "write the checkpoint as bfloat16 or float32"
        )
    return converted


def _plan_shards(shapes: Mapping[str, Sequence[int]], item_bytes: int) -> list[list[str]]:
    """Keys of each shard, in order; no shard above the release's shard size, at least three shards."""
    sizes = {key: math.prod(shape) * item_bytes for key, shape in shapes.items()}
    limit = min(_RELEASE_SHARD_BYTES, math.ceil(sum(sizes.values()) / _MIN_SHARDS))

    def split() -> Iterator[list[str]]:
        keys: list[str] = []
        filled = 0
        for key, size in sizes.items():
            if keys and filled + size > limit:
                yield keys
                keys, filled = [], 0
            keys.append(key)
            filled += size
        yield keys

    return list(split())
