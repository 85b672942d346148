"""The s1_controller node with real messages and a small real checkpoint: what it publishes, and what stops it."""

from __future__ import annotations

import array
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Quaternion, TransformStamped, Twist, TwistStamped, Vector3
from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as PathMessage
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, String
from std_srvs.srv import SetBool, Trigger
from visualization_msgs.msg import Marker, MarkerArray

from dual_nav_util import images, qos
from dual_nav_util.stamps import to_nanoseconds, to_stamp
from dual_nav_util.testing import Graph, own_domain
from nav_msgs_ext.msg import ControllerState, DiscreteActions, S2Plan
from s1_controller_node.geometry import Twist2D, drive
from s1_controller_node.node import S1Controller
from s1_controller_node.policy import PolicyConfig, load_policy
from s1_controller_node.preparation import FramePreparation

WIDTH, HEIGHT, FOCAL = 160, 120, 100.0
CAMERA_HEIGHT = 0.6  # the default
SUCCESS = TransitionCallbackReturn.SUCCESS


def make_checkpoint(folder: Path, system1: str) -> Path:
    command = [sys.executable, "-m", "dual_nav_training.random_checkpoint", str(folder), "--system1", system1]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def nextdit(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("nextdit") / "model", "nextdit_async")


@pytest.fixture(scope="session")
def navdp(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("navdp") / "model", "navdp_async")


def start_process(**parameters) -> subprocess.Popen:
    """The node as people run it."""
    command = [sys.executable, "-m", "s1_controller_node.main", "--ros-args"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}"]
    environment = os.environ | {"ROS_DOMAIN_ID": str(own_domain())}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def floor_depth(wall: float = 4.0) -> np.ndarray:
    """What a level depth camera sees of an empty floor that ends at a wall [m ahead]; uint16 millimetres."""
    below = np.arange(HEIGHT)[:, None] - (HEIGHT - 1) / 2
    floor = np.where(below > 0, CAMERA_HEIGHT * FOCAL / np.maximum(below, 1e-6), np.inf)
    return np.broadcast_to(np.minimum(floor, wall) * 1000, (HEIGHT, WIDTH)).astype(np.uint16)


