"""A recording of a robot as training data: `python -m dual_nav_training.convert_bag BAG OUT --height 0.6`.

Writes OUT/<name of BAG>/ in the VLN-CE layout of `lerobot.py`: an episode for each instruction in the recording, a
frame whenever odometry has moved on by 0.25 m or turned by 15°, the action that comes closest to that, and as pixel
goal the farthest place of the way to come whose floor the depth image shows. An episode ends with its recording (or
where the robot first drives backwards): its last frame becomes a STOP. The recording's camera takes both places, that
of the level one and that of the one that looks down.
"""

from __future__ import annotations

import argparse
import bisect
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from nav_msgs.msg import Odometry
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String

from dual_nav_training.lerobot import FORWARD, NO_ACTION, NO_GOAL, TURN_LEFT, TURN_RIGHT, Camera, CameraSetting
from dual_nav_training.lerobot_writer import CeFrame, CeSceneWriter
from dual_nav_training.trajectory_labels import camera_mount, relative_path
from dual_nav_util.images import ImageError, depth_from_image, rgb_from_compressed, rgb_from_image
from dual_nav_util.recording import SECOND, Message, Recording, RecordingError, choose_topics, read_stamp
from s1_controller_node.geometry import wrap_angle
from s1_controller_node.plan_intake import FORWARD_DISTANCE, TURN_ANGLE

MAX_GOAL_DISTANCE, MIN_GOAL_DISTANCE = 4.0, 0.3  # metres along the way, and from the robot
GOAL_MARGIN = 6  # pixels that a pixel goal keeps from the edge of its image
HIDDEN = 0.3  # metres that something has to be closer than the floor behind it to hide it
HALFWAY_BACK = 0.7  # of the greatest distance so far: nearer than that the robot is on its way back
PAIR_NS = SECOND // 20  # RGB and depth of one frame are at most this far apart
FPS = 1.0  # discrete steps have no time; a second each


@dataclass(frozen=True)
class Mount:
    """Where the camera sits: height above the floor, distance ahead of the robot's centre [m]; pitch down [deg]."""

    height: float
    forward: float
    pitch: float


@dataclass(frozen=True)
class Step:
    """A chosen frame: stamp of its RGB image, pose (x, y, yaw) of the robot in odom, and what was recorded."""

    stamp_ns: int
    pose: np.ndarray
    rgb: Message
    depth: Message


class ConversionError(ValueError):
    """A recording that cannot become training data; the message says what it lacks."""


def read_odometry(recording: Recording, topic: str) -> tuple[np.ndarray, np.ndarray]:
    """Stamps (N,) int64 ns in order, and poses (N, 3) x, y [m] and continuous yaw [rad]."""
    rows: list[tuple[int, float, float, float]] = []
    for message in recording.messages([topic]):
        pose = deserialize_message(message.data, Odometry).pose.pose
        q = pose.orientation
        yaw = math.atan2(2 * (q.w * q.z + q.x * q.y), 1 - 2 * (q.y * q.y + q.z * q.z))
        rows.append((read_stamp(message.data), pose.position.x, pose.position.y, yaw))
    rows.sort()
    if len(rows) < 2:
        raise ConversionError(f"{topic}: {len(rows)} messages; poses need at least 2")
    poses = np.asarray([row[1:] for row in rows], float)
    if not np.isfinite(poses).all():
        raise ConversionError(f"{topic}: pose {int(np.argmin(np.isfinite(poses).all(axis=1)))} is not finite")
    poses[:, 2] = np.unwrap(poses[:, 2])
    return np.asarray([row[0] for row in rows], np.int64), poses


def choose_steps(
    recording: Recording, topics: dict[str, str], stamps: np.ndarray, poses: np.ndarray
) -> Iterator[Step]:
    """The frames at which the robot has moved on by a step; only these keep their images in memory."""
    last: np.ndarray | None = None
    waiting: Message | None = None  # the newest message of the other kind
    for message in recording.messages([topics["rgb"], topics["depth"]]):
        stamp = read_stamp(message.data)
        other, waiting = waiting, message
        if other is None or other.topic == message.topic or abs(read_stamp(other.data) - stamp) > PAIR_NS:
            continue
        rgb, depth = (message, other) if message.topic == topics["rgb"] else (other, message)
        stamp, waiting = read_stamp(rgb.data), None
        if not stamps[0] <= stamp <= stamps[-1]:
            continue  # no pose is known
        pose = np.asarray([np.interp(stamp, stamps, poses[:, axis]) for axis in range(3)])
        if last is not None:
            moved, turned = math.dist(pose[:2], last[:2]), abs(pose[2] - last[2])
            if moved < FORWARD_DISTANCE and turned < TURN_ANGLE:
                continue
        last = pose
        yield Step(stamp, pose, rgb, depth)


