"""When S2 plans, and to which episode a plan belongs."""

from s2_planner_node.trigger import PlanTrigger, first_episode_id

SECOND = 10**9
NOW = 1_000 * SECOND


def trigger() -> PlanTrigger:
    made = PlanTrigger(first_id=100)
    made.start_episode("go")
    return made


def send(made: PlanTrigger, now=NOW, stops=False) -> int | None:
    return made.number_plan(made.episode, now, stops)


def report(made: PlanTrigger, number: int, *, asks: bool, frames_from=0, now=NOW, episode=100) -> None:
    made.controller_reported(episode, number, asks, frames_from, now)


def test_without_an_instruction_nothing_is_planned():
    assert not PlanTrigger(0).due(NOW)


def test_the_first_frame_of_an_episode_is_planned_on_and_again_after_a_failed_attempt():
    made = trigger()
    assert made.due(NOW)
    assert made.due(NOW + SECOND)


def test_after_a_plan_the_next_one_waits_until_the_controller_asks():
    made = trigger()
    number = send(made)
    report(made, number, asks=False)
    assert not made.due(NOW + 9 * SECOND)
    report(made, number, asks=True)
    assert made.due(NOW)
    send(made)
    assert not made.due(NOW + 9 * SECOND)


def test_a_frame_from_before_the_robot_stood_is_not_planned_on():
    made = trigger()
    number = send(made)
    report(made, number, asks=True, frames_from=NOW + SECOND)
    assert not made.due(NOW + SECOND - 1)
    assert made.due(NOW + SECOND)


def test_an_asking_that_the_controller_takes_back_is_forgotten():
    made = trigger()
    number = send(made)
    report(made, number, asks=True)
    report(made, number, asks=False)
    assert not made.due(NOW)


def test_what_the_controller_says_of_an_older_plan_does_not_count():
    made = trigger()
    first = send(made)
    report(made, first, asks=True)
    send(made)
    report(made, first, asks=True, now=NOW + SECOND // 2)
    assert not made.due(NOW + SECOND)


def test_a_plan_the_controller_never_took_up_is_replaced():
    made = trigger()
    send(made)
    report(made, 0, asks=True, episode=0, now=NOW + SECOND // 2)
    assert not made.due(NOW + SECOND)
    report(made, 0, asks=True, episode=0, now=NOW + 2 * SECOND)
    assert made.due(NOW + 2 * SECOND)
    assert send(made, NOW + 2 * SECOND) == 1
    assert not made.due(NOW + 2 * SECOND)


def test_stop_ends_the_episode_until_the_next_instruction():
    made = trigger()
    send(made, stops=True)
    report(made, 0, asks=True, now=NOW + 5 * SECOND)
    assert made.finished
    assert not made.due(NOW + 9 * SECOND)
    made.start_episode("on")
    assert made.due(NOW)


def test_a_stop_behind_motions_ends_the_episode_when_the_controller_has_come_to_it():
    made = trigger()
    number = send(made)
    report(made, number, asks=False)
    assert not made.finished
    made.arrived(99)  # an older episode
    assert not made.finished
    made.arrived(100)
    assert made.finished
    report(made, number, asks=True)
    assert not made.due(NOW + 9 * SECOND)


def test_a_stop_that_was_not_come_to_because_of_an_interruption_is_decided_anew():
    made = trigger()
    report(made, send(made), asks=True)
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
