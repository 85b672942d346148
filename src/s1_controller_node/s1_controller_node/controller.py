"""Plans and paths on their way to the motion layer, and what is said about its commands.

Plain Python, no ROS and no tensors. A plan is checked (`plan_intake.py`), its goal frame is found among the robot's
own frames by stamp, and while the motion layer wants a path of it there is a task for the model. Every method is safe
between threads and short; the model runs outside.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dual_nav_util.controller_state import State
from dual_nav_util.stamps import seconds_between

from .frames import FrameNotFound, FrameRing, StampedFrame
from .motion import MotionCommand, MotionLayer
from .plan_intake import AcceptedPlan, Action, Kind, PlanIntake, PlanRefused
from .stop_rules import Ages

FRAME_WAIT = 0.3  # s a plan waits for its frame: S2 may be done before S1 has received and prepared the same image


@dataclass(frozen=True)
class GoalKinds:
    """Which plans the loaded model can follow."""

    latents: bool
    pixel_goal: bool


@dataclass(frozen=True, eq=False)
class Task:
    """What the model is to work on: a plan and the frame it was made from."""

    plan: AcceptedPlan
    goal_frame: StampedFrame


@dataclass(frozen=True)
class Command:
    """One command to the base and what s1/state says about it beyond the command itself.

    Attributes:
        episode_id, plan_number: of the plan being followed, 0 while there is none.
        latency: seconds from the stamp of the frame behind it to the first command computed from that frame.
    """

    motion: MotionCommand
    episode_id: int
    plan_number: int
    latency: float


class Controller:
    """See the module; `frames` and the motion layer's odometry and sensors are fed by the node."""

    def __init__(self, goals: GoalKinds, frames: FrameRing, motion: MotionLayer) -> None:
        safety = motion.config.safety
        self._goals = goals
        self._frames = frames
        self._motion = motion
        self._intake = PlanIntake(safety.plan_timeout, safety.future_tolerance)
        self._lock = threading.RLock()
        self._ros_time: tuple[int, float] | None = None  # newest ROS time and the steady time it was first seen at
        self._task: Task | None = None  # of the newest plan, None when it needs no path
        self._waiting: tuple[AcceptedPlan, int] | None = None  # for its frame, since this ROS time
        self._frame_stamp_ns = 0  # image behind the newest command
        self._latency = 0.0

    # ---------------------------------------------------------------------------------------------------- plans

    def plan_arrived(self, message: Any, now_ns: int) -> AcceptedPlan:
        """Check a plan and, if it is good, follow it from now on, or as soon as its frame is there (see settle).

        Raises:
            PlanRefused: it is not followed; a malformed one also stops the robot until a good one comes.
            OdometryGap: its actions cannot be placed; the robot stands until the next plan.
        """
        with self._lock:
            try:
                plan = self._intake.check(message, now_ns)
                self._waiting = None
                if plan.kind != Kind.ACTIONS:
                    self._check_goal(plan)
                    self._waiting = (plan, now_ns)
                    self.settle(now_ns)
                    return plan
            except PlanRefused as refusal:
                if refusal.malformed:
                    self._waiting = None
                    self._motion.on_failure(str(refusal))
                raise
            self._task = None
            if plan.ends_episode:
                self._intake.stop_episode(plan.episode_id)
            self._motion.on_plan(plan)
            return plan

    def settle(self, now_ns: int) -> bool:
        """Follow the plan that waits for its frame, if it can be found by now. Call it when a frame came, and often.

        Returns:
            Whether there is a new task.

        Raises:
            PlanRefused: the frame has not come within FRAME_WAIT, or was lost.
        """
        with self._lock:
            if self._waiting is None:
                return False
            plan, since_ns = self._waiting
            newest_ns = self._frames.newest_stamp_ns
            on_its_way = newest_ns is None or newest_ns < plan.stamp_ns
            if on_its_way and seconds_between(since_ns, now_ns) < FRAME_WAIT:
                return False
            self._waiting = None
            try:
                task = Task(plan, self._frames.find(plan.stamp_ns))
            except FrameNotFound as error:
                raise PlanRefused(f"{plan.label()} refused: {error}", malformed=False) from error
            self._task = task
            self._motion.on_plan(plan)
            return True

    @property
    def newest_task(self) -> Task | None:
        """That of the newest plan, also while no path of it is wanted."""
        with self._lock:
            return self._task

    def task(self, frame_stamp_ns: int | None = None) -> Task | None:
        """What to sample a path for on a frame of this stamp (None: any); None when no path is wanted now."""
        with self._lock:
            task = self._task
            return task if task is not None and self._motion.wants_path(task.plan, frame_stamp_ns) else None

    def path_ready(
        self, task: Task, frame_stamp_ns: int, path: np.ndarray, actions: Sequence[Action], now_ns: int
    ) -> bool:
        """Follow a path sampled for a frame; see MotionLayer.on_path for the arguments and errors."""
        return self._motion.on_path(task.plan, frame_stamp_ns, path, actions, now_ns)

    def inference_failed(self, task: Task, text: str) -> None:
        """No path could be made for a task: stand until the next path or plan."""
        with self._lock:
            if task is self._task:
                self._motion.on_failure(text)

    # --------------------------------------------------------------------------------------------------- command

    def command(self, now_ns: int, steady: float) -> Command:
        """The command of this control period.

        Args:
            now_ns: ROS time.
            steady: seconds of a clock that never stands still.
        """
        with self._lock:
            silence = self._clock_silence(now_ns, steady)
            made = self._motion.step(now_ns, silence)
            plan = self._motion.plan
            if made.state == State.ARRIVED and plan is not None:
                self._intake.stop_episode(plan.episode_id)
            if made.frame_stamp_ns != self._frame_stamp_ns:
                self._frame_stamp_ns = made.frame_stamp_ns
                self._latency = seconds_between(made.frame_stamp_ns, now_ns) if made.frame_stamp_ns else 0.0
            return Command(
                motion=made,
                episode_id=plan.episode_id if plan else 0,
                plan_number=plan.plan_number if plan else 0,
                latency=self._latency,
            )

    def ages(self, now_ns: int, steady: float) -> Ages:
        """Ages of everything that has to keep coming."""
        with self._lock:
            return self._motion.ages(now_ns, self._clock_silence(now_ns, steady))

    # ----------------------------------------------------------------------------------------------- forgetting

    def time_jumped(self) -> None:
        """The clock went back (a looped recording, a restarted simulator): nothing with a stamp is valid any more.

        A stopped episode stays stopped.
        """
        with self._lock:
            self._task = self._waiting = None
            self._motion.time_jumped()
            self._frames.clear()

    def reset(self) -> None:
        """Forget everything, also that an episode was stopped, as after the start."""
        with self._lock:
            self.time_jumped()
            self._motion.reset()
            self._intake.forget()

    # ------------------------------------------------------------------------------------------------- internals

    def _clock_silence(self, now_ns: int, steady: float) -> float:
        if self._ros_time is None or now_ns != self._ros_time[0]:
            self._ros_time = (now_ns, steady)
        return steady - self._ros_time[1]

    def _check_goal(self, plan: AcceptedPlan) -> None:
        if plan.kind == Kind.PIXEL_GOAL and not self._goals.pixel_goal:
            raise PlanRefused(
                f"{plan.label()} refused: it has a pixel goal without traj_latents, which this checkpoint needs",
                malformed=False,
            )
        if plan.kind == Kind.TRAJ_LATENTS and not (self._goals.latents or self._goals.pixel_goal):
            raise PlanRefused(f"{plan.label()} refused: this checkpoint takes no goals of a planner", malformed=False)
        if not self._goals.latents and plan.look_down:
            raise PlanRefused(
                f"{plan.label()} refused: its pixel goal refers to the look-down image, which S1 does not keep",
                malformed=False,
            )
