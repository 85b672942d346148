"""The nodes oracle_s2 and oracle_s1: the oracles (oracles.py) on the topics of S2 and S1.

oracle_s2 publishes `s2/plan` for the frames it sees on `camera_info` (it needs no image), on the same occasions as
S2: when there is no plan yet, when `s1/state` says the last one is used up, and when the one being followed has
become `plan_step_gap` frames old. oracle_s1 follows `s2/plan` and publishes `cmd_vel` and `s1/state`. Both read the
true pose from `ground_truth`, which the simulator publishes with the stamps of the frames.
"""

from __future__ import annotations

import array
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from dual_nav_util import qos
from dual_nav_util.managed_node import ManagedNode, wait_until_received
from dual_nav_util.stamps import to_nanoseconds, to_stamp
from nav_msgs_ext.msg import ControllerState, S2Plan

from .evaluation import PLANNERS
from .oracles import KIND_ACTIONS, KIND_PIXEL_GOAL, STOP, OracleController, PlanMade
from .parameters import OracleParameters, episode_named
from .simulator import Pose, yaw_of

MEMORY = 400  # poses kept to look up those of frames
POSE_TOLERANCE_NS = 40_000_000  # two messages of ground truth; the robot moves 2 cm meanwhile
ACKNOWLEDGE_TIMEOUT = 1.0  # seconds


class _OracleNode(ManagedNode):
    """What both have: the episode, and the true poses by stamp."""

    def __init__(self, name: str, **node_options: Any) -> None:
        super().__init__(name, OracleParameters, **node_options)

    def configure(self, parameters: OracleParameters) -> None:
        self._settings = parameters
        self._episode = episode_named(parameters.episode)
        self._poses: dict[int, Pose] = {}
        self._newest_ns = 0
        self.managed_subscription(Odometry, "ground_truth", self._on_pose, qos.ODOMETRY)

    def _on_pose(self, message: Odometry) -> None:
        position, orientation = message.pose.pose.position, message.pose.pose.orientation
        self._newest_ns = to_nanoseconds(message.header.stamp)
        self._poses[self._newest_ns] = Pose(position.x, position.y, yaw_of(orientation.z, orientation.w))
        while len(self._poses) > MEMORY:
            del self._poses[next(iter(self._poses))]

    def _pose_at(self, stamp_ns: int) -> Pose | None:
        """The true pose at a stamp, or the nearest where that message was lost; None if there is none close by."""
        nearest = min(self._poses, key=lambda known: abs(known - stamp_ns), default=None)
        if nearest is None or abs(nearest - stamp_ns) > POSE_TOLERANCE_NS:
            return None
        return self._poses[nearest]

    def statuses(self) -> list[DiagnosticStatus]:
        status = self.status("oracle")
        status.value("episode", self._episode.name)
        if not self._poses:
            status.error("ground_truth: nothing received; the oracles work with the simulator only")
        return [status.build("running" if self.is_active else "inactive")]


class OracleS2(_OracleNode):
    """See the module."""

    def __init__(self, **node_options: Any) -> None:
        super().__init__("oracle_s2", **node_options)

    def configure(self, parameters: OracleParameters) -> None:
        super().configure(parameters)
        self._planner = PLANNERS[parameters.planner](self._episode, parameters.cameras())
        # As S2's: later processes have larger ids.
        self._episode_id = time.time_ns() >> 20 << 20
        self._plans = 0
        self._sent_at = 0.0
        self._used_up_ns: int | None = 0  # the first plan is due at once
        self._frames_since_plan = 0
        self._following = False
        self._finished = False
        self._publisher = self.managed_publisher(S2Plan, "s2/plan", qos.LATCHED)
        self.managed_subscription(CameraInfo, "camera_info", self._on_frame, qos.NEWEST_FRAME)
        self.managed_subscription(ControllerState, "s1/state", self._on_state, qos.NEWEST_STATE)

    def deactivate(self) -> None:
        wait_until_received(self._publisher)

    def _on_state(self, message: ControllerState) -> None:
        if (message.episode_id, message.plan_number) != (self._episode_id, self._plans - 1):
            # S1 answers a plan within a control period; this much later it must have refused it, or missed it.
            unanswered = self._plans and time.monotonic() - self._sent_at > ACKNOWLEDGE_TIMEOUT
            if unanswered and self._used_up_ns is None:
                self._used_up_ns = self._newest_ns
            return
        self._following = message.state == ControllerState.FOLLOWING
        standing = to_nanoseconds(message.frames_from)
        if message.ask != ControllerState.ASK_NO and standing and self._used_up_ns is None:
            self._used_up_ns = max(standing, self._newest_ns)

    def _on_frame(self, message: CameraInfo) -> None:
        stamp_ns = to_nanoseconds(message.header.stamp)
        self._frames_since_plan += 1
        if not self.is_active or self._finished:
            return
        used_up = self._used_up_ns is not None and stamp_ns > self._used_up_ns
        renew = self._following and self._frames_since_plan >= self._settings.plan_step_gap
        pose = self._pose_at(stamp_ns)
        if not (used_up or renew) or pose is None:
            return
        started = time.perf_counter()
        plan = self._planner.plan(pose)
        self._publisher.publish(self._message(message.header, plan, time.perf_counter() - started))
        self._plans += 1
        self._sent_at = time.monotonic()
        self._used_up_ns, self._frames_since_plan = None, 0
        self._finished = STOP in plan.actions

    def _message(self, header: Header, plan: PlanMade, elapsed: float) -> S2Plan:
        message = S2Plan(header=header, episode_id=self._episode_id, plan_number=self._plans, kind=plan.kind)
        message.actions = array.array("B", plan.actions)
        message.pixel_goal_column, message.pixel_goal_row = plan.pixel_goal or (-1, -1)
        message.image_width, message.image_height = plan.image_size
        message.look_down, message.answer, message.inference_time = plan.look_down, plan.answer, elapsed
        return message


