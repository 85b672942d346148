"""Writes scenes of the two LeRobot v2 layouts that `lerobot.py` describes.

A scene grows in a folder with another name and gets its own when it is complete: whatever interrupts the writing,
there is no scene with half an episode.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dual_nav_training.lerobot import (
    CE_DEPTH_SCALE,
    EPISODES_PER_CHUNK,
    N1_DEPTH_SCALE,
    NO_GOAL,
    OBSTACLE_COLOUR,
    SEPARATOR,
    Camera,
    CameraSetting,
    ce_image_folder,
    ce_image_name,
    n1_image_folder,
    parquet_file,
)

JPEG_QUALITY = 90
_PNG_COMPRESSION = 1  # higher levels take several times as long for a few percent
_FREE_COLOUR = (0.5, 0.5, 0.5)
_PARTIAL = ".partial"  # suffix of a scene that is not complete
CAMERAS: tuple[Camera, ...] = ("level", "look_down")


@dataclass(frozen=True)
class CeFrame:
    """One frame of the VLN-CE layout.

    action: the one that led here, -1 for the first. pose: (4, 4) of the camera that looks down, optical to world.
    goal: (column, row) in its image, and goal_frames to it; NO_GOAL without one. rgb: uint8 (H, W, 3) and depth:
    float32 (H, W) metres by camera.
    """

    action: int
    pose: np.ndarray
    rgb: dict[Camera, np.ndarray]
    depth: dict[Camera, np.ndarray]
    goal: tuple[float, float] = (0.0, 0.0)
    goal_frames: int = NO_GOAL


@dataclass(frozen=True)
class N1Frame:
    """One frame of the vln_n1 layout. pose: (4, 4) camera (right, up, back) to world; rgb, depth as above."""

    pose: np.ndarray
    rgb: np.ndarray
    depth: np.ndarray


class _SceneWriter:
    """What both layouts share. Leaving the `with` block without an error makes the scene complete."""

    def __init__(self, folder: Path, fps: float) -> None:
        self._final, self._fps = folder, fps
        self.folder = folder.with_name(folder.name + _PARTIAL)
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "meta").mkdir(parents=True)
        self.episodes: list[dict[str, Any]] = []
        self._frames = 0
        self._features: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Any:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None or not self.episodes:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        self._write_meta()
        shutil.rmtree(self._final, ignore_errors=True)
        self.folder.rename(self._final)

    @contextmanager
    def _episode(self) -> Iterator[int]:
        """Number of the episode that is written inside; its images go when that fails."""
        number = len(self.episodes)
        try:
            yield number
        except BaseException:
            for path in self.folder.glob(f"videos/*/*/episode_{number:06d}_*"):
                path.unlink()
            raise

    def _add(self, columns: dict[str, Any], instructions: Sequence[str]) -> None:
        """Write the parquet file of the next episode; `columns` by name, a row per frame."""
        number, length = len(self.episodes), len(next(iter(columns.values())))
        table = pa.table(
            {
                **columns,
                "timestamp": pa.array(np.arange(length) / self._fps, pa.float32()),
                "frame_index": np.arange(length),
                "episode_index": np.full(length, number),
                "index": np.arange(self._frames, self._frames + length),
                "task_index": np.full(length, number),
            }
        )
        path = parquet_file(self.folder, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        self._features = {name: _feature(table.column(name)) for name in table.column_names}
        self.episodes.append({"episode_index": number, "tasks": [SEPARATOR.join(instructions)], "length": length})
        self._frames += length

    def _info(self) -> dict[str, Any]:
        return {
            "codebase_version": "v2.1",
            "robot_type": "differential drive",
            "fps": self._fps,
            "total_episodes": len(self.episodes),
            "total_frames": self._frames,
            "total_tasks": len(self.episodes),
            "total_chunks": 1 + (len(self.episodes) - 1) // EPISODES_PER_CHUNK,
            "chunks_size": EPISODES_PER_CHUNK,
            "splits": {"train": f"0:{len(self.episodes)}"},
            "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
            "features": self._features,
        }

    def _write_meta(self) -> None:
        _write_lines(self.folder / "meta" / "episodes.jsonl", self.episodes)
        tasks = [{"task_index": e["episode_index"], "task": e["tasks"][0]} for e in self.episodes]
        _write_lines(self.folder / "meta" / "tasks.jsonl", tasks)
        (self.folder / "meta" / "info.json").write_text(json.dumps(self._info(), indent=1) + "\n")


class CeSceneWriter(_SceneWriter):
    """Writes a scene of the VLN-CE layout."""

    def __init__(
        self, folder: Path, setting: CameraSetting, intrinsic: np.ndarray, camera_forward: float, fps: float
    ) -> None:
        """intrinsic: (3, 3) pixels, of both cameras. camera_forward: metres they are ahead of the robot's centre."""
        super().__init__(folder, fps)
        self._setting, self._intrinsic, self._camera_forward = setting, intrinsic, camera_forward
        self._cameras = CAMERAS if setting.level_deg != setting.down_deg else CAMERAS[1:]

    def add_episode(self, instructions: Sequence[str], frames: Iterable[CeFrame]) -> int:
        """Write an episode, images as they come; returns the number of its frames."""
        with self._episode() as number:
            return self._add_episode(number, instructions, frames)

    def _add_episode(self, number: int, instructions: Sequence[str], frames: Iterable[CeFrame]) -> int:
        folders = {}
        for camera in self._cameras:
            for kind in ("rgb", "depth"):
                folders[camera, kind] = ce_image_folder(self.folder, number, kind, self._setting.suffix(camera))
                folders[camera, kind].mkdir(parents=True, exist_ok=True)
        rows: list[CeFrame] = []
        for index, frame in enumerate(frames):
            for camera in self._cameras:
                write_rgb(folders[camera, "rgb"] / ce_image_name(number, index, "rgb"), frame.rgb[camera])
                path = folders[camera, "depth"] / ce_image_name(number, index, "depth")
                write_depth(path, frame.depth[camera], CE_DEPTH_SCALE)
            rows.append(CeFrame(frame.action, frame.pose, {}, {}, frame.goal, frame.goal_frames))
        suffix = self._setting.suffix("look_down")
        columns = {
            "action": pa.array([row.action for row in rows], pa.int64()),
            f"pose.{suffix}": _matrices([row.pose for row in rows]),
            f"goal.{suffix}": pa.array([list(row.goal) for row in rows], pa.list_(pa.float32())),
            f"relative_goal_frame_id.{suffix}": pa.array([row.goal_frames for row in rows], pa.int64()),
        }
        self._add(columns, instructions)
        return len(rows)

    def _info(self) -> dict[str, Any]:
        names = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}_{frame_index}.jpg"
        camera = {"camera_forward": self._camera_forward, "camera_intrinsic": self._intrinsic.tolist()}
        return {**super()._info(), **camera, "video_path": names}


