"""RGB and depth images that belong together, by stamp. Plain Python, no ROS.

message_filters' approximate synchroniser waits for the next message of every topic before it gives up a pair, and
keeps queues of whole images; both cost latency that a controller does not have. Here a pair is complete the moment
its second half arrives, and whatever is older than a pair is forgotten.
"""

from __future__ import annotations

from typing import Any

SIDES = ("rgb", "depth")


class StampPairing:
    """Pairs the two sides greedily: the nearest stamp within the tolerance, never older than the last pair.

    With a tolerance below half the frame period the choice is unambiguous; aligned depth usually has the very stamp
    of its colour image.

    Args:
        tolerance_ns: largest difference of stamps in a pair.
        keep: unpaired items kept per side; the oldest goes first.
    """

    def __init__(self, tolerance_ns: int, keep: int = 4) -> None:
        self._tolerance_ns = tolerance_ns
        self._keep = keep
        self._waiting: dict[str, dict[int, Any]] = {side: {} for side in SIDES}
        self.unpaired = 0  # items forgotten without a partner

    def add(self, side: str, stamp_ns: int, item: Any) -> tuple[Any, Any] | None:
        """Add an item; ``(rgb, depth)`` when that completes a pair, otherwise None.

        Stamps of one side must rise; `clear` before a clock that starts anew.
        """
        other = self._waiting[SIDES[1 - SIDES.index(side)]]
        nearest = min(other, key=lambda stamp: abs(stamp - stamp_ns), default=None)
        if nearest is None or abs(nearest - stamp_ns) > self._tolerance_ns:
            own = self._waiting[side]
            own[stamp_ns] = item
            if len(own) > self._keep:
                del own[min(own)]
                self.unpaired += 1
            return None
        partner = other.pop(nearest)
        for waiting in self._waiting.values():
            # What is older than this pair could only make a pair that is older, too.
            for stamp in [stamp for stamp in waiting if stamp < max(stamp_ns, nearest)]:
                del waiting[stamp]
                self.unpaired += 1
        return (item, partner) if side == "rgb" else (partner, item)

    def clear(self) -> None:
        """Forget what waits for a partner."""
        for waiting in self._waiting.values():
            waiting.clear()
