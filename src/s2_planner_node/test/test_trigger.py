"""When S2 plans, and to which episode a plan belongs."""

import pytest

from s2_planner_node.trigger import PARTIAL_ASYNC, SYNC, PlanTrigger, first_episode_id

SECOND = 10**9
NOW = 1_000 * SECOND


def trigger(mode=PARTIAL_ASYNC, gap=4) -> PlanTrigger:
    made = PlanTrigger(mode, gap, first_id=100)
    made.start_episode("go")
    return made


def send(made: PlanTrigger, now=NOW, stops=False) -> int | None:
    made.planning_started()
    return made.number_plan(made.episode, now, stops)


def test_without_an_instruction_nothing_is_planned():
    assert not PlanTrigger(PARTIAL_ASYNC, 4, 0).due(NOW)


def test_the_first_frame_of_an_episode_is_planned_on_and_again_after_a_failed_attempt():
    made = trigger()
    assert made.due(NOW)
    made.planning_started()
    assert made.due(NOW)


@pytest.mark.parametrize(("mode", "due"), [(PARTIAL_ASYNC, True), (SYNC, False)])
def test_only_partial_async_plans_again_after_the_gap_of_frames(mode, due):
    made = trigger(mode)
    send(made)
    for _ in range(3):
        made.frame_arrived()
    assert not made.due(NOW)
    made.frame_arrived()
    assert made.due(NOW) is due


@pytest.mark.parametrize("mode", [SYNC, PARTIAL_ASYNC])
def test_a_plan_that_is_used_up_is_followed_by_one_on_a_frame_taken_after_that(mode):
    made = trigger(mode)
    number = send(made)
    made.controller_reported(100, number, waiting=False, now_ns=NOW + SECOND)
    assert not made.due(NOW + SECOND)
    made.controller_reported(100, number, waiting=True, now_ns=NOW + 2 * SECOND)
    made.controller_reported(100, number, waiting=True, now_ns=NOW + 3 * SECOND)
    assert not made.due(NOW + 2 * SECOND)
    assert made.due(NOW + 2 * SECOND + 1)


def test_what_the_controller_says_of_an_older_plan_does_not_count():
    made = trigger(SYNC)
    first = send(made)
    made.controller_reported(100, first, waiting=True, now_ns=NOW)
    send(made, NOW)
    made.controller_reported(100, first, waiting=True, now_ns=NOW + SECOND // 2)
    assert not made.due(NOW + SECOND)


def test_a_plan_the_controller_never_took_up_is_replaced():
    made = trigger(SYNC)
    send(made)
    made.controller_reported(0, 0, waiting=True, now_ns=NOW + SECOND // 2)
    assert not made.due(NOW + SECOND)
    made.controller_reported(0, 0, waiting=True, now_ns=NOW + 2 * SECOND)
    assert made.due(NOW + 2 * SECOND)
    assert send(made, NOW + 2 * SECOND) == 1
    assert not made.due(NOW + 2 * SECOND)


def test_stop_ends_the_episode_until_the_next_instruction():
    made = trigger()
    send(made, stops=True)
    for _ in range(10):
        made.frame_arrived()
    made.controller_reported(100, 0, waiting=True, now_ns=NOW + 5 * SECOND)
    assert made.finished
    assert not made.due(NOW + 9 * SECOND)
    made.start_episode("on")
    assert made.due(NOW)


def test_a_plan_of_an_episode_that_ended_meanwhile_is_discarded():
    made = trigger()
    old = made.episode
    new = made.start_episode("somewhere else")
    assert made.number_plan(old, NOW, stops=False) is None
    assert made.number_plan(new, NOW, stops=False) == 0
    made.end_episode()
    assert made.number_plan(new, NOW, stops=False) is None


def test_ids_grow_from_episode_to_episode_and_from_process_to_process():
    made = trigger()
    first = made.episode.episode_id
    assert made.start_episode("next").episode_id == first + 1
    start = 1_763_829_012_123_456_789
    later = first_episode_id(start + 5_000_000)
    assert later > first_episode_id(start) + 1000
    assert later < 2**64
