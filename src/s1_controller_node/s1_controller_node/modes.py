"""What S1 follows and when S2 is asked again: one state machine for the modes sync and partial_async.

Pure functions on an immutable `Memory`: an event and the memory before it give the memory after it. No clocks, no
geometry, no ROS; moments are passed in as nanoseconds. docs/motion.md has the drawing.

A *step* is the motion of one discrete action (0.25 m or 15°), also when a path is tracked continuously, so that
``s2_max_forward_step`` means the same at every rate of S1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from itertools import takewhile

from dual_nav_util.controller_state import State

from .actions import MOTIONS, TURNS
from .bounds import check_bounds, check_choice
from .path import ACTIONS_USED
from .plan_intake import AcceptedPlan, Action, Kind
from .safety import Reason

SYNC, PARTIAL_ASYNC = "sync", "partial_async"
TRACKING, ACTIONS = "tracking", "actions"


@dataclass(frozen=True)
class ModeConfig:
    """How S1 and S2 take turns (MODE and step limits as InternNav has them)."""

    mode: str = PARTIAL_ASYNC  # "sync": S2, S1, motion, S2 …; "partial_async": both run, S1 on newer frames
    path_execution: str = TRACKING  # "tracking": paths are tracked; "actions": their discrete conversion is driven
    s2_max_forward_step: int = 8  # steps S1 may drive on one plan (partial_async)
    plan_step_gap: int = 4  # paths of one plan after which S2 is asked while S1 drives on (partial_async)

    def __post_init__(self) -> None:
        check_choice(self, "mode", (SYNC, PARTIAL_ASYNC))
        check_choice(self, "path_execution", (TRACKING, ACTIONS))
        check_bounds(self, s2_max_forward_step=(1, 1000), plan_step_gap=(1, 1000))

    @property
    def step_budget(self) -> int:
        """Steps S1 may drive on one plan."""
        return ACTIONS_USED if self.mode == SYNC else self.s2_max_forward_step


@dataclass(frozen=True)
class Run:
    """Equal actions in a row, driven as one motion."""

    action: Action
    count: int


class Ask(Enum):
    """Why S2 is asked for the next plan."""

    NO = ""
    FIRST = "there is no plan yet"
    USED_UP = "what it decided is done"
    STEP_GAP = "plan_step_gap paths were made from its plan"
    FORWARD_STEPS = "s2_max_forward_step steps were driven on its plan"
    NEAR_GOAL = "the pixel goal is reached"
    LOOK_DOWN = "it wants to look down"
    STALE = "its plan is too old"
    INTERRUPTED = "motion was interrupted"


@dataclass(frozen=True)
class Memory:
    """All the state machine knows."""

    plan: AcceptedPlan | None = None  # being followed
    queue: tuple[Action, ...] = ()  # not yet begun
    run: Run | None = None  # being driven
    path: bool = False  # a path is being tracked
    paths: int = 0  # of this plan
    steps: float = 0.0  # driven on paths of this plan
    near_goal: bool = False  # the newest conversion was shorter than ACTIONS_USED
    ended: Ask = Ask.NO  # nothing is left of the plan, and why S2 is asked
    settled_ns: int | None = 0  # since when the robot stands, None while it moves: S2 is shown frames after that
    stopped_episode: int = -1  # STOP was reached: latched until a plan of a newer episode
    hindrance: tuple[State, str] | None = None  # nothing is driven until the next good plan or path
    latched: bool = False  # the hindrance lasts until a new episode or a reset

    @property
    def stopped(self) -> bool:
        return self.plan is not None and self.plan.episode_id <= self.stopped_episode

    @property
    def idle(self) -> bool:
        """Nothing to drive."""
        return self.run is None and not self.queue and not self.path

    @property
    def wants_goal(self) -> bool:
        """The plan needs paths."""
        return self.plan is not None and self.plan.kind != Kind.ACTIONS


# -------------------------------------------------------------------------------------------------------- events


def plan_came(memory: Memory, plan: AcceptedPlan) -> Memory:
    """A plan that passed plan_intake. One of an episode that was stopped changes nothing."""
    if plan.episode_id <= memory.stopped_episode:
        return memory
    new_episode = memory.plan is None or plan.episode_id > memory.plan.episode_id
    if new_episode:
        settled = memory.settled_ns if memory.idle else None
        memory = Memory(stopped_episode=memory.stopped_episode, settled_ns=settled)
    if plan.ends_episode:
        return _stop(replace(memory, plan=plan))
    if memory.latched:
        return replace(memory, plan=plan)
    # Within an episode what is being driven goes on: a discrete motion to its end, a path until the new plan's first.
    goal = plan.kind != Kind.ACTIONS
    return replace(
        memory,
        plan=plan,
        queue=plan.actions,
        path=memory.path and goal,
        paths=0,
        steps=0.0,
        near_goal=False,
        ended=Ask.NO,
        hindrance=None,
    )


def path_wanted(memory: Memory, config: ModeConfig, frame_stamp_ns: int | None = None) -> bool:
    """Whether a path of the present plan, made from a frame of this stamp (None: any), would be used."""
    if not memory.wants_goal or memory.stopped or memory.latched or memory.ended != Ask.NO:
        return False
    if config.mode == SYNC and memory.paths > 0:
        return False
    if config.mode == PARTIAL_ASYNC and config.path_execution == TRACKING:
        return memory.run is None and not memory.queue
    standing = memory.idle and memory.settled_ns is not None
    return standing and (frame_stamp_ns is None or frame_stamp_ns >= memory.settled_ns)


def path_renews(memory: Memory, config: ModeConfig, plan: AcceptedPlan) -> bool:
    """Whether a path of the plan before may replace the one being tracked, until the present plan has its own first.

    It was sampled while the present plan arrived, and it is from a newer frame than the path at hand.
    """
    if config.mode != PARTIAL_ASYNC or not memory.wants_goal or plan is memory.plan:
        return False
    return memory.path and memory.paths == 0 and plan.episode_id == memory.plan.episode_id


def path_came(memory: Memory, conversion: tuple[int, ...], config: ModeConfig) -> Memory:
    """A path that was wanted and has been placed, with its discrete conversion (zeros mean "nothing to do")."""
    moves = tuple(Action(a) for a in takewhile(lambda a: a in MOTIONS, conversion))
    near_goal = len(moves) < ACTIONS_USED
    moves = moves[: min(ACTIONS_USED, math.ceil(config.step_budget - memory.steps))]
    memory = replace(memory, paths=memory.paths + 1, near_goal=near_goal, hindrance=None)
    if not moves:
        return replace(memory, path=False, ended=Ask.NEAR_GOAL)
    if config.path_execution == TRACKING:
        return replace(memory, path=True, settled_ns=None)
    return replace(memory, queue=moves)


def path_ended(memory: Memory, config: ModeConfig) -> Memory:
    """The end of the tracked path is reached, or nothing of it is left."""
    memory = replace(memory, path=False)
    if not memory.paths:  # it was still the path of the plan before
        return memory
    if memory.near_goal:
        return replace(memory, ended=Ask.NEAR_GOAL)
    return replace(memory, ended=Ask.USED_UP) if config.mode == SYNC else memory


def steps_driven(memory: Memory, steps: float, config: ModeConfig) -> Memory:
    """This much was driven on paths of the plan (fractions count)."""
    if not memory.paths or memory.ended != Ask.NO:  # on what was left of the plan before, or stopping already
        return memory
    memory = replace(memory, steps=memory.steps + steps)
    if memory.steps < config.step_budget - 1e-6:
        return memory
    ended = Ask.USED_UP if config.mode == SYNC else Ask.FORWARD_STEPS
    return replace(memory, path=False, queue=(), ended=ended)


def begin_next(memory: Memory) -> Memory:
    """Take the next actions out of the queue, if nothing is being driven. STOP latches here."""
    if memory.run is not None or not memory.queue or memory.path or memory.hindrance is not None:
        return memory
    action = memory.queue[0]
    if action == Action.STOP:
        return _stop(memory)
    if action == Action.LOOK_DOWN:  # what comes after it was decided without the look: S2 decides anew
        return replace(memory, queue=(), ended=Ask.LOOK_DOWN)
    count = len(tuple(takewhile(lambda a: a == action, memory.queue)))
    return replace(memory, run=Run(action, count), queue=memory.queue[count:], settled_ns=None)


def run_ended(memory: Memory, now_ns: int, config: ModeConfig) -> Memory:
    """The motion being driven is complete and the robot stands."""
    memory = steps_driven(replace(memory, run=None, settled_ns=now_ns), memory.run.count, config)
    if memory.queue or memory.ended != Ask.NO:
        return memory
    if not memory.wants_goal:
        return replace(memory, ended=Ask.USED_UP)
    return path_ended(memory, config)


def stands(memory: Memory, now_ns: int) -> Memory:
    """The robot is at rest with nothing to drive: frames from now on show where it stands."""
    return replace(memory, settled_ns=now_ns) if memory.idle and memory.settled_ns is None else memory


def interrupted(memory: Memory, why: Ask = Ask.INTERRUPTED) -> Memory:
    """Motion was taken over, or what was followed is out of date: drop it and ask S2. STOP stays latched."""
    if memory.plan is None or memory.stopped:
        return memory
    return replace(memory, queue=(), run=None, path=False, ended=why)


def driven_by_hand(memory: Memory) -> Memory:
    """A person moves the robot: as an interruption, and it is not known to stand."""
    return replace(interrupted(memory), settled_ns=None)


def hindered(memory: Memory, state: State, text: str, *, latched: bool = False) -> Memory:
    """Something is wrong with what was to be followed: drop it and stand."""
    if memory.latched:
        return memory
    return replace(memory, queue=(), run=None, path=False, hindrance=(state, text), latched=latched)


def forget(memory: Memory, *, also_stop: bool) -> Memory:
    """As after the start; a stopped episode stays stopped unless ``also_stop``."""
    return Memory() if also_stop else Memory(stopped_episode=memory.stopped_episode)


# ----------------------------------------------------------------------------------------------------- decisions


def ask(memory: Memory, config: ModeConfig) -> Ask:
    """Whether and why S2 is asked for a plan now; it is to be made from a frame of ``settled_ns`` or later.

    With nothing left to drive S2 is asked only once the robot stands.
    """
    if memory.stopped or memory.latched:
        return Ask.NO
    if memory.plan is None:
        return Ask.FIRST
    if memory.ended != Ask.NO or memory.hindrance is not None:
        waiting = memory.settled_ns is None
        return Ask.NO if waiting else memory.ended if memory.ended != Ask.NO else Ask.INTERRUPTED
    if config.mode == PARTIAL_ASYNC and memory.paths >= config.plan_step_gap:
        return Ask.STEP_GAP
    return Ask.NO


def report(memory: Memory, reasons: Reason, text: str) -> tuple[State, str]:
    """State and message of s1/state.

    Args:
        reasons, text: of the safety gate for the command just made.
    """
    if reasons & (Reason.EMERGENCY_STOP | Reason.STALLED | Reason.NOT_FINITE):
        return State.FAULT, text
    if memory.stopped:
        return State.ARRIVED, "STOP was reached: waiting for a new instruction"
    if memory.hindrance is not None:
        return memory.hindrance
    if reasons & (Reason.SENSORS | Reason.NO_DEPTH | Reason.BLIND):
        return State.NO_SENSORS, text
    if reasons & Reason.DISABLED:
        return State.IDLE, text
    if memory.plan is None:
        return State.IDLE, "no plan yet"
    if reasons & Reason.STALE_PLAN or memory.ended == Ask.STALE:
        return State.STALE_PLAN, text or "the plan is too old: waiting for the next"
    if reasons & Reason.OBSTACLE_STOP:
        return State.BLOCKED, text
    if memory.run is not None:
        return (State.TURNING if memory.run.action in TURNS else State.FOLLOWING), text
    if memory.path or memory.queue:
        return State.FOLLOWING, text
    label = memory.plan.label()
    if memory.ended != Ask.NO:
        return State.IDLE, f"{label}: {memory.ended.value}; waiting for the next plan"
    return State.FOLLOWING, f"a path of {label} is being computed"


def _stop(memory: Memory) -> Memory:
    return Memory(plan=memory.plan, stopped_episode=memory.plan.episode_id)
