"""Trackers and discrete motions in closed loop on a simulated base."""

import math
import time

import numpy as np
import pytest
from motion_simulation import Base, Odometer, s_curve

from s1_controller_node.actions import ActionConfig, ActionMotion
from s1_controller_node.geometry import STANDSTILL, Twist2D
from s1_controller_node.limits import CommandLimiter, DriveLimits
from s1_controller_node.plan_intake import Action
from s1_controller_node.reference import ReferencePath, speed_profile
from s1_controller_node.tracking import PurePursuitTracker, TrackerConfig, TrackingReport, make_tracker

DT = 0.05
LIMITS = DriveLimits()
FORWARD, TURN_LEFT, TURN_RIGHT = Action.FORWARD, Action.TURN_LEFT, Action.TURN_RIGHT
PATIENT = 1.0  # [s] for the solver: what is driven must not depend on the speed of this machine
TRACKERS = ("mpc", "pure_pursuit")


def follow(tracker, points, *, seconds=60.0, pose=(0.0, 0.0, 0.0), seed=0, **odometry):
    """Drive a path with white odometry noise; returns true poses, commands, cross-track errors and the base.

    The random walk and the scale of odometry are off unless asked for: they move the odometry frame itself, which no
    tracker can see. They are on in the course of test_motion.py, where paths are renewed as in operation.
    """
    random = np.random.default_rng(seed)
    base = Base(pose=np.array(pose, dtype=float))
    odometer = Odometer(random, pose=base.pose.copy(), **{"scale": (1.0, 1.0), "walk": (0.0, 0.0), **odometry})
    limiter = CommandLimiter(LIMITS)
    path = ReferencePath(points)
    poses, commands, errors = [], [], []
    for _ in range(round(seconds / DT)):
        measured, _ = odometer.read(base.pose, base.twist)
        command = limiter.limit(tracker.command(measured, limiter.last, path, DT), DT)
        base.move(command, DT)
        poses.append(base.pose)
        commands.append(command)
        errors.append(abs(path.lateral_offset(base.pose, path.project(base.pose))))
        if tracker.report.done and base.twist.v < 0.01:
            break
    return np.array(poses), np.array(commands), np.array(errors), base


@pytest.mark.parametrize("name", TRACKERS)
def test_a_ten_metre_s_curve_is_tracked_within_five_centimetres_on_average(name):
    tracker = make_tracker(TrackerConfig(tracker=name, solver_time_limit=PATIENT), LIMITS)
    course = s_curve()
    poses, commands, errors, _ = follow(tracker, course)
    assert tracker.report.done
    assert errors.mean() <= 0.05
    assert errors.max() <= 0.12
    assert math.dist(poses[-1][:2], course[-1][:2]) <= 0.15
    assert np.abs(commands[:, 1]).max() <= 0.6
    # it really drove at speed: 10 m at 0.4 m/s take 25 s, and the slow parts are the bends and the end
    assert len(commands) * DT <= 32.0


