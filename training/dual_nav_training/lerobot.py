"""The two LeRobot v2 layouts the models are trained from: where files lie, an index of them, and validation.

`VlnCeData` (planner and dual system) reads `<root>/<scene>/`:
    meta/episodes.jsonl                 episode_index, tasks[0] (instructions joined by SEPARATOR), length
    meta/info.json                      optional: `camera_forward` [m], how far the cameras are ahead of the robot's
        centre, and `camera_intrinsic` (3, 3) pixels
    data/chunk-000/episode_000000.parquet    a row per frame: `action` (the one that led to the frame; first row -1),
        `pose.<H>cm_<P>deg` (4, 4) camera to world, `goal.<H>cm_<P>deg` (column, row), and
        `relative_goal_frame_id.<H>cm_<P>deg` (frames to that goal, -1: none)
    videos/chunk-000/observation.images.rgb.<H>cm_<P>deg/episode_000000_<frame>.jpg, depth beside it (mm, 16-bit PNG)
H is the camera's height, P its pitch downwards: a level one for the prompt, one that looks down for the pixel goal.

`VlnN1Data` (standalone NavDP) reads `<root>/<group>/<scene>/`:
    meta/episodes_stats.jsonl           image_index min and max: the episode's images in the sorted folder
    meta/pointcloud.ply                 obstacle points have the colour (0, 0, 0.5)
    data/chunk-000/*.parquet            `observation.camera_intrinsic` (3, 3), `observation.camera_extrinsic` (4, 4),
        `action` (4, 4) camera to world, axes right, up, back
    videos/chunk-000/observation.images.rgb/*.jpg and observation.images.depth/*.png (1/10000 m)

Everything but the images is read once and kept as memory-mapped arrays in `<root>/.index/`; the index is built anew
when a parquet or meta file changes, or an image comes or goes.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

SEPARATOR = "<INSTRUCTION_SEP>"
CHUNK = "chunk-000"  # of 1000 episodes; more episodes than that in a scene go into the next
EPISODES_PER_CHUNK = 1000
CE_DEPTH_SCALE, N1_DEPTH_SCALE = 1000.0, 10000.0  # depth values of one metre
OBSTACLE_COLOUR = (0.0, 0.0, 0.5)
STOP, FORWARD, TURN_LEFT, TURN_RIGHT = 0, 1, 2, 3
NO_ACTION = -1  # of the first frame: nothing led to it
NO_GOAL = -1

OnProblem = Literal["raise", "skip"]
Verify = Literal["files", "decode"]
Camera = Literal["level", "look_down"]
_INDEX_VERSION = 2
_NAMED = 5  # problems that a message spells out


class DataError(ValueError):
    """A data set or one of its files cannot be used; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a data set."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@dataclass(frozen=True)
class CameraSetting:
    """Height [cm] and pitches [deg, downwards] of the two cameras of the VLN-CE layout, as in its file names."""

    height_cm: int = 60
    level_deg: int = 0
    down_deg: int = 30

    @classmethod
    def of(cls, values: Sequence[int]) -> CameraSetting:
        """From a list of the three; ValueError for anything else."""
        if not isinstance(values, Sequence) or len(values) != 3 or not all(type(value) is int for value in values):
            raise ValueError(
                f"cameras is {values!r}, expected three whole numbers: height [cm], level and downward pitch [deg]"
            )
        return cls(*values)

    def suffix(self, camera: Camera) -> str:
        return f"{self.height_cm}cm_{self.level_deg if camera == 'level' else self.down_deg}deg"

    def pitch_deg(self, camera: Camera) -> int:
        return self.level_deg if camera == "level" else self.down_deg


# ----------------------------------------------------------------------------------------------------------- paths


def chunk_of(episode: int) -> str:
    return f"chunk-{episode // EPISODES_PER_CHUNK:03d}"


def parquet_file(scene: Path, episode: int) -> Path:
    return scene / "data" / chunk_of(episode) / f"episode_{episode:06d}.parquet"


def ce_image_folder(scene: Path, episode: int, kind: Literal["rgb", "depth"], suffix: str) -> Path:
    return scene / "videos" / chunk_of(episode) / f"observation.images.{kind}.{suffix}"


def ce_image_name(episode: int, frame: int, kind: Literal["rgb", "depth"]) -> str:
    return f"episode_{episode:06d}_{frame}.{'jpg' if kind == 'rgb' else 'png'}"


def n1_image_folder(scene: Path, kind: Literal["rgb", "depth"]) -> Path:
    return scene / "videos" / CHUNK / f"observation.images.{kind}"


