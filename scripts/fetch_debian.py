#!/usr/bin/env python3
"""Fetch what the simulator takes from Debian's archive, without root and without touching the system.

  sweethome3d-furniture   the textured furniture models (CC0 and CC-BY 3.0; the attribution files stay beside them)
  libosmesa6              software rendering, only on a machine where neither EGL nor OSMesa works
  chromium                with --browser: for the test of the viewer's page, on a machine without a browser

apt resolves, downloads and verifies the packages as it does for an installation; they are unpacked below
.state/debian/<package>/ of this checkout. Packages that are installed already are used from where they are. Runs
with the standard library alone; a run with nothing to do takes a moment. Nothing here is needed to build: without
furniture the simulator draws plain shapes, and what is missing is said in one line.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".state" / "debian"
VENV_PYTHON = ROOT / ".venv" / "bin" / "python"
FURNITURE = "sweethome3d-furniture"
INSTALLED_FURNITURE = Path("/usr/share/sweethome3d/furniture")
OSMESA = "libosmesa6"
BROWSER = "chromium"
INSTALLED_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
RETRY_SECONDS = 3600.0  # after a failure, the next attempt is made no sooner
RENDERING_PROBE = "import sys; from nav_sim import gl; sys.exit(0 if gl.works(sys.argv[1]) else 1)"


class FetchError(Exception):
    """A package could not be fetched; the message says why."""


def apt(arguments: list[str], options: list[str], folder: Path, timeout: float = 900.0) -> str:
    """Output of an apt-get call in `folder`; FetchError with apt's own words on failure."""
    command = ["apt-get", *options, *arguments]
    if os.geteuid() == 0:
        command[1:1] = ["-o", "APT::Sandbox::User=root"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise FetchError(f"apt-get {arguments[0]} did not end within {timeout:.0f} s") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        raise FetchError(f"apt-get {arguments[0]}: {' '.join(errors)[:300] or done.stderr.strip()[-300:]}")
    return done.stdout


def private_options(folder: Path, own_lists: bool) -> list[str]:
    """apt options that keep downloads (and package lists, if `own_lists`) in `folder`: no privilege is needed."""
    settings = {"Dir::Cache": folder / "cache", "Debug::NoLocking": "1"}
    (folder / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    if own_lists:
        settings["Dir::State::lists"] = folder / "lists"
        (folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    return [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]


def missing_with_dependencies(package: str, options: list[str], folder: Path) -> list[str]:
    """`package` and those of its dependencies that are not installed, as apt would install them."""
    listing = apt(["install", "--simulate", "--no-install-recommends", package], options, folder)
    return [line.split()[1] for line in listing.splitlines() if line.startswith("Inst ")]


def fetch(package: str, with_dependencies: bool) -> None:
    """Unpack `package` (and what it needs) into FOLDER/<package>; an interrupted run leaves nothing half done."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise FetchError("this system has no apt-get and dpkg-deb")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix="fetching-") as name:
        work = Path(name)
        # The system's own package lists do when they are there; otherwise apt makes new ones here.
        for own_lists in (False, True):
            options = private_options(work, own_lists)
            try:
                if own_lists:
                    apt(["update"], options, work)
                wanted = missing_with_dependencies(package, options, work) if with_dependencies else [package]
                apt(["download", *wanted], options, work)
                break
            except FetchError:
                if own_lists:
                    raise
        tree = work / "tree"
        for archive in sorted(work.glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", archive, tree], check=True, capture_output=True)
            archive.unlink()
        tree.rename(FOLDER / package)


def rendering_works() -> bool:
    """Whether this environment can open an off-screen OpenGL context already."""
    if not VENV_PYTHON.exists():
        raise FetchError("the Python environment is not there yet: run make")
    source = ROOT / "src" / "nav_sim"
    environment = {**os.environ, "PYTHONPATH": str(source), "_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1"}
    for backend in ("egl", "osmesa"):
        command = [VENV_PYTHON, "-c", RENDERING_PROBE, backend]
        if subprocess.run(command, capture_output=True, env=environment).returncode == 0:
            return True
    return False


def provide(package: str, is_there: bool, with_dependencies: bool, why: str, without: str) -> None:
    """Fetch `package` unless it is there or failed a moment ago; says what it does in one line."""
    failed = FOLDER / f"{package}.failed"
    if is_there or (FOLDER / package).is_dir():
        return
    if failed.is_file() and time.time() - failed.stat().st_mtime < RETRY_SECONDS:
        return
    print(f"  {package} ({why}) …", flush=True)
    start = time.monotonic()
    try:
        fetch(package, with_dependencies)
    except (FetchError, OSError, subprocess.CalledProcessError) as error:
        FOLDER.mkdir(parents=True, exist_ok=True)
        failed.write_text(f"{error}\n")
        print(f"  {package} could not be fetched ({error}); {without}", flush=True)
        return
    failed.unlink(missing_ok=True)
    print(f"  {package}: {time.monotonic() - start:.0f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--browser", action="store_true", help="a browser, too, where none is installed")
    parser.add_argument("--retry", action="store_true", help="try again now even if the last attempt just failed")
    arguments = parser.parse_args()
    if arguments.retry:
        for mark in FOLDER.glob("*.failed"):
            mark.unlink()
    provide(
        FURNITURE,
        INSTALLED_FURNITURE.is_dir(),
        with_dependencies=False,
        why="120 MB of furniture models for the simulator",
        without="the simulator will draw plain shapes",
    )
    if arguments.browser:
        provide(
            BROWSER,
            any(shutil.which(name) for name in INSTALLED_BROWSERS),
            with_dependencies=True,
            why="to test the viewer's page",
            without="that test will be skipped",
        )
    checked = FOLDER / "rendering.ok"
    if not checked.is_file():
        FOLDER.mkdir(parents=True, exist_ok=True)
        works = rendering_works()
        provide(
            OSMESA,
            works,
            with_dependencies=True,
            why="software rendering",
            without="install libosmesa6 or libegl1 to render",
        )
        if works or rendering_works():
            checked.touch()
    return 0


if __name__ == "__main__":
    sys.exit(main())
