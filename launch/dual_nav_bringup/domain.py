"""A ROS domain nobody on this machine uses: a replay must never drive a robot that happens to listen."""

from __future__ import annotations

import os
import random
import socket

# DDS's rule for UDP ports: 7400 + 250 * domain, + 0 for multicast discovery, + 10 for the first participant's
# own discovery. Up to domain 101 they stay below the ports Linux gives to outgoing connections.
FIRST_PORT, PORTS_PER_DOMAIN = 7400, 250
OFFSETS = (0, 10, 12)
HIGHEST_DOMAIN = 101


def own_domain_id() -> str:
    """NAV_DOMAIN_ID, or a free one. Not ROS_DOMAIN_ID: that may be the robot's, set in its shell for good."""
    return os.environ.get("NAV_DOMAIN_ID") or str(free_domain_id())


def free_domain_id() -> int:
    """A random domain id whose DDS ports nobody has open here; RuntimeError when there is none."""
    candidates = random.sample(range(1, HIGHEST_DOMAIN + 1), HIGHEST_DOMAIN)
    for domain in candidates:
        if all(_is_free(FIRST_PORT + PORTS_PER_DOMAIN * domain + offset) for offset in OFFSETS):
            return domain
    raise RuntimeError(f"all ROS domains from 1 to {HIGHEST_DOMAIN} are in use on this machine")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
