"""A checkpoint folder becomes a policy that keeps what belongs to a plan and refuses what does not fit."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from navdp_vectors import REPO
from nextdit_fixtures import TINY, TINY_JSON, one_thread, tiny_inputs, tiny_model  # noqa: F401
from safetensors.torch import save_file

from dual_nav_util.checkpoint import CheckpointError
from s1_controller_node.checkpoint import expected_shapes, variant_of
from s1_controller_node.policy import Frame, Goal, NoGoalError, PolicyConfig, Trajectories, load_policy

sys.path.insert(0, str(REPO / "bench"))
import plain_nextdit


def write_checkpoint(folder, model, *, others=None, config=None):
    """A sharded checkpoint in the released layout, with tensors of the planner beside those of S1."""
    folder.mkdir(exist_ok=True)
    own = {"model." + key: value.contiguous() for key, value in model.state_dict().items()}
    keys = sorted(own)
    others = {"model.embed_tokens.weight": torch.zeros(8, 8), "lm_head.weight": torch.zeros(8, 8)} | (others or {})
    shards = {
        "model-00001-of-00002.safetensors": {key: own[key] for key in keys[::2]} | others,
        "model-00002-of-00002.safetensors": {key: own[key] for key in keys[1::2]},
    }
    for name, tensors in shards.items():
        save_file(tensors, str(folder / name))
    index = {key: name for name, tensors in shards.items() for key in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps(config or TINY_JSON))
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("s1") / "dual", tiny_model())


@pytest.fixture
def policy(checkpoint):
    return load_policy(checkpoint, PolicyConfig(num_samples=7))


def camera_image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def test_policy_gives_what_plain_sampling_gives(policy):
    latents, _, noise = tiny_inputs()
    goal_frame, frame = policy.prepare(1, camera_image(0)), policy.prepare(2, camera_image(1))
    policy.set_goal(Goal(goal_frame, traj_latents=latents.numpy()))
    result = policy.sample(frame, noise=noise.numpy())
    images = torch.from_numpy(np.stack([goal_frame.rgb, frame.rgb])).float()[None] / 255
    plain = plain_nextdit.sample(tiny_model(), latents, images, noise, num_steps=TINY.num_inference_steps)
    # Rounding alone, as both compute in float32.
    assert np.linalg.norm(result.increments - plain.numpy()) <= 1e-5 * np.linalg.norm(plain.numpy())
    assert result.stamp_ns == 2
    assert result.paths.shape == (7, TINY.horizon + 1, 3)
    assert not result.paths[:, 0].any()
    assert result.scores is None
    assert set(result.timings) == {"encode", "condition", "denoise"}


def test_the_goal_frame_is_encoded_once_per_plan(policy, monkeypatch):
    latents, _, noise = tiny_inputs()
    encoded = []
    original = policy.model.encode_frames
    monkeypatch.setattr(policy.model, "encode_frames", lambda images: encoded.append(len(images)) or original(images))
    policy.set_goal(Goal(policy.prepare(1, camera_image(0)), traj_latents=latents.numpy()))
    assert encoded == [1]
    results = [policy.sample(policy.prepare(n, camera_image(n)), noise=noise.numpy()) for n in (2, 3)]
    assert encoded == [1, 1, 1]
    assert not np.array_equal(results[0].increments, results[1].increments)


@pytest.mark.parametrize(("seed", "offset"), [(5, 0.0), (0, 1.0)], ids=["goal frame", "latents"])
def test_a_new_plan_replaces_the_old_one(policy, seed, offset):
    latents, _, noise = tiny_inputs()
    frame = policy.prepare(2, camera_image(1))
    policy.set_goal(Goal(policy.prepare(1, camera_image(0)), traj_latents=latents.numpy()))
    old = policy.sample(frame, noise=noise.numpy())
    policy.set_goal(Goal(policy.prepare(1, camera_image(seed)), traj_latents=latents.numpy() + np.float32(offset)))
    assert not np.array_equal(policy.sample(frame, noise=noise.numpy()).increments, old.increments)


def test_a_refused_plan_leaves_the_old_one_in_force(policy):
    latents, _, noise = tiny_inputs()
    frame = policy.prepare(2, camera_image(1))
    policy.set_goal(Goal(frame, traj_latents=latents.numpy()))
    old = policy.sample(frame, noise=noise.numpy())
    with pytest.raises(ValueError, match=r"goal.traj_latents: expected shape \(1, 3, 40\), got \(1, 4, 3584\)"):
        policy.set_goal(Goal(frame, traj_latents=np.zeros((1, 4, 3584), np.float32)))
    bad = Frame(3, np.zeros((5, 5, 3), np.uint8), None, (5, 5))
    with pytest.raises(ValueError, match=r"frame.rgb: expected shape \(42, 42, 3\), got \(5, 5, 3\)"):
        policy.set_goal(Goal(bad, traj_latents=latents.numpy() + 1))
    assert np.array_equal(policy.sample(frame, noise=noise.numpy()).increments, old.increments)


def test_bad_input_is_an_error_with_expected_and_given_value(policy):
    latents, _, _ = tiny_inputs()
    frame = policy.prepare(1, camera_image(0))
    with pytest.raises(NoGoalError, match="before set_goal"):
        policy.sample(frame)
    for broken, message in (
        (None, "goal.traj_latents: expected .* got None"),
        (latents.numpy() * np.nan, "goal.traj_latents: expected finite values, got 120 NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            policy.set_goal(Goal(frame, traj_latents=broken))
    policy.set_goal(Goal(frame, traj_latents=latents.numpy()))
    with pytest.raises(ValueError, match=r"noise: expected shape \(7, 6, 3\), got \(2, 6, 3\)"):
        policy.sample(frame, noise=np.zeros((2, 6, 3), np.float32))
    with pytest.raises(ValueError, match=r"rgb: expected shape \(any, any, 3\), got \(4, 4\)"):
        policy.prepare(1, np.zeros((4, 4), np.uint8))


def test_nan_from_the_model_never_becomes_a_path(policy):
    latents, _, _ = tiny_inputs()
    frame = policy.prepare(1, camera_image(0))
    policy.set_goal(Goal(frame, traj_latents=latents.numpy()))
    policy.model.action_decoder.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="increments: expected finite values"):
        policy.sample(frame)
    with pytest.raises(FloatingPointError, match=r"trajectories\.scores: the model gave NaN"):
        Trajectories(0, np.zeros((1, 2, 3)), np.zeros((1, 3, 3)), np.array([np.nan]), {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "tpu"}, "device: expected 'cpu' or 'cuda"),
        ({"precision": "float8"}, "precision: expected one of float32, bfloat16, got 'float8'"),
        ({"sampler": "euler"}, "sampler: expected one of reference, dpm_solver, got 'euler'"),
        ({"num_samples": 0}, "num_samples: expected at least 1, got 0"),
        ({"num_steps": -3}, "num_steps: expected at least 1, got -3"),
        ({"guidance_scale": float("inf")}, "guidance_scale: expected a number"),
        ({"cuda_graph": True}, "cuda_graph: expected device 'cuda', got 'cpu'"),
        ({"compile": 1}, "compile: expected true or false, got 1"),
        ({"num_samples": 2.5}, "num_samples: expected an integer, got 2.5"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        PolicyConfig(**settings)


def test_missing_and_unexpected_keys_are_named(tmp_path):
    model = tiny_model()
    broken = dict(model.state_dict())
    del broken["action_decoder.bias"]
    broken["traj_dit.model.layers.9.gate"] = torch.zeros(2)
    model.state_dict = lambda: broken
    folder = write_checkpoint(tmp_path / "broken", model)
    with pytest.raises(CheckpointError) as error:
        load_policy(folder)
    assert "1 missing keys: model.action_decoder.bias" in str(error.value)
    assert "1 unexpected keys: model.traj_dit.model.layers.9.gate" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"system1": None}, "system1 must be one of .* got None; a System2 checkpoint needs S1 from another folder"),
        ({"system1": "diffusion"}, "system1 must be one of nextdit_async, nextdit, navdp_async, got 'diffusion'"),
        ({"model_type": "llama"}, "model_type must be 'internvla_n1' or 'navdp', got 'llama'"),
        ({"n_query": 0}, "n_query must be a positive integer, got 0"),
        ({"system1_config": {"depht": 3}}, r"unknown fields \['depht'\]"),
    ],
)
def test_a_config_that_describes_no_system_1_is_one_clear_error(tmp_path, change, message):
    folder = write_checkpoint(tmp_path / "odd", tiny_model(), config=TINY_JSON | change)
    with pytest.raises(CheckpointError, match=message):
        load_policy(folder)


def test_variant_comes_from_the_config():
    assert variant_of(TINY_JSON) == "nextdit_async"
    assert variant_of({"model_type": "navdp"}) == "navdp_standalone"
    own = tiny_model().state_dict()
    assert expected_shapes(TINY_JSON) == {"model." + key: tuple(value.shape) for key, value in own.items()}


_MEASURE = """
import resource, sys, torch
from s1_controller_node.policy import load_policy
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
load_policy(sys.argv[1])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_the_planners_tensors_in_the_same_shard_are_never_read(tmp_path):
    decoy = {"model.layers.0.mlp.up_proj.weight": torch.zeros(32, 1024, 1024)}  # 128 MiB
    folder = write_checkpoint(tmp_path / "large", tiny_model(), others=decoy)
    run = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert int(run.stdout) < 64  # MiB
