"""Obstacles from depth: geometry, noise, memory; on synthetic images and on a real recording."""

import json
import math
import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from motion_simulation import CAMERA, MOUNT, DepthCamera

from s1_controller_node.obstacles import (
    CameraMount,
    Intrinsics,
    ObstacleConfig,
    ObstacleDetector,
    ObstacleMemory,
    Obstacles,
)

SHARED = Path(os.environ.get("NAV_SHARED_DIR", Path(__file__).resolve().parents[3].parent / "shared"))
RECORDING = SHARED / "data" / "realsense_lab_rgbd"
CONFIG = ObstacleConfig()
ORIGIN = np.zeros(3)


def camera(*boxes, shake=0.0, mount=MOUNT, seed=0):
    given = np.array(boxes, dtype=float).reshape(-1, 6)
    return DepthCamera(np.random.default_rng(seed), given, mount=mount, shake=shake)


def detector(mount=MOUNT, **changes):
    return ObstacleDetector(CAMERA, mount, ObstacleConfig(**changes))


@pytest.mark.parametrize(
    "mount",
    [
        MOUNT,
        CameraMount(height=0.3, pitch=0.0),
        CameraMount(height=1.2, pitch=math.radians(35.0), roll=math.radians(10.0), x=0.2, y=-0.1, yaw=0.1),
    ],
)
def test_a_box_is_found_where_it_stands_and_the_floor_is_not(mount):
    scan = detector(mount).scan(camera((1.2, 0.1, 0.0, 1.5, 0.5, 0.9), mount=mount).image(ORIGIN))
    points = scan.obstacles.points
    assert len(points) >= 5
    assert points[:, 0].min() == pytest.approx(1.2, abs=0.05)
    assert points[:, 1].min() == pytest.approx(0.1, abs=0.06)
    assert points[:, 0].max() <= 1.56
    assert points[:, 1].max() <= 0.56
    assert scan.valid_share > 0.9
    assert not len(detector(mount).scan(camera(mount=mount).image(ORIGIN)).obstacles.points)


@pytest.mark.parametrize(
    ("box", "seen"),
    [
        ((1.0, -0.2, 0.0, 1.2, 0.2, 0.03), False),  # a threshold: driven over
        ((1.0, -0.2, 0.0, 1.2, 0.2, 0.14), True),
        ((1.0, -0.2, 1.0, 1.2, 0.2, 1.5), False),  # passed under
        ((1.0, -0.2, 0.6, 1.2, 0.2, 0.7), True),  # a table top
        ((1.5, -0.01, 0.0, 1.52, 0.01, 0.7), True),  # a chair leg of 2 cm
    ],
)
def test_what_the_robot_can_drive_over_or_under_is_no_obstacle(box, seen):
    scan = detector().scan(camera(box).image(ORIGIN))
    assert bool(len(scan.obstacles.points)) == seen


def test_a_step_down_is_an_obstacle_at_its_edge():
    image = camera().image(ORIGIN).astype(np.float64) / 1000.0
    d = detector()
    rows = np.arange(CAMERA.height)[:, None] * np.ones(CAMERA.width)
    floor_x = np.where(d._rays[2] < 0, -MOUNT.height / d._rays[2] * d._rays[0] + MOUNT.x, np.inf)
    beyond = floor_x > 1.2  # the floor ends 1.2 m ahead and goes on 0.3 m lower
    lower = np.where(d._rays[2] < 0, -(MOUNT.height + 0.3) / np.minimum(d._rays[2], -1e-6), 0.0)
    image = np.where(beyond & (rows > 0), np.where(lower > 8.0, 0.0, lower), image)
    points = d.scan(image.astype(np.float32)).obstacles.points
    ahead = points[np.abs(points[:, 1]) < 0.3]
    assert ahead[:, 0].min() == pytest.approx(1.2, abs=0.1)


def test_noise_on_an_empty_floor_makes_no_confirmed_obstacle():
    d, memory, source = detector(), ObstacleMemory(CONFIG), camera(shake=math.radians(0.3), seed=3)
    ghosts = 0
    for i in range(200):
        memory.update(d, d.scan(source.image(ORIGIN)), ORIGIN, i * 100_000_000)
        around = memory.around(ORIGIN)
        ghosts += bool((np.hypot(*around.T) < 1.2).any())
    assert ghosts <= 2  # 1 %


