"""Small data sets in the two LeRobot layouts, made of drawn pictures: for tests of the trainers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dual_nav_training.lerobot import (
    SEPARATOR,
    CameraSetting,
    ce_image_folder,
    ce_image_name,
    n1_image_folder,
    parquet_file,
)
from dual_nav_training.random_checkpoint import make_config
from dual_nav_training.trajectory_labels import camera_mount

SETTING = CameraSetting()
WIDTH, HEIGHT = 80, 60
FRAMES = 12
_GOAL_FRAME = 7  # the pixel goals of the first frames are at this frame
_INSTRUCTIONS = (
    "Walk to the sofa and stop.",
    "Go past the table, then turn left.",
    "Stop at the door.",
    "Turn right.",
)


def picture(rng: np.random.Generator) -> np.ndarray:
    """uint8 BGR (HEIGHT, WIDTH, 3): large soft blobs, different for every draw."""
    coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def depth_picture(rng: np.random.Generator, scale: float) -> np.ndarray:
    """uint16 (HEIGHT, WIDTH), 0.5 m to 4.5 m."""
    coarse = rng.uniform(0.5, 4.5, (4, 5)).astype(np.float32)
    return (cv2.resize(coarse, (WIDTH, HEIGHT)) * scale).astype(np.uint16)


def _curve(rng: np.random.Generator, frames: int) -> np.ndarray:
    """(frames, 3) x, y, yaw of a robot that drives a bend of its own in steps of 0.25 m."""
    yaw = np.cumsum(np.full(frames, rng.uniform(-0.15, 0.15)))
    steps = 0.25 * np.column_stack((np.cos(yaw), np.sin(yaw)))
    return np.column_stack((np.cumsum(steps, axis=0), yaw))


def make_vln_ce(root: Path, episodes: int = 4, seed: int = 0) -> Path:
    """Episodes that see a pixel goal first, then turn, then stop."""
    rng = np.random.default_rng(seed)
    scene, down = root / "flat", SETTING.suffix("look_down")
    lines = []
    for number in range(episodes):
        poses = []
        for x, y, yaw in _curve(rng, FRAMES):
            body = np.eye(4)
            body[:2, :2] = [[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]]
            body[:2, 3] = x, y
            poses.append(body @ camera_mount(math.radians(SETTING.down_deg)))
        goal_frames = [_GOAL_FRAME - frame if frame < 6 else -1 for frame in range(FRAMES)]
        turn = int(rng.integers(2, 4))
        table = pa.table(
            {
                # the action that led to the frame: ahead to the goal's frame, then turns
                "action": [-1] + [1] * 7 + [turn] * (FRAMES - 8),
                f"pose.{down}": [pose.tolist() for pose in poses],
                f"goal.{down}": [rng.integers(5, HEIGHT - 5, 2).astype(float).tolist() for _ in range(FRAMES)],
                f"relative_goal_frame_id.{down}": goal_frames,
            }
        )
        file = parquet_file(scene, number)
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, file)
        for camera in ("level", "look_down"):
            for kind in ("rgb", "depth"):
                folder = ce_image_folder(scene, number, kind, SETTING.suffix(camera))
                folder.mkdir(parents=True, exist_ok=True)
                for frame in range(FRAMES):
                    image = picture(rng) if kind == "rgb" else depth_picture(rng, 1000.0)
                    cv2.imwrite(str(folder / ce_image_name(number, frame, kind)), image)
        text = _INSTRUCTIONS[number % len(_INSTRUCTIONS)]
        lines.append({"episode_index": number, "tasks": [SEPARATOR.join([text])], "length": FRAMES})
    (scene / "meta").mkdir()
    (scene / "meta" / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def make_vln_n1(root: Path, episodes: int = 4, seed: int = 0) -> Path:
    """Episodes of a drive along a bend, with a few obstacle points beside it."""
    rng = np.random.default_rng(seed)
    scene = root / "group" / "flat"
    extrinsic = np.array([[1, 0, 0, 0], [0, 0, -1, 0.1], [0, 1, 0, 0.5], [0, 0, 0, 1]], float)
    intrinsic = np.array([[60, 0, WIDTH / 2], [0, 60, HEIGHT / 2], [0, 0, 1]], float)
    frames, lines = 20, []
    for number in range(episodes):
        poses = []
        for x, y, yaw in _curve(rng, frames):
            body = np.eye(4)  # axes right, forward, up
            body[:2, :2] = [[math.sin(yaw), math.cos(yaw)], [-math.cos(yaw), math.sin(yaw)]]
            body[:2, 3] = x, y
            poses.append((body @ extrinsic).tolist())
        table = pa.table(
            {
                "observation.camera_intrinsic": [intrinsic.tolist()] * frames,
                "observation.camera_extrinsic": [extrinsic.tolist()] * frames,
                "action": poses,
            }
        )
        file = parquet_file(scene, number)
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, file)
        for kind, suffix in (("rgb", "jpg"), ("depth", "png")):
            folder = n1_image_folder(scene, kind)
            folder.mkdir(parents=True, exist_ok=True)
            for frame in range(frames):
                image = picture(rng) if kind == "rgb" else depth_picture(rng, 10000.0)
                cv2.imwrite(str(folder / f"{number * frames + frame:06d}.{suffix}"), image)
        first = number * frames
        lines.append({"episode_index": number, "image_index": {"min": first, "max": first + frames - 1}})
    (scene / "meta").mkdir()
    (scene / "meta" / "episodes_stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    points = [f"{x:.2f} {y:.2f} 0.2 0 0 0.5" for x, y in rng.uniform(-4, 4, (20, 2))]
    properties = "".join(f"property float {name}\n" for name in ("x", "y", "z", "red", "green", "blue"))
    header = f"ply\nformat ascii 1.0\nelement vertex {len(points)}\n{properties}end_header\n"
    (scene / "meta" / "pointcloud.ply").write_text(header + "\n".join(points) + "\n")
    return root


def tiny_config(system1: str) -> dict[str, Any]:
    """config.json of a checkpoint that trains in milliseconds per step: ``make_config("tiny")`` with small images."""
    config = make_config("tiny", system1)
    if sizes := config.get("system1_config"):
        encoder = "encoder" if "encoder" in sizes else "vision"
        small = {"image_size": 42, encoder: {**sizes.get(encoder, {}), "position_grid": 3}}
        config["system1_config"] = sizes | small
    return config
