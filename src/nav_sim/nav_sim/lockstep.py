"""Lock-step: when the world may go on. Plain Python, no ROS.

With lock-step the way a robot takes does not depend on how fast the machine is: simulated time stands still while
somebody who should have answered has not.
 - A control period begins with poses and `/clock`; the world waits for the velocity command that follows, and for
   the `s1/state` that comes with it.
 - After a camera frame it waits, while `s1/state` says that a path is wanted, for the state with the frame's stamp.
 - With "planner_and_controller" it then waits for the plan that S1 asks for, once there is a frame it may be made
   from, and for S1 to take the plan over. S1 asks for its first plan all the time: this counts once an instruction
   has been given.
Lock-step begins with the first command. Every wait ends after a limit, so that a dead node does not stop the world
for good: from then on time passes as without lock-step, until the next command.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

NOBODY, CONTROLLER, PLANNER_AND_CONTROLLER = "nobody", "controller", "planner_and_controller"
WAIT_FOR = (NOBODY, CONTROLLER, PLANNER_AND_CONTROLLER)


@dataclass(frozen=True)
class ControllerSaid:
    """What matters here of a message on s1/state; stamps in nanoseconds."""

    plan: tuple[int, int]  # episode id and plan number
    stamp_ns: int  # of the frame behind the command
    path_wanted: bool
    asks: bool
    asks_first: bool  # because there is no plan yet
    frames_from_ns: int  # oldest frame the plan asked for may be made from


class LockStep:
    """What the world waits for. Safe between threads; the message side never blocks."""

    def __init__(self, wait_for: str, limit: float) -> None:
        self._wait_for = wait_for
        self._limit = limit
        self._changed = threading.Condition()
        self._engaged = False
        self._commands = self._states = 0  # in this control period
        self._said: ControllerSaid | None = None
        self._plan_before: tuple[int, int] | None = None  # S1 had when the newest frame was published
        self._frame_ns: int | None = None  # of the newest frame
        self._plan = (0, 0)  # the newest
        self._plan_ns = -1  # of the frame it was made from
        self._instructed = False
        self._closed = False

    # ------------------------------------------------------------------------------------------- what happened

    def command_received(self) -> None:
        with self._changed:
            self._engaged = True
            self._commands += 1
            self._changed.notify_all()

    def state_received(self, said: ControllerSaid) -> None:
        with self._changed:
            self._said = said
            self._states += 1
            self._changed.notify_all()

    def plan_received(self, plan: tuple[int, int], stamp_ns: int) -> None:
        with self._changed:
            self._plan, self._plan_ns = plan, stamp_ns
            self._changed.notify_all()

    def instruction_given(self) -> None:
        """From the next frame on the first plan is waited for."""
        with self._changed:
            self._instructed = True

    def world_changed(self) -> None:
        """Another episode begins: nobody has been told anything yet."""
        with self._changed:
            self._instructed, self._plan = False, (0, 0)

    def frame_published(self, stamp_ns: int) -> None:
        with self._changed:
            self._frame_ns = stamp_ns
            self._plan_before = self._said.plan if self._said else None

    def period_begins(self) -> None:
        """The next control period needs a new command."""
        with self._changed:
            self._commands = self._states = 0

    def open(self) -> None:
        """The world begins to run, or runs again."""
        with self._changed:
            self._closed = self._engaged = False

    def close(self) -> None:
        """End all waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # ------------------------------------------------------------------------------------------------- waiting

    @property
    def engaged(self) -> bool:
        """Whether the world's time depends on others now."""
        return self._engaged and self._wait_for != NOBODY

    def missing(self) -> str:
        """What is waited for now, in words; empty when the world may go on."""
        with self._changed:
            return self._missing()

    def _missing(self) -> str:
        if self._closed or not self._engaged or self._wait_for == NOBODY:
            return ""
        if self._commands == 0:
            return "a velocity command"
        said = self._said
        if said is None or self._frame_ns is None:
            return ""  # who drives may be no S1
        if self._states == 0:
            return "s1/state"
        # A plan that came meanwhile: the path of this frame was for the one before, and may have been dropped.
        if said.path_wanted and said.stamp_ns < self._frame_ns and said.plan == self._plan_before:
            return "S1's answer to the newest frame"
        if self._wait_for != PLANNER_AND_CONTROLLER:
            return ""
        # Messages of two nodes overtake each other: what S1 says of an older plan may be older than the plan.
        if said.plan < self._plan:
            return "S1 to take over the plan"
        asked = said.asks and (self._instructed or not said.asks_first)
        # A frame is planned on once.
        if asked and self._frame_ns > self._plan_ns and self._frame_ns >= said.frames_from_ns:
            return "the next plan on s2/plan"
        return ""

    def wait(self) -> str:
        """Block until the world may go on; what was still missing if the limit ended it, else an empty text."""
        end = time.monotonic() + self._limit
        with self._changed:
            while missing := self._missing():
                left = end - time.monotonic()
                if left <= 0:
                    self._engaged = False
                    return missing
                self._changed.wait(left)
        return ""
