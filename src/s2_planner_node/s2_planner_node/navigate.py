"""The action `navigate`: one instruction from the goal to its result. A part of the s2_planner node.

A goal is carried out by the planner as an episode like any other; here its outcome is watched for. Results are sent
by the executor thread; what the worker thread has to say waits for the next check.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.duration import Duration

from dual_nav_util import qos
from dual_nav_util.managed_node import ManagedNode
from dual_nav_util.stamps import seconds_between
from nav_msgs_ext.action import NavigateInstruction
from nav_msgs_ext.msg import ControllerState, S2Plan

Result = NavigateInstruction.Result
FEEDBACK_PERIOD = 0.5  # s
CHECK_PERIOD = 0.1  # s
FAULT_PATIENCE = 5.0  # s the controller may be in FAULT, or silent, before the goal is given up
STEP = 0.02  # m, shorter moves are odometry noise of a standing robot and add up to nothing


@dataclass(eq=False)
class Goal:
    """A goal and what became of it."""

    handle: ServerGoalHandle
    started_ns: int
    healthy_ns: int  # when the controller last said something other than FAULT
    trouble: str = ""
    episode_id: int | None = None  # once the planner has begun it
    plan: S2Plan | None = None
    distance: float = 0.0  # m
    result: Any = None  # once it is over

    @property
    def over(self) -> bool:
        return self.result is not None


class _Server(ActionServer):
    """An action server whose goals are in execution until their result is known.

    rclpy's own way is a callback that lasts as long as the goal: with one executor thread that is a coroutine, which
    rclpy resumes without a pause for as long as it waits.
    """

    def notify_execute(self, goal_handle: ServerGoalHandle, execute_callback: Any) -> None:
        if execute_callback is not None:
            super().notify_execute(goal_handle, execute_callback)


class NavigateServer:
    """Offers `navigate`; one goal at a time, a new one ends the one before.

    Args:
        node: whose action it is.
        start: begins an episode for a goal, ending the running one.
        stop: ends the running episode; the robot stops. Its argument says why.
    """

    def __init__(self, node: ManagedNode, start: Callable[[str, Goal], None], stop: Callable[[str], None]) -> None:
        self._node, self._start, self._stop = node, start, stop
        self._said: deque[tuple[Callable[..., None], tuple]] = deque(maxlen=64)  # by the worker thread
        self._place: tuple[float, float] | None = None
        self.goal: Goal | None = None  # being carried out
        self._server = _Server(
            node,
            NavigateInstruction,
            "navigate",
            execute_callback=self._unused,
            goal_callback=self._on_goal,
            handle_accepted_callback=self._on_accepted,
            cancel_callback=self._on_cancel,
        )
        node.managed_subscription(Odometry, "odom", self._on_odometry, qos.NEWEST_FRAME)
        node.managed_timer(CHECK_PERIOD, self._check)
        node.managed_timer(FEEDBACK_PERIOD, self._send_feedback)

    def destroy(self) -> None:
        """Take the action off the graph."""
        self._server.destroy()

    # ------------------------------------------------------------------------ what the planner says, worker thread

    def episode_started(self, goal: Goal, episode_id: int) -> None:
        """A goal is being carried out as this episode."""
        self._said.append((self._take_episode, (goal, episode_id)))

    def instruction_refused(self, goal: Goal, text: str) -> None:
        """The planner cannot work with a goal's instruction."""
        self._said.append((self._refuse, (goal, text)))

    def plan_sent(self, plan: S2Plan) -> None:
        """A plan was published."""
        self._said.append((self._take_plan, (plan,)))

    # ---------------------------------------------------------------------- what the planner says, executor thread

    def controller_reported(self, state: ControllerState) -> None:
        """What s1/state says: the goal is reached when the controller stands after STOP."""
        goal = self.goal
        if goal is None:
            return
        if state.state == ControllerState.FAULT:
            goal.trouble = state.message
            return
        goal.healthy_ns, goal.trouble = self._node.now_ns(), ""
        if state.state == ControllerState.ARRIVED and state.episode_id == goal.episode_id:
            self._finish(Result.REACHED, "the planner answered STOP and the robot stands")

    def episode_ended(self, reason: int, why: str) -> None:
        """Something other than the action ended the episode: an instruction on the topic, a reset, deactivation."""
        self._finish(reason, why)

    # --------------------------------------------------------------------------------------------- action server

    def _on_goal(self, _: NavigateInstruction.Goal) -> GoalResponse:
        return GoalResponse.ACCEPT if self._node.is_active else GoalResponse.REJECT

    def _on_accepted(self, handle: ServerGoalHandle) -> None:
        self._finish(Result.PREEMPTED, "a new goal came")
        now = self._node.now_ns()
        self.goal = Goal(handle, now, now)
        handle.execute()
        limit = handle.request.time_limit
        if not (math.isfinite(limit) and limit >= 0.0):
            self._give_up(Result.INVALID_GOAL, f"time_limit is {limit}, expected seconds, or 0 for no limit")
            return
        self._start(handle.request.instruction, self.goal)

    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        if self.goal is None or self.goal.handle is not handle:
            return CancelResponse.REJECT
        self._finish(Result.CANCELLED, "cancelled")
        self._stop("the goal was cancelled")
        return CancelResponse.ACCEPT

    def _finish(self, reason: int, text: str) -> None:
        goal, self.goal = self.goal, None
        if goal is None:
            return
        goal.result = Result(success=reason == Result.REACHED, reason=reason, message=text)

        def end(handle: ServerGoalHandle) -> NavigateInstruction.Result:
            if reason == Result.REACHED:
                handle.succeed()
            elif reason == Result.CANCELLED:
                handle.canceled()
            else:
                handle.abort()
            return goal.result

        self._server.notify_execute(goal.handle, end)

    @staticmethod
    def _unused(_: ServerGoalHandle) -> NavigateInstruction.Result:
        raise RuntimeError("goals are ended by _finish")

    # ------------------------------------------------------------------------------------------------- watching

    def _on_odometry(self, message: Odometry) -> None:
        position = message.pose.pose.position
        if self._place is not None:
            moved = math.dist(self._place, (position.x, position.y))
            if not moved >= STEP:  # NaN as well
                return
            if self.goal is not None:
                self.goal.distance += moved
        self._place = (position.x, position.y)

    def _check(self) -> None:
        while self._said:
            function, arguments = self._said.popleft()
            function(*arguments)
        goal = self.goal
        if goal is None:
            return
        now, limit = self._node.now_ns(), goal.handle.request.time_limit
        if limit > 0.0 and seconds_between(goal.started_ns, now) > limit:
            self._give_up(Result.TIME_LIMIT, f"not reached within {limit:g} s")
        elif seconds_between(goal.healthy_ns, now) > FAULT_PATIENCE:
            self._give_up(Result.FAULT, f"controller: {goal.trouble or 'nothing is heard of s1/state'}")

    def _give_up(self, reason: int, text: str) -> None:
        # In this order: an episode that the worker begins just now is ended by one of the two.
        self._finish(reason, text)
        self._stop(text)

    def _take_episode(self, goal: Goal, episode_id: int) -> None:
        goal.episode_id = episode_id

    def _refuse(self, goal: Goal, text: str) -> None:
        if goal is self.goal:
            self._finish(Result.INVALID_GOAL, text)

    def _take_plan(self, plan: S2Plan) -> None:
        if self.goal is not None and plan.episode_id == self.goal.episode_id:
            self.goal.plan = plan
            self._send_feedback()

    def _send_feedback(self) -> None:
        goal = self.goal
        if goal is None or not goal.handle.is_active:
            return
        elapsed = Duration(nanoseconds=max(0, self._node.now_ns() - goal.started_ns)).to_msg()
        feedback = NavigateInstruction.Feedback(distance_travelled=goal.distance, elapsed=elapsed)
        if goal.plan is not None:
            feedback.plan = goal.plan
        goal.handle.publish_feedback(feedback)