class Robot:
    """A camera, a base and a planner beside the node, and what the node tells them."""

    def __init__(self, graph: Graph, model: Path, process: bool = False, **parameters) -> None:
        self.graph = graph
        stamped = parameters.get("cmd_vel_stamped", False)
        self.commands = graph.listen(TwistStamped if stamped else Twist, "cmd_vel", qos.DEFAULT)
        self.states = graph.listen(ControllerState, "s1/state", qos.DEFAULT)
        self.actions = graph.listen(DiscreteActions, "s1/actions", qos.DEFAULT)
        tester = graph.tester
        self._rgb = tester.create_publisher(Image, "rgb", qos.NEWEST_FRAME)
        self._depth = tester.create_publisher(Image, "depth", qos.NEWEST_FRAME)
        self._odometry = tester.create_publisher(Odometry, "odom", qos.ODOMETRY)
        self._plan = tester.create_publisher(S2Plan, "s2/plan", qos.LATCHED)
        rng = np.random.default_rng(0)
        self.rgb_pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        self.depth_pixels = floor_depth()
        self.pose, self._moved_ns = np.zeros(3), 0
        self.episode, self.plans, self.offset_ns = time.time_ns(), 0, 0
        self.stamps: list[int] = []
        self._info = tester.create_publisher(CameraInfo, "camera_info", qos.NEWEST_FRAME)
        self._manual = tester.create_publisher(Twist, "manual_cmd_vel", qos.NEWEST_STATE)
        self._twist = Twist()
        self.tells_intrinsics = True
        graph.listen(TwistStamped if stamped else Twist, "cmd_vel", qos.DEFAULT, self._on_command)
        defaults = {
            "model": str(model),
            "num_samples": 4,
            "torch_threads": 1,
            "plan_timeout": 10.0,
            "obstacle_stop": False,
            "jerk": 100.0,
            "acceleration": 3.0,
        }
        if process:
            self.process = start_process(autostart=True, **(defaults | parameters))
        else:
            self.node = graph.make(S1Controller, **(defaults | parameters))
            assert self.node.trigger_configure() == SUCCESS
            assert self.node.trigger_activate() == SUCCESS
        graph.wait_for(lambda: self._rgb.get_subscription_count(), "subscription to rgb", timeout=60.0)
        graph.wait_for(lambda: self._odometry.get_subscription_count(), "subscription to odom")
        graph.wait_for(lambda: self.commands, "commands")

    def _on_command(self, message: Twist | TwistStamped) -> None:
        self._twist = message.twist if isinstance(message, TwistStamped) else message

    def _move(self, stamp: int) -> None:
        """The base does what it is told, at once."""
        elapsed = (stamp - self._moved_ns) * 1e-9
        if 0.0 < elapsed < 1.0:
            self.pose = drive(self.pose, Twist2D(self._twist.linear.x, self._twist.angular.z), elapsed)
        self._moved_ns = stamp

    def manual(self, v: float, omega: float) -> None:
        twist = Twist()
        twist.linear.x, twist.angular.z = v, omega
        self._manual.publish(twist)

    def call(self, kind: type, name: str, request) -> object:
        client = self.graph.tester.create_client(kind, f"s1_controller/{name}")
        assert client.wait_for_service(30.0)
        future = client.call_async(request)
        self.drive_until(future.done, f"the answer of {name}")
        return future.result()

    def now(self) -> int:
        return time.time_ns() + self.offset_ns

    def frame(self, rgb: Image | None = None, depth: Image | None = None, stamp: int | None = None) -> int:
        """One tick of camera and odometry; images may be replaced by others."""
        stamp = self.now() if stamp is None else stamp
        header = Header(stamp=to_stamp(stamp), frame_id="camera")
        odometry = Odometry(header=Header(stamp=header.stamp, frame_id="odom"))
        self._move(stamp)
        odometry.pose.pose.position.x, odometry.pose.pose.position.y = self.pose[:2]
        odometry.pose.pose.orientation.z = math.sin(self.pose[2] / 2)
        odometry.pose.pose.orientation.w = math.cos(self.pose[2] / 2)
        odometry.twist.twist = self._twist
        self._odometry.publish(odometry)
        rgb = rgb or images.image_from_array(self.rgb_pixels, "rgb8", header)
        depth = depth or images.image_from_array(self.depth_pixels, "16UC1", header)
        rgb.header = depth.header = header
        self._rgb.publish(rgb)
        self._depth.publish(depth)
        if self.tells_intrinsics:
            info = CameraInfo(header=header, width=WIDTH, height=HEIGHT)
            info.k = np.array([FOCAL, 0, (WIDTH - 1) / 2, 0, FOCAL, (HEIGHT - 1) / 2, 0, 0, 1], dtype=float)
            self._info.publish(info)
        self.stamps.append(stamp)
        return stamp

    def run(self, seconds: float, **replaced) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.frame(**replaced)
            time.sleep(0.03)

    def drive_until(self, condition, what: str, timeout: float = 30.0):
        """Ticks until something happens."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            self.frame()
            time.sleep(0.03)
            value = condition()
            if value:
                return value
        raise AssertionError(f"{what}: not within {timeout} s; {self.graph.report()}")

    def plan(self, **changes) -> S2Plan:
        fields = {
            "header": Header(stamp=to_stamp(self.stamps[-1])),
            "episode_id": self.episode,
            "plan_number": self.plans,
            "kind": S2Plan.KIND_TRAJ_LATENTS,
            "pixel_goal_column": 10,
            "pixel_goal_row": 20,
            "image_width": 384,
            "image_height": 384,
            "traj_latents_shape": array.array("I", [1, 4, 64]),
            "traj_latents": array.array("f", np.random.default_rng(1).standard_normal(256).astype("f").tobytes()),
        }
        self.plans += 1
        message = S2Plan(**(fields | changes))
        self._plan.publish(message)
        return message

    def action_plan(self, *actions: int) -> S2Plan:
        empty = {"traj_latents_shape": array.array("I"), "traj_latents": array.array("f")}
        return self.plan(kind=S2Plan.KIND_ACTIONS, actions=array.array("B", actions), **empty)

    def forward(self) -> None:
        """Until the robot drives."""
        self.run(0.3)
        self.action_plan(1, 1, 1, 1)
        self.drive_until(lambda: self.speed() > 0.1, "driving forward")

    def speed(self) -> float:
        return self.commands[-1].linear.x if self.commands else 0.0

    def state(self) -> int:
        return self.states[-1].state if self.states else -1

    def stands(self) -> bool:
        return all(twist.linear.x == 0.0 and twist.angular.z == 0.0 for twist in self.commands[-3:])

    def said(self, part: str) -> bool:
        return part in self.graph.report()

    def sensor_value(self, key: str) -> str:
        """A value of the diagnostics of the sensors, empty while there is none."""
        status = self.graph.diagnostics.get("s1_controller: sensors")
        return next((value.value for value in status.values if value.key == key), "") if status else ""


@pytest.fixture
def graph():
    graph = Graph()
    yield graph
    graph.close()


@pytest.fixture
def robot(graph, nextdit) -> Robot:
    return Robot(graph, nextdit)


# ------------------------------------------------------------------------------------------------------- the work


@pytest.mark.parametrize("system1", ["nextdit", "navdp"])
def test_a_plan_with_latents_becomes_paths_placed_in_odom_with_the_stamps_of_their_frames(graph, system1, request):
    robot = Robot(graph, request.getfixturevalue(system1))
    paths = graph.listen(PathMessage, "s1/path", qos.DEFAULT)
    candidates = graph.listen(MarkerArray, "s1/candidates", qos.DEFAULT)
    robot.run(0.5)

    def enough():
        if robot.states[-1].ask != ControllerState.ASK_NO and robot.states[-1].plan_number + 1 >= robot.plans:
            robot.plan()  # the random model's paths are short: S2 is asked again soon
        return len(paths) > 5 and candidates

    robot.drive_until(enough, "paths and candidates")
    assert {to_nanoseconds(path.header.stamp) for path in paths} <= set(robot.stamps)
    assert {path.header.frame_id for path in paths} == {"odom"}
    assert len(paths[0].poses) == 33
    assert len(candidates[0].markers) == 4
    state = next(state for state in reversed(robot.states) if state.latency)
    assert state.episode_id == robot.episode
    assert to_nanoseconds(state.header.stamp) in robot.stamps
    assert 0.0 < state.latency < 5.0
    assert {to_nanoseconds(message.header.stamp) for message in robot.actions} <= set(robot.stamps)


def test_a_pixel_goal_without_latents_is_followed_by_a_standalone_navdp(graph, tmp_path):
    robot = Robot(graph, make_checkpoint(tmp_path / "model", "navdp_standalone"))
    paths = graph.listen(PathMessage, "s1/path", qos.DEFAULT)
    robot.run(0.5)
    robot.plan(kind=S2Plan.KIND_PIXEL_GOAL, traj_latents_shape=array.array("I"), traj_latents=array.array("f"))
    robot.drive_until(lambda: paths, "a path")
    assert len(paths[0].poses) == 25


def test_selection_by_clearance_takes_depth_and_camera_info_also_for_a_model_without_depth(graph, nextdit):
    robot = Robot(graph, nextdit, selection="clearance", camera_pitch=0.3)
    robot.tells_intrinsics = False
    paths = graph.listen(PathMessage, "s1/path", qos.DEFAULT)
    robot.run(0.3)
    robot.plan()
    robot.drive_until(lambda: robot.said("the obstacles are not known"), "an error without camera_info")
    assert robot.stands()
    robot.tells_intrinsics = True

    def planned():
        if robot.states[-1].ask != ControllerState.ASK_NO and robot.states[-1].plan_number + 1 >= robot.plans:
            robot.plan()
        return paths

    robot.drive_until(planned, "paths")


def test_paths_and_candidates_are_not_made_while_nobody_listens(robot, monkeypatch):
    def refuse(*_):
        raise AssertionError("a message was made for nobody")

    monkeypatch.setattr("s1_controller_node.node.path_message", refuse)
    monkeypatch.setattr("s1_controller_node.node.candidates_message", refuse)
    monkeypatch.setattr("s1_controller_node.node.robot_message", refuse)
    monkeypatch.setattr("s1_controller_node.motion.MotionLayer.view", refuse)
    robot.run(0.3)
    robot.plan()
    robot.drive_until(lambda: robot.actions, "a path")
    robot.run(0.3)
    assert not robot.said("for nobody")


def test_robot_stop_zone_obstacles_and_tracked_path_are_shown_to_who_listens(graph, nextdit):
    robot = Robot(graph, nextdit, obstacle_stop=True)
    shown = graph.listen(MarkerArray, "s1/robot", qos.DEFAULT)
    tracked = graph.listen(PathMessage, "s1/tracked_path", qos.DEFAULT)

    def newest(namespace: str) -> Marker | None:
        return next((m for m in shown[-1].markers if m.ns == namespace), None) if shown else None

    robot.depth_pixels = floor_depth(wall=1.5)
    robot.forward()
    robot.drive_until(lambda: shown, "markers")
    standing = 0.25 + 0.1 + 0.05  # radius and margins: what a robot that moves adds is its way to stop
    robot.drive_until(
        lambda: max((point.x for point in newest("stop_zone").points), default=0.0) > standing + 0.01, "a stop zone"
    )
    assert {marker.header.frame_id for marker in shown[-1].markers} == {"base_link"}
    assert np.hypot(*next((p.x, p.y) for p in newest("footprint").points)) == pytest.approx(0.25)
    assert newest("state").text.startswith("FOLLOWING  0.")
    robot.drive_until(lambda: newest("obstacles").points, "the wall")
    assert 0.3 < min(point.x for point in newest("obstacles").points) < 1.55  # it may not have moved yet

    def following() -> bool:
        if robot.states[-1].ask != ControllerState.ASK_NO and robot.states[-1].plan_number + 1 >= robot.plans:
            robot.plan()
        return any(path.poses for path in tracked)

    robot.depth_pixels = floor_depth()
    robot.drive_until(following, "a path that is tracked")
    assert tracked[-1].header.frame_id == "odom"


def test_the_mount_of_the_depth_camera_comes_from_the_parameters_where_tf_does_not_say_it(graph, nextdit):
    robot = Robot(graph, nextdit, obstacle_stop=True, camera_height=0.61, mount_wait=0.2)
    mount = robot.drive_until(lambda: robot.sensor_value("depth camera").startswith("0.610 m"), "a mount")
    assert mount
    assert "from the parameters camera_*" in robot.sensor_value("depth camera")
    robot.forward()


def test_the_mount_of_the_depth_camera_comes_from_static_transforms(graph, nextdit, monkeypatch):
    # The message type of tf may be missing here; the transforms themselves are real messages.
    monkeypatch.setattr("s1_controller_node.node.TFMessage", String)
    robot = Robot(graph, nextdit, obstacle_stop=True, camera_height=1.5, mount_wait=20.0)
    robot.drive_until(lambda: robot.said("waiting for transforms"), "a warning")
    assert robot.sensor_value("depth camera") == "not known yet"
    robot.node._on_static_transforms(SimpleNamespace(transforms=static_transforms()))
    robot.drive_until(lambda: "from tf: base_link to camera" in robot.sensor_value("depth camera"), "tf's mount")
    assert robot.sensor_value("depth camera").startswith("0.600 m above the floor, 0.100 m ahead")
    # With the parameter's height the floor would be taken for a hole.
    robot.forward()


def test_static_transforms_arrive_over_dds(graph, nextdit):
    tf = pytest.importorskip("tf2_msgs.msg", reason="tf2_msgs has no wheel: no transforms can be published here")
    robot = Robot(graph, nextdit, obstacle_stop=True, camera_height=1.5, mount_wait=20.0)
    publisher = graph.tester.create_publisher(tf.TFMessage, "/tf_static", qos.STATIC_TRANSFORMS)
    publisher.publish(tf.TFMessage(transforms=static_transforms()))
    robot.drive_until(lambda: "from tf: base_link to camera" in robot.sensor_value("depth camera"), "tf's mount")


def static_transforms() -> list[TransformStamped]:
    """The camera of the test's robot, 0.6 m above the floor and 0.1 m ahead."""
    transform = TransformStamped(header=Header(frame_id="base_link"), child_frame_id="camera")
    transform.transform.translation = Vector3(x=0.1, z=0.6)
    transform.transform.rotation = Quaternion(x=-0.5, y=0.5, z=-0.5, w=0.5)
    return [transform]


