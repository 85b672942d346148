"""The node nav_sim: a robot in a simulated flat. Nothing on its topics tells it from a real one.

Publishes `rgb`, `depth` (16UC1, mm, aligned), `camera_info`, `odom`, the transforms and, with simulated time,
`/clock`; for the tilted camera `rgb_look_down`, `depth_look_down`, `camera_info_look_down`. Images are rendered
only while somebody listens. Subscribes to `cmd_vel`. `~/reset` puts the robot at the start of the world that the
parameters say now.

For evaluators, not for robots: `ground_truth` (the true pose in the frame `map`), `collisions` (their number), `map`
and `map_picture` (walls and furniture; the flat from above, the same rectangle) and `episode` (the name of what was
loaded, once the robot stands at its start). `~/instruct` publishes the episode's
`instruction` right before the next camera frame; `publish_instruction` does so at the start. Another episode: set the
parameter `episode`, then call `~/reset`. For lock-step (lockstep.py) the node listens to `s1/state` and `s2/plan`.

Two threads: the executor's stores messages; `world` steps, renders and publishes, because an OpenGL context belongs
to one thread.
"""

from __future__ import annotations

import array
import math
import threading
import time
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Pose as PoseMessage
from geometry_msgs.msg import Quaternion, TransformStamped, Twist, TwistStamped
from nav_msgs.msg import MapMetaData, OccupancyGrid, Odometry
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, String, UInt32
from std_srvs.srv import Trigger

from dual_nav_util import images, qos
from dual_nav_util.managed_node import ManagedNode, wait_until_received
from dual_nav_util.stamps import to_nanoseconds, to_stamp
from nav_msgs_ext.msg import ControllerState, S2Plan

from .camera import Camera
from .lockstep import NOBODY, ControllerSaid, LockStep
from .parameters import SimulatorParameters
from .pictures import draw_walls
from .simulator import Pose, Simulator
from .worlds import CELL, Flat

try:
    from tf2_msgs.msg import TFMessage
except ImportError:  # there are no wheels of it
    TFMessage = None

TICK = 0.01  # seconds of simulated time between two looks at what is due
EPOCH_NS = 1_000_000_000_000  # where simulated time begins: a stamp of zero would mean "none"
TICKS_PER_COMMAND = 5  # lock-step: a command for each 0.05 s of simulated time
STOP_TIMEOUT = 5.0  # seconds to wait for the world at the end
RECENT = 5.0
OCCUPIED = 100  # in an OccupancyGrid
STATIC_TRANSFORMS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# The optical frame of a camera in its body frame (REP-103): z forward, x right, y down.
OPTICAL = Quaternion(x=-0.5, y=0.5, z=-0.5, w=0.5)


