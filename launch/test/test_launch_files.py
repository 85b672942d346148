"""The launch files of this package describe both nodes completely, for one robot and for several."""

from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("ament_index_python", reason="needs ROS 2: source scripts/env.sh")

from ament_index_python.packages import get_package_share_directory

from dual_nav_bringup.launch_file import LaunchFileError, declared_arguments, load

SHARE = Path(get_package_share_directory("dual_nav_bringup"))
FILES = [SHARE / "launch" / name for name in ("robot.launch.xml", "replay.launch.xml")]


def words_after(command: tuple[str, ...], flag: str) -> list[str]:
    return [after for word, after in pairwise(command) if word == flag]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_both_nodes_start_by_themselves_and_only_the_planner_comes_back_after_a_crash(path):
    s2, s1, watchdog = load(path, {"model": "/data/model"})
    assert (s2.label, s1.label, watchdog.label) == ("s2_planner", "s1_controller", "cmd_vel_watchdog")
    assert s2.respawn
    assert s2.respawn_delay > 0
    assert not s1.respawn
    assert watchdog.respawn
    for process in (s2, s1):
        parameters = words_after(process.command, "-p")
        assert "autostart:=true" in parameters
        assert 'model:="/data/model"' in parameters
        (file,) = words_after(process.command, "--params-file")
        assert Path(file).is_file()
        assert Path(process.environment["FASTDDS_DEFAULT_PROFILES_FILE"]).is_file()


def test_simulated_time_is_for_replays_only():
    robot, replay = (load(path, {"model": "m"})[0].command for path in FILES)
    assert "use_sim_time:=false" in robot
    assert "use_sim_time:=true" in replay


def test_two_robots_differ_in_the_namespace_alone_and_no_topic_leaves_it():
    for process in load(FILES[0], {"model": "m", "namespace": "robot1"}):
        remaps = words_after(process.command, "-r")
        assert "__ns:=/robot1" in remaps
        if "watchdog" not in process.label:
            assert "rgb:=camera/color/image_raw" in remaps
        assert not [remap for remap in remaps if ":=/" in remap and not remap.startswith("__ns")]


def test_commands_reach_the_base_through_the_watchdog_or_directly():
    _, s1, watchdog = load(FILES[0], {"model": "m", "cmd_vel_topic": "base/cmd_vel"})
    assert "cmd_vel:=s1/cmd_vel" in words_after(s1.command, "-r")
    remaps = words_after(watchdog.command, "-r")
    assert {"cmd_vel_in:=s1/cmd_vel", "cmd_vel:=base/cmd_vel"} <= set(remaps)
    _, direct = load(FILES[0], {"model": "m", "cmd_vel_topic": "base/cmd_vel", "watchdog": "false"})
    assert "cmd_vel:=base/cmd_vel" in words_after(direct.command, "-r")


def test_planner_and_controller_can_live_on_two_machines():
    assert [process.label for process in load(FILES[0], {"model": "m", "s1": "false"})] == ["s2_planner"]
    robot = load(FILES[0], {"model": "m", "s2": "false"})
    assert [process.label for process in robot] == ["s1_controller", "cmd_vel_watchdog"]


def test_s1_can_have_a_checkpoint_and_a_device_of_its_own():
    s2, s1, _ = load(FILES[0], {"model": "a", "s1_model": "b", "device": "cuda:0", "s1_device": "cpu"})
    assert {'model:="a"', 'device:="cuda:0"'} <= set(s2.command)
    assert {'model:="b"', 'device:="cpu"'} <= set(s1.command)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_argument_says_what_it_is_for(path):
    arguments = declared_arguments(path)
    assert all(argument.description for argument in arguments)
    assert [argument.name for argument in arguments if argument.default is None] == ["model"]


def test_a_mode_that_does_not_exist_is_refused():
    with pytest.raises(LaunchFileError, match="mode:='fast' must be one of sync, partial_async"):
        load(FILES[0], {"model": "m", "mode": "fast"})


SIM = SHARE / "launch" / "sim.launch.xml"


def test_in_the_simulator_each_of_both_is_the_real_one_or_the_oracle():
    labels = [process.label for process in load(SIM, {"model": "m"})]
    assert labels == ["nav_sim", "s2_planner", "s1_controller"]
    labels = [process.label for process in load(SIM, {"s1": "oracle", "s2": "oracle"})]
    assert labels == ["nav_sim", "oracle_s2", "oracle_s1"]
    assert 'planner:="random"' in load(SIM, {"s1": "oracle", "s2": "random"})[1].command
    with pytest.raises(LaunchFileError, match="s2:='best' must be one of real, oracle, random"):
        load(SIM, {"s2": "best"})


def test_the_simulators_time_is_its_own_and_the_others_follow_it():
    sim, s2, s1 = load(SIM, {"model": "m"})
    assert "use_sim_time:=false" in sim.command
    assert "use_sim_time:=true" in s2.command
    assert {"use_sim_time:=true", "lock_step:=false"} <= set(s1.command)
    sim, s2, s1 = load(SIM, {"model": "m", "time": "real"})
    assert "use_sim_time:=false" in s2.command
    for waits_for in ("controller", "planner_and_controller"):
        assert "lock_step:=true" in load(SIM, {"model": "m", "wait_for": waits_for})[2].command
        assert "lock_step:=true" in load(SIM, {"s1": "oracle", "s2": "oracle", "wait_for": waits_for})[2].command


def test_the_nodes_know_the_simulated_robot():
    yaml = pytest.importorskip("yaml")
    from nav_sim.camera import Camera
    from nav_sim.scene import ROBOT_RADIUS

    (file,) = words_after(load(SIM, {"model": "m"})[2].command, "--params-file")
    settings = {name: part["ros__parameters"] for name, part in yaml.safe_load(Path(file).read_text()).items()}
    s1 = settings["/**/s1_controller"]
    assert (s1["camera_height"], s1["camera_x"], s1["robot_radius"]) == (
        Camera().height,
        Camera().forward,
        ROBOT_RADIUS,
    )
    assert settings["/**/s2_planner"]["use_look_down"]


def test_a_run_is_recorded_when_asked_for():
    processes = {process.label: process for process in load(FILES[0], {"model": "m", "record": "true"})}
    assert "recorder" in processes
    # it has to know whether cmd_vel is stamped and depth compressed
    files = [words_after(processes[name].command, "--params-file") for name in ("s1_controller", "recorder")]
    assert files[0] == files[1]
