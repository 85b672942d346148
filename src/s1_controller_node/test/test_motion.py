"""The whole motion layer in closed loop: base with lag, drifting odometry, late paths, noisy depth, faults."""

import contextlib
import math
from dataclasses import replace

import numpy as np
import pytest
from motion_simulation import CAMERA, MOUNT, NANOSECONDS, DepthCamera, Drive, distance_to_course, s_curve

from dual_nav_util.controller_state import State
from s1_controller_node.geometry import Twist2D
from s1_controller_node.limits import DriveLimits
from s1_controller_node.modes import ACTIONS, SYNC, TRACKING, Ask, ModeConfig
from s1_controller_node.motion import MotionConfig, MotionLayer
from s1_controller_node.odometry import OdometryGap, OdometrySample
from s1_controller_node.plan_intake import AcceptedPlan, Action, Kind
from s1_controller_node.safety import Reason, SafetyConfig
from s1_controller_node.tracking import TrackerConfig

PATIENT = TrackerConfig(solver_time_limit=1.0)  # what is driven must not depend on the speed of this machine
CONFIG = MotionConfig(camera=MOUNT, tracker=PATIENT)
STRAIGHT = np.stack([np.arange(0.0, 25.0, 0.01), np.zeros(2500), np.zeros(2500)], axis=1)
PERIOD = 0.05


def driving(command):
    return command.v > 0.35


def stopped_within(drive, seconds):
    """Run for a while; after ``seconds`` no command may move the robot. Returns the commands."""
    commands = drive.run(2.5)
    late = commands[math.ceil(seconds / PERIOD + 1e-6) :]
    assert late
    assert all(c.v == 0.0 and c.omega == 0.0 for c in late), [c.v for c in commands]
    return commands


@pytest.mark.parametrize("tracker", ["mpc", "pure_pursuit"])
def test_an_s_curve_of_ten_metres_with_paths_seven_tenths_of_a_second_late_is_driven_within_five_centimetres(tracker):
    course = s_curve(14.0)
    drive = Drive(course, replace(CONFIG, tracker=replace(PATIENT, tracker=tracker)), seed=4)
    drive.run(40.0, until=lambda c: drive.base.pose[0] > course[1000, 0])
    errors = [distance_to_course(course, pose) for pose in drive.poses]
    assert math.dist(drive.base.pose[:2], course[1000, :2]) < 0.3
    assert np.mean(errors) <= 0.05
    assert np.max(errors) <= 0.12
    commands = np.array([(c.v, c.omega) for c in drive.commands])
    assert np.abs(np.diff(commands[:, 0])).max() <= DriveLimits().deceleration * PERIOD + 1e-9
    assert np.abs(np.diff(commands[:, 1])).max() <= DriveLimits().angular_acceleration * PERIOD + 1e-9
    assert drive.now - 10.0 <= 31.0  # 25 s at 0.4 m/s, first path after 0.7 s
    assert {c.state for c in drive.commands[-100:]} == {State.FOLLOWING}


def test_sync_mode_drives_a_metre_per_decision_and_asks_only_when_it_stands():
    drive = Drive(STRAIGHT, replace(CONFIG, modes=ModeConfig(mode=SYNC, path_execution=TRACKING)), delay=0.2)
    commands = drive.run(20.0)
    asked = [i for i, c in enumerate(commands) if c.ask == Ask.USED_UP]
    assert asked
    plans = drive._plan.plan_number + 1
    assert drive.base.pose[0] == pytest.approx(1.05 * plans, abs=0.6)
    for i in asked:
        assert commands[i].v == 0.0
        assert commands[i].frames_from_ns is not None
        assert commands[i].frames_from_ns <= round(drive.times[i] * NANOSECONDS)


def test_paths_as_discrete_actions_reach_the_same_place():
    drive = Drive(STRAIGHT, replace(CONFIG, modes=ModeConfig(path_execution=ACTIONS)), delay=0.2)
    drive.run(20.0, until=lambda c: drive.base.pose[0] > 3.0)
    assert drive.base.pose[0] > 3.0
    assert abs(drive.base.pose[1]) < 0.15
    assert max(c.actions_left for c in drive.commands) == 4


@pytest.fixture
def moving():
    drive = Drive(STRAIGHT, CONFIG, seed=7)
    drive.run(8.0, until=driving)
    drive.run(1.0)
    assert drive.commands[-1].v > 0.3
    return drive


