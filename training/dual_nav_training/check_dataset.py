"""What is in a data set: `python -m dual_nav_training.check_dataset <folder>`. Prints figures, writes pictures.

<folder> is what make_dataset writes, or the root of a data set in one of the two layouts of `lerobot.py`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np

from dual_nav_training import trajectory_labels as labels
from dual_nav_training.lerobot import (
    Camera,
    CameraSetting,
    DataError,
    Problem,
    Verify,
    VlnCeData,
    VlnN1Data,
    read_obstacles,
)
from dual_nav_training.samples import KINDS, DualDataset, DualSampleConfig, NavDpDataset, S2Dataset, S2Sample

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # after the choice of the backend

_PATH_COLOUR, _GOAL_COLOUR = (255, 150, 0), (255, 0, 160)
_THICKNESS_PER_WIDTH = 160  # pixels of image width per pixel of line width
_SHOWN_PROBLEMS = 10


def find_layouts(folder: Path) -> tuple[Path | None, Path | None]:
    """Roots of the VLN-CE and the vln_n1 data in a folder."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    if (folder / "vln_ce").is_dir() or (folder / "vln_n1").is_dir():
        ce, n1 = folder / "vln_ce", folder / "vln_n1"
        return (ce if ce.is_dir() else None), (n1 if n1.is_dir() else None)
    if next(folder.glob("*/*/meta/episodes_stats.jsonl"), None):
        return None, folder
    if next(folder.glob("*/meta/episodes.jsonl"), None):
        return folder, None
    raise DataError(f"{folder}: neither <scene>/meta (VLN-CE layout) nor <group>/<scene>/meta (vln_n1) is in there")


def _lengths(data: VlnCeData | VlnN1Data) -> str:
    lengths = np.diff(data.starts)
    return f"{lengths.min()} to {lengths.max()} frames, median {int(np.median(lengths))}"


def _problems(problems: Sequence[Problem]) -> None:
    if problems:
        print(f"  {len(problems)} problems; what they concern is left out:")
        for problem in problems[:_SHOWN_PROBLEMS]:
            print(f"    {problem}")


def about(folder: Path) -> None:
    """Print where a data set of make_dataset comes from."""
    path = folder / "dataset.json"
    if not path.is_file():
        return
    values = json.loads(path.read_text())
    settings = values["settings"]
    print(f"made by: {' '.join(values['command'])}")
    print(
        f"  revision {values['revision'][:12]}, look {values['look']}, {'' if values['complete'] else 'NOT '}complete"
    )
    keys = [key for line in (folder / "scenes.jsonl").read_text().splitlines() for key in json.loads(line)["keys"]]
    families = Counter(family for family, _ in keys)
    print(
        f"  split {settings['split']}, seed {settings['seed']}; " + ", ".join(f"{n} {f}" for f, n in families.items())
    )


# ---------------------------------------------------------------------------------------------------- VLN-CE layout