class N1SceneWriter(_SceneWriter):
    """Writes a scene of the vln_n1 layout."""

    def __init__(self, folder: Path, intrinsic: np.ndarray, extrinsic: np.ndarray, obstacles: np.ndarray,
                 free: np.ndarray, fps: float) -> None:  # fmt: skip
        """intrinsic (3, 3) pixels; extrinsic (4, 4): camera in the robot's frame of axes right, forward, up;
        obstacles, free: x and y [m] of points of the point cloud, (N, 2)."""
        super().__init__(folder, fps)
        self._intrinsic, self._extrinsic = intrinsic, extrinsic
        self._stats: list[dict[str, Any]] = []
        _write_points(self.folder / "meta" / "pointcloud.ply", obstacles, free)
        for kind in ("rgb", "depth"):
            n1_image_folder(self.folder, kind).mkdir(parents=True)

    def add_episode(self, instructions: Sequence[str], frames: Iterable[N1Frame]) -> int:
        """Write an episode, images as they come; returns the number of its frames."""
        with self._episode() as number:
            return self._add_episode(number, instructions, frames)

    def _add_episode(self, number: int, instructions: Sequence[str], frames: Iterable[N1Frame]) -> int:
        first, poses = self._frames, []
        for index, frame in enumerate(frames):
            name = f"episode_{number:06d}_{index:06d}"  # sorted by name is sorted by time
            write_rgb(n1_image_folder(self.folder, "rgb") / f"{name}.jpg", frame.rgb)
            write_depth(n1_image_folder(self.folder, "depth") / f"{name}.png", frame.depth, N1_DEPTH_SCALE)
            poses.append(frame.pose)
        columns = {
            "observation.camera_intrinsic": _matrices([self._intrinsic] * len(poses)),
            "observation.camera_extrinsic": _matrices([self._extrinsic] * len(poses)),
            "action": _matrices(poses),
        }
        self._add(columns, instructions)
        self._stats.append({"episode_index": number, "image_index": {"min": first, "max": self._frames - 1}})
        return len(poses)

    def _write_meta(self) -> None:
        super()._write_meta()
        _write_lines(self.folder / "meta" / "episodes_stats.jsonl", self._stats)


