"""When S2 plans: which camera frame is the next to be worked on. Plain Python, no ROS.

An episode is one instruction. Its id grows from episode to episode and from process to process, so that nobody takes
a plan of an older one for new.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from dual_nav_util.stamps import seconds_between

# The controller answers a plan within one control period; this much later it must have refused it.
ACKNOWLEDGE_TIMEOUT = 1.0  # s

_PROCESS_BITS = 20  # 2**20 episodes fit between the ids of two processes started one millisecond apart


@dataclass(frozen=True)
class Episode:
    """One instruction and its id."""

    episode_id: int
    instruction: str


def first_episode_id(wall_clock_ns: int) -> int:
    """Id of a process's first episode, from its start in nanoseconds since 1970."""
    return wall_clock_ns >> _PROCESS_BITS << _PROCESS_BITS


class PlanTrigger:
    """Decides frame by frame. Safe between threads.

    S1 knows when a plan is needed (its modes.py): the trigger answers its asking, plans at the start of an episode,
    and again when S1 refused or missed a plan. The node calls `due` before it plans on a frame, `number_plan` after
    that, and `controller_reported` with what S1 says about itself.
    """

    def __init__(self, first_id: int) -> None:
        self._next_id = first_id
        self._lock = threading.Lock()
        self._episode: Episode | None = None
        self._begin(None)

    def _begin(self, episode: Episode | None) -> None:
        self._episode = episode
        self._finished = False
        self._plans = 0
        self._sent_ns: int | None = None  # when the newest plan was sent
        self._asked_from_ns: int | None = None  # the controller asks for a plan on a frame of this stamp or later
        self._refused = False

    def start_episode(self, instruction: str) -> Episode:
        """A new episode; the old one is over."""
        with self._lock:
            episode = Episode(self._next_id, instruction)
            self._next_id += 1
            self._begin(episode)
            return episode

    def end_episode(self) -> None:
        """No instruction any more."""
        with self._lock:
            self._begin(None)

    @property
    def episode(self) -> Episode | None:
        """The episode of now, also when it is finished."""
        with self._lock:
            return self._episode

    @property
    def finished(self) -> bool:
        """Whether the episode of now ended with STOP."""
        with self._lock:
            return self._finished

    @property
    def plans_sent(self) -> int:
        """Plans of the episode of now."""
        with self._lock:
            return self._plans

    def is_current(self, episode: Episode) -> bool:
        with self._lock:
            return episode is self._episode

    def due(self, stamp_ns: int) -> bool:
        """Whether to plan on the frame of this stamp."""
        with self._lock:
            if self._episode is None or self._finished:
                return False
            if self._sent_ns is None or self._refused:
                return True
            return self._asked_from_ns is not None and stamp_ns >= self._asked_from_ns

    def number_plan(self, episode: Episode, now_ns: int, stops: bool) -> int | None:
        """Number of a plan that is sent now, or None if its episode is over and it must be discarded.

        Args:
            stops: it begins with STOP, so nothing more is planned in this episode.
        """
        with self._lock:
            if episode is not self._episode:
                return None
            number = self._plans
            self._plans += 1
            self._sent_ns = now_ns
            self._asked_from_ns = None
            self._refused = False
            self._finished = stops
            return number

    def arrived(self, episode_id: int) -> None:
        """S1 has come to a STOP and stands: nothing more is planned in this episode."""
        with self._lock:
            if self._episode is not None and self._episode.episode_id == episode_id:
                self._finished = True

    def controller_reported(
        self, episode_id: int, plan_number: int, asks: bool, frames_from_ns: int, now_ns: int
    ) -> None:
        """What S1 says: the plan it follows, whether it asks for the next one, and from which stamp on frames count.

        A plan that S1 has not taken up a while after it was sent was refused, and another one is due.
        """
        with self._lock:
            if self._episode is None or self._sent_ns is None:
                return
            if (episode_id, plan_number) == (self._episode.episode_id, self._plans - 1):
                self._refused = False
                self._asked_from_ns = frames_from_ns if asks else None
            elif seconds_between(self._sent_ns, now_ns) > ACKNOWLEDGE_TIMEOUT:
                self._refused = True
