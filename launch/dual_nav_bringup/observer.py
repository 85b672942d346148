"""Listens to what both nodes publish: keeps what the report needs, and records everything as a rosbag2."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ament_index_python.packages import get_package_share_directory
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as PathMessage
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.serialization import deserialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from dual_nav_util.recording import SECOND
from nav_msgs_ext.msg import ControllerState, DiscreteActions, S2Plan

RELIABLE = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@dataclass(frozen=True)
class Seen:
    """A message as it came: `arrival` is monotonic seconds, `stamp` that of its header in nanoseconds."""

    arrival: float
    stamp: int


@dataclass(frozen=True)
class SeenPlan(Seen):
    message: S2Plan


@dataclass(frozen=True)
class SeenPath(Seen):
    frame: str
    points: np.ndarray  # (n, 2) float64, x and y in metres in `frame`


@dataclass(frozen=True)
class SeenState(Seen):
    state: int  # ControllerState.*
    latency: float  # [s], as the controller measured it
    message: str


@dataclass(frozen=True)
class SeenCommand:
    arrival: float
    linear: float  # [m/s]
    angular: float  # [rad/s]


@dataclass
class Observations:
    """Everything seen, in order of arrival."""

    plans: list[SeenPlan] = field(default_factory=list)
    paths: list[SeenPath] = field(default_factory=list)
    states: list[SeenState] = field(default_factory=list)
    commands: list[SeenCommand] = field(default_factory=list)
    action_lists: list[Seen] = field(default_factory=list)
    odometry: list[tuple[int, tuple[float, float]]] = field(default_factory=list)  # stamp [ns], x and y [m]
    status: dict[str, DiagnosticStatus] = field(default_factory=dict)  # the newest of each name
    alerts: list[tuple[float, str, int, str]] = field(default_factory=list)  # arrival, name, level, text; on change


def message_types() -> Typestore:
    """Definitions of all message types that are recorded."""
    types = get_typestore(Stores.ROS2_KILTED)
    for path in (Path(get_package_share_directory("nav_msgs_ext")) / "msg").glob("*.msg"):
        types.register(get_types_from_msg(path.read_text(), f"nav_msgs_ext/msg/{path.stem}"))
    return types


class Observer:
    """Subscribes on `node`, which somebody else spins. `now_ns` gives the time messages are recorded under."""

    def __init__(self, node: Node, bag: Path, now_ns: Callable[[], int]):
        self.seen = Observations()
        self._node = node
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._writer = Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._open = True
        types = message_types()
        subscriptions = (
            ("s2/plan", S2Plan, "nav_msgs_ext/msg/S2Plan", LATCHED, self._plan),
            ("s1/path", PathMessage, "nav_msgs/msg/Path", RELIABLE, self._path),
            ("s1/state", ControllerState, "nav_msgs_ext/msg/ControllerState", RELIABLE, self._state),
            ("s1/actions", DiscreteActions, "nav_msgs_ext/msg/DiscreteActions", RELIABLE, self._actions),
            ("cmd_vel", Twist, "geometry_msgs/msg/Twist", RELIABLE, self._command),
            ("odom", Odometry, "nav_msgs/msg/Odometry", qos_profile_sensor_data, self._odometry),
            ("/diagnostics", DiagnosticArray, "diagnostic_msgs/msg/DiagnosticArray", RELIABLE, self._diagnostics),
        )
        for topic, kind, type_name, qos, handle in subscriptions:
            resolved = node.resolve_topic_name(topic)
            connection = self._writer.add_connection(resolved, type_name, typestore=types)

            def callback(data: bytes, kind: type = kind, connection: object = connection, handle=handle) -> None:
                arrival = time.monotonic()
                with self._lock:
                    if self._open:
                        self._writer.write(connection, self._now_ns(), data)
                        handle(arrival, deserialize_message(data, kind))

            node.create_subscription(kind, topic, callback, qos, raw=True)

    def connected(self) -> bool:
        """Whether both nodes' outputs are connected by now: nothing of what they send from here on is missed."""
        return all(self._node.count_publishers(topic) for topic in ("s2/plan", "s1/path", "s1/state"))

    def close(self) -> None:
        """End the recording; what arrives later is ignored."""
        with self._lock:
            self._open = False
            self._writer.close()

    # ------------------------------------------------------------------------------------------- one per topic

    def _plan(self, arrival: float, message: S2Plan) -> None:
        self.seen.plans.append(SeenPlan(arrival, _stamp(message), message))

    def _path(self, arrival: float, message: PathMessage) -> None:
        points = [(pose.pose.position.x, pose.pose.position.y) for pose in message.poses]
        xy = np.array(points, dtype=np.float64).reshape(-1, 2)
        self.seen.paths.append(SeenPath(arrival, _stamp(message), message.header.frame_id, xy))

    def _state(self, arrival: float, message: ControllerState) -> None:
        state = SeenState(arrival, _stamp(message), message.state, message.latency, message.message)
        self.seen.states.append(state)

    def _actions(self, arrival: float, message: DiscreteActions) -> None:
        self.seen.action_lists.append(Seen(arrival, _stamp(message)))

    def _command(self, arrival: float, message: Twist) -> None:
        self.seen.commands.append(SeenCommand(arrival, message.linear.x, message.angular.z))

    def _odometry(self, arrival: float, message: Odometry) -> None:
        position = message.pose.pose.position
        self.seen.odometry.append((_stamp(message), (position.x, position.y)))

    def _diagnostics(self, arrival: float, message: DiagnosticArray) -> None:
        for status in message.status:
            before = self.seen.status.get(status.name)
            self.seen.status[status.name] = status
            if before is None or (before.level, before.message) != (status.level, status.message):
                level = int.from_bytes(status.level, "little")
                self.seen.alerts.append((arrival, status.name, level, status.message))


def _stamp(message: object) -> int:
    stamp = message.header.stamp
    return stamp.sec * SECOND + stamp.nanosec
