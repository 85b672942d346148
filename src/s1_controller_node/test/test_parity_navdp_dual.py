"""The dual system's NavDP gives the reference's numbers; the first test that fails names the wrong stage."""

from __future__ import annotations

import json

import pytest
import torch
from navdp_vectors import PARITY, fill, require_vectors, tensors

from s1_controller_node.ddpm_sampler import ddpm_schedule, sample
from s1_controller_node.navdp import KEY_PREFIX, NavDp
from s1_controller_node.navdp_core import DenoiserEngine

# bfloat16 rounds to 3 digits; the reference in bfloat16 is off by 0.007 (trajectory) and 0.011 (first noise).
_BF16_REL_L2 = 0.02


@pytest.fixture(scope="module")
def case():
    return require_vectors().load_case("navdp_dual_sample")


@pytest.fixture(scope="module")
def stages(case) -> dict[str, torch.Tensor]:
    """Every stage computed once, each from the one before."""
    return _stages(case, torch.float32)


def _stages(case, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    model = fill(NavDp().eval(), prefix=KEY_PREFIX).to(dtype)
    inputs, got = tensors(case), {}
    with torch.inference_mode():
        got["rgb_dino"] = model.rgbd_encoder.rgb_tokens(inputs["images"][0])
        got["depth_dino"] = model.rgbd_encoder.depth_tokens(inputs["depths"][0])
        got["rgbd_encoder"] = model.rgbd_encoder.fuse(got["rgb_dino"][None], got["depth_dino"][None])
        got["vlm_embed_mlp"] = model.project_latents(inputs["vlm_tokens"])
        got["goal_compressor"] = model.goal_token(inputs["vlm_tokens"])
        engine = DenoiserEngine(model)
        memory = engine.condition(got["goal_compressor"][0], got["rgbd_encoder"][0])
        schedule, predictions = ddpm_schedule(model.config.ddpm_train_steps), []
        noises = (inputs["initial_noise"], inputs["step_noise"])

        def predict(x: torch.Tensor, timestep: int) -> torch.Tensor:
            predictions.append(engine.predict_noise(x, timestep, memory))
            return predictions[-1]

        got["traj"] = sample(predict, schedule, *noises)
        got["noise_pred_all"] = torch.stack(predictions)
        got["ddpm_timesteps"] = torch.tensor([step.timestep for step in schedule])
        if dtype == torch.float32:
            memory = engine.condition(model.goal_token_without_images(inputs["vlm_tokens"])[0], None)
            got["traj_no_rgbd"] = sample(lambda x, t: engine.predict_noise(x, t, memory), schedule, *noises)
    return got


def test_a_model_of_the_release_sizes_has_exactly_the_released_keys_and_shapes():
    require_vectors()
    layout = json.loads((PARITY / "checkpoint_layout.json").read_text())
    expected = {k: tuple(v) for k, v in layout["navdp_async"].items() if k.startswith(KEY_PREFIX)}
    with torch.device("meta"):
        model = NavDp()
    assert {KEY_PREFIX + k: tuple(v.shape) for k, v in model.state_dict().items()} == expected
    buffers = {KEY_PREFIX + name for name, _ in model.named_buffers()}
    assert set(layout["navdp_async_buffers_in_state_dict"]) == buffers


@pytest.mark.parametrize("stage", ["rgb_dino", "depth_dino", "rgbd_encoder", "vlm_embed_mlp", "goal_compressor"])
def test_condition_stage_equals_the_reference(case, stages, stage):
    case.check(stage, stages[stage], strict=True)


def test_every_noise_prediction_equals_the_reference_step_by_step(case, stages):
    case.check("ddpm_timesteps", stages["ddpm_timesteps"])
    verify, limits = require_vectors(), case.tolerance("noise_pred_all", strict=True)
    expected = case.expected("noise_pred_all")
    for step, (got, want) in enumerate(zip(stages["noise_pred_all"], expected, strict=True)):
        difference = verify.compare(got, want, **limits, name=f"noise_pred of step {step}")
        assert difference.passed, str(difference)


@pytest.mark.parametrize("output", ["traj", "traj_no_rgbd"])
def test_trajectories_equal_the_reference(case, stages, output):
    # Clipping and the noisiest step (alpha = 1/35) leave single elements with many times the rounding of a
    # prediction (2.8e-5 with AVX2): default limit on the element.
    case.check(output, stages[output], strict=True, max_abs=5e-5)


def test_bfloat16_is_as_close_as_the_reference_in_bfloat16(case):
    stages = _stages(case, torch.bfloat16)
    for name in ("rgbd_encoder", "goal_compressor", "noise_pred_all", "traj"):
        case.check(name, stages[name].float(), max_abs=float("inf"), rel_l2=_BF16_REL_L2)
