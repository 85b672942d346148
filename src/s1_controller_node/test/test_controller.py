"""What the controller follows and when it stands: every failure ends in zero velocity with a reason."""

import math
import re
from dataclasses import dataclass

import numpy as np
import pytest
from test_plan_intake import actions, plan

from dual_nav_util.controller_state import State
from s1_controller_node.controller import Controller, GoalKinds
from s1_controller_node.frames import FrameRing
from s1_controller_node.geometry import STANDSTILL, Twist2D
from s1_controller_node.modes import Ask, ModeConfig
from s1_controller_node.motion import MotionConfig, MotionLayer
from s1_controller_node.odometry import OdometryGap, OdometrySample
from s1_controller_node.plan_intake import PlanRefused
from s1_controller_node.safety import SafetyConfig

START = 1_000_000_000_000
MS = 1_000_000
SAFETY = SafetyConfig(use_depth=False, sensor_timeout=0.5, odometry_timeout=0.5, plan_timeout=2.0, stall_distance=9.0)
STRAIGHT = np.stack([np.linspace(0, 2, 33), np.zeros(33), np.zeros(33)], axis=1)


@dataclass
class Frame:
    stamp_ns: int


class Robot:
    """A controller with its inputs and a clock; 30 ms per tick. It moves only where a test says so."""

    def __init__(self, mode="partial_async", goals=GoalKinds(latents=True, pixel_goal=False)) -> None:  # noqa: B008
        self.frames = FrameRing(100)
        config = MotionConfig(modes=ModeConfig(mode=mode), safety=SAFETY, odometry_gap=0.2)
        self.motion = MotionLayer(config)
        self.controller = Controller(goals, self.frames, self.motion)
        self.now, self.steady = START, 0.0
        self.pose = np.zeros(3)

    def tick(self, count=1, camera=True, odometry=True, clock=True):
        for _ in range(count):
            self.steady += 0.03
            self.now += 30 * MS if clock else 0
            if camera:
                self.frames.add(Frame(self.now))
                self.motion.on_frame(self.now)
            if odometry:
                self.motion.on_odometry(OdometrySample(self.now, self.pose.copy(), STANDSTILL))
            command = self.command()
        return command

    def command(self):
        self.said = self.controller.command(self.now, self.steady)
        return self.said.motion

    def send(self, **changes):
        return self.controller.plan_arrived(plan(stamp_ns=self.frames.newest_stamp_ns, **changes), self.now)

    def send_actions(self, *codes, **changes):
        return self.controller.plan_arrived(actions(*codes, stamp_ns=self.now, **changes), self.now)

    def path(self, path=STRAIGHT, actions=(1, 1, 1, 1, 1)):
        task = self.controller.task()
        return self.controller.path_ready(task, self.frames.newest_stamp_ns, path, actions, self.now)

    def driving(self):
        self.tick(5)
        self.send()
        self.path()
        return self.tick()


def stands(command) -> bool:
    return (command.v, command.omega) == (0.0, 0.0)


@pytest.fixture
def robot():
    return Robot()


def test_states_and_reasons_to_ask_are_those_of_the_message():
    message = pytest.importorskip("nav_msgs_ext.msg").ControllerState
    assert {s.name: s.value for s in State} == {s.name: getattr(message, s.name) for s in State}
    assert sorted(getattr(message, f"ASK_{ask.name}") for ask in Ask) == list(range(len(Ask)))


def test_it_stands_until_sensors_a_plan_and_a_path_are_there(robot):
    command = robot.command()
    assert command.state == State.NO_SENSORS
    assert stands(command)
    command = robot.tick(5)
    assert (command.state, command.message) == (State.IDLE, "no plan yet")
    robot.send()
    command = robot.command()
    assert (command.state, robot.said.plan_number) == (State.FOLLOWING, 3)
    assert stands(command)
    assert "a path of plan 3 of episode 7 is being computed" in command.message
    robot.path()
    command = robot.tick(5)
    assert (command.state, command.message) == (State.FOLLOWING, "")
    assert command.v > 0.02
    assert command.distance_to_goal == pytest.approx(2.0, abs=0.05)


