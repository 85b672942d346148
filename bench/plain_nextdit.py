"""NextDiT sampling done the plain way, as the yardstick of speed and the reference of exactness.

It follows the public InternNav implementation's order of work: both frames through the image encoder
for every call, both guidance halves whatever the scale, the condition repeated for every sample, and
condition projection, keys, values, pooled embedding and modulations computed again in every step.
Attention masks of ones are passed along and norms are spelled out, as there. It reads the parameters of
a :class:`NextDiTModel`, and shares no arithmetic with its denoiser and sampler.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.schedulers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from s1_controller_node.dinov2 import DinoV2
from s1_controller_node.nextdit import Attention, NextDiT, NextDiTBlock
from s1_controller_node.nextdit_model import IMAGENET_MEAN, IMAGENET_STD, NextDiTModel


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    variance = x.float().pow(2).mean(-1, keepdim=True)
    return (x * torch.rsqrt(variance + eps)).to(x.dtype) * weight


def _sinusoid(timesteps: Tensor, width: int) -> Tensor:
    half = width // 2
    frequency = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32) / half)
    angle = timesteps[:, None].float() * frequency.to(timesteps.device)
    return torch.cat([torch.cos(angle), torch.sin(angle)], dim=-1)


def encode(vision: DinoV2, images: Tensor) -> Tensor:
    """(B, 3, H, W) normalised images to patch tokens, attention spelled out (no fused kernel)."""
    config = vision.config
    x = vision.patch_embed(images)
    x = torch.cat([vision.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
    x = x + vision.positions(*images.shape[-2:])
    for block in vision.blocks:
        b, n, d = x.shape
        qkv = block.attn.qkv(block.norm1(x)).reshape(b, n, 3, config.num_heads, d // config.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = ((q * (d // config.num_heads) ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
        x = x + block.ls1(block.attn.proj((weights @ v).transpose(1, 2).reshape(b, n, d)))
        x = x + block.ls2(block.mlp(block.norm2(x)))
    return vision.norm(x)[:, 1:]


def _attention(attn: Attention, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
    """(B, N, d) to (B, N, heads, head_dim), with a mask (B, M) over the context."""
    batch, heads = x.shape[0], attn.num_heads
    q = attn.norm_q(attn.to_q(x)).view(batch, x.shape[1], heads, -1).transpose(1, 2)
    k = attn.norm_k(attn.to_k(context)).view(batch, context.shape[1], heads, -1).transpose(1, 2)
    v = attn.to_v(context).view(batch, context.shape[1], heads, -1).transpose(1, 2)
    mask = mask.bool().view(batch, 1, 1, -1).expand(-1, heads, x.shape[1], -1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def _block(block: NextDiTBlock, x: Tensor, mask: Tensor, caption: Tensor, caption_mask: Tensor, temb: Tensor):
    eps = block.norm2.eps
    modulation = block.norm1.linear(F.silu(temb))
    scale_attn, gate_attn, scale_ffn, gate_ffn = (m.unsqueeze(1) for m in modulation.chunk(4, dim=1))
    normed = _rms_norm(x, block.norm1.norm.weight, eps) * (1 + scale_attn)
    own = _attention(block.attn1, normed, normed, mask)
    context = _rms_norm(caption, block.norm1_context.weight, eps)
    cross = _attention(block.attn2, normed, context, caption_mask) * block.gate.tanh().view(1, 1, -1, 1)
    mixed = block.attn2.to_out[0]((own + cross).flatten(-2))
    x = x + gate_attn.tanh() * _rms_norm(mixed, block.norm2.weight, eps)
    ffn, hidden = block.feed_forward, _rms_norm(x, block.ffn_norm1.weight, eps) * (1 + scale_ffn)
    gated = F.silu(ffn.linear_1(hidden).float()).to(x.dtype) * ffn.linear_3(hidden)
    return x + gate_ffn.tanh() * _rms_norm(ffn.linear_2(gated), block.ffn_norm2.weight, eps)


def denoise(dit: NextDiT, x: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
    """(B, T, d) trajectory tokens, (B,) time steps, (B, L, C) condition tokens to (B, T, d)."""
    caption_mask = torch.ones(tokens.shape[:2], device=x.device)
    mask = torch.ones(x.shape[:2], dtype=torch.int32, device=x.device)
    caption = dit.caption_projection(tokens)
    embedder = dit.time_caption_embed.timestep_embedder
    frequencies = _sinusoid(timesteps, embedder.linear_1.in_features).to(caption.dtype)
    temb = embedder.linear_2(F.silu(embedder.linear_1(frequencies)))
    weights = caption_mask.unsqueeze(-1)
    pooled = ((caption * weights).sum(dim=1) / weights.sum(dim=1)).to(caption.dtype)
    temb = temb + dit.time_caption_embed.caption_embedder(pooled)
    for block in dit.layers:
        x = _block(block, x, mask, caption, caption_mask, temb)
    scale = dit.norm_out.linear_1(F.silu(temb))
    return dit.norm_out.linear_2(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale)[:, None])


@torch.no_grad()
def sample(
    model: NextDiTModel,
    traj_latents: Tensor,
    images: Tensor | None,
    noise: Tensor,
    *,
    num_steps: int = 10,
    guidance_scale: float = 1.0,
) -> Tensor:
    """Trajectories (S, T, 3) from latents (1, n_query, D), images (1, 2, H, W, 3) in [0, 1], noise (S, T, 3)."""
    dtype, device = model.dtype, model.device
    projected = model.cond_projector(traj_latents.to(device, dtype))
    condition = projected
    if model.config.uses_images:
        assert images is not None
        images = images.to(device).permute(0, 1, 4, 2, 3)
        mean = torch.tensor(IMAGENET_MEAN, device=device).view(1, 1, 3, 1, 1)
        std = torch.tensor(IMAGENET_STD, device=device).view(1, 1, 3, 1, 1)
        features = encode(model.rgb_model, ((images - mean) / std).flatten(0, 1).to(dtype)).unflatten(0, (1, -1))
        features = features.flatten(1, 2)
        memory = torch.cat([features, model.memory_encoder(features)], dim=-1)
        condition = torch.cat([model.rgb_resampler(memory), projected], dim=1)
    num_samples = noise.shape[0]
    both = torch.cat([torch.zeros_like(condition), condition]).repeat_interleave(num_samples, dim=0)

    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(num_steps, sigmas=np.linspace(1.0, 1 / num_steps, num_steps))
    latents = noise.to(device, dtype)
    half = model.config.dit.dim // 2
    frequency = torch.exp(-torch.arange(half, dtype=torch.float) * (math.log(10000.0) / half)).to(device)
    for t in scheduler.timesteps:
        tokens = model.action_encoder(latents)
        angle = torch.arange(latents.shape[1], device=device).float()[:, None] * frequency
        tokens = (tokens + torch.cat([angle.sin(), angle.cos()], dim=-1)).to(dtype).repeat(2, 1, 1)
        timesteps = t.expand(tokens.shape[0]).to(device, torch.long)
        velocity = model.action_decoder(denoise(model.dit, tokens, timesteps, both))
        unconditional, conditional = velocity.chunk(2)
        velocity = unconditional + guidance_scale * (conditional - unconditional)
        latents = scheduler.step(velocity, t, latents).prev_sample
    return latents
