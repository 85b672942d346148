"""NextDiT trajectory denoiser: the velocity of noisy trajectory tokens, given a condition.

The transformer of DualVLN (arXiv 2512.08186): Lumina-Next blocks (arXiv 2406.18583) without rotary
embedding, with gated cross attention to the condition tokens and modulation by time step and pooled
condition. Parameter names are those of the released checkpoints under ``model.traj_dit.model.``.

Shapes: G conditions, each shared by S trajectories of T tokens of width d; L condition tokens.
Sampling has G = 1 (or 2 with classifier-free guidance) and S = 32; training has G = batch and S = 1.
Everything that the S trajectories and the steps of one condition share, keys and values of the cross
attention, the pooled embedding and the modulations of all time steps, is computed once per condition
by :meth:`NextDiT.condition` and :meth:`NextDiT.modulations` and handed to :meth:`NextDiT.denoise`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_shape

_TIME_FREQUENCIES = 256  # width of the sinusoid of a time step, fixed in the published model
_QK_NORM_EPS = 1e-5
_FINAL_NORM_EPS = 1e-6


@dataclass(frozen=True)
class NextDiTConfig:
    """Sizes of the denoiser; the defaults are those of the DualVLN release."""

    dim: int = 384
    num_layers: int = 12
    num_heads: int = 6
    ffn_multiple_of: int = 256
    norm_eps: float = 1e-5
    condition_dim: int = 768

    def __post_init__(self) -> None:
        for name in ("dim", "num_layers", "num_heads", "ffn_multiple_of", "condition_dim"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"NextDiTConfig.{name} must be a positive integer, got {value!r}")
        if self.dim % self.num_heads:
            raise ValueError(f"NextDiTConfig.dim must be a multiple of num_heads {self.num_heads}, got {self.dim}")

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @property
    def ffn_dim(self) -> int:
        """Hidden width of the gated feed-forward: 8/3 of dim, rounded up to ``ffn_multiple_of``."""
        return self.ffn_multiple_of * math.ceil(int(8 * self.dim / 3) / self.ffn_multiple_of)


@dataclass(frozen=True)
class Condition:
    """What the denoiser needs of G conditions, for every trajectory and every time step.

    Attributes:
        pooled: (G, d) embedding of the mean condition token, added to the time embedding.
        keys: per layer (G, heads, L, head_dim), normalised.
        values: per layer (G, heads, L, head_dim), already scaled by the layer's gate.
    """

    pooled: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def num_tokens(self) -> int:
        return self.keys[0].shape[2]

    def tensors(self) -> list[Tensor]:
        return [self.pooled, *self.keys, *self.values]

    @staticmethod
    def stack(conditions: Sequence[Condition]) -> Condition:
        """Several conditions of equal length as one with a larger G."""
        layers = range(len(conditions[0].keys))
        return Condition(
            torch.cat([c.pooled for c in conditions]),
            tuple(torch.cat([c.keys[i] for c in conditions]) for i in layers),
            tuple(torch.cat([c.values[i] for c in conditions]) for i in layers),
        )

    def expand_tokens(self, length: int) -> Condition:
        """A condition of one token repeated to ``length`` equal tokens (their attention is the same)."""
        return Condition(
            self.pooled,
            tuple(k.expand(-1, -1, length, -1) for k in self.keys),
            tuple(v.expand(-1, -1, length, -1) for v in self.values),
        )


@dataclass(frozen=True)
class Modulations:
    """Scales that depend on time step and pooled condition only, norm weights multiplied in.

    Attributes:
        layers: per layer (..., G, 4, d): scale before attention, gate after attention, scale before
            feed-forward, gate after feed-forward.
        final: (..., G, d) scale before the last projection.

    The leading dimensions are those of the time steps, so all steps of a schedule are one batch.
    """

    layers: tuple[Tensor, ...]
    final: Tensor

    def tensors(self) -> list[Tensor]:
        return [*self.layers, self.final]

    def steps(self) -> Iterator[Modulations]:
        """The modulations of one time step after the other."""
        for step in range(self.final.shape[0]):
            yield Modulations(tuple(layer[step] for layer in self.layers), self.final[step])


class CaptionProjection(nn.Module):
    """Condition tokens to the denoiser's width: Linear, GELU (tanh), Linear."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_dim, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(tokens), approximate="tanh"))


