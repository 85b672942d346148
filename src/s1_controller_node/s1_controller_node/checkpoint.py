"""System 1 from a checkpoint folder: which variant it holds, and a model with exactly its tensors.

A dual-system checkpoint (``model_type: internvla_n1``) names its variant in ``system1``; S1's tensors lie
under ``model.`` beside those of the planner, of which nothing is read. A standalone NavDP checkpoint
(``model_type: navdp``, or a lone ``.ckpt`` without config.json) is S1 and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from torch import nn

from dual_nav_util.checkpoint import CheckpointError, CheckpointFolder, load_into

from .navdp import NavDp, NavDpConfig
from .navdp_standalone import NavDpStandalone, NavDpStandaloneConfig, sizes_of_weights
from .nextdit_model import NextDiTModel, NextDiTModelConfig

Variant = Literal["nextdit_async", "nextdit", "navdp_async", "navdp_standalone"]

_DUAL_VARIANTS = ("nextdit_async", "nextdit", "navdp_async")


def variant_of(config: Mapping[str, Any]) -> Variant:
    """The S1 variant that a checkpoint's config.json describes.

    Raises:
        CheckpointError: the config names no System 1, or one that this project does not know.
    """
    model_type = config.get("model_type", "navdp" if not config else None)
    if model_type == "navdp":
        return "navdp_standalone"
    if model_type != "internvla_n1":
        raise CheckpointError(f"config.json: model_type must be 'internvla_n1' or 'navdp', got {model_type!r}")
    system1 = config.get("system1")
    if system1 in _DUAL_VARIANTS:
        return cast(Variant, system1)
    hint = "; a System2 checkpoint needs S1 from another folder" if system1 in (None, "", "none") else ""
    raise CheckpointError(f"config.json: system1 must be one of {', '.join(_DUAL_VARIANTS)}, got {system1!r}{hint}")


def build_model(config: Mapping[str, Any], device: str = "meta") -> nn.Module:
    """The model that a config.json describes, in evaluation mode; on ``meta`` it takes no memory.

    Raises:
        CheckpointError: a field is missing, unknown or out of range; it is named.
    """
    variant = variant_of(config)
    sizes = dict(config.get("system1_config") or {})
    try:
        with torch.device(device):
            if variant == "navdp_standalone":
                return NavDpStandalone(NavDpStandaloneConfig.from_dict(sizes)).eval()
            if variant == "navdp_async":
                sizes["vlm_token_dim"] = config["hidden_size"]
                return NavDp(NavDpConfig.from_dict(sizes)).eval()
            return NextDiTModel(NextDiTModelConfig.from_checkpoint(config)).eval()
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"config.json does not describe a {variant} model: {error}") from error


def key_prefix(config: Mapping[str, Any]) -> str:
    """What stands before the model's own parameter names in the checkpoint."""
    return {"navdp_standalone": "", "navdp_async": "model.navdp."}.get(variant_of(config), "model.")


def expected_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Released key -> shape of every tensor S1 reads from a checkpoint with this config.json."""
    prefix, model = key_prefix(config), build_model(config)
    return {prefix + key: tuple(value.shape) for key, value in model.state_dict().items()}


def own_prefixes(config: Mapping[str, Any]) -> list[str]:
    """The key prefixes under which everything belongs to S1: a tensor there that the model lacks is an error."""
    variant = variant_of(config)
    if variant == "navdp_standalone":
        return [""]
    if variant == "navdp_async":
        return ["model.navdp."]
    return [f"model.{name}." for name, _ in build_model(config).named_children()]


def load_model(
    folder: CheckpointFolder, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> nn.Module:
    """S1 of a checkpoint, in evaluation mode, without gradients; only its own tensors are read.

    Raises:
        CheckpointError: missing or unexpected keys, wrong shapes, a missing shard, or a config that does
            not describe a System 1; what is wrong is named.
    """
    config = described(folder)
    model = build_model(config)
    tensors = folder.load(folder.select(own_prefixes(config)), dtype=dtype, device=device)
    load_into(model, tensors, prefix=key_prefix(config), where=str(folder.path))
    return model.requires_grad_(False)


def described(folder: CheckpointFolder) -> dict[str, Any]:
    """The folder's config; for a lone NavDP weights file without one, what its tensors' shapes say."""
    if folder.config:
        return folder.config
    return {"model_type": "navdp", "system1_config": sizes_of_weights(folder.shapes())}
