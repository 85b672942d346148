"""Rates, latencies, recent errors, and the diagnostic messages made from them.

No ROS node is needed: only message classes are imported. Every container has a fixed size.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from .stamps import to_stamp


class LatencyWindow:
    """The newest `size` durations of one kind, in seconds, and their percentiles. Safe between threads."""

    def __init__(self, size: int = 2048) -> None:
        self._values = np.zeros(size, dtype=np.float64)
        self._count = 0
        self._lock = threading.Lock()

    def add(self, seconds: float) -> None:
        with self._lock:
            self._values[self._count % self._values.size] = seconds
            self._count += 1

    def percentiles(self) -> tuple[float, float, float] | None:
        """(p50, p95, p99) in seconds over the window, or None while it is empty."""
        with self._lock:
            values = self._values[: min(self._count, self._values.size)].copy()
        if values.size == 0:
            return None
        p50, p95, p99 = np.percentile(values, (50, 95, 99))
        return float(p50), float(p95), float(p99)


class EventRate:
    """How often something happens, over the last `period` seconds of the monotonic clock, and how often in all."""

    def __init__(self, period: float = 3.0, size: int = 1024) -> None:
        self._times: deque[float] = deque(maxlen=size)
        self._period = period
        self._total = 0
        self._lock = threading.Lock()

    def tick(self, now: float | None = None) -> None:
        with self._lock:
            self._times.append(time.monotonic() if now is None else now)
            self._total += 1

    @property
    def total(self) -> int:
        return self._total

    def hertz(self, now: float | None = None) -> float:
        """Events per second; 0 when fewer than two lie within the period."""
        now = time.monotonic() if now is None else now
        with self._lock:
            recent = [moment for moment in self._times if moment > now - self._period]
        if len(recent) < 2:
            return 0.0
        return (len(recent) - 1) / max(recent[-1] - recent[0], 1e-9)


@dataclass(frozen=True)
class Incident:
    """An error as diagnostics show it: of which kind, when last (monotonic seconds), how often."""

    kind: str
    text: str
    last: float
    count: int


class Incidents:
    """Errors by kind: each is logged at once, then at most every `quiet` seconds while it repeats.

    Kinds are names in the program, so there are few of them; texts may carry data.
    """

    def __init__(self, log: Callable[[str], object], quiet: float = 5.0) -> None:
        self._log = log
        self._quiet = quiet
        self._by_kind: dict[str, Incident] = {}
        self._logged: dict[str, tuple[float, int]] = {}  # kind: (when, how many had been counted then)
        self._lock = threading.Lock()

    def report(self, kind: str, text: str, now: float | None = None) -> None:
        """Count an error of this kind, and log it unless one was logged in the last `quiet` seconds."""
        now = time.monotonic() if now is None else now
        with self._lock:
            before = self._by_kind.get(kind)
            count = before.count + 1 if before else 1
            self._by_kind[kind] = Incident(kind, text, now, count)
            logged_at, logged_count = self._logged.get(kind, (-float("inf"), 0))
            if now - logged_at < self._quiet:
                return
            self._logged[kind] = (now, count)
        unlogged = count - logged_count - 1
        self._log(text + (f" ({unlogged} more of this kind since the last message)" if unlogged else ""))

    def recent(self, period: float, now: float | None = None) -> list[Incident]:
        """Errors of the last `period` seconds, the newest first."""
        now = time.monotonic() if now is None else now
        with self._lock:
            found = [incident for incident in self._by_kind.values() if now - incident.last <= period]
        return sorted(found, key=lambda incident: -incident.last)

    def count(self, kind: str) -> int:
        """How often an error of this kind was reported."""
        with self._lock:
            found = self._by_kind.get(kind)
        return found.count if found else 0


class StatusBuilder:
    """One DiagnosticStatus: the worst level wins, its texts become the message."""

    def __init__(self, name: str, hardware_id: str = "") -> None:
        self._status = DiagnosticStatus(name=name, hardware_id=hardware_id, level=DiagnosticStatus.OK)
        self._texts: list[tuple[bytes, str]] = []

    def warn(self, text: str) -> None:
        self._texts.append((DiagnosticStatus.WARN, text))

    def error(self, text: str) -> None:
        self._texts.append((DiagnosticStatus.ERROR, text))

    def value(self, key: str, value: Any) -> None:
        shown = f"{value:.3f}" if isinstance(value, float) else str(value)
        self._status.values.append(KeyValue(key=key, value=shown))

    def latency(self, key: str, window: LatencyWindow) -> None:
        """Three values, ``<key> p50/p95/p99 [ms]``; nothing while the window is empty."""
        percentiles = window.percentiles()
        if percentiles is not None:
            for name, seconds in zip(("p50", "p95", "p99"), percentiles, strict=True):
                self.value(f"{key} {name} [ms]", seconds * 1e3)

    def build(self, ok_text: str) -> DiagnosticStatus:
        """The finished status; `ok_text` is the message when nothing was wrong."""
        if not self._texts:
            self._status.message = ok_text
            return self._status
        worst = max(level for level, _ in self._texts)
        self._status.level = worst
        self._status.message = "; ".join(text for level, text in self._texts if level == worst)
        return self._status


def diagnostic_array(now_ns: int, *statuses: DiagnosticStatus) -> DiagnosticArray:
    """The message for /diagnostics at ROS time `now_ns`."""
    array = DiagnosticArray(status=list(statuses))
    array.header.stamp = to_stamp(now_ns)
    return array
