"""Every shortcut of the NavDP sampler leaves the numbers as they were: compared with the plain implementation.

Small random models, so that each comparison takes seconds; the full size is compared with the reference's
vectors in the parity tests.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from navdp_vectors import REPO, TINY, TINY_STANDALONE, randomised

from s1_controller_node import navdp_core
from s1_controller_node.ddpm_sampler import ddpm_schedule, sample
from s1_controller_node.navdp import NavDp
from s1_controller_node.navdp_core import DenoiserEngine
from s1_controller_node.navdp_policy import NavDpSampler
from s1_controller_node.navdp_standalone import NavDpStandalone
from s1_controller_node.policy import PolicyConfig

sys.path.insert(0, str(REPO / "bench"))
plain_navdp = pytest.importorskip("plain_navdp", reason="needs bench/ beside src/")

REL_L2 = 1e-5  # float32: other orders of summation only


def _relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got - want).norm() / want.norm()).item()


def _draw(*shape: int, seed: int = 5) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _model(kind: str):
    return randomised(NavDp(TINY) if kind == "dual" else NavDpStandalone(TINY_STANDALONE))


@pytest.mark.parametrize("kind", ["dual", "standalone"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("absorb", [True, False])
def test_projected_and_absorbed_memory_equal_the_plain_computation(monkeypatch, kind, packed, absorb):
    monkeypatch.setattr(DenoiserEngine, "absorbs", lambda self, length: absorb)
    if not packed:
        monkeypatch.setattr(navdp_core, "packing_works", lambda dtype: False)
    model = _model(kind)
    steps, dim = model.sizes.ddpm_train_steps, model.sizes.token_dim
    goals, rgbd = _draw(model.goal_tokens, dim), _draw(model.sizes.rgbd_tokens, dim, seed=6)
    noise = _draw(steps, 7, model.sizes.predict_size, 3, seed=7)
    engine = DenoiserEngine(model)
    memory = engine.condition(goals, rgbd)
    assert memory.absorbed == absorb
    with torch.no_grad():
        expected = plain_navdp.denoise(model, goals[None], rgbd[None], noise[0], noise[1:])
        got = sample(lambda x, t: engine.predict_noise(x, t, memory), ddpm_schedule(steps), noise[0], noise[1:])
        assert _relative(got, expected) <= REL_L2
        # The clip hides errors of the samples on it, so one prediction and the critic are compared too.
        prediction = engine.predict_noise(noise[0], 1, memory)
        assert (
            _relative(
                prediction, plain_navdp.predict_noise(model, noise[0], torch.tensor([1]), goals[None], rgbd[None])
            )
            <= REL_L2
        )
        assert _relative(engine.critic(got, memory), plain_navdp.critic(model, got, rgbd[None])) <= REL_L2


@pytest.mark.parametrize("kind", ["dual", "standalone"])
def test_self_attention_by_plain_products_equals_the_plain_computation(kind):
    """What bfloat16 does on a CPU, here in float32, where a wrong mask cannot hide behind rounding."""
    model = _model(kind)
    goals, rgbd = (_draw(n, model.sizes.token_dim, seed=n) for n in (model.goal_tokens, model.sizes.rgbd_tokens))
    actions = _draw(7, model.sizes.predict_size, 3, seed=7).clamp(-1.0, 1.0)
    engine = DenoiserEngine(model)
    engine._attend_by_products = True
    memory = engine.condition(goals, rgbd)
    with torch.no_grad():
        expected = plain_navdp.predict_noise(model, actions, torch.tensor([1]), goals[None], rgbd[None])
        assert _relative(engine.predict_noise(actions, 1, memory), expected) <= REL_L2
        assert _relative(engine.critic(actions, memory), plain_navdp.critic(model, actions, rgbd[None])) <= REL_L2


@pytest.mark.parametrize("kind", ["dual", "standalone"])
def test_samples_spread_over_threads_equal_one_batch(kind):
    model = _model(kind)
    config = PolicyConfig(num_samples=5)
    sampler = NavDpSampler(model, config)
    dim = model.sizes.token_dim
    memory = sampler.engine.condition(_draw(model.goal_tokens, dim), _draw(model.sizes.rgbd_tokens, dim, seed=6))
    noise = _draw(1 + sampler.noisy_steps, 5, model.sizes.predict_size, 3)
    expected = sample(
        lambda x, t: sampler.engine.predict_noise(x, t, memory.clone()), sampler.schedule, noise[0], noise[1:]
    )
    got = sampler.sample(memory, noise.numpy())
    assert _relative(got, expected) <= REL_L2
    assert _relative(sampler.score(got, memory), sampler.engine.critic(got, memory)) <= REL_L2


def test_inference_encoder_equals_the_plain_one():
    model = randomised(NavDp(TINY))
    images = torch.rand(1, 2, 42, 42, 3, generator=torch.Generator().manual_seed(1))
    depths = 5 * torch.rand(1, 2, 42, 42, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = plain_navdp.encode_rgbd(model.rgbd_encoder, images, depths)
        assert _relative(model.rgbd_encoder(images, depths), expected) <= REL_L2


def test_a_later_condition_leaves_nothing_of_the_earlier_one():
    model = randomised(NavDp(TINY))
    engine, dim = DenoiserEngine(model), model.sizes.token_dim
    x = _draw(3, TINY.predict_size, 3)
    first = engine.condition(_draw(1, dim), _draw(TINY.rgbd_tokens, dim))
    before = engine.predict_noise(x, 2, first)
    engine.predict_noise(x, 4, engine.condition(_draw(1, dim, seed=8), None))
    assert torch.equal(engine.predict_noise(x, 2, first), before)


def test_the_compiled_denoiser_equals_the_eager_one():
    model = randomised(NavDp(replace(TINY, temporal_depth=1)))
    goals, rgbd = _draw(1, TINY.token_dim), _draw(TINY.rgbd_tokens, TINY.token_dim)
    x = _draw(4, TINY.predict_size, 3)
    results = []
    for compiled in (False, True):
        engine = DenoiserEngine(model, compile=compiled)
        results.append(engine.predict_noise(x, 3, engine.condition(goals, rgbd)))
    assert _relative(results[1], results[0]) <= REL_L2


def test_the_critic_refuses_a_condition_without_a_scene():
    engine = DenoiserEngine(randomised(NavDp(TINY)))
    memory = engine.condition(_draw(1, TINY.token_dim), None)
    with pytest.raises(ValueError, match="memory: expected RGB-D tokens for the critic, got 2 tokens"):
        engine.critic(_draw(3, TINY.predict_size, 3), memory)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("heads", 0, "heads must be a positive integer, got 0"),
        ("token_dim", 30, "token_dim must be a multiple of its 4 heads, got 30"),
        ("image_size", 43, "image_size must be a multiple of the patch size 14, got 43"),
        ("vlm_token_dim", 4, "vlm_token_dim must be at least 8, got 4"),
    ],
)
def test_sizes_that_do_not_fit_are_named(field, value, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **{field: value})
