"""Lock-step: when the world may go on. Plain Python, no ROS.

With lock-step the way a robot takes does not depend on how fast the machine is: simulated time stands still while
somebody who should have answered has not.
 - A control period of simulated time passes for each velocity command received.
 - After a camera frame the world waits for `s1/state`: while S1 follows a path (FOLLOWING) until its stamp is that of
   the frame or newer, in any other state until one state has come.
 - With "planner_and_controller" the world also waits for the next plan once `plan_step_gap` frames have been
   published since the frame of the plan that S1 follows. While S1 stands and waits for a plan, time passes: nothing
   moves.
Lock-step begins with the first command. Every wait ends after a limit, so that a dead node does not stop the world
for good: from then on time passes as without lock-step, until the next command.
"""

from __future__ import annotations

import threading
import time
from collections import deque

NOBODY, CONTROLLER, PLANNER_AND_CONTROLLER = "nobody", "controller", "planner_and_controller"
WAIT_FOR = (NOBODY, CONTROLLER, PLANNER_AND_CONTROLLER)
FOLLOWING = 1  # of nav_msgs_ext/ControllerState (a test compares them)


class LockStep:
    """What the world waits for. Safe between threads; the message side never blocks."""

    def __init__(self, wait_for: str, plan_step_gap: int, limit: float) -> None:
        self._wait_for = wait_for
        self._gap = plan_step_gap
        self._limit = limit
        self._changed = threading.Condition()
        self._engaged = False
        self._commands = 0
        self._states_since_frame = 0
        self._following = False
        self._state_stamp = 0
        self._frames: deque[int] = deque(maxlen=plan_step_gap)
        self._plan_stamp: int | None = None
        self._closed = False

    # ------------------------------------------------------------------------------------------- what happened

    def command_received(self) -> None:
        with self._changed:
            self._engaged = True
            self._commands += 1
            self._changed.notify_all()

    def state_received(self, state: int, stamp_ns: int) -> None:
        with self._changed:
            self._following, self._state_stamp = state == FOLLOWING, stamp_ns
            self._states_since_frame += 1
            self._changed.notify_all()

    def plan_received(self, stamp_ns: int) -> None:
        with self._changed:
            self._plan_stamp = stamp_ns
            self._changed.notify_all()

    def frame_published(self, stamp_ns: int) -> None:
        with self._changed:
            self._frames.append(stamp_ns)
            self._states_since_frame = 0

    def period_begins(self) -> None:
        """The next control period needs a new command."""
        with self._changed:
            self._commands = 0

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
        if self._frames and self._states_since_frame == 0:
            return "s1/state after the newest frame"
        if self._frames and self._following:
            if self._state_stamp < self._frames[-1]:
                return "S1's answer to the newest frame"
            gap_is_over = len(self._frames) == self._gap and self._plan_stamp is not None
            if self._wait_for == PLANNER_AND_CONTROLLER and gap_is_over and self._plan_stamp < self._frames[0]:
                return "the next plan on s2/plan"
        if self._commands == 0:
            return "a velocity command"
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
