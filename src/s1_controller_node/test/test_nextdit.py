"""NextDiT computes nothing twice and still gives what the plain way of computing gives."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from navdp_vectors import REPO
from nextdit_fixtures import TINY, one_thread, tiny_inputs, tiny_model  # noqa: F401

from s1_controller_node.flow_sampler import FlowMatchingSampler, flow_schedule
from s1_controller_node.nextdit_model import NextDiTModelConfig
from s1_controller_node.packed_linear import packing_works
from s1_controller_node.packed_nextdit import packed_for_sampling
from s1_controller_node.sample_threads import SampleThreads

sys.path.insert(0, str(REPO / "bench"))
import plain_nextdit

# Rounding alone: both ways compute in float32, in another order.
_REL_L2 = 1e-5


def rel_l2(a, b):
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def tokens(model):
    latents, images, _ = tiny_inputs()
    with torch.inference_mode():
        goal, current = model.encode_frames(images[0]).split(1)
        return model.condition_tokens(model.project_latents(latents), goal, current)


@pytest.mark.parametrize("scale", [1.0, 2.5, 0.0, -1.0])
@pytest.mark.parametrize("steps", [1, 4, 7])
def test_cached_sampling_equals_plain_sampling(model, tokens, scale, steps):
    latents, images, noise = tiny_inputs()
    plain = plain_nextdit.sample(model, latents, images, noise, num_steps=steps, guidance_scale=scale)
    ours = FlowMatchingSampler(model, num_steps=steps, guidance_scale=scale).sample(tokens, 7, noise=noise)
    assert rel_l2(ours, plain) <= _REL_L2


def test_without_image_branch_it_equals_plain_sampling_too():
    model = tiny_model(uses_images=False)
    latents, _, noise = tiny_inputs()
    with torch.inference_mode():
        tokens = model.condition_tokens(model.project_latents(latents))
    plain = plain_nextdit.sample(model, latents, None, noise, num_steps=4)
    assert rel_l2(FlowMatchingSampler(model).sample(tokens, 7, noise=noise), plain) <= _REL_L2


def test_images_latents_and_noise_all_reach_the_trajectories(model, tokens):
    """Otherwise the comparisons above could agree on a constant."""
    _, _, noise = tiny_inputs()
    sampler = FlowMatchingSampler(model)
    base = sampler.sample(tokens, 7, noise=noise)
    for changed in (0, tokens.shape[1] - 1):  # a memory token, a latent token
        other = tokens.clone()
        other[0, changed] += 1.0
        assert rel_l2(sampler.sample(other, 7, noise=noise), base) > 1e-3
    assert rel_l2(sampler.sample(tokens, 7, noise=noise + 0.1), base) > 1e-3


def test_fixed_position_table_changes_nothing(model):
    _, images, _ = tiny_inputs()
    fixed = tiny_model()
    fixed.rgb_model.fix_input_size(TINY.image_size, TINY.image_size)
    with torch.inference_mode():
        assert torch.equal(fixed.encode_frames(images[0]), model.encode_frames(images[0]))


def test_final_norm_has_the_published_epsilon(model):
    """Hidden states of the vectors are too large to show it."""
    x = torch.randn(1, 2, TINY.horizon, TINY.dit.dim, generator=torch.Generator().manual_seed(0)) * 1e-3
    centred = x - x.mean(-1, keepdim=True)
    normed = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-6)
    layer = model.dit.norm_out
    with torch.inference_mode():
        assert rel_l2(layer(x, torch.ones(1, TINY.dit.dim)), layer.linear_2(normed)) <= _REL_L2


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_slices_over_threads_equal_one_batch(model, tokens, threads):
    _, _, noise = tiny_inputs()
    sampler = FlowMatchingSampler(model)
    with torch.inference_mode():
        condition, modulations = sampler.prepare(tokens)
        whole = sampler._run(noise.clone(), condition, modulations)
        run = SampleThreads(threads)
        sliced = run(lambda part: sampler._run(part, condition, modulations), noise.clone())
    assert rel_l2(sliced, whole) <= _REL_L2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_layers_equal_the_models_own_and_leave_it_alone(dtype):
    model = tiny_model().to(dtype).requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    packed = packed_for_sampling(model.dit, rows=12)
    if packing_works(dtype):
        assert packed is not model.dit
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, TINY.horizon, TINY.dit.dim, generator=generator).to(dtype)
    with torch.inference_mode():
        condition = model.dit.condition(torch.randn(2, 8, TINY.dit.condition_dim, generator=generator).to(dtype))
        modulations = model.dit.modulations(model.dit.time_embedding(torch.tensor([900, 100])), condition.pooled)
        own, other = (dit.denoise(x, modulations, condition).float() for dit in (model.dit, packed))
    assert rel_l2(other, own) <= (_REL_L2 if dtype == torch.float32 else 0.02)


def test_sample_threads_leave_torchs_number_of_threads_alone():
    before = torch.get_num_threads()
    threads = SampleThreads(3)
    used = threads(lambda part: torch.full_like(part, torch.get_num_threads()), torch.zeros(6))
    assert torch.get_num_threads() == before
    assert used.tolist() == [1.0] * 6


def test_an_error_in_a_slice_is_raised():
    def fail(part):
        raise RuntimeError("slice of " + str(len(part)))

    with pytest.raises(RuntimeError, match="slice of"):
        SampleThreads(2)(fail, torch.zeros(4))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 13, 50])
def test_schedule_equals_diffusers(steps):
    from diffusers.schedulers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(steps, sigmas=np.linspace(1.0, 1 / steps, steps))
    timesteps, sigmas = flow_schedule(steps)
    assert torch.equal(timesteps, scheduler.timesteps.long())
    assert torch.equal(sigmas, scheduler.sigmas)


def test_generator_makes_samples_repeatable_and_different_from_each_other(model, tokens):
    sampler = FlowMatchingSampler(model)
    first, second = (sampler.sample(tokens, 5, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert first.shape == (5, TINY.horizon, 3)
    assert first.dtype == torch.float32
    assert torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, sampler.sample(tokens, 5, generator=torch.Generator().manual_seed(4)))


def test_given_noise_is_not_modified(model, tokens):
    noise = torch.randn(1, TINY.horizon, 3)
    before = noise.clone()
    FlowMatchingSampler(model).sample(tokens, 1, noise=noise)
    assert torch.equal(noise, before)


def test_compiled_sampling_equals_eager_sampling(model, tokens):
    _, _, noise = tiny_inputs()
    eager = FlowMatchingSampler(model).sample(tokens, 7, noise=noise)
    compiled = FlowMatchingSampler(model, compile=True).sample(tokens, 7, noise=noise)
    assert rel_l2(compiled, eager) <= _REL_L2


def test_bfloat16_model_keeps_its_state_in_float32(tokens):
    model = tiny_model().bfloat16()
    result = FlowMatchingSampler(model).sample(tokens.bfloat16(), 4)
    assert result.dtype == torch.float32
    assert torch.isfinite(result).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda s, t: s.sample(t, 4, noise=torch.zeros(4, 5, 3)),
            r"noise: expected shape \(4, 6, 3\), got \(4, 5, 3\)",
        ),
        (
            lambda s, t: s.sample(t, 4, noise=torch.full((4, 6, 3), torch.nan)),
            "noise: expected finite values, got 72 NaN",
        ),
        (lambda s, t: s.sample(t, 0), "num_samples: expected at least 1, got 0"),
        (lambda s, t: s.sample(t[0], 1), r"condition tokens: expected shape \(1, any, 48\), got \(8, 48\)"),
        (lambda s, t: s.sample(t[..., :40], 1), r"condition tokens: expected shape \(1, any, 48\), got \(1, 8, 40\)"),
        (
            lambda s, t: s.model.project_latents(torch.zeros(1, 4, 40)),
            r"traj_latents: .*\(any, 3, 40\), got \(1, 4, 40\)",
        ),
        (
            lambda s, t: s.model.encode_frames(torch.zeros(1, 3, 42, 42)),
            r"images: .*\(any, 42, 42, 3\), got \(1, 3, 42, 42\)",
        ),
        (lambda s, t: s.model.condition_tokens(t), "needs the tokens of goal frame and current frame, got None"),
        (lambda s, t: s.model.rgb_model(torch.zeros(1, 3, 41, 42)), "multiples of 14, got height 41 and width 42"),
        (
            lambda s, t: s.model.rgb_model(torch.zeros(1, 4, 42, 42)),
            r"expected images \(B, 3, H, W\), got \(1, 4, 42, 42\)",
        ),
        (lambda s, t: s.model.memory_encoder(torch.zeros(1, 19, 24)), r"at most 18, 24\), got \(1, 19, 24\)"),
        (
            lambda s, t: s.model.dit(torch.zeros(2, 6, 48), torch.zeros(3), torch.zeros(2, 8, 48)),
            r"timesteps: .*\(2,\), got \(3,\)",
        ),
        (lambda s, t: FlowMatchingSampler(s.model, num_steps=0), "num_steps: expected at least 1, got 0"),
        (lambda s, t: FlowMatchingSampler(s.model, guidance_scale=float("nan")), "guidance_scale: expected a number"),
        (
            lambda s, t: FlowMatchingSampler(s.model, cuda_graph=True),
            "cuda_graph: expected a model on a CUDA device, got cpu",
        ),
        (lambda s, t: flow_schedule(-1), "num_steps: expected at least 1, got -1"),
        (lambda s, t: NextDiTModelConfig(horizon=0), "system1_config.horizon must be a positive integer, got 0"),
        (
            lambda s, t: NextDiTModelConfig.from_checkpoint(
                {"system1": "nextdit", "hidden_size": 8, "n_query": 4, "system1_config": {"horizn": 2}}
            ),
            r"unknown fields \['horizn'\]",
        ),
        (
            lambda s, t: NextDiTModelConfig.from_checkpoint({"system1": "nextdit", "hidden_size": 8}),
            "'n_query' is missing",
        ),
        (
            lambda s, t: NextDiTModelConfig.from_checkpoint({"system1": "sway"}),
            "must be 'nextdit_async' or 'nextdit' here, got 'sway'",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_an_error_with_expected_and_given_value(model, tokens, call, message):
    with pytest.raises(ValueError, match=message):
        call(FlowMatchingSampler(model), tokens)


def test_noise_of_another_type_is_refused(model, tokens):
    with pytest.raises(TypeError, match=r"noise: expected a floating point dtype, got torch\.int64"):
        FlowMatchingSampler(model).sample(tokens, 4, noise=torch.zeros(4, 6, 3, dtype=torch.int64))
