"""Weights that make a random Qwen2.5-VL give a stated answer: a fixture for tests and smoke runs, not a model.

Nothing is short-cut: the answer comes out of the real forward pass, cache and greedy decoding. Three changes to the
random weights do it.

1. The layers write little into the residual stream, so that the last hidden state is mostly the embedding of the
   token read last, and the row of ``lm_head`` of each answer token points along the embedding of the token before it
   (the first: along the last token of every prompt).
2. Two channels of the residual stream are kept free. Channel 0 is set in the embedding of ``↓`` alone. One head of
   the first layer attends, through the slowest rotary frequency, to any position with channel 0 and copies it to
   channel 1: "I have answered ↓".
3. The row of the second answer's first token adds channel 1, and so wins after a ``↓`` and loses before.

Latents keep depending on images and text, through the same layers, if weakly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer

LOOK_DOWN = "↓"
_SEEN, _FLAG = 0, 1  # the two free channels
_EMBEDDING_STD = 0.2  # of random_tensor
_LAYER_GAIN = 0.05  # of what all layers together write into the residual stream
_LOGIT = 60.0  # of the wanted token; the largest of the others is about 5
_ATTENTION_LOGIT = 40.0  # of ↓ in the head that looks for it; all others have 0
_FIRST, _AFTER_LOOK_DOWN, _FLAG_SHARE = 1.2, 1.0, 0.6  # see item 3: without flag 1.2 > 1.0, with flag 1.2 < 1.6


class AnswerFixture:
    """Knows the change to each tensor of a checkpoint; see the module's text."""

    def __init__(self, config: Mapping[str, Any], tokenizer: Tokenizer, answers: Sequence[str]) -> None:
        if len(answers) > 2 or (len(answers) == 2 and answers[0] != LOOK_DOWN):
            raise ValueError(f"answers are {list(answers)}, expected one answer, or {LOOK_DOWN} and another")
        if LOOK_DOWN in answers[1:]:
            raise ValueError(f"the answer after {LOOK_DOWN} is {LOOK_DOWN} again, which is no plan")
        self._width = int(config["hidden_size"])
        self._layers = int(config["num_hidden_layers"])
        self._heads = int(config["num_attention_heads"])
        self._head_dim = self._width // self._heads
        self._tokens = [tokenizer.encode(answer).ids for answer in answers]
        self._look_down = tokenizer.encode(LOOK_DOWN).ids[-1]
        # A prompt ends with "<|im_start|>assistant\n".
        prompt_end = tokenizer.encode("assistant\n").ids[-1]
        end = int(config["eos_token_id"])
        # token → the tokens it follows, with the strength of each
        self._follows: dict[int, dict[int, float]] = {}
        successor: dict[int, int] = {}
        for turn, ids in enumerate(self._tokens):
            if not ids:
                raise ValueError(f"answer {answers[turn]!r} is empty")
            strength = _FIRST if turn == 0 else _AFTER_LOOK_DOWN
            self._follows.setdefault(ids[0], {})[prompt_end] = strength
            for token, following in zip(ids, [*ids[1:], end], strict=True):
                if token == prompt_end or successor.setdefault(token, following) != following:
                    text = tokenizer.decode([token])
                    raise ValueError(f"answers {list(answers)}: what follows {text!r} would have to differ")
                self._follows.setdefault(following, {})[token] = 1.0
        self._directions = self._orthonormal([prompt_end, *successor])

    def shape_weight(self, key: str, value: torch.Tensor) -> torch.Tensor:
        """The tensor of that (released) key, changed in place where the fixture needs it."""
        if key == "model.embed_tokens.weight":
            self._embedding(value)
        elif key == "lm_head.weight":
            self._head(value)
        elif key in ("visual.merger.mlp.2.weight", "visual.merger.mlp.2.bias"):
            value[[_SEEN, _FLAG]] = 0
        elif key == "model.latent_queries":
            value[..., [_SEEN, _FLAG]] = 0
        elif key.startswith("model.layers."):
            number, part = key.removeprefix("model.layers.").split(".", 1)
            if part in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
                value *= _LAYER_GAIN / math.sqrt(self._layers)
                value[[_SEEN, _FLAG]] = 0
            if number == "0":
                self._detector(part, value)
        return value

    def _orthonormal(self, tokens: Sequence[int]) -> dict[int, torch.Tensor]:
        """A direction for each token that something follows, none along the free channels."""
        if len(tokens) > self._width - 2:
            raise ValueError(f"answers have {len(tokens)} tokens, hidden_size {self._width} allows {self._width - 2}")
        generator = torch.Generator().manual_seed(0)
        basis = torch.linalg.qr(torch.randn(self._width - 2, len(tokens), generator=generator))[0].T
        padding = torch.zeros(len(tokens), 2)
        return dict(zip(tokens, torch.cat((padding, basis), 1), strict=True))

    def _embedding(self, value: torch.Tensor) -> None:
        value[:, [_SEEN, _FLAG]] = 0
        length = _EMBEDDING_STD * math.sqrt(self._width)
        for token, direction in self._directions.items():
            value[token] = length * direction
        value[self._look_down, _SEEN] = 2 * length

    def _head(self, value: torch.Tensor) -> None:
        value[:, [_SEEN, _FLAG]] = 0
        scale = _LOGIT / math.sqrt(self._width)
        for token, previous in self._follows.items():
            value[token] = scale * sum(strength * self._directions[p] for p, strength in previous.items())
        if len(self._tokens) == 2:
            value[self._tokens[1][0], _FLAG] = scale * _FLAG_SHARE

    def _detector(self, part: str, value: torch.Tensor) -> None:
        """Head 0 of the first layer: its constant query meets only keys with channel 0."""
        slowest = self._head_dim // 2 - 1
        # After the norm, ↓ has this in channel 0: its other channels have half the length of that one.
        seen = math.sqrt(self._width) * 2 / math.sqrt(5)
        gain = math.sqrt(_ATTENTION_LOGIT * math.sqrt(self._head_dim) / seen)
        own = slice(0, self._head_dim)
        if part == "self_attn.q_proj.weight":
            value[own] = 0
        elif part == "self_attn.q_proj.bias":
            value[own] = 0
            value[slowest] = gain
        elif part == "self_attn.k_proj.weight":
            value[own] = 0
            value[slowest, _SEEN] = gain
        elif part == "self_attn.v_proj.weight":
            value[own] = 0
            value[0, _SEEN] = 1
        elif part in ("self_attn.k_proj.bias", "self_attn.v_proj.bias"):
            value[own] = 0
        elif part == "self_attn.o_proj.weight":
            value[:, 0] = 0
            value[_FLAG, 0] = _EMBEDDING_STD * math.sqrt(self._width) / seen
