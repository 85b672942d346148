"""NavDP sampling done the plain way, as the yardstick of speed and the reference of exactness.

It follows the public InternNav implementation's order of work: every frame through its encoder for
every call, the memory put together and repeated for every sample in every step, torch's own decoder
layers with a float mask, and diffusers' DDPMScheduler. It reads the parameters of a `NavDpCore` and
shares no arithmetic with its denoiser and sampler.
"""

from __future__ import annotations

import math

import torch
from diffusers.schedulers import DDPMScheduler
from diffusers.schedulers import scheduling_ddpm as _ddpm_module
from plain_nextdit import encode
from torch import Tensor

from s1_controller_node.navdp import NavDp
from s1_controller_node.navdp_core import NavDpCore, RgbdEncoder
from s1_controller_node.navdp_standalone import NavDpStandalone

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _scheduler(train_steps: int) -> DDPMScheduler:
    scheduler = DDPMScheduler(
        num_train_timesteps=train_steps,
        beta_schedule="squaredcos_cap_v2",
        clip_sample=True,
        prediction_type="epsilon",
    )
    scheduler.set_timesteps(train_steps)
    return scheduler


def _sinusoid(timesteps: Tensor, dim: int) -> Tensor:
    half = dim // 2
    rates = torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1)))
    angles = timesteps[:, None] * rates[None, :]
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def encode_rgbd(encoder: RgbdEncoder, images: Tensor, depths: Tensor) -> Tensor:
    """Images (1, memory, H, W, 3) in [0, 1] and depths (1, frames, H, W) metres to (1, rgbd_tokens, token_dim)."""
    mean, std = torch.tensor(_MEAN).view(3, 1, 1), torch.tensor(_STD).view(3, 1, 1)
    rgb = encode(encoder.rgb_model, (images[0].permute(0, 3, 1, 2) - mean) / std)
    depth = encode(encoder.depth_model, depths[0, :, None].repeat(1, 3, 1, 1))
    tokens = torch.cat((rgb.flatten(0, 1), depth.flatten(0, 1)))[None] + encoder.former_pe.weight
    return encoder.project_layer(encoder.former_net(encoder.former_query.weight[None], tokens))


def predict_noise(core: NavDpCore, actions: Tensor, timestep: Tensor, goals: Tensor, rgbd: Tensor | None) -> Tensor:
    """One denoiser call: actions (S, T, 3), timestep (1,), goals (1, goal_tokens, dim), rgbd (1, tokens, dim)."""
    parts = [_sinusoid(timestep, core.sizes.token_dim)[:, None].to(goals), goals, *([] if rgbd is None else [rgbd])]
    memory = torch.cat(parts, dim=1)
    memory = (memory + core.memory_positions()[: memory.shape[1]]).repeat(actions.shape[0], 1, 1)
    x = core.input_embed(actions) + core.step_positions()
    steps = core.sizes.predict_size
    mask = (torch.triu(torch.ones(steps, steps)) == 1).transpose(0, 1).float()
    mask = mask.masked_fill(mask == 0, float("-inf")).masked_fill(mask == 1, 0.0).to(x)
    return core.action_head(core.layernorm(core.decoder(tgt=x, memory=memory, tgt_mask=mask)))


def critic(core: NavDpCore, actions: Tensor, rgbd: Tensor) -> Tensor:
    """Scores (S,) of actions (S, T, 3), time and goals masked out of the memory."""
    hidden = 1 + core.goal_tokens
    memory = torch.cat((torch.zeros(1, hidden, rgbd.shape[-1]).to(rgbd), rgbd), dim=1) + core.memory_positions()
    mask = torch.zeros(actions.shape[1], memory.shape[1])
    mask[:, :hidden] = float("-inf")
    x = core.input_embed(actions) + core.step_positions()
    x = core.decoder(tgt=x, memory=memory.repeat(actions.shape[0], 1, 1), memory_mask=mask.to(x))
    return core.critic_head(core.layernorm(x).mean(dim=1))[:, 0]


def denoise(core: NavDpCore, goals: Tensor, rgbd: Tensor | None, initial_noise: Tensor, step_noise: Tensor) -> Tensor:
    """All DDPM steps from given noises: (S, T, 3) and (steps - 1, S, T, 3)."""
    scheduler, x, noises = _scheduler(core.sizes.ddpm_train_steps), initial_noise, iter(step_noise)
    draw = _ddpm_module.randn_tensor
    _ddpm_module.randn_tensor = lambda *args, **kwargs: next(noises)  # the scheduler has no argument for its noise
    try:
        for t in scheduler.timesteps:
            x = scheduler.step(predict_noise(core, x, t[None], goals, rgbd), t, x).prev_sample
    finally:
        _ddpm_module.randn_tensor = draw
    return x


@torch.no_grad()
def sample_dual(
    model: NavDp, traj_latents: Tensor, images: Tensor, depths: Tensor, initial_noise: Tensor, step_noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Trajectories (S, T, 3) of the dual system and their scores (S,), everything computed anew."""
    goal = model.goal_compressor(model.vlm_embed_mlp(traj_latents))
    rgbd = encode_rgbd(model.rgbd_encoder, images, depths)
    actions = denoise(model, goal, rgbd, initial_noise, step_noise)
    return actions, critic(model, actions, rgbd)


@torch.no_grad()
def sample_standalone(
    model: NavDpStandalone, point: Tensor, images: Tensor, depths: Tensor, initial_noise: Tensor, step_noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Trajectories (S, T, 3) towards a point (1, 3) and their scores (S,), everything computed anew."""
    goals = model.point_encoder(point)[:, None].repeat(1, model.goal_tokens, 1)
    rgbd = encode_rgbd(model.rgbd_encoder, images, depths)
    actions = denoise(model, goals, rgbd, initial_noise, step_noise)
    return actions, critic(model, actions, rgbd)