@pytest.mark.parametrize("name", TRACKERS)
def test_a_sharp_bend_is_taken_slowly_and_a_path_leaving_backwards_is_turned_to_on_the_spot(name):
    bend = np.array([[0.0, 0.0], [1.5, 0.0], [1.5, 1.5]])
    bend = np.concatenate([np.linspace(bend[i], bend[i + 1], 16)[: 15 + i] for i in range(2)])
    tracker = make_tracker(TrackerConfig(tracker=name, solver_time_limit=PATIENT), LIMITS)
    _, commands, errors, _ = follow(tracker, bend)
    assert tracker.report.done
    corner = slice(len(commands) // 4, 3 * len(commands) // 4)
    assert commands[corner, 0].min() < 0.25 < commands[:, 0].max()
    assert errors.max() <= 0.2

    back = np.stack([-np.linspace(0.0, 2.0, 21), np.zeros(21)], axis=1)
    tracker = make_tracker(TrackerConfig(tracker=name, solver_time_limit=PATIENT), LIMITS)
    poses, commands, _, _ = follow(tracker, back)
    assert tracker.report.done
    assert np.abs(poses[:, 0]).max() <= 2.1
    assert poses[:, 0].max() <= 0.05  # it did not drive a loop
    assert (commands[:, 0] >= 0.0).all()


@pytest.mark.parametrize("name", TRACKERS)
def test_the_robot_slows_down_before_the_end_and_stops_there_without_passing_it(name):
    tracker = make_tracker(TrackerConfig(tracker=name, solver_time_limit=PATIENT), LIMITS)
    line = np.stack([np.linspace(0.0, 3.0, 31), np.zeros(31)], axis=1)
    poses, commands, _, base = follow(tracker, line)
    assert tracker.report.done
    assert base.twist.v < 0.01
    assert 2.88 <= poses[-1][0] <= 3.03
    half = commands[poses[:, 0] > 2.8, 0]
    assert half.max() < 0.35


@pytest.mark.parametrize("name", TRACKERS)
def test_a_new_path_in_motion_changes_the_command_without_a_jump(name):
    tracker = make_tracker(TrackerConfig(tracker=name, solver_time_limit=PATIENT), LIMITS)
    base, limiter = Base(), CommandLimiter(LIMITS)
    straight = ReferencePath(np.array([[0.0, 0.0], [4.0, 0.0]]))
    commands = []
    path = straight
    for i in range(120):
        if i == 60:  # the next path lies 10 cm to the left and bends away
            x = np.linspace(0.0, 3.0, 31)
            path = ReferencePath(np.stack([base.pose[0] + x, base.pose[1] + 0.1 + 0.15 * x * x], axis=1))
        command = tracker.command(base.pose, limiter.last, path, DT)
        commands.append(limiter.limit(command, DT))
        base.move(commands[-1], DT)
    change = np.abs(np.diff(np.array(commands), axis=0))
    assert change[:, 0].max() <= LIMITS.deceleration * DT + 1e-9
    assert change[:, 1].max() <= LIMITS.angular_acceleration * DT + 1e-9
    assert commands[62].v > 0.3  # it kept driving
    assert abs(tracker.report.cross_track) < 0.05


def test_a_solver_that_fails_is_replaced_by_pure_pursuit_in_the_same_period_and_reported():
    config = TrackerConfig(solver_time_limit=1e-6)  # no solver can keep this
    tracker = make_tracker(config, LIMITS)
    _, _, errors, _ = follow(tracker, s_curve())
    assert "time limit" in tracker.report.fallback or tracker.report.done
    assert errors.mean() <= 0.05

    pursuit = PurePursuitTracker(config, LIMITS)
    path = ReferencePath(s_curve())
    pose = np.array([0.3, 0.02, 0.1])
    command = tracker.command(pose, Twist2D(0.3, 0.0), path, DT)
    assert "time limit" in tracker.report.fallback
    assert command == pursuit.command(pose, Twist2D(0.3, 0.0), path, DT)


def test_the_cost_of_inputs_is_that_of_the_errors_they_lead_to_in_the_linear_model():
    """Steps of the model one after the other, as mpc.py has them in its head, against its sums."""
    from s1_controller_node.mpc import MpcTracker

    config = TrackerConfig()
    tracker = MpcTracker(config, LIMITS)
    tracker.report = TrackingReport(cross_track=0.2, heading_error=-0.3)
    random = np.random.default_rng(0)
    reference = random.uniform((0.05, -1.0), (0.5, 1.0), (config.horizon, 2))
    velocity, step = Twist2D(0.3, 0.1), config.step

    def cost(inputs):
        e_s, e_n, e_theta, before, total = 0.0, 0.2, -0.3, np.array(velocity), 0.0
        for (v, omega), (v_r, omega_r) in zip(inputs, reference, strict=True):
            dv, dw = v - v_r, omega - omega_r
            e_s, e_n, e_theta = (
                e_s + step * (omega_r * e_n + dv),
                e_n + step * (-omega_r * e_s + v_r * (e_theta + 0.5 * step * dw)),
                e_theta + step * dw,
            )
            total += config.weight_along * e_s**2 + config.weight_across * e_n**2 + config.weight_heading * e_theta**2
            total += config.weight_speed * dv**2 + config.weight_turn * dw**2
            total += config.weight_speed_change * (v - before[0]) ** 2
            total += config.weight_turn_change * (omega - before[1]) ** 2
            before = (v, omega)
        return 0.5 * total

    hessian, gradient = tracker._cost(reference, velocity)
    nothing = cost(np.zeros_like(reference))
    for _ in range(5):
        inputs = random.uniform(-1.0, 1.0, reference.shape)
        flat = inputs.ravel()
        assert 0.5 * flat @ hessian @ flat + gradient @ flat == pytest.approx(cost(inputs) - nothing, rel=1e-9)


def test_the_solver_answers_far_below_its_time_limit():
    # A generous limit, and processor time: other load on the machine does not decide this test.
    tracker = make_tracker(TrackerConfig(solver_time_limit=1.0), LIMITS)
    path = ReferencePath(s_curve())
    times = []
    for k in range(200):
        pose = path.pose_at(0.02 * k) + np.array([0.0, 0.03 * math.sin(k), 0.05 * math.cos(k)])
        started = time.thread_time()
        tracker.command(pose, Twist2D(0.4, 0.0), path, DT)
        times.append(time.thread_time() - started)
        assert tracker.report.fallback == ""
    assert np.median(times) < 0.005  # a tenth of the control period; about 0.5 ms on an ordinary core


def test_mpc_and_the_speed_profile_respect_the_yaw_rate_in_the_tightest_bend():
    path = ReferencePath(s_curve())
    profile = speed_profile(path, 1.0, 0.5, 0.4, 0.3)
    assert (profile * np.abs(path.curvature) <= 0.5 + 1e-9).all()
    assert profile[-1] == 0.0
    assert (np.diff(profile**2) >= -2 * 0.3 * np.diff(path.s) - 1e-9).all()  # never brakes harder than told


def test_progress_on_a_path_that_crosses_itself_never_jumps_to_the_other_branch():
    t = np.linspace(0.0, 2.0 * math.pi, 200)
    eight = np.stack([2.0 * np.sin(t), 2.0 * np.sin(t) * np.cos(t)], axis=1)
    tracker = make_tracker(TrackerConfig(tracker="pure_pursuit"), LIMITS)
    start = ReferencePath(eight).pose_at(0.0)
    _, commands, errors, _ = follow(tracker, eight, pose=start, seconds=90.0)
    assert tracker.report.done
    assert len(commands) * DT > 20.0  # both loops
    assert errors.mean() < 0.05


@pytest.mark.parametrize(
    "points", [np.zeros((5, 2)), np.zeros((1, 3)), np.array([[0.0, 0.0], [math.nan, 1.0]]), np.zeros((4,))]
)
def test_a_path_that_is_none_is_refused(points):
    with pytest.raises(ValueError, match="path: expected"):
        ReferencePath(points)


def test_a_pose_that_is_not_finite_is_refused():
    tracker = make_tracker(TrackerConfig(), LIMITS)
    path = ReferencePath(s_curve())
    with pytest.raises(ValueError, match="expected finite"):
        tracker.command(np.array([0.0, math.nan, 0.0]), STANDSTILL, path, DT)


@pytest.mark.parametrize(
    ("field", "value"), [("tracker", "stanley"), ("cruise_speed", -1.0), ("horizon", 0), ("turn_in_below", 2.0)]
)
def test_a_bad_parameter_is_refused_with_its_name(field, value):
    with pytest.raises(ValueError, match=f"TrackerConfig.{field}"):
        TrackerConfig(**{field: value})


def execute(action, count, *, anchor=None, base=None, seconds=20.0, seed=3):
    base = base or Base()
    odometer = Odometer(np.random.default_rng(seed), pose=base.pose.copy(), walk=(0.0, 0.0), scale=(1.0, 1.0))
    pose, _ = odometer.read(base.pose, base.twist)
    motion = ActionMotion(action, count, pose if anchor is None else anchor, pose, ActionConfig(), LIMITS)
    limiter = CommandLimiter(LIMITS)
    left = []
    for _ in range(round(seconds / DT)):
        pose, velocity = odometer.read(base.pose, base.twist)
        base.move(limiter.limit(motion.command(pose, velocity, DT), DT), DT)
        left.append(motion.actions_left)
        if motion.done or motion.stuck:
            break
    return motion, base, left


@pytest.mark.parametrize(("action", "sign"), [(TURN_LEFT, 1), (TURN_RIGHT, -1)])
@pytest.mark.parametrize("count", [1, 2, 4, 14])
def test_turns_end_within_two_degrees_also_beyond_half_a_circle(action, sign, count):
    motion, base, left = execute(action, count)
    assert motion.done
    error = (base.pose[2] - sign * count * math.radians(15.0) + math.pi) % (2 * math.pi) - math.pi
    assert abs(error) <= math.radians(2.0)
    assert np.hypot(*base.pose[:2]) <= 0.01
    assert left[0] == count
    assert left[-1] == 0
    assert (np.diff(left) <= 0).all()
    assert len(left) * DT <= count * math.radians(15.0) / 0.5 + 1.5


@pytest.mark.parametrize("count", [1, 4])
def test_forward_actions_end_within_three_centimetres_and_hold_their_line(count):
    motion, base, left = execute(FORWARD, count)
    assert motion.done
    assert base.pose[0] == pytest.approx(0.25 * count, abs=0.03)
    assert abs(base.pose[1]) <= 0.02
    assert left[0] == count
    assert len(left) * DT <= 0.25 * count / 0.4 + 2.5


def test_a_motion_counts_from_the_pose_of_its_image():
    base = Base(pose=np.array([0.1, 0.0, math.radians(10.0)]))  # drove and turned during inference
    _, base, _ = execute(TURN_LEFT, 1, anchor=np.zeros(3), base=base)
    assert math.degrees(base.pose[2]) == pytest.approx(15.0, abs=2.0)
    base = Base(pose=np.array([0.15, 0.0, 0.0]))
    _, base, _ = execute(FORWARD, 1, anchor=np.zeros(3), base=base)
    assert base.pose[0] == pytest.approx(0.25, abs=0.03)
    base = Base(pose=np.array([0.4, 0.0, 0.0]))  # already past it: never backwards
    motion, base, _ = execute(FORWARD, 1, anchor=np.zeros(3), base=base)
    assert motion.done
    assert base.pose[0] == pytest.approx(0.4, abs=0.01)


def test_a_base_that_does_not_move_makes_the_motion_stuck_but_not_while_the_gate_holds_it():
    motion = ActionMotion(TURN_LEFT, 1, np.zeros(3), np.zeros(3), ActionConfig(), LIMITS)
    for _ in range(400):
        motion.command(np.zeros(3), STANDSTILL, DT, hindered=True)
    assert not motion.stuck
    for _ in range(400):
        motion.command(np.zeros(3), STANDSTILL, DT)
    assert motion.stuck
    assert not motion.done


@pytest.mark.parametrize(("action", "count"), [(0, 1), (5, 1), (4, 1), (FORWARD, 0)])
def test_what_is_no_motion_is_refused(action, count):
    with pytest.raises(ValueError, match="expected a motion"):
        ActionMotion(action, count, np.zeros(3), np.zeros(3), ActionConfig(), LIMITS)
