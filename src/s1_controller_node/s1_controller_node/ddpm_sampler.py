"""Diffusion sampling: from noise to trajectories in a few calls of a noise predictor.

One loop serves two samplers, because both are linear in the same three things. With the clean
sample implied by the predicted noise, ``x0 = clip((x - sigma_t * eps) / alpha_t, -1, 1)``, a step is

    x <- c_x * x + c_0 * x0 + c_p * x0_of_the_previous_step + c_n * noise

and a `Schedule` is the table of those coefficients:

- `ddpm_schedule`: ancestral sampling over all training steps (Ho et al., arXiv 2006.11239, eq. 6-7, with
  the posterior variance of eq. 7), as the published NavDP samples;
- `dpm_solver_schedule`: DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, algorithm 2), deterministic
  after the start noise, in fewer steps.

The noise levels follow Nichol and Dhariwal's cosine (arXiv 2102.09672). The tables equal those of
diffusers' DDPMScheduler(squaredcos_cap_v2, clip_sample, epsilon, fixed_small) and
DPMSolverMultistepScheduler(clipped x0); the tests compare with both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import check_indices, check_tensor

_COSINE_OFFSET = 0.008  # keeps the first noise level from being vanishingly small
_MAX_BETA = 0.999
CLIP = 1.0  # trained trajectories are scaled into [-1, 1]


@dataclass(frozen=True)
class Step:
    """One row of a schedule; see the module's formula."""

    timestep: int  # training time step handed to the noise predictor
    alpha: float  # share of the clean sample in x
    sigma: float  # share of the noise in x
    keep: float  # c_x
    clean: float  # c_0
    previous: float  # c_p
    noise: float  # c_n


Schedule = tuple[Step, ...]


def alphas_cumprod(train_steps: int) -> list[float]:
    """Share of signal variance left after each training step, for ``train_steps`` of the capped cosine schedule.

    In float32, as diffusers holds it: 1 - 0.999 rounded to float32 moves the noisiest level by 5e-5.
    """
    if not isinstance(train_steps, int) or isinstance(train_steps, bool) or train_steps < 2:
        raise ValueError(f"train_steps: expected an integer of at least 2, got {train_steps!r}")

    def bar(share: float) -> float:
        return math.cos((share + _COSINE_OFFSET) / (1.0 + _COSINE_OFFSET) * math.pi / 2) ** 2

    betas = [min(1.0 - bar((i + 1) / train_steps) / bar(i / train_steps), _MAX_BETA) for i in range(train_steps)]
    return (1.0 - torch.tensor(betas, dtype=torch.float32)).cumprod(0).tolist()


def ddpm_schedule(train_steps: int) -> Schedule:
    """All ``train_steps`` steps of ancestral sampling, from the noisiest to the last, which adds no noise."""
    products = alphas_cumprod(train_steps)
    steps = []
    for t in reversed(range(train_steps)):
        now, before = products[t], products[t - 1] if t else 1.0
        beta = 1.0 - now / before
        steps.append(
            Step(
                timestep=t,
                alpha=math.sqrt(now),
                sigma=math.sqrt(1.0 - now),
                keep=math.sqrt(1.0 - beta) * (1.0 - before) / (1.0 - now),
                clean=math.sqrt(before) * beta / (1.0 - now),
                previous=0.0,
                noise=math.sqrt((1.0 - before) / (1.0 - now) * beta) if t else 0.0,
            )
        )
    return tuple(steps)


