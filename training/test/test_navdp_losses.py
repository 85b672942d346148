"""The NavDP losses give the reference's values and gradients."""

from __future__ import annotations

import importlib
import json
import sys

import pytest
import torch

from dual_nav_training.navdp_losses import draw_noise_and_timesteps, dual_navdp_loss, standalone_navdp_loss
from s1_controller_node.dinov2 import DinoV2Config
from s1_controller_node.navdp import KEY_PREFIX, NavDp, NavDpConfig
from s1_controller_node.navdp_standalone import NavDpStandalone

_TINY = NavDpConfig(
    image_size=28,
    predict_size=4,
    temporal_depth=1,
    heads=2,
    token_dim=16,
    ddpm_train_steps=5,
    former_heads=2,
    former_feed_forward=16,
    encoder=DinoV2Config(dim=16, depth=1, num_heads=2, position_grid=2),
    vlm_token_dim=16,
    max_latents=8,
)


@pytest.fixture(scope="module")
def vectors(parity_folder):
    """(load_case, fill_) of the reference vectors."""
    if str(parity_folder) not in sys.path:
        sys.path.insert(0, str(parity_folder))
    return importlib.import_module("verify").load_case, importlib.import_module("deterministic_weights").fill_


def _inputs(case) -> dict[str, torch.Tensor]:
    converted = {}
    for name, value in case.inputs.items():
        tensor = torch.from_numpy(value.astype("float32") if value.dtype in ("uint8", "uint16") else value)
        scale = {"uint8": 255, "uint16": 1000}.get(str(value.dtype), 1)
        converted[name] = tensor / scale if scale != 1 else tensor
    return converted


def test_dual_loss_and_prediction_equal_the_reference(vectors):
    load_case, fill_ = vectors
    case, model = load_case("navdp_dual_train"), NavDp().eval()
    fill_(model.state_dict(), prefix=KEY_PREFIX)
    inputs = _inputs(case)
    with torch.inference_mode():
        loss, predicted = dual_navdp_loss(
            model,
            inputs["traj_latents"],
            inputs["traj_images_u8"],
            inputs["traj_depths_mm_u16"],
            inputs["traj_poses"],
            inputs["video_frame_num"],
            inputs["noise"],
            inputs["timesteps"],
        )
    case.check("noise_pred", predicted, strict=True)
    case.check("loss", loss.reshape(1), strict=True)


@pytest.fixture(scope="module")
def standalone(vectors):
    """(case, inputs, model, batch) of the standalone training step."""
    load_case, fill_ = vectors
    case, model = load_case("navdp_standalone_train"), NavDpStandalone().eval()
    fill_(model.state_dict())
    model.freeze_rgb_encoder()
    inputs = _inputs(case)
    batch = {
        "points": inputs["pg"],
        "image_goals": inputs["ig_u8"],
        "pixel_goals": inputs["tg_u8"],
        "images": inputs["rgb_u8"],
        "depths": inputs["depth_mm_u16"][..., 0][:, None],
        "labels": inputs["labels"],
        "augmented": inputs["augments"],
        "label_critic": inputs["label_critic"],
        "augmented_critic": inputs["augment_critic"],
    }
    return case, inputs, model, batch


def test_standalone_goal_and_scene_tokens_equal_the_reference(standalone):
    case, _, model, batch = standalone
    with torch.inference_mode():
        case.check("rgbd_encoder", model.rgbd_encoder(batch["images"], batch["depths"]), strict=True)
        case.check("image_encoder", model.image_goal(batch["image_goals"]), strict=True)
        case.check("pixel_encoder", model.pixel_goal(batch["pixel_goals"]), strict=True)


