"""Says when camera images travel without the DDS profile this project ships (launch/config/fastdds.xml).

With Fast DDS as it comes, a 640x480 RGB image is larger than the whole shared-memory segment of a process and most
best-effort images are lost without any error. So what is in force is looked up in the running process, not in its
settings: a profile named wrongly or refused by Fast DDS shows here too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")  # Fast DDS 3, Fast DDS 2
NEEDED_SEGMENT_BYTES = 16 * 1024 * 1024  # half the shipped profile's: ten pairs of 640x480 RGB and depth images
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
    sizes = own_segment_sizes(_open_files())
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


def own_segment_sizes(open_files: Iterable[str]) -> list[int]:
    """Bytes of the shared-memory segments this process made, known by the lock files only their owner keeps open."""
    names = {match.group(1) for path in open_files if (match := SEGMENT_LOCK.fullmatch(path))}
    return [path.stat().st_size for name in names if (path := Path("/dev/shm") / name).exists()]


def _open_files() -> list[str]:
    targets = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            targets.append(os.readlink(descriptor))
        except FileNotFoundError:  # the one that listed the folder is closed by now
            continue
    return targets
