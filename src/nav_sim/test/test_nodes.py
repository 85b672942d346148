"""The simulator and the oracles as processes, over DDS: what a robot's topics look like, and a whole episode."""

import contextlib
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
from geometry_msgs.msg import Twist  # noqa: E402
from nav_msgs.msg import Odometry  # noqa: E402
from rcl_interfaces.srv import SetParameters  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402
from std_msgs.msg import String, UInt32  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from dual_nav_util import images, qos  # noqa: E402
from dual_nav_util.stamps import to_nanoseconds, to_stamp  # noqa: E402
from dual_nav_util.testing import own_domain  # noqa: E402
from nav_msgs_ext.msg import ControllerState, S2Plan  # noqa: E402
from nav_sim.episodes import make_episode  # noqa: E402
from nav_sim.oracle_node import ACKNOWLEDGE_TIMEOUT, TOGETHER, OracleS2  # noqa: E402
from nav_sim.oracles import STOP  # noqa: E402
from nav_sim.parameters import episode_named  # noqa: E402

EPISODE = "test-0-object-0002"
PATIENCE = 120.0  # seconds of a slow and busy machine


@pytest.fixture(scope="module")
def domain():
    """A ROS domain that others are unlikely to use, for this process and those it starts."""
    before = dict(os.environ)
    os.environ["ROS_DOMAIN_ID"] = str(own_domain())
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    rclpy.init()
    yield
    rclpy.shutdown()
    os.environ.clear()
    os.environ.update(before)


