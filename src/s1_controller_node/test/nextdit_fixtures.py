"""A NextDiT model small enough for tests that need no reference vectors."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from navdp_vectors import randomised

from s1_controller_node.dinov2 import DinoV2Config
from s1_controller_node.nextdit import NextDiTConfig
from s1_controller_node.nextdit_model import NextDiTModel, NextDiTModelConfig, TransformerSizes

TINY = NextDiTModelConfig(
    latent_dim=40,
    n_query=3,
    horizon=6,
    image_size=42,
    num_inference_steps=4,
    num_memory_tokens=5,
    dit=NextDiTConfig(dim=48, num_layers=3, num_heads=2, ffn_multiple_of=16, condition_dim=48),
    vision=DinoV2Config(dim=24, depth=2, num_heads=3, position_grid=4),
    memory_encoder=TransformerSizes(num_layers=2, num_heads=3, ffn_dim=32),
    resampler=TransformerSizes(num_layers=2, num_heads=4, ffn_dim=32),
)
# What a checkpoint's config.json says for these sizes.
TINY_JSON = {
    "model_type": "internvla_n1",
    "system1": "nextdit_async",
    "hidden_size": TINY.latent_dim,
    "n_query": TINY.n_query,
    "system1_config": {
        key: value
        for key, value in dataclasses.asdict(TINY).items()
        if key not in ("latent_dim", "n_query", "uses_images")
    },
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Operations this small gain nothing from a second core, and wait long for one that is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_model(**changes) -> NextDiTModel:
    """Random in every parameter, so that no term (gates start at zero) drops out of a comparison."""
    return randomised(NextDiTModel(dataclasses.replace(TINY, **changes)))


def tiny_inputs(seed: int = 1):
    """Latents (1, n_query, D), images (1, 2, H, W, 3) in [0, 1] and noise (7, T, 3)."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(1, TINY.n_query, TINY.latent_dim, generator=generator)
    images = torch.rand(1, 2, TINY.image_size, TINY.image_size, 3, generator=generator)
    return latents, images, torch.randn(7, TINY.horizon, 3, generator=generator)
