"""What the controller follows and when it stands: every failure ends in zero velocity with a reason."""

import math
import re
from dataclasses import dataclass

import numpy as np
import pytest
from test_plan_intake import actions, plan

from s1_controller_node.controller import PARTIAL_ASYNC, SYNC, Controller, GoalKinds
from s1_controller_node.follower import Follower, FollowerConfig, MotionStep
from s1_controller_node.frames import FrameRing
from s1_controller_node.geometry import STANDSTILL, Twist2D
from s1_controller_node.odometry import OdometryBuffer, OdometryGap, OdometrySample
from s1_controller_node.plan_intake import PlanRefused
from s1_controller_node.stop_rules import State, TimeLimits

START = 1_000_000_000_000
MS = 1_000_000
LIMITS = TimeLimits(sensor=0.5, odometry=0.5, plan=2.0, future=0.5)
STRAIGHT = np.stack([np.linspace(0, 2, 33), np.zeros(33), np.zeros(33)], axis=1)


@dataclass
class Frame:
    stamp_ns: int


class Robot:
    """A controller with its inputs and a clock; 30 ms per tick."""

    def __init__(self, mode=PARTIAL_ASYNC, goals=GoalKinds(latents=True, pixel_goal=False), motion=None) -> None:  # noqa: B008
        self.frames, self.odometry = FrameRing(100), OdometryBuffer(100, max_gap=0.2)
        motion = motion or Follower(FollowerConfig())
        self.controller = Controller(mode, LIMITS, goals, motion, self.frames, self.odometry)
        self.now, self.steady = START, 0.0
        self.pose = np.zeros(3)

    def tick(self, count=1, camera=True, odometry=True, clock=True):
        for _ in range(count):
            self.steady += 0.03
            self.now += 30 * MS if clock else 0
            if camera:
                self.frames.add(Frame(self.now))
            if odometry:
                self.odometry.add(OdometrySample(self.now, self.pose.copy(), STANDSTILL))
        return self.command()

    def command(self):
        return self.controller.command(self.now, self.steady)

    def send(self, **changes):
        return self.controller.plan_arrived(plan(stamp_ns=self.frames.newest_stamp_ns, **changes), self.now)

    def send_actions(self, *codes, **changes):
        return self.controller.plan_arrived(actions(*codes, stamp_ns=self.now, **changes), self.now)

    def path(self, path=STRAIGHT, actions=(1, 1, 1, 1, 1)):
        task = self.controller.task(self.now)
        return self.controller.path_ready(task, self.frames.newest_stamp_ns, path, lambda: actions, self.now)

    def driving(self):
        self.tick(5)
        self.send()
        self.path()
        return self.command()


@pytest.fixture
def robot():
    return Robot()


def test_states_are_those_of_the_message():
    message = pytest.importorskip("nav_msgs_ext.msg").ControllerState
    assert {s.name: s.value for s in State} == {s.name: getattr(message, s.name) for s in State}


def test_it_stands_until_sensors_a_plan_and_a_path_are_there(robot):
    assert (robot.command().state, robot.command().twist) == (State.NO_SENSORS, STANDSTILL)
    command = robot.tick(5)
    assert (command.state, command.message) == (State.IDLE, "no plan yet")
    robot.send()
    command = robot.command()
    assert (command.state, command.twist, command.plan_number) == (State.FOLLOWING, STANDSTILL, 3)
    assert "first path of plan 3 of episode 7 is being computed" in command.message
    robot.path()
    command = robot.command()
    assert (command.state, command.message) == (State.FOLLOWING, "")
    assert command.twist.v > 0.1
    assert command.distance_left == pytest.approx(2.0)


def test_latency_and_stamp_are_those_of_the_frame_behind_the_path(robot):
    robot.tick(5)
    robot.send()
    stamp = robot.frames.newest_stamp_ns
    robot.now += 45 * MS
    robot.path()
    command = robot.command()
    assert command.frame_stamp_ns == stamp
    assert command.latency == pytest.approx(0.045)


def test_a_path_is_placed_at_the_pose_of_its_frame_and_not_where_the_robot_is_now(robot):
    robot.tick(5)
    robot.send()
    task, stamp = robot.controller.task(robot.now), robot.frames.newest_stamp_ns
    robot.pose = np.array([0.7, 0.1, 0.2])
    robot.tick(10)
    placed = robot.controller.path_ready(task, stamp, STRAIGHT, tuple, robot.now)
    np.testing.assert_array_equal(placed, np.zeros(3))
    assert robot.command().distance_left == pytest.approx(1.3, abs=0.1)


