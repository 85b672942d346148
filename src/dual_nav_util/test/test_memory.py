"""Free memory of a long-lived process goes back to the operating system."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from dual_nav_util.memory import return_free_memory

LIBC = ctypes.CDLL(None)
MEGABYTE = 1 << 20


def resident_mb() -> float:
    (line,) = (text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


@pytest.mark.skipif(not hasattr(LIBC, "malloc_trim"), reason="the C library is not glibc")
def test_gaps_between_what_is_kept_are_given_back():
    LIBC.malloc.restype, LIBC.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    LIBC.free.argtypes = [ctypes.c_void_p]
    pieces = [LIBC.malloc(100_000) for _ in range(1000)]  # small enough for the heap
    for piece in pieces:
        ctypes.memset(piece, 1, 100_000)
    full = resident_mb()
    for piece in pieces[::2]:
        LIBC.free(piece)
    assert resident_mb() > full - 5, "glibc gives gaps back by itself: the module is not needed any more"
    return_free_memory()
    assert resident_mb() < full - 40
    for piece in pieces[1::2]:
        LIBC.free(piece)