@contextlib.contextmanager
def process(function, *parameters, **popen_options):
    """One of this package's processes; it has to end by itself, with status 0, when told by Ctrl-C."""
    code = f"import sys; from nav_sim.main import {function}; sys.exit({function}())"
    options = ["--ros-args", "-p", "autostart:=true", *(part for value in parameters for part in ("-p", value))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    running = subprocess.Popen([sys.executable, "-c", code, *options], env=environment, **popen_options)
    try:
        yield running
        running.send_signal(signal.SIGINT)
        assert running.wait(PATIENCE) == 0
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()


class Listener:
    """Collects what comes on topics."""

    def __init__(self, **topics):
        self.node = rclpy.create_node("listener")
        self.got = {name: [] for name in topics}
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        for name, (kind, profile) in topics.items():
            topic = name.replace("__", "/")
            self.node.create_subscription(kind, topic, self.got[name].append, profile)

    def until(self, condition, why):
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, why
            self.executor.spin_once(timeout_sec=0.1)

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()


def test_the_topics_are_those_of_a_camera_and_a_base(rendering, domain):
    listener = Listener(
        rgb=(Image, qos.NEWEST_FRAME),
        depth=(Image, qos.NEWEST_FRAME),
        depth_look_down=(Image, qos.NEWEST_FRAME),
        camera_info=(CameraInfo, qos.NEWEST_FRAME),
        odom=(Odometry, qos.ODOMETRY),
        clock=(Clock, qos.NEWEST_STATE),
        instruction=(String, qos.LATCHED),
        collisions=(UInt32, qos.LATCHED),
    )
    commands = listener.node.create_publisher(Twist, "cmd_vel", qos.NEWEST_STATE)
    episode = make_episode("test", 0, "object", 2)
    got = listener.got
    with process("nav_sim", f"episode:={EPISODE}", "look:=plain", "publish_instruction:=true", "depth_maximum:=3.0"):
        listener.until(lambda: all(got[name] for name in got) and len(got["rgb"]) > 4, f"silent: {got.keys()}")

        def stamps(name):
            return {to_nanoseconds(message.header.stamp) for message in got[name]}

        listener.until(lambda: stamps("rgb") & stamps("depth"), "rgb and depth have no stamp in common")
        rgb, info = got["rgb"][-1], got["camera_info"][-1]
        assert (rgb.encoding, rgb.width, rgb.height) == ("rgb8", 640, 480)
        assert rgb.header.frame_id == info.header.frame_id == "camera_color_optical_frame"
        assert info.k[0] == pytest.approx(388.2, abs=0.05)
        assert got["depth"][-1].encoding == "16UC1"
        assert got["depth_look_down"][-1].header.frame_id == "camera_look_down_color_optical_frame"
        depth = images.depth_from_image(got["depth"][-1], "depth")
        assert 0.2 <= depth[depth > 0].min() <= depth.max() <= 3.0
        assert all(np.diff(sorted(stamps("rgb"))) % 100_000_000 == 0)  # 10 Hz
        assert abs(to_nanoseconds(got["clock"][-1].clock) - max(stamps("rgb"))) < 2e9
        assert got["instruction"][0].data == episode.instruction
        assert got["collisions"][-1].data == 0

        def position():
            pose = got["odom"][-1].pose.pose.position
            return pose.x, pose.y

        assert position() == pytest.approx((episode.start.x, episode.start.y))
        # Turning on the spot, then silence: the base stops by itself.
        turn = Twist()
        turn.angular.z = 0.8

        def turns():
            commands.publish(turn)
            return got["odom"][-1].twist.twist.angular.z > 0.5

        listener.until(turns, "the robot does not turn")
        listener.until(lambda: abs(got["odom"][-1].twist.twist.angular.z) < 0.01, "the robot does not stop")
        assert math.dist(position(), (episode.start.x, episode.start.y)) < 0.02
    listener.close()


@pytest.mark.parametrize("wait_for", ["nobody", "planner_and_controller"])
def test_the_oracles_solve_an_episode_over_dds(rendering, domain, wait_for):
    listener = Listener(
        s2__plan=(S2Plan, qos.LATCHED), s1__state=(ControllerState, qos.NEWEST_STATE),
        ground_truth=(Odometry, qos.ODOMETRY), collisions=(UInt32, qos.LATCHED),
    )  # fmt: skip
    got = listener.got
    world = ("look:=plain", "rate:=3.0", f"wait_for:={wait_for}", "publish_instruction:=true")
    # As sim.launch.xml does it; without lock-step the control period is one of real time.
    control = ("lock_step:=true", "use_sim_time:=true") if wait_for != "nobody" else ("control_rate:=60.0",)
    with (
        process("oracle_s2"),
        process("oracle_s1", *control),
        process("nav_sim", f"episode:={EPISODE}", *world),
    ):
        arrived = ControllerState.ARRIVED
        listener.until(
            lambda: got["s1__state"] and got["s1__state"][-1].state == arrived, "the robot does not arrive"
        )
        listener.until(lambda: list(got["s2__plan"][-1].actions) == [STOP], "the plan to stop does not come")
    plans = got["s2__plan"]
    assert [plan.plan_number for plan in plans] == sorted(plan.plan_number for plan in plans)
    assert any(plan.kind == S2Plan.KIND_PIXEL_GOAL for plan in plans)
    # At a rate of its own the world does not wait for a controller that a busy machine keeps from driving.
    assert wait_for == "nobody" or got["collisions"][-1].data == 0
    target = make_episode("test", 0, "object", 2)
    pose = got["ground_truth"][-1].pose.pose.position
    item = target.flat.items[target.goals[0]]
    assert math.dist((pose.x, pose.y), (item.x / 100, item.y / 100)) < 1.5
    listener.close()


def test_a_wrong_parameter_is_named_and_nothing_runs(domain):
    with process("nav_sim", "episode:=test-0-poem-0001", stderr=subprocess.PIPE, text=True) as running:
        line = next((line for line in running.stderr if "configuration failed" in line), "the process has ended")
    assert "parameter 'episode' is 'test-0-poem-0001'" in line


def test_another_episode_is_loaded_into_the_running_simulator_and_time_goes_on(rendering, domain):
    listener = Listener(episode=(String, qos.LATCHED), ground_truth=(Odometry, qos.ODOMETRY),
                        instruction=(String, qos.LATCHED), clock=(Clock, qos.NEWEST_STATE))  # fmt: skip
    got, other = listener.got, make_episode("test", 0, "route", 1)
    with process("nav_sim", f"episode:={EPISODE}", "look:=plain"):
        listener.until(lambda: got["episode"], "nothing is loaded")
        assert got["episode"][0].data == EPISODE
        listener.until(lambda: len(got["clock"]) > 5, "no clock")
        before = to_nanoseconds(got["clock"][-1].clock)

        def call(kind, name, request):
            client = listener.node.create_client(kind, name)
            listener.until(client.service_is_ready, f"no {name}")
            future = client.call_async(request)
            listener.until(future.done, f"{name} does not answer")
            return future.result()

        name = Parameter("episode", value=other.name).to_parameter_msg()
        answer = call(SetParameters, "nav_sim/set_parameters", SetParameters.Request(parameters=[name]))
        assert answer.results[0].successful, answer.results[0].reason
        assert call(Trigger, "nav_sim/reset", Trigger.Request()).success
        listener.until(lambda: got["episode"][-1].data == other.name, "the other episode does not come")
        assert not got["instruction"]
        assert call(Trigger, "nav_sim/instruct", Trigger.Request()).success
        listener.until(lambda: got["instruction"], "no instruction")
        assert got["instruction"][0].data == other.instruction
        listener.until(lambda: to_nanoseconds(got["clock"][-1].clock) > before, "time stands still")
        times = [to_nanoseconds(message.clock) for message in got["clock"]]
        assert times == sorted(times)

        def at_its_start():
            pose = got["ground_truth"][-1].pose.pose.position
            return (pose.x, pose.y) == pytest.approx((other.start.x, other.start.y), abs=1e-6)

        listener.until(at_its_start, "the robot does not stand at the start of the other episode")
        bad = Parameter("episode", value="test-0-poem-0001").to_parameter_msg()
        answer = call(SetParameters, "nav_sim/set_parameters", SetParameters.Request(parameters=[bad]))
        assert "test-0-poem-0001" in answer.results[0].reason
    listener.close()


@pytest.fixture
def oracle_s2(domain):
    """An active oracle S2 in this process, whose callbacks the test calls."""
    node = OracleS2()
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    yield node
    node.close()
    node.destroy_node()


def send_frame(node, episode, number):
    """The robot stands at the start of the episode."""
    start, pose, info = episode.start, Odometry(), CameraInfo()
    pose.pose.pose.position.x, pose.pose.pose.position.y = start.x, start.y
    pose.pose.pose.orientation.z = math.sin(start.yaw / 2)
    pose.pose.pose.orientation.w = math.cos(start.yaw / 2)
    pose.header.stamp = info.header.stamp = to_stamp(10**9 + number * 10**8)
    node._on_pose(pose)
    node._on_frame(info)


def test_a_plan_that_the_controller_missed_is_made_again(oracle_s2):
    node, episode = oracle_s2, make_episode("test", 0, "object", 0)
    node._on_episode(String(data=episode.name))
    send_frame(node, episode, 0)
    assert node._plans == 0  # nobody has said what to do
    node._on_instruction(String(data=episode.instruction))
    send_frame(node, episode, 1)
    assert node._plans == 1
    send_frame(node, episode, 2)
    assert node._plans == 1  # S1 has not said anything yet
    node._on_state(ControllerState())
    send_frame(node, episode, 3)
    assert node._plans == 1  # too early to call it missed
    node._sent_at -= ACKNOWLEDGE_TIMEOUT
    node._on_state(ControllerState())
    node._on_state(ControllerState())
    send_frame(node, episode, 4)
    assert node._plans == 2


def test_an_instruction_is_followed_though_it_comes_before_its_episode(oracle_s2, monkeypatch):
    clock, late = time.monotonic, 0.0

    def slowly(name):
        nonlocal late
        late += 2 * TOGETHER  # it takes to build the flat
        return episode_named(name)

    monkeypatch.setattr("nav_sim.oracle_node.episode_named", slowly)
    monkeypatch.setattr("nav_sim.oracle_node.time.monotonic", lambda: clock() + late)
    node, first, second = oracle_s2, make_episode("test", 0, "object", 2), make_episode("test", 0, "object", 3)
    node._on_instruction(String(data=first.instruction))
    send_frame(node, first, 0)
    assert node._plans == 0  # in which flat?
    node._instructed_at -= TOGETHER  # it waits for as long as it takes
    node._on_episode(String(data=first.name))
    send_frame(node, first, 1)
    assert node._plans == 1
    assert node._planner._goals == first.goals
    node._on_instruction(String(data=second.instruction))
    node._on_episode(String(data=second.name))
    send_frame(node, second, 2)
    assert node._plans == 1
    assert node._planner._goals == second.goals


def test_an_instruction_that_fits_into_no_prompt_is_answered_with_stop_where_latents_are_wanted(oracle_s2):
    class Refusing:
        cameras = staticmethod(lambda cameras: cameras)

        def start_episode(self, instruction):
            raise ValueError("instruction is empty")

    node, episode = oracle_s2, make_episode("test", 0, "object", 0)
    node._latents = Refusing()
    node._instruction = episode.instruction
    node._follow(episode)
    plan = node._planner.plan(episode.start)
    assert plan.actions == (STOP,)
    assert plan.answer == "instruction is empty"


def test_what_was_followed_before_is_not_followed_again_when_another_episode_begins(oracle_s2):
    node, first, second = oracle_s2, make_episode("test", 0, "object", 2), make_episode("test", 0, "object", 3)
    node._on_episode(String(data=first.name))
    node._on_instruction(String(data="Go to the sofa."))
    send_frame(node, first, 0)
    assert node._plans == 1
    node._on_episode(String(data=second.name))
    assert not node._under_way
    node._instructed_at -= TOGETHER  # said long ago, even in the same words
    node._instruction = first.instruction
    node._on_episode(String(data=first.name))
    assert not node._under_way
