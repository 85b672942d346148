"""The state machine of the modes: every event and transition, without clocks, poses or ROS."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dual_nav_util.controller_state import State
from s1_controller_node import modes
from s1_controller_node.modes import ACTIONS, PARTIAL_ASYNC, SYNC, TRACKING, Ask, Memory, ModeConfig, Run
from s1_controller_node.plan_intake import AcceptedPlan, Action, Kind
from s1_controller_node.safety import Reason

STOP, FORWARD, LEFT, RIGHT, LOOK = Action.STOP, Action.FORWARD, Action.TURN_LEFT, Action.TURN_RIGHT, Action.LOOK_DOWN
CONFIGS = [ModeConfig(mode=m, path_execution=e) for m in (SYNC, PARTIAL_ASYNC) for e in (TRACKING, ACTIONS)]
ASYNC = ModeConfig()
LONG = (1, 1, 1, 1, 1, 1)  # conversion of a long path


def goal(number=0, episode=1):
    latents = np.zeros((1, 4, 8), dtype=np.float32)
    return AcceptedPlan(episode, number, 1000 + number, Kind.TRAJ_LATENTS, pixel_goal=(1, 1), traj_latents=latents)


def act(*actions, number=0, episode=1):
    return AcceptedPlan(episode, number, 1000 + number, Kind.ACTIONS, actions=tuple(actions))


def came(*plans):
    memory = Memory()
    for plan in plans:
        memory = modes.plan_came(memory, plan)
    return memory


def state(memory, reasons=Reason.NONE, text=""):
    return modes.report(memory, reasons, text)[0]


def test_before_the_first_plan_the_robot_is_idle_and_asks_for_one():
    assert state(Memory()) == State.IDLE
    assert modes.ask(Memory(), ASYNC) == Ask.FIRST
    assert not modes.path_wanted(Memory(), ASYNC)
    assert modes.begin_next(Memory()) == Memory()


def test_equal_actions_in_a_row_are_driven_as_one_motion_and_in_order():
    memory = modes.begin_next(came(act(LEFT, LEFT, FORWARD, RIGHT)))
    assert memory.run == Run(LEFT, 2)
    assert state(memory) == State.TURNING
    assert memory.settled_ns is None
    assert modes.begin_next(memory) is memory  # one at a time
    memory = modes.run_ended(memory, 5, ASYNC)
    assert modes.ask(memory, ASYNC) == Ask.NO
    memory = modes.begin_next(memory)
    assert (memory.run, state(memory)) == (Run(FORWARD, 1), State.FOLLOWING)
    memory = modes.begin_next(modes.run_ended(memory, 6, ASYNC))
    assert memory.run == Run(RIGHT, 1)
    memory = modes.run_ended(memory, 7, ASYNC)
    assert modes.ask(memory, ASYNC) == Ask.USED_UP
    assert memory.settled_ns == 7  # S2 is shown a frame from after the motion
    assert state(memory) == State.IDLE


@pytest.mark.parametrize("config", CONFIGS)
def test_stop_latches_until_a_plan_of_a_newer_episode(config):
    memory = came(goal(0))
    memory = modes.path_came(memory, LONG, config)
    memory = modes.plan_came(memory, act(STOP, number=1))
    assert memory.stopped
    for event in (
        lambda m: modes.plan_came(m, goal(2)),
        lambda m: modes.plan_came(m, act(FORWARD, number=3)),
        lambda m: modes.begin_next(m),
        lambda m: modes.steps_driven(m, 3.0, config),
        lambda m: modes.interrupted(m),
        lambda m: modes.stands(m, 99),
        lambda m: modes.forget(m, also_stop=False),
    ):
        after = event(memory)
        assert after.stopped_episode == 1
        assert after.idle
        assert not modes.path_wanted(after, config)
    assert state(memory) == State.ARRIVED
    assert modes.ask(memory, config) == Ask.NO
    again = modes.plan_came(memory, goal(0, episode=2))
    assert not again.stopped
    assert modes.path_wanted(again, config)
    assert not modes.plan_came(modes.forget(memory, also_stop=True), goal(9)).stopped  # ~/reset


def test_stop_after_other_actions_is_reached_only_when_they_are_done():
    memory = modes.begin_next(came(act(FORWARD, STOP)))
    assert not memory.stopped
    memory = modes.begin_next(modes.run_ended(memory, 5, ASYNC))
    assert memory.stopped
    assert state(memory) == State.ARRIVED


def test_stop_in_the_middle_of_a_motion_is_obeyed_at_once():
    memory = modes.begin_next(came(act(FORWARD, FORWARD)))
    assert modes.plan_came(memory, act(STOP, number=1)).idle


def test_look_down_asks_s2_and_drops_what_was_decided_without_looking():
    memory = modes.begin_next(came(act(LOOK, FORWARD)))
    assert memory.idle
    assert modes.ask(memory, ASYNC) == Ask.LOOK_DOWN
    assert state(memory) == State.IDLE


@pytest.mark.parametrize("config", CONFIGS)
def test_a_goal_wants_a_path_and_says_so_while_it_is_computed(config):
    memory = came(goal())
    assert modes.path_wanted(memory, config)
    assert state(memory) == State.FOLLOWING
    assert modes.ask(memory, config) == Ask.NO
    memory = modes.begin_next(modes.path_came(memory, LONG, config))
    assert memory.path == (config.path_execution == TRACKING)
    assert (memory.run == Run(FORWARD, 4)) == (config.path_execution == ACTIONS)
    assert state(memory) == State.FOLLOWING


def test_sync_uses_one_path_per_plan_and_asks_when_four_steps_are_driven():
    config = ModeConfig(mode=SYNC, path_execution=TRACKING)
    memory = modes.path_came(came(goal()), LONG, config)
    assert not modes.path_wanted(memory, config)
    memory = modes.steps_driven(memory, 3.9, config)
    assert modes.ask(memory, config) == Ask.NO
    memory = modes.steps_driven(memory, 0.1, config)
    assert memory.idle
    assert modes.ask(memory, config) == Ask.NO  # the robot still rolls
    memory = modes.stands(memory, 77)
    assert modes.ask(memory, config) == Ask.USED_UP
    assert memory.settled_ns == 77


def test_sync_with_actions_empties_its_queue_before_s2_is_asked():
    config = ModeConfig(mode=SYNC, path_execution=ACTIONS)
    memory = modes.begin_next(modes.path_came(came(goal()), (1, 1, 2, 2, 2, 1), config))
    assert (memory.run, memory.queue) == (Run(FORWARD, 2), (LEFT, LEFT))  # the first four of the conversion
    memory = modes.run_ended(memory, 5, config)
    assert modes.ask(memory, config) == Ask.NO
    memory = modes.run_ended(modes.begin_next(memory), 6, config)
    assert modes.ask(memory, config) == Ask.USED_UP


def test_partial_async_asks_after_plan_step_gap_paths_while_driving_on():
    memory = came(goal())
    for i in range(4):
        assert modes.ask(memory, ASYNC) == Ask.NO, i
        memory = modes.path_came(memory, LONG, ASYNC)
    assert modes.ask(memory, ASYNC) == Ask.STEP_GAP
    assert memory.path
    assert modes.path_wanted(memory, ASYNC)
    memory = modes.plan_came(memory, goal(1))
    assert memory.path  # the path at hand is driven until the new plan's first one
    assert modes.ask(memory, ASYNC) == Ask.NO


@pytest.mark.parametrize("execution", [TRACKING, ACTIONS])
def test_partial_async_stops_after_s2_max_forward_step_steps_on_one_plan(execution):
    config = ModeConfig(path_execution=execution)
    memory = modes.path_came(came(goal()), LONG, config)
    if execution == TRACKING:
        memory = modes.steps_driven(memory, 8.0, config)
        memory = modes.stands(memory, 9)
    else:
        memory = modes.run_ended(modes.begin_next(memory), 5, config)
        assert modes.path_wanted(memory, config, 5)
        assert not modes.path_wanted(memory, config, 4)  # a frame from before the motion ended
        memory = modes.begin_next(modes.path_came(memory, LONG, config))
        assert memory.run == Run(FORWARD, 4)
        memory = modes.run_ended(memory, 9, config)
    assert modes.ask(memory, config) == Ask.FORWARD_STEPS
    assert not modes.path_wanted(memory, config)
    assert memory.idle


def test_the_last_conversion_on_a_plan_is_cut_to_the_steps_left():
    config = ModeConfig(path_execution=ACTIONS, s2_max_forward_step=6)
    memory = modes.run_ended(modes.begin_next(modes.path_came(came(goal()), LONG, config)), 5, config)
    memory = modes.begin_next(modes.path_came(memory, LONG, config))
    assert memory.run == Run(FORWARD, 2)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_conversion_shorter_than_four_actions_asks_s2_as_soon_as_it_is_used_up(config):
    memory = modes.begin_next(modes.path_came(came(goal()), (1, 1, 0), config))
    assert memory.near_goal
    assert modes.ask(memory, config) == Ask.NO
    if config.path_execution == TRACKING:
        memory = modes.stands(modes.path_ended(memory, config), 8)
    else:
        memory = modes.run_ended(memory, 8, config)
    assert modes.ask(memory, config) == Ask.NEAR_GOAL
    assert not modes.path_wanted(memory, config)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("conversion", [(), (0, 0, 0)])
def test_an_empty_conversion_is_no_stop_but_the_goal_reached(config, conversion):
    memory = modes.stands(modes.path_came(came(goal()), conversion, config), 8)
    assert not memory.stopped
    assert modes.ask(memory, config) == Ask.NEAR_GOAL


def test_the_end_of_a_long_path_waits_for_the_next_one_in_partial_async():
    memory = modes.path_ended(modes.path_came(came(goal()), LONG, ASYNC), ASYNC)
    assert modes.path_wanted(memory, ASYNC)
    assert modes.ask(memory, ASYNC) == Ask.NO
    old = modes.plan_came(modes.path_came(came(goal()), (1,), ASYNC), goal(1))
    assert modes.path_wanted(modes.path_ended(old, ASYNC), ASYNC)  # the end of the old plan's path says nothing


def test_a_new_episode_drops_everything_a_new_plan_lets_a_discrete_motion_finish():
    memory = modes.begin_next(came(act(LEFT, LEFT, FORWARD)))
    same = modes.plan_came(memory, act(RIGHT, number=1))
    assert (same.run, same.queue) == (Run(LEFT, 2), (RIGHT,))
    same = modes.plan_came(memory, goal(1))
    assert (same.run, same.queue) == (Run(LEFT, 2), ())
    assert not modes.path_wanted(same, ASYNC)  # frames from within the turn are of no use
    assert modes.path_wanted(modes.run_ended(same, 5, ASYNC), ASYNC)
    other = modes.plan_came(memory, goal(0, episode=2))
    assert other.run is None
    assert other.settled_ns is None  # it still moves


def test_actions_take_over_from_a_path():
    memory = modes.plan_came(modes.path_came(came(goal()), LONG, ASYNC), act(LEFT, number=1))
    assert not memory.path
    assert modes.begin_next(memory).run == Run(LEFT, 1)


def test_a_hindrance_lasts_until_the_next_good_path_or_plan_and_a_latched_one_until_a_new_episode():
    memory = modes.hindered(modes.path_came(came(goal()), LONG, ASYNC), State.NO_SENSORS, "gap")
    assert memory.idle
    assert modes.report(memory, Reason.NONE, "") == (State.NO_SENSORS, "gap")
    assert modes.ask(modes.stands(memory, 3), ASYNC) == Ask.INTERRUPTED
    assert modes.path_wanted(memory, ASYNC)
    assert modes.path_came(memory, LONG, ASYNC).hindrance is None
    assert modes.plan_came(memory, goal(1)).hindrance is None

    stuck = modes.hindered(came(goal()), State.FAULT, "stuck", latched=True)
    for plan in (goal(1), act(FORWARD, number=2)):
        stuck = modes.plan_came(stuck, plan)
        assert state(stuck) == State.FAULT
        assert modes.begin_next(stuck).run is None
        assert not modes.path_wanted(stuck, ASYNC)
        assert modes.ask(stuck, ASYNC) == Ask.NO
    assert state(modes.plan_came(stuck, act(STOP, number=3))) == State.ARRIVED
    assert state(modes.plan_came(stuck, goal(0, episode=2))) == State.FOLLOWING


def test_an_interruption_drops_what_was_followed_and_asks_again():
    memory = modes.stands(modes.interrupted(modes.begin_next(came(act(FORWARD, LEFT)))), 4)
    assert memory.idle
    assert modes.ask(memory, ASYNC) == Ask.INTERRUPTED
    stale = modes.stands(modes.interrupted(came(goal()), Ask.STALE), 4)
    assert state(stale) == State.STALE_PLAN
    assert modes.ask(stale, ASYNC) == Ask.STALE
    assert modes.interrupted(Memory()) == Memory()


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        (Reason.EMERGENCY_STOP, State.FAULT),
        (Reason.STALLED, State.FAULT),
        (Reason.NOT_FINITE, State.FAULT),
        (Reason.SENSORS, State.NO_SENSORS),
        (Reason.NO_DEPTH, State.NO_SENSORS),
        (Reason.BLIND, State.NO_SENSORS),
        (Reason.DISABLED, State.IDLE),
        (Reason.STALE_PLAN, State.STALE_PLAN),
        (Reason.OBSTACLE_STOP, State.BLOCKED),
        (Reason.OBSTACLE_SLOW, State.FOLLOWING),
        (Reason.OVER_LIMIT, State.FOLLOWING),
        (Reason.EMERGENCY_STOP | Reason.SENSORS | Reason.OBSTACLE_STOP, State.FAULT),
        (Reason.SENSORS | Reason.OBSTACLE_STOP, State.NO_SENSORS),
    ],
)
def test_what_stops_the_robot_is_what_the_state_says(reasons, expected):
    memory = modes.path_came(came(goal()), LONG, ASYNC)
    found, text = modes.report(memory, reasons, "why")
    assert found == expected
    assert text == "why"


EVENTS = st.sampled_from(
    [
        lambda m, c: modes.begin_next(m),
        lambda m, c: modes.path_came(m, LONG, c) if modes.path_wanted(m, c) else m,
        lambda m, c: modes.path_came(m, (1,), c) if modes.path_wanted(m, c) else m,
        lambda m, c: modes.path_came(m, (), c) if modes.path_wanted(m, c) else m,
        lambda m, c: modes.run_ended(m, 9, c) if m.run else m,
        lambda m, c: modes.path_ended(m, c) if m.path else m,
        lambda m, c: modes.steps_driven(m, 1.0, c),
        lambda m, c: modes.stands(m, 7),
        lambda m, c: modes.interrupted(m),
        lambda m, c: modes.hindered(m, State.FAULT, "x"),
        "goal",
        "left",
        "stop",
        "look",
    ]
)


@settings(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(EVENTS, max_size=30), st.sampled_from(CONFIGS))
def test_any_order_of_events_keeps_the_invariants_and_never_leaves_the_robot_waiting_for_nobody(events, config):
    memory, number = Memory(), itertools.count()
    stopped = False
    for event in events:
        if isinstance(event, str):
            n = next(number)
            actions = {"left": LEFT, "stop": STOP, "look": LOOK}
            plan = goal(n) if event == "goal" else act(actions[event], number=n)
            memory = modes.plan_came(memory, plan)
            stopped = stopped or event == "stop"
        else:
            memory = event(memory, config)
        assert not (memory.run and memory.path)
        assert not (memory.path and memory.queue)
        assert memory.steps < config.step_budget + 1.0
        if stopped:
            assert memory.idle
            assert state(memory) == State.ARRIVED
        settled = modes.stands(modes.begin_next(memory), 9)  # as in the next control period
        if settled.idle and not settled.stopped:  # somebody's turn: S1 wants a path, or S2 is asked
            assert modes.path_wanted(settled, config) or modes.ask(settled, config) != Ask.NO


@pytest.mark.parametrize(
    ("field", "value"), [("mode", "async"), ("path_execution", ""), ("s2_max_forward_step", 0), ("plan_step_gap", -1)]
)
def test_a_bad_parameter_is_refused_with_its_name(field, value):
    with pytest.raises(ValueError, match=f"ModeConfig.{field}"):
        ModeConfig(**{field: value})