def test_latency_and_stamp_are_those_of_the_frame_behind_the_path(robot):
    robot.tick(5)
    robot.send()
    stamp = robot.frames.newest_stamp_ns
    robot.now += 45 * MS
    robot.path()
    assert robot.command().frame_stamp_ns == stamp
    assert robot.said.latency == pytest.approx(0.045)


def test_a_path_is_placed_at_the_pose_of_its_frame_and_not_where_the_robot_is_now(robot):
    robot.tick(5)
    robot.send()
    task, stamp = robot.controller.task(), robot.frames.newest_stamp_ns
    for x in np.linspace(0.1, 0.7, 7):
        robot.pose = np.array([x, 0.0, 0.0])
        robot.tick()
    assert robot.controller.path_ready(task, stamp, STRAIGHT, (1, 1, 1, 1), robot.now)
    assert robot.command().distance_to_goal == pytest.approx(1.3, abs=0.05)


@pytest.mark.parametrize(
    ("silent", "message"),
    [
        ("camera", r"newest camera frame is 0.[56]\d s old \(sensor_timeout 0.5 s\)"),
        ("odometry", r"newest odometry is 0.[56]\d s old \(odometry_timeout 0.5 s\)"),
        ("clock", r"ROS time has stood still for 0.[56]\d s"),
    ],
)
def test_silence_of_any_input_ends_in_standstill_with_the_reason(robot, silent, message):
    assert not stands(robot.driving())
    inputs = {"camera": True, "odometry": True, "clock": True} | {silent: False}
    if silent == "clock":
        inputs |= {"camera": False, "odometry": False}
    assert not stands(robot.tick(16, **inputs))
    command = robot.tick(5, **inputs)
    assert command.state == State.NO_SENSORS
    assert stands(command)
    assert re.search(message, command.message)


def test_a_plan_that_is_not_renewed_ends_in_standstill_and_s2_is_asked(robot):
    robot.driving()
    assert not stands(robot.tick(60))
    command = robot.tick(10)
    assert command.state == State.STALE_PLAN
    assert stands(command)
    assert robot.controller.task() is None
    assert command.ask == Ask.STALE


def test_a_hung_model_ends_in_standstill_although_plans_keep_coming(robot):
    robot.driving()
    for number in range(4, 8):
        robot.tick(20)
        robot.send(plan_number=number)
    assert stands(robot.tick())


def test_a_malformed_plan_stops_the_robot_until_a_good_one(robot):
    robot.driving()
    with pytest.raises(PlanRefused):
        robot.send(plan_number=4, traj_latents=[math.nan] * 32)
    command = robot.tick()
    assert command.state == State.FAULT
    assert stands(command)
    assert "32 NaN" in command.message
    robot.send(plan_number=5)
    robot.path()
    assert robot.tick(3).v > 0


def test_a_late_plan_of_an_older_episode_changes_nothing(robot):
    robot.driving()
    with pytest.raises(PlanRefused, match="seen before"):
        robot.send(episode_id=6, plan_number=99)
    assert robot.tick().v > 0


def test_a_plan_whose_frame_is_not_kept_is_refused(robot):
    robot.tick(5)
    with pytest.raises(PlanRefused, match="is not among the 5 kept frames"):
        robot.controller.plan_arrived(plan(stamp_ns=START - 1000 * MS), robot.now)
    assert stands(robot.command())


def send_ahead(robot, ahead_ms: int, **changes):
    """A plan that overtook its image, which is so much newer than the newest frame here."""
    stamp_ns = robot.frames.newest_stamp_ns + ahead_ms * MS
    return robot.controller.plan_arrived(plan(stamp_ns=stamp_ns, **changes), robot.now)


def test_a_plan_that_overtook_its_frame_is_followed_as_soon_as_the_frame_is_there(robot):
    robot.tick(5)
    sent = send_ahead(robot, 30)
    assert robot.controller.task() is None
    assert robot.command().message == "no plan yet"
    robot.tick(1)
    robot.controller.settle(robot.now)
    assert robot.controller.task().plan is sent
    assert robot.controller.task().goal_frame.stamp_ns == sent.stamp_ns
    assert robot.tick().message == "a path of plan 3 of episode 7 is being computed"


