"""The small planner's network as it is trained: transformers' Qwen2.5-VL, computed in batches for small images.

Weights and names are transformers'; the computation is written out because on a CPU it is twice as fast that way: all
images have one size, attention is a plain product of matrices, and hidden states between layers are at hand for the
training's own heads. A test compares it with what the planner node computes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dual_nav_training.random_checkpoint import s2_config
from dual_nav_training.small.language import VOCABULARY
from dual_nav_training.small.views import CELL
from s2_planner_node.checkpoint import build_network
from s2_planner_node.image_processor import ImageProcessor

SCALE = 0.3  # standard deviation of token embeddings and image features alike at the start
EARLY, LATE = 2, -2  # layers before which the training looks into the language model
_PATCH = 14


def small_config(
    hidden: int = 256,
    layers: int = 5,
    heads: int = 4,
    key_value_heads: int = 2,
    feed_forward: int = 704,
    vision_hidden: int = 192,
    vision_layers: int = 4,
    vision_heads: int = 6,
    vision_feed_forward: int = 512,
) -> dict[str, Any]:
    """config.json of a small planner with latent queries; its system1 is added with S1's sizes.

    Rotary frequencies fall to a thousandth only, and most are the columns'. The first of them tell the cells of a
    row apart, which those of the release hardly do; the last are so slow that a word finds the cells that look like
    it however far off in the sequence they are.
    """
    config = s2_config(
        hidden_size=hidden,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        vocab_size=VOCABULARY,
        max_position_embeddings=16384,
        mrope_section=[2, 4, 26],
        vision={
            "depth": vision_layers,
            "hidden_size": vision_hidden,
            "intermediate_size": vision_feed_forward,
            "num_heads": vision_heads,
            "fullatt_block_indexes": list(range(vision_layers)),
        },
    )
    return config | {"rope_theta": 1000.0, "n_query": 4}


@dataclass(frozen=True)
class Decoded:
    """What the language model computed for (B, L) tokens.

    hidden: (B, L, D) after the final norm. early, late: (B, L, D) before the layers EARLY and LATE. attention: (N, n,
    H, L) logits of layer LATE, of one group of heads, from the places asked for.
    """

    hidden: Tensor
    early: Tensor
    late: Tensor
    attention: Tensor


class SmallPlanner(nn.Module):
    """The network and its latent queries; `config` as from `small_config`."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.network = build_network(config, "cpu")
        self.latent_queries = nn.Parameter(SCALE * torch.randn(1, config["n_query"], config["hidden_size"]))
        self._initialise()
        processor = ImageProcessor()
        self.register_buffer("_mean", torch.tensor(processor.image_mean), persistent=False)
        self.register_buffer("_std", torch.tensor(processor.image_std), persistent=False)

    @property
    def text(self) -> nn.Module:
        return self.network.model.language_model

    @property
    def visual(self) -> nn.Module:
        return self.network.model.visual

    @property
    def embeddings(self) -> Tensor:
        """(vocabulary, D) token embeddings."""
        return self.text.embed_tokens.weight

    @torch.no_grad()
    def _initialise(self) -> None:
        """Matrices of unit gain, and image features on the scale of the words.

        With the usual start (0.02 everywhere) image features are many times larger than words, and words go unheard.
        """
        for name, parameter in self.network.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim >= 2:
                writes_to_stream = name.endswith(("o_proj.weight", "down_proj.weight", "attn.proj.weight"))
                gain = 0.5 if writes_to_stream else 1.0
                parameter.normal_(0, gain / math.sqrt(parameter[0].numel()))
        self.embeddings.normal_(0, SCALE)
        self.network.lm_head.weight.normal_(0, 0.1 * SCALE)
        # Where attention is trained, alike finds alike from the start: queries are drawn as the keys are.
        finds = self.text.layers[LATE].self_attn
        size = finds.head_dim
        for head in range(finds.num_key_value_groups):
            finds.q_proj.weight[head * size : (head + 1) * size] = finds.k_proj.weight[:size]
        last = self.visual.merger.mlp[2].weight
        last.normal_(0, 1.5 * SCALE / math.sqrt(last.shape[1]))

    def encode(self, images: Tensor) -> Tensor:
        """uint8 images (B, H, W, 3), sides multiples of CELL, to features (B, cells, D) in reading order."""
        count, height, width, _ = images.shape
        rows, columns = height // CELL, width // CELL
        visual, side = self.visual, CELL // _PATCH
        pixels = (images.float() / 255 - self._mean) / self._std
        cells = pixels.view(count, rows, side, _PATCH, columns, side, _PATCH, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
        patches = cells.reshape(count, -1, 3, 1, _PATCH * _PATCH).expand(-1, -1, -1, 2, -1)
        x = F.linear(patches.reshape(count, patches.shape[1], -1), visual.patch_embed.proj.weight.flatten(1))
        heads = visual.config.num_heads
        size = x.shape[-1] // heads
        rotation = _vision_rotation(rows, columns, side, size, x)
        for block in visual.blocks:
            qkv = block.attn.qkv(_norm(x, block.norm1)).view(count, -1, 3, heads, size)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            mixed = _attention_logits(_rotated(q, rotation), _rotated(k, rotation)).softmax(-1) @ v
            x = x + block.attn.proj(mixed.transpose(1, 2).flatten(2))
            x = x + block.mlp(_norm(x, block.norm2))
        return visual.merger.mlp(_norm(x, visual.merger.ln_q).view(count, rows * columns, -1))

    def decode(self, embeddings: Tensor, positions: Tensor, mask: Tensor, row: Tensor, asked: Tensor) -> Decoded:
        """Run the language model.

        Args:
            embeddings: (B, L, D).
            positions: (B, 3, L) rotary positions.
            mask: bool (B, L, L), which tokens (last axis) each token attends to.
            row, asked: (N,) and (N, n), rows and places of the tokens whose attention is wanted.
        """
        config = self.text.config
        groups, size = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
        per_group = config.num_attention_heads // groups
        count, length, width = embeddings.shape
        x = embeddings
        rotation = self._rotation(positions, size, x)
        bias = torch.zeros_like(mask, dtype=x.dtype).masked_fill(~mask, -math.inf)
        early = late = attention = x
        layers = len(self.text.layers)
        for number, layer in enumerate(self.text.layers):
            if number == EARLY % layers:
                early = x
            y, own = _norm(x, layer.input_layernorm), layer.self_attn
            q, k, v = (
                projection(y).view(count, length, -1, size).transpose(1, 2)
                for projection in (own.q_proj, own.k_proj, own.v_proj)
            )
            q, k = _rotated(q, rotation), _rotated(k, rotation)
            if number == LATE % layers:
                late = x
                chosen = q[:, :per_group].transpose(1, 2)[row[:, None], asked]
                keys = k[row, 0]
                attention = _attention_logits(chosen.flatten(1, 2), keys).view(*asked.shape, per_group, length)
                attention = attention.float() + bias[row[:, None], asked][:, :, None].float()
            # All heads that share keys in one product.
            logits = _attention_logits(q.reshape(count, groups, per_group * length, size), k)
            logits = logits.view(count, groups, per_group, length, length) + bias[:, None, None]
            mixed = logits.softmax(-1).view(count, groups, per_group * length, length) @ v
            mixed = mixed.view(count, groups * per_group, length, size).transpose(1, 2).reshape(count, length, width)
            x = x + own.o_proj(mixed)
            x = x + layer.mlp(_norm(x, layer.post_attention_layernorm))
        return Decoded(_norm(x, self.text.norm), early, late, attention)

    def _rotation(self, positions: Tensor, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos, sin (Q, 1, L, size): each section of the frequencies turns with one of the three axes."""
        exponents = torch.arange(0, size, 2, device=positions.device) / size
        angles = positions.transpose(1, 2)[..., None] * self.config["rope_theta"] ** -exponents
        sections = self.config["rope_scaling"]["mrope_section"]
        parts = [part[:, :, axis] for axis, part in enumerate(angles.split(sections, -1))]
        angles = torch.cat([*parts, *parts], -1)[:, None]
        return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def _vision_rotation(rows: int, columns: int, side: int, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos, sin (patches, size) of the patches cell by cell: half turns with the row, half with the column."""
    place = torch.stack(torch.meshgrid(torch.arange(rows * side), torch.arange(columns * side), indexing="ij"), -1)
    place = place.view(rows, side, columns, side, 2).transpose(1, 2).reshape(-1, 2, 1)
    frequencies = 10000.0 ** -(torch.arange(0, size // 2, 2) / (size // 2))
    angles = (place * frequencies).flatten(1)
    angles = torch.cat([angles, angles], -1).to(like.device)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def _rotated(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotation
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def _attention_logits(q: Tensor, k: Tensor) -> Tensor:
    return (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)


def _norm(x: Tensor, module: nn.Module) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), module.weight.to(x.dtype), module.variance_epsilon)
