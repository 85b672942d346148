"""The nodes oracle_s2 and oracle_s1: the oracles (oracles.py) on the topics of S2 and S1.

Which episode they know the map of is what the simulator says on `episode`. oracle_s2 begins with an `instruction`,
like S2, and publishes `s2/plan` when `s1/state` asks for it, made from the newest frame it has seen on `camera_info`
(it needs no image; for an S1 that drives by latents, `s1_model`, it takes `rgb`). oracle_s1 follows `s2/plan` and
publishes `cmd_vel` and `s1/state`. Both read the true pose from `ground_truth`, which the simulator publishes with
the stamps of the frames. Instructions of people work as far as understanding.py goes.
"""

from __future__ import annotations

import array
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Point as PointMessage
from geometry_msgs.msg import Pose as PoseMessage
from geometry_msgs.msg import PoseStamped, Twist
from nav_msgs.msg import Odometry, Path
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger

from dual_nav_util import qos
from dual_nav_util.images import rgb_from_image
from dual_nav_util.managed_node import ManagedNode, wait_until_received
from dual_nav_util.stamps import to_nanoseconds, to_stamp
from nav_msgs_ext.msg import ControllerState, S2Plan

from .episodes import Episode
from .evaluation import PLANNERS
from .grid import Point
from .oracles import (
    KIND_ACTIONS,
    KIND_PIXEL_GOAL,
    STOP,
    OracleController,
    OraclePlanner,
    PlanMade,
    RandomPlanner,
    actions_plan,
)
from .parameters import OracleParameters, episode_named
from .simulator import Pose, yaw_of
from .understanding import goals_of, things_in

if TYPE_CHECKING:
    from .latents import Latents

MEMORY = 400  # poses kept to look up those of frames
POSE_TOLERANCE_NS = 40_000_000  # two messages of ground truth; the robot moves 2 cm meanwhile
ACKNOWLEDGE_TIMEOUT = 1.0  # seconds
TOGETHER = 1.0  # seconds between an instruction and the episode that it is for, when the instruction comes first
RECENT = 5.0  # seconds an incident stays in /diagnostics


class _OracleNode(ManagedNode):
    """What both have: the episode, and the true poses by stamp."""

    def __init__(self, name: str, **node_options: Any) -> None:
        super().__init__(name, OracleParameters, **node_options)

    def configure(self, parameters: OracleParameters) -> None:
        self._settings = parameters
        self._episode: Episode | None = None
        self._poses: dict[int, Pose] = {}
        self._newest_ns = 0
        self.managed_subscription(Odometry, "ground_truth", self._on_pose, qos.ODOMETRY)
        self.managed_subscription(String, "episode", self._on_episode, qos.LATCHED)

    def begin(self, episode: Episode, told_at: float) -> None:
        """The robot stands at the start of another episode, as was said then (`time.monotonic`)."""
        raise TypeError(f"{type(self).__name__} has no begin()")

    def _on_episode(self, message: String) -> None:
        told_at = time.monotonic()  # its flat may take a second to build
        self._episode = episode_named(message.data) if message.data else None
        if self._episode is not None:
            self.begin(self._episode, told_at)

    def _on_pose(self, message: Odometry) -> None:
        position, orientation = message.pose.pose.position, message.pose.pose.orientation
        before, self._newest_ns = self._newest_ns, to_nanoseconds(message.header.stamp)
        if self._newest_ns < before:  # another simulator
            self._poses.clear()
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
        status.value("episode", self._episode.name if self._episode else "none")
        for incident in self.incidents.recent(RECENT):
            status.warn(incident.text)
        if not self._poses:
            status.error("ground_truth: nothing received; the oracles work with the simulator only")
        return [status.build("running" if self.is_active else "inactive")]


