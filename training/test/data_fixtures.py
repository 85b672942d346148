"""Small data sets in both layouts, written by the project's own writer."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from dual_nav_training.lerobot import CameraSetting
from dual_nav_training.lerobot_writer import CeFrame, CeSceneWriter, N1Frame, N1SceneWriter
from dual_nav_training.trajectory_labels import camera_mount

SETTING = CameraSetting(60, 0, 30)
FORWARD, LEFT, RIGHT = 1, 2, 3
# Two steps, two turns to the left and one back, three steps; then a shorter way.
ACTIONS = ([FORWARD, FORWARD, LEFT, LEFT, RIGHT, FORWARD, FORWARD, FORWARD], [FORWARD] * 5)
GOALS = ([4, 3, -1, -1, -1, 3, 2, 1, -1], [5, 4, 3, 2, 1, -1])
CE_LENGTHS = [len(goals) for goals in GOALS]
N1_LENGTHS = [12, 9]
CAMERA_FORWARD = 0.12


def walk(actions: list[int]) -> list[tuple[float, float, float]]:
    """Poses x, y, yaw from the origin on."""
    poses = [(0.0, 0.0, 0.0)]
    for action in actions:
        x, y, yaw = poses[-1]
        if action == FORWARD:
            poses.append((x + 0.25 * math.cos(yaw), y + 0.25 * math.sin(yaw), yaw))
        else:
            poses.append((x, y, yaw + math.radians(15 if action == LEFT else -15)))
    return poses


def robot(x: float, y: float, yaw: float) -> np.ndarray:
    pose = np.eye(4)
    pose[:2, :2] = [[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]]
    pose[:2, 3] = (x, y)
    return pose


def write_ce(root: Path) -> Path:
    """Two episodes; the grey of an image is ten times its frame's number, depth 1 m and a decimetre per frame."""
    mount = camera_mount(math.radians(SETTING.down_deg), CAMERA_FORWARD)
    mount[2, 3] = SETTING.height_cm / 100
    intrinsic = np.asarray([[30.0, 0, 19.5], [0, 30, 14.5], [0, 0, 1]])
    with CeSceneWriter(root / "scene", SETTING, intrinsic, CAMERA_FORWARD, 1.0) as writer:
        for actions, goals, texts in zip(
            ACTIONS, GOALS, (["Go to the lamp.", "Find the lamp."], ["Stop at the sofa."]), strict=True
        ):
            frames = [
                CeFrame(
                    actions[index - 1] if index else -1,
                    robot(*pose) @ mount,
                    {camera: np.full((30, 40, 3), 10 * index, np.uint8) for camera in ("level", "look_down")},
                    {camera: np.full((30, 40), 1 + index / 10, np.float32) for camera in ("level", "look_down")},
                    (20.0 + index, 10.5) if goals[index] >= 0 else (0.0, 0.0),
                    goals[index],
                )
                for index, pose in enumerate(walk(actions))
            ]
            writer.add_episode(texts, frames)
    return root


def write_n1(root: Path) -> Path:
    """Two episodes straight ahead, 0.1 m a frame, along x of the world; the camera 0.1 m ahead of the robot."""
    extrinsic = np.eye(4)
    extrinsic[:3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]
    extrinsic[:3, 3] = (0.0, 0.1, 0.5)
    body_axes = np.asarray([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])  # right, forward, up in the robot's frame
    intrinsic = np.asarray([[30.0, 0, 19.5], [0, 30, 14.5], [0, 0, 1]])
    obstacles, free = np.asarray([[1.0, 2.0], [3.0, 4.0]]), np.asarray([[0.0, 0.0]])
    (root / "group").mkdir(parents=True)
    with N1SceneWriter(root / "group" / "scene", intrinsic, extrinsic, obstacles, free, 10.0) as writer:
        for number, length in enumerate(N1_LENGTHS):
            frames = []
            for index in range(length):
                body = robot(0.1 * index, 0.5, 0.0)
                body[:3, :3] = body[:3, :3] @ body_axes
                grey = np.full((30, 40, 3), 100 * number + 10 * index, np.uint8)
                frames.append(N1Frame(body @ extrinsic, grey, np.full((30, 40), 1 + index / 10, np.float32)))
            writer.add_episode(["Go on."], frames)
    return root
