"""Random draws that are the same on every machine and with every version of numpy.

numpy keeps the raw stream of a PCG64 fixed; what its Generator makes of the stream may change. So everything that
decides what a world or an episode is, is drawn here from the raw stream with integer arithmetic alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Draw:
    """A stream of draws fixed by its key (a sequence of non-negative integers)."""

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(list(key)))

    def below(self, limit: int) -> int:
        """Integer in [0, limit), each equally likely (Lemire's method on 64 bits; the rest is rejected)."""
        if limit < 1:
            raise ValueError(f"limit: expected at least 1, got {limit}")
        threshold = (1 << 64) % limit
        while True:
            product = int(self._bits.random_raw()) * limit
            if product & ((1 << 64) - 1) >= threshold:
                return product >> 64

    def between(self, low: int, high: int, step: int = 1) -> int:
        """One of low, low + step, … up to and including high where it falls on a step."""
        return low + step * self.below((high - low) // step + 1)

    def chance(self, percent: int) -> bool:
        """True with this probability in percent."""
        return self.below(100) < percent

    def choice(self, items: Sequence[T]) -> T:
        """One of `items`, each equally likely."""
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """`items` in random order (Fisher-Yates)."""
        result = list(items)
        for last in range(len(result) - 1, 0, -1):
            other = self.below(last + 1)
            result[last], result[other] = result[other], result[last]
        return result