def test_commands_come_at_the_control_rate_while_the_robot_stands(robot):
    robot.run(0.5)
    before, since = len(robot.commands), time.monotonic()
    robot.graph.wait_for(lambda: len(robot.commands) >= before + 20, "commands of a second")
    assert 0.8 < time.monotonic() - since < 2.5
    assert robot.stands()


def test_discrete_actions_of_the_planner_are_driven_and_announced(robot):
    robot.forward()
    assert list(robot.actions[0].actions) == [1, 1, 1, 1]
    assert 1 <= robot.states[-1].actions_left <= 4
    assert robot.state() == ControllerState.FOLLOWING


def test_stamped_commands_by_parameter(graph, nextdit):
    robot = Robot(graph, nextdit, cmd_vel_stamped=True, base_frame="base")
    header = robot.commands[0].header
    assert header.frame_id == "base"
    assert abs(to_nanoseconds(header.stamp) - time.time_ns()) < 5e9


@pytest.mark.parametrize("variant", ["nextdit_async", "navdp_async", "navdp_standalone"])
def test_halves_prepared_apart_make_the_very_frame_of_the_policy(variant, tmp_path):
    policy = load_policy(make_checkpoint(tmp_path / variant, variant), PolicyConfig(num_samples=2))
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    depth = np.where(rng.random((HEIGHT, WIDTH)) < 0.1, 0, rng.random((HEIGHT, WIDTH)) * 8).astype(np.float32)
    preparation = FramePreparation(policy, 0, with_depth=False)
    made = preparation.rgb(7, rgb)
    if policy.needs_depth:
        assert made is None
        made = preparation.depth(7, depth)
    wanted = policy.prepare(7, rgb, depth)
    np.testing.assert_array_equal(made.rgb, wanted.rgb)
    assert made.image_size == wanted.image_size
    assert (made.depth is None) == (wanted.depth is None)
    if wanted.depth is not None:
        np.testing.assert_array_equal(made.depth, wanted.depth)


