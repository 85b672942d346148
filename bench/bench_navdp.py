"""NavDP sampling against the plain implementation, side by side, and the fast sampler's deviation.

    python bench/bench_navdp.py [--steps N] [--repeats N]

Full size (random weights), 32 samples, 2 CPU threads, goal frame known, current frame new. Plain and
fast runs take turns, so that other load on the machine hits both; the ratios are those of the medians.
Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import plain_navdp
import torch

from s1_controller_node.navdp import NavDp, NavDpConfig
from s1_controller_node.navdp_policy import NavDpPolicy
from s1_controller_node.policy import Goal, PolicyConfig

THREADS, SAMPLES = 2, 32


def interleaved(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each run, one after the other in every round, after one warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if round_number:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def scene(config: NavDpConfig) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Latents and two camera frames (RGB, depth in metres)."""
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((1, 4, config.vlm_token_dim)).astype(np.float32)
    frames = [
        (rng.integers(0, 256, (480, 640, 3), dtype=np.uint8), rng.uniform(0.3, 5.0, (480, 640)).astype(np.float32))
        for _ in range(2)
    ]
    return latents, frames


def policy(model: NavDp, latents: np.ndarray, frames: list, **config) -> tuple[NavDpPolicy, object]:
    """A policy that has its goal, and the prepared current frame."""
    made = NavDpPolicy(model, PolicyConfig(num_samples=SAMPLES, **config))
    goal_frame, current = (made.prepare(i, *frame) for i, frame in enumerate(frames))
    made.set_goal(Goal(goal_frame, traj_latents=latents))
    return made, current


def copy_of(model: NavDp, dtype: torch.dtype) -> NavDp:
    made = NavDp(model.config).eval()
    made.load_state_dict(model.state_dict())
    return made.to(dtype).requires_grad_(False)


def speed(steps: int, repeats: int) -> dict[str, float]:
    """Seconds per call of the plain and the fast ways, all with scores for every sample."""
    config = NavDpConfig(ddpm_train_steps=steps)
    model = NavDp(config).eval().requires_grad_(False)
    latents, frames = scene(config)
    fast, current = policy(copy_of(model, torch.float32), latents, frames)
    half, _ = policy(copy_of(model, torch.bfloat16), latents, frames, precision="bfloat16")
    solver, _ = policy(
        copy_of(model, torch.bfloat16),
        latents,
        frames,
        precision="bfloat16",
        sampler="dpm_solver",
        num_steps=max(2, steps // 2),
    )
    goal_frame = fast.prepare(0, *frames[0])
    images = torch.tensor(np.stack((goal_frame.rgb, current.rgb)))[None].float() / 255
    depths = torch.tensor(np.stack((goal_frame.depth, current.depth)))[None]
    noise = torch.randn(steps, SAMPLES, config.predict_size, 3)
    return interleaved(
        {
            "plain float32": lambda: plain_navdp.sample_dual(
                model, torch.from_numpy(latents), images, depths, noise[0], noise[1:]
            ),
            "float32": lambda: fast.sample(current),
            "bfloat16": lambda: half.sample(current),
            "bfloat16, dpm_solver, half the steps": lambda: solver.sample(current),
        },
        repeats,
    )


def deviation() -> dict[str, float]:
    """Distance between the distributions of path ends: fast sampler and reference, and reference with itself.

    Energy distance (0 for equal distributions) of the normalised increments' sums of 256 samples, small
    model. Random weights predict no real trajectories: the figure says how far the samplers part on the
    same predictor, beside what chance alone gives.
    """
    config = NavDpConfig(temporal_depth=2)
    latents, frames = scene(config)
    model = NavDp(config).eval().requires_grad_(False)

    def ends(seed: int, **options) -> torch.Tensor:
        made = NavDpPolicy(model, PolicyConfig(num_samples=256, **options))
        goal_frame, current = (made.prepare(i, *frame) for i, frame in enumerate(frames))
        made.set_goal(Goal(goal_frame, traj_latents=latents))
        drawn = made.sample(current, generator=torch.Generator().manual_seed(seed))
        return torch.from_numpy(drawn.paths[:, -1])

    def distance(a: torch.Tensor, b: torch.Tensor) -> float:
        return (2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()).item()

    reference, again = ends(1), ends(2)
    result = {"reference with other noise": distance(reference, again)}
    for steps in (5, 10, 20):
        result[f"dpm_solver, {steps} steps"] = distance(reference, ends(3, sampler="dpm_solver", num_steps=steps))
    result["spread of the reference [m]"] = reference[:, :2].std().item()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="DDPM steps (release: 20)")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    seconds = speed(options.steps, options.repeats)
    print(f"NavDP in the dual system, {SAMPLES} samples, {options.steps} steps, {THREADS} threads")
    for name, value in seconds.items():
        print(f"  {name:38s} {value:8.3f} s   {seconds['plain float32'] / value:6.2f} x plain")
    away = deviation()
    print("Energy distance of path ends to the reference sampler's [m]")
    for name, value in away.items():
        print(f"  {name:38s} {value:8.4f}")
    print(json.dumps({"navdp_seconds": seconds, "navdp_sampler_deviation": away}))


if __name__ == "__main__":
    main()
