"""Simulator, planner and controller as processes: results as in one process, clean ends, recordings that replay."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import yaml

pytest.importorskip("nav_msgs_ext", reason="needs ROS 2 and the built workspace: source scripts/env.sh")

from ament_index_python.packages import get_package_share_directory
from scenario import make_checkpoint

from dual_nav_bringup.closed_loop import ClosedLoop, LoopError, Parts
from dual_nav_bringup.domain import free_domain_id
from dual_nav_util.recording import Recording, choose_topics
from nav_sim import gl
from nav_sim.camera import Camera
from nav_sim.episodes import Episode, make_episode
from nav_sim.evaluation import InProcess, Moment, Oracles, Output, Settings, Simulators, Watch
from nav_sim.parameters import OracleParameters
from nav_sim.simulator import Config, Pose
from nav_sim.video import VideoError

pytestmark = pytest.mark.skipif(
    not gl.choose(), reason="neither EGL nor OSMesa can be used here: nothing is rendered"
)
SHARE = Path(get_package_share_directory("dual_nav_bringup"))
SETTINGS = Settings(simulator=Config(look="plain"))
KEYS = [("object", 0), ("relation", 0)]
IN_SIGHT = ("object", 2)  # the robot looks at its goal from the start
EVALUATE = [sys.executable, "-m", "dual_nav_bringup.evaluate", "--look", "plain", "--no-pictures"]
EVALUATE += ["--s1", "oracle", "--s2", "oracle"]
# Over DDS a heading has gone through a quaternion, which leaves some 1e-16 rad; a hundred thousand times more than an
# episode makes of that.
ROUNDING = 1e-6
# Models on two cores sum in an order of their own; what an episode makes of float32 rounding stays far below a pixel.
MODEL_ROUNDING = 0.02  # metres


@pytest.fixture(autouse=True)
def own_domain(monkeypatch) -> None:
    domain = str(free_domain_id())
    for name in ("ROS_DOMAIN_ID", "NAV_DOMAIN_ID"):
        monkeypatch.setenv(name, domain)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "checkpoint")


def same(first: dict, second: dict, tolerance: float) -> bool:
    """Whether two records of an episode agree, in everything but the time they took."""
    names = set(first) - {"wall_time", "visible_share"}
    numbers = {name for name in names if isinstance(first[name], float)}
    return all(first[name] == second[name] for name in names - numbers) and all(
        first[name] == pytest.approx(second[name], abs=tolerance) for name in numbers
    )


@dataclass(frozen=True)
class Hashes(Output):
    """Keeps pose and hash of the image of every camera frame, by the time since the instruction [s]."""

    seen: dict[float, tuple[Pose, str]] = field(default_factory=dict)

    def watch(self, episode: Episode, camera: Camera) -> contextlib.AbstractContextManager[Watch]:
        def look(moment: Moment) -> None:
            self.seen[moment.time] = (moment.pose, hashlib.sha256(moment.rgb.tobytes()).hexdigest())

        return contextlib.nullcontext(look)


def assert_the_same_was_seen(first: dict, second: dict) -> None:
    """Pose and image of every frame that came in both runs; sensors send without acknowledgement."""
    both = first.keys() & second.keys()
    assert len(both) > 0.5 * max(len(first), len(second)) > 10
    assert len({image for _, image in first.values()}) > 3  # the robot drives
    assert {time for time in both if first[time] != second[time]} == set()


def our_processes() -> list[psutil.Process]:
    """All processes of this test's ROS domain but this one."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("ROS_DOMAIN_ID") == os.environ["ROS_DOMAIN_ID"]:
                found.append(process)
        except psutil.Error:
            continue
    return found


# For speed, and more plans in a short time.
SIZES = {"num_samples": 4, "num_steps": 2, "torch_threads": 1, "plan_step_gap": 4}


