"""S2 from a checkpoint folder of a release (or one written in its layout).

Releases use the key names and the flat config.json of transformers 4.51; the installed version names its modules
differently. Both are mapped here and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dual_nav_util.checkpoint import CheckpointError, CheckpointFolder, load_into, mismatches
from s2_planner_node.decoder import choose_attention
from s2_planner_node.model import S2Model
from s2_planner_node.prompt import PromptProtocol, load_template

MODEL_TYPE = "internvla_n1"
LATENT_QUERIES = "model.latent_queries"
NETWORK_PREFIXES = ("model.embed_tokens.", "model.layers.", "model.norm.", "lm_head.", "visual.")
PRECISIONS = ("auto", "float32", "bfloat16")

_TEXT_FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "rms_norm_eps", "rope_theta", "rope_scaling",
)  # fmt: skip
_TEXT_FIELDS_WITH_DEFAULT = (
    "hidden_act", "max_position_embeddings", "initializer_range", "tie_word_embeddings", "bos_token_id",
    "eos_token_id",
)  # fmt: skip
_TOKEN_FIELDS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
_VISION_FIELDS = (
    "depth", "hidden_size", "intermediate_size", "num_heads", "out_hidden_size", "patch_size", "spatial_merge_size",
    "temporal_patch_size", "window_size", "fullatt_block_indexes",
)  # fmt: skip
_VISION_FIELDS_WITH_DEFAULT = ("hidden_act", "in_channels", "tokens_per_second", "initializer_range")


def transformers_config(config: Mapping[str, Any]) -> Any:
    """The installed transformers' ``Qwen2_5_VLConfig`` from the contents of a release's config.json.

    Raises ``CheckpointError`` naming missing fields, or fields this project does not compute.
    """
    from transformers import Qwen2_5_VLConfig

    vision = config.get("vision_config")
    if not isinstance(vision, Mapping):
        raise CheckpointError(f"config.json: vision_config is {vision!r}, expected an object")
    missing = [name for name in (*_TEXT_FIELDS, *_TOKEN_FIELDS) if config.get(name) is None]
    missing += [f"vision_config.{name}" for name in _VISION_FIELDS if vision.get(name) is None]
    if missing:
        raise CheckpointError(f"config.json: {len(missing)} missing fields: {', '.join(missing[:5])}")
    if config.get("use_sliding_window"):
        raise CheckpointError("config.json: use_sliding_window is true, only full attention is supported")
    values = {
        name: config[name] for name in (*_TEXT_FIELDS, *_TEXT_FIELDS_WITH_DEFAULT, *_TOKEN_FIELDS) if name in config
    }
    values["rope_scaling"] = dict(values["rope_scaling"])  # transformers writes into it
    values["vision_config"] = {
        name: vision[name] for name in (*_VISION_FIELDS, *_VISION_FIELDS_WITH_DEFAULT) if name in vision
    }
    return Qwen2_5_VLConfig(**values)


def build_network(config: Mapping[str, Any], device: str = "meta") -> torch.nn.Module:
    """transformers' ``Qwen2_5_VLForConditionalGeneration`` for a release's config, in evaluation mode.

    On ``meta`` the parameters take no memory. The rotary tables, which no checkpoint holds, are always there, so
    that the network's own ``forward`` works once it has its parameters (training, tests).
    """
    from accelerate import init_empty_weights
    from transformers import Qwen2_5_VLForConditionalGeneration

    with init_empty_weights(include_buffers=False) if device == "meta" else torch.device(device):
        return Qwen2_5_VLForConditionalGeneration(transformers_config(config)).eval()


def installed_name(key: str, network: torch.nn.Module) -> str:
    """Name in the installed transformers version of a released key."""
    if hasattr(network.model, "language_model") and key.startswith("model."):
        return "model.language_model." + key.removeprefix("model.")
    if hasattr(network.model, "visual") and key.startswith("visual."):
        return "model." + key
    return key


def released_name(key: str, network: torch.nn.Module) -> str:
    """The opposite of ``installed_name``."""
    if hasattr(network.model, "language_model"):
        key = key.replace("model.language_model.", "model.", 1)
    return key.removeprefix("model.") if key.startswith("model.visual.") else key


def has_system1(config: Mapping[str, Any]) -> bool:
    """Whether a config.json belongs to a dual checkpoint; System2-only releases have no ``system1``."""
    return config.get("system1") not in (None, "", "none")


def expected_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Released key → shape of every tensor S2 reads from a checkpoint with this config.json."""
    network = build_network(config)
    shapes = {released_name(key, network): tuple(value.shape) for key, value in network.state_dict().items()}
    if config.get("tie_word_embeddings"):
        del shapes["lm_head.weight"]
    if has_system1(config):
        shapes[LATENT_QUERIES] = (1, int(config.get("n_query", 4)), int(config["hidden_size"]))
    return shapes


