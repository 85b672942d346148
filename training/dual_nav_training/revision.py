"""Which source code made a data set or a checkpoint."""

from __future__ import annotations

import subprocess
from pathlib import Path


def git_revision() -> str:
    """Commit of the source code, with ``+changes`` if it was edited; ``unknown`` outside a repository."""
    where = Path(__file__).resolve().parent
    try:
        run = [
            subprocess.run(["git", "-C", where, *command], capture_output=True, text=True, check=True).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return run[0] + ("+changes" if run[1] else "")
