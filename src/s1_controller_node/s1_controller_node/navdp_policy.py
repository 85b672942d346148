"""NavDP behind the controller's policy interface, in the dual system and standalone.

Both keep what does not change: the goal frame's encoder tokens and the goal token for the life of a
plan, every frame's RGB tokens for as long as the caller keeps the frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from .checks import check_array, check_number
from .ddpm_sampler import Schedule, ddpm_schedule, dpm_solver_schedule, draw_noise, run_schedule
from .navdp import NavDp
from .navdp_core import CHANNELS, CrossMemory, DenoiserEngine, NavDpCore
from .navdp_standalone import GOAL_SLOTS, NavDpStandalone
from .path import DUAL_SCALE, STANDALONE_SCALE, path_from_increments
from .policy import Frame, Goal, NoGoalError, PolicyConfig, StageClock, Trajectories, TrajectoryPolicy
from .preprocess import (
    clip_depth,
    letterbox_depth,
    letterbox_pixel,
    letterbox_rgb,
    resize_depth,
    resize_rgb,
    without_invalid_readings,
)
from .sample_threads import SampleThreads

DEFAULT_FAST_STEPS = 10  # of the dpm_solver sampler when the number of steps is left open
POINT_GOAL_RANGE = 10.0  # metres; point goals are clipped to x in [0, 10] and y in [-10, 10], as deployed
PIXEL_GOAL_HALF_SIDE = 10.0  # pixels of the camera image; half side of the square that marks a pixel goal
_DEPTH_WINDOW = 3  # pixels around a pixel goal in which its depth is looked for


def navdp_policy(variant: str, model: nn.Module, config: PolicyConfig) -> TrajectoryPolicy:
    """The policy for a loaded NavDP model; ``variant`` is ``navdp_async`` or ``navdp_standalone``."""
    if variant == "navdp_async" and isinstance(model, NavDp):
        return NavDpPolicy(model, config)
    if variant == "navdp_standalone" and isinstance(model, NavDpStandalone):
        return NavDpStandalonePolicy(model, config)
    given = f"{variant!r} with {type(model).__name__}"
    raise ValueError(f"variant: expected navdp_async or navdp_standalone with its model, got {given}")


class NavDpSampler:
    """Noise to trajectories and scores for one condition at a time.

    On a CPU each core takes a slice of the samples through the whole loop; on CUDA the loop may be
    replayed as one graph.

    Raises:
        ValueError: guidance, which NavDP has none of, or a number of steps that the sampler cannot do.
    """

    def __init__(self, model: NavDpCore, config: PolicyConfig) -> None:
        if config.guidance_scale != 1.0:
            raise ValueError(f"guidance_scale: NavDP has no guidance, expected 1.0, got {config.guidance_scale}")
        self.config, self._model = config, model
        self.schedule = schedule_of(config, model.sizes.ddpm_train_steps)
        parallel = model.action_head.weight.device.type == "cpu" and not config.compile
        self.threads = SampleThreads(None if parallel else 1)
        per_call = max(1, config.num_samples // self.threads.num_threads)
        self.engine = DenoiserEngine(model, num_samples=per_call, compile=config.compile)
        self._graph: _GraphedLoop | None = None

    @property
    def noisy_steps(self) -> int:
        """How many steps of the schedule add noise."""
        return sum(step.noise > 0.0 for step in self.schedule)

    @torch.inference_mode()
    def sample(
        self, memory: CrossMemory, noise: np.ndarray | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Trajectories (S, T, 3) float32 in the model's scale.

        Args:
            memory: from ``engine.condition``.
            noise: start noise (S, T, 3), or (1 + noisy steps, S, T, 3) with the noise of every step after it.
            generator: for what is not given.
        """
        shape = (self.config.num_samples, self._model.sizes.predict_size, CHANNELS)
        start, steps = draw_noise(self.schedule, shape, self.engine.device, generator)
        if noise is not None:
            whole = np.ndim(noise) == 4
            given = check_array("noise", noise, (1 + self.noisy_steps, *shape) if whole else shape)
            given = torch.from_numpy(given).to(start)
            start, steps = (given[0], given[1:]) if whole else (given, steps)
        if self.config.cuda_graph:
            if self._graph is None:
                self._graph = _GraphedLoop(self.engine, self.schedule, start, steps, memory)
            return self._graph(start, steps, memory)

        def run(start: Tensor, steps: Tensor) -> Tensor:
            own = memory.clone()
            predict = lambda x, timestep: self.engine.predict_noise(x, timestep, own)  # noqa: E731
            return run_schedule(predict, self.schedule, start, steps.transpose(0, 1))

        return self.threads(run, start, steps.transpose(0, 1))

    @torch.inference_mode()
    def score(self, actions: Tensor, memory: CrossMemory) -> Tensor:
        """Critic scores (S,) of sampled trajectories (S, T, 3); higher is better."""
        return self.threads(lambda part: self.engine.critic(part, memory), actions)


