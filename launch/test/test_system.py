"""Both nodes as real processes on a recording, started by the launch file through this package's runner."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("nav_msgs_ext", reason="needs ROS 2 and the built workspace: source scripts/env.sh")

from PIL import Image
from scenario import (
    assert_pipeline_worked,
    crowding,
    left_running,
    make_checkpoint,
    node_processes,
    playing,
    recording,
)
from synthetic import write_corridor

from dual_nav_bringup.domain import free_domain_id
from dual_nav_util import qos
from dual_nav_util.recording import Recording
from dual_nav_util.testing import Graph
from nav_msgs_ext.msg import S2Plan

RUNNER = [sys.executable, "-m", "dual_nav_bringup.launch_runner"]
REPLAY = [sys.executable, "-m", "dual_nav_bringup.replay"]
NODES = ("s2_planner", "s1_controller")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "checkpoint")


@pytest.fixture(scope="module")
def corridor(tmp_path_factory) -> Path:
    return write_corridor(tmp_path_factory.mktemp("bag") / "corridor", count=60, fps=10.0)


@pytest.fixture(autouse=True)
def own_domain(monkeypatch) -> None:
    domain = str(free_domain_id())
    for name in ("ROS_DOMAIN_ID", "NAV_DOMAIN_ID"):
        monkeypatch.setenv(name, domain)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


class Launched:
    """replay.launch.xml in the runner; stopped at the end of the test, with what it wrote."""

    def __init__(self, log: Path, **arguments: object):
        self.log = log
        words = [f"{name}:={value}" for name, value in arguments.items()]
        with log.open("w") as sink:
            self.popen = subprocess.Popen([*RUNNER, "replay.launch.xml", *words], stdout=sink, stderr=sink)

    def stop(self) -> int:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGINT)
        return self.popen.wait(timeout=30)


@pytest.fixture
def launched(tmp_path):
    runs = []

    def start(**arguments: object) -> Launched:
        runs.append(Launched(tmp_path / "nodes.log", **arguments))
        return runs[-1]

    yield start
    for run in runs:
        run.stop()
        print(run.log.read_text()[-4000:])  # shown when the test failed


def test_a_recording_becomes_plans_paths_and_commands_and_ctrl_c_leaves_no_process(tmp_path, model, launched):
    with playing(recording(tmp_path), tmp_path / "out") as scenario:
        run = launched(model=model, rgb_transport=scenario.transport)
        scenario.wait_active()
        processes = [node_processes(name)[0] for name in NODES]
        scenario.play()
        assert_pipeline_worked(scenario)
        assert run.stop() == 130
        assert not left_running(processes)
        assert "Traceback" not in run.log.read_text()


def test_a_killed_planner_is_missed_by_the_controller_and_plans_again_without_restarting_it(
    tmp_path, model, corridor, launched
):
    with playing(corridor, tmp_path / "out", loops=20) as scenario:
        launched(model=model)
        scenario.wait_active()
        scenario.start_playing()
        scenario.until(lambda: scenario.seen.paths, 30, "a path")
        (controller,) = node_processes("s1_controller")
        (planner,) = node_processes("s2_planner")
        planner.kill()
        scenario.until(lambda: scenario.complains("s1_controller: planner", "s2"), 20, "S1 misses the planner")
        plans, paths = len(scenario.seen.plans), len(scenario.seen.paths)
        scenario.until(lambda: len(scenario.seen.plans) > plans + 1, 60, "the planner plans again")
        scenario.until(lambda: len(scenario.seen.paths) > paths + 1, 20, "the controller follows the new plans")
        scenario.until(lambda: not scenario.complains("s1_controller: planner", ""), 20, "S1 is content again")
        assert controller.is_running()
        assert node_processes("s2_planner") != [planner]


def test_a_killed_controller_is_missed_by_the_planner_which_lives_on(tmp_path, model, corridor, launched):
    with playing(corridor, tmp_path / "out", loops=10) as scenario:
        run = launched(model=model)
        scenario.wait_active()
        scenario.start_playing()
        scenario.until(lambda: scenario.seen.paths, 30, "a path")
        (controller,) = node_processes("s1_controller")
        (planner,) = node_processes("s2_planner")
        controller.kill()
        scenario.until(lambda: scenario.complains("s2_planner: inputs", "s1/state"), 20, "S2 misses s1/state")
        commands = len(scenario.seen.commands)
        scenario.until(lambda: len(scenario.seen.commands) > commands + 8, 20, "the watchdog sends commands")
        later = scenario.seen.commands[commands:]
        assert not [c for c in later if c.linear or c.angular], "motion after the controller was killed"
        assert planner.is_running()
        assert not node_processes("s1_controller")
        assert run.stop() == 128 + 9
        assert re.search(r"\[s1_controller\] +-- was killed by SIGKILL", run.log.read_text())


def test_replay_ends_with_a_table_one_json_line_pictures_and_a_recording(tmp_path, model, corridor):
    out = tmp_path / "result"
    command = [*REPLAY, "--bag", corridor, "--model", model, "--out", out, "--rate", "2", "--loop", "3"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert run.returncode == 0, run.stderr
    summary = json.loads(run.stdout.splitlines()[-1])
    assert summary["complete"]
    assert summary["frames"] == 180
    # On a slow machine the controller may lose the very frame the planner chose, and then says so.
    others = [error for error in summary["errors"] if "kept frames" not in error]
    assert not others or crowding() > 1, others
    assert json.loads((out / "summary.json").read_text()) == summary
    for name in ("camera_to_plan", "camera_to_path", "camera_to_command"):
        assert summary["latency_ms"][name]["n"] > 0
    assert summary["nodes"]["s1_controller"]["memory_mb"]["start"] > 0
    assert "camera → command" in run.stdout
    pictures = sorted((out / "plans").glob("*.jpg"))
    assert len(pictures) == summary["plans"]
    assert Image.open(pictures[0]).size[0] == 320
    assert Image.open(out / "paths.png").size[0] > 800
    with Recording(out / "outputs") as outputs:
        counts = {topic.name: topic.count for topic in outputs.topics}
    assert counts["/s2/plan"] == summary["plans"]
    assert counts["/s1/path"] == summary["paths"]


def test_ctrl_c_in_a_replay_gives_the_figures_so_far_and_leaves_no_process(tmp_path, model, corridor):
    out = tmp_path / "result"
    command = [*REPLAY, "--bag", corridor, "--model", model, "--out", out, "--loop", "100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        for line in run.stderr:
            if "both nodes active" in line:
                break
        graph = Graph()
        try:
            plans = graph.listen(S2Plan, "s2/plan", qos.LATCHED)
            graph.wait_for(lambda: plans, "a plan", timeout=60.0)
        finally:
            graph.close()
        time.sleep(3)
        processes = [process for name in NODES for process in node_processes(name)]
        run.send_signal(signal.SIGINT)
        output, _ = run.communicate(timeout=60)
    assert run.returncode == 130
    summary = json.loads(output.splitlines()[-1])
    assert not summary["complete"]
    assert summary["frames"] > 20
    assert summary["plans"] > 0
    assert len(processes) == 2
    assert not left_running(processes)


def test_a_replay_whose_controller_is_killed_gives_the_figures_and_fails(tmp_path, model, corridor):
    command = [*REPLAY, "--bag", corridor, "--model", model, "--out", tmp_path / "result", "--loop", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        for line in run.stderr:
            if "both nodes active" in line:
                break
        time.sleep(2)
        (controller,) = node_processes("s1_controller")
        controller.kill()
        output, said = run.communicate(timeout=120)
    assert run.returncode == 128 + signal.SIGKILL
    assert not json.loads(output.splitlines()[-1])["complete"]
    assert "a node failed during the replay" in said


def test_a_replay_that_is_killed_takes_the_nodes_along(tmp_path, model, corridor):
    command = [*REPLAY, "--bag", corridor, "--model", model, "--out", tmp_path / "result", "--loop", "100"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        end = time.monotonic() + 120
        while len(processes := [process for name in NODES for process in node_processes(name)]) < 2:
            assert time.monotonic() < end
            time.sleep(0.1)
        run.kill()
    assert not left_running(processes)


def test_a_node_that_cannot_be_configured_ends_the_replay_with_what_it_says(tmp_path, corridor):
    absent = tmp_path / "absent"
    command = [*REPLAY, "--bag", corridor, "--model", absent, "--out", tmp_path / "result"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert last.startswith("replay: ")
    assert str(absent) in last
    assert not left_running([process for name in NODES for process in node_processes(name)])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--bag", "/nowhere"], "no recording at /nowhere"),
        ([], "make replay BAG="),
        (["--rate", "0"], "not above 0"),
        (["--bag", "BAG", "--remap", "/x:=rgb"], "not in the recording, which has"),
        (["--bag", "BAG", "--remap", "x"], "must be <recorded topic>"),
    ],
)
def test_what_is_missing_or_misnamed_is_said_at_once_with_status_two(tmp_path, corridor, words, said):
    words = [str(corridor) if word == "BAG" else word for word in words]
    environment = {**os.environ, "NAV_SHARED_DIR": str(tmp_path)}
    run = subprocess.run(
        [*REPLAY, *words], capture_output=True, text=True, timeout=120, env=environment, cwd=tmp_path
    )
    assert run.returncode == 2
    assert said in run.stderr
    assert "Traceback" not in run.stderr
