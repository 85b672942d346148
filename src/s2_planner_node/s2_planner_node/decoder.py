"""Qwen2.5-VL's language model as a loop over transformers' layers, on a key/value cache that can be cut back.

Weights and sub-modules are transformers'; the loop is here because one cache serves prompt, answer, look-down
turn, latents and the next step, and because it needs no part of transformers that changes between versions.
"""

from __future__ import annotations

import importlib.util

import torch
import torch.nn.functional as F

ATTENTIONS = ("auto", "sdpa", "flash_attention_2")
_GROW = 256  # positions; the cache grows to multiples of it
_FEW_QUERIES = 16  # up to here key/value heads are shared by folding the group into the query axis


def choose_attention(requested: str, device: torch.device, dtype: torch.dtype) -> str:
    """``auto`` → flash_attention_2 where it is installed and can run, else sdpa. An explicit wish is checked."""
    if requested not in ATTENTIONS:
        raise ValueError(f"attention is {requested!r}, expected one of {', '.join(ATTENTIONS)}")
    installed = importlib.util.find_spec("flash_attn") is not None
    usable = installed and device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)
    if requested == "flash_attention_2" and not usable:
        why = "package flash_attn is not installed" if not installed else f"it cannot run {dtype} on {device.type}"
        raise ValueError(f"attention is flash_attention_2, but {why}; use auto or sdpa")
    return "flash_attention_2" if usable and requested != "sdpa" else "sdpa"


class KVCache:
    """Keys and values of every layer for one sequence; ``length`` positions are valid."""

    def __init__(self, num_layers: int) -> None:
        self.length = 0
        self._keys: list[torch.Tensor | None] = [None] * num_layers
        self._values: list[torch.Tensor | None] = [None] * num_layers

    def crop(self, length: int) -> None:
        """Forget everything behind the first ``length`` positions."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot crop a cache of {self.length} positions to {length}")
        self.length = length

    def extend(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write (1, kv_heads, n, head_dim) behind ``length``; returns all keys and values up to there.

        ``length`` itself moves when every layer has been written (``advance``).
        """
        end = self.length + keys.shape[2]
        return self._write(self._keys, layer, keys, end), self._write(self._values, layer, values, end)

    def advance(self, count: int) -> None:
        """``count`` positions have been written in every layer."""
        self.length += count

    def _write(self, store: list[torch.Tensor | None], layer: int, new: torch.Tensor, end: int) -> torch.Tensor:
        old = store[layer]
        if old is None or old.shape[2] < end:
            grown = new.new_empty(*new.shape[:2], -(-end // _GROW) * _GROW, new.shape[3])
            if old is not None:
                grown[:, :, : self.length] = old[:, :, : self.length]
            store[layer] = old = grown
        old[:, :, self.length : end] = new
        return old[:, :, :end]


def _sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Causal attention; queries (1, heads, n, d) are the last n of the keys (1, kv_heads, m, d)."""
    _, heads, n, d = q.shape
    kv_heads, m = k.shape[1], k.shape[2]
    group = heads // kv_heads
    if n <= _FEW_QUERIES:
        folded = q.reshape(1, kv_heads, group * n, d)
        y = F.scaled_dot_product_attention(folded, k, v, attn_mask=None if n == 1 else mask.repeat(group, 1))
        return y.reshape(1, heads, n, d)
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=n == m)


def _flash(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    from flash_attn import flash_attn_func  # its causal mask is aligned to the last key, as needed here

    return flash_attn_func(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), causal=True).transpose(1, 2)


class Decoder:
    """Runs a transformers ``Qwen2_5_VLTextModel`` from input embeddings to final-norm hidden states."""

    def __init__(
        self, language_model: torch.nn.Module, rope_theta: float, sections: list[int], attention: str
    ) -> None:
        self._model = language_model
        self._layers = list(language_model.layers)
        self._sections = list(sections)
        self._attention = attention
        projection = self._layers[0].self_attn
        head_dim = projection.head_dim
        if 2 * sum(sections) != head_dim:
            raise ValueError(f"mrope_section is {list(sections)}, its sum must be head_dim / 2 = {head_dim / 2:g}")
        device = projection.q_proj.weight.device
        self._frequencies = rope_theta ** -(
            torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
        )

    def new_cache(self) -> KVCache:
        """An empty cache for this model."""
        return KVCache(len(self._layers))

    def run(self, embeddings: torch.Tensor, positions: torch.Tensor, cache: KVCache) -> torch.Tensor:
        """Hidden states (1, n, hidden) after the final norm of n new positions, which are added to ``cache``.

        ``embeddings`` (1, n, hidden); ``positions`` (3, n) as in ``TokenSequence``.
        """
        n, past = embeddings.shape[1], cache.length
        cos, sin = self._angles(positions, embeddings.dtype)
        mask = None
        if self._attention == "sdpa" and past and n > 1:
            keys = torch.arange(past + n, device=embeddings.device)
            mask = keys <= torch.arange(past, past + n, device=embeddings.device)[:, None]
        elif self._attention == "sdpa" and 1 < n <= _FEW_QUERIES:
            mask = torch.ones(n, n, dtype=torch.bool, device=embeddings.device).tril()
        hidden = embeddings
        for number, layer in enumerate(self._layers):
            hidden = self._layer(number, layer, hidden, cos, sin, mask, cache)
        cache.advance(n)
        return self._model.norm(hidden)

    def _angles(self, positions: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """cos, sin (n, head_dim): each section of the frequencies turns with one of the three axes."""
        angles = positions[:, :, None].float() * self._frequencies
        parts = [part[axis % 3] for axis, part in enumerate(angles.split(self._sections, -1))]
        joined = torch.cat(parts + parts, -1)
        return joined.cos().to(dtype), joined.sin().to(dtype)

    def _layer(
        self,
        number: int,
        layer: torch.nn.Module,
        hidden: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        mask: torch.Tensor | None,
        cache: KVCache,
    ) -> torch.Tensor:
        attention = layer.self_attn
        x = layer.input_layernorm(hidden)
        q, k, v = (
            projection(x).view(1, x.shape[1], -1, attention.head_dim).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        k, v = cache.extend(number, _rotate(k, cos, sin), v)
        q = _rotate(q, cos, sin)
        y = _flash(q, k, v) if self._attention == "flash_attention_2" else _sdpa(q, k, v, mask)
        hidden = hidden + attention.o_proj(y.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))
        return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin
