"""Which parameters each mode trains (those of the releases), and the table that says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dual_nav_training.check_checkpoint import part_of
from dual_nav_training.modules import Mode, TrainingModule
from dual_nav_util.checkpoint import CheckpointError
from s1_controller_node.checkpoint import variant_of
from s2_planner_node.checkpoint import LATENT_QUERIES, NETWORK_PREFIXES

_NEXTDIT = (
    "model.action_encoder.",
    "model.action_decoder.",
    "model.traj_dit.",
    "model.cond_projector.",
)
_NEXTDIT_IMAGES = ("model.memory_encoder.", "model.rgb_resampler.", "model.rgb_model.")
_S1 = {
    "nextdit": _NEXTDIT,
    "nextdit_async": _NEXTDIT + _NEXTDIT_IMAGES,
    "navdp_async": ("model.navdp.",),
}
_NAVDP_RGB_ENCODERS = ("model.navdp.rgbd_encoder.rgb_model.", "rgbd_encoder.rgb_model.")  # frozen in every mode


def is_trained(mode: Mode, config: Mapping[str, Any], key: str) -> bool:
    """Whether a mode trains the parameter with that released key, for a checkpoint with that config.json."""
    if key.startswith(_NAVDP_RGB_ENCODERS):
        return False
    if mode == "s1_navdp":
        return True
    if mode == "s2":
        return key.startswith(NETWORK_PREFIXES)
    trained = (LATENT_QUERIES, *_S1[variant_of(config)])
    return key.startswith(trained) or (mode == "joint" and key.startswith(NETWORK_PREFIXES))


def choose_parameters(mode: Mode, config: Mapping[str, Any], module: TrainingModule) -> None:
    """Let gradients reach exactly the parameters that the mode trains."""
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(is_trained(mode, config, module.released_name(name)))


def add_adapters(module: TrainingModule, settings: Mapping[str, Any]) -> None:
    """Low-rank adapters on the planner's linear layers; they alone are trained from then on.

    Args:
        module: of mode ``s2``.
        settings: fields of peft's ``LoraConfig``.

    Raises:
        CheckpointError: no layer has a name that ``target_modules`` fits.
    """
    from peft import LoraConfig, inject_adapter_in_model

    module.requires_grad_(False)
    try:
        inject_adapter_in_model(LoraConfig(**settings), module.network)
    except ValueError as error:
        raise CheckpointError(f"lora: {error}") from error


def table(module: TrainingModule) -> str:
    """Parameters of every part of a module, and how many of them are trained, as lines of text."""
    rows: dict[str, list[int]] = {}
    for name, parameter in module.named_parameters():
        label = "adapters (LoRA)" if ".lora_" in name else part_of(module.released_name(name))
        row = rows.setdefault(label, [0, 0])
        row[0] += parameter.numel()
        row[1] += parameter.numel() if parameter.requires_grad else 0
    rows["all"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    lines = [f"{'part':<26}{'parameters':>15}{'trained':>15}"]
    lines += [f"{label:<26}{total:>15,}{trained:>15,}" for label, (total, trained) in rows.items()]
    return "\n".join(lines)
