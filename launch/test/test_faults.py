"""Faults, each over DDS with both nodes as real processes: the robot stands in time and no command comes after it.

The robot is played by this process: a camera with depth that sees an empty floor, a base that drives as it is told.
One pair of processes serves several faults: after each, a new instruction must bring the robot to drive again. A
second pair runs on simulated time, which this process makes jump.
"""

import array
import contextlib
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nav_msgs_ext", reason="needs ROS 2 and the built workspace: source scripts/env.sh")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as PathMessage
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from scenario import CONTROL_PERIOD, SLACK, START_SECONDS, crowding, node_processes
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, String

from dual_nav_bringup.domain import free_domain_id
from dual_nav_bringup.replay import ActiveWatch
from dual_nav_util import images, qos
from dual_nav_util.stamps import to_nanoseconds, to_stamp
from nav_msgs_ext.action import NavigateInstruction
from nav_msgs_ext.msg import ControllerState, S2Plan

RUNNER = [sys.executable, "-m", "dual_nav_bringup.launch_runner"]
WIDTH, HEIGHT, FOCAL = 160, 120, 100.0
CAMERA_HEIGHT = 0.6  # [m], the default of the controller
SENSOR_TIMEOUT, PLAN_TIMEOUT, HEARTBEAT_TIMEOUT = 0.5, 3.0, 0.3  # [s]; the plan's is shortened for the test
OWN_PLANS = 100_000  # numbers from here on are of plans this process sends
CAMERA_PERIOD, ODOMETRY_PERIOD, CLOCK_PERIOD = 1 / 15, 1 / 50, 1 / 100  # [s]
MALFORMED_PLANS = 10_000
LATENTS = (1, 4, 64)  # shape, of the small checkpoint


def floor_depth() -> np.ndarray:
    """An empty floor that ends at a wall 4 m ahead; uint16 millimetres."""
    below = np.arange(HEIGHT)[:, None] - (HEIGHT - 1) / 2
    floor = np.where(below > 0, CAMERA_HEIGHT * FOCAL / np.maximum(below, 1e-6), np.inf)
    return np.broadcast_to(np.minimum(floor, 4.0) * 1000, (HEIGHT, WIDTH)).astype(np.uint16)


