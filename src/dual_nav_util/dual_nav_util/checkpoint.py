"""Reading tensors out of a checkpoint folder, one process only what it owns.

A checkpoint is a folder with ``config.json`` and safetensors weights, sharded
(``model.safetensors.index.json``) or not (``model.safetensors``). NavDP and Depth Anything are
also published as a single torch file (``.pth``, ``.ckpt``, ``.pt``): those are read with
``weights_only=True`` and nothing else, so that loading a file never runs code from it.

The tensors of the other process are never read: safetensors are memory mapped, and only the
pages of the wanted tensors are touched.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
TORCH_SUFFIXES = (".pth", ".ckpt", ".pt")
_SEEN_BYTES = 1 << 22  # of a file with weights, at each end

# What a snapshot from the hub needs; Python files of a repository are never fetched, let alone run.
_HUB_PATTERNS = (
    "*.json",
    "*.safetensors",
    "*.txt",
    "*.jinja",
    "*.model",
    "LICENSE*",
    "README.md",
    "*.ckpt",
    "*.pth",
)
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
_NAMED_KEYS = 5  # how many keys an error message spells out before it gives the count


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged or does not fit the model; the message says what and where."""


def name_some(keys: Iterable[str], shown: int = _NAMED_KEYS) -> str:
    """The first few keys in order and the count: ``"a, b, … (7 in all)"``."""
    keys = sorted(keys)
    more = f", … ({len(keys)} in all)" if len(keys) > shown else ""
    return ", ".join(keys[:shown]) + more


