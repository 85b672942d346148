"""The s1_controller node: camera, odometry and plans in, velocity commands out.

Four threads. The executor's stores messages and runs the control timer; `rgb` and `depth` convert and resize
images, so that one does not wait for the other; `inference` runs the model on the newest prepared frame. Plans are
checked in `controller.py`, what is driven and whether it may be is decided in `motion.py`; every command goes through
`_send_command`.

Subscribes to `rgb`, `depth` and `camera_info` (for the obstacle stop, and where the model or the selection needs
them), `odom`, `s2/plan` and `manual_cmd_vel`, and to `/tf_static` for the mount of the depth camera; publishes
`cmd_vel`, `s1/state`, `s1/actions` and, while somebody listens, `s1/path`, `s1/tracked_path`, `s1/candidates` and
`s1/robot`; offers `~/reset`, `~/enable`, `~/emergency_stop` and `~/release`. Parameters are in `parameters.py`.
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
from geometry_msgs.msg import Twist, TwistStamped
from nav_msgs.msg import Odometry, Path
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger
from visualization_msgs.msg import MarkerArray

from dual_nav_util import images, qos
from dual_nav_util.controller_state import State
from dual_nav_util.diagnostics import EventRate, LatencyWindow
from dual_nav_util.managed_node import NEW_TIME_NS, NO_TIME, ManagedNode, wait_until_received
from dual_nav_util.params import ParameterError
from dual_nav_util.stamps import NANOSECONDS, from_seconds, seconds_between, to_nanoseconds, to_stamp
from dual_nav_util.worker import Worker
from nav_msgs_ext.msg import ControllerState, DiscreteActions, S2Plan

from .camera_mount import MountChoice
from .controller import Controller, GoalKinds, Task
from .frames import FrameRing
from .geometry import STANDSTILL, Twist2D, compose
from .markers import candidates_message, path_message, robot_message
from .modes import Ask
from .motion import MotionCommand, MotionLayer
from .obstacles import Intrinsics
from .odometry import OdometryError, OdometryGap, OdometrySample, planar_pose
from .parameters import Parameters
from .path_maker import MadePath, PathMaker
from .plan_intake import AcceptedPlan, Action, Kind, PlanRefused
from .policy import Frame, load_policy
from .preparation import FramePreparation
from .selection import BY_OBSTACLES

try:
    from tf2_msgs.msg import TFMessage
except ImportError:  # there are no wheels of it
    TFMessage = None

DRAWING_PERIOD = 0.2  # s between two pictures of the robot for people
RECENT = 5.0  # s an error stays in /diagnostics
LOCK_STEP_WAIT = 10.0  # s to wait for the work on an image while simulated time stands still
STOP_TIMEOUT = 2.0  # s to wait for a thread at the end
ERROR_STATES = (State.STALE_PLAN, State.NO_SENSORS, State.FAULT)
ASKS = {ask: getattr(ControllerState, f"ASK_{ask.name}") for ask in Ask}


class S1Controller(ManagedNode):
    """See the module."""

    def __init__(self, **node_options: Any) -> None:
        super().__init__("s1_controller", Parameters, **node_options)
        self._workers: dict[str, Worker] = {}
        self._policy: Any = None

    # ------------------------------------------------------------------------------------------- life cycle

    def configure(self, parameters: Parameters) -> None:
        self._settings = parameters
        if parameters.torch_threads:
            torch.set_num_threads(parameters.torch_threads)
        started = time.monotonic()
        self._policy = load_policy(parameters.model, parameters.policy_config())
        self.get_logger().info(f"model {parameters.model} loaded in {time.monotonic() - started:.1f} s")
        if parameters.selection == "critic" and not self._policy.scores_samples:
            raise ParameterError(
                "parameter 'selection' is 'critic', but the model has no critic: take mean, random, clearance or "
                "mean_if_clear, or a NavDP checkpoint"
            )
        self._by_obstacles = parameters.selection in BY_OBSTACLES
        tolerance_ns = from_seconds(parameters.pairing_tolerance)
        self._preparation = FramePreparation(self._policy, tolerance_ns, with_depth=self._by_obstacles)
        seed = parameters.seed if parameters.seed >= 0 else None
        self._ring = FrameRing(parameters.frame_memory)
        self._motion = MotionLayer(parameters.motion_config())
        # A path is chosen for the circle around the robot, the gate looks at its outline.
        self._path_maker = PathMaker(self._policy, parameters.selection, self._motion.gate.footprint.radius, seed)
        self._mount = self._mount_choice(parameters)
        goals = GoalKinds(latents=self._policy.needs_latents, pixel_goal=not self._policy.needs_latents)
        self._controller = Controller(goals, self._ring, self._motion)
        self._time_lock = threading.Lock()
        self._time_number = 0  # counts how often time began anew; a frame of an older time is not kept
        self._newest_stamp_ns: int | None = None
        self._odometry_frame = "odom"
        self._camera_info: CameraInfo | None = None
        self._intrinsics: Intrinsics | None = None
        self._depth_without_pose = 0
        self._last_motion: MotionCommand | None = None
        self._last_fallback = ""
        self._rates = {name: EventRate() for name in ("rgb", "depth", "odom", "s2/plan", "prepared", "paths")}
        self._windows = {
            name: LatencyWindow()
            for name in ("prepare", "goal", "model", "camera to command", "overhead", "obstacles", "control")
        }
        self._command_lock = threading.Lock()
        self._workers = {
            "rgb": Worker("rgb", {"image": self._prepare_rgb}, lambda _, error: self._on_frame_error("rgb", error)),
            "depth": Worker("depth", {"image": self._prepare_depth}, lambda _, e: self._on_frame_error("depth", e)),
            "inference": Worker(
                "inference", {"goal": self._set_goal, "frame": self._make_path}, self._on_inference_error
            ),
        }
        self._make_interfaces(parameters)
        for warning in self.image_transport_warnings():
            self.get_logger().warning(warning)

    def _make_interfaces(self, parameters: Parameters) -> None:
        twist = TwistStamped if parameters.cmd_vel_stamped else Twist
        self._command_publisher = self.managed_publisher(twist, "cmd_vel", qos.NEWEST_STATE)
        self._state_publisher = self.managed_publisher(ControllerState, "s1/state", qos.NEWEST_STATE)
        self._actions_publisher = self.managed_publisher(DiscreteActions, "s1/actions", qos.DEFAULT)
        self._path_publisher = self.managed_publisher(Path, "s1/path", qos.DEFAULT)
        self._candidates_publisher = self.managed_publisher(MarkerArray, "s1/candidates", qos.DEFAULT)
        self._tracked_publisher = self.managed_publisher(Path, "s1/tracked_path", qos.DEFAULT)
        self._robot_publisher = self.managed_publisher(MarkerArray, "s1/robot", qos.DEFAULT)

        compressed = parameters.rgb_transport == "compressed"
        self._to_rgb = images.rgb_from_compressed if compressed else images.rgb_from_image
        self.managed_subscription(CompressedImage if compressed else Image, "rgb", self._on_rgb, qos.NEWEST_FRAME)
        if self._preparation.with_depth or parameters.obstacle_stop:
            compressed = parameters.depth_transport == "compressed"
            self._to_depth = images.depth_from_compressed if compressed else images.depth_from_image
            self.managed_subscription(
                CompressedImage if compressed else Image, "depth", self._on_depth, qos.NEWEST_FRAME
            )
        if self._by_obstacles or parameters.obstacle_stop:
            self.managed_subscription(CameraInfo, "camera_info", self._on_camera_info, qos.NEWEST_FRAME)
        self.managed_subscription(Odometry, "odom", self._on_odometry, qos.ODOMETRY)
        self.managed_subscription(S2Plan, "s2/plan", self._on_plan, qos.LATCHED)
        self.managed_subscription(Twist, "manual_cmd_vel", self._on_manual, qos.NEWEST_STATE)
        self.managed_service(Trigger, "~/reset", self._on_reset)
        self.managed_service(SetBool, "~/enable", self._on_enable)
        self.managed_service(Trigger, "~/emergency_stop", self._on_emergency_stop)
        self.managed_service(Trigger, "~/release", self._on_release)
        if TFMessage is not None and parameters.mount_from_tf == "auto":
            self.managed_subscription(TFMessage, "/tf_static", self._on_static_transforms, qos.STATIC_TRANSFORMS)
        period = 1.0 / parameters.control_rate
        if parameters.lock_step:
            self.managed_clock_period(period, self._step)
        else:
            self.managed_timer(period, self._control)
        self.managed_timer(DRAWING_PERIOD, self._draw)

    def activate(self) -> None:
        # What was loaded stays: the garbage collector need not look at it in the middle of a frame.
        gc.collect()
        gc.freeze()

    def deactivate(self) -> None:
        with self._command_lock:
            self._publish_twist(STANDSTILL)
            self._controller.time_jumped()
        wait_until_received(self._command_publisher)

    def release(self) -> bool:
        ended = True
        for worker in self._workers.values():
            ended = worker.stop(STOP_TIMEOUT) and ended
        self._workers = {}
        if ended:
            self._policy = None
        return ended

    def parameters_changed(self, parameters: Parameters) -> None:
        self._motion.reconfigure(parameters.motion_config())

    # ------------------------------------------------------------------------------- messages, executor thread

    def _on_rgb(self, message: Image | CompressedImage) -> None:
        if not (self.is_active and self.has_time):
            return
        self._rates["rgb"].tick()
        stamp_ns = to_nanoseconds(message.header.stamp)
        ahead = seconds_between(self.now_ns(), stamp_ns)
        if ahead > self._settings.future_tolerance:
            self.incidents.report(
                "rgb stamp",
                f"rgb: frame dropped, its stamp lies {ahead:.3f} s in the future "
                f"(future_tolerance {self._settings.future_tolerance:g} s)",
            )
            return
        if self._newest_stamp_ns is not None and stamp_ns <= self._newest_stamp_ns:
            back = seconds_between(stamp_ns, self._newest_stamp_ns)
            if stamp_ns + NEW_TIME_NS > self._newest_stamp_ns:
                self.incidents.report("rgb stamp", f"rgb: frame dropped, its stamp is {back:.3f} s before the newest")
                return
            self.time_jumped(f"rgb: stamps went back by {back:.1f} s")
        self._newest_stamp_ns = stamp_ns
        self._workers["rgb"].put("image", (self._time_number, message))

    def _on_depth(self, message: Image | CompressedImage) -> None:
        if not (self.is_active and self.has_time):
            return
        self._rates["depth"].tick()
        self._workers["depth"].put("image", (self._time_number, message))

    def _on_camera_info(self, message: CameraInfo) -> None:
        known = self._camera_info
        if known is not None and (known.k == message.k).all() and known.width == message.width:
            return
        try:
            intrinsics = Intrinsics(
                message.width, message.height, message.k[0], message.k[4], message.k[2], message.k[5]
            )
        except ValueError as error:
            self.incidents.report("camera_info", f"camera_info refused: {error}")
            return
        self._camera_info, self._intrinsics = message, intrinsics

    def _on_static_transforms(self, message: TFMessage) -> None:
        for transform in message.transforms:
            place, turn = transform.transform.translation, transform.transform.rotation
            try:
                self._mount.add_transform(
                    transform.header.frame_id,
                    transform.child_frame_id,
                    (place.x, place.y, place.z),
                    (turn.x, turn.y, turn.z, turn.w),
                )
            except ValueError as error:
                self.incidents.report("tf", f"tf_static: {error}")

    def _on_odometry(self, message: Odometry) -> None:
        if not self.is_active:
            return
        self._rates["odom"].tick()
        stamp_ns = to_nanoseconds(message.header.stamp)
        position, orientation = message.pose.pose.position, message.pose.pose.orientation
        newest = self._motion.odometry.newest()
        if newest is not None and stamp_ns + NEW_TIME_NS <= newest.stamp_ns:
            self.time_jumped(f"odom: stamps went back by {seconds_between(stamp_ns, newest.stamp_ns):.1f} s")
        try:
            pose = planar_pose(position.x, position.y, (orientation.x, orientation.y, orientation.z, orientation.w))
            twist = Twist2D(message.twist.twist.linear.x, message.twist.twist.angular.z)
            self._motion.on_odometry(OdometrySample(stamp_ns, pose, twist))
        except OdometryError as error:
            self.incidents.report("odom", f"odom: {error}")
            return
        self._odometry_frame = message.header.frame_id or "odom"

    def _on_plan(self, message: S2Plan) -> None:
        if not self.is_active:
            return
        self._rates["s2/plan"].tick()
        if self._settings.lock_step:  # else it would be chance whether the path of this frame comes before or never
            self._wait_idle("rgb", "depth", "inference")
        try:
            plan = self._controller.plan_arrived(message, self.now_ns())
        except PlanRefused as refusal:
            self.incidents.report("plan", str(refusal))
            self._send_command()
            return
        except OdometryGap as gap:
            self.incidents.report("odometry gap", f"a plan cannot be placed: {gap}")
            self._send_command()
            return
        if plan.kind == Kind.ACTIONS:
            self._publish_actions(plan, message.header, plan.actions)
        else:
            self._workers["inference"].put("goal", None)  # no new one yet, if the plan waits for its frame
        self._send_command()

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._controller.reset()
        self._begin_new_time()
        self._send_command()
        response.success = True
        response.message = "plan, path and history forgotten; the next plan of any episode is followed"
        return response

    def _on_manual(self, message: Twist) -> None:
        if self.is_active:
            self._motion.on_manual(Twist2D(message.linear.x, message.angular.z), self.now_ns())

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._motion.gate.enable(request.data)
        self._send_command()
        response.success = True
        response.message = "motion is allowed" if request.data else "motion is forbidden until it is enabled again"
        return response

    def _on_emergency_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._motion.gate.emergency_stop("emergency stop; ~/release lifts it")
        self._send_command()
        response.success, response.message = True, "the robot stands until ~/release is called"
        return response

    def _on_release(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._motion.gate.release()
        self._send_command()
        response.success, response.message = True, "the emergency stop is lifted"
        return response

    def time_jumped(self, why: str) -> None:
        """Stamps start anew (a looped recording): all that has one is forgotten, the robot stands until a plan."""
        self.incidents.report("time", f"{why}: frames, odometry, plan and path are forgotten")
        self._begin_new_time()
        self._send_command()

    def _begin_new_time(self) -> None:
        with self._time_lock:
            self._time_number += 1
            self._preparation.clear()
            self._controller.time_jumped()
        self._newest_stamp_ns = None
        for worker in self._workers.values():
            worker.clear()

    # ----------------------------------------------------------------------------------- threads of rgb and depth

    def _prepare_rgb(self, item: tuple[int, Image | CompressedImage]) -> None:
        time_number, message = item
        started = time.perf_counter()
        rgb = self._to_rgb(message, "rgb")
        self._keep(time_number, self._preparation.rgb(to_nanoseconds(message.header.stamp), rgb), started)

    def _prepare_depth(self, item: tuple[int, Image | CompressedImage]) -> None:
        time_number, message = item
        started = time.perf_counter()
        stamp_ns = to_nanoseconds(message.header.stamp)
        depth = self._to_depth(message, "depth")
        if self._mount.decide(message.header.frame_id, time.monotonic()):
            self._mount_camera()
        if self._by_obstacles:  # first: the path is chosen by what is found
            self._look_for_obstacles(time_number, stamp_ns, depth)
        if self._preparation.with_depth:  # the model waits for it
            self._keep(time_number, self._preparation.depth(stamp_ns, depth), started)
        if self._settings.obstacle_stop and not self._by_obstacles:
            self._look_for_obstacles(time_number, stamp_ns, depth)

    def _look_for_obstacles(self, time_number: int, stamp_ns: int, depth: Any) -> None:
        started = time.perf_counter()
        ahead = seconds_between(self.now_ns(), stamp_ns)
        if self._intrinsics is None or self._mount.mount is None or time_number != self._time_number:
            return
        if ahead > self._settings.future_tolerance:
            raise ValueError(f"depth dropped, its stamp lies {ahead:.3f} s in the future")
        try:
            self._motion.on_depth(stamp_ns, depth, self._intrinsics)
        except OdometryGap:  # the safety gate notices when it lasts
            self._depth_without_pose += 1
        self._windows["obstacles"].add(time.perf_counter() - started)

    @staticmethod
    def _mount_choice(parameters: Parameters) -> MountChoice:
        mount, base = parameters.camera_mount(), parameters.base_frame
        if parameters.mount_from_tf == "never":
            return MountChoice(mount, base, None)
        if TFMessage is None:
            return MountChoice(mount, base, None, "tf2_msgs is not installed")
        return MountChoice(mount, base, parameters.mount_wait)

    def _mount_camera(self) -> None:
        """It is decided where the depth camera sits."""
        self.get_logger().info(f"depth camera: {self._mount.text}")
        self._motion.mount_camera(self._mount.mount)

    def _keep(self, time_number: int, frame: Frame | None, started: float) -> None:
        self._windows["prepare"].add(time.perf_counter() - started)
        if frame is None:
            return
        with self._time_lock:
            if time_number != self._time_number:
                return
            self._ring.add(frame)
            self._motion.on_frame(frame.stamp_ns)
        self._rates["prepared"].tick()
        self._settle_plan()
        self._workers["inference"].put("frame", frame)

    def _on_frame_error(self, side: str, error: Exception) -> None:
        self.incidents.report(side, f"frame refused: {error or type(error).__name__}")

    # ---------------------------------------------------------------------------------------- inference thread

    def _set_goal(self, _: None) -> None:
        """What depends on the plan alone is computed when it comes, also while the last motion is being completed."""
        task = self._controller.newest_task
        if task is not None:
            self._take_goal(task)

    def _take_goal(self, task: Task) -> None:
        started = time.perf_counter()
        try:
            if self._path_maker.set_goal(task.plan, task.goal_frame):
                self._windows["goal"].add(time.perf_counter() - started)
        except Exception as error:
            self._controller.inference_failed(task, f"{task.plan.label()} cannot be used: {error}")
            raise

    def _make_path(self, frame: Frame) -> None:
        task = self._controller.task(frame.stamp_ns)
        if task is None or not self.is_active:
            return
        self._take_goal(task)
        try:
            obstacles = self._motion.obstacles_at(frame.stamp_ns) if self._by_obstacles else None
            frames = self._ring.newest_until(frame.stamp_ns, self._policy.memory_frames)
            made = self._path_maker.make(frames, obstacles)
            conversion = made.conversion()
        except Exception as error:
            self._controller.inference_failed(task, f"no path: {error or type(error).__name__}")
            raise
        if not self._controller.path_ready(task, made.stamp_ns, made.path, conversion, self.now_ns()):
            return
        sent_ns = self._send_command()
        if sent_ns is None:
            return
        latency = seconds_between(made.stamp_ns, sent_ns)
        self._windows["camera to command"].add(latency)
        self._windows["model"].add(made.model_time)
        self._windows["overhead"].add(latency - made.model_time)
        self._rates["paths"].tick()
        self._show(task.plan, made, conversion)

    def _on_inference_error(self, lane: str, error: Exception) -> None:
        kind = "odometry gap" if isinstance(error, OdometryGap) else "inference"
        self.incidents.report(kind, f"{lane}: {error or type(error).__name__}")
        self._send_command()

    def _show(self, plan: AcceptedPlan, made: MadePath, conversion: tuple[Action, ...]) -> None:
        """Publish what was decided, after the command."""
        header = Header(stamp=to_stamp(made.stamp_ns), frame_id=self._odometry_frame)
        self._publish_actions(plan, header, conversion)
        wanted = self._path_publisher.get_subscription_count() + self._candidates_publisher.get_subscription_count()
        if not wanted:
            return
        image_pose = self._motion.odometry.pose_at(made.stamp_ns)
        if self._path_publisher.get_subscription_count():
            self._path_publisher.publish(path_message(compose(image_pose, made.path), header))
        if self._candidates_publisher.get_subscription_count():
            candidates = compose(image_pose, made.trajectories.paths)
            self._candidates_publisher.publish(candidates_message(candidates, made.trajectories.scores, header))

    def _draw(self) -> None:
        """What the motion layer follows and looks at, for people; far from the way of an image to the command."""
        motion = self._last_motion
        shows_path = self._tracked_publisher.get_subscription_count() > 0
        shows_robot = self._robot_publisher.get_subscription_count() > 0
        if motion is None or not (shows_path or shows_robot):
            return
        view = self._motion.view(self.now_ns())
        if shows_path:
            header = Header(stamp=to_stamp(self.now_ns()), frame_id=self._odometry_frame)
            path = np.zeros((0, 3)) if view.path is None else view.path
            self._tracked_publisher.publish(path_message(path, header))
        if shows_robot:
            settings = self._settings
            self._robot_publisher.publish(robot_message(view, motion, settings.robot_height, settings.base_frame))

    # ------------------------------------------------------------------------------------------------ commands

    def _control(self) -> None:
        self._settle_plan()
        self._send_command()

    def _settle_plan(self) -> None:
        """Follow the plan that waited for its frame, from any thread."""
        try:
            if self._controller.settle(self.now_ns()):
                self._workers["inference"].put("goal", None)
        except PlanRefused as refusal:
            self.incidents.report("plan", str(refusal))

    def _step(self) -> None:
        """The command of a control period in lock-step: it knows of all images that came before."""
        self._wait_idle("rgb", "depth")
        self._control()

    def _wait_idle(self, *workers: str) -> None:
        for name in workers:
            self._workers[name].wait_idle(LOCK_STEP_WAIT)

    def _steady(self) -> float:
        """Seconds of the clock that tells how long ROS time has stood still; in lock-step it may."""
        return self.now_ns() / NANOSECONDS if self._settings.lock_step else time.monotonic()

    def _send_command(self) -> int | None:
        """Publish the command of now, from any thread; the last one wins and none comes after deactivation.

        Returns:
            When it was published [ns of ROS time]; None when the node is not active.
        """
        with self._command_lock:
            if not self.is_active:
                return None
            started = time.perf_counter()
            command = self._controller.command(self.now_ns(), self._steady())
            motion = command.motion
            self._publish_twist(Twist2D(motion.v, motion.omega))
            sent_ns = self.now_ns()
            state = ControllerState(
                episode_id=command.episode_id,
                plan_number=command.plan_number,
                state=int(motion.state),
                actions_left=motion.actions_left,
                distance_to_goal=motion.distance_to_goal,
                latency=command.latency,
                message=motion.message,
                ask=ASKS[motion.ask],
                frames_from=to_stamp(motion.frames_from_ns or 0),
                path_wanted=motion.path_wanted,
            )
            state.header.stamp = to_stamp(motion.frame_stamp_ns)
            state.header.frame_id = self._settings.base_frame
            self._state_publisher.publish(state)
            self._windows["control"].add(time.perf_counter() - started)
            self._last_motion = motion
            if motion.tracking.fallback:
                self._last_fallback = motion.tracking.fallback
            return sent_ns

    def _publish_twist(self, velocity: Twist2D) -> None:
        twist = Twist()
        twist.linear.x, twist.angular.z = float(velocity.v), float(velocity.omega)
        if not self._settings.cmd_vel_stamped:
            self._command_publisher.publish(twist)
            return
        stamped = TwistStamped(twist=twist)
        stamped.header.stamp = to_stamp(self.now_ns())
        stamped.header.frame_id = self._settings.base_frame
        self._command_publisher.publish(stamped)

    def _publish_actions(self, plan: AcceptedPlan, header: Header, actions: tuple[Action, ...]) -> None:
        self._actions_publisher.publish(
            DiscreteActions(
                header=header,
                episode_id=plan.episode_id,
                plan_number=plan.plan_number,
                actions=array.array("B", actions),
            )
        )

    # --------------------------------------------------------------------------------------------- diagnostics

    def statuses(self) -> list[DiagnosticStatus]:
        """Three parts: sensors, planner, control.

        Levels: WARN for what has not come yet or is nobody's, and for the state BLOCKED; ERROR for what is older than
        the time-out that stops the robot, for the states STALE_PLAN, NO_SENSORS and FAULT, and for errors of the
        last 5 s.
        """
        settings, ages = self._settings, self._controller.ages(self.now_ns(), self._steady())
        sensors, planner, control = self.status("sensors"), self.status("planner"), self.status("control")
        motion = self._last_motion
        state, said = (motion.state, motion.message) if motion else (State.IDLE, "")

        watched = [
            ("camera frame", ages.frame, settings.sensor_timeout),
            ("odometry", ages.odometry, settings.odometry_timeout),
        ]
        if not self.has_time:
            sensors.warn(NO_TIME)
        if settings.obstacle_stop:
            watched.append(("depth", self._motion.depth_age(self.now_ns()), settings.sensor_timeout))
            if self._rates["depth"].total == 0:
                sensors.warn("the obstacle stop needs depth (a base with its own protection: obstacle_stop false)")
            elif self._intrinsics is None:
                sensors.warn("the obstacle stop needs camera_info, and none has been received")
            elif self._mount.mount is None:
                sensors.warn("waiting for transforms that say where the depth camera sits (mount_wait)")
        for name, age, limit in watched:
            if age is None:
                sensors.warn(f"no {name} has been received")
            elif age > limit:
                sensors.error(f"the newest {name} is {age:.2f} s old")
            sensors.value(f"age of {name} [s]", "none" if age is None else age)
        for name in ("rgb", "depth", "odom", "prepared"):
            sensors.value(f"{name} [Hz]", self._rates[name].hertz())
            sensors.value(f"{name} received", self._rates[name].total)
        for name in ("rgb", "depth"):
            sensors.value(f"{name} replaced by newer ones", self._workers[name].dropped("image"))
        if settings.obstacle_stop:
            sensors.value("depth camera", self._mount.text)
        for name in ("rgb", "depth", "camera_info", "odom"):
            sensors.value(f"topic of {name}", self.resolve_topic_name(name))
        sensors.value("images without a partner", self._preparation.unpaired)
        sensors.value("depth without a pose", self._depth_without_pose)
        sensors.latency("prepare", self._windows["prepare"])
        sensors.latency("obstacles", self._windows["obstacles"])

        publishers = self.count_publishers(self.resolve_topic_name("s2/plan"))
        if publishers == 0:
            planner.warn("nobody publishes s2/plan")
        if ages.plan is None:
            planner.warn("no plan is being followed")
        elif ages.plan > settings.plan_timeout and state != State.ARRIVED:
            planner.error(f"the newest plan is {ages.plan:.1f} s old: is s2_planner alive?")
        planner.value("publishers of s2/plan", publishers)
        planner.value("plans received", self._rates["s2/plan"].total)
        planner.value("plans [Hz]", self._rates["s2/plan"].hertz())
        planner.value("age of plan [s]", "none" if ages.plan is None else ages.plan)

        for incident in self.incidents.recent(RECENT):
            control.error(incident.text)
        if not self.is_active:
            control.warn("inactive")
        elif state in ERROR_STATES:
            control.error(f"{state.name}: {said}")
        elif state == State.BLOCKED:
            control.warn(f"{state.name}: {said}")
        control.value("state", state.name)
        control.value("message", said)
        control.value("paths", self._rates["paths"].total)
        control.value("paths [Hz]", self._rates["paths"].hertz())
        control.value("frames replaced by newer ones", self._workers["inference"].dropped("frame"))
        control.value("age of path [s]", "none" if ages.path is None else ages.path)
        control.value("last fallback of the tracker", self._last_fallback or "none")
        for name in ("camera to command", "model", "overhead", "goal", "control"):
            control.latency(name, self._windows[name])
        return [
            sensors.build("camera and odometry arrive"),
            planner.build("plans arrive"),
            control.build(f"{state.name}: {said}" if said else state.name),
        ]