class PatchEmbedder(nn.Module):
    """In every released checkpoint, never called: trajectories arrive already embedded."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, dim)


class TimestepEmbedder(nn.Module):
    """Time steps of any shape (float or integer, 0..1000) to (..., d)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(_TIME_FREQUENCIES, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, timesteps: Tensor) -> Tensor:
        half = _TIME_FREQUENCIES // 2
        index = torch.arange(half, dtype=torch.float32, device=timesteps.device)
        angle = timesteps.float().unsqueeze(-1) * torch.exp(index * (-math.log(10000.0) / half))
        frequencies = torch.cat((angle.cos(), angle.sin()), dim=-1).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(frequencies)))


class TimeCaptionEmbed(nn.Module):
    """Time step plus mean condition token, the vector that modulates every block."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedder(dim)
        self.caption_embedder = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))

    def pool(self, caption: Tensor) -> Tensor:
        """(G, L, d) projected condition tokens to (G, d)."""
        return self.caption_embedder(caption.mean(dim=1))

    def forward(self, timesteps: Tensor, caption: Tensor) -> Tensor:
        """(G,) time steps and (G, L, d) projected condition tokens to (G, d)."""
        return self.timestep_embedder(timesteps) + self.pool(caption)


class Attention(nn.Module):
    """Projections of one attention; queries and keys are normalised over all heads together."""

    def __init__(self, config: NextDiTConfig, *, with_output: bool) -> None:
        super().__init__()
        dim = config.dim
        self.num_heads = config.num_heads
        self.norm_q = nn.LayerNorm(dim, eps=_QK_NORM_EPS)
        self.norm_k = nn.LayerNorm(dim, eps=_QK_NORM_EPS)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(dim, dim, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)
        if with_output:  # a list because of the released key ``to_out.0.weight``
            self.to_out = nn.ModuleList([nn.Linear(dim, dim, bias=False)])

    def _heads(self, x: Tensor) -> Tensor:
        """(B, N, d) -> (B, heads, N, head_dim)"""
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)

    def queries(self, x: Tensor) -> Tensor:
        return self._heads(self.norm_q(self.to_q(x)))

    def keys(self, x: Tensor) -> Tensor:
        return self._heads(self.norm_k(self.to_k(x)))

    def values(self, x: Tensor) -> Tensor:
        return self._heads(self.to_v(x))

    @staticmethod
    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention result as (B, N, d)."""
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class GatedFeedForward(nn.Module):
    """SwiGLU: linear_2(silu(linear_1(x)) * linear_3(x))."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(dim, hidden, bias=False)
        self.linear_2 = nn.Linear(hidden, dim, bias=False)
        self.linear_3 = nn.Linear(dim, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)) * self.linear_3(x))


class RMSNorm(nn.Module):
    """The weight of a root-mean-square norm; where and with which scale it is applied is the block's matter."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def normalise(self, x: Tensor) -> Tensor:
        """Without the weight."""
        return F.rms_norm(x, x.shape[-1:], None, self.eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)


