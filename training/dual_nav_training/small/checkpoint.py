"""The small planner as a checkpoint folder in the released layout, with an S1 that has yet to be trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from dual_nav_training.checkpoint_writer import complete_or_absent, write_json, write_weights
from dual_nav_training.random_checkpoint import (
    preprocessor_config,
    random_tensor,
    tensor_shapes,
    tokenizer_config,
)
from dual_nav_training.small.language import CHAT_TEMPLATE, TEMPLATE
from dual_nav_training.small.network import SmallPlanner
from dual_nav_training.small.views import MAX_PIXELS
from dual_nav_util.checkpoint import CheckpointFolder, load_into
from s2_planner_node.checkpoint import LATENT_QUERIES, NETWORK_PREFIXES, installed_name, released_name
from s2_planner_node.prompt import TEMPLATE_FILE

# S1's sizes, a tenth of the release's. Images of 112 pixels: 64 patches.
SYSTEM1_SIZES: dict[str, dict[str, Any]] = {
    "nextdit_async": {
        "image_size": 112,
        "num_memory_tokens": 16,
        "dit": {"dim": 128, "num_layers": 4, "num_heads": 4, "ffn_multiple_of": 64, "condition_dim": 256},
        "vision": {"dim": 128, "depth": 4, "num_heads": 4},
        "memory_encoder": {"num_layers": 1, "num_heads": 4, "ffn_dim": 256},
        "resampler": {"num_layers": 1, "num_heads": 4, "ffn_dim": 512},
    },
    "navdp_async": {
        "image_size": 112,
        "temporal_depth": 4,
        "heads": 4,
        "token_dim": 128,
        "former_heads": 4,
        "former_layers": 1,
        "former_feed_forward": 256,
        "encoder": {"dim": 128, "depth": 4, "num_heads": 4},
    },
}


def dual_config(config: Mapping[str, Any], system1: str) -> dict[str, Any]:
    """A small planner's config.json with the small S1 of this variant."""
    return {**config, "system1": system1, "system1_config": SYSTEM1_SIZES[system1]}


def planner_tensors(planner: SmallPlanner) -> dict[str, Tensor]:
    """Released key → tensor of all that the planner node reads."""
    state = planner.network.state_dict()
    tensors = {released_name(key, planner.network): value for key, value in state.items()}
    return tensors | {LATENT_QUERIES: planner.latent_queries.detach()}


def load_planner_tensors(planner: SmallPlanner, checkpoint: CheckpointFolder) -> None:
    """Take over what `planner_tensors` gave, from a checkpoint folder. CheckpointError for one of another size."""
    network = planner.network
    tensors = checkpoint.load(checkpoint.select(NETWORK_PREFIXES), dtype=torch.float32)
    load_into(network, tensors, rename=lambda key: installed_name(key, network), where=str(checkpoint.path))
    planner.latent_queries.data = checkpoint.load([LATENT_QUERIES], dtype=torch.float32)[LATENT_QUERIES]


def write_small_checkpoint(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    *,
    seed: int = 0,
    precision: str = "float32",
) -> Path:
    """Write everything a checkpoint folder has; tensors that are not given (S1's) are drawn with `seed`.

    config: as from `dual_config`. tensors: as from `planner_tensors`.
    """
    with complete_or_absent(folder) as partial:
        shapes = tensor_shapes(config)
        write_weights(
            partial,
            shapes,
            lambda key: tensors[key] if key in tensors else random_tensor(key, shapes[key], seed),
            getattr(torch, precision),
        )
        write_json(partial / "config.json", {**config, "torch_dtype": precision})
        tokenizer.save(str(partial / "tokenizer.json"))
        write_json(partial / "tokenizer_config.json", tokenizer_config(CHAT_TEMPLATE))
        write_json(partial / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
        write_json(partial / TEMPLATE_FILE, asdict(TEMPLATE))
        write_json(partial / "preprocessor_config.json", preprocessor_config(config, MAX_PIXELS))
        ids = {name: config[name] for name in ("bos_token_id", "eos_token_id")}
        write_json(partial / "generation_config.json", {**ids, "do_sample": False})
    return folder
