"""Training samples of the planner, of the dual system and of the standalone NavDP, as torch datasets.

Everything is decoded where a sample is asked for, so that a DataLoader's workers share the work. What is drawn at
random depends on seed, epoch (`set_epoch`) and the sample's number alone.
"""

from __future__ import annotations

import abc
import functools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import cv2
import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.utils.data import Dataset

from dual_nav_training import trajectory_labels as labels
from dual_nav_training.lerobot import (
    STOP,
    TURN_LEFT,
    TURN_RIGHT,
    Camera,
    DataError,
    OnProblem,
    VlnCeData,
    VlnN1Data,
    read_obstacles,
)
from s1_controller_node.preprocess import clip_depth, letterbox_depth, letterbox_rgb, resize_depth
from s1_controller_node.preprocess import resize_rgb as squeeze_rgb
from s2_planner_node.answer import LOOK_DOWN
from s2_planner_node.history import FrameHistory
from s2_planner_node.image_processor import resize_rgb
from s2_planner_node.planner import PlannerConfig
from s2_planner_node.prompt import PromptTemplate, load_template

Kind = Literal["pixel_goal", "turn", "stop"]
KINDS: tuple[Kind, ...] = ("pixel_goal", "turn", "stop")
MIN_EPISODE_FRAMES = 4  # shorter episodes are not trained from
_TURNS = (TURN_LEFT, TURN_RIGHT)

Sample = TypeVar("Sample")


class _Samples(Dataset, Generic[Sample], abc.ABC):
    """A dataset that can leave out samples with unreadable files; all its workers count in `skipped`."""

    def __init__(self, on_problem: OnProblem, seed: int) -> None:
        self._on_problem, self._seed = on_problem, seed
        self._shared = torch.zeros(2, dtype=torch.int64).share_memory_()  # epoch, skipped

    def set_epoch(self, epoch: int) -> None:
        """Other random draws than in the epochs before; reaches running workers."""
        self._shared[0] = epoch

    @property
    def skipped(self) -> int:
        """Samples that could not be read and were replaced by the next one, in all workers."""
        return int(self._shared[1])

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def sample(self, index: int, random: np.random.Generator) -> Sample:
        """One sample with its draws from `random`. DataError when one of its files cannot be read."""

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        problem: DataError | None = None
        for number in range(len(self)):
            random = np.random.default_rng([self._seed, int(self._shared[0]), index])
            try:
                return self.sample((index + number) % len(self), random)
            except DataError as error:
                if self._on_problem == "raise":
                    raise
                problem = error
                self._shared[1] += 1
                warnings.warn(f"sample left out: {error}", stacklevel=2)
        raise DataError(f"none of the {len(self)} samples can be read; the last problem: {problem}")


# --------------------------------------------------------------------------------------------------------- planner


