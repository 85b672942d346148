"""Where the simulator finds and keeps files that are not part of the source."""

from __future__ import annotations

import os
from pathlib import Path


def state_folder() -> Path:
    """Folder for fetched and cached files: NAV_SIM_STATE, else .state of the checkout, else the user's cache."""
    chosen = os.environ.get("NAV_SIM_STATE")
    if chosen:
        return Path(chosen)
    for parent in Path(__file__).resolve().parents:
        if (parent / "scripts" / "fetch_debian.py").is_file():
            return parent / ".state"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "nav_sim"


def debian_folder(package: str) -> Path:
    """Where scripts/fetch_debian.py unpacks a Debian package (not necessarily there)."""
    return state_folder() / "debian" / package