# -------------------------------------------------------------------------------------------------- what stops it


def broken(image: Image, **changes) -> Image:
    for name, value in changes.items():
        setattr(image, name, value)
    return image


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0, "step": 0, "data": array.array("B")}, "rgb: rgb8 image of 0x120 has no pixels"),
        ({"data": array.array("B", bytes(100))}, "rgb: rgb8 image of 160x120 with step 480 needs 57600 bytes"),
        ({"encoding": "yuv422"}, "rgb: encoding 'yuv422' is not supported for colour"),
    ],
)
def test_an_unusable_image_is_one_clear_error_and_standstill_and_good_ones_are_taken_again(robot, changes, message):
    robot.forward()
    image = broken(images.image_from_array(robot.rgb_pixels, "rgb8", Header()), **changes)
    robot.run(1.6, rgb=image)
    robot.graph.wait_for(lambda: robot.said(message), f"{message!r} in diagnostics")
    assert robot.stands()
    assert robot.state() == ControllerState.NO_SENSORS
    robot.drive_until(lambda: robot.state() != ControllerState.NO_SENSORS, "recovery")


def test_depth_of_another_size_than_rgb_is_one_clear_error_and_standstill(graph, navdp):
    robot = Robot(graph, navdp)
    small = images.image_from_array(np.full((60, 80), 1000, np.uint16), "16UC1", Header())
    robot.run(0.3)
    robot.run(1.2, depth=small)
    robot.action_plan(1)
    robot.run(0.6, depth=small)
    graph.wait_for(lambda: robot.said("depth is 80x60 and rgb 160x120"), "the error in diagnostics")
    assert robot.stands()


