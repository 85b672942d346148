"""The world waits for those who should have answered, and for nobody else."""

import threading
import time

import pytest

from nav_sim.lockstep import CONTROLLER, FOLLOWING, NOBODY, PLANNER_AND_CONTROLLER, LockStep

IDLE = 0


@pytest.fixture
def steps():
    made = LockStep(PLANNER_AND_CONTROLLER, plan_step_gap=3, limit=0.2)
    made.command_received()
    made.period_begins()
    return made


def test_nobody_is_waited_for_before_the_first_command():
    steps = LockStep(CONTROLLER, 4, 1.0)
    steps.frame_published(5)
    assert steps.missing() == ""
    assert not steps.engaged
    steps.command_received()
    assert steps.engaged


def test_each_control_period_needs_a_command(steps):
    assert steps.missing() == "a velocity command"
    steps.command_received()
    assert steps.missing() == ""
    steps.period_begins()
    assert steps.missing() == "a velocity command"


def test_a_frame_is_to_be_answered_by_who_follows_a_path(steps):
    steps.frame_published(100)
    steps.command_received()
    assert steps.missing() == "s1/state after the newest frame"
    steps.state_received(FOLLOWING, 90)
    assert steps.missing() == "S1's answer to the newest frame"
    steps.state_received(FOLLOWING, 100)
    assert steps.missing() == ""


def test_who_stands_need_not_use_the_frame(steps):
    steps.frame_published(100)
    steps.command_received()
    steps.state_received(IDLE, 0)
    assert steps.missing() == ""


def test_a_plan_is_waited_for_when_its_gap_is_over(steps):
    steps.plan_received(100)
    for stamp in (100, 200, 300):
        steps.frame_published(stamp)
        steps.command_received()
        steps.state_received(FOLLOWING, stamp)
        assert steps.missing() == ""
    steps.frame_published(400)
    steps.state_received(FOLLOWING, 400)
    assert steps.missing() == "the next plan on s2/plan"
    steps.plan_received(400)
    assert steps.missing() == ""


def test_a_wait_ends_when_the_answer_comes(steps):
    threading.Timer(0.05, steps.command_received).start()
    began = time.monotonic()
    assert steps.wait() == ""
    assert 0.04 < time.monotonic() - began < 0.19


def test_a_dead_controller_does_not_stop_the_world_for_good(steps):
    began = time.monotonic()
    assert steps.wait() == "a velocity command"
    assert time.monotonic() - began >= 0.2
    assert not steps.engaged
    assert steps.missing() == ""


def test_closing_ends_all_waiting(steps):
    threading.Timer(0.05, steps.close).start()
    assert steps.wait() == ""


def test_without_lock_step_nothing_is_missing():
    steps = LockStep(NOBODY, 4, 1.0)
    steps.command_received()
    steps.frame_published(1)
    steps.period_begins()
    assert steps.missing() == ""
    assert not steps.engaged
