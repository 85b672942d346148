"""Language-model loss of the planner, and flow-matching loss of NextDiT, the dual system's trajectory model.

x_sigma = (1 - sigma) x + sigma noise, target velocity = noise - x, mean squared error over real frames.
The time step is one of the scheduler's 1000, drawn uniformly, and is given to the model as it is; only
sampling casts it to an integer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dual_nav_training.conversation import NO_LABEL
from s1_controller_node.checks import check_shape, check_tensor
from s1_controller_node.flow_sampler import NUM_TRAIN_TIMESTEPS
from s1_controller_node.nextdit_model import ACTION_DIM, NextDiTModel


def answer_loss(lm_head: nn.Module, hidden: Tensor, labels: Tensor) -> Tensor:
    """Mean over the labelled tokens of the cross entropy of predicting each from the position before it.

    Args:
        lm_head: hidden state to vocabulary logits; computed at the labelled tokens only.
        hidden: (B, L, width) final-norm hidden states.
        labels: (B, L) the token's own id where it counts, ``NO_LABEL`` elsewhere.

    Raises:
        ValueError: no token has a label, or shapes that do not fit.
    """
    check_tensor("hidden", hidden, (None, None, None), finite=False)
    check_shape("labels", labels.shape, hidden.shape[:2])
    targets = labels[:, 1:]
    counts = targets != NO_LABEL
    if not counts.any():
        raise ValueError("labels: expected at least one labelled token behind the first, got none")
    return F.cross_entropy(lm_head(hidden[:, :-1][counts]).float(), targets[counts])


@dataclass(frozen=True)
class FlowMatchingLoss:
    """The loss and what it was computed from; N = batch * frames, row b * F + f.

    Attributes:
        loss: scalar.
        velocity: (N, T, 3) predicted.
        target: (N, T, 3).
        timesteps: (N,) float, as given to the model.
    """

    loss: Tensor
    velocity: Tensor
    target: Tensor
    timesteps: Tensor


def flow_timesteps(u: Tensor) -> Tensor:
    """Time steps 1000 … 1 (float) for uniform draws ``u`` in [0, 1)."""
    check_tensor("u", u, (None,))
    if u.min() < 0 or u.max() >= 1:
        raise ValueError(f"u: expected values in [0, 1), got {u.min().item()} to {u.max().item()}")
    return (NUM_TRAIN_TIMESTEPS - (u * NUM_TRAIN_TIMESTEPS).long()).float()


def frame_mask(frame_counts: Tensor, num_frames: int) -> Tensor:
    """(B, F) bool: whether a frame is real; later ones only pad the batch."""
    check_shape("frame_counts", frame_counts.shape, (None,))
    if frame_counts.min() < 1 or frame_counts.max() > num_frames:
        raise ValueError(f"frame_counts: expected values in 1..{num_frames}, got {frame_counts.tolist()}")
    return torch.arange(num_frames, device=frame_counts.device) < frame_counts[:, None]


def masked_mean_square(error: Tensor, mask: Tensor) -> Tensor:
    """Mean of squares of ``error`` (N, T, C), float32, over the rows where ``mask`` (N,) is true."""
    check_shape("mask", mask.shape, (error.shape[0],))
    squares = error.float().square().mean(dim=(1, 2))
    return (squares * mask).sum() / mask.sum()


def nextdit_loss(
    model: NextDiTModel,
    traj_latents: Tensor,
    images: Tensor | None,
    trajectories: Tensor,
    frame_counts: Tensor,
    *,
    noise: Tensor | None = None,
    u: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> FlowMatchingLoss:
    """Flow-matching loss of a batch of plans, each with F frames that follow it.

    Args:
        model: gradients reach its parameters, and ``traj_latents``.
        traj_latents: (B, n_query, D) the planner's latents, shared by the frames of a plan.
        images: (B, F, H, W, 3) RGB, uint8 or float in [0, 1]; frame 0 is the goal frame of all. None for
            a model without images.
        trajectories: (B, F, T, 3) normalised increments, the labels.
        frame_counts: (B,) integer, how many of the F frames are real.
        noise: (B * F, T, 3) and u: (B * F,) in [0, 1): instead of draws, for exact repetition.
        generator: for the draws, on the CPU.

    Raises:
        TypeError, ValueError: shapes or values that do not fit, with expected and given.
    """
    check_tensor("trajectories", trajectories, (None, None, None, ACTION_DIM))
    batch, frames, horizon, _ = trajectories.shape
    rows = batch * frames
    config = model.config
    check_tensor("traj_latents", traj_latents, (batch, config.n_query, config.latent_dim))
    check_shape("frame_counts", frame_counts.shape, (batch,))

    if noise is None:
        noise = torch.randn((rows, horizon, ACTION_DIM), generator=generator)
    if u is None:
        u = torch.rand((rows,), generator=generator)
    check_tensor("noise", noise, (rows, horizon, ACTION_DIM))
    check_shape("u", u.shape, (rows,))
    noise, timesteps = noise.to(trajectories), flow_timesteps(u).to(trajectories.device)

    projected = model.project_latents(traj_latents).repeat_interleave(frames, dim=0)
    goal_tokens = current_tokens = None
    if config.uses_images:
        if images is None:
            raise ValueError(f"images: expected ({batch}, {frames}, H, W, 3) for this model, got None")
        check_shape("images", images.shape, (batch, frames, config.image_size, config.image_size, 3))
        # Every frame is encoded once; the goal frame's tokens serve all rows of its plan.
        current_tokens = model.encode_frames(images.flatten(0, 1))
        goal_tokens = current_tokens[::frames].repeat_interleave(frames, dim=0)
    tokens = model.condition_tokens(projected, goal_tokens, current_tokens)

    clean = trajectories.flatten(0, 1)
    sigmas = (timesteps / NUM_TRAIN_TIMESTEPS).to(clean.dtype)[:, None, None]
    velocity = model((1 - sigmas) * clean + sigmas * noise, timesteps, tokens)
    target = noise - clean
    mask = frame_mask(frame_counts.to(clean.device), frames).flatten()
    return FlowMatchingLoss(masked_mean_square(velocity - target, mask), velocity, target, timesteps)
