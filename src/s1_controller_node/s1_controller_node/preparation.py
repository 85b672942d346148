"""From camera images to the small frames the model works on. Plain Python, no ROS.

RGB and depth of a pair arrive one after the other and resizing takes milliseconds, so each is prepared as it comes,
in a thread of its own, and the halves are put together.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from .pairing import StampPairing
from .policy import Frame, TrajectoryPolicy


class UnalignedDepthError(ValueError):
    """Depth of another size than its colour image; the text names both."""


@dataclass(frozen=True, eq=False)
class _Half:
    """One prepared image of a pair, with the (width, height) of the camera's."""

    stamp_ns: int
    image_size: tuple[int, int]
    prepared: np.ndarray | None


class FramePreparation:
    """Takes converted images as they come and gives a frame for the model when everything for it is there.

    `rgb` and `depth` may be called from two threads.

    Args:
        policy: whose frames these are.
        tolerance_ns: largest difference of the stamps of RGB and depth in a pair.
        with_depth: wait for depth also if the model needs none (a selection by obstacles wants them up to date).
    """

    def __init__(self, policy: TrajectoryPolicy, tolerance_ns: int, with_depth: bool) -> None:
        self._policy = policy
        self._pairing = StampPairing(tolerance_ns)
        self._lock = threading.Lock()
        self.with_depth = with_depth or policy.needs_depth

    def rgb(self, stamp_ns: int, rgb: np.ndarray) -> Frame | None:
        """Add a colour image (H, W, 3) uint8 RGB."""
        small = self._policy.prepare_rgb(rgb)
        half = _Half(stamp_ns, (rgb.shape[1], rgb.shape[0]), small)
        if not self.with_depth:
            return Frame(stamp_ns, small, None, half.image_size)
        return self._paired("rgb", half)

    def depth(self, stamp_ns: int, depth: np.ndarray) -> Frame | None:
        """Add a depth image (H, W) float32 metres, 0 = no measurement.

        Raises:
            UnalignedDepthError: it completes a pair with a colour image of another size.
        """
        small = self._policy.prepare_depth(depth)
        return self._paired("depth", _Half(stamp_ns, (depth.shape[1], depth.shape[0]), small))

    def _paired(self, side: str, half: _Half) -> Frame | None:
        with self._lock:
            pair = self._pairing.add(side, half.stamp_ns, half)
        if pair is None:
            return None
        rgb, depth = pair
        if rgb.image_size != depth.image_size:
            raise UnalignedDepthError(
                f"depth is {depth.image_size[0]}x{depth.image_size[1]} and rgb {rgb.image_size[0]}x"
                f"{rgb.image_size[1]}: depth has to be aligned to rgb and of its size"
            )
        return Frame(rgb.stamp_ns, rgb.prepared, depth.prepared, rgb.image_size)

    @property
    def unpaired(self) -> int:
        """Images that never found a partner."""
        return self._pairing.unpaired

    def clear(self) -> None:
        """Forget what waits for a partner."""
        with self._lock:
            self._pairing.clear()