@pytest.mark.parametrize("sensor", ["frames", "depth", "odometry"])
def test_a_silent_sensor_stops_the_robot_within_its_timeout_and_one_period(moving, sensor):
    safety = CONFIG.safety
    moving.off.add(sensor)
    limit = safety.odometry_timeout if sensor == "odometry" else safety.sensor_timeout
    commands = stopped_within(moving, limit + PERIOD)
    assert commands[-1].state == State.NO_SENSORS
    assert {"frames": "camera frame", "depth": "depth", "odometry": "odometry"}[sensor] in commands[-1].message
    moving.off.clear()
    moving.run(4.0)
    assert moving.commands[-1].v > 0.2  # and it goes on when the sensor is back


def test_a_silent_planner_stops_the_robot_within_plan_timeout_and_one_period():
    config = replace(CONFIG, safety=SafetyConfig(plan_timeout=2.0), modes=ModeConfig(s2_max_forward_step=100))
    drive = Drive(STRAIGHT, config, seed=7)
    drive.run(4.0, until=driving)
    drive.off.add("s2")
    age = drive.now - drive._plan.stamp_ns / NANOSECONDS
    commands = stopped_within(drive, 2.0 - age + PERIOD)
    assert commands[-1].state == State.STALE_PLAN
    assert commands[-1].ask == Ask.STALE


def test_a_silent_s1_stops_the_robot_at_the_end_of_its_path_or_when_it_is_too_old(moving):
    moving.off.add("s1")
    moving.run(8.0)
    assert moving.commands[-1].v == 0.0


def test_stop_ends_motion_in_the_same_period_and_no_late_path_or_plan_starts_it_again(moving):
    last = moving._plan
    stop = AcceptedPlan(1, last.plan_number + 1, moving.now_ns, Kind.ACTIONS, actions=(Action.STOP,))
    moving.layer.on_plan(stop)
    moving.off.add("s2")
    commands = moving.run(3.0)  # paths that were being computed keep arriving
    assert all(c.v == 0.0 and c.omega == 0.0 for c in commands)
    assert {c.state for c in commands} == {State.ARRIVED}
    path = np.stack([np.linspace(0.0, 3.2, 33), np.zeros(33), np.zeros(33)], axis=1)
    assert not moving.layer.on_path(stop, moving.now_ns, path, (1, 1, 1, 1), moving.now_ns)
    moving.layer.on_plan(moving.goal_plan(99))
    assert not moving.layer.on_path(last, moving.now_ns, path, (1, 1, 1, 1), moving.now_ns)
    assert all(c.v == 0.0 for c in moving.run(1.0))
    moving._plan = moving.goal_plan(0, episode=2)
    moving.layer.on_plan(moving._plan)
    moving.run(4.0)
    assert moving.commands[-1].v > 0.2


def test_a_path_whose_pose_is_not_known_is_refused_and_the_robot_stands(moving):
    moving.off.update({"odometry", "s1"})
    moving.run(1.0)
    gap_ns = moving.now_ns - round(0.5 * NANOSECONDS)
    moving.off.remove("odometry")
    moving.run(0.5)
    path = np.stack([np.linspace(0.0, 3.2, 33), np.zeros(33), np.zeros(33)], axis=1)
    with pytest.raises(OdometryGap, match="gap"):
        moving.layer.on_path(moving.layer._memory.plan, gap_ns, path, (1, 1, 1, 1), moving.now_ns)
    commands = moving.run(0.3)
    assert all(c.v == 0.0 for c in commands)
    assert commands[-1].state == State.NO_SENSORS
    assert "gap" in commands[-1].message
    moving.off.clear()
    moving.run(3.0)
    assert moving.commands[-1].v > 0.2


@pytest.mark.parametrize(
    "path",
    [np.full((33, 3), np.nan), np.zeros((33, 2)), np.array([[0.0, 0.0, 0.0], [50.0, 0.0, 0.0]]), np.zeros((0, 3))],
)
def test_a_malformed_path_is_a_fault_and_standstill_until_a_good_one_comes(moving, path):
    moving._paths.clear()
    with pytest.raises(ValueError, match="path: expected"):
        moving.layer.on_path(moving._plan, moving.now_ns, path, (1, 1, 1, 1), moving.now_ns)
    command = moving.run(PERIOD)[0]
    assert (command.v, command.omega, command.state) == (0.0, 0.0, State.FAULT)
    moving.run(3.0)
    assert moving.commands[-1].v > 0.2


