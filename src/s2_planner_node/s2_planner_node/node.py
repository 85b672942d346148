"""The s2_planner node: camera images and an instruction in, plans out.

The executor thread only stores messages; one worker thread converts the newest image and runs the model.

Subscribes to `rgb`, `rgb_look_down` (by parameter), `instruction`, `s1/state` and `odom`; publishes `s2/plan` and,
while somebody listens, `s2/debug_image`; offers `~/reset` and the action `navigate` (`navigate.py`). Parameters are
in `parameters.py`, the rules when to plan in `trigger.py`.
"""

from __future__ import annotations

import array
import gc
import threading
import time
from typing import Any

import numpy as np
import torch
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger

from dual_nav_util import images, qos
from dual_nav_util.diagnostics import EventRate, LatencyWindow
from dual_nav_util.managed_node import NEW_TIME_NS, NO_TIME, ManagedNode, wait_until_received
from dual_nav_util.stamps import NANOSECONDS, seconds_between, to_nanoseconds
from dual_nav_util.worker import Worker
from nav_msgs_ext.msg import ControllerState, S2Plan

from .answer import AnswerError
from .navigate import Goal, NavigateServer, Result
from .overlay import draw_plan
from .parameters import Parameters
from .planner import Plan, load_planner
from .prompt import PromptError
from .trigger import Episode, PlanTrigger, first_episode_id

STOP = S2Plan.ACTION_STOP
KINDS = {
    "actions": S2Plan.KIND_ACTIONS,
    "pixel_goal": S2Plan.KIND_PIXEL_GOAL,
    "traj_latents": S2Plan.KIND_TRAJ_LATENTS,
}
LOOK_DOWN_TOLERANCE_NS = NANOSECONDS // 2  # between a frame and the look-down image that goes with it
RECENT = 5.0  # s an error stays in /diagnostics
STOP_TIMEOUT = 2.0  # s to wait for the model at the end


