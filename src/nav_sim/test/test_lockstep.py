"""The world waits for those who should have answered, and for nobody else."""

import threading
import time

import pytest

from nav_sim.lockstep import CONTROLLER, NOBODY, PLANNER_AND_CONTROLLER, ControllerSaid, LockStep


def said(plan=1, stamp_ns=0, path_wanted=False, asks=False, first=False, frames_from_ns=0):
    return ControllerSaid((7, plan), stamp_ns, path_wanted, asks, first, frames_from_ns)


@pytest.fixture
def steps():
    """S1 has given the command of this period; it follows a plan made from the frame of stamp 100."""
    made = LockStep(PLANNER_AND_CONTROLLER, limit=60.0)
    made.command_received()
    made.instruction_given()
    made.frame_published(100)
    made.plan_received((7, 1), 100)
    made.period_begins()
    made.command_received()
    made.state_received(said(stamp_ns=100))
    return made


def test_nobody_is_waited_for_before_the_first_command():
    steps = LockStep(CONTROLLER, 1.0)
    steps.frame_published(5)
    assert steps.missing() == ""
    assert not steps.engaged
    steps.command_received()
    assert steps.engaged


def test_each_control_period_needs_a_command_and_the_state_that_comes_with_it(steps):
    assert steps.missing() == ""
    steps.period_begins()
    assert steps.missing() == "a velocity command"
    steps.command_received()
    assert steps.missing() == "s1/state"
    steps.state_received(said(stamp_ns=100))
    assert steps.missing() == ""


def test_a_robot_that_reports_no_state_is_not_waited_for():
    steps = LockStep(CONTROLLER, 1.0)
    steps.command_received()
    steps.frame_published(100)
    assert steps.missing() == ""


def test_a_frame_is_to_be_answered_by_who_wants_a_path(steps):
    steps.state_received(said(stamp_ns=100, path_wanted=True))
    steps.frame_published(200)
    assert steps.missing() == "S1's answer to the newest frame"
    steps.state_received(said(stamp_ns=200, path_wanted=True))
    assert steps.missing() == ""


def test_who_acts_without_looking_need_not_use_the_frame(steps):
    steps.frame_published(200)
    assert steps.missing() == ""


def test_the_path_of_a_plan_that_was_replaced_meanwhile_is_not_waited_for(steps):
    steps.state_received(said(stamp_ns=100, path_wanted=True))
    steps.frame_published(200)
    steps.state_received(said(plan=2, stamp_ns=100, path_wanted=True))
    assert steps.missing() == ""


def test_a_plan_is_waited_for_when_it_is_asked_for_and_there_is_a_frame_for_it(steps):
    steps.state_received(said(stamp_ns=100, asks=True))
    assert steps.missing() == ""  # the newest frame was planned on already
    steps.frame_published(200)
    assert steps.missing() == "the next plan on s2/plan"
    steps.plan_received((7, 2), 200)
    assert steps.missing() == "S1 to take over the plan"
    steps.state_received(said(stamp_ns=200, asks=True))  # sent before the plan came to S1
    assert steps.missing() == "S1 to take over the plan"
    steps.state_received(said(plan=2, stamp_ns=200))
    assert steps.missing() == ""


def test_a_robot_that_must_stand_first_is_given_time_to(steps):
    steps.frame_published(200)
    steps.state_received(said(stamp_ns=100, asks=True, frames_from_ns=250))
    assert steps.missing() == ""
    steps.frame_published(300)
    assert steps.missing() == "the next plan on s2/plan"


def test_an_answer_of_s1_that_overtakes_the_plan_counts(steps):
    steps.frame_published(200)
    steps.state_received(said(plan=2, stamp_ns=200))
    steps.plan_received((7, 2), 200)
    assert steps.missing() == ""


def test_the_first_plan_is_waited_for_once_the_instruction_is_given(steps):
    steps.world_changed()
    steps.frame_published(200)
    steps.state_received(said(plan=0, asks=True, first=True))
    assert steps.missing() == ""
    steps.instruction_given()
    assert steps.missing() == "the next plan on s2/plan"


def test_the_planner_is_not_waited_for_where_only_the_controller_is():
    steps = LockStep(CONTROLLER, 1.0)
    steps.command_received()
    steps.instruction_given()
    steps.frame_published(200)
    steps.state_received(said(asks=True))
    assert steps.missing() == ""


def test_a_wait_ends_when_the_answer_comes(steps):
    steps.period_begins()
    steps.state_received(said(stamp_ns=100))
    threading.Timer(0.05, steps.command_received).start()
    began = time.monotonic()
    assert steps.wait() == ""
    assert 0.04 < time.monotonic() - began < 30.0


def test_a_dead_controller_does_not_stop_the_world_for_good():
    steps = LockStep(CONTROLLER, 0.2)
    steps.command_received()
    steps.period_begins()
    began = time.monotonic()
    assert steps.wait() == "a velocity command"
    assert time.monotonic() - began >= 0.2
    assert not steps.engaged
    assert steps.missing() == ""


def test_closing_ends_all_waiting(steps):
    steps.period_begins()
    threading.Timer(0.05, steps.close).start()
    assert steps.wait() == ""
    assert steps.missing() == ""


def test_a_world_that_runs_again_waits_again(steps):
    steps.close()
    steps.open()
    assert not steps.engaged
    steps.command_received()
    steps.period_begins()
    assert steps.missing() == "a velocity command"


def test_without_lock_step_nothing_is_missing():
    steps = LockStep(NOBODY, 1.0)
    steps.command_received()
    steps.frame_published(1)
    steps.period_begins()
    assert steps.missing() == ""
    assert not steps.engaged