class CheckpointFolder:
    """A checkpoint on disk: its config, its keys and shapes, and the tensors asked for.

    Args:
        path: a folder, a single weights file, or a hub id such as ``"owner/name"`` (used only when
            no such folder exists; fetched through ``huggingface_hub`` into its own cache).

    Raises:
        CheckpointError: the path does not exist, or holds no weights.
    """

    def __init__(self, path: str | Path) -> None:
        located = _locate(path)
        self.path = located.parent if located.is_file() else located
        self._torch_file: Path | None = None
        self._file_of_key: dict[str, Path] = {}

        if located.is_file():
            self._open_single(located)
        elif (located / INDEX_NAME).is_file():
            self._open_index(located / INDEX_NAME)
        elif (located / SINGLE_NAME).is_file():
            self._open_single(located / SINGLE_NAME)
        else:
            loose = sorted(p for p in located.iterdir() if p.suffix in (*TORCH_SUFFIXES, ".safetensors"))
            if len(loose) != 1:
                found = f"found {[p.name for p in loose]}" if loose else "found none"
                raise CheckpointError(
                    f"{located}: expected {INDEX_NAME}, {SINGLE_NAME} or exactly one weights file "
                    f"({', '.join(TORCH_SUFFIXES)}), {found}"
                )
            self._open_single(loose[0])

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.json`` as a dictionary; empty for a lone torch file that comes without one."""
        file = self.path / "config.json"
        if not file.is_file():
            if self._torch_file is not None:
                return {}
            raise CheckpointError(f"{self.path}: config.json is missing, so the model's sizes are unknown")
        config = _read_json(file)
        if not isinstance(config, dict):
            raise CheckpointError(f"{file}: expected a JSON object, got {type(config).__name__}")
        return config

    def keys(self) -> list[str]:
        """All keys of the checkpoint, in sorted order."""
        return sorted(self._file_of_key)

    def select(self, prefixes: Iterable[str]) -> list[str]:
        """The keys that start with any of ``prefixes``, in sorted order."""
        return [key for key in self.keys() if key.startswith(tuple(prefixes))]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Key -> shape, read from the file headers without reading a tensor."""
        if self._torch_file is not None:
            return {key: tuple(tensor.shape) for key, tensor in self._torch_tensors.items()}
        shapes: dict[str, tuple[int, ...]] = {}
        for file, keys in self._by_file(self.keys()).items():
            with _open_safetensors(file) as shard:
                self._require_in_shard(file, keys, shard.keys())
                shapes.update({key: tuple(shard.get_slice(key).get_shape()) for key in keys})
        return shapes

    def load(
        self,
        keys: Iterable[str] | None = None,
        *,
        prefixes: Iterable[str] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> dict[str, Tensor]:
        """Read the tensors named by ``keys`` or by ``prefixes``, and no others.

        Args:
            keys: exact keys; all of them must exist.
            prefixes: every key that starts with one of these; each prefix must match something.
            dtype: floating point tensors are converted to it (None: as stored).
            device: where the tensors end up.

        Returns:
            key -> tensor with memory of its own (the files may be replaced afterwards).

        Raises:
            CheckpointError: a key, a prefix or a shard is missing, or a file is damaged.
        """
        wanted = self._resolve(keys, prefixes)
        tensors: dict[str, Tensor] = {}
        if self._torch_file is not None:
            for key in wanted:
                tensors[key] = _converted(self._torch_tensors[key], dtype, device)
            return tensors
        for file, own in self._by_file(wanted).items():
            with _open_safetensors(file) as shard:
                self._require_in_shard(file, own, shard.keys())
                for key in own:
                    tensors[key] = _converted(shard.get_tensor(key), dtype, device)
        return tensors

    def licence_file(self) -> Path | None:
        """The licence that came with the checkpoint, if there is a file for it."""
        names = sorted(p for p in self.path.iterdir() if re.match(r"(?i)licen[cs]e", p.name))
        return names[0] if names else None

    @cached_property
    def _torch_tensors(self) -> dict[str, Tensor]:
        assert self._torch_file is not None
        return _read_torch_file(self._torch_file)

    def _open_single(self, file: Path) -> None:
        if file.suffix in TORCH_SUFFIXES:
            self._torch_file = file
            self._file_of_key = dict.fromkeys(self._torch_tensors, file)
            return
        if file.suffix != ".safetensors":
            raise CheckpointError(
                f"{file}: expected .safetensors or {', '.join(TORCH_SUFFIXES)}, got {file.suffix!r}"
            )
        with _open_safetensors(file) as shard:
            self._file_of_key = dict.fromkeys(shard.keys(), file)

    def _open_index(self, file: Path) -> None:
        index = _read_json(file)
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{file}: expected an object with a non-empty 'weight_map'")
        for key, name in weight_map.items():
            # A shard lies beside its index; a name that points elsewhere is not one of ours.
            if not isinstance(name, str) or Path(name).name != name:
                raise CheckpointError(f"{file}: shard of {key!r} must be a plain file name, got {name!r}")
            self._file_of_key[key] = file.parent / name

    def _resolve(self, keys: Iterable[str] | None, prefixes: Iterable[str] | None) -> list[str]:
        if (keys is None) == (prefixes is None):
            raise ValueError("load() takes either keys or prefixes, exactly one of them")
        if prefixes is not None:
            prefixes = tuple(prefixes)
            absent = [p for p in prefixes if not any(key.startswith(p) for key in self._file_of_key)]
            if absent:
                raise CheckpointError(f"{self.path}: no key starts with {name_some(absent)}")
            return self.select(prefixes)
        wanted = list(dict.fromkeys(keys or ()))
        absent = [key for key in wanted if key not in self._file_of_key]
        if absent:
            raise CheckpointError(f"{self.path}: {len(absent)} missing keys: {name_some(absent)}")
        return wanted

    def _by_file(self, keys: Iterable[str]) -> dict[Path, list[str]]:
        by_file: dict[Path, list[str]] = {}
        for key in keys:
            by_file.setdefault(self._file_of_key[key], []).append(key)
        for file, own in by_file.items():
            if not file.is_file():
                raise CheckpointError(
                    f"{self.path}: shard {file.name} with {len(own)} wanted keys is missing: {name_some(own)}"
                )
        return by_file

    def _require_in_shard(self, file: Path, wanted: Iterable[str], present: Iterable[str]) -> None:
        absent = set(wanted) - set(present)
        if absent:
            raise CheckpointError(f"{file}: lacks {len(absent)} keys that the index places here: {name_some(absent)}")


def load_into(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    prefix: str = "",
    rename: Callable[[str], str] | None = None,
    where: str = "checkpoint",
) -> None:
    """Give ``module`` exactly the tensors of ``tensors`` under ``prefix``.

    The module takes the tensors over without copying them, so it may have been built on the
    ``meta`` device; its parameters then have the tensors' dtype and device.

    Args:
        module: its ``state_dict`` keys, with ``prefix`` before them, are the expected keys.
        tensors: checkpoint key -> tensor; keys outside ``prefix`` are not looked at.
        prefix: e.g. ``"model.traj_dit."``.
        rename: maps a checkpoint key to the module's own name for it (with prefix), where they differ.
        where: named in errors.

    Raises:
        CheckpointError: missing or unexpected keys or wrong shapes, named (first few and the count).
    """
    given = {key: value for key, value in tensors.items() if key.startswith(prefix)}
    if rename is not None:
        given = {rename(key): value for key, value in given.items()}
    given = {key.removeprefix(prefix): value for key, value in given.items()}
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    problems = mismatches(expected, {key: tuple(value.shape) for key, value in given.items()}, prefix)
    if problems:
        raise CheckpointError(f"{where} does not fit {type(module).__name__}: " + "; ".join(problems))
    needs_grad = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    module.load_state_dict(given, strict=True, assign=True)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(needs_grad[name])


def mismatches(
    expected: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]], prefix: str = ""
) -> list[str]:
    """Sentences on missing keys, unexpected keys and differing shapes; empty when the two agree."""
    problems = []
    missing, unexpected = expected.keys() - given.keys(), given.keys() - expected.keys()
    if missing:
        problems.append(f"{len(missing)} missing keys: " + name_some(prefix + key for key in missing))
    if unexpected:
        problems.append(f"{len(unexpected)} unexpected keys: " + name_some(prefix + key for key in unexpected))
    wrong = [key for key in expected.keys() & given.keys() if tuple(expected[key]) != tuple(given[key])]
    if wrong:
        named = (f"{prefix}{key} expected {tuple(expected[key])}, got {tuple(given[key])}" for key in wrong)
        problems.append(f"{len(wrong)} wrong shapes: " + name_some(named))
    return problems