def test_a_stamp_that_goes_back_a_little_is_dropped_and_said(robot):
    robot.run(0.3)
    robot.frame(stamp=robot.stamps[-1] - 200_000_000)
    robot.graph.wait_for(lambda: robot.said("rgb: frame dropped, its stamp is 0.2"), "the error in diagnostics")


def test_stamps_that_begin_anew_forget_what_was_followed(robot):
    robot.forward()
    robot.offset_ns = -15_000_000_000
    robot.run(0.5)
    robot.graph.wait_for(lambda: robot.said("stamps went back by 1"), "the error in diagnostics")
    assert robot.stands()


def test_a_frame_still_being_prepared_when_time_begins_anew_is_not_kept(robot):
    node = robot.node
    kept = robot.drive_until(lambda: node._ring.newest_until(robot.stamps[-1], 1), "a frame is kept")
    before, frame = node._time_number, kept[0]
    node.time_jumped("test")
    node._keep(before, frame, time.perf_counter())
    assert node._ring.newest_stamp_ns is None
    node._keep(node._time_number, frame, time.perf_counter())
    assert node._ring.newest_stamp_ns == frame.stamp_ns


def test_a_frame_from_the_future_is_refused(robot):
    robot.run(0.3)
    robot.frame(stamp=time.time_ns() + 100_000_000_000)
    robot.graph.wait_for(lambda: robot.said("rgb: frame dropped, its stamp lies 9"), "the error in diagnostics")


@pytest.mark.parametrize(
    ("changes", "message", "malformed"),
    [
        ({"kind": 9}, "kind is 9", True),
        ({"traj_latents": array.array("f", [float("nan")] * 256)}, "traj_latents has 256 NaN", True),
        ({"traj_latents": array.array("f", [0.0] * 255)}, "has 255 values, expected 256", True),
        ({"age": -60.0}, "s in the future (future_tolerance 0.5 s)", False),
        ({"age": 60.0}, "s old (plan_timeout 10.0 s)", False),
        ({"episode_id": 1}, "was seen before it", False),
    ],
)
def test_a_bad_plan_is_refused_by_what_is_wrong_with_it(robot, changes, message, malformed):
    robot.forward()
    if "age" in changes:
        changes = {"header": Header(stamp=to_stamp(time.time_ns() - round(changes["age"] * 1e9)))}
    robot.plan(**changes)
    if malformed:
        robot.drive_until(lambda: robot.state() == ControllerState.FAULT, "state FAULT")
        robot.drive_until(robot.stands, "standstill")
        assert message in robot.states[-1].message
    robot.drive_until(lambda: robot.said(message), f"{message!r} in diagnostics")


