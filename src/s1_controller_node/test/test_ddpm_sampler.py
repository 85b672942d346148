"""The sampler's tables equal diffusers' schedulers, and its faster schedule draws from the same distribution."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.schedulers import DDPMScheduler, DPMSolverMultistepScheduler, scheduling_ddpm

from s1_controller_node.ddpm_sampler import (
    add_noise,
    alphas_cumprod,
    ddpm_schedule,
    dpm_solver_schedule,
    draw_noise,
    sample,
)

SHAPE = (4, 8, 3)
TRAINING = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "epsilon"}


def _predict(x: torch.Tensor, timestep: int) -> torch.Tensor:
    return torch.tanh(1.3 * x + 0.1 * int(timestep)) + 0.2 * x


def _noises(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn((count + 1, *SHAPE), generator=generator)
    return drawn[0], drawn[1:]


@pytest.mark.parametrize("train_steps", [10, 20])
def test_ancestral_sampling_equals_diffusers(monkeypatch, train_steps):
    scheduler = DDPMScheduler(num_train_timesteps=train_steps, clip_sample=True, **TRAINING)
    scheduler.set_timesteps(train_steps)
    start, steps = _noises(train_steps - 1)
    noises, x = iter(steps), start
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *args, **kwargs: next(noises))
    for t in scheduler.timesteps:
        x = scheduler.step(_predict(x, t), t, x).prev_sample
    schedule = ddpm_schedule(train_steps)
    assert [step.timestep for step in schedule] == scheduler.timesteps.tolist()
    # Both in float32, with other orders of rounding.
    torch.testing.assert_close(sample(_predict, schedule, start, steps), x, atol=3e-6, rtol=0)


@pytest.mark.parametrize(("train_steps", "num_steps"), [(20, 2), (20, 5), (20, 10), (20, 20), (10, 4)])
def test_dpm_solver_equals_diffusers(train_steps, num_steps):
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=train_steps, thresholding=True, sample_max_value=1.0, **TRAINING
    )
    schedule = dpm_solver_schedule(train_steps, num_steps)
    scheduler.set_timesteps(timesteps=[step.timestep for step in schedule])
    start, none = _noises(0)
    x = start
    for t in scheduler.timesteps:
        x = scheduler.step(_predict(x, t), t, x).prev_sample
    assert (schedule[0].timestep, schedule[-1].timestep) == (train_steps - 1, 0)
    torch.testing.assert_close(sample(_predict, schedule, start, none), x, atol=3e-6, rtol=0)


def test_noising_equals_diffusers():
    scheduler = DDPMScheduler(num_train_timesteps=20, **TRAINING)
    clean, noise = _noises(1)
    timesteps = torch.tensor([0, 7, 12, 19])
    torch.testing.assert_close(
        add_noise(clean, noise[0], timesteps, 20), scheduler.add_noise(clean, noise[0], timesteps)
    )


def test_both_schedules_draw_the_distribution_that_the_exact_predictor_describes():
    """Data: -0.6 with probability 0.3, +0.5 with 0.7, each with a spread of 0.1; the optimal predictor is known."""
    weights, means, spread = torch.tensor([0.3, 0.7]), torch.tensor([-0.6, 0.5]), 0.1
    products = alphas_cumprod(20)

    def predict(x: torch.Tensor, timestep: int) -> torch.Tensor:
        alpha, sigma = math.sqrt(products[timestep]), math.sqrt(1 - products[timestep])
        variance = (alpha * spread) ** 2 + sigma**2
        distance = x[..., None] - alpha * means
        posterior = (weights.log() - distance**2 / (2 * variance)).softmax(-1)
        return (posterior * distance).sum(-1) * sigma / variance

    generator = torch.Generator().manual_seed(0)
    for schedule, tolerance in ((ddpm_schedule(20), 0.02), (dpm_solver_schedule(20, 10), 0.03)):
        start, steps = draw_noise(schedule, (2000, 8, 3), torch.device("cpu"), generator)
        x = sample(predict, schedule, start, steps)
        right = x > 0
        # 48 000 draws: standard error of the share 0.002, of the means 0.0005.
        assert right.float().mean() == pytest.approx(0.7, abs=tolerance)
        assert x[right].mean() == pytest.approx(0.5, abs=tolerance)
        assert x[~right].mean() == pytest.approx(-0.6, abs=tolerance)
        assert x[right].std() == pytest.approx(spread, abs=0.04)


def test_a_seed_repeats_and_inputs_stay_as_they_are():
    schedule = ddpm_schedule(5)
    drawn = [draw_noise(schedule, SHAPE, torch.device("cpu"), torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert drawn[0][1].shape == (4, *SHAPE)
    before = drawn[0][0].clone(), drawn[0][1].clone()
    sample(_predict, schedule, *drawn[0])
    assert torch.equal(drawn[0][0], before[0])
    assert torch.equal(drawn[0][1], before[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ddpm_schedule(1), "train_steps: expected an integer of at least 2, got 1"),
        (lambda: dpm_solver_schedule(20, 21), "num_steps: expected an integer from 2 to 20, got 21"),
        (lambda: dpm_solver_schedule(20, 1), "num_steps: expected an integer from 2 to 20, got 1"),
        (lambda: sample(_predict, ddpm_schedule(5), torch.zeros(4, 8), torch.zeros(0)), r"initial_noise.*\(4, 8\)"),
        (
            lambda: sample(_predict, ddpm_schedule(5), torch.zeros(SHAPE), torch.zeros(3, *SHAPE)),
            r"step_noise: expected shape \(4, 4, 8, 3\), got \(3, 4, 8, 3\)",
        ),
        (
            lambda: sample(_predict, ddpm_schedule(5), torch.full(SHAPE, torch.nan), torch.zeros(4, *SHAPE)),
            "initial_noise: expected finite values, got 96 NaN",
        ),
        (
            lambda: add_noise(torch.zeros(SHAPE), torch.zeros(SHAPE), torch.tensor([0, 1, 2, 20]), 20),
            r"timesteps: expected values in \[0, 19\], got 0 to 20",
        ),
    ],
)
def test_bad_input_is_named_with_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