def test_what_is_driven_goes_on_while_the_next_plan_waits_for_its_frame(robot):
    robot.driving()
    robot.tick(5)
    send_ahead(robot, 30, plan_number=4)
    command = robot.tick(1)
    assert command.v > 0
    robot.controller.settle(robot.now)
    robot.tick(1)
    assert robot.said.plan_number == 4


def test_a_plan_does_not_wait_longer_than_the_limit_for_its_frame(robot):
    robot.tick(5)
    send_ahead(robot, 150)
    robot.tick(9, camera=False)  # 0.27 s
    robot.controller.settle(robot.now)
    robot.tick(1, camera=False)
    with pytest.raises(PlanRefused, match="is not among the 5 kept frames"):
        robot.controller.settle(robot.now)
    robot.tick(20)
    robot.controller.settle(robot.now)
    assert robot.controller.task() is None


def test_the_neighbour_stands_in_for_a_frame_that_was_lost_on_its_way(robot):
    robot.tick(5)
    sent = send_ahead(robot, 30)
    robot.tick(1, camera=False)
    robot.tick(1)
    robot.controller.settle(robot.now)
    assert robot.controller.task().plan is sent
    assert abs(robot.controller.task().goal_frame.stamp_ns - sent.stamp_ns) == 30 * MS


@pytest.mark.parametrize("event", ["newer plan", "STOP", "malformed plan", "time jump", "reset"])
def test_a_plan_that_waits_is_dropped_by_what_comes_after_it(robot, event):
    robot.tick(5)
    send_ahead(robot, 30)
    if event == "newer plan":
        newer = robot.send(plan_number=4)
    elif event == "STOP":
        robot.send_actions(0, plan_number=4)
    elif event == "malformed plan":
        with pytest.raises(PlanRefused):
            robot.send(plan_number=4, kind=9)
    elif event == "time jump":
        robot.controller.time_jumped()
    else:
        robot.controller.reset()
    robot.tick(1)
    robot.controller.settle(robot.now)
    task = robot.controller.task()
    assert task is None or (event == "newer plan" and task.plan is newer)
    assert stands(robot.tick())


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
    assert command.state == State.ARRIVED
    assert stands(command)
    with pytest.raises(PlanRefused, match="STOP ended this episode"):
        robot.send(plan_number=5)
    assert robot.controller.task() is None
    assert robot.tick(5).state == State.ARRIVED
    robot.send(episode_id=8, plan_number=0)
    robot.path()
    assert robot.tick(3).v > 0


def test_a_path_that_arrives_after_stop_does_not_move_the_robot(robot):
    robot.driving()
    task = robot.controller.task()
    robot.send_actions(0, plan_number=4)
    assert not robot.controller.path_ready(task, robot.now, STRAIGHT, (1, 1, 1, 1), robot.now)
    assert stands(robot.tick(5))


def test_a_path_of_the_plan_before_is_followed_until_the_new_plan_has_its_first(robot):
    robot.driving()
    old = robot.controller.task()
    robot.tick()
    robot.send(plan_number=4)
    assert robot.tick().v > 0
    assert robot.controller.path_ready(old, robot.now, STRAIGHT, (1, 1, 1, 1), robot.now)
    assert robot.tick().frame_stamp_ns == robot.now - 30 * MS
    assert robot.controller.task().plan.plan_number == 4


def test_in_mode_sync_a_path_of_the_plan_before_is_discarded():
    robot = Robot(mode="sync")
    robot.tick(5)
    robot.send()
    old = robot.controller.task()
    robot.send(plan_number=4)
    assert not robot.controller.path_ready(old, robot.now, STRAIGHT, (1, 1, 1, 1), robot.now)


def test_a_new_episode_stops_the_path_of_the_old_one_at_once(robot):
    robot.driving()
    robot.tick(10)
    old = robot.controller.task()
    robot.send(episode_id=8, plan_number=0)
    assert not robot.controller.path_ready(old, robot.now, STRAIGHT, (1, 1, 1, 1), robot.now)
    speeds = [robot.tick().v for _ in range(15)]
    assert speeds == sorted(speeds, reverse=True)
    assert speeds[-1] == 0.0