def schedule_of(config: PolicyConfig, train_steps: int) -> Schedule:
    """The schedule that ``sampler`` and ``num_steps`` ask for.

    Raises:
        ValueError: another number of steps than the checkpoint's for the reference, or too many.
    """
    if config.sampler == "dpm_solver":
        return dpm_solver_schedule(train_steps, config.num_steps or min(DEFAULT_FAST_STEPS, train_steps))
    if config.num_steps not in (None, train_steps):
        raise ValueError(
            f"num_steps: the reference sampler takes all {train_steps} steps, got {config.num_steps}; "
            "sampler 'dpm_solver' takes fewer"
        )
    return ddpm_schedule(train_steps)


class _GraphedLoop:
    """One captured CUDA graph of the sampling loop, with buffers of its own for what goes in."""

    def __init__(
        self, engine: DenoiserEngine, schedule: Schedule, start: Tensor, steps: Tensor, memory: CrossMemory
    ) -> None:
        self._start, self._steps, self._memory = start.clone(), steps.clone(), memory.clone()

        def run() -> Tensor:
            predict = lambda x, timestep: engine.predict_noise(x, timestep, self._memory)  # noqa: E731
            return run_schedule(predict, schedule, self._start, self._steps)

        stream = torch.cuda.Stream(start.device)
        stream.wait_stream(torch.cuda.current_stream(start.device))
        with torch.cuda.stream(stream):
            for _ in range(2):  # warm-up: libraries allocate their workspaces before the capture
                run()
        torch.cuda.current_stream(start.device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._result = run()

    def __call__(self, start: Tensor, steps: Tensor, memory: CrossMemory) -> Tensor:
        for own, given in zip(self._memory.tensors(), memory.tensors(), strict=True):
            own.copy_(given)
        self._start.copy_(start)
        self._steps.copy_(steps)
        self._graph.replay()
        return self._result.clone()


class NavDpPolicy(TrajectoryPolicy):
    """NavDP in the dual system: planner latents, RGB and depth of goal and current frame; scores every sample."""

    needs_depth = True
    needs_latents = True
    scores_samples = True

    def __init__(self, model: NavDp, config: PolicyConfig) -> None:
        self.config, self.model = config, model
        self.sampler = NavDpSampler(model, config)
        _fix_input_sizes(model)
        self._goal: tuple[Tensor, Tensor, Tensor] | None = None  # goal token, RGB tokens, depth tokens

    def prepare_rgb(self, rgb: np.ndarray) -> np.ndarray:
        return resize_rgb(rgb, self.model.config.image_size)

    def prepare_depth(self, depth: np.ndarray) -> np.ndarray:
        # The filter overshoots at edges: below 0 there is no depth, beyond 5 m the model has seen none.
        return np.maximum(clip_depth(resize_depth(depth, self.model.config.image_size)), np.float32(0.0))

    @torch.inference_mode()
    def set_goal(self, goal: Goal) -> None:
        width = self.model.config.vlm_token_dim
        if goal.traj_latents is None:
            raise ValueError(f"goal.traj_latents: expected (1, n_query, {width}), got None")
        latents = torch.from_numpy(check_array("goal.traj_latents", goal.traj_latents, (1, None, width)))
        token = self.model.goal_token(latents.to(self.sampler.engine.device))[0]
        self._goal = (token, *self._encode("goal.goal_frame", goal.goal_frame))

    @torch.inference_mode()
    def sample(
        self,
        current: Frame | Sequence[Frame],
        *,
        noise: np.ndarray | None = None,
        generator: torch.Generator | None = None,
    ) -> Trajectories:
        if self._goal is None:
            raise NoGoalError("sample() before set_goal(): there is no plan to follow yet")
        frame = current if isinstance(current, Frame) else current[-1]
        clock = StageClock(self.sampler.engine.device)
        token, goal_rgb, goal_depth = self._goal
        rgb, depth = self._encode("frame", frame)
        clock.lap("encode")
        tokens = (torch.stack(pair)[None] for pair in ((goal_rgb, rgb), (goal_depth, depth)))
        rgbd = self.model.rgbd_encoder.fuse(*tokens)
        memory = self.sampler.engine.condition(token, rgbd[0])
        clock.lap("condition")
        return _finish(self.sampler, memory, frame.stamp_ns, DUAL_SCALE, clock, noise, generator)

    def _encode(self, name: str, frame: Frame) -> tuple[Tensor, Tensor]:
        """RGB and depth tokens, each (patches, dim)."""
        encoder, device = self.model.rgbd_encoder, self.sampler.engine.device
        rgb, depth = _rgb_tensor(name, frame, self.model, device), _depth_tensor(name, frame, self.model, device)
        tokens = self.sampler.threads.side_by_side(
            lambda: encoder.rgb_tokens(rgb), lambda: encoder.depth_tokens(depth)
        )
        return tokens[0][0], tokens[1][0]


class NavDpStandalonePolicy(TrajectoryPolicy):
    """Standalone NavDP: a point, pixel, image or no goal, eight RGB frames, the newest frame's depth.

    Scores every sample. Serves a planner that gives pixel goals without latents. A point goal is taken in
    the robot frame of the frame that is sampled next: while the robot moves towards a fixed point, set it
    anew per frame (one small product).
    """

    needs_depth = True
    needs_latents = False
    scores_samples = True

    def __init__(self, model: NavDpStandalone, config: PolicyConfig) -> None:
        self.config, self.model = config, model
        self.memory_frames = model.config.memory_size
        self.sampler = NavDpSampler(model, config)
        _fix_input_sizes(model)
        self._goal_token: Tensor | None = None  # (1, dim), for goals that are fixed for the plan's life
        self._image_goal: Tensor | None = None  # (H, W, 3), to be seen together with the current image
        self._pixel_goal: Tensor | None = None  # (H, W, 4), image and mask, likewise
        self._rgb_tokens: WeakKeyDictionary[Frame, Tensor] = WeakKeyDictionary()
        size = model.config.image_size
        with torch.inference_mode():
            black = torch.zeros(1, size, size, 3, device=self.sampler.engine.device)
            self._no_frame_tokens = model.rgbd_encoder.rgb_tokens(black)[0]  # stands for frames before the first

    def prepare_rgb(self, rgb: np.ndarray) -> np.ndarray:
        return letterbox_rgb(rgb, self.model.config.image_size)

    def prepare_depth(self, depth: np.ndarray) -> np.ndarray:
        return letterbox_depth(depth, self.model.config.image_size)

    def set_goal(self, goal: Goal) -> None:
        """A pixel goal or a point goal; of a goal with both, the point."""
        if goal.point is not None:
            self.set_point_goal(goal.point)
        elif goal.pixel_goal is not None:
            self.set_pixel_goal(goal.goal_frame, goal.pixel_goal)
        else:
            raise ValueError("goal: expected a point or a pixel_goal for the standalone NavDP, got neither")

    @torch.inference_mode()
    def set_point_goal(self, point: tuple[float, float, float]) -> None:
        """(x m, y m, yaw rad) in the robot frame; x is clipped to [0, 10], y to [-10, 10]."""
        x, y, yaw = (check_number(f"point.{name}", v) for name, v in zip(("x", "y", "yaw"), point, strict=True))
        limit = POINT_GOAL_RANGE
        clipped = [[min(max(x, 0.0), limit), min(max(y, -limit), limit), min(max(yaw, -limit), limit)]]
        self._clear()
        self._goal_token = self.model.point_goal(torch.tensor(clipped, device=self.sampler.engine.device))

    @torch.inference_mode()
    def set_pixel_goal(self, frame: Frame, pixel: tuple[float, float]) -> None:
        """A pixel (column, row) of the camera image behind ``frame``."""
        device = self.sampler.engine.device
        image = _rgb_tensor("goal.goal_frame", frame, self.model, device)[0]
        mask = torch.from_numpy(pixel_mask(pixel, frame.image_size, self.model.config.image_size)).to(device)
        marked = torch.cat((image, mask[..., None]), dim=-1)
        self._clear()
        if self.model.config.pixel_channel == marked.shape[-1]:
            self._goal_token = self.model.pixel_goal(marked[None])
        else:
            self._pixel_goal = marked

    @torch.inference_mode()
    def set_image_goal(self, frame: Frame) -> None:
        """Go where the image was taken."""
        image = _rgb_tensor("image goal", frame, self.model, self.sampler.engine.device)[0]
        self._clear()
        self._image_goal = image

    @torch.inference_mode()
    def set_no_goal(self) -> None:
        """Explore."""
        self._clear()
        self._goal_token = self.model.no_goal()

    @torch.inference_mode()
    def sample(
        self,
        current: Frame | Sequence[Frame],
        *,
        noise: np.ndarray | None = None,
        generator: torch.Generator | None = None,
    ) -> Trajectories:
        frames = [current] if isinstance(current, Frame) else list(current)[-self.memory_frames :]
        if not frames:
            raise ValueError("current: expected at least one frame, got none")
        engine = self.sampler.engine
        clock = StageClock(engine.device)
        goal = self._current_goal(frames[-1])
        missing = [self._no_frame_tokens] * (self.memory_frames - len(frames))
        rgb = torch.stack(missing + [self._tokens_of(frame) for frame in frames])
        depth = self.model.rgbd_encoder.depth_tokens(_depth_tensor("frame", frames[-1], self.model, engine.device))
        clock.lap("encode")
        rgbd = self.model.rgbd_encoder.fuse(rgb[None], depth[None])
        memory = engine.condition(goal.expand(GOAL_SLOTS, -1), rgbd[0])
        clock.lap("condition")
        return _finish(self.sampler, memory, frames[-1].stamp_ns, STANDALONE_SCALE, clock, noise, generator)

    def _clear(self) -> None:
        self._goal_token = self._image_goal = self._pixel_goal = None

    def _current_goal(self, frame: Frame) -> Tensor:
        """(1, dim); image goals and seven-channel pixel goals are seen together with the current image."""
        if self._goal_token is not None:
            return self._goal_token
        image = _rgb_tensor("frame", frame, self.model, self.sampler.engine.device)[0]
        if self._image_goal is not None:
            return self.model.image_goal(torch.cat((self._image_goal, image), dim=-1)[None])
        if self._pixel_goal is not None:
            return self.model.pixel_goal(torch.cat((self._pixel_goal, image), dim=-1)[None])
        raise NoGoalError("sample() before set_goal(): there is no plan to follow yet")

    def _tokens_of(self, frame: Frame) -> Tensor:
        """RGB tokens (patches, dim), computed once per frame."""
        if frame not in self._rgb_tokens:
            image = _rgb_tensor("frame", frame, self.model, self.sampler.engine.device)
            self._rgb_tokens[frame] = self.model.rgbd_encoder.rgb_tokens(image)[0]
        return self._rgb_tokens[frame]


def pixel_mask(pixel: tuple[float, float], image_size: tuple[int, int], size: int) -> np.ndarray:
    """The mask channel of a pixel goal: (size, size) float32, 1 in a square around the pixel, else 0.

    Args:
        pixel: (column, row) in the camera image.
        image_size: (width, height) of the camera image; the square is 20 of its pixels wide.
        size: side of the padded square image that the model sees.

    Raises:
        ValueError: the pixel is outside the image.
    """
    width, height = image_size
    column, row = letterbox_pixel(pixel, width, height, size)
    half = max(0.5, PIXEL_GOAL_HALF_SIDE * size / max(width, height))
    mask = np.zeros((size, size), dtype=np.float32)
    rows, columns = (slice(max(0, round(c - half)), max(1, round(c + half))) for c in (row, column))
    mask[rows, columns] = 1.0
    return mask


def point_goal_from_pixel(
    depth_m: np.ndarray,
    pixel: tuple[float, float],
    intrinsics: np.ndarray,
    camera_height: float,
    camera_pitch: float,
    camera_forward: float = 0.0,
) -> tuple[float, float, float]:
    """The point goal that a pixel stands for.

    Where there is no depth at the pixel, the pixel's ray is followed to the ground.

    Args:
        depth_m: (H, W) float metres along the optical axis, aligned to the image; 0 or no number = no reading.
        pixel: (column, row) in the image.
        intrinsics: (3, 3) camera matrix of the image, in pixels.
        camera_height: of the camera above the ground [m].
        camera_pitch: angle of the optical axis below the horizontal [rad]; positive looks down.
        camera_forward: of the camera ahead of the robot's origin [m].

    Returns:
        (x m, y m, yaw rad) in the robot frame (x forward, y left), yaw being the direction of the point.

    Raises:
        ValueError: a pixel outside the image, a camera matrix without focal lengths, or a pixel without
            depth at or above the horizon.
    """
    depth = check_array("depth_m", without_invalid_readings(depth_m), (None, None), minimum=0.0)
    matrix = check_array("intrinsics", np.asarray(intrinsics, dtype=np.float64), (3, 3))
    height = check_number("camera_height", camera_height, 0.0)
    pitch = check_number("camera_pitch", camera_pitch, -math.pi / 2, math.pi / 2)
    forward = check_number("camera_forward", camera_forward)
    column, row = (check_number(f"pixel {name}", v) for name, v in zip(("column", "row"), pixel, strict=True))
    rows, columns = depth.shape
    if not (0 <= column < columns and 0 <= row < rows):
        raise ValueError(f"pixel: expected (column, row) inside {columns}x{rows}, got ({column:g}, {row:g})")
    if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise ValueError(f"intrinsics: expected positive focal lengths, got {matrix[0, 0]:g} and {matrix[1, 1]:g}")

    # Ray per metre of depth, in the robot's axes.
    right, down = (column - matrix[0, 2]) / matrix[0, 0], (row - matrix[1, 2]) / matrix[1, 1]
    ahead = math.cos(pitch) - down * math.sin(pitch)
    fall = math.sin(pitch) + down * math.cos(pitch)
    window = depth[
        max(0, int(row) - _DEPTH_WINDOW) : int(row) + _DEPTH_WINDOW + 1,
        max(0, int(column) - _DEPTH_WINDOW) : int(column) + _DEPTH_WINDOW + 1,
    ]
    readings = window[window > 0]
    if readings.size:
        distance = float(np.median(readings))
    elif fall > 1e-3:
        distance = height / fall
    else:
        raise ValueError(f"pixel: expected depth, or a pixel below the horizon; ({column:g}, {row:g}) has neither")
    x, y = forward + distance * ahead, -distance * right
    return x, y, math.atan2(y, x)


def _finish(
    sampler: NavDpSampler,
    memory: CrossMemory,
    stamp_ns: int,
    scale: Sequence[float],
    clock: StageClock,
    noise: np.ndarray | None,
    generator: torch.Generator | None,
) -> Trajectories:
    """Denoise, score and convert."""
    actions = sampler.sample(memory, noise, generator)
    clock.lap("denoise")
    scores = sampler.score(actions, memory).cpu().numpy()
    clock.lap("score")
    increments = actions.cpu().numpy()
    return Trajectories(stamp_ns, increments, path_from_increments(increments, scale), scores, clock.timings)


def _fix_input_sizes(model: NavDp | NavDpStandalone) -> None:
    for encoder in (model.rgbd_encoder.rgb_model, model.rgbd_encoder.depth_model):
        encoder.fix_input_size(model.config.image_size, model.config.image_size)


def _rgb_tensor(name: str, frame: Frame, model: NavDp | NavDpStandalone, device: torch.device) -> Tensor:
    """(1, H, W, 3) in [0, 1]."""
    size = model.config.image_size
    rgb = check_array(f"{name}.rgb", frame.rgb, (size, size, 3), kind="u8")
    return torch.tensor(rgb, device=device).float().div(255)[None]


def _depth_tensor(name: str, frame: Frame, model: NavDp | NavDpStandalone, device: torch.device) -> Tensor:
    """(1, H, W) metres."""
    size = model.config.image_size
    if frame.depth is None:
        raise ValueError(f"{name}.depth: expected ({size}, {size}) metres, got None")
    depth = check_array(f"{name}.depth", frame.depth, (size, size), minimum=0.0)
    return torch.tensor(depth, device=device).float()[None]
