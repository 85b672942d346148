"""Tests that render are left out, with the reason, on a machine where nothing can be rendered."""

import pytest

from nav_sim import gl


@pytest.fixture(scope="session")
def rendering() -> str:
    """Name of the OpenGL backend."""
    backend = gl.choose()
    if not backend:
        pytest.skip("neither EGL nor OSMesa can be used here (python3 scripts/fetch_debian.py provides OSMesa)")
    return backend
