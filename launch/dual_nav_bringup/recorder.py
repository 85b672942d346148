"""The node recorder: everything a run sends, as a rosbag2 (mcap) that `make replay BAG=…` plays again.

Messages are written as they come, still serialized, under ROS time. What has been received is on its way to the disk
within a second, so that a recording that a crash cuts off holds everything up to there (dual_nav_util/cut_off.py).
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dual_nav_util.params import parameter
from dual_nav_util.process import run

if TYPE_CHECKING:
    from dual_nav_util.managed_node import ManagedNode

FLUSH_PERIOD = 1.0  # s
QUEUE = 50  # messages of a topic that wait while the disk is busy


@dataclass(frozen=True)
class Parameters:
    """Of the node recorder."""

    folder: str = parameter("", "rosbag2 folder to write, not there yet; empty: runs/recording-<date and time>")
    rgb_transport: str = parameter("raw", "Message type of the rgb topics", choices=("raw", "compressed"))
    depth_transport: str = parameter("raw", "Message type of depth", choices=("raw", "compressed"))
    cmd_vel_stamped: bool = parameter(False, "cmd_vel is TwistStamped")

    def topics(self) -> dict[str, str]:
        """Relative topic: type."""
        image = {"raw": "sensor_msgs/msg/Image", "compressed": "sensor_msgs/msg/CompressedImage"}
        return {
            "rgb": image[self.rgb_transport],
            "depth": image[self.depth_transport],
            "camera_info": "sensor_msgs/msg/CameraInfo",
            "rgb_look_down": image[self.rgb_transport],
            "odom": "nav_msgs/msg/Odometry",
            "instruction": "std_msgs/msg/String",
            "s2/plan": "nav_msgs_ext/msg/S2Plan",
            "s1/state": "nav_msgs_ext/msg/ControllerState",
            "s1/actions": "nav_msgs_ext/msg/DiscreteActions",
            "s1/path": "nav_msgs/msg/Path",
            "cmd_vel": "geometry_msgs/msg/TwistStamped" if self.cmd_vel_stamped else "geometry_msgs/msg/Twist",
            "/diagnostics": "diagnostic_msgs/msg/DiagnosticArray",
            "/tf": "tf2_msgs/msg/TFMessage",
            "/tf_static": "tf2_msgs/msg/TFMessage",
            # of the simulator, for evaluators
            "ground_truth": "nav_msgs/msg/Odometry",
            "collisions": "std_msgs/msg/UInt32",
            "episode": "std_msgs/msg/String",
        }


# Kept for late subscribers by who publishes them.
LATCHED = ("instruction", "s2/plan", "/tf_static", "collisions", "episode")
# Sensors send without waiting for an acknowledgement.
SENSORS = ("rgb", "depth", "camera_info", "rgb_look_down", "odom", "ground_truth")


def make_node() -> ManagedNode:
    """The node, once rclpy is initialised."""
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
    from rosbags.rosbag2 import StoragePlugin, Writer

    from dual_nav_bringup.make_bag import LATCHED as OFFERED_LATCHED
    from dual_nav_bringup.make_bag import STREAM as OFFERED
    from dual_nav_bringup.observer import message_types
    from dual_nav_bringup.player import message_class
    from dual_nav_util.managed_node import ManagedNode

    def profile(topic: str) -> QoSProfile:
        return QoSProfile(
            depth=QUEUE,
            reliability=ReliabilityPolicy.BEST_EFFORT if topic in SENSORS else ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if topic in LATCHED else DurabilityPolicy.VOLATILE,
        )

    class Recorder(ManagedNode):
        """See the module."""

        def __init__(self) -> None:
            super().__init__("recorder", Parameters)
            self._writer: Writer | None = None
            self._lock = threading.Lock()

        def configure(self, parameters: Parameters) -> None:
            folder = Path(parameters.folder or f"runs/recording-{datetime.now():%Y%m%d-%H%M%S}")
            folder.parent.mkdir(parents=True, exist_ok=True)
            self._messages = 0
            self._waiting: list[tuple[Any, bytes]] = []  # for the time
            self._writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
            types = message_types()
            for topic, kind in parameters.topics().items():
                try:
                    received = message_class(kind)
                except ImportError:
                    self.get_logger().info(f"{topic} is not recorded: {kind} is not installed")
                    continue
                offered = [OFFERED_LATCHED if topic in LATCHED else OFFERED]
                name = self.resolve_topic_name(topic)
                connection = self._writer.add_connection(name, kind, typestore=types, offered_qos_profiles=offered)

                def write(data: bytes, connection: Any = connection, latched: bool = topic in LATCHED) -> None:
                    self._write(connection, data, latched)

                self.managed_raw_subscription(received, topic, write, profile(topic))
            self.managed_timer(FLUSH_PERIOD, self._flush)
            self.get_logger().info(f"recording to {folder.resolve()}")

        def _write(self, connection: Any, data: bytes, latched: bool) -> None:
            now_ns = self.now_ns()
            with self._lock:
                if self._writer is None:
                    return
                told = now_ns > 0  # else simulated time that nobody has told yet
                if told or latched:  # only what is sent once waits for it: images would fill the memory
                    self._waiting.append((connection, data))
                if not told:
                    return
                for waiting in self._waiting:
                    self._writer.write(waiting[0], now_ns, waiting[1])
                self._messages += len(self._waiting)
                self._waiting.clear()

        def release(self) -> bool:
            with self._lock:
                writer, self._writer = self._writer, None
                if writer is not None:
                    writer.close()
            return True

        def _flush(self) -> None:
            """What was received goes to the file as a complete chunk, and the file to the system."""
            with self._lock:
                if self._writer is None:
                    return
                storage = self._writer.storage
                if storage.chunk.msgs:
                    storage.close_chunk()
                storage.bio.flush()

        def statuses(self) -> list:
            status = self.status("recording")
            status.value("messages", self._messages)
            return [status.build("recording" if self.is_active else "inactive")]

    return Recorder()


def main() -> int:
    """Record until Ctrl-C or SIGTERM; the exit status."""
    return run(make_node)


if __name__ == "__main__":
    sys.exit(main())