class Robot:
    """Sensors and base. What is in `frozen` falls silent: camera, depth, odometry, clock.

    `simulated`: time is that of /clock, which comes from here and goes as the machine's own, `ahead_ns` from it.
    """

    def __init__(self, simulated: bool = False) -> None:
        self.context = rclpy.Context()
        self.context.init()
        self.node = node = rclpy.create_node("robot", context=self.context)
        self.watch = ActiveWatch(node)
        self.frozen: set[str] = set()
        self.commands: list[tuple[float, float, float]] = []  # moment of arrival, v, omega
        self.states: list[ControllerState] = []
        self.plans: list[S2Plan] = []
        self.stamps: list[int] = []
        self.ahead_ns = 0
        self.paths: list[PathMessage] = []
        self.figures: dict[str, str] = {}  # of the controller's diagnostics, by name
        self._lock = threading.Lock()
        self._pose, self._velocity, self._moved = np.zeros(3), (0.0, 0.0), time.monotonic()
        self._rgb = node.create_publisher(Image, "rgb", qos.NEWEST_FRAME)
        self._depth = node.create_publisher(Image, "depth", qos.NEWEST_FRAME)
        self._info = node.create_publisher(CameraInfo, "camera_info", qos.NEWEST_FRAME)
        self._odometry = node.create_publisher(Odometry, "odom", qos.ODOMETRY)
        self._instruction = node.create_publisher(String, "instruction", qos.LATCHED)
        self.plan_publisher = node.create_publisher(S2Plan, "s2/plan", qos.LATCHED)
        node.create_subscription(Twist, "cmd_vel", self._on_command, qos.DEFAULT)
        node.create_subscription(ControllerState, "s1/state", self.states.append, qos.DEFAULT)
        node.create_subscription(S2Plan, "s2/plan", self._on_plan, qos.LATCHED)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.DEFAULT)
        node.create_subscription(PathMessage, "s1/path", self.paths.append, qos.DEFAULT)
        self.navigate = ActionClient(node, NavigateInstruction, "navigate")
        self._set_parameters = node.create_client(SetParameters, "s1_controller/set_parameters")
        if simulated:
            self._clock = node.create_publisher(Clock, "/clock", qos.DEFAULT)
            node.create_timer(CLOCK_PERIOD, self._tick)
        node.create_timer(CAMERA_PERIOD, self._see)
        node.create_timer(ODOMETRY_PERIOD, self._move)
        self._pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        self._floor = floor_depth()
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(node)
        self._spinner = threading.Thread(target=self._spin, daemon=True)
        self._spinner.start()

    def _spin(self) -> None:
        with contextlib.suppress(rclpy.executors.ExternalShutdownException):
            self._executor.spin()

    def _on_command(self, message: Twist) -> None:
        self.commands.append((time.monotonic(), message.linear.x, message.angular.z))
        self._velocity = (message.linear.x, message.angular.z)

    def _on_plan(self, message: S2Plan) -> None:
        if message.plan_number < OWN_PLANS:
            self.plans.append(message)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.startswith("s1_controller:"):
                self.figures.update({value.key: value.value for value in status.values})

    def now_ns(self) -> int:
        return time.time_ns() + self.ahead_ns

    def _tick(self) -> None:
        if "clock" not in self.frozen:
            self._clock.publish(Clock(clock=to_stamp(self.now_ns())))

    def _see(self) -> None:
        header = Header(stamp=to_stamp(self.now_ns()), frame_id="camera")
        if "camera" not in self.frozen:
            self._rgb.publish(images.image_from_array(self._pixels, "rgb8", header))
            self.stamps.append(to_nanoseconds(header.stamp))
        if "depth" not in self.frozen:
            self._depth.publish(images.image_from_array(self._floor, "16UC1", header))
        info = CameraInfo(header=header, width=WIDTH, height=HEIGHT)
        info.k = np.array([FOCAL, 0, (WIDTH - 1) / 2, 0, FOCAL, (HEIGHT - 1) / 2, 0, 0, 1], dtype=float)
        self._info.publish(info)

    def _move(self) -> None:
        now = time.monotonic()
        elapsed, self._moved = now - self._moved, now
        v, omega = self._velocity
        x, y, yaw = self._pose
        self._pose = np.array(
            [x + v * elapsed * math.cos(yaw), y + v * elapsed * math.sin(yaw), yaw + omega * elapsed]
        )
        if "odometry" in self.frozen:
            return
        message = Odometry(header=Header(stamp=to_stamp(self.now_ns()), frame_id="odom"))
        message.pose.pose.position.x, message.pose.pose.position.y = self._pose[:2]
        message.pose.pose.orientation.z = math.sin(self._pose[2] / 2)
        message.pose.pose.orientation.w = math.cos(self._pose[2] / 2)
        message.twist.twist.linear.x, message.twist.twist.angular.z = v, omega
        self._odometry.publish(message)

    # --------------------------------------------------------------------------------------------------- watching

    def until(self, condition, what: str, seconds: float = 30.0):
        end = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > end:
                newest = [(s.state, s.ask, s.plan_number, s.message) for s in self.states[-1:]]
                raise AssertionError(f"not within {seconds:g} s: {what}; state {newest}, {len(self.plans)} plans")
            time.sleep(0.005)
        return value

    def moves(self) -> bool:
        return any(v > 0.02 or abs(omega) > 0.02 for _, v, omega in self.commands[-2:])

    def drive(self) -> None:
        """A new instruction; until the robot moves."""
        self.frozen.clear()
        self._instruction.publish(String(data=f"Go to the door {time.time_ns()}."))
        old = self.plans[-1].episode_id if self.plans else 0

        def drives() -> bool:
            followed = self.states[-1].episode_id if self.states else 0
            return bool(self.plans) and followed == self.plans[-1].episode_id > old and self.moves()

        self.until(drives, "the robot drives", START_SECONDS)

    def stands_for_good(self, since: float, limit: float, watched: float = 1.0) -> float:
        """Seconds from `since` to standstill; AssertionError when that is more than the limit or motion follows.

        While the machine itself stands still nothing can stop, so its longest halt meanwhile comes on top.
        """
        halt = 0.0
        while (now := time.monotonic()) < since + limit + halt + watched:
            time.sleep(0.005)
            halt = max(halt, time.monotonic() - now - 0.05)
        limit += halt
        moving = [moment for moment, v, omega in self.commands if moment > since and (v, omega) != (0.0, 0.0)]
        took = max(moving, default=since) - since
        assert took <= limit, f"a command to move {took:.2f} s after the fault, limit {limit:.2f} s"
        return took

    def newest_plan(self) -> S2Plan:
        return self.plans[-1]

    def send_plan(self, **fields) -> None:
        """A plan beside S2's own, of its episode; a good one if nothing is changed."""
        newest = self.newest_plan()
        plan = {
            "header": Header(stamp=to_stamp(self.stamps[-2])),
            "episode_id": newest.episode_id,
            "plan_number": newest.plan_number + OWN_PLANS,
            "kind": S2Plan.KIND_ACTIONS,
            "pixel_goal_column": -1,
            "pixel_goal_row": -1,
            "actions": array.array("B", [S2Plan.ACTION_FORWARD] * 4),
        }
        self.plan_publisher.publish(S2Plan(**(plan | fields)))

    def send_latents(self, shape: tuple[int, ...] = LATENTS, value: float = 0.1, **fields) -> None:
        """A plan with a pixel goal and latents of this shape, from which S1 samples paths."""
        latents = {
            "kind": S2Plan.KIND_TRAJ_LATENTS,
            "actions": array.array("B"),
            "pixel_goal_column": 1,
            "pixel_goal_row": 1,
            "image_width": WIDTH,
            "image_height": HEIGHT,
            "traj_latents_shape": array.array("I", shape),
            "traj_latents": array.array("f", [value] * math.prod(LATENTS)),
        }
        self.send_plan(**(latents | fields))

    def set_parameter(self, name: str, value: object) -> None:
        """Set a parameter of the controller while it runs."""
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        answer = self._set_parameters.call_async(request)
        self.until(answer.done, f"{name} is set")
        assert answer.result().results[0].successful, answer.result().results[0].reason

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        self.context.shutdown()


