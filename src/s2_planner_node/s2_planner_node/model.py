"""The vision-language model of S2: greedy answers and ``traj_latents``, nothing computed twice.

One key/value cache holds the sequence seen last. Every call first keeps the longest prefix that the new sequence
shares with it (same tokens, same images), so the look-down turn continues turn 1, latents continue the answer and a
step continues the step before, without any of them knowing of the others.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from s2_planner_node.decoder import Decoder
from s2_planner_node.sequence import ImageRef, TokenSequence, expand_image_tokens, token_sequence
from s2_planner_node.vision import Grid, encode_images


class FeatureCache:
    """Image features by image id, at most ``capacity`` images; the one not used for longest goes first."""

    def __init__(self, capacity: int) -> None:
        if capacity < 0:
            raise ValueError(f"feature cache capacity is {capacity}, must not be negative")
        self._capacity = capacity
        self._features: OrderedDict[int, torch.Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._features)

    def get(self, image_id: int) -> torch.Tensor | None:
        """Features of an image, or None if they are not kept."""
        if image_id in self._features:
            self._features.move_to_end(image_id)
        return self._features.get(image_id)

    def put(self, image_id: int, features: torch.Tensor) -> None:
        """Keep features, which must own their memory."""
        self._features[image_id] = features
        self._features.move_to_end(image_id)
        while len(self._features) > self._capacity:
            self._features.popitem(last=False)

    def clear(self) -> None:
        """Forget all."""
        self._features.clear()


class S2Model:
    """Qwen2.5-VL with latent queries.

    ``network`` is transformers' ``Qwen2_5_VLForConditionalGeneration``, in evaluation mode, on its device;
    ``latent_queries`` (1, n_query, hidden) or None (System2-only checkpoints). ``repetition_penalty`` acts as in
    transformers' ``generate`` (the checkpoint's generation_config.json; 1.0 = none). With ``reuse_cache=False``
    every call computes its whole sequence: the reference for tests.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        latent_queries: torch.Tensor | None,
        *,
        end_token_ids: Sequence[int],
        repetition_penalty: float = 1.0,
        attention: str = "sdpa",
        reuse_cache: bool = True,
    ) -> None:
        body = network.model
        self.network = network
        self.latent_queries = latent_queries
        self.image_token_id: int = network.config.image_token_id
        self.merge_size: int = network.config.vision_config.spatial_merge_size
        self.attention = attention
        self.reset_timings()
        self._visual = body.visual if hasattr(body, "visual") else network.visual
        self._text = body.language_model if hasattr(body, "language_model") else body
        self.end_token_ids = tuple(end_token_ids)  # any of them ends an answer; the first is the end of a turn
        self._penalty = repetition_penalty
        self._reuse = reuse_cache
        text_config = getattr(network.config, "text_config", None) or network.config
        self._max_positions: int = text_config.max_position_embeddings
        theta, sections = rope_parameters(text_config)
        self._decoder = Decoder(self._text, theta, sections, attention)
        self.forget()

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self._text.embed_tokens.weight.device

    @property
    def hidden_size(self) -> int:
        """Width of the language model, of image features and latents."""
        return self._text.embed_tokens.weight.shape[1]

    @property
    def cached_tokens(self) -> int:
        """Positions in the key/value cache."""
        return self._cache.length

    def forget(self) -> None:
        """Drop the key/value cache."""
        self._cache = self._decoder.new_cache()
        self._cached = np.empty((0, 2), np.int64)  # identity of each cached position

    def reset_timings(self) -> None:
        """Start ``timings`` [s] anew: wall time per stage, summed over all calls since."""
        self.timings = {"vision": 0.0, "prefill": 0.0, "decode": 0.0, "latents": 0.0}

    def sequence(self, ids: Sequence[int], images: Sequence[ImageRef]) -> TokenSequence:
        """Sequence of prompt token ids with one placeholder per image."""
        expanded = expand_image_tokens(ids, images, self.image_token_id, self.merge_size)
        return token_sequence(expanded, images, self.image_token_id, self.merge_size)

    @torch.inference_mode()
    def encode_images(self, patches: np.ndarray, grids: Sequence[Grid]) -> list[torch.Tensor]:
        """Features (cells, hidden) of each image from ``ImageProcessor``'s patches."""
        with self._timed("vision"):
            return encode_images(self._visual, torch.from_numpy(patches).to(self.device), grids)

    @torch.inference_mode()
    def hidden_states(self, sequence: TokenSequence, features: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """Final-norm hidden states (1, n, hidden) of the positions that were not in the cache, at least the last.

        ``features`` maps the image ids of the sequence to their features.
        """
        if len(sequence) > self._max_positions:
            raise ValueError(
                f"sequence has {len(sequence)} tokens, the model takes {self._max_positions} "
                "(max_position_embeddings); use a shorter instruction, fewer history frames or smaller images"
            )
        keep = self._keep_shared_prefix(sequence, len(sequence) - 1)
        embeddings = self._embed(sequence, features, keep)
        positions = torch.from_numpy(sequence.positions[:, keep:]).to(self.device)
        hidden = self._decoder.run(embeddings, positions, self._cache)
        self._cached = sequence.identity
        return hidden

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Vocabulary logits, float32, of hidden states (…, hidden)."""
        return self.network.lm_head(hidden).float()

    @torch.inference_mode()
    def generate(
        self, sequence: TokenSequence, features: Mapping[int, torch.Tensor], max_new_tokens: int
    ) -> list[int]:
        """Greedy continuation: token ids up to and with the end of turn, at most ``max_new_tokens``."""
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {max_new_tokens}, must be at least 1")
        with self._timed("prefill"):
            logits = self.logits(self.hidden_states(sequence, features)[:, -1])
            token = self._choose(logits, sequence.ids)
        generated = [token]
        with self._timed("decode"):
            while token not in self.end_token_ids and len(generated) < max_new_tokens:
                position = sequence.next_position + len(generated) - 1
                positions = torch.full((3, 1), position, device=self.device)
                embeddings = self._text.embed_tokens(torch.tensor([[token]], device=self.device))
                hidden = self._decoder.run(embeddings, positions, self._cache)
                self._cached = np.concatenate([self._cached, [(token, -1)]])
                seen = np.concatenate([sequence.ids, generated]) if self._penalty != 1.0 else sequence.ids
                token = self._choose(self.logits(hidden[:, -1]), seen)
                generated.append(token)
        return generated

    @torch.inference_mode()
    def traj_latents(self, sequence: TokenSequence, features: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """Hidden states (1, n_query, hidden) float32 of the latent queries behind ``sequence`` (prompt and answer).

        What ``generate`` left in the cache is used: only its last token and the queries are computed.
        """
        if self.latent_queries is None:
            raise ValueError("this checkpoint has no latent_queries: it plans with pixel goals only")
        with self._timed("latents"):
            keep = self._keep_shared_prefix(sequence, len(sequence))
            queries = self.latent_queries.shape[1]
            embeddings = torch.cat([self._embed(sequence, features, keep), self.latent_queries], 1)
            positions = sequence.extended([0] * queries).positions[:, keep:]  # only the positions matter
            hidden = self._decoder.run(embeddings, torch.from_numpy(positions).to(self.device), self._cache)
            self._cache.crop(len(sequence))
            self._cached = sequence.identity
            return hidden[:, -queries:].float()

    def _keep_shared_prefix(self, sequence: TokenSequence, at_most: int) -> int:
        """Cut the cache back to what ``sequence`` begins with, too; returns that number of positions."""
        length = min(at_most, len(self._cached)) if self._reuse else 0
        different = np.flatnonzero((sequence.identity[:length] != self._cached[:length]).any(1))
        keep = int(different[0]) if len(different) else length
        self._cache.crop(keep)
        self._cached = self._cached[:keep]
        return keep

    def _embed(self, sequence: TokenSequence, features: Mapping[int, torch.Tensor], start: int) -> torch.Tensor:
        """Input embeddings (1, n - start, hidden) with image features in their places."""
        embeddings = self._text.embed_tokens(torch.from_numpy(sequence.ids[start:]).to(self.device))
        is_image = sequence.ids == self.image_token_id
        place = 0  # first image token not yet filled
        places = np.flatnonzero(is_image)
        for image in sequence.images:
            cells = image.grid[1] * image.grid[2] // self.merge_size**2
            first = int(places[place])
            place += cells
            skip = max(0, start - first)
            if skip >= cells:
                continue  # cached as a whole
            if image.image_id not in features:
                raise ValueError(f"features of image {image.image_id} are missing")
            image_features = features[image.image_id]
            if tuple(image_features.shape) != (cells, self.hidden_size):
                raise ValueError(
                    f"features of image {image.image_id} have shape {tuple(image_features.shape)}, "
                    f"expected {(cells, self.hidden_size)}"
                )
            embeddings[first + skip - start : first + cells - start] = image_features[skip:]
        return embeddings[None]

    def _choose(self, logits: torch.Tensor, seen: np.ndarray | Sequence[int]) -> int:
        if self._penalty != 1.0:
            tokens = torch.as_tensor(np.unique(np.asarray(seen)), device=logits.device)
            scores = logits[:, tokens]
            logits[:, tokens] = torch.where(scores < 0, scores * self._penalty, scores / self._penalty)
        token = int(logits.argmax(-1))
        if not torch.isfinite(logits[0, token]):
            raise FloatingPointError("the model's logits are not finite; try precision float32")
        return token

    def _timed(self, stage: str) -> _Stage:
        return _Stage(self, stage)


class _Stage:
    """Adds the wall time of a block to ``model.timings``; waits for the GPU so that the time is the stage's own."""

    def __init__(self, model: S2Model, name: str) -> None:
        self._model, self._name = model, name

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)
        self._model.timings[self._name] += time.perf_counter() - self._start


def rope_parameters(text_config: object) -> tuple[float, list[int]]:
    """(theta, mrope_section) from a transformers text config of any version; other rope kinds are refused."""
    values = getattr(text_config, "rope_parameters", None) or getattr(text_config, "rope_scaling", None) or {}
    kind = values.get("rope_type", values.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise ValueError(f"config.json: rope_scaling type is {kind!r}, expected 'mrope' or 'default'")
    if "mrope_section" not in values:
        raise ValueError("config.json: rope_scaling has no mrope_section")
    theta = values.get("rope_theta", getattr(text_config, "rope_theta", None))
    return float(theta), [int(n) for n in values["mrope_section"]]
