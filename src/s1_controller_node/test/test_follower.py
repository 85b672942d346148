"""The simple motion layer in closed loop with an ideal base: paths are tracked, actions are carried out."""

import math

import numpy as np
import pytest

from s1_controller_node.follower import FORWARD_STEP, TURN_STEP, Follower, FollowerConfig, MotionStep
from s1_controller_node.geometry import drive
from s1_controller_node.plan_intake import Action

PERIOD = 0.05  # s


def simulate(follower: Follower, pose, limit=60.0) -> tuple[np.ndarray, list[MotionStep]]:
    """Drive an ideal base until the follower has nothing left."""
    steps, pose = [], np.array(pose, dtype=float)
    for _ in range(round(limit / PERIOD)):
        step = follower.step(pose)
        steps.append(step)
        if step.done:
            return pose, steps
        pose = drive(pose, step.twist, PERIOD)
    raise AssertionError(f"not done after {limit} s, at {pose}")


def arc(length=2.0, curvature=0.6) -> np.ndarray:
    s = np.linspace(0.0, length, 33)
    yaw = s * curvature
    return np.stack([np.sin(yaw) / curvature, (1 - np.cos(yaw)) / curvature, yaw], axis=1)


@pytest.mark.parametrize("image_pose", [(0.0, 0.0, 0.0), (3.0, -1.0, 2.5)])
@pytest.mark.parametrize("path", [arc(), arc(curvature=-0.6), arc(curvature=1e-6)])
def test_a_path_is_followed_to_its_end_in_the_world_it_was_seen_in(image_pose, path):
    follower = Follower(FollowerConfig())
    follower.follow_path(path, np.array(image_pose))
    pose, steps = simulate(follower, image_pose)
    cosine, sine = math.cos(image_pose[2]), math.sin(image_pose[2])
    end_x = image_pose[0] + cosine * path[-1, 0] - sine * path[-1, 1]
    end_y = image_pose[1] + sine * path[-1, 0] + cosine * path[-1, 1]
    assert math.hypot(pose[0] - end_x, pose[1] - end_y) < 0.15
    assert steps[0].distance_left == pytest.approx(2.0, abs=0.01)
    assert steps[-1].distance_left == 0.0


def test_limits_hold_and_the_robot_never_drives_backwards():
    config = FollowerConfig(max_linear_speed=0.25, max_angular_speed=0.4)
    for path in (arc(curvature=2.0), np.stack([-np.linspace(0, 1, 33), np.zeros(33), np.zeros(33)], axis=1)):
        follower = Follower(config)
        follower.follow_path(path, np.zeros(3))
        _, steps = simulate(follower, (0.0, 0.0, 0.0))
        v, omega = np.array([step.twist for step in steps]).T
        assert v.min() >= 0.0
        assert v.max() <= 0.25 + 1e-9
        assert np.abs(omega).max() <= 0.4 + 1e-9


def test_a_path_of_no_length_is_done_at_once():
    follower = Follower(FollowerConfig())
    follower.follow_path(np.zeros((33, 3)), np.zeros(3))
    assert follower.step(np.zeros(3)).done


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ([Action.TURN_LEFT] * 4, (0.0, 0.0, 4 * TURN_STEP)),
        ([Action.TURN_RIGHT] * 3, (0.0, 0.0, -3 * TURN_STEP)),
        ([Action.FORWARD] * 4, (4 * FORWARD_STEP, 0.0, 0.0)),
        ([Action.TURN_LEFT] * 6 + [Action.FORWARD] * 2, (0.0, 2 * FORWARD_STEP, 6 * TURN_STEP)),
        ([Action.LOOK_DOWN, Action.FORWARD], (FORWARD_STEP, 0.0, 0.0)),
    ],
)
def test_actions_end_where_they_should_without_errors_adding_up(actions, expected):
    follower = Follower(FollowerConfig())
    follower.follow_actions(actions)
    pose, steps = simulate(follower, (0.0, 0.0, 0.0))
    np.testing.assert_allclose(pose, expected, atol=0.04)  # 2 degrees, 2 cm at the end of half a metre
    counts = [step.actions_left for step in steps]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == sum(action != Action.LOOK_DOWN for action in actions)


def test_turning_is_said_of_turns_only():
    follower = Follower(FollowerConfig())
    follower.follow_actions([Action.TURN_LEFT])
    assert follower.step(np.zeros(3)).turning
    follower.follow_actions([Action.FORWARD])
    assert not follower.step(np.zeros(3)).turning


def test_stop_after_a_step_is_reached_only_when_the_step_is_driven():
    follower = Follower(FollowerConfig())
    follower.follow_actions([Action.FORWARD, Action.STOP])
    assert not follower.step(np.zeros(3)).stopped
    assert follower.step(np.array([FORWARD_STEP, 0.0, 0.0])).stopped
    assert follower.step(np.array([FORWARD_STEP, 0.0, 0.0])).done


def test_standing_forgets_path_and_actions():
    follower = Follower(FollowerConfig())
    follower.follow_path(arc(), np.zeros(3))
    follower.stand()
    assert follower.step(np.zeros(3)) == MotionStep()


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_bad_limit_is_refused_by_name(value):
    with pytest.raises(ValueError, match="max_linear_speed is"):
        FollowerConfig(max_linear_speed=value)
