"""Paths and their conversions give the deployment's results, and never change what they are given."""

from __future__ import annotations

import json

import numpy as np
import pytest
from navdp_vectors import PARITY, require_vectors

from s1_controller_node.path import (
    ACTIONS_USED,
    STANDALONE_SCALE,
    GoalBehindError,
    actions_from_chunk,
    actions_from_path,
    first_actions,
    path_from_increments,
    velocity_from_path,
)
from s1_controller_node.plan_intake import Action


@pytest.fixture(scope="module")
def text_cases():
    require_vectors()
    return json.loads((PARITY / "text_cases.json").read_text())


def mean_path(increments):
    return path_from_increments(increments).astype(np.float64).mean(axis=0)


def test_every_reference_trajectory_converts_to_the_reference_path_and_actions(text_cases):
    assert len(text_cases["traj_to_actions"]) > 20
    for case in text_cases["traj_to_actions"]:
        increments = np.array(case["input"], dtype=np.float32)
        before = increments.copy()
        path = mean_path(increments)
        assert np.abs(path[:, :2] - case["expected_trajectory_xy"]).max() <= 1e-5, case["name"]
        actions = actions_from_path(path)
        assert actions == case["expected_actions"], case["name"]
        assert actions_from_path(path, at_most=ACTIONS_USED) == actions[:ACTIONS_USED], case["name"]
        assert first_actions(actions) == case["expected_s1_idx"], case["name"]
        assert np.array_equal(increments, before), f"{case['name']}: input was modified"


def test_every_reference_chunk_converts_to_the_reference_actions(text_cases):
    assert len(text_cases["chunk_token"]) > 20
    for case in text_cases["chunk_token"]:
        actions = actions_from_chunk(np.array(case["input"], dtype=np.float32))
        assert actions == case["expected"], case["name"]
        assert first_actions(actions) == case["expected_s1_idx"], case["name"]


def test_every_reference_velocity_is_met(text_cases):
    for case in text_cases["trajectory_tovw"]:
        velocity = velocity_from_path(np.array(case["input"], dtype=np.float64), case["kp"])
        assert velocity == pytest.approx(case["expected"], abs=1e-5)


def test_a_path_without_heading_is_refused_by_the_velocity_rule(text_cases):
    path = np.array(text_cases["trajectory_tovw_on_xy_only_array"][0]["input"], dtype=np.float64)
    with pytest.raises(ValueError, match=r"path: expected shape \(any, 3\), got \(3, 2\)"):
        velocity_from_path(path)


def test_a_goal_behind_is_an_error_where_turning_around_is_not_allowed():
    path = mean_path(np.full((1, 8, 3), [-0.5, 0.0, 0.0], dtype=np.float32))
    assert actions_from_path(path)[:12] == [Action.TURN_RIGHT] * 12
    with pytest.raises(GoalBehindError, match=r"end ahead of the robot, got \(-1\.00, 0\.00\) m"):
        actions_from_path(path, turn_around=False)
    beside = mean_path(np.full((1, 8, 3), [0.0, 0.5, 0.0], dtype=np.float32))
    assert actions_from_path(beside, turn_around=False)[:6] == [Action.TURN_LEFT] * 6


def test_increments_are_metres_times_four_and_start_at_the_robot():
    increments = np.array([[[1.0, 2.0, 0.5], [1.0, -2.0, 0.25]]], dtype=np.float32)
    dual = path_from_increments(increments)
    assert dual.dtype == np.float32
    assert dual.tolist() == [[[0, 0, 0], [0.25, 0.5, 0.5], [0.5, 0.0, 0.75]]]
    assert path_from_increments(increments, STANDALONE_SCALE)[0, -1].tolist() == [0.5, 0.0, 0.1875]


def test_conversion_ends_for_any_path():
    rng = np.random.default_rng(0)
    for _ in range(200):
        path = rng.normal(size=(33, 3)).cumsum(axis=0)
        assert len(actions_from_path(path)) < 5000


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: path_from_increments(np.zeros((4, 3), np.float32)),
            r"increments: expected shape \(any, any, 3\), got \(4, 3\)",
        ),
        (lambda: path_from_increments(np.zeros((0, 4, 3), np.float32)), r"got \(0, 4, 3\)"),
        (
            lambda: path_from_increments(np.full((1, 4, 3), np.nan, np.float32)),
            "increments: expected finite values, got 12 NaN",
        ),
        (
            lambda: path_from_increments(np.zeros((1, 4, 3), np.float32), (4, 4, 0)),
            "scale: expected values of at least",
        ),
        (lambda: actions_from_path(np.zeros((1, 3))), r"path: expected shape \(at least 2, 2 or 3\), got \(1, 3\)"),
        (
            lambda: actions_from_path(np.array([[0, 0], [np.inf, 0]])),
            "path: expected finite values, got 1 NaN or infinite",
        ),
        (lambda: actions_from_chunk(np.zeros((4, 2))), r"increments: expected shape \(any, 3\), got \(4, 2\)"),
        (lambda: velocity_from_path(np.full((2, 3), np.nan)), "path: expected finite values"),
        (lambda: velocity_from_path(np.zeros((2, 3)), -1.0), r"gain: expected a number in \[0.0, inf\], got -1.0"),
    ],
)  # fmt: skip
def test_bad_input_is_an_error_with_expected_and_given_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_integer_or_list_input_is_refused_by_type():
    with pytest.raises(TypeError, match="increments: expected dtype float, got int64"):
        path_from_increments(np.zeros((1, 4, 3), dtype=np.int64))
    with pytest.raises(TypeError, match="increments: expected a numpy array, got list"):
        actions_from_chunk([[0.0, 0.0, 0.0]])
