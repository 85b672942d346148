"""The answers that the small planner is trained on, driven in the closed loop: the bound of what it can learn to do.

`python -m dual_nav_training.small.teacher --episodes 90` evaluates them with the oracle S1. They come from one image
and no memory, as in training, but from what the map says is in it. Where this fails, no training helps: answers that
lead to and fro show here in a minute, and in a trained planner only as time that runs out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dual_nav_training.in_process import Parts
from dual_nav_training.small.language import IMAGE_SIDE
from dual_nav_training.small.questions import CLEARLY_IN_VIEW, Things, best, elsewhere
from dual_nav_training.small.views import CAMERA, PIXEL_GOAL, Adviser, look
from nav_sim.camera import Camera
from nav_sim.episodes import Episode
from nav_sim.evaluate import command
from nav_sim.evaluation import Frame, Settings
from nav_sim.oracles import FORWARD, KIND_PIXEL_GOAL, STOP, PlanMade, actions_plan
from nav_sim.simulator import Config, Simulator
from nav_sim.worlds import Flat


class Teacher:
    """Answers for one episode from what is in view."""

    def __init__(self, episode: Episode) -> None:
        self._episode = episode
        self._simulator = _simulator_of(episode.flat)
        self._adviser = Adviser(episode.flat)
        things = Things.of(episode.flat)
        told = {mark for goal in episode.goals for mark in things.landmarks[goal]}
        self._landmarks = [mark for mark in told if things.names[mark][0] in episode.instruction]

    def plan(self, frame: Frame) -> PlanMade:
        """The answer at the pose of a frame."""
        self._simulator.reset(frame.pose.x, frame.pose.y, frame.pose.yaw)
        view, depth = look(self._simulator)
        view |= self._adviser.answers(frame.pose, view["shares"], depth)
        clear = [item for item in self._episode.goals if _is_clear(view, item)]
        if not clear and self._episode.family == "relation":
            clear = [mark for mark in self._landmarks if _is_clear(view, mark)]
            clear = [mark for mark in clear if view["answers"][mark, 0] == PIXEL_GOAL]
        if clear:
            return _said(view["answers"][best(view, clear)])
        return _said(elsewhere(view["door"], self._episode.family, self._episode.instruction))


def _is_clear(view: dict[str, np.ndarray], item: int) -> bool:
    return bool(view["shares"][item] > CLEARLY_IN_VIEW and view["answers"][item, 0] >= 0)


def _said(answer: Sequence[int]) -> PlanMade:
    """The plan of an answer; see views.py."""
    kind, count, column, row = (int(value) for value in answer)
    if kind == PIXEL_GOAL:
        text = f"{column} {row}"
        return PlanMade(KIND_PIXEL_GOAL, (), (column, row), (IMAGE_SIDE, IMAGE_SIDE), answer=text)
    return actions_plan([FORWARD] * (count - 1) + [STOP] if kind == STOP else [kind] * count)


_simulators: dict[int, Simulator] = {}  # by the seed of its flat; one at a time, episodes of a flat come together


def _simulator_of(flat: Flat) -> Simulator:
    if flat.seed not in _simulators:
        while _simulators:
            _simulators.popitem()[1].close()
        _simulators[flat.seed] = Simulator(flat, Config(camera=CAMERA))
    return _simulators[flat.seed]


@dataclass(frozen=True)
class TaughtParts(Parts):
    """Teacher and oracle S1."""

    def planner(self, episode: Episode, cameras: dict[str, Camera]) -> Teacher:
        return Teacher(episode)


def parts_of(settings: Settings) -> TaughtParts:
    """Who drives in an evaluation. ValueError for a planner or controller that is another one."""
    for name in ("s2", "s1"):
        if getattr(settings, name) != "oracle":
            raise ValueError(f"--{name}: the teacher drives with the oracle S1, not with {getattr(settings, name)!r}")
    return TaughtParts()


def main(words: Sequence[str] | None = None) -> int:
    return command(parts_of, __doc__, Path("runs/teacher"), words)


if __name__ == "__main__":
    sys.exit(main())
