"""Where a thread leaves its newest item for another: a new item replaces an unread one, nothing queues up.

Plain Python, no ROS.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any


class Latest:
    """One newest-wins slot per lane, shared between threads.

    Lanes are taken in the order in which they were filled; an item that replaces an unread one keeps that one's
    place in the order. Lane names come from the program, never from data, so the memory is bounded.
    """

    def __init__(self) -> None:
        self._items: dict[str, Any] = {}
        self._dropped: Counter[str] = Counter()
        self._closed = False
        self._at_rest = False  # somebody waits in take(): what was taken before is worked off
        self._changed = threading.Condition()

    def put(self, lane: str, item: Any) -> None:
        """Leave `item`; an unread item of the same lane is dropped and counted. Ignored after `close`."""
        with self._changed:
            if self._closed:
                return
            if lane in self._items:
                self._dropped[lane] += 1
            self._items[lane] = item
            self._changed.notify_all()

    def take(self) -> tuple[str, Any] | None:
        """Wait for an item and remove it: ``(lane, item)``, or None once closed."""
        with self._changed:
            self._at_rest = True
            self._changed.notify_all()
            while not self._items and not self._closed:
                self._changed.wait()
            self._at_rest = False
            if self._closed:
                return None
            lane = next(iter(self._items))
            return lane, self._items.pop(lane)

    def wait_until_worked_off(self, timeout: float) -> bool:
        """Wait until nothing is left and the one thread that takes items wants the next; False after `timeout` s."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed or (self._at_rest and not self._items), timeout)

    def clear(self) -> None:
        """Forget unread items without counting them as dropped."""
        with self._changed:
            self._items.clear()

    def close(self) -> None:
        """Wake every waiting thread with None; later items are ignored."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def dropped(self, lane: str) -> int:
        """How many items of this lane were replaced before anybody read them."""
        with self._changed:
            return self._dropped[lane]
