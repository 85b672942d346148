"""What the controller asks of a System 1 model: prepare a frame, take a goal, sample trajectories.

    policy = load_policy(folder, PolicyConfig(num_samples=32))
    policy.set_goal(Goal(traj_latents=latents, goal_frame=policy.prepare(stamp, rgb, depth)))    # once per plan
    trajectories = policy.sample(policy.prepare(stamp, rgb, depth))                              # once per frame

The variant, its sizes and its number of steps come from the checkpoint. Nothing here knows of ROS.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dual_nav_util.checkpoint import CheckpointFolder

from .checkpoint import described, load_model, variant_of
from .checks import check_array, check_number, check_positive_int
from .flow_sampler import FlowMatchingSampler
from .nextdit_model import NextDiTModel
from .path import path_from_increments
from .preprocess import resize_rgb, without_invalid_readings

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SAMPLERS = ("reference", "dpm_solver")


@dataclass(frozen=True)
class PolicyConfig:
    """How to run a System 1 model; what it is comes from the checkpoint.

    Attributes:
        device: a torch device, ``cpu`` or ``cuda[:n]``.
        precision: ``float32`` or ``bfloat16`` weights and activations; trajectories are float32 always.
        num_samples: trajectories drawn per frame.
        num_steps: denoising steps; None takes the checkpoint's own.
        guidance_scale: classifier-free guidance of NextDiT; 1 is the release's and twice as fast as others.
        sampler: NavDP only: ``reference`` (DDPM, all steps) or ``dpm_solver`` (fewer steps).
        compile: run the denoiser through torch.compile; the first sample then takes about a minute.
        cuda_graph: replay the sampling loop as one CUDA graph.
    """

    device: str = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"
    num_samples: int = 32
    num_steps: int | None = None
    guidance_scale: float = 1.0
    sampler: Literal["reference", "dpm_solver"] = "reference"
    compile: bool = False
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        try:
            device = torch.device(self.device)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"device: expected 'cpu' or 'cuda[:n]', got {self.device!r}") from error
        if device.type not in ("cpu", "cuda"):
            raise ValueError(f"device: expected 'cpu' or 'cuda[:n]', got {self.device!r}")
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device: {self.device!r} was asked for, but this torch has no CUDA device")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler: expected one of {', '.join(SAMPLERS)}, got {self.sampler!r}")
        check_positive_int("num_samples", self.num_samples)
        if self.num_steps is not None:
            check_positive_int("num_steps", self.num_steps)
        check_number("guidance_scale", self.guidance_scale)
        for name in ("compile", "cuda_graph"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: expected true or false, got {getattr(self, name)!r}")
        if self.cuda_graph and device.type != "cuda":
            raise ValueError(f"cuda_graph: expected device 'cuda', got {self.device!r}")

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]


@dataclass(frozen=True, eq=False)
class Frame:
    """One camera frame, prepared for the model by :meth:`TrajectoryPolicy.prepare`.

    Attributes:
        stamp_ns: stamp of the camera image.
        rgb: uint8 (H', W', 3) in the model's size.
        depth: float32 (H', W') in metres, prepared as the model wants it, or None.
        image_size: (width, height) of the camera image, which pixel goals refer to.
    """

    stamp_ns: int
    rgb: np.ndarray
    depth: np.ndarray | None
    image_size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Goal:
    """What the planner wants, and the frame it saw when it decided.

    Attributes:
        goal_frame: the prepared frame with the plan's stamp.
        traj_latents: float32 (1, n_query, D) from a planner with latents.
        pixel_goal: (column, row) in the goal frame's camera image.
        point: (x [m], y [m], yaw [rad]) in the robot frame of the goal frame.
    """

    goal_frame: Frame
    traj_latents: np.ndarray | None = None
    pixel_goal: tuple[float, float] | None = None
    point: tuple[float, float, float] | None = None


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Samples for one frame, in the robot frame of that frame.

    Attributes:
        stamp_ns: of the frame.
        increments: (S, T, 3) float32, normalised per-step increments as the model gives them.
        paths: (S, T + 1, 3) float32, metres and radians, starting at 0.
        scores: (S,) float32, higher is better, or None for a model without critic.
        timings: seconds spent per stage.
    """

    stamp_ns: int
    increments: np.ndarray
    paths: np.ndarray
    scores: np.ndarray | None
    timings: dict[str, float]

    def __post_init__(self) -> None:
        # Last gate before the motion layer: whatever went wrong inside, no NaN becomes a path.
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray) and not np.isfinite(value).all():
                raise FloatingPointError(f"trajectories.{item.name}: the model gave NaN or infinite values")


class NoGoalError(RuntimeError):
    """Trajectories were asked for before any goal was set."""


