"""The rviz configuration shows topics that exist, with displays and qualities of service that fit them.

rviz itself need not be installed: the file is read, and the nodes are asked what they publish.
"""

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("nav_msgs_ext", reason="needs ROS 2 and the built workspace: source scripts/env.sh")

import rclpy
import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_directory
from rclpy.node import Node, NodeNameNonExistentError
from rclpy.qos import ReliabilityPolicy
from scenario import START_SECONDS, make_checkpoint

from dual_nav_bringup.domain import free_domain_id
from dual_nav_bringup.launch_file import LaunchFileError, load
from dual_nav_util.qos import NEWEST_FRAME

SHARE = Path(get_package_share_directory("dual_nav_bringup"))
CONFIG = SHARE / "rviz" / "dual_nav.rviz"
# Message types of the displays of rviz_default_plugins (Humble to Kilted) that show a topic; None: they show none.
DISPLAYS = {
    "rviz_default_plugins/Grid": None,
    "rviz_default_plugins/Image": "sensor_msgs/msg/Image",
    "rviz_default_plugins/MarkerArray": "visualization_msgs/msg/MarkerArray",
    "rviz_default_plugins/Odometry": "nav_msgs/msg/Odometry",
    "rviz_default_plugins/Path": "nav_msgs/msg/Path",
}
PANELS = {"rviz_common/Displays", "rviz_common/Views", "rviz_common/Time"}
TOOLS = {"rviz_default_plugins/MoveCamera", "rviz_default_plugins/FocusCamera", "rviz_default_plugins/Measure"}
FROM_ROBOT = {"rgb", "depth", "odom"}


@pytest.fixture(scope="module")
def config() -> dict:
    return yaml.safe_load(CONFIG.read_text())


@pytest.fixture(scope="module")
def displays(config) -> dict[str, dict]:
    """Displays that show a topic, by topic."""
    found = config["Visualization Manager"]["Displays"]
    return {display["Topic"]["Value"]: display for display in found if "Topic" in display}


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """What nodes started by the launch file publish and subscribe to: topic without slash -> types."""
    model = make_checkpoint(tmp_path_factory.mktemp("model") / "checkpoint")
    command = [sys.executable, "-m", "dual_nav_bringup.launch_runner", "robot.launch.xml", f"model:={model}"]
    command += ["rgb_topic:=rgb", "depth_topic:=depth", "camera_info_topic:=camera_info"]
    context = rclpy.Context()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(free_domain_id()))
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        context.init()
        node = rclpy.create_node("rviz_test", context=context)
        launched = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        try:
            yield interfaces(node)
        finally:
            launched.send_signal(signal.SIGINT)
            launched.wait(timeout=30)
            node.destroy_node()
            context.shutdown()


def interfaces(node: Node) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """What both nodes publish and subscribe to, once nothing new has been discovered for a second."""
    end, since, known = time.monotonic() + START_SECONDS, time.monotonic(), None
    while time.monotonic() < end:
        published, wanted = {}, {}
        with contextlib.suppress(NodeNameNonExistentError):
            for name in ("s1_controller", "s2_planner"):
                published |= dict(node.get_publisher_names_and_types_by_node(name, "/"))
                wanted |= dict(node.get_subscriber_names_and_types_by_node(name, "/"))
        if (published, wanted) != known:
            since, known = time.monotonic(), (published, wanted)
        elif {"/s1/robot", "/s2/plan"} <= set(published) and time.monotonic() - since > 1.0:
            return tuple({topic.lstrip("/"): types for topic, types in found.items()} for found in known)
        time.sleep(0.1)
    raise AssertionError(f"not both nodes are there: {known}")


def test_every_display_tool_and_panel_is_one_that_rviz_has(config):
    manager = config["Visualization Manager"]
    assert {display["Class"] for display in manager["Displays"]} <= set(DISPLAYS)
    assert {panel["Class"] for panel in config["Panels"]} == PANELS
    assert {tool["Class"] for tool in manager["Tools"]} == TOOLS
    assert manager["Global Options"]["Fixed Frame"] == "odom"
    assert all(display["Enabled"] and display["Name"] for display in manager["Displays"])


def test_all_that_a_person_should_see_is_there(displays):
    assert set(displays) == FROM_ROBOT | {
        "s2/debug_image",
        "s1/candidates",
        "s1/path",
        "s1/tracked_path",
        "s1/robot",
    }
    assert set(displays["s1/robot"]["Namespaces"]) == {"footprint", "stop_zone", "obstacles", "state"}


def test_the_nodes_publish_each_topic_or_take_it_from_the_robot_with_the_type_of_the_display(displays, graph):
    published, wanted = graph
    for topic, display in displays.items():
        assert not topic.startswith("/"), "an absolute topic does not follow the namespace of a robot"
        source = wanted if topic in FROM_ROBOT else published
        assert source.get(topic) == [DISPLAYS[display["Class"]]], f"{topic}: {sorted(source)}"


def test_sensor_topics_are_shown_with_the_quality_of_service_that_cameras_offer(displays):
    assert NEWEST_FRAME.reliability == ReliabilityPolicy.BEST_EFFORT
    for topic, display in displays.items():
        expected = "Best Effort" if topic in FROM_ROBOT else "Reliable"
        assert display["Topic"]["Reliability Policy"] == expected, topic


def test_the_launch_file_starts_rviz_with_this_file_where_it_is_installed():
    arguments = {"model": "m", "rviz": "true", "namespace": "robot1"}
    path = SHARE / "launch" / "robot.launch.xml"
    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError:
        with pytest.raises(LaunchFileError, match="pkg='rviz2'"):
            load(path, arguments)
        return
    rviz = load(path, arguments)[-1]
    assert str(CONFIG) in rviz.command
    assert "__ns:=/robot1" in rviz.command