def test_a_tracker_that_raises_is_a_fault_and_never_leaves_step(moving, monkeypatch):
    def broken(*_):
        raise RuntimeError("solver is gone")

    monkeypatch.setattr(type(moving.layer._tracker), "_law", broken)
    command = moving.run(PERIOD)[0]
    assert (command.v, command.omega, command.state) == (0.0, 0.0, State.FAULT)
    assert "solver is gone" in command.message


def test_a_clock_set_back_stops_the_robot_and_a_jump_forward_is_old_data(moving):
    moving.now -= 5.0
    moving.off.update({"s1", "s2", "frames", "depth", "odometry"})
    commands = moving.run(1.0)
    assert all(c.v == 0.0 and c.omega == 0.0 for c in commands)
    assert commands[0].state == State.NO_SENSORS
    drive = Drive(STRAIGHT, CONFIG, seed=7)
    drive.run(8.0, until=driving)
    drive.now += 60.0
    drive.off.update({"s1", "s2", "frames", "depth", "odometry"})
    assert drive.run(PERIOD)[0].v == 0.0


def test_a_jump_of_odometry_drops_the_path(moving):
    moving.odometer.pose = moving.odometer.pose + np.array([1.0, 0.0, 0.0])
    moving.off.add("s1")
    moving.run(1.5)
    assert moving.commands[-1].v == 0.0


def test_a_turn_of_the_odometry_frame_drops_the_path(moving):
    moving.odometer.pose = moving.odometer.pose + np.array([0.0, 0.0, 1.6])
    moving.off.add("s1")
    moving.run(0.2)
    assert moving.layer.view(moving.now_ns).path is None
    moving.run(1.5)
    assert (moving.commands[-1].v, moving.commands[-1].omega) == (0.0, 0.0)


def test_odometry_that_stands_while_the_robot_drives_is_a_latched_fault(moving):
    frozen = moving.layer.odometry.newest()
    moving.off.update({"odometry"})
    for _ in range(40):
        sample = OdometrySample(moving.now_ns - 1, frozen.pose, Twist2D(0.3, 0.0))
        moving.layer.on_odometry(sample)
        moving.run(PERIOD)
    assert moving.commands[-1].v == 0.0
    assert moving.commands[-1].state == State.FAULT
    assert "odometry saw no motion" in moving.commands[-1].message


def test_manual_commands_replace_the_plan_through_the_same_gate_and_the_plan_does_not_resume(moving):
    moving.off.update({"s2"})
    for _ in range(20):
        moving.layer.on_manual(Twist2D(-0.3, 0.4), moving.now_ns)
        moving.run(PERIOD)
    assert moving.commands[-1].v == 0.0  # never backwards
    assert moving.commands[-1].omega == pytest.approx(0.4)
    assert moving.commands[-1].ask == Ask.NO  # not while a person drives
    released = moving.now_ns
    commands = moving.run(3.0)
    assert commands[-1].v == 0.0
    assert commands[-1].ask == Ask.INTERRUPTED
    assert commands[-1].frames_from_ns > released  # S2 is shown where the person left the robot


def test_emergency_stop_and_enable_hold_the_robot(moving):
    moving.layer.gate.emergency_stop("button")
    assert all(c.v == 0.0 and c.state == State.FAULT for c in moving.run(1.0))
    moving.layer.reset()
    assert moving.run(PERIOD)[0].message == "button"  # a reset does not lift it
    moving.layer.gate.release()
    drive = Drive(STRAIGHT, CONFIG, seed=7)
    drive.layer.gate.enable(False)
    assert all(c.v == 0.0 for c in drive.run(3.0))
    assert drive.commands[-1].message == "motion is disabled"
    drive.layer.gate.enable(True)
    drive.run(2.0)
    assert drive.commands[-1].v > 0.2


def boxes(*given):
    return np.array(given, dtype=float).reshape(-1, 6)