@dataclass(frozen=True)
class S2SampleConfig:
    """Which frames become samples of the planner, and how their images are prepared.

    frame_step: every so many frames of an episode. min_goal_frames: a pixel goal has to be so many frames ahead.
    max_turns: longest answer of turns. stop_weight: of the last frame. num_history, image_width, image_height: as the
    planner is run. answer_width, answer_height: size of the look-down image the answered pixel is meant for, when
    the data were rendered smaller than the robot's camera; 0: the image's own.
    """

    frame_step: int = 4
    min_goal_frames: int = 3
    max_turns: int = 4
    stop_weight: float = 5.0
    num_history: int = PlannerConfig.num_history
    image_width: int = PlannerConfig.image_width
    image_height: int = PlannerConfig.image_height
    answer_width: int = 0
    answer_height: int = 0

    def __post_init__(self) -> None:
        if self.num_history < 0:
            raise ValueError(f"num_history: expected 0 or more, got {self.num_history}")
        for name in ("frame_step", "min_goal_frames", "max_turns", "image_width", "image_height"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not self.stop_weight > 0:
            raise ValueError(f"stop_weight: expected a positive number, got {self.stop_weight}")
        if (self.answer_width > 0) != (self.answer_height > 0):
            raise ValueError("answer_width and answer_height: give both, or neither")


@dataclass(frozen=True)
class S2Sample:
    """One answered prompt.

    instruction: the task. images: uint8 RGB in the prompt's order: history and current frame, resized as the planner
    does it, and with a pixel goal the look-down image at its own size. answers: ("↓", "column row"), ("←←",) or
    ("STOP",). weight: how often to draw it. history, frame: numbers in the episode. pixel_goal: (column, row) in the
    look-down image. goal_frames: frames from `frame` to where the goal is; 0 without one.
    """

    instruction: str
    images: tuple[np.ndarray, ...]
    answers: tuple[str, ...]
    weight: float
    kind: Kind
    episode: int
    frame: int
    history: tuple[int, ...]
    pixel_goal: tuple[float, float] | None
    goal_frames: int


@functools.lru_cache(maxsize=4096)
def history_frames(frame: int, num_history: int) -> tuple[int, ...]:
    """The earlier frames a prompt at `frame` shows, chosen by the planner's own history."""
    history: FrameHistory[int] = FrameHistory(num_history, max(frame, 2 * num_history, 2))
    for earlier in range(frame):
        history.add(earlier)
    return tuple(earlier for earlier, _ in history.select())


def turn_run(actions: Sequence[int], frame: int, at_most: int) -> tuple[int, ...]:
    """The turns taken from `frame` on, up to the first other action."""
    run = []
    for action in actions[frame : frame + at_most]:
        if action not in _TURNS:
            break
        run.append(int(action))
    return tuple(run)


@dataclass(frozen=True)
class _Chosen:
    """A frame that becomes a sample."""

    episode: int
    instruction: int
    frame: int
    kind: Kind


def _choose(data: VlnCeData, config: S2SampleConfig) -> list[_Chosen]:
    """The samples of all episodes: each instruction of an episode makes its own."""
    chosen = []
    for episode in range(len(data)):
        length = data.length(episode)
        if length < MIN_EPISODE_FRAMES:
            continue
        actions = data.actions_from(episode)
        goal_frames = data.goal_frames[data.frames(episode)]
        kinds: list[tuple[int, Kind]] = []
        for frame in range(0, length - 1, config.frame_step):
            if goal_frames[frame] >= config.min_goal_frames:
                kinds.append((frame, "pixel_goal"))
            elif turn_run(actions, frame, config.max_turns):
                kinds.append((frame, "turn"))
        kinds.append((length - 1, "stop"))
        for instruction in range(len(data.instructions[episode])):
            chosen += [_Chosen(episode, instruction, frame, kind) for frame, kind in kinds]
    return chosen


class S2Dataset(_Samples[S2Sample]):
    """Samples of the planner. `weights` (N,) are for a WeightedRandomSampler; `kinds` names each sample's kind."""

    def __init__(
        self,
        data: VlnCeData,
        config: S2SampleConfig | None = None,
        template: PromptTemplate | None = None,
        on_problem: OnProblem = "raise",
        seed: int = 0,
    ) -> None:
        super().__init__(on_problem, seed)
        self.data, self.config = data, config or S2SampleConfig()
        self._chosen = _choose(data, self.config)
        self._template = template or load_template()
        self._symbols = {number: symbol for symbol, number in self._template.actions.items()}
        self.kinds = np.asarray([chosen.kind for chosen in self._chosen])
        self.weights = np.where(self.kinds == "stop", self.config.stop_weight, 1.0)

    def __len__(self) -> int:
        return len(self._chosen)

    def sample(self, index: int, random: np.random.Generator) -> S2Sample:
        """Nothing of it is drawn: `random` is not used."""
        data, config, chosen = self.data, self.config, self._chosen[index]
        episode, frame = chosen.episode, chosen.frame
        history = history_frames(frame, config.num_history)
        images = [
            resize_rgb(data.rgb(episode, number, "level"), config.image_width, config.image_height)
            for number in (*history, frame)
        ]
        pixel_goal, goal_frames = None, 0
        if chosen.kind == "pixel_goal":
            images.append(data.rgb(episode, frame, "look_down"))
            row = data.frames(episode).start + frame
            pixel_goal = (float(data.goals[row, 0]), float(data.goals[row, 1]))
            goal_frames = int(data.goal_frames[row])
        return S2Sample(
            data.instructions[episode][chosen.instruction],
            tuple(images),
            self._answers(chosen, pixel_goal),
            float(self.weights[index]),
            chosen.kind,
            episode,
            frame,
            history,
            pixel_goal,
            goal_frames,
        )

    def _answers(self, chosen: _Chosen, pixel_goal: tuple[float, float] | None) -> tuple[str, ...]:
        if chosen.kind == "stop":
            return (self._symbols[STOP],)
        if pixel_goal is None:
            actions = self.data.actions_from(chosen.episode)
            run = turn_run(actions, chosen.frame, self.config.max_turns)
            return ("".join(self._symbols[action] for action in run),)
        width, height = self.data.image_size(chosen.episode, "look_down")
        to = (self.config.answer_width or width, self.config.answer_height or height)
        place = (pixel_goal[0] * to[0] / width, pixel_goal[1] * to[1] / height)
        return (self._symbols[LOOK_DOWN], self._template.pixel_answer(*place, to))


# ----------------------------------------------------------------------------------------------------- dual system


@dataclass(frozen=True)
class DualSampleConfig:
    """Frames of a plan that train the trajectory model of the dual system.

    camera: whose images it sees; this project's controller gets the level camera's, the release was trained with
    those of the camera that looks down. image_size: side of the square images. depth: whether to read it.
    frame_interval: every so many frames from the plan's frame to its goal; larger where that gives more than
    max_frames.
    """

    camera: Camera = "level"
    image_size: int = 224
    depth: bool = True
    frame_interval: int = 2
    max_frames: int = 12

    def __post_init__(self) -> None:
        if self.camera not in ("level", "look_down"):
            raise ValueError(f"camera: expected level or look_down, got {self.camera!r}")
        for name in ("image_size", "frame_interval", "max_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class DualSample:
    """A pixel goal's prompt, and F frames of the way to the goal; the first is the frame of the plan.

    images: uint8 (F, S, S, 3). depths: float32 (F, S, S) metres up to 5, or None. trajectories: float32 (F, 32, 3),
    see `trajectory_labels.dual_label`; frames: (F,) numbers in the episode.
    """

    prompt: S2Sample
    images: np.ndarray
    depths: np.ndarray | None
    trajectories: np.ndarray
    frames: tuple[int, ...]


def plan_frames(goal_frames: int, interval: int, at_most: int) -> range:
    """Which of the frames 0 … goal_frames - 1 behind a plan's frame are trained on."""
    if math.ceil(goal_frames / interval) > at_most:
        interval = math.ceil(goal_frames / at_most)
    return range(0, goal_frames, interval)


class DualDataset(_Samples[DualSample]):
    """Samples of the dual system: those of the planner that have a pixel goal."""

    def __init__(
        self,
        data: VlnCeData,
        config: DualSampleConfig | None = None,
        prompts: S2SampleConfig | None = None,
        template: PromptTemplate | None = None,
        on_problem: OnProblem = "raise",
        seed: int = 0,
    ) -> None:
        super().__init__(on_problem, seed)
        self.data, self.config = data, config or DualSampleConfig()
        self._prompts = S2Dataset(data, prompts, template, "raise", seed)
        self._numbers = np.flatnonzero(self._prompts.kinds == "pixel_goal")

    def __len__(self) -> int:
        return len(self._numbers)

    def sample(self, index: int, random: np.random.Generator) -> DualSample:
        """Nothing of it is drawn: `random` is not used."""
        prompt = self._prompts.sample(int(self._numbers[index]), random)
        config, data, episode = self.config, self.data, prompt.episode
        frames = [prompt.frame + f for f in plan_frames(prompt.goal_frames, config.frame_interval, config.max_frames)]
        size = config.image_size
        images = np.stack([squeeze_rgb(data.rgb(episode, frame, config.camera), size) for frame in frames])
        depths = None
        if config.depth:
            depths = np.stack([self._depth(episode, frame) for frame in frames])
        poses = data.poses[data.frames(episode)]
        pitch = math.radians(data.setting.down_deg)
        forward = float(data.camera_forward[episode])
        end = prompt.frame + prompt.goal_frames + 1
        trajectories = np.stack(
            [labels.dual_label(labels.relative_path(poses[frame:end], pitch, forward)) for frame in frames]
        )
        return DualSample(prompt, images, depths, trajectories, tuple(frames))

    def _depth(self, episode: int, frame: int) -> np.ndarray:
        """Prepared as the controller does it."""
        depth = resize_depth(self.data.depth(episode, frame, self.config.camera), self.config.image_size)
        return np.maximum(clip_depth(depth), np.float32(0.0))


def collate_dual(samples: Sequence[DualSample]) -> dict[str, Tensor | list[S2Sample]]:
    """A batch: prompts (list), images uint8 (B, F, S, S, 3), depths (B, F, S, S) where there are any, trajectories
    (B, F, 32, 3), frame_counts (B,). Shorter plans are padded with their last frame."""
    counts = [len(sample.frames) for sample in samples]

    def padded(arrays: Sequence[np.ndarray]) -> Tensor:
        longest = max(counts)
        rows = [np.concatenate((a, np.repeat(a[-1:], longest - len(a), axis=0))) for a in arrays]
        return torch.from_numpy(np.stack(rows))

    batch: dict[str, Tensor | list[S2Sample]] = {
        "prompts": [sample.prompt for sample in samples],
        "images": padded([sample.images for sample in samples]),
        "trajectories": padded([sample.trajectories for sample in samples]),
        "frame_counts": torch.tensor(counts),
    }
    depths = [sample.depths for sample in samples if sample.depths is not None]
    if len(depths) == len(samples):
        batch["depths"] = padded(depths)
    return batch


# ------------------------------------------------------------------------------------------------ standalone NavDP


@dataclass(frozen=True)
class NavDpSampleConfig:
    """stride: frames from one image of the memory to the next and from one point of a label to the next.
    pixel_channels: 4 (image with the pixel goal, mask) or 7 (and the current image). turn: the augmented path is
    turned by up to so much [rad]. draws_per_episode: samples of an episode in an epoch."""

    memory_size: int = 8
    predict_size: int = 24
    stride: int = 4
    image_size: int = 224
    pixel_channels: int = 4
    turn: float = math.pi / 3
    draws_per_episode: int = 1

    def __post_init__(self) -> None:
        for name in ("memory_size", "predict_size", "stride", "image_size", "draws_per_episode"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.pixel_channels not in (4, 7):
            raise ValueError(f"pixel_channels: expected 4 or 7, got {self.pixel_channels}")


_MASK_MARGIN = (6, 12)  # pixels of the camera image that a goal's mark reaches to each side, from and below
_GOAL_DEPTH = 0.8  # of the camera's height: so far below the camera the reference puts a goal before it projects it


@dataclass(frozen=True)
class NavDpDraw:
    """given: frame in whose image the pixel goal is; current; goal: later frames. angle: of the augmented path [rad].
    margins: of the mark of the pixel goal, pixels to the left, above, right, below."""

    episode: int
    given: int
    current: int
    goal: int
    angle: float
    margins: tuple[int, ...]


class NavDpDataset(_Samples[dict[str, Tensor]]):
    """Samples of the standalone NavDP; default collation gives the batch of `standalone_navdp_loss`:

    points (3,) x, y [m] and direction; image_goals (S, S, 6): goal and current image; pixel_goals (S, S, 4 or 7);
    images (memory_size, S, S, 3), zeros before the episode's begin; depths (1, S, S) metres; labels and augmented
    (predict_size, 3); label_critic and augmented_critic (). Images are float32 in [0, 1].
    """

    def __init__(
        self,
        data: VlnN1Data,
        config: NavDpSampleConfig | None = None,
        on_problem: OnProblem = "raise",
        seed: int = 0,
    ) -> None:
        super().__init__(on_problem, seed)
        self.data, self.config = data, config or NavDpSampleConfig()
        self._episodes = [e for e in range(len(data)) if data.length(e) >= MIN_EPISODE_FRAMES]
        self._obstacles = functools.lru_cache(maxsize=32)(self._read_obstacles)

    def __len__(self) -> int:
        return len(self._episodes) * self.config.draws_per_episode

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_obstacles"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._obstacles = functools.lru_cache(maxsize=32)(self._read_obstacles)

    def _read_obstacles(self, path: str) -> cKDTree | None:
        points = read_obstacles(path)
        return cKDTree(points) if len(points) else None

    def draw(self, index: int, random: np.random.Generator) -> NavDpDraw:
        """What is random about a sample."""
        episode = self._episodes[index % len(self._episodes)]
        length = self.data.length(episode)
        given = int(random.integers(0, length // 2))
        goal = int(random.integers(given + 1, length - 1))
        current = int(random.integers(given, goal))
        angle = float(random.uniform(-self.config.turn, self.config.turn))
        return NavDpDraw(episode, given, current, goal, angle, tuple(random.integers(*_MASK_MARGIN, 4).tolist()))

    def local_path(self, episode: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Path (n, 2) of the robot's centre from frame `first` to `last` in its own frame at `first` (x forward, y
        left), and that frame (4, 4) in the world with the axes right, forward, up."""
        start = self.data.frames(episode).start
        body = self.data.poses[start + first : start + last + 1] @ np.linalg.inv(self.data.extrinsics[episode])
        local = (np.linalg.inv(body[0]) @ body)[:, :3, 3]
        return np.column_stack((local[:, 1], -local[:, 0])), body[0]

    def sample(self, index: int, random: np.random.Generator) -> dict[str, Tensor]:
        """See the class."""
        config, draw = self.config, self.draw(index, random)
        episode, current = draw.episode, draw.current
        path, frame = self.local_path(episode, current, draw.goal)
        augmented = labels.turned(path, draw.angle)
        initial = path[1] - path[0]
        poses = labels.with_directions(path, initial)
        indices = labels.navdp_indices(len(path), config.predict_size, config.stride)
        obstacles = self._obstacles(self.data.point_cloud_file(episode))
        memory = self._memory(episode, current)
        sample = {
            "points": poses[-1],
            "image_goals": np.concatenate((self._image(episode, draw.goal), memory[-1]), axis=-1),
            "pixel_goals": self._pixel_goal(draw),
            "images": memory,
            "depths": letterbox_depth(self.data.depth(episode, current), config.image_size)[None],
            "labels": labels.navdp_label(poses, indices),
            "augmented": labels.navdp_label(labels.with_directions(augmented, initial), indices),
            "label_critic": labels.critic_label(_in_world(frame, path), indices, obstacles),
            "augmented_critic": labels.critic_label(_in_world(frame, augmented), indices, obstacles),
        }
        if config.pixel_channels == 7:
            sample["pixel_goals"] = np.concatenate((sample["pixel_goals"], memory[-1]), axis=-1)
        return {name: torch.as_tensor(np.asarray(value, np.float32)) for name, value in sample.items()}

    def _image(self, episode: int, frame: int) -> np.ndarray:
        return letterbox_rgb(self.data.rgb(episode, frame), self.config.image_size).astype(np.float32) / 255.0

    def _memory(self, episode: int, current: int) -> np.ndarray:
        size, count = self.config.image_size, self.config.memory_size
        memory = np.zeros((count, size, size, 3), np.float32)
        for back in range(count):
            frame = current - back * self.config.stride
            if frame >= 0:
                memory[count - 1 - back] = self._image(episode, frame)
        return memory

    def goal_pixel(self, episode: int, given: int, goal: int) -> tuple[float, float] | None:
        """Column and row of the goal in the image of frame `given`; None where it is not in the image."""
        path, _ = self.local_path(episode, given, goal)
        x, y, _ = labels.with_directions(path, path[1] - path[0])[-1]
        extrinsic, intrinsic = self.data.extrinsics[episode], self.data.intrinsics[episode]
        right, up, ahead = extrinsic[:3, :3] @ (-y, x - extrinsic[1, 3], _GOAL_DEPTH * extrinsic[2, 3])
        if ahead <= 0:
            return None
        column = intrinsic[0, 2] + right / ahead * intrinsic[0, 0]
        row = intrinsic[1, 2] - up / ahead * intrinsic[1, 1]
        width, height = self.data.image_size(episode)
        return (float(column), float(row)) if 0 < column < width and 0 < row < height else None

    def _pixel_goal(self, draw: NavDpDraw) -> np.ndarray:
        width, height = self.data.image_size(draw.episode)
        mask = np.zeros((height, width, 3), np.uint8)
        pixel = self.goal_pixel(draw.episode, draw.given, draw.goal)
        if pixel is not None:
            left, above, right, below = draw.margins
            first, last = (
                (int(pixel[0] - left), int(pixel[1] - above)),
                (int(pixel[0] + right), int(pixel[1] + below)),
            )
            cv2.rectangle(mask, first, last, (255, 255, 255), -1)
        boxed = letterbox_rgb(mask, self.config.image_size)[..., :1].astype(np.float32) / 255.0
        return np.concatenate((self._image(draw.episode, draw.given), boxed), axis=-1)


def _in_world(frame: np.ndarray, path: np.ndarray) -> np.ndarray:
    """World x and y of a path (n, 2) given in `frame` (axes right, forward, up)."""
    return frame[:2, 3] + path[:, :1] * frame[:2, 1] - path[:, 1:] * frame[:2, 0]
