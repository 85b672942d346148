"""Every random choice on a training sample, as a function of seed, epoch and sample index alone.

Noise, time steps, augmentation and wording come from one generator per visit of a sample. So a run gives the same
numbers however its samples are spread over workers, processes and accumulation steps, and a resumed run goes on with
exactly the draws it would have made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler


@dataclass(frozen=True)
class Visit:
    """One use of one sample; samples with a weight above one are used several times in an epoch."""

    epoch: int
    index: int
    repeat: int = 0

    def generator(self, seed: int) -> np.random.Generator:
        """The source of all draws on this visit."""
        return np.random.default_rng((seed, self.epoch, self.index, self.repeat))


class VisitSampler(Sampler[Visit]):
    """All samples, each ``round(weight)`` times, in an order shuffled anew for each epoch (``set_epoch``).

    With ``fixed_draws`` the order changes but the draws of a sample do not: only then can a loss with drawn noise
    go to zero, which is what an overfitting check looks for.

    An epoch ends with its last whole step of ``step_visits``: processes would fill up a part of one with visits of
    their own, and then differ from one process. (An epoch of less than one step is left whole.) What is left out is
    another part in every epoch.
    """

    def __init__(self, weights: np.ndarray, seed: int, fixed_draws: bool = False, step_visits: int = 1) -> None:
        repeats = np.maximum(1, np.round(weights)).astype(np.int64)
        self._indices = np.repeat(np.arange(len(repeats)), repeats)
        self._repeats = np.concatenate([np.arange(count) for count in repeats])
        self._seed, self._fixed_draws = seed, fixed_draws
        self._epoch = 0
        self._length = len(self._indices) // step_visits * step_visits or len(self._indices)

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    @property
    def draws_epoch(self) -> int:
        """The epoch as far as draws are concerned."""
        return 0 if self._fixed_draws else self._epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Visit]:
        order = np.random.default_rng((self._seed, self._epoch)).permutation(len(self._indices))
        for number in order[: self._length]:
            yield Visit(self.draws_epoch, int(self._indices[number]), int(self._repeats[number]))