# ---------------------------------------------------------------------------------------------------------- images


def read_rgb(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """RGB uint8 (H, W, 3). DataError for a file that is missing, broken, or not of `size` (width, height)."""
    return np.ascontiguousarray(_decode(path, cv2.IMREAD_COLOR, np.uint8, 3, size)[..., ::-1])


def read_depth(path: Path, scale: float, size: tuple[int, int] | None = None) -> np.ndarray:
    """Depth float32 (H, W) in metres of a 16-bit PNG with `scale` units per metre; errors as `read_rgb`."""
    return _decode(path, cv2.IMREAD_UNCHANGED, np.uint16, 2, size) / np.float32(scale)


def _decode(path: Path, flags: int, kind: type, rank: int, size: tuple[int, int] | None) -> np.ndarray:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    what = _broken(data[:8], data[-128:], len(data), path.suffix)
    pixels = None if what else cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise DataError(f"{path}: {what or 'cannot be decoded'}")
    if pixels.dtype != kind or pixels.ndim != rank:
        raise DataError(f"{path}: expected {np.dtype(kind)} with {rank} axes, got {pixels.dtype} {pixels.shape}")
    if size is not None and pixels.shape[:2] != (size[1], size[0]):
        raise DataError(f"{path}: expected {size[0]}x{size[1]} pixels, got {pixels.shape[1]}x{pixels.shape[0]}")
    return pixels


_MARKS = {  # beginning, end, and how many bytes some encoders leave behind the end
    ".jpg": (b"\xff\xd8", b"\xff\xd9", 64),
    ".png": (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82", 0),
}


def _broken(begin: bytes, end: bytes, size: int, suffix: str) -> str:
    """What is wrong with an image file by its ends; empty when nothing is. A cut JPEG would decode to grey."""
    first, last, slack = _MARKS[suffix]
    if not begin.startswith(first):
        return f"is not a {suffix[1:].upper()} ({size} bytes)"
    if last not in end[-len(last) - slack :]:
        return f"ends in the middle ({size} bytes)"
    return ""


def _broken_file(path: Path) -> str:
    with path.open("rb") as file:
        begin, size = file.read(8), file.seek(0, 2)
        file.seek(max(0, size - 128))
        return _broken(begin, file.read(), size, path.suffix)


# ------------------------------------------------------------------------------------------------- reading one file


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file. DataError with the line that is not JSON."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise DataError(f"{path}: line {number} is not JSON ({error})") from error
    return rows


def _read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    try:
        there = pq.read_schema(path).names
        missing = [name for name in columns if name not in there]
        if missing:
            raise DataError(f"{path}: lacks the columns {', '.join(missing)}; it has {', '.join(there)}")
        return pq.read_table(path, columns=list(columns), use_threads=False)
    except FileNotFoundError as error:
        raise DataError(f"{path}: is missing") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: is no readable parquet file ({error})") from error


def _array(path: Path, table: pa.Table, name: str, shape: tuple[int, ...], kind: type) -> np.ndarray:
    """A column as an array (rows, *shape), finite. Lists may be nested or flat."""
    values = table.column(name).combine_chunks()
    while isinstance(values, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        values = values.flatten()
    size = int(np.prod(shape))
    if values.null_count or len(values) != table.num_rows * size:
        raise DataError(f"{path}: {name} must have {size} values in each of the {table.num_rows} rows")
    array = np.asarray(values.to_numpy(zero_copy_only=False), kind).reshape(table.num_rows, *shape)
    bad = np.flatnonzero(~np.isfinite(array).reshape(table.num_rows, -1).all(axis=1))
    if len(bad):
        raise DataError(f"{path}: {name} is not finite in row {bad[0]} ({len(bad)} rows in all)")
    return array


def _check_poses(path: Path, name: str, poses: np.ndarray) -> np.ndarray:
    """Rigid motions (N, 4, 4), or DataError."""
    rotation = poses[:, :3, :3]
    off = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
    off = np.maximum(off, np.abs(poses[:, 3] - (0, 0, 0, 1)).max(axis=1))
    if len(off) and off.max() > 1e-3:
        raise DataError(f"{path}: {name} in row {int(off.argmax())} is no rigid motion: off by {off.max():.2g}")
    return poses


_PLY_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4",
    "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float32": "f4", "float64": "f8",
}  # fmt: skip


def read_obstacles(path: Path) -> np.ndarray:
    """x and y [m] of the obstacle points of a point cloud (PLY, text or binary): float64 (N, 2)."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    header, mark, body = data.partition(b"end_header\n")
    lines = header.decode("ascii", "replace").split("\n")
    form = next((line.split()[1] for line in lines if line.startswith("format ")), "")
    count = next((int(line.split()[2]) for line in lines if line.startswith("element vertex")), -1)
    properties = [line.split()[1:] for line in lines if line.startswith("property ")]
    names = [words[-1] for words in properties]
    needed = {"x", "y", "red", "green", "blue"}
    if not lines[0].startswith("ply") or not mark or count < 0 or not needed <= set(names):
        raise DataError(f"{path}: is no PLY file of coloured points")
    if form == "ascii":
        table = np.loadtxt(body.decode("ascii").split("\n")[:count], ndmin=2)
        columns = {name: table[:, i] for i, name in enumerate(names)} if table.size else dict.fromkeys(names, table)
    elif form in ("binary_little_endian", "binary_big_endian"):
        order = "<" if "little" in form else ">"
        row = np.dtype([(name, order + _PLY_TYPES[words[0]]) for name, words in zip(names, properties, strict=True)])
        if len(body) < count * row.itemsize:
            raise DataError(f"{path}: ends in the middle: {len(body)} bytes for {count} points")
        points = np.frombuffer(body, row, count)
        columns = {name: points[name] for name in names}
    else:
        raise DataError(f"{path}: PLY format {form!r} is not known")
    whole = properties[names.index("red")][0] in ("uchar", "uint8")
    colour = np.stack([columns[name] for name in ("red", "green", "blue")], axis=-1) / (255.0 if whole else 1.0)
    chosen = np.abs(colour - OBSTACLE_COLOUR).sum(axis=-1) < 0.05
    return np.stack([columns["x"], columns["y"]], axis=-1).astype(np.float64)[chosen]


# ------------------------------------------------------------------------------------------------------------ index


@dataclass
class _Episodes:
    """What is read of one scene: a list entry per usable episode, and what is wrong with the others."""

    episodes: list[dict[str, Any]]
    problems: list[Problem]


def _problem(root: Path, error: DataError) -> Problem:
    path, _, what = str(error).removeprefix(f"{root}/").partition(": ")
    return Problem(path, what)


def _scene_info(path: Path) -> tuple[float, list[list[float]] | None]:
    """How far the cameras are ahead of the robot's centre [m], 0 where info.json does not say; and their matrix."""
    if not path.is_file():
        return 0.0, None
    try:
        info = json.loads(path.read_text())
        matrix = info.get("camera_intrinsic")
        return float(info.get("camera_forward", 0.0)), matrix and np.asarray(matrix, float).reshape(3, 3).tolist()
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{path}: camera_forward must be a number, camera_intrinsic 3x3 ({error})") from error


def _metadata_files(root: Path, depths: Sequence[int]) -> list[Path]:
    """Parquet and meta files of the scenes that lie so many folders below `root`; image folders are not listed."""
    scenes = ["/".join("*" * depth) for depth in depths]
    patterns = [f"{scene}/{files}" for scene in scenes for files in ("data/chunk-*/*.parquet", "meta/*")]
    return sorted({path for pattern in patterns for path in root.glob(pattern)})


def fingerprint(root: Path) -> str:
    """Hash of the contents of all parquet and meta files: changes with every pose, action, goal and instruction.
    Of views and ways of the small planner (*.npz): of all they have."""
    digest = hashlib.sha256()
    # <scene>, <group>/<scene>, and what make_dataset writes
    for path in [*_metadata_files(root, (1, 2, 3)), *sorted(root.glob("*.npz"))]:
        digest.update(str(path.relative_to(root)).encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _open_index(
    root: Path,
    name: str,
    depth: int,
    options: dict[str, Any],
    build: Callable[[], tuple[dict[str, np.ndarray], dict[str, Any]]],
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays, memory-mapped, and other values of an index; built by `build` when there is none for these files.

    depth: how many folders below `root` the scenes lie.
    """
    # A folder changes its time when an image comes or goes.
    depended_on = [*_metadata_files(root, [depth]), *sorted(root.glob(f"{'/'.join('*' * depth)}/videos/*/*"))]
    stats = [(str(p.relative_to(root)), (s := p.stat()).st_size, s.st_mtime_ns) for p in depended_on]
    key = hashlib.sha256(json.dumps([_INDEX_VERSION, name, options, stats]).encode()).hexdigest()[:16]
    folder = root / ".index" / f"{name}-{key}"
    # A file that is mended in place changes no folder's time.
    if folder.is_dir() and _stamps(root, values := _index_values(folder)) != values["stamps"]:
        shutil.rmtree(folder, ignore_errors=True)
    if not folder.is_dir():
        arrays, values = build()
        values["stamps"] = _stamps(root, values)
        try:
            folder.parent.mkdir(exist_ok=True)
            made = Path(tempfile.mkdtemp(dir=folder.parent, prefix="partial-"))
        except OSError:  # a read-only data set: the index lives in memory only
            return arrays, values
        for stale in folder.parent.glob(f"{name}-*"):
            shutil.rmtree(stale, ignore_errors=True)
        try:
            for array_name, array in arrays.items():
                np.save(made / f"{array_name}.npy", array)
            (made / "values.json").write_text(json.dumps(values))
            made.rename(folder)
        except BaseException as error:
            shutil.rmtree(made, ignore_errors=True)
            if isinstance(error, OSError) and folder.is_dir():  # another process was quicker
                return arrays, values
            raise
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
    return arrays, _index_values(folder)


def _index_values(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "values.json").read_text())


def _stamps(root: Path, values: dict[str, Any]) -> list[list[int]]:
    """Size and time of each file that something is wrong with; zeros for one that is not there."""
    stats = [path.stat() if path.exists() else None for path in (root / p["path"] for p in values["problems"])]
    return [[s.st_size, s.st_mtime_ns] if s else [0, 0] for s in stats]


def _collect(
    scenes: Sequence[Path], read: Callable[[Path], _Episodes], what: str
) -> tuple[list[tuple[int, dict[str, Any]]], list[Problem]]:
    episodes, problems = [], []
    for number, scene in enumerate(tqdm(scenes, desc=f"index of {what}", unit="scene", disable=len(scenes) < 20)):
        result = read(scene)
        episodes += [(number, episode) for episode in result.episodes]
        problems += result.problems
    return episodes, problems


def _settle(root: Path, problems: Sequence[Problem], on_problem: OnProblem, episodes: int) -> None:
    if problems and on_problem == "raise":
        named = "\n  ".join(str(problem) for problem in problems[:_NAMED])
        raise DataError(
            f"{root}: {len(problems)} problems; on_problem='skip' leaves these episodes out:\n  {named}"
            + ("\n  …" if len(problems) > _NAMED else "")
        )
    if not episodes:
        first = f"; the first: {problems[0]}" if problems else ""
        raise DataError(f"{root}: no usable episode ({len(problems)} problems{first})")


def _check_images(folder: Path, names: Sequence[str], listing: dict[Path, set[str]], verify: Verify,
                  decode: Callable[[Path], object]) -> None:  # fmt: skip
    """DataError for the first image that is missing or broken."""
    if folder not in listing:
        listing[folder] = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    missing = [name for name in names if name not in listing[folder]]
    if missing:
        raise DataError(f"{folder / missing[0]}: is missing ({len(missing)} images of the episode are)")
    for name in names:
        what = _broken_file(folder / name)
        if what:
            raise DataError(f"{folder / name}: {what}")
        if verify == "decode":
            decode(folder / name)


def _image_size(path: Path) -> tuple[int, int]:
    image = read_rgb(path)
    return image.shape[1], image.shape[0]


# ---------------------------------------------------------------------------------------------------- VLN-CE layout


def _first_columns(parquets: Sequence[Path]) -> tuple[list[str], Path | None]:
    """Column names of the first file that can be read."""
    for path in parquets:
        try:
            return pq.read_schema(path).names, path
        except (pa.ArrowException, OSError):
            continue  # named with the other problems when the index is built
    return [], None


def find_setting(root: Path) -> CameraSetting:
    """The cameras of a VLN-CE style data set, by the names of its columns and image folders."""
    names, parquet = _first_columns(sorted(root.glob("*/data/chunk-*/episode_*.parquet")))
    if parquet is None:
        raise DataError(f"{root}: no readable <scene>/data/chunk-000/episode_*.parquet in there")
    goals = re.findall(r"^goal\.(\d+)cm_(\d+)deg$", "\n".join(names), re.MULTILINE)
    folders = parquet.parents[2].glob("videos/chunk-*/observation.images.rgb.*")
    images = {m.groups() for f in folders if (m := re.search(r"rgb\.(\d+)cm_(\d+)deg$", f.name))}
    pairs = {(int(h), int(level), int(down)) for h, down in goals for other, level in images if other == h}
    tilted, single = ({p for p in pairs if p[1] < p[2]}, {p for p in pairs if p[1] == p[2]})
    found = sorted(tilted or single)  # a robot with a single camera: its images serve as both
    if len(found) != 1:
        possible = ", ".join(map(str, sorted(tilted | single))) or "none"
        raise DataError(
            f"{root}: has several cameras; choose height [cm], level and downward pitch [deg] by data.cameras in "
            f"training, --cameras in check_dataset; possible are {possible}"
            if found
            else f"{root}: no goal.<height>cm_<pitch>deg column with images of that height"
        )
    return CameraSetting(*found[0])


class VlnCeData:
    """A data set of the VLN-CE layout. Episodes count from 0 over all scenes; frames of an episode from 0.

    Attributes (E episodes, N frames of all episodes in a row; memory-mapped):
        setting: the cameras. scenes: names. problems: what was left out (on_problem="skip").
        instructions: a tuple of strings per episode.
        scene_of (E,), episode_id (E,): number of the scene, and of the episode in it.
        starts (E + 1,): first frame of each episode in the arrays over N.
        actions (N,) int8: the action that led to the frame; `actions_from` gives those taken from it.
        poses (N, 4, 4): of the camera that looks down, optical frame to world.
        goals (N, 2) float32: column and row in the image of that camera. goal_frames (N,): frames to it, or NO_GOAL.
        camera_forward (E,): metres the camera is ahead of the robot's centre.
    """

    def __init__(
        self,
        root: Path | str,
        setting: CameraSetting | None = None,
        on_problem: OnProblem = "raise",
        verify: Verify = "files",
    ) -> None:
        """verify: "files" looks whether all images are there and whole, "decode" decodes each. Done once, with the
        index. Raises DataError that names the first files and what is wrong with them."""
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(f"{root}: no such folder")
        self.setting = setting or find_setting(self.root)
        arrays, values = _open_index(
            self.root, "vln_ce", 1, {"setting": asdict(self.setting), "verify": verify}, lambda: self._build(verify)
        )
        self.scenes: list[str] = values["scenes"]
        self.instructions = [tuple(texts) for texts in values["instructions"]]
        self.problems = [Problem(**problem) for problem in values["problems"]]
        self.scene_of, self.episode_id, self.starts = arrays["scene_of"], arrays["episode_id"], arrays["starts"]
        self.actions, self.poses = arrays["actions"], arrays["poses"]
        self.goals, self.goal_frames = arrays["goals"], arrays["goal_frames"]
        self.camera_forward = arrays["camera_forward"]
        self._sizes = {camera: arrays[f"size_{camera}"] for camera in ("level", "look_down")}
        _settle(self.root, self.problems, on_problem, len(self))

    def __len__(self) -> int:
        return len(self.instructions)

    def length(self, episode: int) -> int:
        """Number of frames."""
        return int(self.starts[episode + 1] - self.starts[episode])

    def frames(self, episode: int) -> slice:
        """Where an episode lies in the arrays over all frames."""
        return slice(int(self.starts[episode]), int(self.starts[episode + 1]))

    def actions_from(self, episode: int) -> np.ndarray:
        """(length,) int8: the action taken from each frame; STOP from the last."""
        return np.append(self.actions[self.frames(episode)][1:], np.int8(STOP))

    def image_size(self, episode: int, camera: Camera) -> tuple[int, int]:
        """(width, height)."""
        width, height = self._sizes[camera][self.scene_of[episode]]
        return int(width), int(height)

    def intrinsic(self, episode: int) -> np.ndarray | None:
        """(3, 3) pixels of both cameras, where the data set says it."""
        matrix = _scene_info(self.root / self.scenes[self.scene_of[episode]] / "meta" / "info.json")[1]
        return None if matrix is None else np.asarray(matrix)

    def rgb_file(self, episode: int, frame: int, camera: Camera) -> Path:
        return self._file(episode, frame, camera, "rgb")

    def depth_file(self, episode: int, frame: int, camera: Camera) -> Path:
        return self._file(episode, frame, camera, "depth")

    def _file(self, episode: int, frame: int, camera: Camera, kind: Literal["rgb", "depth"]) -> Path:
        scene, number = self.root / self.scenes[self.scene_of[episode]], int(self.episode_id[episode])
        return ce_image_folder(scene, number, kind, self.setting.suffix(camera)) / ce_image_name(number, frame, kind)

    def rgb(self, episode: int, frame: int, camera: Camera = "level") -> np.ndarray:
        """uint8 (H, W, 3)."""
        return read_rgb(self.rgb_file(episode, frame, camera), self.image_size(episode, camera))

    def depth(self, episode: int, frame: int, camera: Camera = "level") -> np.ndarray:
        """float32 (H, W) metres, 0 where nothing was measured."""
        size = self.image_size(episode, camera)
        return read_depth(self.depth_file(episode, frame, camera), CE_DEPTH_SCALE, size)

    # ------------------------------------------------------------------------------------------------ building

    def _build(self, verify: Verify) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        scenes = sorted(path.parent.parent for path in self.root.glob("*/meta/episodes.jsonl"))
        if not scenes:
            raise DataError(f"{self.root}: no <scene>/meta/episodes.jsonl in there")
        found, problems = _collect(scenes, lambda scene: self._read_scene(scene, verify), self.root.name)
        episodes = [episode for _, episode in found]

        def joined(name: str, empty: tuple[int, ...], kind: type) -> np.ndarray:
            return np.concatenate([np.zeros((0, *empty), kind), *(episode[name] for episode in episodes)], dtype=kind)

        sizes = {camera: np.zeros((len(scenes), 2), np.int32) for camera in ("level", "look_down")}
        for number, episode in found:
            for camera, size in sizes.items():
                size[number] = episode["sizes"][camera]
        arrays = {
            "scene_of": np.asarray([number for number, _ in found], np.int32),
            "episode_id": np.asarray([episode["id"] for episode in episodes], np.int32),
            "starts": np.cumsum([0, *(len(episode["actions"]) for episode in episodes)]),
            "actions": joined("actions", (), np.int8),
            "poses": joined("poses", (4, 4), np.float64),
            "goals": joined("goals", (2,), np.float32),
            "goal_frames": joined("goal_frames", (), np.int32),
            "camera_forward": np.asarray([episode["camera_forward"] for episode in episodes], np.float32),
            **{f"size_{camera}": size for camera, size in sizes.items()},
        }
        values = {
            "scenes": [scene.name for scene in scenes],
            "instructions": [episode["instructions"] for episode in episodes],
            "problems": [asdict(problem) for problem in problems],
        }
        return arrays, values

    def _read_scene(self, scene: Path, verify: Verify) -> _Episodes:
        result = _Episodes([], [])
        try:
            rows = read_json_lines(scene / "meta" / "episodes.jsonl")
            forward, _ = _scene_info(scene / "meta" / "info.json")
        except DataError as error:
            result.problems.append(_problem(self.root, error))
            return result
        listing: dict[Path, set[str]] = {}
        sizes: dict[str, tuple[int, int]] = {}
        for row in rows:
            try:
                episode = self._read_episode(scene, row, listing, sizes, verify)
            except DataError as error:
                result.problems.append(_problem(self.root, error))
            else:
                result.episodes.append({**episode, "camera_forward": forward, "sizes": sizes})
        return result

    def _read_episode(
        self,
        scene: Path,
        row: dict[str, Any],
        listing: dict[Path, set[str]],
        sizes: dict[str, tuple[int, int]],
        verify: Verify,
    ) -> dict[str, Any]:
        where = scene / "meta" / "episodes.jsonl"
        try:
            number, length, text = int(row["episode_index"]), int(row["length"]), str(row["tasks"][0])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DataError(f"{where}: needs episode_index, length and tasks[0] in each line ({error!r})") from error
        instructions = [part.strip() for part in text.split(SEPARATOR) if part.strip()]
        if not instructions:
            raise DataError(f"{where}: episode {number} has no instruction")
        path, suffix = parquet_file(scene, number), self.setting.suffix("look_down")
        names = [f"{column}.{suffix}" for column in ("pose", "goal", "relative_goal_frame_id")]
        table = _read_columns(path, ["action", *names])
        if table.num_rows != length or length < 1:
            raise DataError(f"{path}: has {table.num_rows} rows, meta/episodes.jsonl says {length}")
        poses = _check_poses(path, names[0], _array(path, table, names[0], (4, 4), np.float64))
        goal_frames = _array(path, table, names[2], (), np.int64)
        beyond = np.flatnonzero((goal_frames < NO_GOAL) | (goal_frames + np.arange(length) >= length))
        if len(beyond):
            value = goal_frames[beyond[0]]
            raise DataError(f"{path}: {names[2]} in row {beyond[0]} is {value}, outside of the episode")
        for camera in ("level", "look_down"):
            for kind in ("rgb", "depth"):
                folder = ce_image_folder(scene, number, kind, self.setting.suffix(camera))
                if (camera, kind) == ("level", "depth") and not folder.is_dir():
                    continue  # nothing of the released recipes reads it
                images = [ce_image_name(number, frame, kind) for frame in range(length)]
                decode = read_rgb if kind == "rgb" else functools.partial(read_depth, scale=CE_DEPTH_SCALE)
                _check_images(folder, images, listing, verify, functools.partial(decode, size=sizes.get(camera)))
                if camera not in sizes:
                    sizes[camera] = _image_size(folder / images[0])
        goals = _array(path, table, names[1], (2,), np.float32)
        width, height = sizes["look_down"]
        outside = (goals < 0).any(axis=1) | (goals[:, 0] >= width) | (goals[:, 1] >= height)
        outside = np.flatnonzero(outside & (goal_frames >= 0))
        if len(outside):
            at = goals[outside[0]].tolist()
            raise DataError(f"{path}: {names[1]} in row {outside[0]} is {at}, outside of the {width}x{height} image")
        return {
            "id": number,
            "instructions": instructions,
            "actions": _array(path, table, "action", (), np.int64),
            "poses": poses,
            "goals": goals,
            "goal_frames": goal_frames,
        }


# ---------------------------------------------------------------------------------------------------- vln_n1 layout


class VlnN1Data:
    """A data set of the vln_n1 layout. Episodes count from 0 over all groups and scenes.

    Attributes (E episodes, N frames of all episodes in a row; memory-mapped):
        scenes: "<group>/<scene>". problems: what was left out (on_problem="skip").
        scene_of (E,): number of the scene. starts (E + 1,): first frame of each episode in the arrays over N.
        poses (N, 4, 4): camera to world; camera axes right, up, back; world z up.
        intrinsics (E, 3, 3) pixels; extrinsics (E, 4, 4): camera in the robot's frame of axes right, forward, up.
    """

    def __init__(self, root: Path | str, on_problem: OnProblem = "raise", verify: Verify = "files") -> None:
        """Arguments and errors as `VlnCeData`."""
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(f"{root}: no such folder")
        arrays, values = _open_index(self.root, "vln_n1", 2, {"verify": verify}, lambda: self._build(verify))
        self.scenes: list[str] = values["scenes"]
        self.problems = [Problem(**problem) for problem in values["problems"]]
        self.scene_of, self.starts, self.poses = arrays["scene_of"], arrays["starts"], arrays["poses"]
        self.intrinsics, self.extrinsics = arrays["intrinsics"], arrays["extrinsics"]
        self._names = {kind: arrays[f"{kind}_names"] for kind in ("rgb", "depth")}
        self._sizes = arrays["sizes"]
        _settle(self.root, self.problems, on_problem, len(self))

    def __len__(self) -> int:
        return len(self.scene_of)

    def length(self, episode: int) -> int:
        """Number of frames."""
        return int(self.starts[episode + 1] - self.starts[episode])

    def frames(self, episode: int) -> slice:
        """Where an episode lies in the arrays over all frames."""
        return slice(int(self.starts[episode]), int(self.starts[episode + 1]))

    def image_size(self, episode: int) -> tuple[int, int]:
        """(width, height)."""
        width, height = self._sizes[self.scene_of[episode]]
        return int(width), int(height)

    def rgb_file(self, episode: int, frame: int) -> Path:
        return self._file(episode, frame, "rgb")

    def depth_file(self, episode: int, frame: int) -> Path:
        return self._file(episode, frame, "depth")

    def _file(self, episode: int, frame: int, kind: Literal["rgb", "depth"]) -> Path:
        if not 0 <= frame < self.length(episode):
            raise IndexError(f"episode {episode} has {self.length(episode)} frames, asked for frame {frame}")
        name = self._names[kind][self.starts[episode] + frame].decode()
        return n1_image_folder(self.root / self.scenes[self.scene_of[episode]], kind) / name

    def rgb(self, episode: int, frame: int) -> np.ndarray:
        """uint8 (H, W, 3)."""
        return read_rgb(self.rgb_file(episode, frame), self.image_size(episode))

    def depth(self, episode: int, frame: int) -> np.ndarray:
        """float32 (H, W) metres, 0 where nothing was measured."""
        return read_depth(self.depth_file(episode, frame), N1_DEPTH_SCALE, self.image_size(episode))

    def point_cloud_file(self, episode: int) -> Path:
        return self.root / self.scenes[self.scene_of[episode]] / "meta" / "pointcloud.ply"

    # ------------------------------------------------------------------------------------------------ building

    def _build(self, verify: Verify) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        scenes = sorted(path.parent.parent for path in self.root.glob("*/*/meta/episodes_stats.jsonl"))
        if not scenes:
            raise DataError(f"{self.root}: no <group>/<scene>/meta/episodes_stats.jsonl in there")
        found, problems = _collect(scenes, lambda scene: self._read_scene(scene, verify), self.root.name)
        episodes = [episode for _, episode in found]
        sizes = np.zeros((len(scenes), 2), np.int32)
        for number, episode in found:
            sizes[number] = episode["size"]
        names = {kind: [name for episode in episodes for name in episode[kind]] for kind in ("rgb", "depth")}
        arrays = {
            "scene_of": np.asarray([number for number, _ in found], np.int32),
            "starts": np.cumsum([0, *(len(episode["poses"]) for episode in episodes)]),
            "poses": np.concatenate([np.zeros((0, 4, 4)), *(episode["poses"] for episode in episodes)]),
            "intrinsics": np.asarray([episode["intrinsic"] for episode in episodes]).reshape(-1, 3, 3),
            "extrinsics": np.asarray([episode["extrinsic"] for episode in episodes]).reshape(-1, 4, 4),
            "sizes": sizes,
            **{f"{kind}_names": np.asarray([name.encode() for name in names[kind]], "S") for kind in names},
        }
        values = {
            "scenes": [str(scene.relative_to(self.root)) for scene in scenes],
            "problems": [asdict(problem) for problem in problems],
        }
        return arrays, values

    def _read_scene(self, scene: Path, verify: Verify) -> _Episodes:
        result = _Episodes([], [])
        try:
            rows = read_json_lines(scene / "meta" / "episodes_stats.jsonl")
            read_obstacles(scene / "meta" / "pointcloud.ply")
            images, listing = {}, {}
            for kind in ("rgb", "depth"):
                folder = n1_image_folder(scene, kind)
                if not folder.is_dir():
                    raise DataError(f"{folder}: is missing")
                images[kind] = sorted(entry.name for entry in folder.iterdir())
                listing[folder] = set(images[kind])
            parquets = sorted((scene / "data").glob("chunk-*/*.parquet"))
            if len(parquets) != len(rows):
                raise DataError(f"{scene}: {len(rows)} lines in episodes_stats.jsonl, {len(parquets)} parquet files")
        except DataError as error:
            result.problems.append(_problem(self.root, error))
            return result
        size: tuple[int, int] | None = None
        for row, parquet in zip(rows, parquets, strict=True):
            try:
                episode = self._read_episode(scene, row, parquet, images, listing, size, verify)
            except DataError as error:
                result.problems.append(_problem(self.root, error))
            else:
                size = episode["size"]
                result.episodes.append(episode)
        return result

    def _read_episode(
        self,
        scene: Path,
        row: dict[str, Any],
        path: Path,
        images: dict[str, list[str]],
        listing: dict[Path, set[str]],
        size: tuple[int, int] | None,
        verify: Verify,
    ) -> dict[str, Any]:
        try:
            first, last = int(row["image_index"]["min"]), int(row["image_index"]["max"])
        except (KeyError, TypeError, ValueError) as error:
            where = scene / "meta" / "episodes_stats.jsonl"
            raise DataError(f"{where}: needs image_index with min and max in each line ({error!r})") from error
        prefix = "observation.camera_"
        table = _read_columns(path, ["action", f"{prefix}intrinsic", f"{prefix}extrinsic"])
        if table.num_rows != last - first + 1 or table.num_rows < 2:
            raise DataError(f"{path}: has {table.num_rows} rows for the images {first} to {last}")
        chosen: dict[str, Any] = {}
        for kind in ("rgb", "depth"):
            folder = n1_image_folder(scene, kind)
            if last >= len(images[kind]):
                raise DataError(f"{folder}: has {len(images[kind])} images, episode {path.stem} needs number {last}")
            chosen[kind] = images[kind][first : last + 1]
            if kind == "rgb" and size is None:
                size = _image_size(folder / chosen[kind][0])
            decode = read_rgb if kind == "rgb" else functools.partial(read_depth, scale=N1_DEPTH_SCALE)
            _check_images(folder, chosen[kind], listing, verify, functools.partial(decode, size=size))
        intrinsic = _array(path, table, f"{prefix}intrinsic", (3, 3), np.float64)[0]
        extrinsic = _array(path, table, f"{prefix}extrinsic", (4, 4), np.float64)[:1]
        if intrinsic[0, 0] <= 0 or intrinsic[1, 1] <= 0:
            raise DataError(f"{path}: {prefix}intrinsic has no positive focal lengths: {intrinsic.tolist()}")
        return {
            **chosen,
            "size": size,
            "poses": _check_poses(path, "action", _array(path, table, "action", (4, 4), np.float64)),
            "intrinsic": intrinsic,
            "extrinsic": _check_poses(path, f"{prefix}extrinsic", extrinsic)[0],
        }
