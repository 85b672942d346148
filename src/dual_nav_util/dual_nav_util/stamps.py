"""ROS time stamps as integer nanoseconds and back.

Inside this project a stamp is always an ``int`` of nanoseconds: exact, ordered, and free of the clock types that
refuse to be compared with each other. Plain Python: the message class is imported only where a message is made, so
that models and training work without ROS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from builtin_interfaces.msg import Time

NANOSECONDS = 1_000_000_000
_SECONDS_LIMIT = 2**31  # builtin_interfaces/Time holds int32 seconds


class Stamp(Protocol):
    """Anything with the fields of builtin_interfaces/Time."""

    sec: int
    nanosec: int


def to_nanoseconds(stamp: Stamp) -> int:
    """Nanoseconds since the clock's epoch."""
    return stamp.sec * NANOSECONDS + stamp.nanosec


def to_stamp(nanoseconds: int) -> Time:
    """The message for a stamp in nanoseconds.

    Raises:
        ValueError: the stamp is negative or does not fit the message's 32-bit seconds.
    """
    from builtin_interfaces.msg import Time

    seconds, rest = divmod(nanoseconds, NANOSECONDS)
    if not 0 <= seconds < _SECONDS_LIMIT:
        raise ValueError(f"stamp {nanoseconds} ns is outside 0 … {_SECONDS_LIMIT} s")
    return Time(sec=seconds, nanosec=rest)


def from_seconds(seconds: float) -> int:
    """Seconds as whole nanoseconds."""
    return round(seconds * NANOSECONDS)


def seconds_between(earlier_ns: int, later_ns: int) -> float:
    """``later - earlier`` in seconds; negative when they are the other way round."""
    return (later_ns - earlier_ns) / NANOSECONDS
