"""Every random choice on a training sample, as a function of seed, epoch and sample index alone.

Noise, time steps, augmentation and wording come from one generator per visit of a sample. So a run gives the same
numbers however its samples are spread over workers, processes and accumulation steps, and a resumed run goes on with
exactly the draws it would have made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Sampler


@dataclass(frozen=True)
class Visit:
    """One use of one sample in training."""

    epoch: int
    index: int

    def generator(self, seed: int) -> np.random.Generator:
        """The source of all draws on this visit."""
        return np.random.default_rng((seed, self.epoch, self.index))


class VisitSampler(Sampler[Visit]):
    """All samples in an order shuffled anew for each epoch; ``set_epoch`` before each.

    With ``fixed_draws`` the order changes but the draws of a sample do not: only then can a loss with drawn noise
    go to zero, which is what an overfitting check looks for.
    """

    def __init__(self, samples: Sized, seed: int, fixed_draws: bool = False) -> None:
        self._samples, self._seed, self._fixed_draws = samples, seed, fixed_draws
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Visit]:
        generator = torch.Generator().manual_seed((self._seed + 1) * 1_000_003 + self._epoch)
        draws_epoch = 0 if self._fixed_draws else self._epoch
        for index in torch.randperm(len(self), generator=generator).tolist():
            yield Visit(draws_epoch, index)