def test_actions_that_end_in_stop_latch_the_intake_when_they_are_done(robot):
    robot.tick(5)
    robot.send_actions(2, 0)
    assert robot.tick().state == State.TURNING
    for angle in np.linspace(0, math.radians(15), 4):
        robot.pose = np.array([0, 0, angle])
        robot.tick()
    assert robot.tick(3).state == State.ARRIVED
    with pytest.raises(PlanRefused, match="STOP ended this episode"):
        robot.send_actions(1, plan_number=4)


def test_mode_sync_takes_one_path_per_plan():
    robot = Robot(mode="sync")
    robot.tick(5)
    robot.send()
    robot.path()
    assert robot.controller.task() is None
    robot.send(plan_number=4)
    assert robot.controller.task() is None  # the robot still drives: a frame of standstill is waited for


def test_an_odometry_gap_at_the_frame_stops_the_robot_instead_of_guessing(robot):
    robot.tick(5)
    robot.send()
    task = robot.controller.task()
    robot.tick(10, odometry=False)
    with pytest.raises(OdometryGap, match=r"newest odometry is 0\.300 s older than the frame"):
        robot.controller.path_ready(task, robot.frames.newest_stamp_ns, STRAIGHT, (1, 1, 1, 1), robot.now)
    command = robot.command()
    assert command.state == State.NO_SENSORS
    assert stands(command)


def test_a_path_with_nan_stops_the_robot(robot):
    robot.driving()
    with pytest.raises(ValueError, match=r"NaN|finite"):
        robot.path(np.where(np.arange(99).reshape(33, 3) == 50, np.nan, STRAIGHT))
    command = robot.command()
    assert command.state == State.FAULT
    assert stands(command)
    robot.path()
    assert robot.tick(3).v > 0


def test_an_error_of_the_model_stops_the_robot(robot):
    robot.driving()
    robot.controller.inference_failed(robot.controller.task(), "out of memory")
    command = robot.command()
    assert (command.state, command.message) == (State.FAULT, "out of memory")
    assert stands(command)


@pytest.mark.parametrize("outcome", [ZeroDivisionError("no solution"), Twist2D(math.nan, 0.0)])
def test_a_failing_tracker_stops_the_robot_and_not_the_process(robot, monkeypatch, outcome):
    def broken(*_):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    robot.driving()
    monkeypatch.setattr(robot.motion._tracker, "command", broken)
    command = robot.tick()
    assert command.state == State.FAULT
    assert stands(command)
    assert "motion layer failed" in command.message


def test_a_clock_that_jumps_back_forgets_everything_with_a_stamp_but_not_a_stop(robot):
    robot.driving()
    robot.controller.time_jumped()
    robot.now = START - 3600 * 1000 * MS
    command = robot.tick(5)
    assert command.state == State.IDLE
    assert stands(command)
    robot.send_actions(0, plan_number=4)
    robot.controller.time_jumped()
    robot.tick(5)
    with pytest.raises(PlanRefused, match="STOP ended this episode"):
        robot.send(plan_number=5)


def test_reset_is_as_after_the_start(robot):
    robot.driving()
    robot.send_actions(0, plan_number=4)
    robot.controller.reset()
    robot.now += 1000 * MS
    assert robot.tick(5).state == State.IDLE
    robot.send(plan_number=1)
    robot.path()
    assert robot.tick(3).v > 0


def test_slower_limits_hold_from_the_next_period_on(robot):
    from dataclasses import replace

    robot.driving()
    robot.tick(20)
    config = robot.motion.config
    slow = replace(
        config,
        drive=replace(config.drive, v_max=0.1),
        tracker=replace(config.tracker, cruise_speed=0.1),
        actions=replace(config.actions, speed=0.1),
    )
    robot.motion.reconfigure(slow)
    assert robot.tick().v <= 0.1
    assert 0.05 < robot.tick(10).v <= 0.1
