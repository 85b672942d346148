"""One path from a plan and the newest frame: goal, samples, selection. Plain Python, no ROS."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .path import ACTIONS_USED, GoalBehindError, actions_from_path, first_actions
from .plan_intake import AcceptedPlan, Action
from .policy import Frame, Goal, Trajectories, TrajectoryPolicy
from .selection import select


@dataclass(frozen=True, eq=False)
class MadePath:
    """A path and what it was chosen from, in the robot frame of the frame of `stamp_ns`.

    Attributes:
        path: (T+1, 3) metres and radians, from (0, 0, 0).
        trajectories: all samples.
        model_time: seconds inside the model's sampling.
    """

    stamp_ns: int
    path: np.ndarray
    trajectories: Trajectories
    model_time: float

    def conversion(self) -> tuple[Action, ...]:
        """The path's first discrete actions, as many as are used; none when it ends behind the robot."""
        try:
            return tuple(first_actions(actions_from_path(self.path, turn_around=False, at_most=ACTIONS_USED)))
        except GoalBehindError:
            # A camera that looks forward cannot have planned there: nothing to drive, S2 decides anew.
            return ()


class PathMaker:
    """Holds the model's goal between frames. Not thread-safe: one caller at a time.

    Args:
        policy: the model.
        method: of `selection.select`.
        robot_radius: [m], for the methods by obstacles.
        seed: of the noise, which begins anew with each episode; None for another in each run.
    """

    def __init__(self, policy: TrajectoryPolicy, method: str, robot_radius: float, seed: int | None = None) -> None:
        self._policy = policy
        self._method = method
        self._robot_radius = robot_radius
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        self._noise: torch.Generator | None = None
        self._episode_id: int | None = None
        self._plan: AcceptedPlan | None = None

    def set_goal(self, plan: AcceptedPlan, goal_frame: Frame) -> bool:
        """Take a plan: what depends on it alone is computed now. False when it is the one at hand already.

        Raises:
            ValueError: its latents do not fit the model.
        """
        if plan is self._plan:
            return False
        self._plan = None
        if self._policy.needs_latents:
            goal = Goal(goal_frame, traj_latents=plan.traj_latents)
        else:
            goal = Goal(goal_frame, pixel_goal=pixel_in_camera_image(plan, goal_frame.image_size))
        self._policy.set_goal(goal)
        if self._seed is not None and plan.episode_id != self._episode_id:
            self._rng = np.random.default_rng(self._seed)
            self._noise = torch.Generator().manual_seed(self._seed)
        self._episode_id = plan.episode_id
        self._plan = plan
        return True

    def make(self, frames: Sequence[Frame], obstacles: np.ndarray | None = None) -> MadePath:
        """A path for the newest of the frames.

        Args:
            frames: oldest first, at most the policy's `memory_frames`.
            obstacles: (N, 2) points [m] in the robot frame of the newest, for a selection by obstacles.
        """
        started = time.perf_counter()
        trajectories = self._policy.sample(frames, generator=self._noise)
        model_time = time.perf_counter() - started
        path = select(
            trajectories,
            self._method,
            obstacles=obstacles,
            robot_radius=self._robot_radius,
            rng=self._rng,
        )
        return MadePath(frames[-1].stamp_ns, path, trajectories, model_time)


def pixel_in_camera_image(plan: AcceptedPlan, size: tuple[int, int]) -> tuple[float, float]:
    """The plan's pixel goal as (column, row) in the camera image of (width, height), which S2 may have resized."""
    if plan.pixel_goal is None:
        raise ValueError(f"{plan.label()} has no pixel goal, which this checkpoint needs")
    # The middle of S2's pixel, on the scale of the camera's.
    column, row = (
        (place + 0.5) * camera / asked
        for place, asked, camera in zip(plan.pixel_goal, plan.image_size, size, strict=True)
    )
    return column, row