class OracleS1(_OracleNode):
    """See the module."""

    def __init__(self, **node_options: Any) -> None:
        super().__init__("oracle_s1", **node_options)

    def configure(self, parameters: OracleParameters) -> None:
        super().configure(parameters)
        self._controller = OracleController(self._episode, parameters.cameras())
        self._newest_plan = (0, 0)
        self._turning = False
        self._message = ""
        self._frame_stamp_ns = 0
        self._command_publisher = self.managed_publisher(Twist, "cmd_vel", qos.NEWEST_STATE)
        self._state_publisher = self.managed_publisher(ControllerState, "s1/state", qos.NEWEST_STATE)
        self.managed_subscription(S2Plan, "s2/plan", self._on_plan, qos.LATCHED)
        self.managed_subscription(CameraInfo, "camera_info", self._on_frame, qos.NEWEST_FRAME)
        self.managed_timer(1.0 / parameters.control_rate, self._send_command)

    def deactivate(self) -> None:
        self._command_publisher.publish(Twist())
        wait_until_received(self._command_publisher)

    def _on_frame(self, message: CameraInfo) -> None:
        self._frame_stamp_ns = to_nanoseconds(message.header.stamp)

    def _on_plan(self, message: S2Plan) -> None:
        number = (message.episode_id, message.plan_number)
        pose = self._pose_at(to_nanoseconds(message.header.stamp))
        if number <= self._newest_plan and self._newest_plan != (0, 0):
            return
        if pose is None or message.kind not in (KIND_ACTIONS, S2Plan.KIND_PIXEL_GOAL, S2Plan.KIND_TRAJ_LATENTS):
            self.incidents.report("plan", f"plan {number} refused: no pose is known at the stamp of its frame")
            return
        if message.episode_id != self._newest_plan[0]:
            self._controller.stopped = False
        self._newest_plan = number
        self._turning = message.kind == S2Plan.KIND_ACTIONS
        goal = (message.pixel_goal_column, message.pixel_goal_row)
        size = (message.image_width, message.image_height)
        plan = (
            PlanMade(KIND_ACTIONS, tuple(message.actions))
            if self._turning
            else PlanMade(KIND_PIXEL_GOAL, (), goal, size, message.look_down)
        )
        self._controller.set_plan(plan, pose, self._newest_ns / 1e9)
        self._send_command()

    def _send_command(self) -> None:
        if not self.is_active or not self._poses:
            return
        linear, angular = self._controller.command(self._poses[self._newest_ns], self._newest_ns / 1e9)
        command = Twist()
        command.linear.x, command.angular.z = linear, angular
        self._command_publisher.publish(command)
        state = ControllerState(header=Header(stamp=to_stamp(self._frame_stamp_ns), frame_id="base_link"))
        state.episode_id, state.plan_number = self._newest_plan
        if self._controller.stopped:
            state.state = ControllerState.ARRIVED
        elif self._controller.done:
            state.state, state.ask = ControllerState.IDLE, ControllerState.ASK_USED_UP
            state.frames_from = to_stamp(self._newest_ns)
        else:
            state.state = ControllerState.TURNING if self._turning else ControllerState.FOLLOWING
        state.actions_left = self._controller.actions_left
        self._state_publisher.publish(state)
