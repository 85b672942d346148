"""`make demo` as a user starts it: ends by itself with figures, and leaves nothing behind when it is interrupted."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from scenario import left_running

from dual_nav_bringup.demo import choose, summary, who_drives
from nav_sim.judge import Result

DEMO = [sys.executable, "-m", "dual_nav_bringup.demo", "--look", "plain", "--seed", "7"]
PATIENCE = 180.0  # s


@contextlib.contextmanager
def demo(folder: Path, *words: str, **options) -> Iterator[subprocess.Popen]:
    """The demo as a process, which is killed if it still runs at the end."""
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    options |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen([*DEMO, *words], cwd=folder, env=environment, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen, pattern: str) -> re.Match:
    """The first line of output that matches."""
    seen = []
    for line in process.stdout:
        seen.append(line)
        if found := re.search(pattern, line):
            return found
    raise AssertionError(f"no {pattern!r} in: {''.join(seen)}")


def result(**changed) -> Result:
    values = {
        "name": "test-7-object-0000", "family": "object", "instruction": "Go.", "flat_seed": 1, "success": True,
        "spl": 0.8, "oracle_success": True, "navigation_error": 0.4, "collisions": 0, "time": 10.0,
        "path_length": 5.0, "shortest": 4.0, "outcome": "stopped", "distance_at_stop": 0.4, "visible_share": 0.1,
        "plans": 3,
    }  # fmt: skip
    fields = Result.__dataclass_fields__
    return Result(**{name: value for name, value in (values | changed).items() if name in fields})


def test_without_a_trained_model_oracles_drive_and_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert choose("S1", None, None) == choose("S2", None, None) == "oracle"
    line = who_drives("oracle", "oracle", chosen=False)
    assert "No trained model" in line
    assert "\n" not in line
    with pytest.raises(ValueError, match="S2=model: there is none in models/"):
        choose("S2", "model", None)


def test_a_model_in_the_folder_models_drives_unless_something_else_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "small").mkdir(parents=True)
    (tmp_path / "models" / "small" / "config.json").write_text("{}")
    assert choose("S1", None, None) == "models/small"
    assert choose("S1", "oracle", None) == "oracle"
    assert choose("S1", None, "/data/other") == "/data/other"
    assert "models/small" in who_drives("models/small", "oracle", chosen=True)


def test_a_checkpoint_that_is_not_there_is_said_at_once(tmp_path):
    with demo(tmp_path, "--headless", "--s1", "orcale") as process:
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert output == "demo: S1: orcale is no folder; expected a checkpoint folder, or oracle\n"


def test_the_summary_has_means_over_episodes_and_the_sum_of_collisions():
    found = summary([result(), result(success=False, spl=0.0, navigation_error=2.4, collisions=3)], (10.0, 0.5))
    assert found == {
        "episodes": 2, "success": 0.5, "spl": 0.4, "ne": 1.4, "collisions": 3, "s1_hz": 10.0, "s2_hz": 0.5
    }  # fmt: skip


def test_headless_it_ends_by_itself_with_a_line_of_json(tmp_path):
    with demo(tmp_path, "--headless", "--episodes", "1") as process:
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    found = json.loads(output.splitlines()[-1])
    assert {"success", "spl", "ne", "collisions", "s1_hz", "s2_hz"} <= set(found)
    assert found["success"] == 1.0
    assert found["collisions"] == 0
    assert found["s1_hz"] > found["s2_hz"] > 0.0


def test_a_persons_instruction_is_followed_and_ctrl_c_leaves_no_process_behind(tmp_path):
    with demo(tmp_path, stdin=subprocess.PIPE) as process:
        address = read_until(process, r"http://localhost:\d+")[0]
        assert b"<html" in urllib.request.urlopen(address, timeout=PATIENCE).read().lower()
        read_until(process, "test-7-object-0000")  # the flat is not even built: the sentence is kept until it is
        process.stdin.write("go to the moon\n")
        process.stdin.flush()
        read_until(process, "you: “go to the moon”")
        read_until(process, "no such thing here")
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 4  # launcher, simulator, planner, controller, viewer
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, output
    assert not re.search("^Traceback", output, re.MULTILINE)  # the demo's own
    assert left_running(children) == []