def test_an_obstacle_below_the_picture_is_remembered_and_one_in_it_that_is_gone_is_forgotten():
    d, memory = detector(), ObstacleMemory(CONFIG)
    low, tall = (1.4, -0.2, 0.0, 1.6, 0.2, 0.15), (2.0, 0.3, 0.0, 2.2, 0.5, 1.2)
    source = camera(low, tall)
    stamp = 0
    for x in np.arange(0.0, 1.0, 0.04):  # the low box leaves the picture at the bottom
        pose = np.array([x, 0.0, 0.0])
        stamp += 100_000_000
        memory.update(d, d.scan(source.image(pose)), pose, stamp)
    around = memory.around(pose)
    assert (np.abs(around[:, 1]) < 0.25).any(), "the low box was forgotten"
    assert (around[:, 1] > 0.28).any()
    source.boxes = np.zeros((0, 6))
    for _ in range(3):
        stamp += 100_000_000
        memory.update(d, d.scan(source.image(pose)), pose, stamp)
    around = memory.around(pose)
    assert (np.abs(around[:, 1]) < 0.25).any()  # nobody could see that the low one is gone
    assert not (around[:, 1] > 0.28).any()  # the tall one was seen through
    scan, random = d.scan(source.image(pose)), np.random.default_rng(0)
    for _ in range(round(2 * CONFIG.memory_time / 0.1)):  # while the robot stands before it, it stays
        stamp += 100_000_000
        memory.update(d, scan, pose + random.normal(0.0, (0.002, 0.002, 0.0)), stamp)
    assert (np.abs(memory.around(pose)[:, 1]) < 0.25).any()
    for step in range(1, round(2 * CONFIG.memory_time / 0.1)):  # and is forgotten while it drives, here to and fro
        there = pose + np.array([0.04 * abs(step / 10 % 10 - 5), 0.0, 0.0])
        memory.update(d, scan, there, stamp + step * 100_000_000)
    assert not len(memory.around(pose))


def test_memory_stays_bounded_while_the_same_things_are_seen_for_a_long_time():
    d, memory = detector(), ObstacleMemory(CONFIG)
    source = camera((1.0, -2.0, 0.0, 3.0, 2.0, 1.0), shake=math.radians(0.3))
    sizes = []
    for i in range(120):
        pose = np.array([0.005 * i, 0.0, 0.1 * math.sin(0.1 * i)])
        memory.update(d, d.scan(source.image(pose)), pose, i * 33_000_000)
        sizes.append(len(memory._cells.points))
    assert max(sizes) < 1500
    assert np.mean(sizes[90:]) < 1.5 * np.mean(sizes[20:50])