class NavSim(ManagedNode):
    """See the module."""

    def __init__(self, **node_options: Any) -> None:
        super().__init__("nav_sim", SimulatorParameters, **node_options)
        self._world: threading.Thread | None = None
        self._simulator: Simulator | None = None
        self._stop = threading.Event()
        self._ticks = 0  # simulated time since the start of the process: it never goes back

    # ------------------------------------------------------------------------------------------- life cycle

    def configure(self, parameters: SimulatorParameters) -> None:
        self._settings = parameters
        flat, self._start, self._instruction = parameters.world()
        self._simulator = Simulator(flat, parameters.config(), parameters.seed)
        self._sensor = parameters.depth_sensor()
        self._lockstep = LockStep(parameters.wait_for, parameters.wait_limit)
        self._command: tuple[float, float] | None = None
        self._reset_wanted = self._instruct_wanted = False
        self._lock = threading.Lock()
        self._frames = 0
        self._real_time_factor = 0.0
        self._make_interfaces(parameters)
        if TFMessage is None:
            self.get_logger().info("tf2_msgs is not installed: no transforms are published")
        for warning in self.image_transport_warnings():
            self.get_logger().warning(warning)

    def _make_interfaces(self, parameters: SimulatorParameters) -> None:
        self._cameras: dict[str, tuple[Any, Any, Any, str]] = {}
        names = [("level", "", "camera")]
        if parameters.look_down_camera:
            names.append(("look_down", "_look_down", "camera_look_down"))
        for camera, suffix, frame in names:
            self._cameras[camera] = (
                self.managed_publisher(Image, f"rgb{suffix}", qos.NEWEST_FRAME),
                self.managed_publisher(Image, f"depth{suffix}", qos.NEWEST_FRAME),
                self.managed_publisher(CameraInfo, f"camera_info{suffix}", qos.NEWEST_FRAME),
                f"{parameters.frame_prefix}{frame}",
            )
        self._odometry_publisher = self.managed_publisher(Odometry, "odom", qos.ODOMETRY)
        self._truth_publisher = self.managed_publisher(Odometry, "ground_truth", qos.ODOMETRY)
        self._collisions_publisher = self.managed_publisher(UInt32, "collisions", qos.LATCHED)
        self._instruction_publisher = self.managed_publisher(String, "instruction", qos.LATCHED)
        self._map_publisher = self.managed_publisher(OccupancyGrid, "map", qos.LATCHED)
        self._map_picture_publisher = self.managed_publisher(Image, "map_picture", qos.LATCHED)
        self._episode_publisher = self.managed_publisher(String, "episode", qos.LATCHED)
        self._clock_publisher = self.managed_publisher(Clock, "/clock", qos.NEWEST_STATE)
        if TFMessage is not None:
            self._transform_publisher = self.managed_publisher(TFMessage, "/tf", qos.DEFAULT)
            self._static_publisher = self.managed_publisher(TFMessage, "/tf_static", STATIC_TRANSFORMS)
        twist = TwistStamped if parameters.cmd_vel_stamped else Twist
        self.managed_subscription(twist, "cmd_vel", self._on_command, qos.NEWEST_STATE)
        if parameters.wait_for != NOBODY:
            self.managed_subscription(ControllerState, "s1/state", self._on_state, qos.NEWEST_STATE)
            self.managed_subscription(S2Plan, "s2/plan", self._on_plan, qos.LATCHED)
        self.managed_service(Trigger, "~/reset", self._on_reset)
        self.managed_service(Trigger, "~/instruct", self._on_instruct)

    def parameters_changed(self, parameters: SimulatorParameters) -> None:
        self._settings = parameters  # for the next reset

    def activate(self) -> None:
        self._stop.clear()
        self._lockstep.open()
        self._world = threading.Thread(target=self._run_world, name="world", daemon=True)
        self._world.start()

    def deactivate(self) -> None:
        self._end_world()
        wait_until_received(self._collisions_publisher)

    def release(self) -> bool:
        ended = self._end_world()
        if ended:
            self._simulator = None
        return ended

    def _end_world(self) -> bool:
        self._stop.set()
        if self._world is None:
            return True
        self._lockstep.close()
        self._world.join(STOP_TIMEOUT)
        if self._world.is_alive():
            return False
        self._world = None
        return True

    # ------------------------------------------------------------------------------- messages, executor thread

    def _on_command(self, message: Twist | TwistStamped) -> None:
        twist = message.twist if self._settings.cmd_vel_stamped else message
        command = (twist.linear.x, twist.angular.z)
        if not all(math.isfinite(value) for value in command):
            self.incidents.report(
                "cmd_vel", f"cmd_vel: {command[0]} m/s, {command[1]} rad/s is not finite; standing still"
            )
            command = (0.0, 0.0)
        with self._lock:
            self._command = command
        self._lockstep.command_received()

    def _on_state(self, message: ControllerState) -> None:
        self._lockstep.state_received(
            ControllerSaid(
                plan=(message.episode_id, message.plan_number),
                stamp_ns=to_nanoseconds(message.header.stamp),
                path_wanted=message.path_wanted,
                asks=message.ask != ControllerState.ASK_NO,
                asks_first=message.ask == ControllerState.ASK_FIRST,
                frames_from_ns=to_nanoseconds(message.frames_from),
            )
        )

    def _on_plan(self, message: S2Plan) -> None:
        plan = (message.episode_id, message.plan_number)
        self._lockstep.plan_received(plan, to_nanoseconds(message.header.stamp))

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            self._reset_wanted = True
        response.success, response.message = True, "the robot goes to the start; `episode` says when it is there"
        return response

    def _on_instruct(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = bool(self._settings.episode)
        if not response.success:
            response.message = "parameter 'episode' is empty: a flat has no instruction"
            return response
        with self._lock:
            self._instruct_wanted = True
        response.message = "the instruction comes right before the next camera frame"
        return response

    # ------------------------------------------------------------------------------------------- world thread

    def _run_world(self) -> None:
        began, ticks_before = time.monotonic(), self._ticks
        pace = _Pace(self._settings.rate)
        try:
            self._load()
            self._publish_static_transforms()
            self._instruct_wanted |= self._settings.publish_instruction and bool(self._settings.episode)
            while not self._stop.is_set():
                self._look(self._simulator)
                self._move(self._simulator)
                if self._lockstep.engaged:
                    pace.restart()
                else:
                    self._stop.wait(pace.pause())
                self._real_time_factor = (self._ticks - ticks_before) * TICK / max(time.monotonic() - began, 1e-3)
        except Exception as error:
            self.incidents.report("world", f"the world stopped: {error or type(error).__name__}")
            raise
        finally:
            self._simulator.close()

    def _load(self) -> None:
        """The robot at its start in the world that the parameters say."""
        settings, simulator = self._settings, self._simulator
        flat, self._start, self._instruction = settings.world()
        if (flat.seed, settings.seed) != (simulator.flat.seed, simulator.seed):
            simulator.close()
            self._simulator = simulator = Simulator(flat, settings.config(), settings.seed)
        simulator.reset(self._start.x, self._start.y, self._start.yaw)
        self._random = np.random.default_rng([settings.seed, 3])
        self._collisions = -1
        self._command = None
        self._lockstep.world_changed()
        self._publish_map(flat)
        self._map_picture_wanted = True
        self._episode_publisher.publish(String(data=settings.episode))
        self.get_logger().info(
            f"flat {flat.seed}: {len(flat.rooms)} rooms, {len(flat.items)} items, look {simulator.look}"
            + (f", episode {settings.episode}" if settings.episode else "")
        )

    def _look(self, simulator: Simulator) -> None:
        """Publish what there is to know at this moment, and wait for who has to answer it."""
        settings, stamp_ns = self._settings, self._stamp_ns()
        period_begins = self._ticks % TICKS_PER_COMMAND == 0
        is_frame = _falls_on(self._ticks, settings.camera_rate)
        if period_begins:
            self._lockstep.period_begins()
        # In lock-step a command is computed where the robot is, not where it was a moment ago.
        in_step = period_begins and self._lockstep.engaged
        if is_frame or in_step or _falls_on(self._ticks, settings.odometry_rate):
            self._publish_pose(simulator, stamp_ns)
        if len(simulator.collisions) != self._collisions:
            self._collisions = len(simulator.collisions)
            self._collisions_publisher.publish(UInt32(data=self._collisions))
        if settings.time == "simulated":  # after the poses: who acts on the clock knows them by then
            self._clock_publisher.publish(Clock(clock=to_stamp(stamp_ns)))
        if period_begins:
            self._wait()
        if is_frame:
            with self._lock:
                instruct, self._instruct_wanted = self._instruct_wanted, False
            if instruct:
                self._instruction_publisher.publish(String(data=self._instruction))
                self._lockstep.instruction_given()
            for name in reversed(self._cameras):  # who plans on the level image has the other by then
                self._publish_camera(simulator, name, stamp_ns)
            if self._map_picture_wanted and self._map_picture_publisher.get_subscription_count():
                self._map_picture_wanted = False
                self._publish_map_picture(simulator, stamp_ns)
            self._frames += 1
            self._lockstep.frame_published(stamp_ns)
            self._wait()

    def _wait(self) -> None:
        if missing := self._lockstep.wait():
            limit = self._settings.wait_limit
            self.incidents.report("lock-step", f"went on without {missing}: none came in {limit:g} s (wait_limit)")

    def _move(self, simulator: Simulator) -> None:
        """Let a tick pass."""
        with self._lock:
            command, self._command = self._command, None
            reset, self._reset_wanted = self._reset_wanted, False
        if command is not None:
            simulator.command(*command)
        simulator.step(TICK)
        self._ticks += 1
        if reset:
            self._load()

    def _stamp_ns(self) -> int:
        return EPOCH_NS + round(self._ticks * TICK * 1e9) if self._settings.time == "simulated" else self.now_ns()

    def _publish_pose(self, simulator: Simulator, stamp_ns: int) -> None:
        prefix = self._settings.frame_prefix
        stamp = to_stamp(stamp_ns)
        linear, angular = simulator.velocity
        poses = (
            (self._odometry_publisher, f"{prefix}odom", simulator.odometry),
            (self._truth_publisher, "map", simulator.pose),
        )
        for publisher, frame, pose in poses:
            message = Odometry(header=Header(stamp=stamp, frame_id=frame), child_frame_id=f"{prefix}base_link")
            message.pose.pose.position.x, message.pose.pose.position.y = pose.x, pose.y
            message.pose.pose.orientation = _yaw_quaternion(pose.yaw)
            message.twist.twist.linear.x, message.twist.twist.angular.z = linear, angular
            publisher.publish(message)
        if TFMessage is not None:
            transform = _transform(stamp, f"{prefix}odom", f"{prefix}base_link", simulator.odometry)
            self._transform_publisher.publish(TFMessage(transforms=[transform]))

    def _publish_map(self, flat: Flat) -> None:
        rows, columns = flat.occupied.shape
        message = OccupancyGrid(header=Header(stamp=to_stamp(self._stamp_ns()), frame_id="map"))
        message.info = MapMetaData(resolution=CELL / 100, width=columns, height=rows, origin=PoseMessage())
        message.data = array.array("b", np.where(flat.occupied, OCCUPIED, 0).astype(np.int8).tobytes())
        self._map_publisher.publish(message)

    def _publish_map_picture(self, simulator: Simulator, stamp_ns: int) -> None:
        picture, scale = simulator.plan_view(robot=False)
        picture = np.ascontiguousarray(picture)
        draw_walls(picture, simulator.flat, scale)
        header = Header(stamp=to_stamp(stamp_ns), frame_id="map")
        self._map_picture_publisher.publish(images.image_from_array(picture, "rgb8", header))

    def _publish_static_transforms(self) -> None:
        if TFMessage is None:
            return
        stamp = to_stamp(EPOCH_NS if self._settings.time == "simulated" else self.now_ns())
        transforms = []
        for name, (_, _, _, frame) in self._cameras.items():
            camera = self._simulator.cameras[name]
            mount = TransformStamped(header=Header(stamp=stamp, frame_id=f"{self._settings.frame_prefix}base_link"))
            mount.child_frame_id = f"{frame}_link"
            mount.transform.translation.x, mount.transform.translation.z = camera.forward, camera.height
            half = camera.tilt / 2
            mount.transform.rotation = Quaternion(y=math.sin(half), w=math.cos(half))
            optical = TransformStamped(header=Header(stamp=stamp, frame_id=f"{frame}_link"))
            optical.child_frame_id = f"{frame}_color_optical_frame"
            optical.transform.rotation = OPTICAL
            transforms += [mount, optical]
        self._static_publisher.publish(TFMessage(transforms=transforms))

    def _publish_camera(self, simulator: Simulator, name: str, stamp_ns: int) -> None:
        rgb_publisher, depth_publisher, info_publisher, frame = self._cameras[name]
        header = Header(stamp=to_stamp(stamp_ns), frame_id=f"{frame}_color_optical_frame")
        info_publisher.publish(camera_info(simulator.cameras[name], header))
        wants_rgb = rgb_publisher.get_subscription_count() > 0
        wants_depth = depth_publisher.get_subscription_count() > 0
        if not (wants_rgb or wants_depth):
            return
        rgb, depth = simulator.render(name)
        if wants_rgb:
            rgb_publisher.publish(images.image_from_array(rgb, "rgb8", header))
        if wants_depth:
            depth_publisher.publish(
                images.image_from_array(self._sensor.measure(depth, self._random), "16UC1", header)
            )

    # ---------------------------------------------------------------------------------------------- diagnostics

    def statuses(self) -> list[DiagnosticStatus]:
        status = self.status("world")
        status.value("simulated time / real time", self._real_time_factor)
        status.value("camera frames", self._frames)
        status.value("collisions", max(0, getattr(self, "_collisions", 0)))
        for incident in self.incidents.recent(RECENT):
            status.warn(incident.text)
        if self.is_active and (self._world is None or not self._world.is_alive()):
            status.error("the world does not run")
        missing = self._lockstep.missing() if self.is_active else ""
        return [status.build(f"waiting for {missing}" if missing else "running" if self.is_active else "inactive")]


class _Pace:
    """Keeps simulated time at `rate` times that of the machine."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self.restart()

    def restart(self) -> None:
        self._since, self._ticks = time.monotonic(), 0

    def pause(self) -> float:
        """Seconds to wait after a tick."""
        self._ticks += 1
        ahead = self._ticks * TICK / self._rate - (time.monotonic() - self._since)
        if ahead < -0.5:  # too slow a machine: time runs slower, and is not made up for later
            self.restart()
        return max(0.0, ahead)


def _falls_on(ticks: int, rate: float) -> bool:
    """Whether an event of this rate (Hz) falls into the tick with this number."""
    return math.floor(ticks * TICK * rate + 1e-6) > math.floor((ticks - 1) * TICK * rate + 1e-6)


def _yaw_quaternion(yaw: float) -> Quaternion:
    return Quaternion(z=math.sin(yaw / 2), w=math.cos(yaw / 2))


def _transform(stamp: Any, parent: str, child: str, pose: Pose) -> TransformStamped:
    transform = TransformStamped(header=Header(stamp=stamp, frame_id=parent), child_frame_id=child)
    transform.transform.translation.x, transform.transform.translation.y = pose.x, pose.y
    transform.transform.rotation = _yaw_quaternion(pose.yaw)
    return transform


def camera_info(camera: Camera, header: Header) -> CameraInfo:
    """Intrinsics of a camera without distortion."""
    focal, (column, row) = camera.focal, camera.centre
    return CameraInfo(
        header=header,
        width=camera.width,
        height=camera.height_px,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=[focal, 0.0, column, 0.0, focal, row, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[focal, 0.0, column, 0.0, 0.0, focal, row, 0.0, 0.0, 0.0, 1.0, 0.0],
    )
