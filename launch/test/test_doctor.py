"""The doctor over DDS, as a person runs it, on both nodes as real processes and a robot with something wrong."""

import array
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("nav_msgs_ext", reason="needs ROS 2 and the built workspace: source scripts/env.sh")

from scenario import START_SECONDS, make_checkpoint, node_processes
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from test_faults import CAMERA_PERIOD, HEIGHT, WIDTH, Robot

from dual_nav_bringup.doctor_findings import S1, S2, Topic
from dual_nav_bringup.doctor_listener import Listener
from dual_nav_bringup.domain import free_domain_id
from dual_nav_util.controller_state import State
from dual_nav_util.stamps import to_stamp
from nav_msgs_ext.msg import ControllerState

RUNNER = [sys.executable, "-m", "dual_nav_bringup.launch_runner", "robot.launch.xml"]
DOCTOR = [sys.executable, "-m", "dual_nav_bringup.doctor", "--seconds", "4"]
# What slow or crowded cores do to a healthy system; that another one has none of it is in test_doctor_findings.py.
OF_LOAD = {"stamp_late", "heartbeat_gap", "controller_slow", "controller_latency", "frames_lost", "topic_gap"}
OF_LOAD |= {"odometry_gap", "odometry_slow", "planner_slow", "stood", "unsynchronised"}


@pytest.fixture(scope="module")
def robot(tmp_path_factory) -> Iterator[Robot]:
    """A robot with both nodes active and no instruction; planner and controller each in a launch of their own."""
    before = dict(os.environ)
    os.environ["ROS_DOMAIN_ID"] = str(free_domain_id())
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    model = make_checkpoint(tmp_path_factory.mktemp("model") / "checkpoint")
    arguments = [f"model:={model}", "rgb_topic:=rgb", "depth_topic:=depth", "camera_info_topic:=camera_info"]
    robot = Robot()
    robot.node.destroy_publisher(robot.plan_publisher)  # plans come from the planner alone
    log = (tmp_path_factory.mktemp("log") / "nodes.log").open("w")
    launched = [
        subprocess.Popen([*RUNNER, *arguments, part], stdout=log, stderr=log) for part in ("s1:=false", "s2:=false")
    ]
    robot.planner_launch = launched[0]
    try:
        robot.until(robot.watch.all_active, "both nodes are active", START_SECONDS)
        yield robot
    finally:
        for run in launched:
            with contextlib.suppress(ProcessLookupError):
                run.send_signal(signal.SIGINT)
            run.wait(timeout=30)
        robot.close()
        os.environ.clear()
        os.environ.update(before)
        print(Path(log.name).read_text()[-3000:])


def examine() -> tuple[int, dict[str, dict]]:
    """Exit status of the doctor, and what it found by code and what it is about."""
    run = subprocess.run([*DOCTOR, "--json"], capture_output=True, text=True, timeout=120)
    assert run.returncode in (0, 1), run.stderr
    told = json.loads(run.stdout)
    assert told["healthy"] == (run.returncode == 0)
    return run.returncode, {f"{found['code']} {found['about']}": found for found in told["findings"]}


def wrong(findings: dict[str, dict]) -> set[str]:
    """What was found, without notes and without what a slow machine explains."""
    return {key for key, found in findings.items() if found["level"] != "NOTE" and found["code"] not in OF_LOAD}


def test_a_robot_without_instruction_is_healthy_and_told_how_to_give_one(robot):
    status, findings = examine()
    assert wrong(findings) == set()
    assert status == int(any(found["level"] != "NOTE" for found in findings.values()))
    assert "qos-durability transient_local /instruction" in findings["no_instruction s2_planner"]["advice"]


def test_what_a_person_reads_has_rates_states_and_no_bare_codes(robot):
    run = subprocess.run(DOCTOR, capture_output=True, text=True, timeout=120)
    assert re.search(r"rgb +\d+\.\d Hz +\d+ ms +/rgb from /robot: rgb8 160x120", run.stdout), run.stdout
    assert re.search(r"s2_planner +active", run.stdout)
    assert re.search(r"s1_controller +active; IDLE", run.stdout)
    assert max(map(len, run.stdout.splitlines())) <= 110
    assert "Traceback" not in run.stderr


def test_silent_depth_is_named_and_so_is_the_standstill(robot):
    robot.frozen.add("depth")
    try:
        status, findings = examine()
    finally:
        robot.frozen.clear()
    assert status == 1
    assert wrong(findings) == {"topic_silent depth", f"stands {S1}"}
    assert "/robot announces it" in findings["topic_silent depth"]["text"]


def test_a_wrong_encoding_is_named_with_those_that_can_be_used(robot):
    def see() -> None:
        header = Header(stamp=to_stamp(robot.node.get_clock().now().nanoseconds), frame_id="camera")
        pixels = array.array("B", bytes(WIDTH * HEIGHT))
        robot._depth.publish(
            Image(header=header, encoding="8UC1", width=WIDTH, height=HEIGHT, step=WIDTH, data=pixels)
        )

    robot.frozen.add("depth")
    timer = robot.node.create_timer(CAMERA_PERIOD, see)
    try:
        status, findings = examine()
    finally:
        robot.node.destroy_timer(timer)
        robot.frozen.clear()
    assert status == 1
    assert {"image_unusable depth", f"stands {S1}"} <= wrong(findings)
    assert "encoding '8UC1' is not supported for depth: use 16UC1, 32FC1" in findings["image_unusable depth"]["text"]


def test_a_hung_controller_is_told_from_a_planner_that_works(robot):
    (controller,) = node_processes(S1)
    controller.suspend()
    try:
        status, findings = examine()
    finally:
        controller.resume()
    assert status == 1
    assert wrong(findings) & {f"node_silent {S1}", f"node_missing {S1}"}
    assert not [found for found in findings.values() if found["about"] == S2 and found["level"] == "ERROR"]


def test_a_killed_planner_is_told_from_a_controller_that_works(robot):
    robot.planner_launch.kill()
    robot.planner_launch.wait()
    robot.until(lambda: not node_processes(S2), "the planner is gone")
    status, findings = examine()
    assert status == 1
    assert wrong(findings) & {f"node_silent {S2}", f"node_missing {S2}"}
    assert not [found for found in findings.values() if found["about"] == S1 and found["level"] == "ERROR"]


def test_a_state_that_it_does_not_know_is_noted_and_not_the_end_of_the_doctor():
    listener = object.__new__(Listener)
    listener._seen = SimpleNamespace(reports=[])
    topic = Topic("s1/state", "/s1/state")
    for state in (99, ControllerState.IDLE):
        listener._on_state(topic, ControllerState(state=state))
    assert topic.refused == {"state 99": 1}
    assert [report.state for report in listener._seen.reports] == [State.IDLE]


def test_an_empty_domain_is_one_finding(monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", str(free_domain_id()))
    status, findings = examine()
    assert status == 1
    assert list(findings) == ["nothing_there /"]