class ModulatedNorm(nn.Module):
    """First norm of a block together with the projection that makes the block's four modulations."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 4 * dim)
        self.norm = RMSNorm(dim, eps)


class NextDiTBlock(nn.Module):
    """Self attention and gated cross attention side by side, then a gated feed-forward."""

    def __init__(self, config: NextDiTConfig) -> None:
        super().__init__()
        dim, eps = config.dim, config.norm_eps
        self.gate = nn.Parameter(torch.zeros(config.num_heads))
        self.attn1 = Attention(config, with_output=False)
        self.attn2 = Attention(config, with_output=True)
        self.feed_forward = GatedFeedForward(dim, config.ffn_dim)
        self.norm1 = ModulatedNorm(dim, eps)
        self.ffn_norm1 = RMSNorm(dim, eps)
        self.norm2 = RMSNorm(dim, eps)
        self.ffn_norm2 = RMSNorm(dim, eps)
        self.norm1_context = RMSNorm(dim, eps)

    def condition(self, caption: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and gated values of the cross attention, each (G, heads, L, head_dim)."""
        context = self.norm1_context(caption)
        # The gate multiplies the attention's result per head, which is linear in the values.
        return self.attn2.keys(context), self.attn2.values(context) * self.gate.tanh().view(1, -1, 1, 1)

    def modulation(self, embedding: Tensor) -> Tensor:
        """(..., d) time and condition embedding after SiLU to (..., 4, d), norm weights multiplied in."""
        scale_attn, gate_attn, scale_ffn, gate_ffn = self.norm1.linear(embedding).chunk(4, dim=-1)
        return torch.stack(
            (
                (1 + scale_attn) * self.norm1.norm.weight,
                gate_attn.tanh() * self.norm2.weight,
                (1 + scale_ffn) * self.ffn_norm1.weight,
                gate_ffn.tanh() * self.ffn_norm2.weight,
            ),
            dim=-2,
        )

    def forward(self, x: Tensor, modulation: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(G, S, T, d) to the same; modulation (G, 4, d), keys and values (G, heads, L, head_dim)."""
        groups, samples, length, dim = x.shape
        scale_attn, gate_attn, scale_ffn, gate_ffn = modulation[:, :, None, None, :].unbind(1)

        normed = self.norm1.norm.normalise(x) * scale_attn
        own = normed.view(groups * samples, length, dim)
        mixed = self.attn1.attend(self.attn1.queries(own), self.attn1.keys(own), self.attn1.values(own))
        # All trajectories of a condition see the same keys: their tokens form one long query.
        shared = normed.view(groups, samples * length, dim)
        mixed = mixed.view_as(shared) + self.attn2.attend(self.attn2.queries(shared), keys, values)
        mixed = self.attn2.to_out[0](mixed).view_as(x)

        x = torch.addcmul(x, self.norm2.normalise(mixed), gate_attn)
        hidden = self.feed_forward(self.ffn_norm1.normalise(x) * scale_ffn)
        return torch.addcmul(x, self.ffn_norm2.normalise(hidden), gate_ffn)


class FinalLayer(nn.Module):
    """Modulated layer norm without weights, then a projection."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(dim, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        """(G, S, T, d) with scale (G, d)."""
        normed = F.layer_norm(x, x.shape[-1:], eps=_FINAL_NORM_EPS)
        return self.linear_2(normed * scale[:, None, None, :])


class NextDiT(nn.Module):
    """The denoiser; state-dict keys are the released ones below ``model.traj_dit.model.``."""

    def __init__(self, config: NextDiTConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NextDiTConfig()
        self.caption_projection = CaptionProjection(config.condition_dim, config.dim)
        self.patch_embedder = PatchEmbedder(config.dim)
        self.time_caption_embed = TimeCaptionEmbed(config.dim)
        self.layers = nn.ModuleList(NextDiTBlock(config) for _ in range(config.num_layers))
        self.norm_out = FinalLayer(config.dim)

    def condition(self, tokens: Tensor) -> Condition:
        """Everything that (G, L, condition_dim) condition tokens contribute, for all steps and samples."""
        check_shape("condition tokens", tokens.shape, (None, None, self.config.condition_dim))
        caption = self.caption_projection(tokens)
        keys, values = zip(*(layer.condition(caption) for layer in self.layers), strict=True)
        return Condition(self.time_caption_embed.pool(caption), keys, values)

    def time_embedding(self, timesteps: Tensor) -> Tensor:
        """Time steps of any shape, 0..1000, to (..., d); depends on nothing else."""
        return self.time_caption_embed.timestep_embedder(timesteps)

    def modulations(self, time_embedding: Tensor, pooled: Tensor) -> Modulations:
        """Modulations for time embeddings (..., G or 1, d) and pooled conditions (G, d)."""
        embedding = F.silu(time_embedding + pooled)
        return Modulations(
            tuple(layer.modulation(embedding) for layer in self.layers), 1 + self.norm_out.linear_1(embedding)
        )

    def denoise(self, x: Tensor, modulations: Modulations, condition: Condition) -> Tensor:
        """Output tokens (G, S, T, d) for embedded trajectory tokens (G, S, T, d) at one time step."""
        for layer, modulation, keys, values in zip(
            self.layers, modulations.layers, condition.keys, condition.values, strict=True
        ):
            x = layer(x, modulation, keys, values)
        return self.norm_out(x, modulations.final)

    def forward(self, x: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """One call with a condition and a time step of its own for every trajectory, as in training.

        Args:
            x: (G, T, d) embedded noisy trajectories.
            timesteps: (G,) in 0..1000; training gives floats, sampling integers.
            tokens: (G, L, condition_dim) condition tokens.

        Returns:
            (G, T, d)

        Raises:
            ValueError: shapes that do not fit, with expected and given shape.
        """
        check_shape("x", x.shape, (None, None, self.config.dim))
        check_shape("timesteps", timesteps.shape, (x.shape[0],))
        check_shape("condition tokens", tokens.shape, (x.shape[0], None, self.config.condition_dim))
        condition = self.condition(tokens)
        modulations = self.modulations(self.time_embedding(timesteps), condition.pooled)
        return self.denoise(x.unsqueeze(1), modulations, condition).squeeze(1)
