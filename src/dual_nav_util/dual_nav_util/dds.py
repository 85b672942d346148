"""Shared memory of Fast DDS: says when the profile this project ships (launch/config/fastdds.xml) is not in force.

With Fast DDS as it comes, a 640x480 RGB image is larger than the whole shared-memory segment of a process and most
best-effort images are lost without any error. So what is in force is looked up in the running process, not in its
settings: a profile named wrongly or refused by Fast DDS shows here too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")  # Fast DDS 3, Fast DDS 2
NEEDED_SEGMENT_BYTES = 16 * 1024 * 1024  # half the shipped profile's: ten pairs of 640x480 RGB and depth images
SHARED_MEMORY = Path("/dev/shm")
STALE_AFTER = 10.0  # s; a younger lock file may belong to a process that is about to lock it
SEGMENT_LOCK = re.compile(r"/dev/shm/((?:fastdds|fastrtps)_[0-9a-f]{16})_el")


def image_transport_warnings(rmw_identifier: str) -> list[str]:
    """What stands in the way of camera images in this process; empty when the shipped profile is in force.

    Call it once a node exists, because the transports are made with the first one. `rmw_identifier` is
    `rclpy.get_rmw_implementation_identifier()`.
    """
    if not rmw_identifier.startswith("rmw_fastrtps"):
        return [
            f"RMW {rmw_identifier} is in force: the DDS profile of dual_nav_bringup is for rmw_fastrtps_cpp and has "
            "no effect. Give this RMW buffers for images of 1 MB, or set RMW_IMPLEMENTATION=rmw_fastrtps_cpp."
        ]
    sizes = own_segment_sizes(_open_files("self"))
    if sizes and max(sizes) >= NEEDED_SEGMENT_BYTES:
        return []
    named = [f"{variable}={os.environ[variable]}" for variable in PROFILE_VARIABLES if os.environ.get(variable)]
    found = f"{max(sizes) // 1024} kB" if sizes else "none"
    return [
        f"another DDS profile than dual_nav_bringup's config/fastdds.xml is in force "
        f"({', '.join(named) or 'none set'}): shared memory of this process: {found}, "
        f"needed: {NEEDED_SEGMENT_BYTES // 1024} kB. Camera images will be lost. "
        f"Set {' and '.join(PROFILE_VARIABLES)} to the absolute path of that file in every process."
    ]


def remove_stale_segments(folder: Path = SHARED_MEMORY) -> int:
    """Remove the image segments of Fast DDS processes that were killed; how many.

    A killed process leaves its shared memory behind (33 MB with the shipped profile), and a planner that is respawned
    again and again would fill the memory of the machine. The lock file beside a segment tells: its owner locks it
    for as long as it lives. Segments of other users are left alone.
    """
    removed = 0
    for lock in folder.glob("fast*_el"):
        name = SEGMENT_LOCK.fullmatch(str(SHARED_MEMORY / lock.name))
        with contextlib.suppress(OSError):  # it ended by itself meanwhile, is alive, or belongs to another user
            if name is None or time.time() - lock.stat().st_mtime < STALE_AFTER:
                continue
            with lock.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (folder / name.group(1)).unlink(missing_ok=True)
                lock.unlink()
                removed += 1
    return removed


def own_segment_sizes(open_files: Iterable[str]) -> list[int]:
    """Bytes of the shared-memory segments this process made, known by the lock files only their owner keeps open."""
    names = {match.group(1) for path in open_files if (match := SEGMENT_LOCK.fullmatch(path))}
    return [path.stat().st_size for name in names if (path := Path("/dev/shm") / name).exists()]


def process_segment_bytes(pid: int) -> int | None:
    """Bytes of the largest shared-memory segment a process of this machine made; None when that cannot be seen."""
    with contextlib.suppress(OSError):  # it has ended, or belongs to another user
        return max(own_segment_sizes(_open_files(str(pid))), default=None)
    return None


def _open_files(process: str) -> list[str]:
    targets = []
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        try:
            targets.append(os.readlink(descriptor))
        except FileNotFoundError:  # the one that listed the folder is closed by now
            continue
    return targets