@pytest.mark.parametrize(
    ("silent", "state", "message"),
    [
        ("camera", State.NO_SENSORS, r"newest camera frame is 0.6\d s old \(sensor_timeout 0.5 s\)"),
        ("odometry", State.NO_SENSORS, r"newest odometry is 0.6\d s old \(odometry_timeout 0.5 s\)"),
        ("clock", State.NO_SENSORS, r"ROS time has stood still for 0.6\d s"),
    ],
)
def test_silence_of_any_input_ends_in_standstill_with_the_reason(robot, silent, state, message):
    assert robot.driving().twist != STANDSTILL
    inputs = {"camera": True, "odometry": True, "clock": True} | {silent: False}
    if silent == "clock":
        inputs |= {"camera": False, "odometry": False}
    assert robot.tick(16, **inputs).twist != STANDSTILL
    command = robot.tick(5, **inputs)
    assert (command.state, command.twist) == (state, STANDSTILL)
    assert re.search(message, command.message)


def test_a_plan_that_is_not_renewed_ends_in_standstill(robot):
    robot.driving()
    assert robot.tick(60).twist != STANDSTILL
    command = robot.tick(10)
    assert (command.state, command.twist) == (State.STALE_PLAN, STANDSTILL)
    assert "plan_timeout 2 s" in command.message
    assert robot.controller.task(robot.now) is None


def test_a_hung_model_ends_in_standstill_although_plans_keep_coming(robot):
    robot.driving()
    for number in range(4, 8):
        robot.tick(20)
        robot.send(plan_number=number)
    command = robot.command()
    assert (command.state, command.twist) == (State.STALE_PLAN, STANDSTILL)
    assert "newest path" in command.message


def test_a_stamp_far_in_the_past_hints_at_simulated_time(robot):
    robot.tick(5)
    robot.now += 3 * 86400 * 1000 * MS
    assert "use_sim_time" in robot.command().message


def test_a_malformed_plan_stops_the_robot_until_a_good_one(robot):
    robot.driving()
    with pytest.raises(PlanRefused):
        robot.send(plan_number=4, traj_latents=[math.nan] * 32)
    command = robot.tick()
    assert (command.state, command.twist) == (State.FAULT, STANDSTILL)
    assert "32 NaN" in command.message
    assert robot.controller.task(robot.now) is None
    robot.send(plan_number=5)
    robot.path()
    assert robot.command().twist.v > 0


def test_a_late_plan_of_an_older_episode_changes_nothing(robot):
    robot.driving()
    with pytest.raises(PlanRefused, match="seen before"):
        robot.send(episode_id=6, plan_number=99)
    assert robot.command().twist.v > 0


def test_a_plan_whose_frame_is_not_kept_is_refused(robot):
    robot.tick(5)
    with pytest.raises(PlanRefused, match="is not among the 5 kept frames"):
        robot.controller.plan_arrived(plan(stamp_ns=START - 1000 * MS), robot.now)
    assert robot.command().twist == STANDSTILL


def test_plans_for_another_model_are_refused():
    needs_latents = Robot(goals=GoalKinds(latents=True, pixel_goal=False))
    needs_latents.tick(5)
    with pytest.raises(PlanRefused, match="pixel goal without traj_latents, which this checkpoint needs"):
        needs_latents.send(kind=1, traj_latents_shape=[], traj_latents=[])
    pixel = Robot(goals=GoalKinds(latents=False, pixel_goal=True))
    pixel.tick(5)
    with pytest.raises(PlanRefused, match="look-down image"):
        pixel.send(kind=1, traj_latents_shape=[], traj_latents=[], look_down=True)
    assert pixel.send(plan_number=4, kind=1, traj_latents_shape=[], traj_latents=[]).pixel_goal == (100, 200)


def test_stop_latches_until_a_newer_episode(robot):
    robot.driving()
    robot.send_actions(0, plan_number=4)
    command = robot.command()
    assert (command.state, command.twist) == (State.ARRIVED, STANDSTILL)
    with pytest.raises(PlanRefused, match="STOP ended this episode"):
        robot.send(plan_number=5)
    assert robot.controller.task(robot.now) is None
    assert robot.tick(5).state == State.ARRIVED
    robot.send(episode_id=8, plan_number=0)
    robot.path()
    assert robot.command().twist.v > 0


def test_a_path_that_arrives_after_stop_does_not_move_the_robot(robot):
    robot.driving()
    task = robot.controller.task(robot.now)
    robot.send_actions(0, plan_number=4)
    assert robot.controller.path_ready(task, robot.now, STRAIGHT, tuple, robot.now) is None
    assert robot.command().twist == STANDSTILL


def test_a_path_of_the_plan_before_is_followed_until_the_new_plan_has_its_first(robot):
    robot.driving()
    old = robot.controller.task(robot.now)
    robot.tick()
    robot.send(plan_number=4)
    assert robot.command().twist.v > 0
    assert robot.controller.path_ready(old, robot.now, STRAIGHT, tuple, robot.now) is not None
    assert robot.command().frame_stamp_ns == robot.now
    assert robot.controller.task(robot.now).plan.plan_number == 4


