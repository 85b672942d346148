"""The frames of an episode from which each prompt takes its history images."""

from __future__ import annotations

from bisect import bisect_left
from typing import Generic, TypeVar

import numpy as np

Frame = TypeVar("Frame")


class ImagePool:
    """Memory for `count` uint8 RGB images (height, width, 3), all taken at the start.

    A long episode then needs no more memory than a short one, and its images leave no gaps in the heap.
    """

    def __init__(self, count: int, height: int, width: int) -> None:
        # Filled, because pages that were never written are not really there.
        self._free = list(np.full((count, height, width, 3), 255, dtype=np.uint8))

    def copy(self, image: np.ndarray) -> np.ndarray:
        """A copy of an image, in force until it is given back."""
        place = self._free.pop()
        place[...] = image
        return place

    def give_back(self, image: np.ndarray) -> None:
        """The memory of a copy may be used for the next one."""
        self._free.append(image)


class FrameHistory(Generic[Frame]):
    """Frames of one episode in bounded memory.

    ``select`` returns the frames ``unique(linspace(0, n - 1, num_history, dtype=int))`` of the n frames added
    so far. Up to ``capacity`` frames this is exact. Longer episodes keep only every 2nd, then every 4th …
    frame (and always the newest): each selected frame is then at most n / (capacity - 1) frames away from the
    exact one, the first and the last are always exact. Frames taken while looking down do not belong here.
    """

    def __init__(self, num_history: int, capacity: int) -> None:
        if num_history < 0:
            raise ValueError(f"num_history is {num_history}, must not be negative")
        least = 2 * max(1, num_history)
        if capacity < least:
            raise ValueError(f"history_capacity is {capacity}, must be at least 2 * num_history = {least}")
        self._num_history = num_history
        self._capacity = capacity
        self._reset()

    def clear(self) -> list[Frame]:
        """Forget all frames, which are returned: a new episode begins."""
        dropped = self._frames
        self._reset()
        return dropped

    def _reset(self) -> None:
        self._count = 0  # frames added in this episode
        self._stride = 1  # frames 0, stride, 2 * stride, … are kept
        self._indices: list[int] = []
        self._frames: list[Frame] = []

    def __len__(self) -> int:
        """Number of frames added in this episode."""
        return self._count

    @property
    def stored(self) -> int:
        """Number of frames in memory, at most ``capacity``."""
        return len(self._frames)

    def add(self, frame: Frame) -> list[Frame]:
        """Append the next frame of the episode; returns those that are no longer kept."""
        dropped = []
        if self._indices and self._indices[-1] % self._stride:
            # It was kept only for being the newest.
            self._indices.pop()
            dropped.append(self._frames.pop())
        if len(self._frames) == self._capacity:
            self._stride *= 2
            kept = [i for i, index in enumerate(self._indices) if index % self._stride == 0]
            dropped += [self._frames[i] for i, index in enumerate(self._indices) if index % self._stride]
            self._indices = [self._indices[i] for i in kept]
            self._frames = [self._frames[i] for i in kept]
        self._indices.append(self._count)
        self._frames.append(frame)
        self._count += 1
        return dropped

    def select(self) -> list[tuple[int, Frame]]:
        """History of the next prompt, oldest first: (index in the episode, frame)."""
        if not self._count:
            return []
        wanted = np.unique(np.linspace(0, self._count - 1, self._num_history, dtype=int))
        chosen = sorted({self._nearest(int(index)) for index in wanted})
        return [(self._indices[position], self._frames[position]) for position in chosen]

    def _nearest(self, index: int) -> int:
        after = bisect_left(self._indices, index)
        if after == 0 or self._indices[after] == index:
            return after
        return after if self._indices[after] - index < index - self._indices[after - 1] else after - 1