def check_ce(root: Path, out: Path, samples: int, verify: Verify, setting: CameraSetting | None = None) -> int:
    """Print and draw a VLN-CE style data set; returns the number of problems. setting: None finds its only one."""
    data = VlnCeData(root, setting, on_problem="skip", verify=verify)
    dataset = S2Dataset(data)
    texts = [text for episode in data.instructions for text in episode]
    print(f"{root} (VLN-CE layout): {len(data)} episodes in {len(data.scenes)} scenes, {len(data.actions)} frames")
    print(f"  cameras {data.setting.suffix('level')} and {data.setting.suffix('look_down')}; {_lengths(data)}")
    print(f"  {len(texts)} instructions, {len(set(texts))} different, e.g. {texts[0]!r}")
    actions = np.concatenate([data.actions_from(episode) for episode in range(len(data))])
    counts = ", ".join(f"{name} {np.mean(actions == a):.1%}" for a, name in enumerate(("STOP", "↑", "←", "→")))
    print(f"  actions: {counts}")
    weights = dataset.weights.sum()
    print(f"  {len(dataset)} samples of the planner; share, and share when drawn by weight:")
    for kind in KINDS:
        chosen = dataset.kinds == kind
        print(f"    {kind:10s} {chosen.mean():6.1%} {dataset.weights[chosen].sum() / weights:6.1%}")
    ahead = data.goal_frames[data.goal_frames >= 0]
    if len(ahead):
        share = np.mean(data.goal_frames >= 0)
        print(f"  pixel goals: on {share:.1%} of the frames, median {np.median(ahead):.0f} frames ahead")
    _problems(data.problems)
    _goal_map(data, out / "pixel_goals.png")
    random = np.random.default_rng(0)
    for kind in KINDS:
        numbers = np.flatnonzero(dataset.kinds == kind)
        for number in random.permutation(numbers)[: max(1, samples // len(KINDS))]:
            sample = dataset[int(number)]
            _draw_ce(data, sample, out / f"planner_{kind}_{number:06d}.png")
    _draw_plans(data, samples, random, out)
    return len(data.problems)


def _goal_map(data: VlnCeData, path: Path) -> None:
    """Where the pixel goals lie in the look-down image, all frames."""
    width, height = data.image_size(0, "look_down")
    goals = np.asarray(data.goals[data.goal_frames >= 0])
    figure, axes = plt.subplots(figsize=(7, 5))
    counts, _, _ = np.histogram2d(goals[:, 1], goals[:, 0], bins=(24, 32), range=((0, height), (0, width)))
    image = axes.imshow(counts, extent=(0, width, height, 0), cmap="magma", interpolation="nearest")
    axes.set(title=f"{len(goals)} pixel goals in the look-down image", xlabel="column", ylabel="row")
    figure.colorbar(image, label="frames")
    _save(figure, path)


def project(path: np.ndarray, data: VlnCeData, episode: int, camera: Camera) -> np.ndarray | None:
    """Columns and rows (M, 2) of the points of a path (N, 2) on the floor, in the robot's frame, that lie ahead of a
    camera; None where the data set does not know its intrinsics."""
    intrinsic = data.intrinsic(episode)
    if intrinsic is None:
        return None
    pitch = math.radians(data.setting.pitch_deg(camera))
    mount = labels.camera_mount(pitch, float(data.camera_forward[episode]))
    mount[2, 3] = data.setting.height_cm / 100.0
    points = np.column_stack((path, np.zeros(len(path)), np.ones(len(path))))
    seen = (points @ np.linalg.inv(mount).T)[:, :3]
    seen = seen[seen[:, 2] > 0.1]
    pixels = seen @ intrinsic.T
    return pixels[:, :2] / pixels[:, 2:]


def _future(data: VlnCeData, sample: S2Sample, frames: int) -> np.ndarray:
    """The way (n, 3) the robot takes in the next frames, in its frame at the sample's."""
    poses = data.poses[data.frames(sample.episode)][sample.frame : sample.frame + frames + 1]
    return labels.relative_path(
        poses, math.radians(data.setting.down_deg), float(data.camera_forward[sample.episode])
    )


def _with_path(image: np.ndarray, pixels: np.ndarray | None, goal: tuple[float, float] | None) -> np.ndarray:
    shown, width = image.copy(), max(1, image.shape[1] // _THICKNESS_PER_WIDTH)
    if pixels is not None and len(pixels) > 1:
        # Points near the image's edge can be projected very far outside of it.
        clipped = np.clip(pixels, -10 * image.shape[1], 10 * image.shape[1])
        cv2.polylines(shown, [np.round(clipped).astype(np.int32)], False, _PATH_COLOUR, width, cv2.LINE_AA)
    if goal is not None:
        at = (round(goal[0]), round(goal[1]))
        cv2.drawMarker(shown, at, _GOAL_COLOUR, cv2.MARKER_TILTED_CROSS, 12 * width, 2 * width, cv2.LINE_AA)
    return shown


def _draw_ce(data: VlnCeData, sample: S2Sample, path: Path) -> None:
    """History, current image and look-down image of a planner's sample, with the way to come and the pixel goal."""
    figure = plt.figure(figsize=(13, 6.5))
    grid = figure.add_gridspec(3, 8, height_ratios=(1, 2, 2))
    for column, (frame, image) in enumerate(zip(sample.history, sample.images, strict=False)):
        axes = figure.add_subplot(grid[0, column])
        axes.imshow(image)
        axes.set_title(f"frame {frame}", fontsize=8)
        axes.axis("off")
    way = _future(data, sample, sample.goal_frames or 12)
    for number, camera in enumerate(("level", "look_down")):
        axes = figure.add_subplot(grid[1:, 4 * number : 4 * number + 4])
        image = data.rgb(sample.episode, sample.frame, camera)
        goal = sample.pixel_goal if camera == "look_down" else None
        axes.imshow(_with_path(image, project(way[:, :2], data, sample.episode, camera), goal))
        axes.set_title(f"{camera}, frame {sample.frame} of {data.length(sample.episode)}", fontsize=9)
        axes.axis("off")
    figure.suptitle(f"{sample.instruction}\n{sample.kind}: {' / '.join(sample.answers)}", fontsize=11)
    _save(figure, path)


def _draw_plans(data: VlnCeData, samples: int, random: np.random.Generator, out: Path) -> None:
    """The frames of some plans with their trajectory labels."""
    plans = DualDataset(data, DualSampleConfig(max_frames=6, depth=False))
    for number in random.permutation(len(plans))[: max(1, samples // len(KINDS))]:
        plan = plans[int(number)]
        figure, axes = plt.subplots(2, len(plan.frames), figsize=(2.6 * len(plan.frames) + 1, 5.4), squeeze=False)
        for column, frame in enumerate(plan.frames):
            steps = plan.trajectories[column]
            way = np.vstack(((0.0, 0.0), np.cumsum(steps[:, :2] / labels.POSITION_SCALE, axis=0)))
            image = data.rgb(plan.prompt.episode, frame, "level")
            axes[0, column].imshow(_with_path(image, project(way, data, plan.prompt.episode, "level"), None))
            axes[0, column].set_title(f"frame {frame}", fontsize=9)
            axes[0, column].axis("off")
            _plot_path(axes[1, column], way, "tab:orange")
        figure.suptitle(f"trajectory labels of a plan: {plan.prompt.instruction}", fontsize=10)
        _save(figure, out / f"plan_{number:06d}.png")


def _plot_path(axes: plt.Axes, way: np.ndarray, colour: str) -> None:
    """A path in the robot's frame, seen from above with x up."""
    axes.plot(-way[:, 1], way[:, 0], ".-", color=colour, markersize=3, linewidth=1)
    axes.plot(0, 0, "k^", markersize=6)
    axes.set_aspect("equal")
    axes.set(xlim=(-2.2, 2.2), ylim=(-1.0, 3.6))
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)


# ---------------------------------------------------------------------------------------------------- vln_n1 layout


def check_n1(root: Path, out: Path, samples: int, verify: Verify) -> int:
    """Print and draw a vln_n1 style data set; returns the number of problems."""
    data = VlnN1Data(root, on_problem="skip", verify=verify)
    dataset = NavDpDataset(data)
    print(f"{root} (vln_n1 layout): {len(data)} episodes in {len(data.scenes)} scenes, {len(data.poses)} frames")
    positions = data.poses[:, :2, 3]
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    inside = np.ones(len(steps), bool)
    inside[np.asarray(data.starts[1:-1]) - 1] = False  # from one episode to the next
    moving = steps[inside & (steps > 1e-3)]
    print(f"  {_lengths(data)}; {np.median(moving):.3f} m between frames where it moves")
    _problems(data.problems)
    random = np.random.default_rng(0)
    for number in random.permutation(len(dataset))[: max(1, samples // 2)]:
        _draw_n1(dataset, int(number), out / f"navdp_{number:06d}.png")
    return len(data.problems)


def _draw_n1(dataset: NavDpDataset, number: int, path: Path) -> None:
    """Memory, depth, goals, label and augmented path of a sample of the standalone NavDP."""
    draw = dataset.draw(number, np.random.default_rng(number))
    sample = {name: value.numpy() for name, value in dataset.sample(number, np.random.default_rng(number)).items()}
    figure, axes = plt.subplots(2, 6, figsize=(15, 5.6))
    memory = sample["images"][[0, 4, 7]]
    shown = {
        **{f"memory {title}": image for title, image in zip(("oldest", "middle", "current"), memory, strict=True)},
        "depth": sample["depths"][0],
        "image goal": sample["image_goals"][..., :3],
        "pixel goal": sample["pixel_goals"][..., :3] * (1 - 0.7 * sample["pixel_goals"][..., 3:4]),
    }
    for axis, (title, image) in zip(axes[0], shown.items(), strict=True):
        axis.imshow(image, cmap="viridis" if image.ndim == 2 else None)
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    for axis in axes[1]:
        axis.axis("off")
    data = dataset.data
    _, frame = dataset.local_path(draw.episode, draw.current, draw.goal)
    obstacles = read_obstacles(data.point_cloud_file(draw.episode)) - frame[:2, 3]
    local = np.column_stack((obstacles @ frame[:2, 1], -(obstacles @ frame[:2, 0])))
    for column, (name, colour) in enumerate((("label", "tab:orange"), ("augmented", "tab:red"))):
        axis = figure.add_subplot(2, 3, 4 + column)
        steps = sample["labels" if name == "label" else name] / labels.POSITION_SCALE
        near = local[(np.abs(local) < 5).all(axis=1)]
        axis.plot(-near[:, 1], near[:, 0], "s", color="navy", markersize=2)
        _plot_path(axis, np.vstack(((0.0, 0.0), np.cumsum(steps[:, :2], axis=0))), colour)
        axis.plot(-sample["points"][1], sample["points"][0], "m*", markersize=9)
        axis.set(xlim=(-4, 4), ylim=(-2, 4.5))
        axis.set_title(f"{name}: critic {float(sample[f'{name}_critic']):+.2f}", fontsize=9)
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="check_dataset", description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/check_dataset"), help="where the pictures go")
    parser.add_argument("--samples", type=int, default=6, help="about so many pictures of each kind of sample")
    parser.add_argument(
        "--cameras",
        type=int,
        nargs=3,
        metavar=("HEIGHT", "LEVEL", "DOWN"),
        help="of a VLN-CE data set with several: height [cm] and pitches [deg], such as 125 0 30",
    )
    parser.add_argument("--decode", action="store_true", help="decode every image (default: look at both ends)")
    options = parser.parse_args(words)
    verify: Verify = "decode" if options.decode else "files"
    try:
        ce, n1 = find_layouts(options.folder)
        about(options.folder)
        setting = CameraSetting.of(options.cameras) if options.cameras else None
        problems = check_ce(ce, options.out, options.samples, verify, setting) if ce else 0
        problems += check_n1(n1, options.out, options.samples, verify) if n1 else 0
    except DataError as error:
        print(f"check_dataset: {error}", file=sys.stderr)
        return 1
    print(f"pictures in {options.out}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