def test_latents_of_another_model_are_a_fault_with_both_sizes(robot):
    robot.run(0.3)
    robot.plan(traj_latents_shape=array.array("I", [1, 2, 64]), traj_latents=array.array("f", [0.0] * 128))
    robot.drive_until(lambda: robot.state() == ControllerState.FAULT, "state FAULT")
    assert "(1, 2, 64)" in robot.states[-1].message
    assert "(1, 4, 64)" in robot.states[-1].message
    assert robot.stands()


def test_an_error_of_the_model_is_a_fault_and_the_next_frame_is_tried(robot, monkeypatch):
    policy = robot.node._policy
    healthy = policy.sample

    def failing(*_, **__):
        raise RuntimeError("out of memory")

    robot.run(0.3)
    monkeypatch.setattr(policy, "sample", failing)
    robot.plan()
    robot.drive_until(lambda: robot.state() == ControllerState.FAULT, "state FAULT")
    assert "out of memory" in robot.states[-1].message
    monkeypatch.setattr(policy, "sample", healthy)
    robot.drive_until(lambda: robot.state() != ControllerState.FAULT, "recovery")


def test_in_lock_step_a_plan_is_taken_over_when_the_path_of_its_frame_is_done(graph, nextdit, monkeypatch):
    clock = graph.tester.create_publisher(Clock, "/clock", qos.DEFAULT)
    graph.tester.create_timer(0.05, lambda: clock.publish(Clock(clock=to_stamp(time.time_ns()))))
    robot = Robot(graph, nextdit, lock_step=True, use_sim_time=True)
    robot.run(0.3)
    robot.plan()
    robot.drive_until(lambda: robot.states and robot.states[-1].path_wanted, "a wish for paths")
    policy, controller = robot.node._policy, robot.node._controller
    sample, arrived = policy.sample, controller.plan_arrived
    sampling, found = threading.Event(), []

    def slow_sample(*arguments, **options):
        sampling.set()
        time.sleep(0.5)
        paths = sample(*arguments, **options)
        sampling.clear()
        return paths

    def noted(*arguments):
        found.append(sampling.is_set())
        return arrived(*arguments)

    monkeypatch.setattr(policy, "sample", slow_sample)
    monkeypatch.setattr(controller, "plan_arrived", noted)
    robot.frame()
    assert sampling.wait(10.0)
    robot.plan()
    graph.wait_for(lambda: found, "the plan")
    assert found == [False]


def test_silence_of_the_camera_stops_the_robot_within_the_time_out_and_a_control_period(robot):
    robot.forward()
    silent_from = time.monotonic()
    robot.graph.wait_for(lambda: robot.state() == ControllerState.NO_SENSORS, "state NO_SENSORS")
    # Exactly in test_safety.py; here the delays of this process, which does everything, come on top.
    assert time.monotonic() - silent_from < 0.5 + 0.05 + 0.5
    robot.graph.wait_for(robot.stands, "standstill")


def test_stop_latches_and_nothing_of_the_episode_moves_the_robot_again(robot):
    robot.forward()
    robot.action_plan(0)
    robot.drive_until(lambda: robot.state() == ControllerState.ARRIVED, "state ARRIVED")
    robot.action_plan(1)
    robot.drive_until(lambda: robot.said("STOP ended this episode"), "the refusal")
    assert robot.stands()
    robot.episode += 1
    robot.action_plan(1)
    robot.drive_until(lambda: robot.speed() > 0.1, "the next episode")


def test_deactivation_ends_with_a_zero_command_and_silence(robot):
    robot.forward()
    assert robot.node.trigger_deactivate() == SUCCESS
    robot.graph.wait_for(lambda: robot.speed() == 0.0, "a zero command")
    time.sleep(0.3)
    count = len(robot.commands)
    assert robot.speed() == 0.0
    robot.run(0.3)
    assert len(robot.commands) == count
    assert robot.node.trigger_activate() == SUCCESS
    robot.run(0.5)
    assert robot.stands()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_process_ends_on_a_signal_with_a_zero_command_and_without_a_traceback(graph, nextdit, end):
    robot = Robot(graph, nextdit, process=True)
    robot.forward()
    robot.process.send_signal(end)
    said = robot.process.communicate(timeout=20)[1]
    assert robot.process.returncode == 0
    assert "Traceback" not in said
    graph.wait_for(lambda: robot.speed() == 0.0, "a zero command at the end")


