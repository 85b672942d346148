"""Recordings of every storage and compression are read as they are; only stamps change, and only where they must."""

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: source scripts/env.sh")

from rclpy.serialization import deserialize_message, serialize_message
from synthetic import CAMERA, poses, render, write_corridor

from dual_nav_bringup.player import message_class
from dual_nav_util.images import depth_from_image, rgb_from_compressed, rgb_from_image
from dual_nav_util.recording import (
    SECOND,
    STAMPED_TYPES,
    Recording,
    RecordingError,
    Topic,
    choose_topics,
    read_stamp,
    with_stamp,
)

STORAGES = [
    ("mcap", "none"),
    ("mcap", "chunk"),
    ("mcap", "message"),
    ("sqlite3", "none"),
    ("sqlite3", "message"),
    ("sqlite3", "file"),
]


@pytest.fixture(scope="module")
def corridor(tmp_path_factory) -> Path:
    return write_corridor(tmp_path_factory.mktemp("bag") / "corridor", count=4)


@pytest.mark.parametrize(("storage", "compression"), STORAGES)
def test_every_storage_gives_the_same_messages_in_order_of_time(tmp_path, corridor, storage, compression):
    other = write_corridor(tmp_path / "bag", count=4, storage=storage, compression=compression)
    with Recording(corridor) as first, Recording(other) as second:
        names = [topic.name for topic in first.topics]
        messages = list(second.messages(names))
        by_topic = [
            sorted(found, key=lambda m: (m.topic, m.time_ns)) for found in (list(first.messages(names)), messages)
        ]
        assert by_topic[0] == by_topic[1]
        times = [message.time_ns for message in messages]
        assert times == sorted(times)


@pytest.mark.parametrize("jpeg", [False, True])
def test_images_depth_and_odometry_arrive_as_they_were_rendered(tmp_path, jpeg):
    bag = write_corridor(tmp_path / "bag", count=3, jpeg=jpeg)
    way = poses(3, 5.0)
    with Recording(bag) as recording:
        chosen = choose_topics(recording, {})
        found = {played: [] for played in chosen}
        for message in recording.messages([topic.name for topic in chosen.values()]):
            played = next(played for played, topic in chosen.items() if topic.name == message.topic)
            found[played].append(deserialize_message(message.data, message_class(message.type)))
    for number, (rgb, depth, info) in enumerate(zip(found["rgb"], found["depth"], found["camera_info"], strict=True)):
        expected = render(way[number])
        pixels = rgb_from_compressed(rgb, "rgb") if jpeg else rgb_from_image(rgb, "rgb")
        difference = np.abs(pixels.astype(int) - expected.rgb)
        assert difference.mean() < (6 if jpeg else 0.01)  # JPEG at quality 90; swapped channels differ by over 20
        assert np.allclose(depth_from_image(depth, "depth"), expected.depth / 1000, atol=1e-6)
        assert (info.k[0], info.k[2], info.k[5]) == (CAMERA.fx, CAMERA.cx, CAMERA.cy)
        assert rgb.header.stamp == depth.header.stamp == info.header.stamp
    last = found["odom"][-1]
    assert last.header.frame_id == "odom"
    assert last.pose.pose.position.x == pytest.approx(way[2, 0], abs=1e-6)
    assert last.twist.twist.linear.x == pytest.approx(0.4, abs=0.01)


def test_a_new_stamp_changes_nothing_else_of_a_message(corridor):
    with Recording(corridor) as recording:
        types = {message.type: message for message in recording.messages([topic.name for topic in recording.topics])}
    assert set(types) - {"std_msgs/msg/String"} <= STAMPED_TYPES
    for kind, message in types.items():
        if kind not in STAMPED_TYPES:
            continue
        wanted = 1_800_000_000 * SECOND + 987_654_321
        changed = deserialize_message(with_stamp(message.data, wanted), message_class(kind))
        expected = deserialize_message(message.data, message_class(kind))
        expected.header.stamp.sec, expected.header.stamp.nanosec = 1_800_000_000, 987_654_321
        assert changed == expected
        assert read_stamp(serialize_message(changed)) == wanted


def test_a_folder_without_metadata_is_read_from_its_one_file(tmp_path, corridor):
    shutil.copy(next(corridor.glob("*.mcap")), tmp_path / "cut.mcap")
    with Recording(tmp_path) as recording, Recording(corridor) as whole:
        assert {topic.name for topic in recording.topics} == {topic.name for topic in whole.topics}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "no recording at"),
        (lambda path: path.mkdir(), "0 .mcap or .db3 files"),
        (lambda path: path.write_text("no bag"), "cannot be read"),
    ],
)
def test_what_is_no_recording_is_refused_by_name(tmp_path, make, said):
    make(tmp_path / "x.mcap")
    with pytest.raises(RecordingError, match=said) as raised:
        Recording(tmp_path / "x.mcap")
    assert "x.mcap" in str(raised.value)


class Listing:
    """The part of a Recording that choosing topics looks at."""

    path = "somewhere"

    def __init__(self, **topics: str):
        self.topics = [Topic(f"/{name.replace('__', '/')}", kind, 3) for name, kind in topics.items()]


IMAGE, INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"
REALSENSE = Listing(
    camera__camera__color__image_raw=IMAGE,
    camera__camera__color__camera_info=INFO,
    camera__camera__depth__camera_info=INFO,
    camera__camera__infra1__image_rect_raw=IMAGE,
    camera__camera__aligned_depth_to_color__image_raw=IMAGE,
    robot__odom="nav_msgs/msg/Odometry",
)


def test_topics_of_a_realsense_driver_are_found_whatever_comes_before_their_names():
    assert {played: topic.name for played, topic in choose_topics(REALSENSE, {}).items()} == {
        "rgb": "/camera/camera/color/image_raw",
        "depth": "/camera/camera/aligned_depth_to_color/image_raw",
        "camera_info": "/camera/camera/color/camera_info",
        "odom": "/robot/odom",
    }


def test_a_given_remap_comes_before_what_would_be_found():
    chosen = choose_topics(REALSENSE, {"/camera/camera/infra1/image_rect_raw": "rgb"})
    assert chosen["rgb"].name == "/camera/camera/infra1/image_rect_raw"


@pytest.mark.parametrize(
    ("remap", "said"),
    [
        ({"/nothing": "rgb"}, "not in the recording, which has: /camera"),
        ({"/robot/odom": "rgb"}, "is nav_msgs/msg/Odometry, rgb must be sensor_msgs/msg/Image or"),
        ({"/robot/odom": "odometry"}, "the nodes have no topic 'odometry'"),
    ],
)
def test_a_remap_that_cannot_work_is_refused(remap, said):
    with pytest.raises(RecordingError, match=said):
        choose_topics(REALSENSE, remap)


def test_a_recording_without_camera_image_is_refused_with_what_it_has():
    with pytest.raises(RecordingError, match=r"no camera image.*--remap.*/odom"):
        choose_topics(Listing(odom="nav_msgs/msg/Odometry"), {})