def action_between(before: np.ndarray, after: np.ndarray) -> int:
    """The discrete action that took the robot from one pose to the next."""
    turned = wrap_angle(after[2] - before[2])
    if abs(turned) / TURN_ANGLE > math.dist(before[:2], after[:2]) / FORWARD_DISTANCE:
        return TURN_LEFT if turned > 0 else TURN_RIGHT
    return FORWARD


def until_backwards(steps: Sequence[Step]) -> list[Step]:
    """The steps before the robot first drives backwards: there is no action for that."""
    for index, (before, after) in enumerate(pairwise(steps)):
        heading = before.pose[2]
        dx, dy = after.pose[:2] - before.pose[:2]
        if dx * math.cos(heading) + dy * math.sin(heading) < -FORWARD_DISTANCE / 2:
            return list(steps[: index + 1])
    return list(steps)


def camera_pose(pose: np.ndarray, mount: Mount) -> np.ndarray:
    """(4, 4) optical frame of the camera to odom."""
    cos, sin = math.cos(pose[2]), math.sin(pose[2])
    robot = np.asarray([[cos, -sin, 0, pose[0]], [sin, cos, 0, pose[1]], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    camera = camera_mount(math.radians(mount.pitch), mount.forward)
    camera[2, 3] = mount.height
    return robot @ camera


def pixel_goal(
    cameras: np.ndarray, depth: np.ndarray, intrinsic: np.ndarray, mount: Mount
) -> tuple[float, float, int] | None:
    """Column, row and frames to the farthest place of the way to come that a frame shows.

    Args:
        cameras: (N, 4, 4) camera poses of this frame and the later ones of the episode.
        depth: (H, W) metres of this frame, 0 where nothing was measured: such pixels do not hide the floor.
        intrinsic: (3, 3) pixels.
    """
    way = relative_path(cameras, math.radians(mount.pitch), mount.forward)[:, :2]
    to_camera = camera_mount(math.radians(mount.pitch), mount.forward)
    to_camera[2, 3] = mount.height
    along = np.concatenate(([0.0], np.cumsum(np.linalg.norm(np.diff(way, axis=0), axis=1))))
    floor = np.column_stack((way, np.zeros(len(way)), np.ones(len(way))))
    seen = (floor @ np.linalg.inv(to_camera).T)[:, :3]
    height, width = depth.shape
    away = np.linalg.norm(way, axis=1)
    # Where the way leads back, its later part says nothing about where the robot is to go now.
    back = np.flatnonzero(away < np.maximum.accumulate(away) * HALFWAY_BACK)
    for later in range((back[0] if len(back) else len(way)) - 1, 0, -1):
        arrives = along[later] - along[later - 1] > 0.02
        if not arrives or along[later] > MAX_GOAL_DISTANCE or away[later] < MIN_GOAL_DISTANCE:
            continue
        if seen[later, 2] <= 0.05:
            continue
        column, row, _ = intrinsic @ (seen[later] / seen[later, 2])
        if not (GOAL_MARGIN <= column < width - GOAL_MARGIN and GOAL_MARGIN <= row < height - GOAL_MARGIN):
            continue
        measured = float(depth[int(row), int(column)])
        if measured == 0.0 or measured > seen[later, 2] - HIDDEN:
            return float(column), float(row), later
    return None


# --------------------------------------------------------------------------------------------------------- whole bag


def _decoded_rgb(message: Message) -> np.ndarray:
    if message.type.endswith("CompressedImage"):
        return rgb_from_compressed(deserialize_message(message.data, CompressedImage), message.topic)
    return rgb_from_image(deserialize_message(message.data, Image), message.topic)


def _frames(steps: Sequence[Step], intrinsic: np.ndarray, mount: Mount) -> Iterator[CeFrame]:
    cameras = np.stack([camera_pose(step.pose, mount) for step in steps])
    names: tuple[Camera, Camera] = ("level", "look_down")
    for index, step in enumerate(steps):
        rgb = _decoded_rgb(step.rgb)
        depth = depth_from_image(deserialize_message(step.depth.data, Image), step.depth.topic)
        if depth.shape != rgb.shape[:2]:
            raise ConversionError(
                f"{step.depth.topic}: depth of {depth.shape[1]}x{depth.shape[0]} is not aligned to RGB of "
                f"{rgb.shape[1]}x{rgb.shape[0]}; record depth aligned to colour"
            )
        goal = pixel_goal(cameras[index:], depth, intrinsic, mount)
        yield CeFrame(
            action=action_between(steps[index - 1].pose, step.pose) if index else NO_ACTION,
            pose=cameras[index],
            rgb=dict.fromkeys(names, rgb),
            depth=dict.fromkeys(names, depth),
            goal=goal[:2] if goal else (0.0, 0.0),
            goal_frames=goal[2] if goal else NO_GOAL,
        )


def _instructions(recording: Recording, topic: str | None, given: str) -> list[tuple[int, str]]:
    """(time it was recorded at, text) of each instruction; `given` replaces them all."""
    if given:
        return [(0, given)]
    texts: list[tuple[int, str]] = []
    for message in recording.messages([topic]) if topic else ():
        text = deserialize_message(message.data, String).data.strip()
        if text and (not texts or texts[-1][1] != text):
            texts.append((message.time_ns, text))
    if not texts:
        raise ConversionError("the recording has no instruction: give one with --instruction")
    return texts


def _intrinsic(recording: Recording, topic: str) -> np.ndarray:
    message = next(iter(recording.messages([topic])), None)
    matrix = np.asarray(deserialize_message(message.data, CameraInfo).k, float) if message else np.zeros(9)
    if matrix[0] <= 0 or matrix[4] <= 0:
        raise ConversionError(f"{topic}: no camera matrix with positive focal lengths")
    return matrix.reshape(3, 3)


def convert(bag: Path, out: Path, mount: Mount, instruction: str = "", remaps: dict[str, str] | None = None
) -> tuple[int, int]:  # fmt: skip
    """Write the scene; returns the numbers of frames written, and left out because the robot drove backwards.

    Raises:
        RecordingError, ConversionError: what the recording lacks. ImageError: an image that cannot be decoded.
    """
    with Recording(bag) as recording:
        chosen = {name: topic.name for name, topic in choose_topics(recording, remaps or {}).items()}
        missing = [name for name in ("rgb", "depth", "camera_info", "odom") if name not in chosen]
        if missing:
            raise ConversionError(
                f"{bag}: nothing recorded serves as {', '.join(missing)}; name it with --remap <recorded>:=<name>. "
                f"There is: {', '.join(topic.name for topic in recording.topics)}"
            )
        intrinsic = _intrinsic(recording, chosen["camera_info"])
        texts = _instructions(recording, chosen.get("instruction"), instruction)
        stamps, poses = read_odometry(recording, chosen["odom"])
        times = [time for time, _ in texts]
        episodes: dict[int, list[Step]] = {}
        for step in choose_steps(recording, chosen, stamps, poses):
            # The instruction that was last heard when the frame was recorded; frames before any belong to the first.
            episodes.setdefault(max(0, bisect.bisect_right(times, step.rgb.time_ns) - 1), []).append(step)
        setting = CameraSetting(round(mount.height * 100), round(mount.pitch), round(mount.pitch))
        frames, left_out = 0, 0
        with CeSceneWriter(out / bag.stem, setting, intrinsic, mount.forward, FPS) as writer:
            for number, steps in episodes.items():
                used = until_backwards(steps)
                left_out += len(steps) - len(used)
                frames += writer.add_episode([texts[number][1]], _frames(used, intrinsic, mount))
    if not frames:
        raise ConversionError(f"{bag}: no frame with RGB, depth and a pose")
    return frames, left_out


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="convert_bag", description=__doc__.split("\n\n")[0])
    parser.add_argument("bag", type=Path, help="rosbag2 folder or file")
    parser.add_argument("out", type=Path, help="folder of the data set; the recording becomes a scene in it")
    parser.add_argument("--height", type=float, required=True, help="of the camera above the floor, metres")
    parser.add_argument("--pitch", type=float, default=0.0, help="of the camera, degrees downwards")
    parser.add_argument("--forward", type=float, default=0.0, help="of the camera ahead of the robot, metres")
    parser.add_argument("--instruction", default="", help="instead of those in the recording")
    parser.add_argument("--remap", action="append", default=[], metavar="RECORDED:=NAME", help="as in make replay")
    options = parser.parse_args(words)
    try:
        remaps = dict(word.split(":=", 1) for word in options.remap)
        mount = Mount(options.height, options.forward, options.pitch)
        frames, left_out = convert(options.bag, options.out, mount, options.instruction, remaps)
    except (ConversionError, RecordingError, ImageError, ValueError, OSError) as error:
        print(f"convert_bag: {error}", file=sys.stderr)
        return 1
    print(f"{options.out / options.bag.stem}: {frames} frames")
    if left_out:
        print(f"{left_out} frames left out: the robot drove backwards, and there is no action for that")
    return 0


if __name__ == "__main__":
    sys.exit(main())
