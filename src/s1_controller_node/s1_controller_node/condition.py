"""From images and planner latents to the condition tokens of the NextDiT denoiser.

goal frame, current frame --DINOv2--> patch tokens --MemoryEncoder, QFormer--> 32 memory tokens
traj_latents --cond_projector--> n_query tokens
condition = [memory tokens, projected latents]

Module and parameter names are those of the released checkpoints (``model.memory_encoder.``,
``model.rgb_resampler.``, ``model.cond_projector.``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .checks import check_shape


class MemoryEncoder(nn.Module):
    """Post-norm transformer encoder over the patch tokens of both frames, with learned positions."""

    def __init__(self, dim: int, num_heads: int, num_layers: int, ffn_dim: int, num_tokens: int) -> None:
        super().__init__()
        self.memory_pos = nn.Parameter(torch.randn(num_tokens, dim))
        layer = nn.TransformerEncoderLayer(dim, num_heads, ffn_dim, batch_first=True)
        # Nested tensors serve padding masks, which do not occur here.
        self.encoder = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, dim) to the same, N at most the number of positions."""
        positions, dim = self.memory_pos.shape
        if tokens.ndim != 3 or tokens.shape[1] > positions or tokens.shape[2] != dim:
            raise ValueError(f"tokens: expected (B, at most {positions}, {dim}), got {tuple(tokens.shape)}")
        return self.encoder(tokens + self.memory_pos[: tokens.shape[1]])


class QFormer(nn.Module):
    """Learned queries that read the memory through a post-norm transformer decoder."""

    def __init__(self, dim: int, num_heads: int, num_layers: int, ffn_dim: int, num_queries: int) -> None:
        super().__init__()
        self.query_tokens = nn.Parameter(torch.randn(num_queries, dim))
        self.query_pos = nn.Parameter(torch.randn(num_queries, dim))
        layer = nn.TransformerDecoderLayer(dim, num_heads, ffn_dim, batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, num_layers)
        self.visual_proj = nn.Linear(dim, dim)  # in every released checkpoint, never called

    def forward(self, memory: Tensor) -> Tensor:
        """(B, N, dim) memory to (B, num_queries, dim)."""
        check_shape("memory", memory.shape, (None, None, self.query_tokens.shape[1]))
        queries = (self.query_tokens + self.query_pos).expand(memory.shape[0], -1, -1)
        return self.decoder(queries, memory)


def cond_projector(latent_dim: int, dim: int) -> nn.Sequential:
    """``traj_latents`` (B, n_query, latent_dim) to condition tokens (B, n_query, dim)."""
    return nn.Sequential(nn.Linear(latent_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
