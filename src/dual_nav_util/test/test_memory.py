"""Large buffers leave no gaps behind in the memory of a long-lived process."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

# What is kept for long is allocated between large buffers; [MB] that stay when the large ones are gone.
CHURN = """
import ctypes, sys
from pathlib import Path
from dual_nav_util.memory import keep_large_buffers_out_of_the_heap
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
if sys.argv[1] == "compact":
    keep_large_buffers_out_of_the_heap()
def resident():
    line = next(text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith("RssAnon"))
    return int(line.split()[1]) / 1024
def large():
    place = libc.malloc(1 << 20)
    ctypes.memset(place, 1, 1 << 20)
    return place
libc.free(libc.malloc(4 << 20))  # from here on glibc takes megabytes from the heap
before, buffers = resident(), []
for _ in range(64):
    buffers.append(large())
    libc.malloc(1000)  # kept
for place in buffers:
    libc.free(place)
print(resident() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_large_buffers_are_given_back_although_what_came_between_them_is_kept():
    left = {}
    for way in ("plain", "compact"):
        run = subprocess.run([sys.executable, "-c", CHURN, way], capture_output=True, text=True, check=True)
        left[way] = float(run.stdout)
    assert left["plain"] > 50.0, "glibc gives gaps back by itself: the module is not needed any more"
    assert left["compact"] < 2.0
