"""The whole System 1 of DualVLN: images and planner latents to the velocity of trajectory samples.

`system1: nextdit_async` looks at the goal frame and the current frame, `nextdit` at the planner's
latents alone. Parameter names are those of the released checkpoints below ``model.``.

Trajectories are (S, T, 3): S samples of T per-step increments (dx, dy, dyaw) in the robot frame of the
current camera frame (REP-103), dx and dy as metres times 4, dyaw in radians.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_shape
from .condition import MemoryEncoder, QFormer, cond_projector
from .dinov2 import DinoV2, DinoV2Config
from .nextdit import Condition, Modulations, NextDiT, NextDiTConfig

ACTION_DIM = 3  # dx, dy, dyaw
NUM_FRAMES = 2  # goal frame, current frame

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TransformerSizes:
    """Sizes of one small torch transformer."""

    num_layers: int
    num_heads: int
    ffn_dim: int


@dataclass(frozen=True)
class NextDiTModelConfig:
    """Sizes of the model; the defaults are those of the DualVLN release.

    In a checkpoint's ``config.json`` they are ``system1``, ``hidden_size``, ``n_query`` and, for other
    sizes than the release's, the other fields as one object ``system1_config``.
    """

    latent_dim: int = 3584
    n_query: int = 4
    uses_images: bool = True
    horizon: int = 32
    image_size: int = 224
    num_inference_steps: int = 10
    num_memory_tokens: int = 32
    dit: NextDiTConfig = field(default_factory=NextDiTConfig)
    vision: DinoV2Config = field(default_factory=DinoV2Config)
    memory_encoder: TransformerSizes = TransformerSizes(num_layers=3, num_heads=6, ffn_dim=2048)
    resampler: TransformerSizes = TransformerSizes(num_layers=3, num_heads=12, ffn_dim=2048)

    def __post_init__(self) -> None:
        for name in ("latent_dim", "n_query", "horizon", "image_size", "num_inference_steps", "num_memory_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"system1_config.{name} must be a positive integer, got {value!r}")
        if self.uses_images and self.dit.condition_dim != 2 * self.vision.dim:
            raise ValueError(
                f"system1_config.dit.condition_dim must be twice vision.dim {self.vision.dim} "
                f"(tokens and encoded tokens side by side), got {self.dit.condition_dim}"
            )
        if self.image_size % self.vision.patch_size:
            raise ValueError(
                f"system1_config.image_size must be a multiple of vision.patch_size {self.vision.patch_size}, "
                f"got {self.image_size}"
            )

    @classmethod
    def from_checkpoint(cls, config: Mapping[str, Any]) -> NextDiTModelConfig:
        """The sizes named in a checkpoint's ``config.json``.

        Raises:
            ValueError: ``system1`` is no NextDiT variant, or a field is missing, unknown or wrong.
        """
        system1 = config.get("system1")
        if system1 not in ("nextdit_async", "nextdit"):
            raise ValueError(f"config.json: system1 must be 'nextdit_async' or 'nextdit' here, got {system1!r}")
        for name in ("hidden_size", "n_query"):
            if name not in config:
                raise ValueError(f"config.json: {name!r} is missing; it is needed for system1 {system1!r}")
        sizes = dict(config.get("system1_config") or {})
        parts: dict[str, Any] = {
            "dit": NextDiTConfig,
            "vision": DinoV2Config,
            "memory_encoder": TransformerSizes,
            "resampler": TransformerSizes,
        }
        known = {f.name for f in fields(cls)} - {"latent_dim", "n_query", "uses_images"}
        if unknown := sorted(sizes.keys() - known):
            raise ValueError(f"config.json: system1_config has unknown fields {unknown}; known are {sorted(known)}")
        for name, part in parts.items():
            if name in sizes:
                try:
                    sizes[name] = part(**sizes[name])
                except TypeError as error:
                    raise ValueError(f"config.json: system1_config.{name}: {error}") from error
        return cls(
            latent_dim=config["hidden_size"],
            n_query=config["n_query"],
            uses_images=system1 == "nextdit_async",
            **sizes,
        )


def position_encoding(length: int, dim: int, device: torch.device | str = "cpu") -> Tensor:
    """Sinusoidal positions (length, dim), float32: all sines, then all cosines."""
    half = dim // 2
    frequency = torch.exp(torch.arange(half, device=device, dtype=torch.float32) * (-math.log(10000.0) / half))
    angle = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequency
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


class NextDiTModel(nn.Module):
    """Encoders, condition and denoiser; state-dict keys are the released ones below ``model.``."""

    def __init__(self, config: NextDiTModelConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NextDiTModelConfig()
        dim = config.dit.dim
        self.traj_dit = nn.ModuleDict({"model": NextDiT(config.dit)})  # released keys say traj_dit.model.*
        self.action_encoder = nn.Linear(ACTION_DIM, dim)
        self.action_decoder = nn.Linear(dim, ACTION_DIM)
        self.cond_projector = cond_projector(config.latent_dim, config.dit.condition_dim)
        if config.uses_images:
            patches = (config.image_size // config.vision.patch_size) ** 2
            encoder, resampler = config.memory_encoder, config.resampler
            self.rgb_model = DinoV2(config.vision)
            self.memory_encoder = MemoryEncoder(
                config.vision.dim, encoder.num_heads, encoder.num_layers, encoder.ffn_dim, NUM_FRAMES * patches
            )
            self.rgb_resampler = QFormer(
                config.dit.condition_dim,
                resampler.num_heads,
                resampler.num_layers,
                resampler.ffn_dim,
                config.num_memory_tokens,
            )

    @property
    def dit(self) -> NextDiT:
        return self.traj_dit["model"]

    @property
    def dtype(self) -> torch.dtype:
        return self.action_encoder.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.action_encoder.weight.device

    def encode_frames(self, images: Tensor) -> Tensor:
        """Patch tokens (B, patches, vision.dim) of RGB images (B, H, W, 3), uint8 or float in [0, 1]."""
        size = self.config.image_size
        check_shape("images", images.shape, (None, size, size, 3))
        images = images.to(self.device)
        images = images.float().div(255) if images.dtype == torch.uint8 else images.float()
        mean, std = images.new_tensor(IMAGENET_MEAN), images.new_tensor(IMAGENET_STD)
        return self.rgb_model(((images - mean) / std).permute(0, 3, 1, 2).to(self.dtype))

    def memory_tokens(self, goal_tokens: Tensor, current_tokens: Tensor) -> Tensor:
        """Patch tokens of goal and current frame, each (B, patches, dim), to (B, num_memory_tokens, 2 dim)."""
        tokens = torch.cat((goal_tokens, current_tokens), dim=1)
        return self.rgb_resampler(torch.cat((tokens, self.memory_encoder(tokens)), dim=-1))

    def project_latents(self, traj_latents: Tensor) -> Tensor:
        """``traj_latents`` (B, n_query, latent_dim) to condition tokens (B, n_query, condition_dim)."""
        check_shape("traj_latents", traj_latents.shape, (None, self.config.n_query, self.config.latent_dim))
        return self.cond_projector(traj_latents.to(self.device, self.dtype))

    def condition_tokens(
        self, projected_latents: Tensor, goal_tokens: Tensor | None = None, current_tokens: Tensor | None = None
    ) -> Tensor:
        """The condition (B, L, condition_dim): memory tokens, then the projected latents."""
        if not self.config.uses_images:
            return projected_latents
        if goal_tokens is None or current_tokens is None:
            raise ValueError("system1 'nextdit_async' needs the tokens of goal frame and current frame, got None")
        return torch.cat((self.memory_tokens(goal_tokens, current_tokens), projected_latents), dim=1)

    def embed_trajectories(self, x: Tensor) -> Tensor:
        """Noisy trajectories (..., T, 3) to tokens (..., T, dit.dim) with their positions."""
        encoder = self.action_encoder
        positions = position_encoding(x.shape[-2], self.config.dit.dim, x.device).to(self.dtype)
        return F.linear(x.to(self.dtype), encoder.weight) + (positions + encoder.bias)

    def velocity(self, x: Tensor, modulations: Modulations, condition: Condition) -> Tensor:
        """Velocity (G, S, T, 3) at noisy trajectories (G, S, T, 3), one time step, G conditions."""
        return self.action_decoder(self.dit.denoise(self.embed_trajectories(x), modulations, condition))

    def forward(self, x: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """Velocity (B, T, 3) with a time step (B,) and condition tokens (B, L, C) per trajectory, for training."""
        check_shape("x", x.shape, (None, None, ACTION_DIM))
        return self.action_decoder(self.dit(self.embed_trajectories(x), timesteps, tokens))
