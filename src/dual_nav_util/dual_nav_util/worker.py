"""A thread that works on the newest input and survives its errors.

Plain Python, no ROS.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from .latest import Latest


class Worker:
    """Runs one function per lane, each on the newest item left for it, in a thread of its own.

    An exception of a function goes to `on_error(lane, exception)` and the thread goes on with the next item. The
    thread is a daemon: a function that never returns cannot keep the process alive.

    Args:
        name: of the thread, for debuggers and `top -H`.
        functions: what to do with an item of each lane.
        on_error: called in the worker's thread.
    """

    def __init__(
        self,
        name: str,
        functions: Mapping[str, Callable[[Any], None]],
        on_error: Callable[[str, Exception], None],
    ) -> None:
        self._functions = dict(functions)
        self._on_error = on_error
        self._inbox = Latest()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, lane: str, item: Any) -> None:
        """Hand over an item; it replaces one of the same lane that has not been started."""
        if lane not in self._functions:
            raise KeyError(f"no lane {lane!r}: this worker has {', '.join(sorted(self._functions))}")
        self._inbox.put(lane, item)

    def clear(self) -> None:
        """Forget items that have not been started."""
        self._inbox.clear()

    def dropped(self, lane: str) -> int:
        """Items of this lane replaced by newer ones before they were started."""
        return self._inbox.dropped(lane)

    def wait_idle(self, timeout: float) -> bool:
        """Wait until all that was left has been worked on; False when it still is after `timeout` seconds."""
        return self._inbox.wait_until_worked_off(timeout)

    def stop(self, timeout: float) -> bool:
        """Start nothing any more and wait up to `timeout` seconds for the item at hand; True when it ended."""
        self._inbox.close()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (taken := self._inbox.take()) is not None:
            lane, item = taken
            try:
                self._functions[lane](item)
            except Exception as error:
                self._on_error(lane, error)
            del taken, item  # an image must not live until the next one comes
