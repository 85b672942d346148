"""Choose how MuJoCo renders off screen; has to happen before mujoco is imported anywhere in the process.

MUJOCO_GL, when set, is obeyed. Otherwise EGL is taken where it works (a GPU's driver or Mesa's software renderer),
then OSMesa, installed or as unpacked by scripts/fetch_debian.py.
"""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import sys
from pathlib import Path

from .paths import debian_folder

BACKENDS = ("egl", "osmesa")
_PROBE = (
    "from nav_sim import gl; gl.prepare({!r}); import mujoco; "
    "context = mujoco.GLContext(16, 16); context.make_current(); context.free()"
)


class RenderingError(RuntimeError):
    """No way to render on this machine; the message says what to install."""


def prepare(backend: str) -> None:
    """Point MuJoCo and PyOpenGL at `backend` ("egl" or "osmesa")."""
    os.environ["MUJOCO_GL"] = backend
    os.environ["PYOPENGL_PLATFORM"] = backend
    if backend == "osmesa":
        _preload_unpacked_osmesa()


def _preload_unpacked_osmesa() -> None:
    """Load the unpacked OSMesa and what it needs by path: the loader then finds them by their names."""
    folder = debian_folder("libosmesa6")
    waiting = sorted(
        path for path in folder.rglob("lib*.so.*") if not path.is_symlink() and path.parent.name != "dri"
    )
    while waiting:
        left: list[Path] = []
        for path in waiting:
            try:
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            except OSError:  # a library it needs comes later in the list
                left.append(path)
        if len(left) == len(waiting):
            return
        waiting = left


@functools.cache
def works(backend: str) -> bool:
    """Whether a context of `backend` can be opened; tried in a process of its own, because failing may abort."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("MUJOCO_GL", None)
    probe = subprocess.run([sys.executable, "-c", _PROBE.format(backend)], capture_output=True, env=environment)
    return probe.returncode == 0


def choose() -> str:
    """Set up the first backend that works and return its name; empty when there is none (nothing can be rendered)."""
    chosen = os.environ.get("MUJOCO_GL", "")
    if chosen:
        if chosen == "osmesa":
            _preload_unpacked_osmesa()
        return chosen
    for backend in BACKENDS:
        if works(backend):
            prepare(backend)
            return backend
    return ""


def require() -> None:
    """RenderingError that says what to do, when nothing can be rendered."""
    if not choose():
        raise RenderingError(
            "neither EGL nor OSMesa can be used for rendering: run 'python3 scripts/fetch_debian.py --retry', "
            "or install libosmesa6 (or libegl1)"
        )