class OracleS2(_OracleNode):
    """See the module."""

    def __init__(self, **node_options: Any) -> None:
        super().__init__("oracle_s2", **node_options)

    def configure(self, parameters: OracleParameters) -> None:
        super().configure(parameters)
        self._planner: OraclePlanner | RandomPlanner | _AtALoss | None = None
        # As S2's: later processes have larger ids.
        self._episode_id = time.time_ns() >> 20 << 20
        self._plans = 0
        self._sent_at = 0.0
        self._instruction, self._instructed_at = "", 0.0
        self._followed = True  # the instruction was taken up
        self._under_way = False  # told what to do, and S1 is not yet at STOP
        self._stops = False  # the newest plan is STOP
        self._asked_from_ns: int | None = None  # S1 wants a plan from a frame of this stamp or later
        self._frame: Header | None = None  # the newest one
        self._image: Image | None = None  # of that frame, where latents are wanted
        self._latents = _latents_for(parameters.s1_model)
        self._planned_ns = -1  # stamp of the frame planned on last
        self._publisher = self.managed_publisher(S2Plan, "s2/plan", qos.LATCHED)
        # Before the frames: of an instruction and a frame at hand the instruction comes first.
        self.managed_subscription(String, "instruction", self._on_instruction, qos.LATCHED)
        if self._latents is None:
            self.managed_subscription(CameraInfo, "camera_info", self._on_frame, qos.NEWEST_FRAME)
        else:
            self.managed_subscription(Image, "rgb", self._on_image, qos.NEWEST_FRAME)
        self.managed_subscription(ControllerState, "s1/state", self._on_state, qos.NEWEST_STATE)
        self.managed_service(Trigger, "~/reset", self._on_reset)

    def deactivate(self) -> None:
        wait_until_received(self._publisher)

    def begin(self, episode: Episode, told_at: float) -> None:
        self._under_way = False
        # Messages of two topics come in any order: the newest instruction may be for the episode that begins.
        together = told_at - self._instructed_at < TOGETHER and self._instruction == episode.instruction
        if together or not self._followed:
            self._follow(episode)

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._under_way and self._frame is not None:
            self._send(self._frame, actions_plan([STOP]), 0.0)
        self._under_way = False
        self._followed = True
        response.success, response.message = True, "episode ended; waiting for an instruction"
        return response

    def _on_instruction(self, message: String) -> None:
        self._instruction, self._instructed_at, self._followed = message.data, time.monotonic(), False
        if self._episode is None:
            self.get_logger().info("an instruction, but no episode yet: it waits for the simulator's")
        else:
            self._follow(self._episode)

    def _follow(self, episode: Episode) -> None:
        """Begin to follow the newest instruction in the flat of this episode."""
        self._followed = True
        if self._instruction != episode.instruction:  # a person's
            episode = replace(episode, instruction=self._instruction, goals=goals_of(episode.flat, self._instruction))
        cameras, refused = self._settings.cameras(), ""
        if self._latents is not None:
            cameras = self._latents.cameras(cameras)
            try:
                self._latents.start_episode(self._instruction)
            except ValueError as error:  # nothing to put into a prompt
                refused = str(error)
                self.incidents.report("instruction", f"instruction refused: {refused}")
        if refused:
            self._planner = _AtALoss(refused)
        elif episode.goals:
            try:
                self._planner = PLANNERS[self._settings.planner](episode, cameras)
            except ValueError as error:
                self._planner = _AtALoss(f"I cannot get there: {error}.")
        else:
            self._planner = _AtALoss(f"I see no such thing here. There are: {things_in(episode.flat)}.")
        self._episode_id += 1
        self._plans, self._under_way, self._stops = 0, True, False
        self._frame = None  # the first plan is made from a frame that comes after the instruction
        self._asked_from_ns = 0

    def _on_state(self, message: ControllerState) -> None:
        if (message.episode_id, message.plan_number) == (self._episode_id, self._plans - 1):
            self._under_way &= not self._stops  # S1 has taken the STOP over
            asks = message.ask != ControllerState.ASK_NO
            # Not from a frame older than the one S1 has worked on: that may be still on its way to here.
            oldest_ns = max(to_nanoseconds(message.frames_from), to_nanoseconds(message.header.stamp))
            self._asked_from_ns = oldest_ns if asks else None
        elif self._plans and time.monotonic() - self._sent_at > ACKNOWLEDGE_TIMEOUT:
            # S1 answers a plan within a control period; this much later it must have refused it, or missed it.
            self._asked_from_ns = 0
        self._plan_if_due()

    def _on_frame(self, message: CameraInfo) -> None:
        self._frame = message.header
        self._plan_if_due()

    def _on_image(self, message: Image) -> None:
        self._frame, self._image = message.header, message
        self._plan_if_due()

    def _on_pose(self, message: Odometry) -> None:
        super()._on_pose(message)
        self._plan_if_due()  # the pose of the frame may be what was missing

    def _plan_if_due(self) -> None:
        if not (self.is_active and self._under_way) or self._frame is None or self._asked_from_ns is None:
            return
        stamp_ns = to_nanoseconds(self._frame.stamp)
        if stamp_ns < self._asked_from_ns or stamp_ns <= self._planned_ns or self._newest_ns < stamp_ns:
            return  # or the pose is still on its way
        pose = self._pose_at(stamp_ns)
        if pose is None:
            return
        started = time.perf_counter()
        plan = self._planner.plan(pose)
        if self._latents is not None and plan.pixel_goal is not None:
            plan = self._latents.added_to(plan, rgb_from_image(self._image, "rgb"))
        self._send(self._frame, plan, time.perf_counter() - started)
        self._planned_ns, self._asked_from_ns = stamp_ns, None
        self._stops = STOP in plan.actions

    def _send(self, header: Header, plan: PlanMade, elapsed: float) -> None:
        message = S2Plan(header=header, episode_id=self._episode_id, plan_number=self._plans, kind=plan.kind)
        message.actions = array.array("B", plan.actions)
        message.pixel_goal_column, message.pixel_goal_row = plan.pixel_goal or (-1, -1)
        message.image_width, message.image_height = plan.image_size
        message.look_down, message.answer, message.inference_time = plan.look_down, plan.answer, elapsed
        if plan.traj_latents is not None:
            message.traj_latents_shape = array.array("I", plan.traj_latents.shape)
            message.traj_latents = array.array("f", plan.traj_latents.tobytes())
        self._publisher.publish(message)
        self._plans += 1
        self._sent_at = time.monotonic()


