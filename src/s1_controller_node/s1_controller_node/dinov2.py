"""DINOv2 vision transformer (ViT-S/14 by default): an image to one token per 14x14 patch.

The encoder of Depth Anything V2 small (arXiv 2304.07193, 2406.09414) and of every S1 variant:
`rgb_model` of NextDiT, `rgb_model` and `depth_model` of NavDP, and with 4, 6 or 7 input channels
the goal encoders of the standalone NavDP. Parameter names are those of the released checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The published models resize the position table by (patches + 0.1) / 37 per axis instead of to a
# target size; the offset was meant against rounding, but it changes the interpolated values.
_POSITION_OFFSET = 0.1


@dataclass(frozen=True)
class DinoV2Config:
    """Sizes of the encoder; the defaults are ViT-S/14 as released."""

    dim: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_ratio: int = 4
    patch_size: int = 14
    position_grid: int = 37  # side of the learned position table, in patches
    in_channels: int = 3

    def __post_init__(self) -> None:
        for name in ("dim", "depth", "num_heads", "mlp_ratio", "patch_size", "position_grid", "in_channels"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"DinoV2Config.{name} must be a positive integer, got {value!r}")
        if self.dim % self.num_heads:
            raise ValueError(f"DinoV2Config.dim must be a multiple of num_heads {self.num_heads}, got {self.dim}")


class LayerScale(nn.Module):
    """A learned scale per channel on a residual branch."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class PatchEmbed(nn.Module):
    """(B, C, H, W) -> (B, H/p * W/p, dim), rows of patches from top to bottom."""

    def __init__(self, config: DinoV2Config) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.in_channels, config.dim, config.patch_size, stride=config.patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Full self attention with one fused projection for queries, keys and values."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, dim = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.num_heads, dim // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, N, head_dim)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(batch, length, dim))


class Mlp(nn.Module):
    """Two linear layers with the exact (erf) GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block with layer scale on both branches."""

    def __init__(self, config: DinoV2Config) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=1e-6)
        self.attn = Attention(config.dim, config.num_heads)
        self.ls1 = LayerScale(config.dim)
        self.norm2 = nn.LayerNorm(config.dim, eps=1e-6)
        self.mlp = Mlp(config.dim, config.mlp_ratio * config.dim)
        self.ls2 = LayerScale(config.dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class DinoV2(nn.Module):
    """DINOv2 encoder giving the last block's patch tokens after the final norm, without class token."""

    def __init__(self, config: DinoV2Config | None = None) -> None:
        super().__init__()
        self.config = config = config or DinoV2Config()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.position_grid**2 + 1, config.dim))
        self.mask_token = nn.Parameter(torch.zeros(1, config.dim))  # in the checkpoint, used only in its pre-training
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self._fixed_positions: dict[tuple[int, int], Tensor] = {}
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def num_patches(self, height: int, width: int) -> int:
        """How many tokens an image of this size gives."""
        return (height // self.config.patch_size) * (width // self.config.patch_size)

    def positions(self, height: int, width: int) -> Tensor:
        """Position table resized for an image of (height, width) pixels: (1, 1 + patches, dim)."""
        grid, rows, columns = (
            self.config.position_grid,
            height // self.config.patch_size,
            width // self.config.patch_size,
        )
        if rows == columns == grid:
            return self.pos_embed
        table = self.pos_embed.float()
        patches = table[:, 1:].reshape(1, grid, grid, self.config.dim).permute(0, 3, 1, 2)
        scale = ((rows + _POSITION_OFFSET) / grid, (columns + _POSITION_OFFSET) / grid)
        patches = F.interpolate(patches, scale_factor=scale, mode="bicubic")
        patches = patches.permute(0, 2, 3, 1).reshape(1, rows * columns, self.config.dim)
        return torch.cat((table[:, :1], patches), dim=1).to(self.pos_embed.dtype)

    @torch.no_grad()
    def fix_input_size(self, height: int, width: int) -> None:
        """Keep the position table for images of this size (for inference: weights must not change after)."""
        self._check_size(height, width)
        self._fixed_positions = {(height, width): self.positions(height, width)}

    def forward(self, images: Tensor) -> Tensor:
        """Patch tokens (B, patches, dim) of normalised images (B, in_channels, H, W).

        Raises:
            ValueError: another rank, another channel count, or sides that are no multiple of the patch size.
        """
        if images.ndim != 4 or images.shape[1] != self.config.in_channels:
            raise ValueError(f"expected images (B, {self.config.in_channels}, H, W), got {tuple(images.shape)}")
        height, width = images.shape[-2:]
        self._check_size(height, width)
        x = self.patch_embed(images)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        fixed = self._fixed_positions.get((height, width))
        x = x + (self.positions(height, width) if fixed is None else fixed)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 1:]

    def _check_size(self, height: int, width: int) -> None:
        patch = self.config.patch_size
        if height < patch or width < patch or height % patch or width % patch:
            raise ValueError(f"image sides must be multiples of {patch}, got height {height} and width {width}")
