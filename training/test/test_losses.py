"""The flow-matching loss and its gradients are the reference's."""

from __future__ import annotations

import importlib
import json
import sys

import pytest
import torch

from dual_nav_training.losses import flow_timesteps, frame_mask, masked_mean_square, nextdit_loss
from s1_controller_node.dinov2 import DinoV2Config
from s1_controller_node.nextdit import NextDiTConfig
from s1_controller_node.nextdit_model import NextDiTModel, NextDiTModelConfig, TransformerSizes

# Gradient norms are compared at 1e-3 relative; biases of key norms have no gradient but rounding (a constant
# added to all scores of a query), so what is below this counts as zero.
_GRADIENT_REL, _GRADIENT_ZERO = 1e-3, 1e-5


@pytest.fixture(scope="module")
def reference(parity_folder):
    """Case, model with the vectors' weights, and the loss computed once with gradients."""
    if str(parity_folder) not in sys.path:
        sys.path.insert(0, str(parity_folder))
    case = importlib.import_module("verify").load_case("nextdit_loss")
    model = NextDiTModel().eval()  # dropout off, as in the vectors
    importlib.import_module("deterministic_weights").fill_(model.state_dict(), prefix="model.")
    inputs = {name: torch.from_numpy(value) for name, value in case.inputs.items()}
    latents = inputs["traj_latents"].requires_grad_()
    result = nextdit_loss(
        model,
        latents,
        inputs["traj_images_u8"],
        inputs["traj_poses"],
        inputs["video_frame_num"],
        noise=inputs["noise"],
        u=inputs["u"],
    )
    result.loss.backward()
    return case, model, latents, result


def test_time_steps(reference):
    case, _, _, result = reference
    case.check("dit_timesteps", result.timesteps, strict=True)


def test_predicted_velocity(reference):
    case, _, _, result = reference
    case.check("velocity_pred", result.velocity, strict=True)


def test_loss(reference):
    case, _, _, result = reference
    case.check("loss", result.loss)


def test_gradient_of_the_latents(reference):
    case, _, latents, _ = reference
    case.check("grad_traj_latents", latents.grad)


def test_gradient_norm_of_every_parameter(reference, parity_folder):
    _, model, _, _ = reference
    expected = json.loads((parity_folder / "nextdit_loss_grads.json").read_text())["grad_norms"]
    got = {f"model.{n}": p.grad.norm().item() for n, p in model.named_parameters() if p.grad is not None}
    assert got.keys() == expected.keys()
    off = {k: (got[k], v) for k, v in expected.items() if abs(got[k] - v) > _GRADIENT_REL * v + _GRADIENT_ZERO}
    assert not off


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    config = NextDiTModelConfig(
        latent_dim=16,
        n_query=2,
        horizon=5,
        image_size=28,
        num_memory_tokens=3,
        dit=NextDiTConfig(dim=24, num_layers=1, num_heads=2, ffn_multiple_of=8, condition_dim=24),
        vision=DinoV2Config(dim=12, depth=1, num_heads=2, position_grid=3),
        memory_encoder=TransformerSizes(1, 2, 16),
        resampler=TransformerSizes(1, 2, 16),
    )
    return NextDiTModel(config).eval()


def tiny_batch():
    generator = torch.Generator().manual_seed(1)
    return {
        "traj_latents": torch.randn(2, 2, 16, generator=generator),
        "images": torch.rand(2, 3, 28, 28, 3, generator=generator),
        "trajectories": torch.randn(2, 3, 5, 3, generator=generator),
        "frame_counts": torch.tensor([3, 1]),
        "noise": torch.randn(6, 5, 3, generator=generator),
        "u": torch.rand(6, generator=generator),
    }


def test_padded_frames_do_not_count(tiny):
    batch = tiny_batch()
    loss = nextdit_loss(tiny, **batch).loss
    changed = batch["trajectories"].clone()
    changed[1, 1:] += 5.0
    assert nextdit_loss(tiny, **batch | {"trajectories": changed}).loss == loss
    changed[1, 0] += 5.0
    assert nextdit_loss(tiny, **batch | {"trajectories": changed}).loss != loss


def test_draws_repeat_with_a_generator_and_differ_without(tiny):
    batch = tiny_batch() | {"noise": None, "u": None}
    first, second = (nextdit_loss(tiny, **batch, generator=torch.Generator().manual_seed(5)).loss for _ in "ab")
    assert first == second
    assert nextdit_loss(tiny, **batch, generator=torch.Generator().manual_seed(6)).loss != first


def test_time_steps_run_from_1000_to_1():
    assert flow_timesteps(torch.tensor([0.0, 0.5, 0.9999])).tolist() == [1000.0, 500.0, 1.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise": torch.zeros(5, 5, 3)}, r"noise: expected shape \(6, 5, 3\), got \(5, 5, 3\)"),
        ({"u": torch.full((6,), 1.0)}, r"u: expected values in \[0, 1\), got 1.0"),
        ({"traj_latents": torch.zeros(1, 2, 16)}, r"traj_latents: expected shape \(2, 2, 16\), got \(1, 2, 16\)"),
        ({"images": None}, r"images: expected \(2, 3, H, W, 3\) for this model, got None"),
        ({"images": torch.zeros(2, 2, 28, 28, 3)}, r"images: expected shape \(2, 3, 28, 28, 3\)"),
        ({"frame_counts": torch.tensor([0, 1])}, r"frame_counts: expected values in 1..3, got \[0, 1\]"),
        ({"trajectories": torch.full((2, 3, 5, 3), torch.nan)}, "trajectories: expected finite values, got 90 NaN"),
    ],
)
def test_bad_input_is_an_error_with_expected_and_given_value(tiny, change, message):
    with pytest.raises(ValueError, match=message):
        nextdit_loss(tiny, **tiny_batch() | change)


def test_mask_and_mean():
    assert frame_mask(torch.tensor([1, 3]), 3).tolist() == [[True, False, False], [True, True, True]]
    error = torch.stack([torch.full((2, 3), 2.0), torch.full((2, 3), 100.0)])
    assert masked_mean_square(error, torch.tensor([True, False])) == 4.0