def test_reset_forgets_plan_and_latch(robot):
    robot.forward()
    assert robot.call(Trigger, "reset", Trigger.Request()).success
    robot.drive_until(lambda: robot.state() == ControllerState.IDLE, "state IDLE")
    assert robot.states[-1].message == "no plan yet"


def test_an_emergency_stop_holds_until_it_is_released_and_a_reset_does_not_lift_it(robot):
    robot.forward()
    robot.call(Trigger, "emergency_stop", Trigger.Request())
    robot.drive_until(lambda: robot.state() == ControllerState.FAULT, "state FAULT")
    robot.drive_until(robot.stands, "standstill")
    robot.call(Trigger, "reset", Trigger.Request())
    robot.episode += 1
    robot.action_plan(1, 1)
    robot.run(0.5)
    assert robot.stands()
    robot.call(Trigger, "release", Trigger.Request())
    robot.episode += 1
    robot.action_plan(1, 1, 1)
    robot.drive_until(lambda: robot.speed() > 0.1, "driving again")


def test_a_disabled_robot_stands_and_drives_on_when_it_is_enabled(robot):
    robot.forward()
    robot.call(SetBool, "enable", SetBool.Request(data=False))
    robot.drive_until(robot.stands, "standstill")
    robot.run(0.3)
    assert robot.stands()
    assert "disabled" in robot.states[-1].message
    robot.call(SetBool, "enable", SetBool.Request(data=True))
    robot.drive_until(lambda: robot.speed() > 0.1, "driving on")


def test_a_person_drives_through_the_same_gate_and_never_backwards(robot):
    robot.run(0.3)

    def by_hand(v):
        robot.manual(v, 0.0)
        return robot.speed() > 0.1

    robot.drive_until(lambda: by_hand(0.2), "driving by hand")
    assert robot.states[-1].message == "driven by hand"
    for _ in range(15):
        robot.manual(-0.2, 0.0)
        robot.run(0.03)
    assert robot.stands()
    assert min(twist.linear.x for twist in robot.commands) >= 0.0


# ------------------------------------------------------------------------------------------------- obstacle stop


def test_an_obstacle_in_depth_blocks_the_robot_until_it_is_gone(graph, nextdit):
    robot = Robot(graph, nextdit, obstacle_stop=True)
    robot.forward()
    clear, robot.depth_pixels = robot.depth_pixels, floor_depth(wall=0.45)
    robot.drive_until(lambda: robot.state() == ControllerState.BLOCKED, "state BLOCKED")
    robot.drive_until(robot.stands, "standstill")
    assert "an obstacle" in robot.states[-1].message
    robot.depth_pixels = clear
    robot.drive_until(lambda: robot.speed() > 0.05, "driving on")


def test_without_depth_the_robot_stands_and_says_what_is_missing(graph, nextdit):
    robot = Robot(graph, nextdit, obstacle_stop=True)
    robot._depth.publish = lambda _: None
    robot.run(0.3)
    robot.action_plan(1, 1)
    robot.run(1.2)
    assert robot.state() == ControllerState.NO_SENSORS
    assert robot.stands()
    assert "no depth image has been received" in robot.states[-1].message
    robot.drive_until(lambda: robot.said("obstacle_stop false"), "the way out in diagnostics")


def test_depth_that_falls_silent_stops_the_robot(graph, nextdit):
    robot = Robot(graph, nextdit, obstacle_stop=True)
    robot.forward()
    robot._depth.publish = lambda _: None
    robot.drive_until(lambda: robot.state() == ControllerState.NO_SENSORS, "state NO_SENSORS")
    robot.drive_until(robot.stands, "standstill")


def test_before_the_first_clock_the_robot_stands_without_an_error_and_then_drives_the_plan_it_has(graph, nextdit):
    robot = Robot(graph, nextdit, use_sim_time=True)
    start = 1_700_000_000_000_000_000
    for index in range(10):
        robot.frame(stamp=start + index * 33_000_000)
        time.sleep(0.02)
    robot.action_plan(1, 1, 1, 1)
    graph.wait_for(lambda: robot.said("no /clock has been received"), "the missing clock in diagnostics")
    assert robot.stands()
    clock = graph.tester.create_publisher(Clock, "/clock", qos.DEFAULT)
    graph.wait_for(lambda: clock.get_subscription_count(), "the clock's subscriber")
    for index in range(10, 200):
        clock.publish(Clock(clock=to_stamp(start + index * 33_000_000)))
        time.sleep(0.01)
        robot.frame(stamp=start + index * 33_000_000)
        time.sleep(0.02)
        if robot.speed() > 0.1:
            break
    assert robot.speed() > 0.1
    assert not robot.said("in the future")


