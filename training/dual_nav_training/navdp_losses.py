"""Training losses of NavDP, inside the dual system and standalone.

Noise and time steps are drawn by the caller (`draw_noise_and_timesteps`), so that a step can be repeated exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from s1_controller_node.checks import check_indices, check_positive_int, check_shape, check_tensor
from s1_controller_node.ddpm_sampler import add_noise
from s1_controller_node.navdp import NavDp
from s1_controller_node.navdp_standalone import NavDpStandalone, TrainingPrediction

# Weights of the standalone loss (InternNav's NavDP trainer).
_ACTION, _CRITIC, _AUXILIARY = 0.8, 0.2, 0.5


def draw_noise_and_timesteps(
    actions: Tensor, train_steps: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Standard normal noise like ``actions`` (B, T, 3), and time steps (B,) uniform in 0..train_steps-1."""
    check_tensor("actions", actions, (None, None, 3))
    check_positive_int("train_steps", train_steps)
    device = generator.device if generator is not None else actions.device
    noise = torch.randn(actions.shape, generator=generator, device=device)
    timesteps = torch.randint(0, train_steps, actions.shape[:1], generator=generator, device=device)
    return noise.to(actions), timesteps.to(actions.device)


def dual_navdp_loss(
    model: NavDp,
    traj_latents: Tensor,
    images: Tensor,
    depths: Tensor,
    actions: Tensor,
    frame_counts: Tensor,
    noise: Tensor,
    timesteps: Tensor,
) -> tuple[Tensor, Tensor]:
    """Masked noise-prediction loss of NavDP in the dual system.

    Every frame of an item is a sample of its own: its goal frame is the item's frame 0, its current
    frame is itself.

    Args:
        traj_latents: (B, n_query, width), one plan per item.
        images: (B, F, H, W, 3) in [0, 1]; depths: (B, F, H, W) metres.
        actions: (B, F, T, 3) labels, dx and dy as metres times 4, dyaw in radians.
        frame_counts: (B,) how many of the F frames are real; the others are padding and do not count.
        noise: (B * F, T, 3); timesteps: (B * F,).

    Returns:
        the loss, a scalar, and the predicted noise (B * F, T, 3).
    """
    size, steps = model.config.image_size, model.config.predict_size
    batch, frames = check_tensor("images", images, (None, None, size, size, 3)).shape[:2]
    check_tensor("depths", depths, (batch, frames, size, size))
    check_tensor("actions", actions, (batch, frames, steps, 3))
    check_tensor("traj_latents", traj_latents, (batch, None, model.config.vlm_token_dim))
    check_indices("frame_counts", frame_counts, (batch,), frames + 1)
    real = torch.arange(frames, device=frame_counts.device) < frame_counts[:, None]
    if not real.any():
        raise ValueError(f"frame_counts: expected at least one real frame, got {frame_counts.tolist()}")

    flat = actions.flatten(0, 1)
    noisy = add_noise(flat, noise, timesteps, model.config.ddpm_train_steps)
    # Goal-frame tokens and goal token are the same for all frames of an item: computed once and repeated.
    encoder = model.rgbd_encoder
    rgb = encoder.rgb_tokens(images.flatten(0, 1)).unflatten(0, (batch, frames))
    depth = encoder.depth_tokens(depths.flatten(0, 1)).unflatten(0, (batch, frames))
    pairs = [torch.stack((t[:, :1].expand_as(t), t), dim=2).flatten(0, 1) for t in (rgb, depth)]
    goal = model.goal_token(traj_latents).repeat_interleave(frames, dim=0)
    predicted = model.predict_noise(model.embed(noisy), model.memory(timesteps, goal, encoder.fuse(*pairs)))

    mask = real.flatten().to(predicted.device, torch.float32)
    per_sample = (predicted.float() - noise.float()).square().mean(dim=(1, 2))
    return (per_sample * mask).sum() / mask.sum(), predicted


@dataclass(frozen=True)
class StandaloneLoss:
    """The standalone loss and its parts, all scalars, and what they were computed from."""

    loss: Tensor
    no_goal: Tensor
    mixed_goal: Tensor
    critic: Tensor
    auxiliary: Tensor
    predicted: TrainingPrediction


def standalone_navdp_loss(
    model: NavDpStandalone,
    batch: Mapping[str, Tensor],
    no_goal_noise: Tensor,
    no_goal_timesteps: Tensor,
    mixed_goal_noise: Tensor,
    mixed_goal_timesteps: Tensor,
) -> StandaloneLoss:
    """Noise prediction without and with goals, critic, and goal points read off the image and pixel goals.

    Args:
        batch: ``points`` (B, 3), ``image_goals`` (B, H, W, 6), ``pixel_goals`` (B, H, W, 4 or 7),
            ``images`` (B, memory_size, H, W, 3) in [0, 1], ``depths`` (B, 1, H, W) metres, ``labels`` and
            ``augmented`` (B, T, 3) increments times 4, ``label_critic`` and ``augmented_critic`` (B,); optionally
            ``goal_mix`` (B,), see ``NavDpStandalone.forward``.
        no_goal_noise, mixed_goal_noise: (B, T, 3); their time steps: (B,).

    Raises:
        KeyError: an entry of ``batch`` is missing; all missing ones are named.
    """
    names = ("points", "image_goals", "pixel_goals", "images", "depths", "labels", "augmented")
    missing = [n for n in (*names, "label_critic", "augmented_critic") if n not in batch]
    if missing:
        raise KeyError(f"batch lacks {missing}; it has {sorted(batch)}")
    labels, train_steps = batch["labels"], model.config.ddpm_train_steps
    check_tensor("labels", labels, (None, model.config.predict_size, 3))
    for name in names:
        check_shape(name, batch[name].shape, (labels.shape[0], *batch[name].shape[1:]))
    for name in ("label_critic", "augmented_critic"):
        check_tensor(name, batch[name], (labels.shape[0],))
    predicted = model(
        *(batch[n] for n in names[:5]),
        add_noise(labels, no_goal_noise, no_goal_timesteps, train_steps),
        no_goal_timesteps,
        add_noise(labels, mixed_goal_noise, mixed_goal_timesteps, train_steps),
        mixed_goal_timesteps,
        labels,
        batch["augmented"],
        batch.get("goal_mix"),
    )

    def error(prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction.float() - target.float()).square().mean()

    no_goal = error(predicted.noise_no_goal, no_goal_noise)
    mixed_goal = error(predicted.noise_mixed_goal, mixed_goal_noise)
    critic = error(predicted.critic_label, batch["label_critic"])
    critic = critic + error(predicted.critic_augmented, batch["augmented_critic"])
    auxiliary = 0.5 * (
        error(predicted.point_from_image, batch["points"]) + error(predicted.point_from_pixel, batch["points"])
    )
    loss = _ACTION * 0.5 * (no_goal + mixed_goal) + _CRITIC * critic + _AUXILIARY * auxiliary
    return StandaloneLoss(loss, no_goal, mixed_goal, critic, auxiliary, predicted)
