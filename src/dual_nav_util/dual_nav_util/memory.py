"""Memory of a process over hours. Plain Python, no ROS."""

from __future__ import annotations

import ctypes

M_MMAP_THRESHOLD = -3  # of <malloc.h>
LARGE = 256 * 1024  # bytes


def keep_large_buffers_out_of_the_heap() -> None:
    """Give every large buffer pages of its own from now on, which go back to the operating system with it.

    glibc does so only at first: once a large buffer was freed, the next ones of its size share the heap with what is
    kept for long, and leave gaps there. A planner whose prompts are never of the same length then creeps up by 100 MB
    although what it holds stays the same. New pages cost a few milliseconds a plan; a model that makes many
    thousands of large buffers a second would notice. Other C libraries need nothing of this.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE)
