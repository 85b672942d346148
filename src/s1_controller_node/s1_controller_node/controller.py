"""The controller's state: what is followed, whether it may be driven, and the command of now.

Plain Python, no ROS and no tensors. The node feeds it what arrives and what the model makes of it, and publishes the
commands it gives. Every method is safe between threads and short; the model runs outside.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dual_nav_util.stamps import seconds_between

from .follower import Motion, MotionStep
from .frames import FrameNotFound, FrameRing, StampedFrame
from .geometry import STANDSTILL, Twist2D
from .odometry import OdometryBuffer, OdometryGap
from .plan_intake import AcceptedPlan, Action, Kind, PlanIntake, PlanRefused
from .stop_rules import Ages, State, TimeLimits, plan_stale, sensors_missing

SYNC, PARTIAL_ASYNC = "sync", "partial_async"


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
    """One command to the base and what is said about it in s1/state.

    Attributes:
        frame_stamp_ns: stamp of the camera frame behind the motion, 0 before the first.
        latency: seconds from that stamp to the first command computed from the frame, 0 before the first.
    """

    twist: Twist2D
    state: State
    message: str
    episode_id: int
    plan_number: int
    actions_left: int
    distance_left: float
    frame_stamp_ns: int
    latency: float


class Controller:
    """See the module; `frames` and `odometry` are filled by the node."""

    def __init__(
        self,
        mode: str,
        limits: TimeLimits,
        goals: GoalKinds,
        motion: Motion,
        frames: FrameRing,
        odometry: OdometryBuffer,
    ) -> None:
        self._mode = mode
        self._limits = limits
        self._goals = goals
        self._motion = motion
        self._frames = frames
        self._odometry = odometry
        self._intake = PlanIntake(limits.plan, limits.future)
        self._lock = threading.RLock()
        self._ros_time: tuple[int, float] | None = None  # newest ROS time and the steady time it was first seen at
        self._plan: AcceptedPlan | None = None  # the plan being followed
        self._task: Task | None = None  # the same plan for the model, None when it needs no path
        self._sampled = False  # a path of the task has been followed
        self._arrived = False  # STOP was reached; stays so until a plan of a newer episode
        self._hindrance: tuple[State, str] | None = None  # why nothing is driven until the next path or plan
        self._path_stamp_ns: int | None = None  # image behind the path being followed
        self._frame_stamp_ns = 0  # image behind the newest command that drove
        self._latency = 0.0

    # ---------------------------------------------------------------------------------------------------- plans

    def plan_arrived(self, message: Any, now_ns: int) -> AcceptedPlan:
        """Check a plan and, if it is good, follow it from now on.

        Raises:
            PlanRefused: it is not followed; a malformed one also stops the robot until a good one comes.
        """
        with self._lock:
            try:
                plan = self._intake.check(message, now_ns)
                task = None if plan.kind == Kind.ACTIONS else Task(plan, self._goal_frame(plan))
            except PlanRefused as refusal:
                if refusal.malformed:
                    self._forget_plan()
                    self._hindrance = (State.FAULT, str(refusal))
                raise
            # The path at hand is followed on until the first one of the new plan is there, within one episode.
            goes_on = task is not None and self._task is not None and self._task.plan.episode_id == plan.episode_id
            if not goes_on:
                self._forget_plan()
            self._plan, self._task, self._sampled = plan, task, False
            self._hindrance, self._arrived = None, False
            if plan.ends_episode:
                self._arrive(plan)
            elif task is None:
                self._frame_stamp_ns = plan.stamp_ns
                self._motion.follow_actions(plan.actions)
            return plan

    def task(self, now_ns: int) -> Task | None:
        """What to sample a path for on the next frame; None when no path is wanted or the plan is too old."""
        with self._lock:
            if self._task is None or (self._mode == SYNC and self._sampled):
                return None
            too_old = seconds_between(self._task.plan.stamp_ns, now_ns) > self._limits.plan
            return None if too_old else self._task

    def path_ready(
        self, task: Task, frame_stamp_ns: int, path: np.ndarray, actions: Callable[[], Sequence[Action]], now_ns: int
    ) -> np.ndarray | None:
        """Follow a path sampled for a frame, unless its plan is not followed any more.

        In mode partial_async a path of the plan before is still followed within one episode: it is from a newer
        frame than the one at hand, and the first path of the new plan comes with the next frame.

        Args:
            path: (T+1, 3) in the robot frame of that frame.
            actions: gives its discrete conversion, which mode sync drives instead of the path.

        Returns:
            Pose (3,) of the robot in odom at the frame's stamp, or None when the path is outdated.

        Raises:
            OdometryGap: that pose is not known; the robot stands.
            ValueError: the path holds NaN or infinite values; the robot stands.
        """
        with self._lock:
            if task is not self._task and not self._replaces_path_at_hand(task):
                return None
            if not np.isfinite(path).all():
                text = f"the sampled path has {int((~np.isfinite(path)).sum())} NaN or infinite values"
                self._stand(State.FAULT, text)
                raise ValueError(text)
            try:
                image_pose = self._odometry.pose_at(frame_stamp_ns)
            except OdometryGap as gap:
                self._stand(State.NO_SENSORS, str(gap))
                raise
            if self._mode == SYNC:
                self._motion.follow_actions(actions())
            else:
                self._motion.follow_path(path, image_pose)
            self._sampled, self._hindrance = task is self._task, None
            self._frame_stamp_ns = self._path_stamp_ns = frame_stamp_ns
            self._latency = seconds_between(frame_stamp_ns, now_ns)
            return image_pose

    def inference_failed(self, task: Task, text: str) -> None:
        """No path could be made for a task: stand until the next path or plan."""
        with self._lock:
            if task is self._task:
                self._stand(State.FAULT, text)

    # --------------------------------------------------------------------------------------------------- command

    def command(self, now_ns: int, steady: float) -> Command:
        """The command of now; zero velocity in every state but FOLLOWING and TURNING.

        Args:
            now_ns: ROS time.
            steady: seconds of a clock that never stands still.
        """
        with self._lock:
            if self._ros_time is None or now_ns != self._ros_time[0]:
                self._ros_time = (now_ns, steady)
            step, state, message = self._decide(now_ns, steady)
            driving = state in (State.FOLLOWING, State.TURNING)
            plan = self._plan
            return Command(
                twist=step.twist if driving else STANDSTILL,
                state=state,
                message=message,
                episode_id=plan.episode_id if plan else 0,
                plan_number=plan.plan_number if plan else 0,
                actions_left=step.actions_left,
                distance_left=step.distance_left,
                frame_stamp_ns=self._frame_stamp_ns,
                latency=self._latency,
            )

    def ages(self, now_ns: int, steady: float) -> Ages:
        """Ages of everything that has to keep coming."""
        with self._lock:
            newest_odometry = self._odometry.newest()

            def age(stamp_ns: int | None) -> float | None:
                return None if stamp_ns is None else seconds_between(stamp_ns, now_ns)

            return Ages(
                frame=age(self._frames.newest_stamp_ns),
                odometry=age(newest_odometry.stamp_ns if newest_odometry else None),
                plan=age(self._plan.stamp_ns if self._plan else None),
                path=age(self._path_stamp_ns),
                clock_silence=steady - self._ros_time[1] if self._ros_time else 0.0,
            )

    def _decide(self, now_ns: int, steady: float) -> tuple[MotionStep, State, str]:
        nothing = MotionStep()
        if self._arrived:
            return nothing, State.ARRIVED, "STOP was reached: waiting for a new instruction"
        if self._hindrance is not None:
            return nothing, *self._hindrance
        ages = self.ages(now_ns, steady)
        missing = sensors_missing(ages, self._limits)
        if missing is not None:
            return nothing, State.NO_SENSORS, missing
        if self._plan is None:
            return nothing, State.IDLE, "no plan yet"
        stale = plan_stale(ages, self._limits)
        if stale is not None:
            self._motion.stand()
            return nothing, State.STALE_PLAN, stale
        try:
            step = self._motion_step()
        except Exception as error:  # a solver may fail in any way, and the robot has to stand then
            text = f"the motion layer failed: {error or type(error).__name__}"
            self._stand(State.FAULT, text)
            return nothing, State.FAULT, text
        if step.stopped:
            self._arrive(self._plan)
            return nothing, State.ARRIVED, "STOP was reached: waiting for a new instruction"
        if not step.done:
            return step, State.TURNING if step.turning else State.FOLLOWING, ""
        if self._task is not None and not self._sampled:
            return step, State.FOLLOWING, f"the first path of {self._plan.label()} is being computed"
        return step, State.IDLE, f"{self._plan.label()} is used up: waiting for the next"

    def _motion_step(self) -> MotionStep:
        newest = self._odometry.newest()
        if newest is None:
            raise OdometryGap("no odometry")
        step = self._motion.step(newest.pose)
        if not all(math.isfinite(value) for value in step.twist):
            raise ValueError(f"its velocity is {tuple(step.twist)}")
        return step

    # ----------------------------------------------------------------------------------------------- forgetting

    def time_jumped(self) -> None:
        """The clock went back (a looped recording, a restarted simulator): nothing with a stamp is valid any more.

        A stopped episode stays stopped.
        """
        with self._lock:
            self._forget_plan()
            self._frames.clear()
            self._odometry.clear()

    def reset(self) -> None:
        """Forget everything, also that an episode was stopped, as after the start."""
        with self._lock:
            self.time_jumped()
            self._intake.forget()
            self._arrived = False

    # ------------------------------------------------------------------------------------------------- internals

    def _goal_frame(self, plan: AcceptedPlan) -> StampedFrame:
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
        try:
            return self._frames.find(plan.stamp_ns)
        except FrameNotFound as error:
            raise PlanRefused(f"{plan.label()} refused: {error}", malformed=False) from error

    def _replaces_path_at_hand(self, task: Task) -> bool:
        newest = self._task
        same_episode = newest is not None and newest.plan.episode_id == task.plan.episode_id
        return same_episode and self._mode == PARTIAL_ASYNC

    def _arrive(self, plan: AcceptedPlan) -> None:
        self._intake.stop_episode(plan.episode_id)
        self._arrived = True
        self._task = None
        self._forget_path()

    def _stand(self, state: State, text: str) -> None:
        self._forget_path()
        self._hindrance = (state, text)

    def _forget_path(self) -> None:
        self._motion.stand()
        self._path_stamp_ns = None

    def _forget_plan(self) -> None:
        self._forget_path()
        self._plan = self._task = self._hindrance = None
        self._sampled = False
        self._frame_stamp_ns = 0
        self._latency = 0.0