class TrajectoryPolicy(ABC):
    """A System 1 model behind one interface. Not thread-safe: one caller at a time.

    Attributes:
        needs_depth: frames must carry depth.
        needs_latents: goals must carry ``traj_latents``.
        scores_samples: whether :meth:`sample` gives scores, a critic's.
        memory_frames: how many of the newest frames :meth:`sample` looks at.
    """

    needs_depth: bool
    needs_latents: bool
    scores_samples: bool = False
    memory_frames: int = 1

    def prepare(self, stamp_ns: int, rgb: np.ndarray, depth: np.ndarray | None = None) -> Frame:
        """A frame as the model wants it, from RGB (H, W, 3) uint8 and depth (H, W) float metres, 0 = no reading.

        Raises:
            ValueError: a model that needs depth gets none, or depth of another size than RGB.
        """
        small = None
        if self.needs_depth:
            if depth is None:
                raise ValueError("depth: this model needs a depth image with every frame, got None")
            if np.shape(depth) != np.shape(rgb)[:2]:
                raise ValueError(
                    f"depth: expected the size of the RGB image {np.shape(rgb)[:2]}, got {np.shape(depth)}"
                )
            small = self.prepare_depth(without_invalid_readings(depth))
        return Frame(stamp_ns, self.prepare_rgb(rgb), small, image_size=(rgb.shape[1], rgb.shape[0]))

    @abstractmethod
    def prepare_rgb(self, rgb: np.ndarray) -> np.ndarray:
        """The RGB half of :meth:`prepare`, for callers that get the images one after the other."""

    def prepare_depth(self, depth: np.ndarray) -> np.ndarray | None:
        """The depth half, of finite metres with 0 = no reading; None where the model looks at no depth."""
        return None

    @abstractmethod
    def set_goal(self, goal: Goal) -> None:
        """Take a new plan; what depends on it alone is computed here and kept until the next plan."""

    @abstractmethod
    def sample(
        self,
        current: Frame | Sequence[Frame],
        *,
        noise: np.ndarray | None = None,
        generator: torch.Generator | None = None,
    ) -> Trajectories:
        """Trajectory samples for the newest frame (or the newest ``memory_frames``, oldest first).

        Args:
            noise: the model's start noise (S, T, 3) instead of a draw, for exact repetition.
            generator: for the draw.

        Raises:
            NoGoalError: no goal yet. ValueError: a frame or noise that does not fit, with expected and given.
        """


class NextDiTPolicy(TrajectoryPolicy):
    """NextDiT: planner latents, and for ``nextdit_async`` the goal frame's and the current frame's RGB."""

    needs_depth = False
    needs_latents = True

    def __init__(self, model: NextDiTModel, config: PolicyConfig) -> None:
        self.config = config
        self.model = model
        if model.config.uses_images:
            model.rgb_model.fix_input_size(model.config.image_size, model.config.image_size)
        self.sampler = FlowMatchingSampler(
            model,
            num_steps=config.num_steps,
            guidance_scale=config.guidance_scale,
            compile=config.compile,
            cuda_graph=config.cuda_graph,
        )
        self._projected_latents: Tensor | None = None
        self._goal_tokens: Tensor | None = None

    def prepare_rgb(self, rgb: np.ndarray) -> np.ndarray:
        return resize_rgb(rgb, self.model.config.image_size)

    @torch.inference_mode()
    def set_goal(self, goal: Goal) -> None:
        config = self.model.config
        if goal.traj_latents is None:
            raise ValueError(f"goal.traj_latents: expected (1, {config.n_query}, {config.latent_dim}), got None")
        latents = check_array("goal.traj_latents", goal.traj_latents, (1, config.n_query, config.latent_dim))
        goal_tokens = self._encode(goal.goal_frame) if config.uses_images else None
        self._projected_latents = self.model.project_latents(torch.from_numpy(latents))
        self._goal_tokens = goal_tokens

    @torch.inference_mode()
    def sample(
        self,
        current: Frame | Sequence[Frame],
        *,
        noise: np.ndarray | None = None,
        generator: torch.Generator | None = None,
    ) -> Trajectories:
        if self._projected_latents is None:
            raise NoGoalError("sample() before set_goal(): there is no plan to follow yet")
        frame = current if isinstance(current, Frame) else current[-1]
        clock = StageClock(self.model.device)
        current_tokens = self._encode(frame) if self.model.config.uses_images else None
        clock.lap("encode")
        tokens = self.model.condition_tokens(self._projected_latents, self._goal_tokens, current_tokens)
        clock.lap("condition")
        start = None if noise is None else torch.from_numpy(check_array("noise", noise, (None, None, 3)))
        increments = self.sampler.sample(tokens, self.config.num_samples, noise=start, generator=generator)
        increments = increments.cpu().numpy()
        clock.lap("denoise")
        return Trajectories(frame.stamp_ns, increments, path_from_increments(increments), None, clock.timings)

    def _encode(self, frame: Frame) -> Tensor:
        size = self.model.config.image_size
        rgb = check_array("frame.rgb", frame.rgb, (size, size, 3), kind="u8")
        return self.model.encode_frames(torch.from_numpy(np.array(rgb, order="C")).unsqueeze(0))


class StageClock:
    """Seconds per stage; on a GPU each lap waits for the work that was queued."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.timings: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self.timings[stage] = now - self._last
        self._last = now


def load_policy(folder: str | Path, config: PolicyConfig | None = None) -> TrajectoryPolicy:
    """The policy that a checkpoint folder (or hub id) describes; only S1's own tensors are read.

    Raises:
        CheckpointError: see :func:`.checkpoint.load_model`.
    """
    config = config or PolicyConfig()
    checkpoint = CheckpointFolder(folder)
    variant = variant_of(described(checkpoint))
    model = load_model(checkpoint, device=config.device, dtype=config.dtype)
    if variant in ("nextdit_async", "nextdit"):
        return NextDiTPolicy(model, config)
    from .navdp_policy import navdp_policy  # late: it builds on this module

    return navdp_policy(variant, model, config)