def slack() -> float:
    """A control period, and what crowding adds on the way of a message and of a command."""
    return CONTROL_PERIOD + SLACK * crowding()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A planner that always answers with four steps forward: the robot drives whatever S1's random weights say."""
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    command = [sys.executable, "-m", "dual_nav_training.random_checkpoint", str(folder), "--answers", "↑↑↑↑"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@contextlib.contextmanager
def launched(model: Path, folder: Path, simulated: bool = False) -> Iterator[Robot]:
    """A robot, and both nodes with the watchdog as real processes in a ROS domain of their own."""
    domain = {
        "ROS_DOMAIN_ID": str(free_domain_id()),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    before = {name: os.environ.get(name) for name in domain}
    os.environ.update(domain)
    parameters = folder / "s1.yaml"
    parameters.write_text(
        "/**:\n  ros__parameters:\n"
        f"    sensor_timeout: {SENSOR_TIMEOUT}\n    odometry_timeout: {SENSOR_TIMEOUT}\n"
        f"    plan_timeout: {PLAN_TIMEOUT}\n    heartbeat_timeout: {HEARTBEAT_TIMEOUT}\n"
        "    num_samples: 4\n    torch_threads: 1\n"
    )
    robot = Robot(simulated)
    log = folder / "nodes.log"
    with log.open("w") as sink:
        command = [*RUNNER, "robot.launch.xml", f"model:={model}", f"s1_params:={parameters}"]
        command += ["rgb_topic:=rgb", "depth_topic:=depth", "camera_info_topic:=camera_info"]
        command += [f"use_sim_time:={str(simulated).lower()}"]
        nodes = subprocess.Popen(command, stdout=sink, stderr=sink)
    try:
        robot.until(robot.watch.all_active, "both nodes are active", START_SECONDS)
        yield robot
    finally:
        nodes.send_signal(signal.SIGINT)
        nodes.wait(timeout=30)
        robot.close()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        print(log.read_text()[-4000:])


@pytest.fixture(scope="module")
def robot(model, tmp_path_factory):
    with launched(model, tmp_path_factory.mktemp("faults")) as robot:
        yield robot


@contextlib.contextmanager
def suspended(name: str) -> Iterator[None]:
    """A node's process stopped by SIGSTOP meanwhile."""
    (process,) = node_processes(name)
    process.suspend()
    try:
        yield
    finally:
        process.resume()


@pytest.fixture
def driving(robot):
    robot.drive()
    yield robot
    robot.frozen.clear()


@pytest.mark.parametrize("sensor", ["camera", "depth", "odometry"])
def test_a_frozen_sensor_ends_in_standstill_within_its_time_out_and_a_control_period(driving, sensor):
    driving.frozen.add(sensor)
    driving.stands_for_good(time.monotonic(), SENSOR_TIMEOUT + slack())
    assert driving.states[-1].state == ControllerState.NO_SENSORS


def test_a_hung_planner_ends_in_standstill_within_the_plan_time_out_and_a_control_period(driving):
    with suspended("s2_planner"):
        driving.stands_for_good(time.monotonic(), PLAN_TIMEOUT + slack())


def test_a_paused_controller_ends_in_standstill_by_the_watchdog_and_stays_so(driving):
    with suspended("s1_controller"):
        driving.stands_for_good(time.monotonic(), HEARTBEAT_TIMEOUT + slack())
        count = len(driving.commands)
        driving.until(lambda: len(driving.commands) > count, "the watchdog sends zeros")


@pytest.mark.parametrize(
    ("send", "said"),
    [
        (lambda robot: robot.send_plan(kind=9), "kind is 9"),
        (lambda robot: robot.send_plan(actions=array.array("B", [77])), "actions are"),
        (lambda robot: robot.send_latents(value=math.nan), "NaN"),
        (lambda robot: robot.send_latents(shape=(1, 4, 65)), "256 values, expected 260"),
        (lambda robot: robot.send_latents(shape=(4, 64)), "traj_latents_shape is [4, 64]"),
        (lambda robot: robot.send_latents(shape=(1, 8, 32)), "cannot be used"),
    ],
    ids=["unknown kind", "unknown action", "NaN", "wrong count", "wrong rank", "of another checkpoint"],
)
def test_a_malformed_plan_ends_in_standstill_at_once(driving, send, said):
    since = time.monotonic()
    send(driving)

    def faulty() -> bool:
        return any(s.state == ControllerState.FAULT and said in s.message for s in driving.states[-40:])

    driving.until(faulty, f"state FAULT that says {said!r}")
    at = driving.until(
        lambda: next((m for m, v, omega in driving.commands if m > since and (v, omega) == (0.0, 0.0)), None),
        "a zero command",
    )
    # One that fits this message but not this checkpoint is found out by the model's thread, after the frame at hand.
    assert at - since < slack() + (0.2 if said == "cannot be used" else 0.0)


@pytest.mark.parametrize("fault", ["from the future", "of an older episode", "too old"])
def test_plans_out_of_their_time_do_not_keep_the_robot_driving(driving, fault):
    number = driving.newest_plan().plan_number + OWN_PLANS
    turns = array.array("B", [S2Plan.ACTION_TURN_LEFT] * 6)
    with suspended("s2_planner"):
        since = time.monotonic()
        while time.monotonic() < since + PLAN_TIMEOUT + 1.0:
            number += 1
            ahead = {"from the future": 3600.0, "too old": -PLAN_TIMEOUT - 1.0}.get(fault, 0.0)
            fields = {"header": Header(stamp=to_stamp(driving.now_ns() + int(ahead * 1e9)))}
            if fault == "of an older episode":
                fields["episode_id"] = driving.newest_plan().episode_id - 1
            driving.send_plan(plan_number=number, actions=turns, **fields)
            time.sleep(0.05)
        driving.stands_for_good(since, PLAN_TIMEOUT + slack(), watched=1.5)
        reported = driving.states[-100:]
    assert not [state for state in reported if state.plan_number >= OWN_PLANS]
    assert ControllerState.TURNING not in {state.state for state in reported}


def test_nothing_of_the_episode_moves_the_robot_after_stop(driving):
    driving.send_plan(actions=array.array("B", [S2Plan.ACTION_STOP]))
    since = time.monotonic()
    driving.until(lambda: driving.states[-1].state == ControllerState.ARRIVED, "state ARRIVED")
    for number in range(5):
        driving.send_plan(plan_number=driving.newest_plan().plan_number + 2 * OWN_PLANS + number)
        time.sleep(0.1)
    driving.stands_for_good(since, slack())


def test_a_path_that_comes_after_stop_does_not_move_the_robot(driving):
    number = driving.newest_plan().plan_number + OWN_PLANS
    count = len(driving.paths)

    def samples() -> bool:
        nonlocal number
        number += 1
        driving.send_latents(plan_number=number)
        time.sleep(2 * CAMERA_PERIOD)
        return len(driving.paths) > count

    driving.until(samples, "a path")
    # S1 samples a path for every frame now; STOP comes in the middle of one.
    driving.send_latents(plan_number=number + 1)
    time.sleep(CAMERA_PERIOD)
    driving.send_plan(plan_number=number + 2, actions=array.array("B", [S2Plan.ACTION_STOP]))
    driving.stands_for_good(time.monotonic(), slack())
    assert driving.states[-1].state == ControllerState.ARRIVED


def test_a_solver_that_always_fails_is_replaced_and_the_robot_still_stops_for_a_frozen_camera(driving):
    driving.set_parameter("solver_time_limit", 1e-6)
    try:
        number = driving.newest_plan().plan_number + OWN_PLANS

        def fails() -> bool:
            nonlocal number
            number += 1
            driving.send_latents(plan_number=number, value=math.sin(number))
            time.sleep(0.3)
            return "solver" in driving.figures["last fallback of the tracker"]

        driving.until(fails, "the solver fails")
        driving.frozen.add("camera")
        driving.stands_for_good(time.monotonic(), SENSOR_TIMEOUT + slack())
    finally:
        driving.set_parameter("solver_time_limit", 0.01)


def test_cancelling_navigate_ends_in_standstill_within_a_control_period(robot):
    robot.frozen.clear()
    robot.until(robot.navigate.server_is_ready, "action navigate")
    sent = robot.navigate.send_goal_async(NavigateInstruction.Goal(instruction="Go to the window."))
    robot.until(sent.done, "the goal is accepted")
    handle = sent.result()
    assert handle.accepted
    count = len(robot.plans)
    robot.until(lambda: len(robot.plans) > count and robot.moves(), "the robot drives")
    since = time.monotonic()
    handle.cancel_goal_async()
    # By way of both nodes: a request, a plan and a command.
    robot.stands_for_good(since, slack() + SLACK, watched=1.5)
    result = handle.get_result_async()
    robot.until(result.done, "the result")
    assert result.result().result.reason == NavigateInstruction.Result.CANCELLED


def test_ten_thousand_malformed_plans_never_move_the_robot_and_the_controller_lives_on(driving):
    """Each is seen by the controller: a plan replaces one that was not taken yet, so its own count is what tells."""
    (controller,) = node_processes("s1_controller")
    driving.send_plan(actions=array.array("B", [S2Plan.ACTION_STOP]))
    driving.until(lambda: driving.states[-1].state == ControllerState.ARRIVED, "state ARRIVED")
    since, rng = time.monotonic(), random.Random(0)
    episode = driving.newest_plan().episode_id
    number = 2 * OWN_PLANS

    def seen() -> int:
        """By the controller, once its diagnostics are newer than now."""
        driving.figures.pop("plans received", None)
        return int(driving.until(lambda: driving.figures.get("plans received"), "diagnostics"))

    before = seen()
    while (missing := MALFORMED_PLANS - (seen() - before)) > 0:
        assert time.monotonic() < since + 400.0, f"{missing} not seen yet"
        for _ in range(missing):
            number += 1
            states = len(driving.states)
            driving.plan_publisher.publish(malformed_plan(rng, episode, number))
            # The controller answers each with its state; it reports by itself, too, so a few are overtaken.
            end = time.monotonic() + 0.1
            while len(driving.states) == states and time.monotonic() < end:
                time.sleep(0.0005)
    driving.stands_for_good(since, slack(), watched=1.0)
    assert controller.is_running()
    assert driving.states[-1].plan_number < OWN_PLANS + 100_000


def malformed_plan(rng: random.Random, episode: int, number: int) -> S2Plan:
    count = rng.choice([0, 1, 7, 256])
    return S2Plan(
        header=Header(stamp=to_stamp(rng.choice([0, time.time_ns(), rng.randrange(2**31 * 10**9)]))),
        episode_id=rng.choice([0, episode, episode + 1, 2**64 - 1 - rng.randrange(2**32)]),
        plan_number=number,
        kind=rng.choice([0, 1, 2, 3, 255]),
        actions=array.array("B", [rng.choice([4, 6, 77, 255]) for _ in range(rng.randrange(5))]),
        pixel_goal_column=rng.randrange(-(2**31), 2**31),
        pixel_goal_row=rng.randrange(-(2**31), 2**31),
        image_width=rng.choice([0, 1, 160, 2**32 - 1]),
        traj_latents_shape=array.array("I", [rng.randrange(2**32) for _ in range(rng.randrange(5))]),
        traj_latents=array.array("f", [rng.choice([math.nan, math.inf, 1e38, 0.0]) for _ in range(count)]),
    )


def test_a_killed_planner_ends_in_standstill_and_the_next_one_drives_again(driving):
    (planner,) = node_processes("s2_planner")
    planner.kill()
    driving.stands_for_good(time.monotonic(), PLAN_TIMEOUT + slack(), watched=0.3)
    driving.until(lambda: [p for p in node_processes("s2_planner") if p != planner], "a new planner")
    driving.drive()


@pytest.fixture(scope="module")
def simulated(model, tmp_path_factory):
    with launched(model, tmp_path_factory.mktemp("simulated"), simulated=True) as robot:
        yield robot


@pytest.mark.parametrize(
    ("jump", "limit"),
    [(+100.0, 0.0), (-100.0, 0.0), (None, SENSOR_TIMEOUT)],
    ids=["forward", "backward", "standing still"],
)
def test_simulated_time_that_jumps_or_stands_still_ends_in_standstill(simulated, jump, limit):
    simulated.drive()
    with suspended("s2_planner"):  # which would otherwise plan anew in the new time, rightly
        since = time.monotonic()
        if jump is None:
            simulated.frozen.add("clock")
        else:
            simulated.ahead_ns += int(jump * 1e9)
        simulated.stands_for_good(since, limit + slack(), watched=1.5)
    simulated.frozen.clear()
    simulated.drive()
