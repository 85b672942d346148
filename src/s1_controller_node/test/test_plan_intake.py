"""Every plan is checked: one clear refusal each, and only a well-formed, newer plan gets through."""

from types import SimpleNamespace

import numpy as np
import pytest

from s1_controller_node.plan_intake import Action, Kind, PlanIntake, PlanRefused

NOW = 1_000_000_000_000


def plan(**changes) -> SimpleNamespace:
    stamp_ns = changes.pop("stamp_ns", NOW - 500_000_000)
    fields = {
        "header": SimpleNamespace(stamp=SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)),
        "episode_id": 7,
        "plan_number": 3,
        "kind": 2,
        "actions": [],
        "pixel_goal_column": 100,
        "pixel_goal_row": 200,
        "image_width": 384,
        "image_height": 384,
        "look_down": False,
        "traj_latents_shape": [1, 4, 8],
        "traj_latents": [0.5] * 32,
    }
    return SimpleNamespace(**(fields | changes))


def actions(*codes, **changes) -> SimpleNamespace:
    return plan(kind=0, actions=list(codes), traj_latents_shape=[], traj_latents=[], **changes)


def intake() -> PlanIntake:
    return PlanIntake(plan_timeout=5.0, future_tolerance=0.5)


def test_constants_are_those_of_the_message():
    message = pytest.importorskip("nav_msgs_ext.msg").S2Plan
    assert {k.name: k.value for k in Kind} == {k.name: getattr(message, f"KIND_{k.name}") for k in Kind}
    assert {a.name: a.value for a in Action} == {a.name: getattr(message, f"ACTION_{a.name}") for a in Action}


def test_a_good_plan_arrives_with_everything():
    accepted = intake().check(plan(), NOW)
    assert (accepted.episode_id, accepted.plan_number, accepted.kind) == (7, 3, Kind.TRAJ_LATENTS)
    assert (accepted.pixel_goal, accepted.image_size) == ((100, 200), (384, 384))
    assert accepted.stamp_ns == NOW - 500_000_000
    np.testing.assert_array_equal(accepted.traj_latents, np.full((1, 4, 8), 0.5, np.float32))
    assert intake().check(actions(2, 1, 5), NOW).actions == (Action.TURN_LEFT, Action.FORWARD, Action.LOOK_DOWN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": 3}, r"kind is 3, expected 0 \(ACTIONS\)"),
        ({"kind": 0, "actions": []}, r"0 actions, expected 1 … 4096"),
        ({"kind": 0, "actions": [1] * 4097}, r"4097 actions, expected 1 … 4096"),
        ({"kind": 0, "actions": [1, 4]}, r"actions are \[1, 4\], expected only"),
        ({"actions": [1]}, r"kind TRAJ_LATENTS carries 1 actions, expected none"),
        ({"image_width": 0}, r"image size is 0x384"),
        ({"image_height": 1 << 20}, r"image size is 384x1048576"),
        ({"pixel_goal_column": -1}, r"\(column -1, row 200\) lies outside the 384x384 image"),
        ({"pixel_goal_row": 384}, r"\(column 100, row 384\) lies outside"),
        ({"kind": 1, "pixel_goal_column": 384}, r"lies outside"),
        ({"traj_latents_shape": [4, 8]}, r"traj_latents_shape is \[4, 8\]"),
        ({"traj_latents_shape": [2, 4, 4]}, r"traj_latents_shape is \[2, 4, 4\]"),
        ({"traj_latents_shape": [1, 0, 8], "traj_latents": []}, r"traj_latents_shape is \[1, 0, 8\]"),
        ({"traj_latents": [0.5] * 31}, r"traj_latents has 31 values, expected 32"),
        ({"traj_latents": [0.5] * 30 + [float("nan"), float("inf")]}, r"traj_latents has 2 NaN or infinite values"),
    ],
)
def test_a_malformed_plan_is_refused_by_what_is_wrong_with_it(changes, message):
    with pytest.raises(PlanRefused, match="plan 3 of episode 7 refused: .*" + message) as refusal:
        intake().check(plan(**changes), NOW)
    assert refusal.value.malformed


@pytest.mark.parametrize(
    ("age", "message"), [(5.1, r"5.100 s old \(plan_timeout 5.0 s\)"), (-0.6, r"0.600 s in the future")]
)
def test_a_plan_too_old_or_from_the_future_is_refused(age, message):
    with pytest.raises(PlanRefused, match=message) as refusal:
        intake().check(plan(stamp_ns=NOW - round(age * 1e9)), NOW)
    assert not refusal.value.malformed


def test_before_ros_time_begins_a_plan_is_accepted_for_later():
    assert intake().check(plan(stamp_ns=NOW), now_ns=0).plan_number == 3


def test_stop_is_obeyed_at_any_age():
    for age in (3600, -3600):
        assert intake().check(actions(0, stamp_ns=NOW - age * 10**9), NOW).ends_episode


@pytest.mark.parametrize("older", [(7, 3), (7, 2), (6, 9)])
def test_a_plan_comes_through_once_and_in_order(older):
    checked = intake()
    checked.check(plan(), NOW)
    with pytest.raises(PlanRefused, match="plan 3 of episode 7 was seen before it"):
        checked.check(plan(episode_id=older[0], plan_number=older[1]), NOW)
    assert checked.check(plan(plan_number=4), NOW).plan_number == 4
    assert checked.check(plan(episode_id=8, plan_number=0), NOW).episode_id == 8


def test_a_malformed_plan_does_not_block_the_good_ones_after_it():
    checked = intake()
    with pytest.raises(PlanRefused):
        checked.check(plan(episode_id=2**64 - 1, kind=9), NOW)
    assert checked.check(plan(), NOW).plan_number == 3


def test_after_stop_only_a_newer_episode_is_accepted():
    checked = intake()
    checked.stop_episode(7)
    with pytest.raises(PlanRefused, match="STOP ended this episode"):
        checked.check(plan(plan_number=9), NOW)
    assert checked.check(plan(episode_id=8), NOW).episode_id == 8


def test_forgetting_accepts_older_plans_again():
    checked = intake()
    checked.check(plan(), NOW)
    checked.stop_episode(7)
    checked.forget()
    assert checked.check(plan(plan_number=1), NOW).plan_number == 1


def test_random_rubbish_is_refused_and_never_raises_anything_else():
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(10_000):
        count = int(rng.integers(0, 40))
        message = plan(
            kind=int(rng.integers(0, 256)) if rng.random() < 0.3 else int(rng.integers(0, 3)),
            actions=rng.integers(0, 256, int(rng.integers(0, 5))).tolist(),
            pixel_goal_column=int(rng.integers(-(2**31), 2**31)),
            image_width=int(rng.integers(0, 2**32)),
            traj_latents_shape=rng.integers(0, 2**32, int(rng.integers(0, 5))).tolist(),
            traj_latents=rng.normal(size=count).tolist(),
            episode_id=int(rng.integers(0, 2**63)),
        )
        try:
            accepted = intake().check(message, NOW)
        except PlanRefused:
            refused += 1
        else:
            assert accepted.kind == Kind.ACTIONS  # short action lists can be well-formed by chance
    assert refused > 9_000
