"""The scenario of test_system.py with ROS's own launch package reading the same launch file."""

import os
from pathlib import Path

import launch_pytest
import pytest
from ament_index_python.packages import get_package_share_directory
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import AnyLaunchDescriptionSource
from launch_pytest.actions import ReadyToTest
from scenario import assert_pipeline_worked, make_checkpoint, node_processes, playing, recording

from dual_nav_bringup.domain import free_domain_id
from launch import LaunchDescription


@pytest.fixture(scope="module")
def bag(tmp_path_factory) -> Path:
    return recording(tmp_path_factory.mktemp("bag"))


@launch_pytest.fixture(scope="module")
def both_nodes(bag, tmp_path_factory) -> LaunchDescription:
    os.environ["ROS_DOMAIN_ID"] = str(free_domain_id())
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    model = make_checkpoint(tmp_path_factory.mktemp("model") / "checkpoint")
    file = Path(get_package_share_directory("dual_nav_bringup")) / "launch" / "replay.launch.xml"
    arguments = {"model": str(model), "rgb_transport": "compressed"}
    include = IncludeLaunchDescription(AnyLaunchDescriptionSource(str(file)), launch_arguments=arguments.items())
    return LaunchDescription([include, ReadyToTest()])


@pytest.mark.launch(fixture=both_nodes)
def test_a_recording_becomes_plans_paths_and_commands(bag, tmp_path):
    with playing(bag, tmp_path / "out") as scenario:
        assert scenario.transport == "compressed"
        scenario.wait_active()
        scenario.play()
        assert_pipeline_worked(scenario)


@pytest.mark.launch(fixture=both_nodes, shutdown=True)
def test_no_process_is_left_after_the_end():
    assert not node_processes("s2_planner")
    assert not node_processes("s1_controller")
