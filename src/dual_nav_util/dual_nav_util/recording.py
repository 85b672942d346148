"""Reads rosbag2 recordings (sqlite3 and mcap, zstd included) as serialized messages, one at a time.

No message is converted on the way from the file to the publisher. The one thing that changes is the stamp of a
header, which is 8 bytes at a fixed place in every message that begins with one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from rosbags.rosbag2 import Reader
from rosbags.rosbag2.errors import ReaderError

from .cut_off import CutOffFile, is_cut_off

# Of the types that are played: those that begin with a std_msgs/Header.
STAMPED_TYPES = frozenset(
    {
        "sensor_msgs/msg/Image",
        "sensor_msgs/msg/CompressedImage",
        "sensor_msgs/msg/CameraInfo",
        "nav_msgs/msg/Odometry",
    }
)
SECOND = 1_000_000_000
IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
STAMP_OFFSET = 4  # CDR: 4 bytes that say how it is encoded, then int32 seconds, uint32 nanoseconds


class RecordingError(Exception):
    """A recording cannot be used; the message says which, why and what to do."""


def read_stamp(data: bytes) -> int:
    """Stamp in nanoseconds of a serialized message that begins with a header."""
    seconds, nanoseconds = struct.unpack_from(_stamp_format(data), data, STAMP_OFFSET)
    return seconds * SECOND + nanoseconds


def with_stamp(data: bytes, stamp_ns: int) -> bytes:
    """A copy of a serialized message that begins with a header, with another stamp."""
    changed = bytearray(data)
    struct.pack_into(_stamp_format(data), changed, STAMP_OFFSET, *divmod(stamp_ns, SECOND))
    return bytes(changed)


def _stamp_format(data: bytes) -> str:
    return "<iI" if data[1] & 1 else ">iI"  # second byte of the encapsulation: 1 little-endian, 0 big-endian


@dataclass(frozen=True)
class Topic:
    """One topic of a recording."""

    name: str
    type: str  # such as sensor_msgs/msg/Image
    count: int


@dataclass(frozen=True)
class Message:
    """One recorded message, still serialized."""

    topic: str
    type: str
    time_ns: int  # when it was recorded
    data: bytes


class Recording:
    """A rosbag2 folder (or a single .mcap or .db3 file), read as a stream: memory does not grow with its length."""

    def __init__(self, path: Path):
        if not path.exists():
            raise RecordingError(f"no recording at {path}: give a rosbag2 folder (the one with metadata.yaml)")
        if path.is_dir() and not (path / "metadata.yaml").exists():
            files = sorted([*path.glob("*.mcap"), *path.glob("*.db3")])
            if len(files) != 1:
                raise RecordingError(
                    f"{path} has no metadata.yaml and {len(files)} .mcap or .db3 files: "
                    "give a rosbag2 folder or one file"
                )
            path = files[0]  # cut off while recording
        if path.suffix == ".mcap" and path.is_file() and is_cut_off(path):
            path = CutOffFile(path)
        self.path = path
        try:
            self._reader = Reader(path)
            self._reader.open()
        except (ReaderError, FileNotFoundError, PermissionError) as error:
            raise RecordingError(f"{path} cannot be read as a rosbag2 recording: {error}") from error
        self.start_ns: int = self._reader.start_time
        self.duration_ns: int = self._reader.duration
        counts: dict[tuple[str, str], int] = {}
        for connection in self._reader.connections:
            key = (connection.topic, connection.msgtype)
            counts[key] = counts.get(key, 0) + connection.msgcount
        self.topics = [Topic(name, kind, count) for (name, kind), count in counts.items()]

    def messages(self, topics: Sequence[str]) -> Iterator[Message]:
        """The messages of these topics in the order they were recorded."""
        wanted = [connection for connection in self._reader.connections if connection.topic in topics]
        try:
            for connection, time_ns, data in self._reader.messages(wanted):
                yield Message(connection.topic, connection.msgtype, time_ns, bytes(data))
        except ReaderError as error:
            raise RecordingError(f"{self.path} is damaged: {error}") from error

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


# -------------------------------------------------------------------------------------- which topic is played as what

# Relative topic of the nodes: the ends of recorded names it is taken from, the most telling first.
NAME_ENDS: dict[str, tuple[str, ...]] = {
    "rgb": ("color/image_raw/compressed", "color/image_raw", "color/image_rect_raw", "rgb/image_raw", "rgb"),
    "depth": ("aligned_depth_to_color/image_raw", "depth_registered/image_raw", "depth"),
    "camera_info": ("color/camera_info", "rgb/camera_info", "camera_info"),
    "odom": ("odom", "odometry", "odom/sample"),
    "rgb_look_down": ("rgb_look_down",),
    "instruction": ("instruction",),
}
TYPES: dict[str, tuple[str, ...]] = {
    "rgb": IMAGES,
    "depth": IMAGES[:1],
    "camera_info": ("sensor_msgs/msg/CameraInfo",),
    "odom": ("nav_msgs/msg/Odometry",),
    "rgb_look_down": IMAGES,
    "instruction": ("std_msgs/msg/String",),
}


def choose_topics(recording: Recording, given: dict[str, str]) -> dict[str, Topic]:
    """Which recorded topic is played as which topic of the nodes.

    `given` maps recorded names to the nodes' names and comes first; the rest is found by the end of the recorded
    name and by its type. Raises RecordingError for names that do not exist and for a recording without RGB.
    """
    by_name = {topic.name: topic for topic in recording.topics if topic.count}
    listing = ", ".join(f"{topic.name} ({topic.type})" for topic in recording.topics)
    chosen: dict[str, Topic] = {}
    for recorded, played in given.items():
        if played not in TYPES:
            raise RecordingError(
                f"remap {recorded}:={played}: the nodes have no topic '{played}' ({', '.join(TYPES)})"
            )
        if recorded not in by_name:
            raise RecordingError(f"remap {recorded}:={played}: not in the recording, which has: {listing}")
        if by_name[recorded].type not in TYPES[played]:
            raise RecordingError(
                f"remap {recorded}:={played}: {recorded} is {by_name[recorded].type}, "
                f"{played} must be {' or '.join(TYPES[played])}"
            )
        chosen[played] = by_name[recorded]
    for played, ends in NAME_ENDS.items():
        free = [topic for topic in by_name.values() if topic.type in TYPES[played] and topic not in chosen.values()]
        for end in ends:
            found = [topic for topic in free if f"/{topic.name.lstrip('/')}".endswith(f"/{end}")]
            if played not in chosen and found:
                chosen[played] = min(found, key=lambda topic: len(topic.name))
    if "rgb" not in chosen:
        raise RecordingError(
            f"no camera image in {recording.path}: name it with --remap <recorded>:=rgb. The recording has: {listing}"
        )
    return chosen