def test_standalone_losses_predictions_and_gradients_equal_the_reference(standalone, parity_folder):
    case, inputs, model, batch = standalone
    got = standalone_navdp_loss(
        model,
        batch,
        inputs["ng_noise"],
        inputs["ng_timesteps"],
        inputs["mg_noise"],
        inputs["mg_timesteps"],
    )
    for name, field in (
        ("noise_pred_ng", got.predicted.noise_no_goal),
        ("noise_pred_mg", got.predicted.noise_mixed_goal),
        ("critic_label", got.predicted.critic_label),
        ("critic_augment", got.predicted.critic_augmented),
        ("imagegoal_aux", got.predicted.point_from_image),
        ("pixelgoal_aux", got.predicted.point_from_pixel),
        ("ng_action_loss", got.no_goal.reshape(1)),
        ("mg_action_loss", got.mixed_goal.reshape(1)),
        ("critic_loss", got.critic.reshape(1)),
        ("aux_loss", got.auxiliary.reshape(1)),
        ("loss", got.loss.reshape(1)),
    ):
        case.check(name, field, strict=True)
    got.loss.backward()
    expected = json.loads((parity_folder / "navdp_standalone_train_grads.json").read_text())
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
    assert set(norms) == set(expected["grad_norms"])
    wrong = {
        name: (norms[name], norm)
        for name, norm in expected["grad_norms"].items()
        if norms[name] != pytest.approx(norm, rel=1e-3, abs=1e-9)
    }
    assert not wrong


def _tiny_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    actions = torch.rand(2, 3, 4, 3, generator=generator)
    noise, timesteps = draw_noise_and_timesteps(actions.flatten(0, 1), 5, generator)
    return {
        "traj_latents": torch.rand(2, 2, 16, generator=generator),
        "images": torch.rand(2, 3, 28, 28, 3, generator=generator),
        "depths": torch.rand(2, 3, 28, 28, generator=generator),
        "actions": actions,
        "frame_counts": torch.tensor([3, 1]),
        "noise": noise,
        "timesteps": timesteps,
    }


def test_padding_frames_do_not_change_the_loss():
    model, batch = NavDp(_TINY).eval(), _tiny_batch()
    loss, _ = dual_navdp_loss(model, **batch)
    batch["actions"][1, 1:] = 0.0
    batch["images"][1, 1:] = 0.0
    padded, _ = dual_navdp_loss(model, **batch)
    torch.testing.assert_close(padded, loss)
    batch["actions"][1, 0] = 0.0
    assert not torch.isclose(dual_navdp_loss(model, **batch)[0], loss)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("images", torch.rand(2, 3, 28, 28, 4), r"images: expected shape .*28, 28, 3\), got \(2, 3, 28, 28, 4\)"),
        ("depths", -torch.ones(2, 3, 28, 28), r"depths: expected values in \[0, inf\], got -1 to -1"),
        ("depths", torch.ones(2, 2, 28, 28), r"depths: expected shape \(2, 3, 28, 28\), got \(2, 2, 28, 28\)"),
        ("frame_counts", torch.tensor([0, 0]), r"at least one real frame, got \[0, 0\]"),
        ("frame_counts", torch.tensor([3, 4]), r"frame_counts: expected values in \[0, 3\], got 3 to 4"),
        ("noise", torch.full((6, 4, 3), torch.nan), "noise: expected finite values"),
        ("traj_latents", torch.rand(2, 2, 15), r"traj_latents: expected shape .*16\), got \(2, 2, 15\)"),
    ],
)
def test_bad_input_is_named_with_what_was_expected(name, value, message):
    with pytest.raises(ValueError, match=message):
        dual_navdp_loss(NavDp(_TINY).eval(), **{**_tiny_batch(), name: value})


def test_a_standalone_batch_without_an_entry_is_refused_by_name():
    noise, timesteps = torch.zeros(1, 24, 3), torch.zeros(1, dtype=torch.long)
    with torch.device("meta"):
        model = NavDpStandalone()
    with pytest.raises(KeyError, match=r"batch lacks \['image_goals'"):
        standalone_navdp_loss(model, {"points": torch.zeros(1, 3)}, noise, timesteps, noise, timesteps)