class S2Planner(ManagedNode):
    """See the module."""

    def __init__(self, **node_options: Any) -> None:
        super().__init__("s2_planner", Parameters, **node_options)
        self._next_episode_id = first_episode_id(time.time_ns())
        self._worker: Worker | None = None
        self._planner = None
        self._navigate: NavigateServer | None = None

    # ------------------------------------------------------------------------------------------- life cycle

    def configure(self, parameters: Parameters) -> None:
        self._settings = parameters
        if parameters.torch_threads:
            torch.set_num_threads(parameters.torch_threads)
        started = time.monotonic()
        self._planner = load_planner(parameters.model, parameters.planner_config())
        self.get_logger().info(f"model {parameters.model} loaded in {time.monotonic() - started:.1f} s")
        self._trigger = PlanTrigger(self._next_episode_id)
        self._planner_episode: Episode | None = None  # the one the planner was started with; worker thread only
        self._newest_stamp_ns: int | None = None
        self._newest_header = Header()
        self._newest_frame: Image | CompressedImage | None = None  # since the episode began
        self._planned_ns = -1  # stamp of the frame planned on last: one is planned on once
        self._look_down: Any = None
        self._last_answer = ""
        self._last_frame_time: float | None = None
        self._last_state_time: float | None = None
        self._frames, self._states, self._plans = EventRate(), EventRate(), EventRate()
        self._planning_time, self._latency = LatencyWindow(256), LatencyWindow(256)
        self._stages: dict[str, float] = {}
        self._publishing = threading.Lock()
        # Worker and action before the subscriptions: a latched instruction comes at once.
        self._worker = Worker(
            "planning", {"instruction": self._start_episode, "frame": self._plan}, self._on_worker_error
        )

        self._navigate = NavigateServer(self, self._begin, self._cancel)
        self._plan_publisher = self.managed_publisher(S2Plan, "s2/plan", qos.LATCHED)
        self._debug_publisher = self.managed_publisher(Image, "s2/debug_image", qos.DEFAULT)
        compressed = parameters.rgb_transport == "compressed"
        kind = CompressedImage if compressed else Image
        self._to_rgb = images.rgb_from_compressed if compressed else images.rgb_from_image
        # The order counts when several messages are at hand: the instruction comes before the frame to plan on, and
        # so does the image of the tilted camera that goes with it.
        self.managed_subscription(String, "instruction", self._on_instruction, qos.LATCHED)
        if parameters.use_look_down:
            self.managed_subscription(kind, "rgb_look_down", self._on_look_down, qos.NEWEST_FRAME)
        self.managed_subscription(kind, "rgb", self._on_rgb, qos.NEWEST_FRAME)
        self.managed_subscription(ControllerState, "s1/state", self._on_controller_state, qos.NEWEST_STATE)
        self.managed_service(Trigger, "~/reset", self._on_reset)
        for warning in self.image_transport_warnings():
            self.get_logger().warning(warning)

    def activate(self) -> None:
        # What was loaded stays: the garbage collector need not look at it in the middle of a frame.
        gc.collect()
        gc.freeze()

    def deactivate(self) -> None:
        self._end_episode("the planner was deactivated")
        self._navigate.episode_ended(Result.FAULT, "the planner was deactivated")
        wait_until_received(self._plan_publisher)

    def release(self) -> bool:
        ended = True
        if self._worker is not None:
            ended = self._worker.stop(STOP_TIMEOUT)
            self._worker = None
        if self._navigate is not None:
            self._navigate.destroy()
            self._navigate = None
        if ended:
            self._planner = None
        return ended

    # ------------------------------------------------------------------------------- messages, executor thread

    def _on_rgb(self, message: Image | CompressedImage) -> None:
        if not self.is_active or self._worker is None:
            return
        stamp_ns = to_nanoseconds(message.header.stamp)
        if self._newest_stamp_ns is not None and stamp_ns <= self._newest_stamp_ns:
            back = seconds_between(stamp_ns, self._newest_stamp_ns)
            if stamp_ns + NEW_TIME_NS > self._newest_stamp_ns:
                self.incidents.report("rgb stamp", f"rgb: frame dropped, its stamp is {back:.3f} s before the newest")
                return
            self.time_jumped(f"rgb: stamps went back by {back:.1f} s")
        self._newest_stamp_ns, self._newest_header, self._newest_frame = stamp_ns, message.header, message
        self._last_frame_time = time.monotonic()
        self._frames.tick()
        self._worker.put("frame", message)

    def _on_look_down(self, message: Image | CompressedImage) -> None:
        self._look_down = message

    def _on_instruction(self, message: String) -> None:
        if self._worker is None or self._navigate is None:
            return
        self._navigate.episode_ended(Result.PREEMPTED, "an instruction came on the topic")
        self._begin(message.data, None)

    def _begin(self, instruction: str, goal: Goal | None) -> None:
        """A new instruction ends the running episode at once; the worker starts the next one."""
        self._end_episode("a new instruction came")
        self._newest_frame = None  # the first plan is made from a frame that comes after the instruction
        self._worker.put("instruction", (instruction, goal))

    def _cancel(self, why: str) -> None:
        """End the episode, also one that the worker has not begun yet."""
        self._worker.clear()
        self._end_episode(why)

    def _on_controller_state(self, message: ControllerState) -> None:
        self._last_state_time = time.monotonic()
        self._states.tick()
        self._trigger.controller_reported(
            message.episode_id,
            message.plan_number,
            message.ask != ControllerState.ASK_NO,
            # Not from a frame older than the one S1 has worked on: that may be still on its way to here.
            max(to_nanoseconds(message.frames_from), to_nanoseconds(message.header.stamp)),
            self.now_ns(),
        )
        if message.state == ControllerState.ARRIVED:
            self._trigger.arrived(message.episode_id)
        if self._newest_frame is not None and self._is_due(to_nanoseconds(self._newest_frame.header.stamp)):
            self._worker.put("frame", self._newest_frame)  # what S1 asks for may have been seen already
        self._navigate.controller_reported(message)

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._cancel("reset was called")
        self._navigate.episode_ended(Result.PREEMPTED, "reset was called")
        response.success = True
        response.message = "episode ended; waiting for an instruction"
        return response

    # ---------------------------------------------------------------------------------------------- episodes

    def _end_episode(self, why: str) -> None:
        """No plan of the running episode is valid any more; a robot that follows one is told to stop."""
        with self._publishing:
            episode = self._trigger.episode
            moving = episode is not None and self._trigger.plans_sent > 0 and not self._trigger.finished
            number = self._trigger.number_plan(episode, self.now_ns(), stops=True) if moving else None
            self._trigger.end_episode()
            if number is None:
                return
            message = self._message(self._newest_header, episode, number)
            message.kind, message.actions = S2Plan.KIND_ACTIONS, array.array("B", [STOP])
            self._plan_publisher.publish(message)
        self.get_logger().info(f"episode {episode.episode_id} ended: {why}")

    def time_jumped(self, why: str) -> None:
        """Stamps start anew (a looped recording): the instruction stays, everything seen is forgotten."""
        self.incidents.report("time", f"{why}: the history is forgotten and the episode starts again")
        self._newest_stamp_ns = self._newest_frame = None
        self._planned_ns = -1
        episode, finished = self._trigger.episode, self._trigger.finished
        if episode is not None and not finished:
            self._end_episode(why)
            self._worker.put("instruction", (episode.instruction, self._navigate.goal))

    # ------------------------------------------------------------------------------------------ worker thread

    def _start_episode(self, item: tuple[str, Goal | None]) -> None:
        instruction, goal = item
        try:
            self._planner.start_episode(instruction)
        except PromptError as error:
            self.incidents.report("instruction", f"instruction refused: {error}")
            if goal is not None:
                self._navigate.instruction_refused(goal, str(error))
            return
        episode = self._trigger.start_episode(instruction)
        if goal is not None:
            self._navigate.episode_started(goal, episode.episode_id)
            if goal.over:  # cancelled meanwhile
                self._trigger.end_episode()
                return
        self._next_episode_id = episode.episode_id + 1
        self._planner_episode = episode
        self.get_logger().info(f"episode {episode.episode_id}: {instruction}")

    def _plan(self, message: Image | CompressedImage) -> None:
        episode = self._planner_episode
        stamp_ns = to_nanoseconds(message.header.stamp)
        if episode is None or not self._trigger.is_current(episode) or not self._is_due(stamp_ns):
            return
        self._planned_ns = stamp_ns
        started = time.perf_counter()
        rgb = self._to_rgb(message, "rgb")
        look_down = self._look_down_image(stamp_ns)
        try:
            plan = self._planner.step(rgb, look_down)
        except AnswerError as error:
            self._last_answer = error.answer
            raise
        elapsed = time.perf_counter() - started
        with self._publishing:
            # STOP behind motions (↑↑STOP) ends the episode when S1 has come to it: until then the robot moves.
            stops = plan.actions[:1] == (STOP,)
            number = self._trigger.number_plan(episode, self.now_ns(), stops)
            if number is None:
                return
            sent = self._plan_message(message.header, episode, number, plan, elapsed)
            self._plan_publisher.publish(sent)
        self._navigate.plan_sent(sent)
        self._last_answer = plan.answer
        self._stages = plan.timings
        self._plans.tick()
        self._planning_time.add(elapsed)
        self._latency.add(seconds_between(stamp_ns, self.now_ns()))
        if self._debug_publisher.get_subscription_count():
            shown = look_down() if plan.look_down else rgb
            picture = draw_plan(shown, plan)
            self._debug_publisher.publish(images.image_from_array(picture, "rgb8", message.header))

    def _is_due(self, stamp_ns: int) -> bool:
        return stamp_ns > self._planned_ns and self._trigger.due(stamp_ns)

    def _look_down_image(self, stamp_ns: int) -> Any:
        """A function that converts the look-down image of about this time; None when there is none."""
        message = self._look_down
        if message is None or abs(to_nanoseconds(message.header.stamp) - stamp_ns) > LOOK_DOWN_TOLERANCE_NS:
            return None
        return lambda: self._to_rgb(message, "rgb_look_down")

    def _on_worker_error(self, lane: str, error: Exception) -> None:
        what = "planning" if lane == "frame" else lane
        self.incidents.report(lane, f"{what} failed: {error or type(error).__name__}")

    def _message(self, header: Header, episode: Episode, number: int) -> S2Plan:
        return S2Plan(
            header=header,
            episode_id=episode.episode_id,
            plan_number=number,
            pixel_goal_column=-1,
            pixel_goal_row=-1,
        )

    def _plan_message(self, header: Header, episode: Episode, number: int, plan: Plan, elapsed: float) -> S2Plan:
        message = self._message(header, episode, number)
        message.kind = KINDS[plan.kind]
        message.actions = array.array("B", plan.actions)
        if plan.pixel_goal is not None:
            message.pixel_goal_column, message.pixel_goal_row = plan.pixel_goal
        message.image_width, message.image_height = plan.image_size
        message.look_down = plan.look_down
        if plan.traj_latents is not None:
            message.traj_latents_shape = array.array("I", plan.traj_latents.shape)
            message.traj_latents = array.array("f", plan.traj_latents.astype(np.float32).tobytes())
        message.answer = plan.answer
        message.inference_time = elapsed
        return message

    # --------------------------------------------------------------------------------------------- diagnostics

    def statuses(self) -> list[DiagnosticStatus]:
        """Levels: WARN for what is not there yet, ERROR for what fell silent and for errors of the last 5 s."""
        now, timeout = time.monotonic(), self._settings.sensor_timeout
        inputs = self.status("inputs")
        if not self.has_time:
            inputs.warn(NO_TIME)
        for name, last in (("rgb", self._last_frame_time), ("s1/state", self._last_state_time)):
            if last is None:
                inputs.warn(f"{name}: nothing received yet")
            elif now - last > timeout:
                inputs.error(f"{name}: silent for {now - last:.1f} s")
        inputs.value("rgb [Hz]", self._frames.hertz())
        inputs.value("rgb received", self._frames.total)
        inputs.value("s1/state [Hz]", self._states.hertz())
        inputs.value("s1/state received", self._states.total)
        for name in ("rgb", "instruction"):
            inputs.value(f"topic of {name}", self.resolve_topic_name(name))

        planning = self.status("planning")
        for incident in self.incidents.recent(RECENT):
            planning.error(incident.text)
        if not self.is_active:
            planning.warn("inactive")
        episode = self._trigger.episode
        planning.value("episode", episode.episode_id if episode else 0)
        planning.value("instruction", episode.instruction[:200] if episode else "")
        planning.value("finished", self._trigger.finished)
        planning.value("plans", self._plans.total)
        planning.value("plans [Hz]", self._plans.hertz())
        planning.value("frames replaced by newer ones", self._worker.dropped("frame") if self._worker else 0)
        planning.value("last answer", self._last_answer[:200])
        for stage, seconds in self._stages.items():
            planning.value(f"last plan, {stage} [ms]", seconds * 1e3)
        planning.latency("planning", self._planning_time)
        planning.latency("camera to plan", self._latency)
        if episode is None:
            text = "waiting for an instruction"
        else:
            text = "episode finished" if self._trigger.finished else "planning"
        return [inputs.build("rgb and s1/state arrive"), planning.build(text)]
