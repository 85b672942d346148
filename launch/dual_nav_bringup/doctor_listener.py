"""Listens to a running system and keeps what `doctor_findings.py` judges. This is a ROS module.

It subscribes with qualities of service that every publisher can serve, so that it hears also what the nodes cannot
hear, and publishes nothing.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import psutil
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist, TwistStamped
from lifecycle_msgs.srv import GetState
from nav_msgs.msg import Odometry
from rcl_interfaces.srv import GetParameters
from rclpy.node import Node as RosNode
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo
from rclpy.utilities import get_rmw_implementation_identifier
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String

from dual_nav_bringup.doctor_findings import (
    S1,
    S2,
    WATCHDOG,
    Arrival,
    DiagnosticPart,
    Endpoint,
    Node,
    Observations,
    Report,
    Topic,
)
from dual_nav_bringup.question import Question
from dual_nav_util import images
from dual_nav_util.controller_state import State
from dual_nav_util.dds import process_segment_bytes
from dual_nav_util.stamps import to_nanoseconds
from nav_msgs_ext.msg import ControllerState, S2Plan

RUNTIME = (S1, S2, WATCHDOG)
# The message classes a topic may have; the first one is taken where nobody publishes.
CLASSES: dict[str, tuple[type, ...]] = {
    "rgb": (Image, CompressedImage),
    "depth": (Image, CompressedImage),
    "rgb_look_down": (Image, CompressedImage),
    "camera_info": (CameraInfo,),
    "odom": (Odometry,),
    "instruction": (String,),
    "s2/plan": (S2Plan,),
    "s1/state": (ControllerState,),
    "cmd_vel": (Twist, TwistStamped),
}
PARAMETERS = {
    S1: (
        "use_sim_time", "sensor_timeout", "odometry_max_gap", "plan_timeout", "future_tolerance", "pairing_tolerance",
        "control_rate", "open_loop",
    ),
    S2: ("use_sim_time",),
    WATCHDOG: ("use_sim_time", "heartbeat_timeout"),
}  # fmt: skip
LOOK_AROUND = 2.5  # s for discovery and for the names of topics, which the nodes say once a second
LOOK_PERIOD = 0.5  # s between two images whose pixels are looked at
POLL = 0.2  # s


class Listener:
    """Makes observations with a node that somebody else spins; its namespace is the one listened in."""

    def __init__(self, node: RosNode) -> None:
        self._node = node
        self._seen = Observations(
            namespace=node.get_namespace(),
            domain=str(node.context.get_domain_id()),
            rmw=get_rmw_implementation_identifier(),
        )
        self._named: dict[str, str] = {}  # topics as the nodes say they are renamed
        self._looked: dict[str, float] = {}
        self._states = {name: Question(node, GetState, f"{name}/get_state", GetState.Request()) for name in RUNTIME}
        self._parameters = {
            name: Question(node, GetParameters, f"{name}/get_parameters", GetParameters.Request(names=names))
            for name, names in PARAMETERS.items()
        }
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 100)
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        node.create_subscription(Clock, "/clock", self._on_clock, best_effort)

    def listen(self, seconds: float) -> Observations:
        """Look around, listen, and return what was observed."""
        seen = self._seen
        self._wait(LOOK_AROUND)
        seen.seconds = seconds
        for name in CLASSES:
            seen.topics[name] = Topic(name, self._resolve(name))
        for name in RUNTIME:
            # What was said before does not count: a node that died meanwhile is not alive.
            seen.nodes.setdefault(name, Node(name)).parts.clear()
            self._states[name].answer = None
        seen.clock_steps = 0
        for topic in seen.topics.values():
            self._subscribe(topic)
        self._wait(seconds)
        seen.ended_ns = time.time_ns()
        self._look_at_graph()
        return seen

    # ------------------------------------------------------------------------------------------------------- asking

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._ask()
            time.sleep(POLL)

    def _ask(self) -> None:
        """Take in answers and ask: for the parameters once, for the state of the life cycle again and again."""
        for question in self._states.values():
            question.ask()
        for question in self._parameters.values():
            if question.answer is None:
                question.ask()

    # ------------------------------------------------------------------------------------------------------- topics

    def _resolve(self, name: str) -> str:
        """The real name of a topic: renamed on the command line, else as the nodes say, else by the namespace."""
        renamed = self._node.resolve_topic_name(name)
        if renamed != self._node.resolve_topic_name(name, only_expand=True):
            return renamed
        if name == "cmd_vel":
            return self._command_topic() or renamed
        return self._named.get(name, renamed)

    def _command_topic(self) -> str | None:
        """Where the commands for the base go: what the watchdog publishes, or the controller without it."""
        for name in (WATCHDOG, S1):
            with contextlib.suppress(Exception):  # the node is not there
                listed = self._node.get_publisher_names_and_types_by_node(name, self._node.get_namespace())
                for topic, types in listed:
                    if set(types) & {_type_name(kind) for kind in CLASSES["cmd_vel"]}:
                        return topic
        return None

    def _subscribe(self, topic: Topic) -> None:
        published = self._node.get_publishers_info_by_topic(topic.topic)
        types = {info.topic_type for info in published}
        classes = CLASSES[topic.name]
        kind = next((found for found in classes if _type_name(found) in types), classes[0])
        is_image = kind in (Image, CompressedImage)
        qualities = [info.qos_profile for info in published]
        reliable = qualities and all(q.reliability == ReliabilityPolicy.RELIABLE for q in qualities) and not is_image
        # Volatile: a plan of long ago, kept for late comers, says nothing about now.
        profile = QoSProfile(
            depth=5 if is_image else 200,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        )
        handle = self._handler(topic.name, kind)

        def callback(message: Any) -> None:
            # The stamp of a state is that of the frame behind the command, which may be of long ago.
            stamp_ns = None if topic.name == "s1/state" else _stamp(message)
            topic.arrivals.append(Arrival(time.time_ns(), self._seen.clock_ns, stamp_ns))
            handle(topic, message)

        self._node.create_subscription(kind, topic.topic, callback, profile)

    def _handler(self, name: str, kind: type) -> Callable[[Topic, Any], None]:
        if kind in (Image, CompressedImage):
            return self._on_image
        return {
            "camera_info": self._on_camera_info,
            "odom": self._on_odometry,
            "s1/state": self._on_state,
            "s2/plan": self._on_plan,
            "cmd_vel": self._on_command,
        }.get(name, lambda topic, message: None)

    def _on_image(self, topic: Topic, message: Image | CompressedImage) -> None:
        topic.frames[message.header.frame_id] += 1
        topic.data_bytes = max(topic.data_bytes, len(message.data))
        if isinstance(message, Image):
            topic.sizes[message.width, message.height] += 1
            topic.details[f"{message.encoding} {message.width}x{message.height}"] += 1
        if time.monotonic() - self._looked.get(topic.name, 0.0) < LOOK_PERIOD:
            return
        self._looked[topic.name] = time.monotonic()
        what = "depth" if topic.name == "depth" else "rgb"
        how = "compressed" if isinstance(message, CompressedImage) else "image"
        try:
            pixels = getattr(images, f"{what}_from_{how}")(message, topic.name)
        except images.ImageError as error:
            topic.refused[str(error)] += 1
            return
        if isinstance(message, CompressedImage):
            height, width = pixels.shape[:2]
            topic.sizes[width, height] += 1
            topic.details[f"{message.format} {width}x{height}"] += 1
        if what == "depth":
            measured = pixels[pixels > 0]
            topic.measured_share = measured.size / pixels.size
            topic.median = float(np.median(measured)) if measured.size else None

    def _on_camera_info(self, topic: Topic, message: CameraInfo) -> None:
        topic.frames[message.header.frame_id] += 1
        topic.sizes[message.width, message.height] += 1
        if not (message.k[0] > 0.0 and message.k[4] > 0.0):
            topic.refused[f"its focal lengths are {message.k[0]:g} and {message.k[4]:g}"] += 1

    def _on_odometry(self, topic: Topic, message: Odometry) -> None:
        topic.frames[message.header.frame_id] += 1
        place, turn = message.pose.pose.position, message.pose.pose.orientation
        norm = math.sqrt(turn.x**2 + turn.y**2 + turn.z**2 + turn.w**2)
        self._seen.poses.append((to_nanoseconds(message.header.stamp), place.x, place.y, norm))

    def _on_state(self, topic: Topic, message: ControllerState) -> None:
        try:
            state = State(message.state)
        except ValueError:  # a controller of another version
            topic.refused[f"state {message.state}"] += 1
            return
        asks = message.ask != ControllerState.ASK_NO
        report = Report(time.time_ns(), state, message.message, asks, message.latency)
        self._seen.reports.append(report)

    def _on_plan(self, _: Topic, message: S2Plan) -> None:
        self._seen.plan_times.append(message.inference_time)

    def _on_command(self, _: Topic, message: Twist | TwistStamped) -> None:
        twist = message.twist if isinstance(message, TwistStamped) else message
        self._seen.commands.append((time.time_ns(), twist.linear.x))

    def _on_clock(self, message: Clock) -> None:
        now = to_nanoseconds(message.clock)
        if now != self._seen.clock_ns:
            self._seen.clock_ns, self._seen.clock_steps = now, self._seen.clock_steps + 1

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        prefix = self._node.get_namespace().strip("/")
        for status in message.status:
            place, _, part = status.name.partition(": ")
            namespace, _, name = place.strip("/").rpartition("/")
            if namespace != prefix or not part:
                continue
            values = {value.key: value.value for value in status.values}
            told = DiagnosticPart(int.from_bytes(status.level, "little"), status.message, values)
            self._seen.nodes.setdefault(name, Node(name)).parts[part] = told
            for key, value in values.items():
                if key.startswith("topic of "):
                    self._named[key.removeprefix("topic of ")] = value

    # -------------------------------------------------------------------------------------------------------- graph

    def _look_at_graph(self) -> None:
        node, seen = self._node, self._seen
        present = {_join(namespace, name) for name, namespace in node.get_node_names_and_namespaces()}
        for name in RUNTIME:
            found = seen.nodes[name]
            found.present = _join(seen.namespace, name) in present
            state, parameters = self._states[name].answer, self._parameters[name].answer
            found.lifecycle = state.current_state.label if state else None
            if parameters:
                told = zip(PARAMETERS[name], map(parameter_value_to_python, parameters.values), strict=True)
                found.parameters = {key: value for key, value in told if value is not None}
        here = {_join(seen.namespace, name) for name in RUNTIME}
        seen.elsewhere = sorted(p for p in present - here if p.rpartition("/")[2] in RUNTIME)
        listed = dict(node.get_topic_names_and_types())
        known = {topic.topic for topic in seen.topics.values()} | {node.resolve_topic_name("s2/debug_image")}
        for topic in seen.topics.values():
            topic.publishers = self._endpoints(node.get_publishers_info_by_topic(topic.topic))
            topic.subscribers = self._endpoints(node.get_subscriptions_info_by_topic(topic.topic))
            if not topic.publishers:
                wanted = {_type_name(kind) for kind in CLASSES[topic.name]}
                others = [place for place, types in listed.items() if place not in known and set(types) & wanted]
                topic.elsewhere = [place for place in others if node.count_publishers(place)]

    @cached_property
    def _identity(self) -> bytes:
        """What DDS calls a subscription of this process."""
        own = self._node.get_fully_qualified_name()
        infos = self._node.get_subscriptions_info_by_topic("/diagnostics")
        return next((bytes(i.endpoint_gid) for i in infos if _join(i.node_namespace, i.node_name) == own), b"")

    def _endpoints(self, infos: list[TopicEndpointInfo]) -> list[Endpoint]:
        own = self._node.get_fully_qualified_name()
        found = []
        for info in infos:
            name = _join(info.node_namespace, info.node_name)
            if name == own:
                continue
            quality = info.qos_profile
            found.append(
                Endpoint(
                    name,
                    info.topic_type,
                    reliable=quality.reliability == ReliabilityPolicy.RELIABLE,
                    latched=quality.durability == DurabilityPolicy.TRANSIENT_LOCAL,
                    segment_bytes=self._segment_bytes(bytes(info.endpoint_gid)),
                )
            )
        return found

    def _segment_bytes(self, identity: bytes) -> int | None:
        """Shared memory of the process behind an endpoint, None when it is not on this machine or not to be seen.

        The identity that Fast DDS gives an endpoint begins with two bytes of vendor, two of the machine and the lower
        two of the process id.
        """
        if not self._seen.rmw.startswith("rmw_fastrtps") or identity[:4] != self._identity[:4]:
            return None
        low = int.from_bytes(identity[4:6], "little")
        sizes = [process_segment_bytes(pid) for pid in psutil.pids() if pid & 0xFFFF == low]
        return max((size for size in sizes if size is not None), default=None)


def _type_name(kind: type) -> str:
    """sensor_msgs/msg/Image for the class Image."""
    package, folder, *_ = kind.__module__.split(".")
    return f"{package}/{folder}/{kind.__name__}"


def _stamp(message: Any) -> int | None:
    header = getattr(message, "header", None)
    return None if header is None else to_nanoseconds(header.stamp)


def _join(namespace: str, name: str) -> str:
    return f"{namespace.rstrip('/')}/{name}"
