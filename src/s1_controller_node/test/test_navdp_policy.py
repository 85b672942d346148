"""NavDP behind the policy interface: goals, memory, what is kept, and what is refused. Small random models."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from navdp_vectors import TINY, TINY_STANDALONE, randomised

from s1_controller_node.navdp import NavDp
from s1_controller_node.navdp_policy import (
    NavDpPolicy,
    NavDpStandalonePolicy,
    pixel_mask,
    point_goal_from_pixel,
    schedule_of,
)
from s1_controller_node.navdp_standalone import NavDpStandalone, rank_by_critic
from s1_controller_node.policy import Goal, NoGoalError, PolicyConfig

CONFIG = PolicyConfig(num_samples=5)
LATENTS = np.random.default_rng(3).standard_normal((1, 4, TINY.vlm_token_dim)).astype(np.float32)


def _camera(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, 256, (48, 64, 3), dtype=np.uint8),
        rng.uniform(0.3, 8.0, (48, 64)).astype(np.float32),
    )


@pytest.fixture
def dual() -> NavDpPolicy:
    return NavDpPolicy(randomised(NavDp(TINY)), CONFIG)


@pytest.fixture
def standalone() -> NavDpStandalonePolicy:
    return NavDpStandalonePolicy(randomised(NavDpStandalone(TINY_STANDALONE)), CONFIG)


def _frames(policy, count: int):
    return [policy.prepare(i, *_camera(i)) for i in range(count)]


def _seed() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_dual_policy_gives_paths_in_metres_from_zero_and_a_score_for_every_sample(dual):
    goal_frame, current = _frames(dual, 2)
    dual.set_goal(Goal(goal_frame, traj_latents=LATENTS))
    got = dual.sample(current, generator=_seed())
    assert got.increments.shape == (5, TINY.predict_size, 3)
    assert got.scores.shape == (5,)
    assert np.ptp(got.scores) > 0
    assert not got.paths[:, 0].any()
    np.testing.assert_allclose(got.paths[:, -1], (got.increments / (4, 4, 1)).sum(axis=1), atol=1e-5)
    assert got.stamp_ns == 1
    assert set(got.timings) == {"encode", "condition", "denoise", "score"}


def test_the_goal_frame_is_encoded_once_per_plan(dual, monkeypatch):
    goal_frame, *frames = _frames(dual, 4)
    encoder, calls = dual.model.rgbd_encoder.rgb_model, []
    monkeypatch.setattr(encoder, "forward", lambda x, f=encoder.forward: (calls.append(len(x)), f(x))[1])
    dual.set_goal(Goal(goal_frame, traj_latents=LATENTS))
    for frame in frames:
        dual.sample(frame)
    assert calls == [1, 1, 1, 1]


def test_the_standalone_policy_encodes_every_frame_once_and_fills_missing_memory_with_black(standalone, monkeypatch):
    frames = _frames(standalone, 5)
    encoder, calls = standalone.model.rgbd_encoder.rgb_model, []
    monkeypatch.setattr(encoder, "forward", lambda x, f=encoder.forward: (calls.append(len(x)), f(x))[1])
    standalone.set_no_goal()
    first = standalone.sample(frames[:1], generator=_seed())
    for i in range(2, 6):
        standalone.sample(frames[:i], generator=_seed())
    assert len(calls) == len(frames)
    black = [replace(frames[0], rgb=np.zeros_like(frames[0].rgb)) for _ in range(2)]
    padded = standalone.sample([*black, frames[0]], generator=_seed())
    np.testing.assert_allclose(padded.increments, first.increments, atol=1e-5)


def test_every_kind_of_goal_changes_the_trajectories(standalone):
    frames = _frames(standalone, 3)
    results = []
    for set_goal in (
        lambda: standalone.set_goal(Goal(frames[0], point=(2.0, 1.0, 0.4))),
        lambda: standalone.set_goal(Goal(frames[0], pixel_goal=(30, 20))),
        lambda: standalone.set_goal(Goal(frames[0], pixel_goal=(5, 40))),
        lambda: standalone.set_image_goal(frames[1]),
        standalone.set_no_goal,
    ):
        set_goal()
        results.append(standalone.sample(frames, generator=_seed()).increments)
    for i, one in enumerate(results):
        for other in results[:i]:
            assert np.abs(one - other).max() > 1e-4
    standalone.set_goal(Goal(frames[0], point=(2.0, 1.0, 0.4)))
    np.testing.assert_array_equal(standalone.sample(frames, generator=_seed()).increments, results[0])


def test_a_pixel_goal_of_an_older_frame_is_seen_with_the_current_image():
    policy = NavDpStandalonePolicy(randomised(NavDpStandalone(replace(TINY_STANDALONE, pixel_channel=7))), CONFIG)
    frames = _frames(policy, 3)
    policy.set_goal(Goal(frames[0], pixel_goal=(30, 20)))
    tokens = [policy._current_goal(frame) for frame in frames[1:]]
    assert not torch.allclose(*tokens)


def test_given_noise_repeats_a_sample_exactly(dual):
    goal_frame, current = _frames(dual, 2)
    dual.set_goal(Goal(goal_frame, traj_latents=LATENTS))
    shape = (1 + dual.sampler.noisy_steps, 5, TINY.predict_size, 3)
    noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    first, second = (dual.sample(current, noise=noise).increments for _ in range(2))
    np.testing.assert_array_equal(first, second)
    with pytest.raises(ValueError, match=r"noise: expected shape \(5, 6, 3\), got \(4, 6, 3\)"):
        dual.sample(current, noise=noise[0, :4])


def test_the_sampler_is_chosen_by_the_configuration():
    assert len(schedule_of(CONFIG, 20)) == 20
    assert len(schedule_of(replace(CONFIG, sampler="dpm_solver"), 20)) == 10
    assert len(schedule_of(replace(CONFIG, sampler="dpm_solver", num_steps=6), 20)) == 6
    with pytest.raises(ValueError, match="num_steps: the reference sampler takes all 20 steps, got 6"):
        schedule_of(replace(CONFIG, num_steps=6), 20)
    with pytest.raises(ValueError, match=r"guidance_scale: NavDP has no guidance, expected 1.0, got 2.5"):
        NavDpPolicy(randomised(NavDp(TINY)), replace(CONFIG, guidance_scale=2.5))


def test_the_best_samples_come_first():
    best, worst = rank_by_critic(torch.tensor([0.1, -2.0, 3.0, 0.5]), 2)
    assert best.tolist() == [2, 3]
    assert worst.tolist() == [1, 0]
    with pytest.raises(ValueError, match="count: expected an integer from 1 to 4, got 5"):
        rank_by_critic(torch.zeros(4), 5)


def test_bad_frames_and_goals_are_refused_by_name(dual, standalone):
    rgb, depth = _camera(0)
    frame = dual.prepare(0, rgb, depth)
    broken = LATENTS.copy()
    broken[0, 0, 0] = np.nan
    with pytest.raises(NoGoalError):
        dual.sample(frame)
    with pytest.raises(NoGoalError):
        standalone.sample(standalone.prepare(0, rgb, depth))
    with pytest.raises(ValueError, match="depth: this model needs a depth image"):
        dual.prepare(0, rgb)
    with pytest.raises(ValueError, match=r"depth: expected the size of the RGB image \(48, 64\), got \(24, 32\)"):
        standalone.prepare(0, rgb, depth[::2, ::2])
    with pytest.raises(ValueError, match=r"at least 0\.0, got -1"):
        dual.prepare(0, rgb, depth * 0 - 1)
    with pytest.raises(ValueError, match=r"goal.traj_latents: expected \(1, n_query, 40\), got None"):
        dual.set_goal(Goal(frame))
    with pytest.raises(ValueError, match=r"goal\.traj_latents: expected finite values, got 1 NaN"):
        dual.set_goal(Goal(frame, traj_latents=broken))
    with pytest.raises(ValueError, match="goal: expected a point or a pixel_goal"):
        standalone.set_goal(Goal(frame))
    with pytest.raises(ValueError, match=r"inside 64x48, got \(64, 10\)"):
        standalone.set_goal(Goal(frame, pixel_goal=(64, 10)))


def test_depth_is_clipped_in_the_dual_system_and_blanked_standalone(dual, standalone):
    rgb = np.zeros((48, 64, 3), dtype=np.uint8)
    depth = np.full((48, 64), 9.0, dtype=np.float32)
    assert standalone.prepare(0, rgb, depth).depth.max() == 0.0
    depth[0, 0] = np.inf
    assert dual.prepare(0, rgb, depth).depth.max() == 5.0
    assert dual.prepare(0, rgb, depth).depth.min() >= 0.0


def test_the_pixel_mask_is_a_square_at_the_pixels_place_in_the_padded_image():
    mask = pixel_mask((320, 240), (640, 480), 224)
    rows, columns = np.nonzero(mask)
    assert (rows.mean() + 0.5, columns.mean() + 0.5) == (112, 112)
    assert mask.sum() == pytest.approx((20 * 224 / 640) ** 2, rel=0.4)
    assert pixel_mask((0, 0), (640, 480), 224).sum() > 0


def test_a_pixel_with_depth_becomes_the_point_that_the_camera_sees():
    """The point is projected into the camera by hand and found again."""
    height, pitch, focal = 0.6, math.radians(20), 300.0
    intrinsics = np.array([[focal, 0, 160], [0, focal, 120], [0, 0, 1]])
    target = np.array([2.0, 0.5, 0.1]) - np.array([0.1, 0.0, height])  # from the camera, robot axes
    axis = np.array([math.cos(pitch), 0, -math.sin(pitch)])
    down = np.array([-math.sin(pitch), 0, -math.cos(pitch)])
    z = float(target @ axis)
    pixel = (160 - focal * target[1] / z, 120 + focal * float(target @ down) / z)
    depth = np.full((240, 320), z, dtype=np.float32)
    x, y, yaw = point_goal_from_pixel(depth, pixel, intrinsics, height, pitch, camera_forward=0.1)
    assert (x, y) == pytest.approx((2.0, 0.5), abs=1e-5)
    assert yaw == pytest.approx(math.atan2(0.5, 2.0))


def test_a_pixel_without_depth_becomes_the_ground_point_or_an_error():
    intrinsics = np.array([[300.0, 0, 160], [0, 300.0, 120], [0, 0, 1]])
    depth = np.full((240, 320), np.nan, dtype=np.float32)
    x, y, _ = point_goal_from_pixel(depth, (160, 180), intrinsics, 0.6, 0.0)
    assert (x, y) == pytest.approx((0.6 * 300 / 60, 0.0))
    with pytest.raises(ValueError, match="expected depth, or a pixel below the horizon"):
        point_goal_from_pixel(depth, (160, 100), intrinsics, 0.6, 0.0)
    with pytest.raises(ValueError, match=r"pixel: expected \(column, row\) inside 320x240, got \(320, 0\)"):
        point_goal_from_pixel(depth, (320, 0), intrinsics, 0.6, 0.0)
    with pytest.raises(ValueError, match="camera_height"):
        point_goal_from_pixel(depth, (160, 180), intrinsics, -0.6, 0.0)
    with pytest.raises(ValueError, match=r"depth_m: expected values of at least 0\.0, got -1"):
        point_goal_from_pixel(np.full((240, 320), -1.0), (160, 180), intrinsics, 0.6, 0.0)
