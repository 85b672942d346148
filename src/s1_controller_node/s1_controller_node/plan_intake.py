"""Which plans of S2 the controller follows: every one is checked here before anything else sees it.

Plain Python: works on any object with the fields of nav_msgs_ext/S2Plan. The constants are those of the message
(a test compares them).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from dual_nav_util.stamps import seconds_between, to_nanoseconds

MAX_ACTIONS = 4096  # the longest answer S2 can be configured for
MAX_IMAGE_SIDE = 16384  # px
MAX_LATENT_VALUES = 1 << 20  # far above any model: 4 queries of 3584 values in the release


class Kind(IntEnum):
    """What a plan holds."""

    ACTIONS = 0
    PIXEL_GOAL = 1
    TRAJ_LATENTS = 2


class Action(IntEnum):
    """Discrete actions; of FORWARD_DISTANCE or TURN_ANGLE."""

    STOP = 0
    FORWARD = 1
    TURN_LEFT = 2
    TURN_RIGHT = 3
    LOOK_DOWN = 5


FORWARD_DISTANCE = 0.25  # m
TURN_ANGLE = math.radians(15.0)


class PlanRefused(ValueError):
    """A plan that is not followed; the text says why.

    `malformed`: it is no plan at all, so its sender cannot be trusted and the robot must stop. Otherwise it is only
    too late, too old or for another model, and what is being followed stays in force.
    """

    def __init__(self, text: str, *, malformed: bool) -> None:
        super().__init__(text)
        self.malformed = malformed


@dataclass(frozen=True, eq=False)
class AcceptedPlan:
    """A checked plan.

    Attributes:
        stamp_ns: of the image it was made from; the frame of that stamp is the goal frame.
        pixel_goal: (column, row) in an image of image_size (width, height), None without one.
        look_down: that image is the look-down one.
        traj_latents: float32 (1, n_query, D), None without them.
    """

    episode_id: int
    plan_number: int
    stamp_ns: int
    kind: Kind
    actions: tuple[Action, ...] = ()
    pixel_goal: tuple[int, int] | None = None
    image_size: tuple[int, int] = (0, 0)
    look_down: bool = False
    traj_latents: np.ndarray | None = None

    @property
    def ends_episode(self) -> bool:
        """Whether it says STOP before any motion."""
        return self.kind == Kind.ACTIONS and bool(self.actions) and self.actions[0] == Action.STOP

    def label(self) -> str:
        """How messages name it."""
        return f"plan {self.plan_number} of episode {self.episode_id}"


class PlanIntake:
    """Checks plans and lets each through at most once, in rising order of (episode, plan number).

    Args:
        plan_timeout: oldest image [s] a plan may come from, except for STOP, which is always obeyed.
        future_tolerance: how far [s] a stamp may lie ahead of this node's clock.
    """

    def __init__(self, plan_timeout: float, future_tolerance: float) -> None:
        self._plan_timeout = plan_timeout
        self._future_tolerance = future_tolerance
        self._newest = (-1, -1)
        self._stopped_episode = -1

    def check(self, message: Any, now_ns: int) -> AcceptedPlan:
        """The plan of a message.

        Raises:
            PlanRefused: older than one seen before, of an episode that was stopped, from the future, too old, or
                malformed.
        """
        number = (int(message.episode_id), int(message.plan_number))
        label = f"plan {number[1]} of episode {number[0]}"
        if number <= self._newest:
            raise PlanRefused(
                f"{label} refused: plan {self._newest[1]} of episode {self._newest[0]} was seen before it "
                "(~/reset forgets that)",
                malformed=False,
            )
        if number[0] <= self._stopped_episode:
            raise PlanRefused(
                f"{label} refused: STOP ended this episode, a new instruction starts the next", malformed=False
            )
        plan = _parse(message, label)
        age = seconds_between(plan.stamp_ns, now_ns)
        if not plan.ends_episode:
            # Before the first /clock no stamp can be judged; the robot stands then, for want of frames.
            if age < -self._future_tolerance and now_ns > 0:
                raise PlanRefused(
                    f"{label} refused: its stamp lies {-age:.3f} s in the future "
                    f"(future_tolerance {self._future_tolerance} s)",
                    malformed=False,
                )
            if age > self._plan_timeout:
                raise PlanRefused(
                    f"{label} refused: its image is {age:.3f} s old (plan_timeout {self._plan_timeout} s)",
                    malformed=False,
                )
        self._newest = number
        return plan

    def stop_episode(self, episode_id: int) -> None:
        """STOP was reached: no further plan of this episode or an earlier one is accepted."""
        self._stopped_episode = max(self._stopped_episode, episode_id)

    def forget(self) -> None:
        """Accept any plan again, as after the start of the process."""
        self._newest = (-1, -1)
        self._stopped_episode = -1


def _parse(message: Any, label: str) -> AcceptedPlan:
    def refuse(text: str) -> PlanRefused:
        return PlanRefused(f"{label} refused: {text}", malformed=True)

    try:
        kind = Kind(message.kind)
    except ValueError:
        raise refuse(f"kind is {message.kind}, expected {', '.join(f'{k.value} ({k.name})' for k in Kind)}") from None
    common = {
        "episode_id": int(message.episode_id),
        "plan_number": int(message.plan_number),
        "stamp_ns": to_nanoseconds(message.header.stamp),
        "kind": kind,
    }
    if kind == Kind.ACTIONS:
        return AcceptedPlan(**common, actions=_actions(message, refuse))
    if len(message.actions):
        raise refuse(f"kind {kind.name} carries {len(message.actions)} actions, expected none")
    size = (int(message.image_width), int(message.image_height))
    goal = (int(message.pixel_goal_column), int(message.pixel_goal_row))
    if not all(1 <= side <= MAX_IMAGE_SIDE for side in size):
        raise refuse(f"image size is {size[0]}x{size[1]}, expected 1 … {MAX_IMAGE_SIDE} px")
    if not all(0 <= place < side for place, side in zip(goal, size, strict=True)):
        raise refuse(f"pixel goal (column {goal[0]}, row {goal[1]}) lies outside the {size[0]}x{size[1]} image")
    latents = _latents(message, refuse) if kind == Kind.TRAJ_LATENTS else None
    return AcceptedPlan(
        **common, pixel_goal=goal, image_size=size, look_down=bool(message.look_down), traj_latents=latents
    )


def _actions(message: Any, refuse: Any) -> tuple[Action, ...]:
    if not 1 <= len(message.actions) <= MAX_ACTIONS:
        raise refuse(f"{len(message.actions)} actions, expected 1 … {MAX_ACTIONS}")
    try:
        return tuple(Action(code) for code in message.actions)
    except ValueError:
        known = ", ".join(f"{a.value} ({a.name})" for a in Action)
        raise refuse(f"actions are {list(message.actions[:8])}, expected only {known}") from None


def _latents(message: Any, refuse: Any) -> np.ndarray:
    shape = tuple(int(side) for side in message.traj_latents_shape[:4])
    count = len(message.traj_latents)
    if len(message.traj_latents_shape) != 3 or shape[0] != 1 or min(shape) < 1:
        raise refuse(f"traj_latents_shape is {list(shape)}, expected [1, number of queries, hidden size]")
    if count > MAX_LATENT_VALUES or shape[1] * shape[2] != count:
        raise refuse(f"traj_latents has {count} values, expected {shape[1] * shape[2]} for shape {list(shape)}")
    latents = np.array(message.traj_latents, dtype=np.float32)
    bad = int(np.count_nonzero(~np.isfinite(latents)))
    if bad:
        raise refuse(f"traj_latents has {bad} NaN or infinite values")
    return latents.reshape(shape)
