"""Where the NavDP tests get their reference vectors, models and small configurations from."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest
import torch

from s1_controller_node.dinov2 import DinoV2Config
from s1_controller_node.navdp import NavDpConfig
from s1_controller_node.navdp_standalone import NavDpStandaloneConfig

REPO = Path(__file__).resolve().parents[3]
PARITY = Path(os.environ.get("NAV_SHARED_DIR", REPO.parent / "shared")) / "parity"
TINY_ENCODER = DinoV2Config(dim=24, depth=2, num_heads=3, position_grid=4)
TINY = NavDpConfig(
    image_size=42,
    predict_size=6,
    temporal_depth=2,
    heads=4,
    token_dim=32,
    ddpm_train_steps=5,
    former_heads=4,
    former_feed_forward=48,
    encoder=TINY_ENCODER,
    vlm_token_dim=40,
    max_latents=50,
)
TINY_STANDALONE = NavDpStandaloneConfig(
    image_size=42,
    memory_size=3,
    predict_size=6,
    temporal_depth=2,
    heads=4,
    token_dim=32,
    ddpm_train_steps=5,
    former_heads=4,
    former_feed_forward=48,
    encoder=TINY_ENCODER,
)


def require_vectors():
    """The vectors' own comparison module; the test is skipped, with the reason, where there are none."""
    if not (PARITY / "cases.json").is_file():
        pytest.skip(f"reference vectors not found at {PARITY}: set NAV_SHARED_DIR to the folder that holds parity/")
    if str(PARITY) not in sys.path:
        sys.path.insert(0, str(PARITY))
    return importlib.import_module("verify")


def fill(module: torch.nn.Module, prefix: str = "") -> torch.nn.Module:
    """Give every parameter the value that the vectors' rule derives from its checkpoint key."""
    require_vectors()
    importlib.import_module("deterministic_weights").fill_(module.state_dict(), prefix=prefix)
    return module


def tensors(case) -> dict[str, torch.Tensor]:
    """Inputs of a case as tensors: images in [0, 1], depth in metres with one trailing channel dropped."""
    converted = {}
    for name, value in case.inputs.items():
        if name.endswith("_u8"):
            converted[name.removesuffix("_u8")] = torch.from_numpy(value).float() / 255
        elif name.endswith("_mm_u16"):
            depth = torch.from_numpy(value.astype("float32")) / 1000
            converted[name.removesuffix("_mm_u16")] = depth[..., 0] if depth.shape[-1] == 1 else depth
        else:
            converted[name] = torch.from_numpy(value)
    return converted


def randomised(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """``model`` in evaluation mode with every parameter random, so that no term of the computation is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.5 if parameter.ndim <= 1 else parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()