def test_in_mode_sync_a_path_of_the_plan_before_is_discarded():
    robot = Robot(mode=SYNC)
    robot.tick(5)
    robot.send()
    old = robot.controller.task(robot.now)
    robot.send(plan_number=4)
    assert robot.controller.path_ready(old, robot.now, STRAIGHT, tuple, robot.now) is None


def test_a_new_episode_stops_the_path_of_the_old_one_at_once(robot):
    robot.driving()
    old = robot.controller.task(robot.now)
    robot.send(episode_id=8, plan_number=0)
    assert robot.command().twist == STANDSTILL
    assert robot.controller.path_ready(old, robot.now, STRAIGHT, tuple, robot.now) is None


def test_discrete_actions_are_executed_and_counted_down(robot):
    robot.tick(5)
    robot.send_actions(2, 2)
    command = robot.command()
    assert (command.state, command.actions_left) == (State.TURNING, 2)
    assert command.twist.omega > 0
    robot.pose = np.array([0, 0, math.radians(15)])
    assert robot.tick().actions_left == 1
    robot.pose = np.array([0, 0, math.radians(30)])
    command = robot.tick()
    assert (command.state, command.actions_left, command.twist) == (State.IDLE, 0, STANDSTILL)
    assert "used up" in command.message


def test_actions_that_end_in_stop_latch_when_they_are_done(robot):
    robot.tick(5)
    robot.send_actions(2, 0)
    assert robot.command().state == State.TURNING
    robot.pose = np.array([0, 0, math.radians(15)])
    assert robot.tick().state == State.ARRIVED
    with pytest.raises(PlanRefused, match="STOP ended this episode"):
        robot.send_actions(1, plan_number=4)


def test_mode_sync_drives_the_actions_of_one_sample_per_plan():
    robot = Robot(mode=SYNC)
    robot.tick(5)
    robot.send()
    robot.path(actions=(1, 1, 2, 1))
    assert robot.command().actions_left == 4
    assert robot.controller.task(robot.now) is None
    robot.send(plan_number=4)
    robot.path(actions=())
    assert (robot.command().state, robot.command().actions_left) == (State.IDLE, 0)


def test_an_odometry_gap_at_the_frame_stops_the_robot_instead_of_guessing(robot):
    robot.tick(5)
    robot.send()
    task = robot.controller.task(robot.now)
    robot.tick(10, odometry=False)
    with pytest.raises(OdometryGap, match=r"newest odometry is 0\.300 s older than the frame"):
        robot.controller.path_ready(task, robot.frames.newest_stamp_ns, STRAIGHT, tuple, robot.now)
    assert (robot.command().state, robot.command().twist) == (State.NO_SENSORS, STANDSTILL)


def test_a_path_with_nan_stops_the_robot(robot):
    robot.driving()
    with pytest.raises(ValueError, match="1 NaN"):
        robot.path(np.where(np.arange(99).reshape(33, 3) == 50, np.nan, STRAIGHT))
    assert (robot.command().state, robot.command().twist) == (State.FAULT, STANDSTILL)
    robot.path()
    assert robot.command().twist.v > 0


def test_an_error_of_the_model_stops_the_robot(robot):
    robot.driving()
    robot.controller.inference_failed(robot.controller.task(robot.now), "out of memory")
    command = robot.command()
    assert (command.state, command.message, command.twist) == (State.FAULT, "out of memory", STANDSTILL)


@pytest.mark.parametrize("outcome", [ZeroDivisionError("no solution"), Twist2D(math.nan, 0.0)])
def test_a_failing_motion_layer_stops_the_robot_and_not_the_process(outcome):
    class Broken(Follower):
        def step(self, pose):
            if isinstance(outcome, Exception):
                raise outcome
            return MotionStep(outcome, distance_left=1.0)

    robot = Robot(motion=Broken(FollowerConfig()))
    command = robot.driving()
    assert (command.state, command.twist) == (State.FAULT, STANDSTILL)
    assert "motion layer failed" in command.message


def test_a_clock_that_jumps_back_forgets_everything_with_a_stamp_but_not_a_stop(robot):
    robot.driving()
    robot.controller.time_jumped()
    robot.now = START - 3600 * 1000 * MS
    command = robot.tick(5)
    assert (command.state, command.twist) == (State.IDLE, STANDSTILL)
    robot.send_actions(0, plan_number=4)
    robot.controller.time_jumped()
    assert robot.command().state == State.ARRIVED


def test_reset_is_as_after_the_start(robot):
    robot.driving()
    robot.send_actions(0, plan_number=4)
    robot.controller.reset()
    robot.now += 1000 * MS
    assert robot.tick(5).state == State.IDLE
    robot.send(plan_number=1)
    robot.path()
    assert robot.command().twist.v > 0
