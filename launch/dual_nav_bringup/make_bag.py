"""`make_bag FOLDER OUT` or `make_bag --scene NAME OUT`: a rosbag2 of an RGB-D camera, as drivers record it.

FOLDER holds rgb/*.jpg or *.png, depth/*.png (16 bit, millimetres, aligned to rgb, 0 = no reading), intrinsics.json
(width, height, fx, fy, cx, cy) and a CSV of poses (seconds, x, y [m], yaw [rad]). The frames are spread evenly at
--fps; poses are put in between at 50 Hz. --scene calculates the frames instead (see scenes.py).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from ament_index_python.packages import get_package_share_directory
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from dual_nav_util.recording import SECOND

START_NS = 1_700_000_000 * SECOND
ODOMETRY_HZ = 50.0
CAMERA = "/camera/color"
DEPTH = "/camera/aligned_depth_to_color/image_raw"
_NO_LIMIT = QosTime(9223372036, 854775807)
# As the drivers would have offered them; ros2 bag play offers the same again.
STREAM = Qos(
    QosHistory.KEEP_LAST,
    10,
    QosReliability.RELIABLE,
    QosDurability.VOLATILE,
    _NO_LIMIT,
    _NO_LIMIT,
    QosLiveliness.AUTOMATIC,
    _NO_LIMIT,
    False,
)
LATCHED = STREAM._replace(depth=1, durability=QosDurability.TRANSIENT_LOCAL)
PLAN = "nav_msgs_ext/msg/S2Plan"
COMPRESSIONS = ("none", "message", "file", "chunk")


@dataclass(frozen=True)
class RgbdFrame:
    """One pair of images."""

    rgb: np.ndarray  # uint8 (H, W, 3), RGB
    depth: np.ndarray  # uint16 (H, W), millimetres, 0 = no reading


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole camera, in pixels."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float


def write_bag(
    out: Path,
    frames: Iterable[RgbdFrame],
    intrinsics: Intrinsics,
    poses: np.ndarray,
    instruction: str,
    fps: float,
    storage: str = "mcap",
    compression: str = "none",
    jpeg: bool = False,
    actions: Callable[[int], Sequence[int]] | None = None,
) -> int:
    """Write the recording; returns the number of frames.

    `poses`: float64 (frames, 3), x, y [m] and yaw [rad] of base_link in odom at each frame. `compression`: none,
    message, file or (mcap) chunk, all zstd. `jpeg`: RGB as CompressedImage. `actions`: what a planner decided on the
    frame of this number, recorded as /s2/plan where it is not empty. Raises ValueError for poses of another
    number than the frames and for a storage that cannot be compressed that way.
    """
    if storage == "sqlite3" and compression == "chunk":
        raise ValueError("compression 'chunk' is mcap's: sqlite3 takes none, message or file")
    types = get_typestore(Stores.ROS2_KILTED)
    t = types.types
    header_of, time_of = t["std_msgs/msg/Header"], t["builtin_interfaces/msg/Time"]

    def header(stamp_ns: int, frame_id: str) -> object:
        return header_of(time_of(*divmod(stamp_ns, SECOND)), frame_id)

    plugin = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}[storage]
    writer = Writer(out, version=9, storage_plugin=plugin)
    mode = {"message": CompressionMode.MESSAGE, "file": CompressionMode.FILE, "chunk": CompressionMode.STORAGE}
    if compression != "none":
        writer.set_compression(mode[compression], CompressionFormat.ZSTD)
    count = 0
    with writer:
        kinds = {
            f"{CAMERA}/image_raw" + ("/compressed" if jpeg else ""): (
                "sensor_msgs/msg/CompressedImage" if jpeg else "sensor_msgs/msg/Image"
            ),
            DEPTH: "sensor_msgs/msg/Image",
            f"{CAMERA}/camera_info": "sensor_msgs/msg/CameraInfo",
            "/odom": "nav_msgs/msg/Odometry",
            "/instruction": "std_msgs/msg/String",
        }
        connections = {
            name: writer.add_connection(
                name, kind, typestore=types, offered_qos_profiles=[LATCHED if name == "/instruction" else STREAM]
            )
            for name, kind in kinds.items()
        }
        rgb_topic = next(iter(kinds))
        if actions is not None:
            definition = Path(get_package_share_directory("nav_msgs_ext")) / "msg" / "S2Plan.msg"
            types.register(get_types_from_msg(definition.read_text(), PLAN))
            kinds["/s2/plan"] = PLAN
            connections["/s2/plan"] = writer.add_connection(
                "/s2/plan", PLAN, typestore=types, offered_qos_profiles=[LATCHED]
            )

        def write(topic: str, stamp_ns: int, message: object) -> None:
            writer.write(connections[topic], stamp_ns, types.serialize_cdr(message, kinds[topic]))

        write("/instruction", START_NS, t["std_msgs/msg/String"](instruction))
        odometry = odometry_between(poses, fps)
        sent = 0
        for count, frame in enumerate(frames, start=1):
            if count > len(poses):
                raise ValueError(f"{len(poses)} poses, but more frames than that")
            stamp = START_NS + round((count - 1) * SECOND / fps)
            while sent < len(odometry) and odometry[sent, 0] * SECOND <= stamp - START_NS:
                row = odometry[sent]
                at = START_NS + round(row[0] * SECOND)
                write("/odom", at, _odometry(t, header(at, "odom"), row))
                sent += 1
            optical = "camera_color_optical_frame"
            if jpeg:
                data = cv2.imencode(".jpg", frame.rgb[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 90))[1].reshape(-1)
                image = t["sensor_msgs/msg/CompressedImage"](
                    header(stamp, optical), "rgb8; jpeg compressed bgr8", data
                )
            else:
                image = _image(t, header(stamp, optical), "rgb8", frame.rgb)
            write(rgb_topic, stamp, image)
            write(DEPTH, stamp, _image(t, header(stamp, optical), "16UC1", frame.depth))
            write(f"{CAMERA}/camera_info", stamp, _camera_info(t, header(stamp, optical), intrinsics))
            if actions is not None and (decided := actions(count - 1)):
                write("/s2/plan", stamp, _plan(types.types[PLAN], header(stamp, optical), count - 1, decided))
        if count != len(poses):
            raise ValueError(f"{len(poses)} poses, but {count} frames")
    return count


def odometry_between(poses: np.ndarray, fps: float) -> np.ndarray:
    """Odometry at 50 Hz from poses at the frame rate: float64 (n, 6), seconds, x, y [m], yaw, v [m/s], w [rad/s]."""
    frame_times = np.arange(len(poses)) / fps
    times = np.arange(0.0, frame_times[-1] + 1e-9, 1 / ODOMETRY_HZ)
    x, y = (np.interp(times, frame_times, poses[:, axis]) for axis in (0, 1))
    yaw = np.interp(times, frame_times, np.unwrap(poses[:, 2]))
    if len(times) < 2:
        return np.array([[0.0, *poses[0], 0.0, 0.0]])
    vx, vy, turn = (np.gradient(values, times) for values in (x, y, yaw))
    return np.stack([times, x, y, yaw, vx * np.cos(yaw) + vy * np.sin(yaw), turn], axis=1)


def _image(t: dict, header: object, encoding: str, pixels: np.ndarray) -> object:
    pixels = np.ascontiguousarray(pixels)
    step = pixels.strides[0]
    data = pixels.view(np.uint8).reshape(-1)
    return t["sensor_msgs/msg/Image"](header, pixels.shape[0], pixels.shape[1], encoding, 0, step, data)


def _camera_info(t: dict, header: object, camera: Intrinsics) -> object:
    k = np.array([camera.fx, 0, camera.cx, 0, camera.fy, camera.cy, 0, 0, 1], dtype=np.float64)
    p = np.insert(k, [3, 6, 9], 0.0)
    whole = t["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    return t["sensor_msgs/msg/CameraInfo"](
        header, camera.height, camera.width, "plumb_bob", np.zeros(5), k, np.eye(3).reshape(-1), p, 0, 0, whole
    )


def _odometry(t: dict, header: object, row: np.ndarray) -> object:
    _, x, y, yaw, linear, angular = (float(value) for value in row)
    geometry = "geometry_msgs/msg/"
    vector, point = t[geometry + "Vector3"], t[geometry + "Point"]
    rotation = t[geometry + "Quaternion"](0.0, 0.0, float(np.sin(yaw / 2)), float(np.cos(yaw / 2)))
    pose = t[geometry + "PoseWithCovariance"](t[geometry + "Pose"](point(x, y, 0.0), rotation), np.zeros(36))
    velocity = t[geometry + "Twist"](vector(linear, 0.0, 0.0), vector(0.0, 0.0, angular))
    twist = t[geometry + "TwistWithCovariance"](velocity, np.zeros(36))
    return t["nav_msgs/msg/Odometry"](header, "base_link", pose, twist)


def _plan(plan: type, header: object, number: int, actions: Sequence[int]) -> object:
    """A plan of episode 1 that holds discrete actions."""
    nothing = {"traj_latents_shape": np.zeros(0, np.uint32), "traj_latents": np.zeros(0, np.float32)}
    return plan(
        header=header,
        episode_id=1,
        plan_number=number,
        kind=0,
        actions=np.array(actions, dtype=np.uint8),
        pixel_goal_column=-1,
        pixel_goal_row=-1,
        image_width=0,
        image_height=0,
        look_down=False,
        **nothing,
        answer="",
        inference_time=0.0,
    )


# ------------------------------------------------------------------------------------------------ folders of frames


def read_folder(folder: Path, count: int | None) -> tuple[list[tuple[Path, Path]], Intrinsics, np.ndarray]:
    """(pairs of image files, intrinsics, poses float64 (n, 3)) of the first `count` frames of a folder.

    Raises ValueError when the parts do not belong together.
    """
    colour = sorted([*folder.glob("rgb/*.jpg"), *folder.glob("rgb/*.png")])
    depth = sorted(folder.glob("depth/*.png"))
    if not colour or [path.stem for path in colour] != [path.stem for path in depth]:
        raise ValueError(f"{folder}: {len(colour)} images in rgb/ and {len(depth)} in depth/ must pair up by name")
    values = json.loads((folder / "intrinsics.json").read_text())
    intrinsics = Intrinsics(**{name: values[name] for name in Intrinsics.__dataclass_fields__})
    tables = sorted(folder.glob("*.csv"))
    if len(tables) != 1:
        raise ValueError(f"{folder}: {len(tables)} .csv files, one with seconds, x, y, yaw is needed")
    poses = np.loadtxt(tables[0], delimiter=",", skiprows=1, ndmin=2)[:, 1:4]
    if len(poses) != len(colour):
        raise ValueError(f"{folder}: {len(poses)} poses in {tables[0].name} for {len(colour)} images")
    return list(zip(colour, depth, strict=True))[:count], intrinsics, poses[:count]


def load_frames(pairs: Sequence[tuple[Path, Path]]) -> Iterable[RgbdFrame]:
    """Frames from image files, one at a time."""
    for colour, depth in pairs:
        bgr = cv2.imread(str(colour), cv2.IMREAD_COLOR)
        millimetres = cv2.imread(str(depth), cv2.IMREAD_UNCHANGED)
        if bgr is None or millimetres is None or millimetres.dtype != np.uint16:
            raise ValueError(f"{colour} and {depth} are not an RGB image and a 16-bit depth image")
        yield RgbdFrame(bgr[..., ::-1], millimetres)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make_bag", description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="frames: rgb/, depth/, intrinsics.json, poses .csv")
    parser.add_argument("out", type=Path, help="rosbag2 folder to write; must not exist")
    parser.add_argument(
        "--scene", choices=("obstacle_appears",), help="calculated frames, and plans to go straight on"
    )
    parser.add_argument("--fps", type=float, default=30.0, help="frames per second (default: 30)")
    parser.add_argument("--frames", type=int, help="only the first so many")
    parser.add_argument("--storage", choices=("mcap", "sqlite3"), default="mcap")
    parser.add_argument("--compression", choices=COMPRESSIONS, default="none", help="zstd; chunk is mcap's own")
    parser.add_argument("--jpeg", action="store_true", help="RGB as CompressedImage instead of raw rgb8")
    parser.add_argument("--instruction", default="Go past the robot stand and stop at the backpack.")
    options = parser.parse_args(words)
    try:
        if (options.folder is None) == (options.scene is None):
            raise ValueError("give either a folder of frames or --scene")
        if options.out.exists():
            raise ValueError(f"{options.out} exists already")
        how = {"storage": options.storage, "compression": options.compression, "jpeg": options.jpeg}
        fps = options.fps
        if options.scene:
            from dual_nav_bringup.scenes import CAMERA, ObstacleAppears  # which build on this module

            scene = ObstacleAppears()
            fps, frames, poses = scene.fps, scene.frames(), scene.poses()
            count = write_bag(
                options.out, frames, CAMERA, poses, options.instruction, fps, actions=scene.actions, **how
            )
        else:
            pairs, intrinsics, poses = read_folder(options.folder, options.frames)
            count = write_bag(options.out, load_frames(pairs), intrinsics, poses, options.instruction, fps, **how)
    except (ValueError, OSError, KeyError) as error:
        print(f"make_bag: {error}", file=sys.stderr)
        return 1
    print(f"{options.out}: {count} frames, {count / fps:.1f} s at {fps:g} Hz")
    return 0


if __name__ == "__main__":
    sys.exit(main())
