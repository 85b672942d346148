"""From camera images to the small frames the model works on, RGB before its depth has arrived. Plain Python, no ROS.

Colour is resized while the depth image is still on its way, so that only the second half of a pair adds to the
latency.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .obstacles import ObstacleDetector
from .pairing import StampPairing
from .policy import Frame


class Preparer(Protocol):
    """The part of a policy that prepares frames (see `policy.TrajectoryPolicy`)."""

    needs_depth: bool

    def prepare(self, stamp_ns: int, rgb: np.ndarray, depth: np.ndarray | None = None) -> Frame: ...


class UnalignedDepthError(ValueError):
    """Depth of another size than its colour image; the text names both."""


@dataclass(frozen=True, eq=False)
class PreparedFrame:
    """What is kept of a camera frame.

    Attributes:
        frame: for the model.
        obstacles: (N, 2) obstacle points [m] in the robot frame, for the selection by clearance; else None.
    """

    frame: Frame
    obstacles: np.ndarray | None = None

    @property
    def stamp_ns(self) -> int:
        return self.frame.stamp_ns


class FramePreparation:
    """Takes converted images as they come and gives a prepared frame when everything for it is there.

    Used by one thread at a time.

    Args:
        policy: prepares images for the model.
        tolerance_ns: largest difference of the stamps of RGB and depth in a pair.
        with_depth: wait for depth also if the model needs none (selection by clearance).
    """

    def __init__(self, policy: Preparer, tolerance_ns: int, with_depth: bool) -> None:
        self._policy = policy
        self._pairing = StampPairing(tolerance_ns)
        self.with_depth = with_depth or policy.needs_depth
        self.obstacle_detector: ObstacleDetector | None = None

    def rgb(self, stamp_ns: int, rgb: np.ndarray) -> PreparedFrame | None:
        """Add a colour image (H, W, 3) uint8 RGB."""
        if not self.with_depth:
            return PreparedFrame(self._policy.prepare(stamp_ns, rgb))
        return self._paired(self._pairing.add("rgb", stamp_ns, (stamp_ns, rgb)))

    def depth(self, stamp_ns: int, depth: np.ndarray) -> PreparedFrame | None:
        """Add a depth image (H, W) float32 metres, 0 = no measurement.

        Raises:
            UnalignedDepthError: it completes a pair with a colour image of another size.
        """
        return self._paired(self._pairing.add("depth", stamp_ns, depth))

    def _paired(self, pair: tuple | None) -> PreparedFrame | None:
        if pair is None:
            return None
        (stamp_ns, rgb), depth = pair
        if depth.shape != rgb.shape[:2]:
            raise UnalignedDepthError(
                f"depth is {depth.shape[1]}x{depth.shape[0]} and rgb {rgb.shape[1]}x{rgb.shape[0]}: "
                "depth has to be aligned to rgb and of its size"
            )
        frame = self._policy.prepare(stamp_ns, rgb, depth if self._policy.needs_depth else None)
        detector = self.obstacle_detector
        return PreparedFrame(frame, detector.scan(depth).obstacles.points if detector else None)

    @property
    def unpaired(self) -> int:
        """Images that never found a partner."""
        return self._pairing.unpaired

    def clear(self) -> None:
        """Forget what waits for a partner."""
        self._pairing.clear()