def test_missing_depth_is_unknown_and_counted():
    d = detector()
    image = camera().image(ORIGIN)
    assert d.scan(np.zeros_like(image)).valid_share == 0.0
    as_metres = image.astype(np.float32) / 1000.0
    as_metres[as_metres == 0.0] = np.nan
    as_metres[0, 0] = np.inf
    both = d.scan(image), d.scan(as_metres)
    assert both[0].valid_share == pytest.approx(both[1].valid_share, abs=1e-9)
    half = image.copy()
    half[:, : CAMERA.width // 2] = 0
    assert d.scan(half).valid_share == pytest.approx(0.5 * both[0].valid_share, abs=0.05)


@pytest.mark.parametrize(
    ("depth", "error", "message"),
    [
        (np.zeros((480, 640), np.uint16), ValueError, r"expected \(height, width\) = \(120, 160\)"),
        (np.zeros((120, 160), np.int32), TypeError, "expected uint16 millimetres or float metres, got int32"),
        ([[1.0]], TypeError, "expected uint16"),
        (np.full((120, 160), -1.0, np.float32), ValueError, "at least 0"),
    ],
)
def test_a_wrong_depth_image_is_refused_with_what_was_expected(depth, error, message):
    with pytest.raises(error, match=message):
        detector().scan(depth)


def test_a_full_size_image_takes_less_than_three_milliseconds():
    full = Intrinsics(640, 480, 388.0, 388.0, 319.5, 239.5)
    d = ObstacleDetector(full, MOUNT, CONFIG)
    image = np.repeat(np.repeat(camera((1.0, -0.5, 0.0, 1.5, 0.5, 1.0)).image(ORIGIN), 4, axis=0), 4, axis=1)
    memory = ObstacleMemory(CONFIG)
    times = []
    for i in range(60):
        started = time.thread_time()  # of this thread: other processes do not count
        memory.update(d, d.scan(image), ORIGIN, i)
        times.append(time.thread_time() - started)
    assert np.median(times) < 0.003


def test_the_mount_can_be_read_from_a_transform():
    mount = CameraMount(height=0.5, pitch=0.3, roll=-0.2, x=0.1, y=0.05, yaw=0.4)
    again = CameraMount.from_transform(mount.rotation(), np.array([0.1, 0.05, 0.5]))
    for name in ("height", "pitch", "roll", "x", "y", "yaw"):
        assert getattr(again, name) == pytest.approx(getattr(mount, name))
    with pytest.raises(ValueError, match="rotation: expected an orthonormal"):
        CameraMount.from_transform(2.0 * np.eye(3), np.zeros(3))


def test_holes_and_cells_keep_their_place_in_obstacles():
    given = Obstacles(np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([0.1, 0.2]), np.array([0.5, 0.6]))
    kept = given.where(np.array([False, True])).joined(Obstacles.none())
    assert kept.points.tolist() == [[2.0, 0.0]]
    assert (kept.low[0], kept.high[0]) == (0.2, 0.6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CameraMount(height=-0.1), "CameraMount.height"),
        (lambda: CameraMount(pitch=math.nan), "CameraMount.pitch"),
        (
            lambda: ObstacleConfig(robot_height=0.05),
            "ObstacleConfig.robot_height: expected more than floor_clearance",
        ),
        (lambda: ObstacleConfig(cell=0.0), "ObstacleConfig.cell"),
        (lambda: Intrinsics(640, 480, 0.0, 388.0, 320.0, 240.0), "Intrinsics.fx"),
    ],
)
def test_a_bad_parameter_is_refused_with_its_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.skipif(not RECORDING.is_dir(), reason=f"no recording at {RECORDING} (NAV_SHARED_DIR)")
class TestRealRecording:
    """RealSense on a low mount: 0.63 m high, pitched about 20° down, rolled about 10°; floor fitted per frame."""

    EMPTY = tuple(f"{i:06d}" for i in (*range(40, 50), *range(55, 59)))

    @staticmethod
    def frames():
        given = json.loads((RECORDING / "intrinsics.json").read_text())
        intrinsics = Intrinsics(*(given[k] for k in ("width", "height", "fx", "fy", "cx", "cy")))
        for frame in json.loads((RECORDING / "frames.json").read_text()):
            if frame["floor"] is None:
                continue
            depth = cv2.imread(str(RECORDING / "depth" / f"{frame['id']}.png"), cv2.IMREAD_UNCHANGED)
            floor = frame["floor"]
            mount = CameraMount(
                height=floor["camera_height_m"],
                pitch=math.radians(floor["pitch_down_deg"]),
                roll=math.radians(floor["roll_deg"]),
            )
            yield frame["id"], intrinsics, mount, depth

    def test_the_floor_is_no_obstacle_and_depth_is_good(self):
        """The pictures of frames 40 … 49 and 55 … 58 show nothing but floor nearer than 1.5 m."""
        seen = 0
        for name, intrinsics, mount, depth in self.frames():
            scan = ObstacleDetector(intrinsics, mount, CONFIG).scan(depth)
            assert scan.valid_share > 0.85, name
            if name in self.EMPTY:
                seen += 1
                points = scan.obstacles.points
                assert len(points[np.hypot(*points.T) < 1.5]) == 0, name
        assert seen == len(self.EMPTY)

    def test_a_cable_hanging_beside_the_robot_is_seen(self):
        """Frames 51 … 53: a cable as thick as a finger, 0.6 m ahead to the right."""
        for name, intrinsics, mount, depth in self.frames():
            if "000051" <= name <= "000053":
                upright = ObstacleDetector(intrinsics, mount, CONFIG).scan(depth).obstacles
                points = upright.where(upright.high > 0.0).points
                near = points[np.hypot(*points.T) < 1.0]
                assert len(near) >= 3, name
                assert near.mean(axis=0) == pytest.approx([0.58, -0.31], abs=0.06)

    def test_one_nominal_mount_for_the_whole_drive_keeps_the_floor_out_near_the_robot(self):
        """Parameters give one mount, and a real one shakes: floor cells must stay out of the braking distance."""
        wrong = total = 0
        for name, intrinsics, _, depth in self.frames():
            if name not in self.EMPTY:
                continue
            mount = CameraMount(height=0.634, pitch=math.radians(20.0), roll=math.radians(10.5))
            points = ObstacleDetector(intrinsics, mount, CONFIG).scan(depth).obstacles.points
            wrong += bool((np.hypot(*points.T) < 1.0).any())
            total += 1
        assert total == len(self.EMPTY)
        assert wrong == 0

    def test_with_the_roll_taken_the_wrong_way_the_floor_would_stop_the_robot(self):
        """Shows that the sign of the angles matters and is right."""
        for _, intrinsics, mount, depth in self.frames():
            wrong = CameraMount(height=mount.height, pitch=mount.pitch, roll=-mount.roll)
            assert len(ObstacleDetector(intrinsics, wrong, CONFIG).scan(depth).obstacles.points) > 50
            break