def _latents_for(s1_model: str) -> Latents | None:
    """What gives plans their latents, for an S1 that needs them. CheckpointError says what is wrong with it."""
    if not s1_model:
        return None
    from .latents import Latents, drives_by_latents  # imports torch

    return Latents(s1_model) if drives_by_latents(s1_model) else None


class _AtALoss:
    """Plans for an instruction that names nothing in the flat: STOP, and why."""

    def __init__(self, answer: str) -> None:
        self._answer = answer

    def plan(self, _: Pose) -> PlanMade:
        return PlanMade(KIND_ACTIONS, (STOP,), answer=self._answer)


class OracleS1(_OracleNode):
    """See the module."""

    def __init__(self, **node_options: Any) -> None:
        super().__init__("oracle_s1", **node_options)

    def configure(self, parameters: OracleParameters) -> None:
        super().configure(parameters)
        self._controller: OracleController | None = None
        self._newest_plan = (0, 0)
        self._turning = False
        self._frames = 0  # since the frame of the plan
        self._plan_stamp_ns = self._frame_stamp_ns = 0
        self._command_publisher = self.managed_publisher(Twist, "cmd_vel", qos.NEWEST_STATE)
        self._state_publisher = self.managed_publisher(ControllerState, "s1/state", qos.NEWEST_STATE)
        self._path_publisher = self.managed_publisher(Path, "s1/path", qos.DEFAULT)
        self.managed_subscription(S2Plan, "s2/plan", self._on_plan, qos.LATCHED)
        self.managed_subscription(CameraInfo, "camera_info", self._on_frame, qos.NEWEST_FRAME)
        period = 1.0 / parameters.control_rate
        if parameters.lock_step:
            self.managed_clock_period(period, self._send_command)
        else:
            self.managed_timer(period, self._send_command)

    def deactivate(self) -> None:
        self._command_publisher.publish(Twist())
        wait_until_received(self._command_publisher)

    def begin(self, episode: Episode, told_at: float) -> None:
        self._controller = OracleController(episode, self._settings.cameras())
        self._newest_plan = (0, 0)

    def _on_frame(self, message: CameraInfo) -> None:
        self._frame_stamp_ns = to_nanoseconds(message.header.stamp)
        self._frames += self._frame_stamp_ns > self._plan_stamp_ns
        # A frame is answered while there is something to answer: the plan may have been followed for long enough.
        if self._controller is not None and self.is_active and self._answers_frames(self._controller):
            self._send_state(self._controller)
            if self._controller.path and self._path_publisher.get_subscription_count():
                self._send_path(self._controller.path, message.header)

    def _answers_frames(self, controller: OracleController) -> bool:
        return not (self._turning or controller.done or controller.stopped)

    def _on_plan(self, message: S2Plan) -> None:
        number = (message.episode_id, message.plan_number)
        stamp_ns = to_nanoseconds(message.header.stamp)
        pose = self._pose_at(stamp_ns)
        if self._controller is None or (number <= self._newest_plan and self._newest_plan != (0, 0)):
            return
        if pose is None or message.kind not in (KIND_ACTIONS, S2Plan.KIND_PIXEL_GOAL, S2Plan.KIND_TRAJ_LATENTS):
            self.incidents.report("plan", f"plan {number} refused: no pose is known at the stamp of its frame")
            return
        if message.episode_id != self._newest_plan[0]:
            self._controller.stopped = False
        self._newest_plan = number
        self._plan_stamp_ns, self._frames = stamp_ns, int(stamp_ns < self._frame_stamp_ns)
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
        if not self.is_active:
            return
        command = Twist()
        if self._controller is not None and self._poses:
            pose = self._poses[self._newest_ns]
            command.linear.x, command.angular.z = self._controller.command(pose, self._newest_ns / 1e9)
        self._command_publisher.publish(command)
        if self._controller is not None:
            self._send_state(self._controller)

    def _send_path(self, path: Sequence[Point], frame: Header) -> None:
        """For people; S1's own is in the frame of odometry, this one in that of the map the oracle knows."""
        header = Header(stamp=frame.stamp, frame_id="map")
        poses = [PoseMessage(position=PointMessage(x=x, y=y)) for x, y in path]
        self._path_publisher.publish(Path(header=header, poses=[PoseStamped(header=header, pose=p) for p in poses]))

    def _send_state(self, controller: OracleController) -> None:
        state = ControllerState(header=Header(stamp=to_stamp(self._frame_stamp_ns), frame_id="base_link"))
        state.episode_id, state.plan_number = self._newest_plan
        if controller.stopped:
            state.state = ControllerState.ARRIVED
        elif controller.done:
            state.state = ControllerState.IDLE
            first = self._newest_plan == (0, 0)
            state.ask = ControllerState.ASK_FIRST if first else ControllerState.ASK_USED_UP
            state.frames_from = to_stamp(self._newest_ns)
        else:
            state.state = ControllerState.TURNING if self._turning else ControllerState.FOLLOWING
            state.path_wanted = self._answers_frames(controller)
            if state.path_wanted and self._frames >= self._settings.plan_step_gap:
                state.ask = ControllerState.ASK_STEP_GAP
        state.actions_left = controller.actions_left
        self._state_publisher.publish(state)
