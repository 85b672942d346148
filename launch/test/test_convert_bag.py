"""A recording becomes training data: steps, actions, instruction and pixel goals of the way that was driven."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: source scripts/env.sh")

from synthetic import poses, write_corridor

from dual_nav_bringup.make_bag import RgbdFrame, write_bag
from dual_nav_bringup.scenes import CAMERA, render
from dual_nav_training import convert_bag
from dual_nav_training.convert_bag import Mount, action_between, convert, until_backwards
from dual_nav_training.lerobot import VlnCeData
from dual_nav_training.samples import S2Dataset
from dual_nav_util.recording import Message

COUNT, FPS = 40, 5.0
MOUNT = Mount(height=0.6, forward=0.0, pitch=0.0)


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    """3.1 m along the corridor, 8 cm a frame, the heading swinging by 9°."""
    folder = tmp_path_factory.mktemp("convert")
    bag = write_corridor(folder / "corridor", count=COUNT, fps=FPS, compression="chunk")
    frames, left_out = convert(bag, folder / "data", MOUNT)
    assert (frames, left_out) == (10, 0)
    return folder / "data"


def test_the_scene_is_a_data_set(converted):
    data = VlnCeData(converted, verify="decode")
    assert data.scenes == ["corridor"]
    assert data.instructions == [("Drive along the corridor and stop at its end.",)]
    assert data.actions_from(0).tolist() == [1] * 9 + [0]
    assert data.intrinsic(0)[0, 0] == pytest.approx(CAMERA.fx)


def test_poses_and_images_are_those_of_the_recording(converted):
    data, way = VlnCeData(converted), poses(COUNT, FPS)
    camera = data.poses[data.frames(0)][:, :3, 3]
    step = np.linalg.norm(np.diff(camera[:, :2], axis=0), axis=1)
    assert (step >= 0.25).all()
    assert (step < 0.25 + 0.4 / FPS + 1e-6).all()
    assert (np.abs(camera[:, 2] - 0.6) < 1e-9).all()
    for frame in (0, 5, 9):
        nearest = int(np.argmin(np.linalg.norm(way[:, :2] - camera[frame, :2], axis=1)))
        expected = render(way[nearest])
        assert np.abs(data.rgb(0, frame).astype(int) - expected.rgb).mean() < 6
        assert np.abs(data.depth(0, frame) - expected.depth / 1000.0).max() < 0.002


def test_pixel_goals_are_on_the_floor_of_the_way_to_come(converted):
    data = VlnCeData(converted)
    seen = np.flatnonzero(data.goal_frames >= 0)
    assert len(seen) > 3
    for frame in seen:
        there = data.poses[frame + data.goal_frames[frame]].copy()
        there[2, 3] = 0.0
        local = np.linalg.inv(data.poses[frame]) @ there[:, 3]
        pixel = data.intrinsic(0) @ local[:3] / local[2]
        np.testing.assert_allclose(data.goals[frame], pixel[:2], atol=0.01)
    assert "pixel_goal" in S2Dataset(data).kinds


def test_actions_come_from_what_moved_most():
    still = np.zeros(3)
    assert action_between(still, np.asarray([0.25, 0.0, 0.1])) == 1
    assert action_between(still, np.asarray([0.01, 0.0, 0.26])) == 2
    assert action_between(still, np.asarray([0.01, 0.0, -0.26])) == 3


def test_an_episode_ends_where_the_robot_drives_backwards():
    message = Message("", "", 0, b"")
    way = [(0.0, 0.0, 0.0), (0.3, 0.0, 0.0), (0.6, 0.0, 0.0), (0.3, 0.0, 0.0)]
    steps = [convert_bag.Step(0, np.asarray(pose), message, message) for pose in way]
    assert len(until_backwards(steps)) == 3
    assert len(until_backwards(steps[:3])) == 3


def test_a_wall_hides_the_floor_behind_it():
    """The same way, once with a wall 1 m ahead: the goal is then nearer than the wall."""
    cameras = np.stack([convert_bag.camera_pose(np.asarray([0.25 * i, 0.0, 0.0]), MOUNT) for i in range(13)])
    intrinsic = np.asarray([[100.0, 0, 79.5], [0, 100, 99.5], [0, 0, 1]])
    free, walled = np.zeros((200, 160), np.float32), np.full((200, 160), 1.0, np.float32)
    assert convert_bag.pixel_goal(cameras, free, intrinsic, MOUNT)[2] == 12
    assert convert_bag.pixel_goal(cameras, walled, intrinsic, MOUNT)[2] == 5


def test_what_a_recording_lacks_is_said(tmp_path, capsys):
    def frames():
        return (RgbdFrame(f.rgb, f.depth) for f in (render(pose) for pose in poses(4, FPS)))

    bag = tmp_path / "silent"
    write_bag(bag, frames(), CAMERA, poses(4, FPS), "", FPS)
    words = [str(bag), str(tmp_path / "data"), "--height", "0.6"]
    assert convert_bag.main(words) == 1
    assert "no instruction: give one with --instruction" in capsys.readouterr().err
    assert convert_bag.main([*words, "--instruction", "Go on."]) == 0
    assert not list((tmp_path / "data").glob("*.partial"))
    lines = (tmp_path / "data" / "silent" / "meta" / "episodes.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["tasks"] == ["Go on."]
    assert convert_bag.main([str(tmp_path / "nothing"), str(tmp_path), "--height", "0.6"]) == 1
    assert "no recording at" in capsys.readouterr().err