def dpm_solver_schedule(train_steps: int, num_steps: int) -> Schedule:
    """``num_steps`` steps of DPM-Solver++(2M) over evenly spaced training steps; the last step gives x0 itself.

    The time steps run from ``train_steps - 1`` to 0, both included. diffusers' own spacings stop short of 0,
    which leaves noticeable noise to the last step when there are only 10 or 20 training steps.

    Raises:
        ValueError: ``num_steps`` outside 2..train_steps.
    """
    products = alphas_cumprod(train_steps)
    if not isinstance(num_steps, int) or isinstance(num_steps, bool) or not 2 <= num_steps <= train_steps:
        raise ValueError(f"num_steps: expected an integer from 2 to {train_steps}, got {num_steps!r}")
    times = [round((train_steps - 1) * (num_steps - 1 - i) / (num_steps - 1)) for i in range(num_steps)]
    half_log_snr = [0.5 * math.log(products[t] / (1.0 - products[t])) for t in times]
    steps = []
    for i, t in enumerate(times):
        alpha, sigma = math.sqrt(products[t]), math.sqrt(1.0 - products[t])
        if i + 1 == num_steps:  # the step to zero noise
            steps.append(Step(t, alpha, sigma, keep=0.0, clean=1.0, previous=0.0, noise=0.0))
            continue
        next_alpha, next_sigma = math.sqrt(products[times[i + 1]]), math.sqrt(1.0 - products[times[i + 1]])
        width = half_log_snr[i + 1] - half_log_snr[i]
        weight = next_alpha * -math.expm1(-width)
        # Second order from the second step on: the slope of x0 is taken from the step before.
        slope = 0.0 if i == 0 else 0.5 * width / (half_log_snr[i] - half_log_snr[i - 1])
        steps.append(Step(t, alpha, sigma, next_sigma / sigma, weight * (1.0 + slope), -weight * slope, noise=0.0))
    return tuple(steps)


def add_noise(clean: Tensor, noise: Tensor, timesteps: Tensor, train_steps: int) -> Tensor:
    """The forward process: ``alpha_t * clean + sigma_t * noise`` with one time step per item.

    Args:
        clean, noise: (B, T, C); timesteps: (B,) integers in 0..train_steps-1.
    """
    check_tensor("clean", clean, (None, None, None))
    check_tensor("noise", noise, tuple(clean.shape))
    check_indices("timesteps", timesteps, (clean.shape[0],), train_steps)
    product = torch.tensor(alphas_cumprod(train_steps), dtype=torch.float64)[timesteps.cpu()].view(-1, 1, 1)
    alpha, sigma = product.sqrt().to(clean), (1.0 - product).sqrt().to(clean)
    return alpha * clean + sigma * noise


def draw_noise(
    schedule: Schedule, shape: tuple[int, int, int], device: torch.device, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Start noise (S, T, C) and the noise of each step that uses any (steps, S, T, C), standard normal float32."""
    noisy_steps = sum(step.noise > 0.0 for step in schedule)
    # Drawn where the generator lives, so that a seed means the same trajectories on every device.
    source = generator.device if generator is not None else device
    drawn = torch.randn((1 + noisy_steps, *shape), generator=generator, device=source).to(device)
    return drawn[0], drawn[1:]


def sample(
    predict: Callable[[Tensor, int], Tensor], schedule: Schedule, initial_noise: Tensor, step_noise: Tensor
) -> Tensor:
    """Run the schedule.

    Args:
        predict: (x (S, T, C) float32, time step) -> predicted noise, same shape.
        initial_noise: (S, T, C) float32; not modified.
        step_noise: (steps with noise, S, T, C) float32, in the order in which they are used.

    Returns:
        the denoised trajectories (S, T, C) float32 in [-1, 1].
    """
    check_tensor("initial_noise", initial_noise, (None, None, None))
    noisy_steps = sum(step.noise > 0.0 for step in schedule)
    if noisy_steps:
        check_tensor("step_noise", step_noise, (noisy_steps, *initial_noise.shape))
    return run_schedule(predict, schedule, initial_noise, step_noise)


def run_schedule(
    predict: Callable[[Tensor, int], Tensor], schedule: Schedule, initial_noise: Tensor, step_noise: Tensor
) -> Tensor:
    """`sample` without its checks, which read values back from the device and so cannot be part of a CUDA graph."""
    x, previous = initial_noise, None
    noises = iter(step_noise)
    for step in schedule:
        predicted = predict(x, step.timestep)
        clean = ((x - step.sigma * predicted) / step.alpha).clamp_(-CLIP, CLIP)
        x = step.keep * x + step.clean * clean
        if step.previous:
            x = x + step.previous * previous
        if step.noise:
            x = x + step.noise * next(noises)
        previous = clean
    return x