def choose_precision(requested: str, device: torch.device) -> torch.dtype:
    """``auto`` → bfloat16 on a GPU, float32 on a CPU."""
    if requested not in PRECISIONS:
        raise ValueError(f"precision is {requested!r}, expected one of {', '.join(PRECISIONS)}")
    if requested == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return getattr(torch, requested)


def load_model(
    folder: CheckpointFolder,
    *,
    device: str = "cpu",
    precision: str = "auto",
    attention: str = "auto",
    reuse_cache: bool = True,
) -> S2Model:
    """Build S2 and give it its tensors, reading no others; peak memory is that of the tensors themselves.

    Raises ``CheckpointError`` for another model type, missing or unexpected keys (first few and the count), wrong
    shapes, and a dual checkpoint without ``latent_queries``.
    """
    config = folder.config
    if config.get("model_type") != MODEL_TYPE:
        raise CheckpointError(
            f"{folder.path}: config.json says model_type {config.get('model_type')!r}, expected {MODEL_TYPE!r}"
        )
    target = torch.device(device)
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but this torch finds no CUDA device; use cpu")
    dtype = choose_precision(precision, target)
    chosen_attention = choose_attention(attention, target, dtype)

    keys = folder.select((*NETWORK_PREFIXES, LATENT_QUERIES))
    if has_system1(config) and LATENT_QUERIES not in keys:
        raise CheckpointError(
            f"{folder.path}: {LATENT_QUERIES} is missing although config.json names system1 "
            f"{config['system1']!r}. The dual system cannot work without it: the folder is incomplete, or a "
            "System2-only checkpoint with a foreign config.json (remove system1 to plan with pixel goals only)"
        )
    # Keys first: a checkpoint that does not fit fails before gigabytes are read.
    present = [key for key in keys if key != LATENT_QUERIES]
    expected = [key for key in expected_shapes(config) if key != LATENT_QUERIES]
    problems = mismatches(dict.fromkeys(expected, ()), dict.fromkeys(present, ()))
    if problems:
        raise CheckpointError(f"{folder.path} does not fit S2: " + "; ".join(problems))
    tensors = folder.load(keys, dtype=dtype, device=target)
    latent_queries = tensors.pop(LATENT_QUERIES, None)
    width = int(config["hidden_size"])
    if latent_queries is not None and (
        latent_queries.ndim != 3 or latent_queries.shape[0] != 1 or latent_queries.shape[2] != width
    ):
        raise CheckpointError(
            f"{folder.path}: {LATENT_QUERIES} has shape {tuple(latent_queries.shape)}, expected (1, n_query, {width})"
        )
    network = build_network(config)
    if config.get("tie_word_embeddings"):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    load_into(network, tensors, rename=lambda key: installed_name(key, network), where=str(folder.path))
    network.requires_grad_(False).to(target)  # the parameters are there, the rotary tables not yet

    end_token_ids, repetition_penalty = generation_settings(folder)
    return S2Model(
        network,
        latent_queries,
        end_token_ids=end_token_ids,
        repetition_penalty=repetition_penalty,
        attention=chosen_attention,
        reuse_cache=reuse_cache,
    )


def generation_settings(folder: CheckpointFolder) -> tuple[list[int], float]:
    """(end-of-turn token ids, repetition penalty), from generation_config.json, else config.json.

    Decoding is greedy whatever else generation_config.json says; the penalty it names is part of what greedy
    decoding in transformers computes, so it is kept.
    """
    settings = {**folder.config, **_read_json(folder.path / "generation_config.json")}
    end = settings.get("eos_token_id")
    end_token_ids = [end] if isinstance(end, int) else list(end or ())
    if not end_token_ids:
        raise CheckpointError(f"{folder.path}: neither generation_config.json nor config.json has an eos_token_id")
    penalty = float(settings.get("repetition_penalty") or 1.0)
    if not penalty > 0:
        raise CheckpointError(f"{folder.path}: repetition_penalty is {penalty}, expected a positive number")
    return end_token_ids, penalty


def load_protocol(folder: CheckpointFolder) -> PromptProtocol:
    """Template, chat format and tokenizer of a checkpoint folder."""
    from transformers import PreTrainedTokenizerFast

    file = folder.path / "tokenizer.json"
    if not file.is_file():
        raise CheckpointError(f"{folder.path}: tokenizer.json is missing, instructions cannot be tokenised")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file))
    image_token_id = folder.config.get("image_token_id")
    if not isinstance(image_token_id, int):
        raise CheckpointError(f"{folder.path}: config.json: image_token_id is {image_token_id!r}, expected a number")
    return PromptProtocol(load_template(folder.path), tokenizer, _chat_template(folder.path), image_token_id)


def _chat_template(folder: Path) -> str:
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        template = _read_json(folder / name).get("chat_template")
        if isinstance(template, str):
            return template
    raise CheckpointError(
        f"{folder}: no chat template in chat_template.jinja, chat_template.json or tokenizer_config.json"
    )


def _read_json(file: Path) -> dict[str, Any]:
    """Contents of an optional file; empty if there is none."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: expected a JSON object, got {type(content).__name__}")
    return content
