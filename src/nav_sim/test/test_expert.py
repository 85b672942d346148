"""The expert reaches every goal in the planner's steps without touching anything, and its pixel goals are true."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nav_sim import expert
from nav_sim.camera import Camera
from nav_sim.episodes import FAMILIES, footprint_distance, make_episode, make_worded_episode
from nav_sim.oracles import FORWARD, STOP, TURN_STEP
from nav_sim.simulator import wrapped

CAMERAS = {"level": Camera(), "look_down": Camera().tilted()}
KEYS = [(family, number) for family in FAMILIES for number in (0, 7)]


@pytest.fixture(scope="module", params=KEYS, ids=lambda key: f"{key[0]}-{key[1]}")
def driven(request):
    episode = make_episode("train", 3, *request.param)
    return episode, expert.drive(episode, CAMERAS), expert.drive(episode, CAMERAS, slip_percent=15)


def test_steps_lead_to_the_goal(driven):
    for episode, *runs in (driven,):
        for steps in runs:
            assert len(steps.poses) == len(steps.actions) == len(steps.slipped)
            assert steps.poses[0] == episode.start
            assert steps.actions[-1] == STOP
            assert STOP not in steps.actions[:-1]
            last = (steps.poses[-1].x, steps.poses[-1].y)
            assert min(footprint_distance(episode.flat.items[goal], last) for goal in episode.goals) <= 0.95


def test_every_pose_follows_from_the_action_before(driven):
    _, straight, slipping = driven
    assert not any(straight.slipped)
    for steps in (straight, slipping):
        for index, action in enumerate(steps.actions[:-1]):
            wanted, pose = expert.moved(steps.poses[index], action), steps.poses[index + 1]
            off = math.dist((wanted.x, wanted.y), (pose.x, pose.y)), abs(wrapped(wanted.yaw - pose.yaw))
            if steps.slipped[index + 1]:
                assert action == FORWARD
                assert off[0] <= 0.151
                assert off[1] <= math.radians(50.5)
            else:
                assert off == pytest.approx((0.0, 0.0), abs=1e-9)


def test_the_robot_stays_clear_of_everything(driven):
    episode, *runs = driven
    grid = episode.flat.passable
    for steps in runs:
        for pose in steps.poses:
            assert grid[math.floor(pose.y / 0.05), math.floor(pose.x / 0.05)]


def test_the_way_is_short_and_does_not_tremble(driven):
    episode, steps, _ = driven
    metres = 0.25 * steps.actions.count(FORWARD)
    assert metres <= 1.5 * episode.shortest + 1.0
    turns = "".join("s^lr"[action] for action in steps.actions)
    assert "lr" not in turns
    assert "rl" not in turns


def test_pixel_goals_are_where_the_robot_will_be(driven):
    """The pixel's floor point is the place of that later frame, not farther than 4 m along the way."""
    episode, *runs = driven
    camera = CAMERAS["look_down"]
    found = 0
    for steps in runs:
        goals = expert.pixel_goals(episode, steps, camera)
        assert len(goals) == len(steps.poses)
        assert goals[-1] is None
        for index, goal in enumerate(goals):
            if goal is None:
                continue
            found += 1
            there = steps.poses[index + goal.frames]
            floor = camera.floor_point(goal.column, goal.row)
            assert steps.poses[index].to_world(floor) == pytest.approx((there.x, there.y), abs=1e-6)
            assert not any(steps.slipped[index + 1 : index + goal.frames + 1])
            forward = steps.actions[index : index + goal.frames].count(FORWARD)
            assert forward * 0.25 <= 4.0 + 1e-9
            assert steps.actions[index + goal.frames - 1] == FORWARD  # the first frame at that place
    assert found > 5


def test_slips_happen_and_are_repeatable():
    episode = make_episode("train", 3, "object", 7)
    first, second = (expert.drive(episode, CAMERAS, 30) for _ in range(2))
    assert first == second
    assert any(first.slipped)
    assert expert.drive(episode, CAMERAS).actions != first.actions


def test_wordings_of_a_task_are_different_and_the_first_is_the_episodes():
    episode, wordings = make_worded_episode("train", 3, "object", 7, 4)
    assert episode == make_episode("train", 3, "object", 7)
    assert wordings[0] == episode.instruction
    assert len(set(wordings)) == len(wordings) > 1


def test_turns_are_the_planners():
    assert np.degrees(TURN_STEP) == pytest.approx(15.0)