@pytest.mark.parametrize(
    "box",
    [
        (0.0, -0.3, 0.0, 0.4, 0.3, 1.5),  # a person's size
        (0.0, -0.3, 0.0, 0.3, 0.3, 0.15),  # low: leaves the picture long before the bumper touches it
        (0.0, 0.15, 0.0, 0.05, 0.2, 0.7),  # a table leg at the side of the footprint
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_an_obstacle_put_a_metre_ahead_at_four_tenths_of_a_metre_per_second_is_not_touched(box, seed):
    drive = Drive(STRAIGHT, CONFIG, seed=seed)
    drive.run(8.0, until=driving)
    drive.run(0.5)
    box = np.array(box)
    front = drive.base.pose[0] + CONFIG.safety.radius + 1.0
    box[[0, 3]] += front
    drive.camera.boxes = boxes(box)
    drive.run(12.0)
    nearest = np.array(
        [
            np.hypot(max(box[0] - p[0], p[0] - box[3], 0.0), max(box[1] - p[1], p[1] - box[4], 0.0))
            for p in drive.poses
        ]
    )
    assert nearest.min() > CONFIG.safety.radius  # no contact
    assert drive.commands[-1].state == State.BLOCKED
    assert drive.commands[-1].v == 0.0
    assert drive.base.pose[0] > front - 0.75 - CONFIG.safety.radius  # it came near instead of freezing a metre off
    drive.camera.boxes = boxes()
    cleared = drive.now
    drive.run(3.0, until=lambda c: c.v > 0.02)
    if box[5] > 0.5:  # in the picture: that it is gone is seen
        assert drive.now - cleared <= 0.6
    else:  # below the picture: the robot cannot know, and stays
        assert drive.commands[-1].state == State.BLOCKED


def test_a_free_course_of_twenty_metres_between_walls_has_no_false_stops():
    walls = [(-2.0, -0.85, 0.0, 27.0, -0.75, 2.0), (-2.0, 0.75, 0.0, 27.0, 0.85, 2.0)]
    lintels = [(x, -1.0, 1.0, x + 0.1, 1.0, 1.3) for x in (5.0, 12.0)]  # to pass under
    drive = Drive(STRAIGHT, CONFIG, seed=11, boxes=boxes(*walls, *lintels))
    drive.run(70.0, until=lambda c: drive.base.pose[0] > 20.0)
    assert drive.base.pose[0] > 20.0
    false = [c for c in drive.commands if c.reasons & (Reason.OBSTACLE_STOP | Reason.BLIND)]
    assert len(false) <= 0.01 * len(drive.commands)
    slowed = [c for c in drive.commands if c.reasons & Reason.OBSTACLE_SLOW]
    assert len(slowed) <= 0.02 * len(drive.commands)


def test_a_covered_camera_is_blind_not_free(moving):
    moving.camera.boxes = boxes((moving.base.pose[0] - 1.0, -2.0, 0.0, moving.base.pose[0] + 5.0, 2.0, 2.0))
    commands = stopped_within(moving, 0.1 + PERIOD)
    assert commands[-1].reasons & Reason.BLIND
    assert commands[-1].state == State.NO_SENSORS


def actions_layer(actions, pose=(0.0, 0.0, 0.0)):
    config = replace(CONFIG, safety=SafetyConfig(plan_timeout=30.0))
    drive = Drive(STRAIGHT, config, seed=3, start=np.array(pose))
    drive.off.update({"s1", "s2"})
    drive.run(0.5)
    drive.layer.on_plan(AcceptedPlan(1, 0, drive.now_ns, Kind.ACTIONS, actions=tuple(actions)))
    return drive


def test_discrete_actions_are_driven_to_completion_and_then_s2_is_asked_with_a_frame_from_after_them():
    drive = actions_layer([Action.TURN_LEFT] * 6 + [Action.FORWARD] * 2 + [Action.TURN_RIGHT] * 6)
    commands = drive.run(25.0, until=lambda c: c.ask == Ask.USED_UP)
    assert commands[-1].ask == Ask.USED_UP
    asked_ns = drive.now_ns
    commands += drive.run(0.3)
    assert drive.base.pose == pytest.approx([0.0, 0.5, 0.0], abs=0.06)
    states = [c.state for c in commands if c.message != "coming to rest"]
    order = [s for i, s in enumerate(states) if i == 0 or s != states[i - 1]]
    assert order == [State.TURNING, State.FOLLOWING, State.TURNING, State.IDLE]
    left = [c.actions_left for c in commands]
    assert left[0] == 14
    assert left[-1] == 0
    assert (np.diff(left) <= 0).all()
    assert commands[-1].frames_from_ns >= asked_ns - 2 * round(PERIOD * NANOSECONDS)
    assert abs(drive.base.twist.omega) < 0.1


def wall_ahead(drive, free: float = 0.2) -> None:
    """A wall this far [m] before the robot's front."""
    front = drive.base.pose[0] + CONFIG.safety.radius + free
    drive.camera.boxes = boxes((front, -1.0, 0.0, front + 0.2, 1.0, 1.5))


def test_a_step_forward_that_an_obstacle_holds_is_given_up_and_the_next_action_follows():
    drive = actions_layer([Action.FORWARD] * 3 + [Action.TURN_LEFT] * 2)
    wall_ahead(drive)
    commands = drive.run(15.0, until=lambda c: c.ask == Ask.USED_UP)
    assert commands[-1].ask == Ask.USED_UP
    held = sum(c.state == State.BLOCKED for c in commands) * PERIOD
    assert held == pytest.approx(CONFIG.actions.patience, abs=0.5)
    assert drive.base.pose[0] < 0.2
    assert drive.base.pose[2] == pytest.approx(math.radians(30.0), abs=0.06)


def test_a_step_forward_that_was_held_for_a_moment_only_is_driven_to_its_end():
    drive = actions_layer([Action.FORWARD] * 3)
    wall_ahead(drive)
    drive.run(10.0, until=lambda c: c.state == State.BLOCKED)
    for _ in range(3):  # again and again, but never for long
        drive.run(0.6 * CONFIG.actions.patience)
        assert drive.commands[-1].state == State.BLOCKED
        drive.camera.boxes = boxes()
        drive.run(2.0, until=lambda c: c.v > 0.02)
        wall_ahead(drive, 0.15)
    drive.camera.boxes = boxes()
    drive.run(10.0, until=lambda c: c.ask == Ask.USED_UP)
    assert drive.base.pose[0] == pytest.approx(0.75, abs=0.06)


def test_an_action_the_base_does_not_carry_out_is_a_fault_until_the_next_episode():
    drive = actions_layer([Action.TURN_LEFT])
    drive.base.gain = (0.0, 0.0)
    drive.run(15.0, until=lambda c: c.state == State.FAULT)
    assert drive.commands[-1].state == State.FAULT
    drive.layer.on_plan(AcceptedPlan(1, 1, drive.now_ns, Kind.ACTIONS, actions=(Action.FORWARD,)))
    assert all(c.v == 0.0 and c.omega == 0.0 for c in drive.run(1.0))


def test_ten_thousand_random_inputs_never_give_a_command_outside_the_limits_or_an_exception():
    random = np.random.default_rng(5)
    layer = MotionLayer(CONFIG)
    now, limits = 10 * NANOSECONDS, CONFIG.drive
    plan, moved = None, False
    floor = DepthCamera(random).image(np.zeros(3))
    for i in range(10_000):
        now += int(random.integers(1, 60_000_000))
        kind = random.integers(0, 8)
        if kind in (0, 6, 7):
            layer.on_odometry(
                OdometrySample(now - 1, random.normal(0.0, 0.1, 3), Twist2D(*random.normal(0.0, 0.3, 2)))
            )
        elif kind == 1:
            layer.on_frame(now + int(random.normal(0.0, 1e8)))
        elif kind == 5:
            with contextlib.suppress(OdometryGap):
                layer.on_depth(now - int(random.integers(0, 100_000_000)), floor, CAMERA)
        elif kind == 2:
            codes = random.choice([0, 1, 2, 3, 5], random.integers(1, 6))
            episode = int(random.integers(0, 3)) + i // 500
            number = (Kind.ACTIONS, Kind.TRAJ_LATENTS)[int(random.integers(0, 2))]
            actions = tuple(Action(int(c)) for c in codes) if number == Kind.ACTIONS else ()
            plan = AcceptedPlan(episode, i, now, number, actions=actions)
            with contextlib.suppress(OdometryGap):
                layer.on_plan(plan)
        elif kind == 3 and plan is not None:
            path = random.normal(0.0, 1.0, (int(random.integers(0, 5)), int(random.integers(2, 4))))
            path = path * random.choice([0.1, 1.0, np.nan, 1e30])
            with contextlib.suppress(OdometryGap, ValueError):
                layer.on_path(plan, now, path, tuple(random.integers(0, 6, 4)), now)
        elif kind == 4:
            layer.on_manual(Twist2D(float(random.normal()), float(random.choice([0.1, np.nan, np.inf]))), now)
        command = layer.step(now)
        assert 0.0 <= command.v <= limits.v_max
        assert abs(command.omega) <= limits.omega_max
        if command.state not in (State.FOLLOWING, State.TURNING):
            assert (command.v, command.omega) == (0.0, 0.0)
        moved = moved or command.v > 0.0
    assert moved  # or the test would show nothing


def test_a_tracker_faster_than_the_drive_is_refused_by_name():
    with pytest.raises(ValueError, match=r"tracker.cruise_speed: expected at most drive.v_max \(0.5\), got 0.9"):
        MotionConfig(tracker=TrackerConfig(cruise_speed=0.9))
    with pytest.raises(ValueError, match=r"MotionConfig\.odometry_gap"):
        MotionConfig(odometry_gap=0.0)