def _locate(path: str | Path) -> Path:
    local = Path(path).expanduser()
    if local.exists():
        return local
    if not _HUB_ID.match(str(path)):
        raise CheckpointError(f"{path}: no such folder or file, and not a hub id of the form owner/name")
    from huggingface_hub import snapshot_download  # imported late: a local folder needs no hub client

    try:
        return Path(snapshot_download(str(path), allow_patterns=list(_HUB_PATTERNS)))
    except Exception as error:  # the client raises many kinds; all mean that the checkpoint is not to be had
        raise CheckpointError(f"{path}: no such folder, and the hub did not give it: {error}") from error


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: not readable as JSON: {error}") from error


def _open_safetensors(file: Path):
    try:
        return safe_open(str(file), framework="pt", device="cpu")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: not a readable safetensors file: {error}") from error


def _read_torch_file(file: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # unpickling errors of many kinds, also for files that want to run code
        raise CheckpointError(f"{file}: not readable as plain weights (weights_only=True): {error}") from error
    # Trainers wrap the state dict; nothing else of the file is of interest.
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{file}: expected a dictionary of tensors")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _converted(tensor: Tensor, dtype: torch.dtype | None, device: torch.device | str) -> Tensor:
    # copy=True: the result must not keep the memory-mapped file alive.
    return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None, copy=True)


def weights_fingerprint(folder: Path) -> str:
    """Hash of size, begin and end of the files with weights in a checkpoint folder: reads little of large ones."""
    digest = hashlib.sha256()
    for path in sorted(p for p in Path(folder).iterdir() if p.suffix in (".safetensors", *TORCH_SUFFIXES)):
        size = path.stat().st_size
        with path.open("rb") as file:
            digest.update(f"{path.name} {size} ".encode() + file.read(_SEEN_BYTES))
            file.seek(max(0, size - _SEEN_BYTES))
            digest.update(file.read())
    return digest.hexdigest()[:16]
