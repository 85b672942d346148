"""The robot's own recent frames, prepared for the model, found again by stamp. Plain Python, no ROS.

A plan of S2 names its image by stamp only; S1 looks that frame up here. Frames are small (already resized), so
several seconds of a 30 Hz camera fit.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from typing import Protocol

import numpy as np

from dual_nav_util.stamps import seconds_between

_PERIOD_SAMPLES = 16  # newest frames from which the frame period is estimated
_REACH = 1.5  # frame periods to the neighbour of a lost frame: stamps are rounded, and cameras jitter


class StampedFrame(Protocol):
    @property
    def stamp_ns(self) -> int: ...


class FrameNotFound(LookupError):
    """No frame with the wanted stamp is kept; the text says what is."""


class FrameRing:
    """The newest `capacity` frames in the order of their stamps. Safe between threads."""

    def __init__(self, capacity: int) -> None:
        self._frames: deque[StampedFrame] = deque(maxlen=capacity)
        self._lock = threading.Lock()

    def add(self, frame: StampedFrame) -> None:
        """Append a frame.

        Raises:
            ValueError: its stamp is not newer than the newest one's.
        """
        with self._lock:
            if self._frames and frame.stamp_ns <= self._frames[-1].stamp_ns:
                raise ValueError(
                    f"frame stamp {frame.stamp_ns} ns is not after the newest one, {self._frames[-1].stamp_ns} ns"
                )
            self._frames.append(frame)

    def find(self, stamp_ns: int) -> StampedFrame:
        """The frame with this stamp, or the nearest one within 1.5 frame periods: that very frame may be lost.

        Raises:
            FrameNotFound: the frame is gone already, has not come yet, or was lost on the way to this node.
        """
        with self._lock:
            frames = list(self._frames)
        if not frames:
            raise FrameNotFound("no camera frame has been received yet")
        stamps = [frame.stamp_ns for frame in frames]
        after = bisect_left(stamps, stamp_ns)
        nearest = min(
            (index for index in (after - 1, after) if 0 <= index < len(stamps)),
            key=lambda index: abs(stamps[index] - stamp_ns),
        )
        if stamps[nearest] == stamp_ns:
            return frames[nearest]
        if len(stamps) > 1:
            period = float(np.median(np.diff(stamps[-_PERIOD_SAMPLES:])))
            if abs(stamps[nearest] - stamp_ns) <= _REACH * period:
                return frames[nearest]
        oldest, newest = (seconds_between(stamp_ns, stamps[end]) for end in (0, -1))
        raise FrameNotFound(
            f"the frame of stamp {stamp_ns} ns is not among the {len(frames)} kept frames, which are "
            f"{oldest:+.2f} s … {newest:+.2f} s from it, the nearest "
            f"{seconds_between(stamp_ns, stamps[nearest]):+.3f} s"
        )

    def newest_until(self, stamp_ns: int, count: int) -> list[StampedFrame]:
        """Up to `count` newest frames that are not newer than a stamp, the oldest of them first."""
        with self._lock:
            frames = list(self._frames)
        return [frame for frame in frames if frame.stamp_ns <= stamp_ns][-count:]

    @property
    def newest_stamp_ns(self) -> int | None:
        """Stamp of the newest frame, None while there is none."""
        with self._lock:
            return self._frames[-1].stamp_ns if self._frames else None

    def clear(self) -> None:
        """Forget all frames."""
        with self._lock:
            self._frames.clear()
