"""From data set samples to the tensors a training module takes: tokens, augmentation, noise, padding.

A ``TrainingSet`` prepares one sample where a DataLoader's worker asks for it; the ``collate_…`` functions make a
batch of prepared samples. Every batch has ``weights`` (terms,): what each term of the module's loss is a mean over.

Draws of time steps and these weights are integers: FSDP and DeepSpeed in bfloat16 round every floating point input of
a module to 8 bits, where 0.999 is 1 and 257 is 256.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from dual_nav_training.augment import ColourChange
from dual_nav_training.conversation import NO_LABEL, Conversation, ConversationMaker
from dual_nav_training.draws import Visit
from dual_nav_training.modules import UNIFORM_DRAWS
from dual_nav_training.samples import DualSample, S2Sample, collate_dual
from s1_controller_node.navdp_standalone import GOAL_SLOTS

Prepare = Callable[[Any, np.random.Generator, bool], Any]  # sample, source of draws, whether for training


class TrainingSet(Dataset):
    """A data set's samples, prepared; asked by ``Visit`` in training and by number in evaluation.

    In evaluation a sample's noise is always the same, and there is neither augmentation nor another wording.
    """

    def __init__(self, samples: Dataset, prepare: Prepare, seed: int) -> None:
        self.samples, self._prepare, self._seed = samples, prepare, seed

    def __len__(self) -> int:
        return len(self.samples)

    def start_epoch(self, epoch: int) -> None:
        """For what the samples themselves draw. (accelerate would call a ``set_epoch`` of its own accord.)"""
        self.samples.set_epoch(epoch)

    def __getitem__(self, visit: Visit | int) -> Any:
        training = isinstance(visit, Visit)
        visit = visit if training else Visit(0, visit)
        return self._prepare(self.samples[visit.index], visit.generator(self._seed), training)


@dataclass(frozen=True)
class PreparePrompt:
    """An S2 sample as an answered conversation."""

    maker: ConversationMaker
    augment: bool
    vary_wording: bool

    def __call__(self, sample: S2Sample, rng: np.random.Generator, training: bool) -> Conversation:
        change = ColourChange.drawn(rng) if training and self.augment else ColourChange()
        return self.prompt(sample, change, rng if training and self.vary_wording else None)

    def prompt(self, sample: S2Sample, change: ColourChange, rng: np.random.Generator | None) -> Conversation:
        images = [change(image) for image in sample.images]
        return self.maker(sample.instruction, images, sample.answers, rng)


@dataclass(frozen=True)
class DualItem:
    """A plan with its frames, and what is drawn for them: noise (F, T, 3) and u (F,), of UNIFORM_DRAWS."""

    conversation: Conversation
    sample: DualSample
    noise: np.ndarray
    u: np.ndarray


@dataclass(frozen=True)
class PrepareDual:
    """A dual sample with its conversation and draws."""

    prompt: PreparePrompt

    def __call__(self, sample: DualSample, rng: np.random.Generator, training: bool) -> DualItem:
        noise = rng.standard_normal(sample.trajectories.shape, np.float32)
        u = rng.integers(UNIFORM_DRAWS, size=len(noise))
        change = ColourChange.drawn(rng) if training and self.prompt.augment else ColourChange()
        words = rng if training and self.prompt.vary_wording else None
        conversation = self.prompt.prompt(sample.prompt, change, words)
        images = np.stack([change(image) for image in sample.images])
        return DualItem(conversation, replace(sample, images=images), noise, u)


def prepare_navdp(sample: Mapping[str, Tensor], rng: np.random.Generator, training: bool) -> dict[str, Tensor]:
    """A standalone NavDP sample with its draws; the release was trained without augmentation of its images."""
    shape = tuple(sample["labels"].shape)
    return {
        **sample,
        "no_goal_noise": torch.from_numpy(rng.standard_normal(shape, np.float32)),
        "mixed_goal_noise": torch.from_numpy(rng.standard_normal(shape, np.float32)),
        "no_goal_u": torch.tensor(rng.integers(UNIFORM_DRAWS)),
        "mixed_goal_u": torch.tensor(rng.integers(UNIFORM_DRAWS)),
        "goal_mix": torch.tensor(rng.integers(GOAL_SLOTS**GOAL_SLOTS)),
    }


def collate_conversations(items: Sequence[Conversation], pad_token_id: int) -> dict[str, Tensor]:
    """Conversations padded on the right, as ``PlannerModule.forward`` takes them."""
    ids = [torch.from_numpy(item.ids) for item in items]
    labels = pad_sequence([torch.from_numpy(item.labels) for item in items], True, NO_LABEL)
    positions = pad_sequence([torch.from_numpy(item.positions.T) for item in items], True)
    return {
        "input_ids": pad_sequence(ids, True, pad_token_id),
        "attention_mask": pad_sequence([torch.ones_like(tokens) for tokens in ids], True),
        "position_ids": positions.permute(2, 0, 1),
        "labels": labels,
        "pixel_values": torch.from_numpy(np.concatenate([item.patches for item in items])),
        "image_grid_thw": torch.tensor([grid for item in items for grid in item.grids]),
        "weights": _answer_tokens(labels)[None],
    }


def collate_duals(items: Sequence[DualItem], pad_token_id: int) -> dict[str, Tensor]:
    """Plans with their frames, as ``DualModule.forward`` takes them; shorter plans are padded."""
    batch = collate_conversations([item.conversation for item in items], pad_token_id)
    frames = collate_dual([item.sample for item in items])
    del frames["prompts"]
    count = frames["images"].shape[1]

    def padded(arrays: Sequence[np.ndarray]) -> Tensor:
        rows = [np.concatenate((a, np.zeros((count - len(a), *a.shape[1:]), a.dtype))) for a in arrays]
        return torch.from_numpy(np.concatenate(rows))

    noise, u = padded([item.noise for item in items]), padded([item.u for item in items])
    weights = torch.stack((frames["frame_counts"].sum(), batch["weights"][0]))
    return {**batch, **frames, "noise": noise, "u": u, "weights": weights}


def collate_navdp(items: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Samples of the standalone NavDP, stacked."""
    batch = torch.utils.data.default_collate([dict(item) for item in items])
    return {**batch, "weights": torch.tensor([len(items)])}


def _answer_tokens(labels: Tensor) -> Tensor:
    """How many tokens count; the first of a row has nothing before it that could predict it."""
    return (labels[:, 1:] != NO_LABEL).sum()
