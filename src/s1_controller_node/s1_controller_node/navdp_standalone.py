"""Standalone NavDP: RGB-D memory and a point, image, pixel or no goal to ranked trajectories (arXiv 2505.08712).

Its own checkpoint (no key prefix). Differences from the dual system's NavDP: eight RGB frames and
one depth frame, three goal slots, a critic that ranks the samples, and auxiliary heads for training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .checks import check_indices, check_range, check_tensor
from .dinov2 import DinoV2
from .navdp_core import CHANNELS, LearnedPositions, NavDpCore, NavDpSizes, RgbdEncoder

GOAL_SLOTS = 3  # point, image, pixel
IMAGE_GOAL_CHANNELS = 6  # goal image, current image
_PIXEL_CHANNELS = (4, 7)  # [image, mask] or [older image, its mask, current image]


@dataclass(frozen=True)
class NavDpStandaloneConfig(NavDpSizes):
    """Sizes of the standalone model; the defaults are the release's."""

    memory_size: int = 8
    predict_size: int = 24
    ddpm_train_steps: int = 10
    pixel_channel: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pixel_channel not in _PIXEL_CHANNELS:
            raise ValueError(f"NavDpStandaloneConfig.pixel_channel: expected 4 or 7, got {self.pixel_channel}")


def sizes_of_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The sizes that the weights themselves tell, for a checkpoint that comes without a config."""
    channels = shapes.get("pixel_encoder.pixelgoal_encoder.patch_embed.proj.weight", (0, 0))[1]
    return {"pixel_channel": channels} if channels else {}


class _PixelGoalEncoder(nn.Module):
    def __init__(self, config: NavDpStandaloneConfig) -> None:
        super().__init__()
        self.pixelgoal_encoder = DinoV2(replace(config.encoder, in_channels=config.pixel_channel))
        self.project_layer = nn.Linear(config.encoder.dim, config.token_dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.project_layer(self.pixelgoal_encoder(images).mean(dim=1))


class _ImageGoalEncoder(nn.Module):
    def __init__(self, config: NavDpStandaloneConfig) -> None:
        super().__init__()
        self.imagegoal_encoder = DinoV2(replace(config.encoder, in_channels=IMAGE_GOAL_CHANNELS))
        self.project_layer = nn.Linear(config.encoder.dim, config.token_dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.project_layer(self.imagegoal_encoder(images).mean(dim=1))


class TrainingPrediction(NamedTuple):
    """What one training step of the standalone NavDP predicts."""

    noise_no_goal: Tensor  # (B, predict_size, 3)
    noise_mixed_goal: Tensor  # (B, predict_size, 3)
    critic_label: Tensor  # (B,)
    critic_augmented: Tensor  # (B,)
    point_from_image: Tensor  # (B, 3)
    point_from_pixel: Tensor  # (B, 3)


class NavDpStandalone(NavDpCore):
    """The network with the release's parameters."""

    def __init__(self, config: NavDpStandaloneConfig | None = None, dropout: float = 0.1) -> None:
        config = config or NavDpStandaloneConfig()
        super().__init__(config, goal_tokens=GOAL_SLOTS, dropout=dropout)
        self.config = config
        self.rgbd_encoder = RgbdEncoder(config, depth_frames=1, table=LearnedPositions)
        self.pixel_encoder = _PixelGoalEncoder(config)
        self.image_encoder = _ImageGoalEncoder(config)
        self.cond_pos_embed = LearnedPositions(1 + GOAL_SLOTS + config.rgbd_tokens, config.token_dim)
        self.out_pos_embed = LearnedPositions(config.predict_size, config.token_dim)
        self.pixel_aux_head = nn.Linear(config.token_dim, 3)
        self.image_aux_head = nn.Linear(config.token_dim, 3)

    def memory_positions(self) -> Tensor:
        return self.cond_pos_embed.weight

    def step_positions(self) -> Tensor:
        return self.out_pos_embed.weight

    def point_goal(self, points: Tensor) -> Tensor:
        """(x m, y m, yaw rad) in the robot frame, (B, 3) -> (B, token_dim)."""
        return self.point_encoder(check_tensor("point goal", points, (None, 3)).to(self.dtype))

    def image_goal(self, images: Tensor) -> Tensor:
        """[goal image, current image] in [0, 1], (B, H, W, 6) -> (B, token_dim). No mean and std here."""
        return self.image_encoder(self._channels_first("image goal", images, IMAGE_GOAL_CHANNELS))

    def pixel_goal(self, images: Tensor) -> Tensor:
        """[image, mask] or [older image, mask, current image] in [0, 1], (B, H, W, 4 or 7) -> (B, token_dim)."""
        return self.pixel_encoder(self._channels_first("pixel goal", images, self.config.pixel_channel))

    def no_goal(self, batch: int = 1) -> Tensor:
        """(B, token_dim) of zeros."""
        return torch.zeros(batch, self.config.token_dim, dtype=self.dtype, device=self.action_head.weight.device)

    def _channels_first(self, name: str, images: Tensor, channels: int) -> Tensor:
        side = self.config.image_size
        check_range(name, check_tensor(name, images, (None, side, side, channels)), 0.0, 1.0)
        return images.permute(0, 3, 1, 2).to(self.dtype)

    def forward(
        self,
        points: Tensor,
        image_goals: Tensor,
        pixel_goals: Tensor,
        images: Tensor,
        depths: Tensor,
        no_goal_actions: Tensor,
        no_goal_timesteps: Tensor,
        mixed_goal_actions: Tensor,
        mixed_goal_timesteps: Tensor,
        labels: Tensor,
        augmented: Tensor,
        goal_mix: Tensor | None = None,
    ) -> TrainingPrediction:
        """One training step's predictions, differentiable. The RGB encoder is frozen.

        Args:
            points (B, 3), image_goals (B, H, W, 6), pixel_goals (B, H, W, 4 or 7): the three goals.
            images: (B, memory_size, H, W, 3) in [0, 1]; depths: (B, 1, H, W) metres.
            no_goal_actions, mixed_goal_actions: (B, T, 3) noised labels; their time steps (B,).
            labels, augmented: (B, T, 3) clean increments times 4, for the critic.
            goal_mix: (B,) integers 0..26, which goal fills which slot of the mixed goal: the number's digits in
                base 3, lowest first. None counts through the batch, as the release was trained.
        """
        rgbd = self.rgbd_encoder(images, depths)
        goals = torch.stack((self.point_goal(points), self.image_goal(image_goals), self.pixel_goal(pixel_goals)))
        batch = goals.shape[1]
        items = torch.arange(batch, device=goals.device)
        mix = items if goal_mix is None else check_indices("goal_mix", goal_mix, (batch,), GOAL_SLOTS**GOAL_SLOTS)
        slots = [goals[(mix // GOAL_SLOTS**digit) % GOAL_SLOTS, items] for digit in range(GOAL_SLOTS)]
        no_goal = torch.zeros_like(goals[0])[:, None].expand(-1, GOAL_SLOTS, -1)
        no_goal_memory = self.memory(no_goal_timesteps, no_goal, rgbd)
        mixed_memory = self.memory(mixed_goal_timesteps, torch.stack(slots, dim=1), rgbd)
        return TrainingPrediction(
            noise_no_goal=self.predict_noise(self.embed(no_goal_actions), no_goal_memory),
            noise_mixed_goal=self.predict_noise(self.embed(mixed_goal_actions), mixed_memory),
            critic_label=self.predict_critic(self.embed(labels).detach(), no_goal_memory),
            critic_augmented=self.predict_critic(self.embed(augmented).detach(), no_goal_memory),
            point_from_image=self.image_aux_head(goals[1]),
            point_from_pixel=self.pixel_aux_head(goals[2]),
        )

    def freeze_rgb_encoder(self) -> None:
        """Take the RGB encoder out of training, as the release was trained."""
        self.rgbd_encoder.rgb_model.requires_grad_(False).eval()


def rank_by_critic(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices of the ``count`` best samples, best first, and of the ``count`` worst, worst first: (count,) each."""
    check_tensor("scores", scores, (None,))
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= scores.shape[0]:
        raise ValueError(f"count: expected an integer from 1 to {scores.shape[0]}, got {count!r}")
    return torch.argsort(scores, descending=True)[:count], torch.argsort(scores)[:count]


def trajectories_from_actions(actions: Tensor) -> Tensor:
    """Sum of the increments: (S, T, 3) in the model's scale -> poses (x m, y m, yaw rad), (S, T, 3).

    The standalone model scales all three channels by 4, heading included.
    """
    check_tensor("actions", actions, (None, None, CHANNELS))
    return torch.cumsum(actions / 4.0, dim=1)
