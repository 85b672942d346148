"""NavDP inside the dual system: ``traj_latents`` and two RGB-D frames to trajectories.

Checkpoint keys ``model.navdp.*``. Shapes and constants follow the InternVLA-N1 release
(``navdp_async``); see `NavDpConfig` for the sizes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .checks import check_tensor
from .navdp_core import LearnedPositions, NavDpCore, NavDpSizes, RgbdEncoder, decoder_layer

KEY_PREFIX = "model.navdp."


@dataclass(frozen=True)
class NavDpConfig(NavDpSizes):
    """Sizes of the dual system's NavDP; the defaults are the release's."""

    vlm_token_dim: int = 3584  # width of traj_latents: the planner's hidden size
    max_latents: int = 5000  # rows of the compressor's position tables

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vlm_token_dim < 8:
            raise ValueError(f"NavDpConfig.vlm_token_dim must be at least 8, got {self.vlm_token_dim}")


class _FixedSinusoids(nn.Module):
    """A sinusoid table that the release saves as a buffer and never uses."""

    def __init__(self, dim: int, length: int = 1000) -> None:
        super().__init__()
        positions = torch.arange(length, dtype=torch.float32)[:, None]
        rates = torch.exp(torch.arange(0, dim, 2, dtype=torch.float32) * (-math.log(10000.0) / dim))
        table = torch.stack((torch.sin(positions * rates), torch.cos(positions * rates)), dim=-1).flatten(1)
        self.register_buffer("pe", table)


class GoalCompressor(nn.Module):
    """Any number of goal tokens to one, by cross attention with a learned query."""

    def __init__(self, dim: int, heads: int, max_tokens: int) -> None:
        super().__init__()
        self.target_embedding = nn.Embedding(1, dim)
        self.positional_encoding = _FixedSinusoids(dim)  # in the checkpoint, not in the computation
        self.token_positional_encoding = LearnedPositions(max_tokens, dim)
        self.query_positional_encoding = LearnedPositions(max_tokens, dim)
        self.cross_attention = nn.MultiheadAttention(dim, heads, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, dim) -> (B, 1, dim)."""
        tokens = tokens + self.token_positional_encoding.weight[: tokens.shape[1]]
        query = self.target_embedding.weight + self.query_positional_encoding.weight[:1]
        query = query.expand(tokens.shape[0], -1, -1)
        return self.cross_attention(query, tokens, tokens, need_weights=False)[0]


class NavDp(NavDpCore):
    """The network with the release's parameters, used or not (``decoder_layer``, ``point_encoder``, ``pg_*``)."""

    def __init__(self, config: NavDpConfig | None = None, dropout: float = 0.1) -> None:
        config = config or NavDpConfig()
        super().__init__(config, goal_tokens=1, dropout=dropout)
        self.config = config
        dim, wide = config.token_dim, config.vlm_token_dim
        self.rgbd_encoder = RgbdEncoder(config, depth_frames=config.memory_size, table=nn.Embedding)
        self.cond_pos_embed = nn.Parameter(torch.zeros(1, 2 + config.rgbd_tokens, dim))
        self.out_pos_embed = nn.Parameter(torch.zeros(1, config.predict_size, dim))
        self.vlm_embed_mlp = nn.Sequential(
            nn.Linear(wide, wide // 4),
            nn.ReLU(),
            nn.Linear(wide // 4, wide // 8),
            nn.ReLU(),
            nn.Linear(wide // 8, dim),
        )
        self.goal_compressor = GoalCompressor(dim, config.heads, config.max_latents)
        # In the checkpoint, not in the computation:
        self.decoder_layer = decoder_layer(config, dropout)
        self.pg_embed_mlp = nn.Sequential(nn.Linear(2, dim // 2), nn.ReLU(), nn.Linear(dim // 2, dim))
        self.pg_pred_mlp = nn.Sequential(
            nn.Linear(dim, dim // 2), nn.ReLU(), nn.Linear(dim // 2, dim // 4), nn.ReLU(), nn.Linear(dim // 4, 2)
        )

    def memory_positions(self) -> Tensor:
        return self.cond_pos_embed[0]

    def step_positions(self) -> Tensor:
        return self.out_pos_embed[0]

    def project_latents(self, traj_latents: Tensor) -> Tensor:
        """(B, n_query, vlm_token_dim) -> (B, n_query, token_dim)."""
        check_tensor("traj_latents", traj_latents, (None, None, self.config.vlm_token_dim))
        if traj_latents.shape[1] > self.config.max_latents:
            raise ValueError(
                f"traj_latents: expected at most {self.config.max_latents} tokens, got {traj_latents.shape[1]}"
            )
        return self.vlm_embed_mlp(traj_latents.to(self.dtype))

    def goal_token(self, traj_latents: Tensor) -> Tensor:
        """The goal of the RGB-D path: (B, n_query, vlm_token_dim) -> (B, 1, token_dim)."""
        return self.goal_compressor(self.project_latents(traj_latents))

    def goal_token_without_images(self, traj_latents: Tensor) -> Tensor:
        """The goal of the path without images, the mean of the projected latents: -> (B, 1, token_dim)."""
        return self.project_latents(traj_latents).mean(dim=1, keepdim=True)

    def forward(
        self, actions: Tensor, timesteps: Tensor, traj_latents: Tensor, images: Tensor, depths: Tensor
    ) -> Tensor:
        """Predicted noise for a batch of noisy trajectories, differentiable.

        Args:
            actions: (B, predict_size, 3) noisy; timesteps: (B,) integers.
            traj_latents: (B, n_query, vlm_token_dim).
            images: (B, memory_size, H, W, 3) RGB in [0, 1]; depths: (B, memory_size, H, W) metres.

        Returns:
            (B, predict_size, 3).
        """
        rgbd = self.rgbd_encoder(images, depths)
        memory = self.memory(timesteps, self.goal_token(traj_latents), rgbd)
        return self.predict_noise(self.embed(actions), memory)
