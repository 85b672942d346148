"""S2's episode: frames in, plans out. No ROS; the node calls this from its worker thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from dual_nav_util.checkpoint import CheckpointFolder
from s2_planner_node.answer import Answer, AnswerError, parse_answer
from s2_planner_node.checkpoint import PRECISIONS, load_model, load_protocol
from s2_planner_node.decoder import ATTENTIONS
from s2_planner_node.history import FrameHistory, ImagePool
from s2_planner_node.image_processor import ImageProcessor, check_rgb, resize_rgb
from s2_planner_node.model import FeatureCache, S2Model
from s2_planner_node.prompt import Message, PromptProtocol, check_instruction, first_turn, look_down_turn
from s2_planner_node.sequence import ImageRef, TokenSequence


@dataclass(frozen=True)
class PlannerConfig:
    """How S2 runs. Raises ``ValueError`` naming the field for a bad value."""

    device: str = "cpu"
    precision: str = "auto"  # auto: bfloat16 on a GPU, float32 on a CPU
    attention: str = "auto"  # auto: flash_attention_2 where it is installed, else sdpa
    num_history: int = 8  # history images in a prompt; 0 = none
    image_width: int = 384  # [px] history and current frames are resized to this
    image_height: int = 384  # [px]
    history_capacity: int = 128  # frames kept of an episode; exact history up to here, thinned beyond
    feature_capacity: int = 128  # images whose features are kept (1.4 MB each for 7B in bfloat16); 0 = none
    reuse_cache: bool = True  # continue the key/value cache; False computes every call in full
    max_new_tokens: int = 128  # longest answer
    max_instruction_bytes: int = 4096  # longest instruction, UTF-8

    def __post_init__(self) -> None:
        for name, low, high in (
            ("num_history", 0, 64),
            ("image_width", 28, 4096),
            ("image_height", 28, 4096),
            ("history_capacity", 2 * max(1, self.num_history), 1_000_000),
            ("feature_capacity", 0, 1_000_000),
            ("max_new_tokens", 1, 4096),
            ("max_instruction_bytes", 1, 1_000_000),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ValueError(f"{name} is {value!r}, expected an integer in [{low}, {high}]")
        for name, allowed in (("precision", PRECISIONS), ("attention", ATTENTIONS), ("reuse_cache", (True, False))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(map(str, allowed))}")
        try:
            torch.device(self.device)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"device is {self.device!r}, expected e.g. cpu, cuda or cuda:1") from error


@dataclass(frozen=True)
class Plan:
    """What S2 decided on one frame."""

    kind: Literal["actions", "pixel_goal", "traj_latents"]
    actions: tuple[int, ...]  # STOP 0, forward 1, left 2, right 3, look down 5; empty for a pixel goal
    pixel_goal: tuple[int, int] | None  # (column, row) [px] in the image of image_size
    image_size: tuple[int, int]  # (width, height) [px] of the image the answer refers to
    look_down: bool  # that image is the look-down camera's
    traj_latents: np.ndarray | None  # float32 (1, n_query, hidden), with kind traj_latents
    answer: str  # the model's text
    timings: dict[str, float] = field(default_factory=dict)  # [s] prepare, vision, prefill, decode, latents, total


@dataclass(frozen=True)
class _Image:
    image_id: int
    rgb: np.ndarray


class Planner:
    """Keeps the episode (instruction, frame history, caches) and makes one plan per step. Not thread-safe."""

    def __init__(
        self,
        model: S2Model,
        protocol: PromptProtocol,
        config: PlannerConfig,
        image_processor: ImageProcessor | None = None,
    ) -> None:
        self._model = model
        self._protocol = protocol
        self._config = config
        self._processor = image_processor or ImageProcessor()
        num_history = config.num_history if protocol.template.history else 0
        self._history: FrameHistory[_Image] = FrameHistory(num_history, config.history_capacity)
        # One more than the history: that of the frame which is about to be added.
        self._pool = ImagePool(config.history_capacity + 1, config.image_height, config.image_width)
        self._features = FeatureCache(config.feature_capacity)
        self._instruction: str | None = None
        self._images_seen = 0

    @property
    def has_latents(self) -> bool:
        """Whether pixel goals come with ``traj_latents``."""
        return self._model.latent_queries is not None

    @property
    def frames_in_episode(self) -> int:
        """Frames added to the history of the running episode."""
        return len(self._history)

    def start_episode(self, instruction: str) -> None:
        """Begin anew with an instruction; raises ``PromptError`` (and keeps the old episode) if it is unusable."""
        self._instruction = check_instruction(
            instruction, self._protocol.template, self._config.max_instruction_bytes
        )
        self._release(self._history.clear())
        self._features.clear()
        self._model.forget()

    def observe(self, rgb: np.ndarray) -> None:
        """Add a frame on which no plan is wanted to the episode's history. uint8 RGB (height, width, 3)."""
        self._require_episode()
        self._release(self._history.add(self._model_image(rgb)))

    def step(
        self, rgb: np.ndarray, look_down: Callable[[], np.ndarray] | None = None, answer: str | None = None
    ) -> Plan:
        """Plan on the current frame, uint8 RGB (height, width, 3), and add it to the history.

        ``look_down`` is called for the down-looking camera's image (same format) only if the model answers ↓;
        without it the current frame is shown again, at its own resolution. With ``answer`` the model is not asked
        but taken to have said that of the current frame: what S1 makes of right answers can be told so.

        Raises ``AnswerError`` if the model's answer is no plan, ``ValueError`` for a bad image.
        """
        instruction = self._require_episode()
        started = time.perf_counter()
        self._model.reset_timings()
        current = self._model_image(rgb)
        images = [image for _, image in self._history.select()]
        # Given back, not gone: what this step still reads is overwritten by the next frame at the earliest.
        self._release(self._history.add(current))
        conversation = first_turn(self._protocol.template, instruction, len(images))
        images.append(current)

        features: dict[int, torch.Tensor] = {}
        text, sequence = self._ask(conversation, images, features, answer)
        looked_down = self._is_look_down(text)
        if looked_down:
            down = check_rgb(look_down() if look_down else rgb, "look_down image")
            images.append(self._numbered(np.array(down)))
            conversation = look_down_turn(self._protocol.template, conversation, text)
            text, sequence = self._ask(conversation, images, features)
        shown = images[-1].rgb
        size = (shown.shape[1], shown.shape[0])
        told = parse_answer(text, self._protocol.template.actions, size)
        if looked_down and told.asks_to_look_down:
            raise AnswerError("answer to the look-down image is again ↓", text)
        latents = None
        if told.pixel_goal is not None and self.has_latents:
            latents = self._latents(sequence, features)
        timings = self._timings(time.perf_counter() - started)
        tilted = looked_down and look_down is not None  # else ↓ was answered with the level image
        return Plan(_kind(told, latents), told.actions, told.pixel_goal, size, tilted, latents, text, timings)

    def pixel_answer(self, pixel_goal: tuple[float, float], image_size: tuple[int, int]) -> str:
        """What the model says for a pixel (column, row) of a frame of (width, height), which it sees resized."""
        seen = (self._config.image_width, self._config.image_height)
        column, row = (
            (value + 0.5) * to / size for value, to, size in zip(pixel_goal, seen, image_size, strict=True)
        )
        return self._protocol.template.pixel_answer(column, row, seen)

    def _require_episode(self) -> str:
        if self._instruction is None:
            raise RuntimeError("no instruction yet: call start_episode first")
        return self._instruction

    def _model_image(self, rgb: np.ndarray) -> _Image:
        # A copy: the caller's buffer may be a camera's and change.
        resized = resize_rgb(check_rgb(rgb), self._config.image_width, self._config.image_height)
        return self._numbered(self._pool.copy(resized))

    def _release(self, images: list[_Image]) -> None:
        for image in images:
            self._pool.give_back(image.rgb)

    def _numbered(self, rgb: np.ndarray) -> _Image:
        self._images_seen += 1
        return _Image(self._images_seen, rgb)

    def _is_look_down(self, text: str) -> bool:
        try:
            return parse_answer(text, self._protocol.template.actions).asks_to_look_down
        except AnswerError:
            return False  # reported by the caller, with the image's size known

    def _ask(
        self,
        conversation: list[Message],
        images: list[_Image],
        features: dict[int, torch.Tensor],
        answer: str | None = None,
    ) -> tuple[str, TokenSequence]:
        """The model's answer, or the given one, and the sequence of prompt and answer. ``features`` is filled for all
        images."""
        self._encode([image for image in images if image.image_id not in features], features)
        refs = [ImageRef(image.image_id, self._processor.grid(*image.rgb.shape[:2])) for image in images]
        sequence = self._model.sequence(self._protocol.tokenize(conversation), refs)
        if answer is not None:
            answer_ids = [*self._protocol.encode_answer(answer), *self._model.end_token_ids[:1]]
        else:
            answer_ids = self._model.generate(sequence, features, self._config.max_new_tokens)
        return self._protocol.decode(answer_ids), sequence.extended(answer_ids)

    def _encode(self, images: list[_Image], features: dict[int, torch.Tensor]) -> None:
        new = []
        for image in images:
            kept = self._features.get(image.image_id)
            if kept is None:
                new.append(image)
            else:
                features[image.image_id] = kept
        if not new:
            return
        patches, grids = self._processor([image.rgb for image in new])
        for image, encoded in zip(new, self._model.encode_images(patches, grids), strict=True):
            features[image.image_id] = encoded.clone()  # not a view that keeps the whole batch alive
            self._features.put(image.image_id, features[image.image_id])

    def _latents(self, sequence: TokenSequence, features: dict[int, torch.Tensor]) -> np.ndarray:
        latents = self._model.traj_latents(sequence, features).cpu().numpy()
        if not np.isfinite(latents).all():
            raise FloatingPointError("traj_latents are not finite; try precision float32")
        return latents

    def _timings(self, total: float) -> dict[str, float]:
        stages = dict(self._model.timings)
        return {"prepare": total - sum(stages.values()), **stages, "total": total}


def _kind(answer: Answer, latents: np.ndarray | None) -> Literal["actions", "pixel_goal", "traj_latents"]:
    if answer.pixel_goal is None:
        return "actions"
    return "pixel_goal" if latents is None else "traj_latents"


def load_planner(folder: str | Path, config: PlannerConfig) -> Planner:
    """A planner from a checkpoint folder or hub id; errors as in ``load_model``."""
    checkpoint = CheckpointFolder(folder)
    protocol = load_protocol(checkpoint)
    model = load_model(
        checkpoint,
        device=config.device,
        precision=config.precision,
        attention=config.attention,
        reuse_cache=config.reuse_cache,
    )
    return Planner(model, protocol, config, ImageProcessor.from_folder(checkpoint.path))