# ----------------------------------------------------------------------------------------------------- single files


def write_rgb(path: Path, rgb: np.ndarray) -> None:
    """JPEG of a uint8 image (H, W, 3)."""
    _encode(path, rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])


def write_depth(path: Path, depth: np.ndarray, scale: float) -> None:
    """16-bit PNG of depth (H, W) in metres, `scale` units per metre; what does not fit becomes 0, no reading."""
    units = depth * np.float32(scale) + np.float32(0.5)
    units[~(units < 65536.0)] = 0.0
    _encode(path, units.astype(np.uint16), [cv2.IMWRITE_PNG_COMPRESSION, _PNG_COMPRESSION])


def _encode(path: Path, pixels: np.ndarray, options: list[int]) -> None:
    done, data = cv2.imencode(path.suffix, pixels, options)
    if not done:
        raise OSError(f"{path}: the image could not be encoded")
    path.write_bytes(data.tobytes())


def _matrices(values: Sequence[np.ndarray]) -> pa.Array:
    """A column of matrices as lists of rows, as the public readers expect them."""
    return pa.array([np.asarray(value, float).tolist() for value in values], pa.list_(pa.list_(pa.float64())))


def _feature(column: pa.ChunkedArray) -> dict[str, Any]:
    kind = column.type
    while pa.types.is_list(kind):
        kind = kind.value_type
    names = {pa.float32(): "float32", pa.float64(): "float64"}
    return {"dtype": names.get(kind, str(kind)), "shape": list(np.shape(column[0].as_py())) or [1]}


def _write_points(path: Path, obstacles: np.ndarray, free: np.ndarray) -> None:
    """Point cloud on the floor as binary PLY: obstacles blue, as the readers expect, the rest grey."""
    row = np.dtype([(axis, "<f4") for axis in "xyz"] + [(colour, "u1") for colour in ("red", "green", "blue")])
    points = np.zeros(len(obstacles) + len(free), row)
    points["x"], points["y"] = np.concatenate((obstacles, free)).T
    for name, blue, grey in zip(("red", "green", "blue"), OBSTACLE_COLOUR, _FREE_COLOUR, strict=True):
        points[name][: len(obstacles)], points[name][len(obstacles) :] = round(blue * 255), round(grey * 255)
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    header += [f"property float {axis}" for axis in "xyz"]
    header += [f"property uchar {colour}" for colour in ("red", "green", "blue")]
    path.write_bytes("\n".join([*header, "end_header\n"]).encode() + points.tobytes())


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