def wait_until(condition, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


def test_the_oracles_come_to_the_same_over_dds_as_in_one_process(tmp_path):
    output = Output(tmp_path, pictures=False)
    expected = list(InProcess(Oracles())(KEYS, SETTINGS, output))
    with ClosedLoop(Parts(look="plain"), tmp_path) as loop:
        seen = list(loop(KEYS, SETTINGS, output))
    assert all(result["success"] for result in expected)
    for first, second in zip(expected, seen, strict=True):
        assert same(first, second, ROUNDING), (first, second)
    assert "went on without" not in (tmp_path / "nodes.log").read_text()


def sized_parameters(folder: Path, sizes: dict = SIZES) -> dict:
    """sim.yaml with a quick controller, written into the folder."""
    config = yaml.safe_load((SHARE / "config" / "sim.yaml").read_text())
    config["/**/s1_controller"]["ros__parameters"] |= sizes
    (folder / "sim.yaml").write_text(yaml.safe_dump(config))
    return config


def test_the_real_nodes_do_the_same_twice_and_as_the_fast_path(tmp_path, model):
    from dual_nav_training.in_process import Parts as Modules

    config = sized_parameters(tmp_path)
    settings = Settings(simulator=Config(look="plain"), s1=str(model), s2=str(model), time_limit=4.0)
    output = Hashes(tmp_path, pictures=False)
    runs, seen = [], []
    parts = Parts(str(model), str(model), "plain", launch=(f"params:={tmp_path / 'sim.yaml'}",))
    with ClosedLoop(parts, tmp_path, images=True) as loop:
        for _ in range(2):
            runs += loop([KEYS[0]], settings, output)
            seen.append(dict(output.seen))
            output.seen.clear()
    assert "went on without" not in (tmp_path / "nodes.log").read_text()
    assert runs[0]["plans"] > 2
    assert runs[0]["path_length"] > 0.02  # it drives, wherever the random weights send it
    assert same(runs[0], runs[1], 0.0), runs
    assert_the_same_was_seen(*seen)
    modules = Modules(str(model), str(model), s1_options=tuple(SIZES.items()))
    controller = modules.controller(make_episode("test", 0, *KEYS[0]), OracleParameters().cameras())
    parameters = config["/**/s1_controller"]["ros__parameters"]
    assert {name: getattr(controller._parameters, name) for name in parameters} == parameters
    shipped = yaml.safe_load((SHARE / "config" / "sim.yaml").read_text())["/**/s1_controller"]["ros__parameters"]
    usual = Modules(str(model), str(model)).controller(
        make_episode("test", 0, *KEYS[0]), OracleParameters().cameras()
    )
    assert {name: getattr(usual._parameters, name) for name in shipped} == shipped
    (fast,) = InProcess(modules)([KEYS[0]], settings, output)
    assert same(fast, runs[0], MODEL_ROUNDING), (fast, runs[0])


def test_an_oracles_plans_come_with_the_latents_that_the_real_controller_drives_by(tmp_path, model):
    from dual_nav_training.in_process import Parts as Modules

    sizes = SIZES | {"selection": "mean"}  # random weights drive with it, whatever is in the way
    sized_parameters(tmp_path, sizes)
    settings = Settings(simulator=Config(look="plain"), s1=str(model), time_limit=3.0)
    output = Output(tmp_path, pictures=False)
    parts = Parts(str(model), "oracle", "plain", launch=(f"params:={tmp_path / 'sim.yaml'}",))
    with ClosedLoop(parts, tmp_path) as loop:
        (run,) = loop([IN_SIGHT], settings, output)
    assert run["plans"] > 1
    assert run["path_length"] > 0.02
    assert "refused" not in (tmp_path / "nodes.log").read_text()
    modules = Modules("oracle", str(model), s1_options=tuple(sizes.items()))
    (fast,) = InProcess(modules)([IN_SIGHT], settings, output)
    assert same(fast, run, MODEL_ROUNDING), (fast, run)


def test_a_video_that_cannot_be_written_ends_the_evaluation(tmp_path):
    def watch(moment: Moment) -> None:
        raise VideoError("no room on the disk")

    with (
        ClosedLoop(Parts(look="plain"), tmp_path, images=True) as loop,
        Simulators(SETTINGS) as simulators,
        pytest.raises(VideoError, match="no room"),
    ):
        loop.run(make_episode("test", 0, *KEYS[0]), 1.0, 60.0, simulators, watch)


def test_a_killed_simulator_ends_the_evaluation_and_leaves_nothing_behind(tmp_path):
    with ClosedLoop(Parts(look="plain"), tmp_path) as loop:
        results = loop(KEYS, SETTINGS, Output(tmp_path, pictures=False))
        next(results)
        loop.system.processes()["nav_sim"].kill()
        with pytest.raises(LoopError, match="nav_sim has ended"):
            next(results)
    wait_until(lambda: not our_processes(), 30, "all processes are gone")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_evaluation_leaves_no_process_and_goes_on_where_it_was(tmp_path, number):
    command = [*EVALUATE, "--family", "object", "--out", str(tmp_path / "out")]
    log = tmp_path / "out" / "episodes.jsonl"
    with (tmp_path / "said").open("w") as said:
        running = subprocess.Popen([*command, "--episodes", "40"], stdout=said, stderr=said)
        try:
            wait_until(lambda: log.is_file() and log.read_text().count("\n") > 0, 180, "an episode has ended")
            running.send_signal(number)
            status = running.wait(60)
        finally:
            running.kill()
    text = (tmp_path / "said").read_text()
    assert status == (130 if number == signal.SIGINT else -signal.SIGKILL), text
    assert "Traceback" not in text
    wait_until(lambda: not our_processes(), 30, "all processes are gone")
    first = [json.loads(line) for line in log.read_text().splitlines()]
    done = len(first)
    ended = subprocess.run([*command, "--episodes", str(done)], capture_output=True, text=True, timeout=180)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1])["episodes"] == done
    assert [json.loads(line) for line in log.read_text().splitlines()] == first


def test_a_recording_that_was_cut_off_is_read_up_to_there_and_a_whole_one_has_everything(tmp_path):
    output = Output(tmp_path, pictures=False)
    with ClosedLoop(Parts(look="plain"), tmp_path / "whole", record=True) as loop:
        list(loop([KEYS[0]], SETTINGS, output))
    (folder,) = (tmp_path / "whole").glob("recording-*")
    with Recording(folder) as whole:
        counts = {topic.name: topic.count for topic in whole.topics}
        assert set(choose_topics(whole, {})) >= {
            "rgb",
            "depth",
            "camera_info",
            "odom",
            "instruction",
            "rgb_look_down",
        }
    assert counts["/rgb"] > 50
    assert counts["/s2/plan"] > 3
    with ClosedLoop(Parts(look="plain"), tmp_path / "cut", record=True) as loop:
        results = loop(KEYS, SETTINGS, output)
        next(results)
        loop.system.processes()["recorder"].kill()
        results.close()
    (folder,) = (tmp_path / "cut").glob("recording-*")
    assert not (folder / "metadata.yaml").exists()
    with Recording(folder) as cut:
        messages = list(cut.messages([topic.name for topic in cut.topics]))
        seen = {message.topic for message in messages}
    assert {"/rgb", "/depth", "/odom", "/s2/plan", "/instruction", "/cmd_vel"} <= seen
    assert sum(message.topic == "/rgb" for message in messages) > 30
