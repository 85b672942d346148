"""Publishes a recording with its own timing, the clock that goes with it, and remembers when each frame went out."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String

from dual_nav_util.recording import SECOND, STAMPED_TYPES, Recording, Topic, read_stamp, with_stamp

CLOCK_PERIOD = 0.01  # [s] of wall time; finer than any control period
# Reliable, so that every kind of subscriber can listen, and without waiting for slow ones: newest first.
STREAM_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = ("instruction", "s2/plan")
LATCHED_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def message_class(kind: str) -> type:
    """Class of a type such as `sensor_msgs/msg/Image`."""
    package, _, name = kind.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


class Player:
    """Plays a recording `loops` times at `rate` times its own speed.

    Messages go out as they were recorded, still serialized. From the second loop on their stamps and the clock are
    moved by the length of a loop, so that time never goes back.
    """

    def __init__(
        self,
        node: Node,
        recording: Recording,
        topics: Mapping[str, Topic],
        rate: float,
        loops: int,
        instruction: str | None,
    ):
        self.recording = recording
        self.topics = {
            played: topic for played, topic in topics.items() if not (instruction and played == "instruction")
        }
        self.rate = rate
        self.loops = loops
        self.instruction = instruction
        self.frame_sent: dict[int, float] = {}  # stamp of an RGB frame [ns]: monotonic time it was published [s]
        self.now_ns = recording.start_ns  # simulated time
        self.loop_ns = recording.duration_ns + recording.duration_ns // max(1, topics["rgb"].count - 1)
        self._played_as = {topic.name: played for played, topic in self.topics.items()}
        self._publishers: dict[str, Publisher] = {}
        for played, topic in self.topics.items():
            qos = LATCHED_QOS if played in LATCHED else STREAM_QOS
            self._publishers[played] = node.create_publisher(message_class(topic.type), played, qos)
        if instruction:
            self._publishers["instruction"] = node.create_publisher(String, "instruction", LATCHED_QOS)
        self._clock = node.create_publisher(Clock, "/clock", STREAM_QOS)

    def subscribers(self, played: str) -> int:
        """How many listen to a topic at present."""
        return self._publishers[played].get_subscription_count()

    def play(self, keep_going: Callable[[], bool]) -> None:
        """Publish everything, each message when it is due, until the end or until `keep_going` says no."""
        begin = time.monotonic()
        for loop in range(self.loops):
            offset = loop * self.loop_ns
            if self.instruction:
                self._publishers["instruction"].publish(String(data=self.instruction))
            for message in self.recording.messages([topic.name for topic in self.topics.values()]):
                due_ns = message.time_ns + offset
                if not self._wait_until(due_ns, begin, keep_going):
                    return
                self._publish(self._played_as[message.topic], message.type, message.data, offset)
        # A frame has its period to be worked on, the last one too.
        self._wait_until(self.recording.start_ns + self.loops * self.loop_ns, begin, keep_going)

    def _publish(self, played: str, kind: str, data: bytes, offset: int) -> None:
        if kind in STAMPED_TYPES:
            stamp = read_stamp(data) + offset
            if offset:
                data = with_stamp(data, stamp)
            if played == "rgb":
                self.frame_sent[stamp] = time.monotonic()
        self._publishers[played].publish(data)

    def _wait_until(self, due_ns: int, begin: float, keep_going: Callable[[], bool]) -> bool:
        """Let simulated time run up to `due_ns`, publishing the clock on the way."""
        due = begin + (due_ns - self.recording.start_ns) / SECOND / self.rate
        while keep_going():
            left = due - time.monotonic()
            if left <= 0:
                self._tick(due_ns)
                return True
            self._tick(due_ns - int(left * self.rate * SECOND))
            time.sleep(min(left, CLOCK_PERIOD))
        return False

    def _tick(self, now_ns: int) -> None:
        if now_ns > self.now_ns:
            self.now_ns = now_ns
            clock = Clock()
            clock.clock.sec, clock.clock.nanosec = divmod(now_ns, SECOND)
            self._clock.publish(clock)