def test_simulated_time_that_jumps_back_stops_the_robot_and_it_can_go_on(graph, nextdit):
    clock = graph.tester.create_publisher(Clock, "/clock", qos.DEFAULT)
    robot = Robot(graph, nextdit, use_sim_time=True)
    start = 1_000_000_000_000

    def frames(begin: int, count: int, until=lambda: False):
        for index in range(count):
            if until():
                break
            stamp = begin + index * 33_000_000
            clock.publish(Clock(clock=to_stamp(stamp)))
            time.sleep(0.01)
            robot.frame(stamp=stamp)
            time.sleep(0.02)

    def drives() -> bool:
        return robot.speed() > 0.1

    frames(start, 10)
    robot.action_plan(1, 1, 1, 1)
    frames(start + 330_000_000, 150, until=drives)
    assert drives()
    frames(start - 10 * 10**9, 15)
    graph.wait_for(lambda: robot.said("went back by"), "the jump in diagnostics")
    assert robot.stands()
    robot.action_plan(1, 1)
    frames(start - 9 * 10**9, 150, until=drives)
    assert drives()
    # /clock falls silent: ages do not grow any more, and the robot must not drive on for ever.
    graph.wait_for(lambda: robot.state() == ControllerState.NO_SENSORS, "state NO_SENSORS")
    assert "ROS time has stood still" in robot.states[-1].message


# -------------------------------------------------------------------------------------------------- configuration


def failed_configuration(graph: Graph, **parameters) -> str:
    node = graph.make(S1Controller, **parameters)
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    status = graph.wait_for(lambda: graph.diagnostics.get("s1_controller: life cycle"), "diagnostics")
    assert status.level == DiagnosticStatus.ERROR
    return status.message


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "parameter 'model' is empty"),
        ({"model": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"control_rate": 0.5}, "parameter 'control_rate' is 0.5: must be 1 … 200 Hz"),
        ({"mode": "fast"}, "parameter 'mode' is 'fast': must be one of 'sync', 'partial_async'"),
        ({"model": "x", "device": "abacus"}, "parameter 'device' is not usable"),
        ({"model": "x", "robot_outline": "0,0 1"}, "parameter 'robot_outline' is '0,0 1': must be corners"),
        ({"model": "x", "robot_outline": "1,0 2,0 2,1"}, "parameter 'robot_outline' is '1,0 2,0 2,1': footprint"),
        ({"model": "x", "robot_height": 0.1, "floor_clearance": 0.3}, "the parameters of the robot do not fit"),
        ({"model": "x", "sensor_timeout": 0.05}, "parameter 'sensor_timeout' is 0.05: must be at least two control"),
    ],
)
def test_an_invalid_parameter_fails_configuration_by_name_value_and_what_is_allowed(graph, parameters, message):
    assert message in failed_configuration(graph, **parameters)


def test_selection_by_a_critic_that_the_model_does_not_have_fails_configuration(graph, nextdit):
    message = failed_configuration(graph, model=str(nextdit), selection="critic")
    assert "parameter 'selection' is 'critic', but the model has no critic: take mean" in message


def test_a_path_is_chosen_for_the_whole_outline_of_the_robot(graph, nextdit):
    outline = "0.4,0.3 0.4,-0.3 -0.4,-0.3 -0.4,0.3"
    node = graph.make(S1Controller, model=str(nextdit), robot_radius=0.1, robot_outline=outline)
    assert node.trigger_configure() == SUCCESS
    assert node._path_maker._robot_radius == pytest.approx(0.5)


def test_a_missing_shard_fails_configuration_by_its_name(graph, nextdit, tmp_path):
    folder = shutil.copytree(nextdit, tmp_path / "model")
    weight_map = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    shard = next(file for key, file in weight_map.items() if key.startswith("model.traj_dit."))
    (folder / shard).unlink()
    assert shard in failed_configuration(graph, model=str(folder))


def test_a_good_parameter_after_a_failure_lets_the_node_start(graph, nextdit):
    node = graph.make(S1Controller, model=str(nextdit), control_rate=0.5)
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    node.set_parameters([Parameter("control_rate", value=10.0)])
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == SUCCESS


def test_speed_limits_can_be_changed_while_driving_and_the_model_cannot(robot):
    robot.forward()
    assert robot.node.set_parameters([Parameter("max_linear_speed", value=0.12)])[0].successful
    robot.drive_until(lambda: robot.speed() == pytest.approx(0.12), "the new speed limit")
    refused = robot.node.set_parameters([Parameter("model", value="other")])[0]
    assert not refused.successful
    assert "cannot change while the node is configured" in refused.reason
