"""How far NavDP's fast sampler (DPM-Solver++) parts from the reference sampler (DDPM, all steps).

    python bench/sampler_deviation.py [--seed S]

Energy distance (0 for equal distributions) of where the paths of 256 samples end; a model of release width with two
denoiser layers. Random weights predict no real trajectories: the figure says how far the samplers part on the same
predictor, beside what chance alone gives (the reference against itself with other noise). Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch

from s1_controller_node.navdp import NavDp, NavDpConfig
from s1_controller_node.navdp_policy import NavDpPolicy
from s1_controller_node.policy import Goal, PolicyConfig

SAMPLES = 256


def energy_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of two sets of points (N, D), in their unit (Szekely and Rizzo, 2013)."""
    return (2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()).item()


def deviation(seed: int) -> dict[str, float]:
    """Distances [m] to the reference sampler's path ends, and the spread of those."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    config = NavDpConfig(temporal_depth=2)
    model = NavDp(config).eval().requires_grad_(False)
    latents = rng.standard_normal((1, 4, config.vlm_token_dim)).astype(np.float32)
    rgb = rng.integers(0, 256, (2, 480, 640, 3), dtype=np.uint8)
    depth = rng.uniform(0.3, 5.0, (2, 480, 640)).astype(np.float32)

    def ends(draw: int, **options) -> torch.Tensor:
        policy = NavDpPolicy(model, PolicyConfig(num_samples=SAMPLES, **options))
        goal_frame, current = (policy.prepare(i, rgb[i], depth[i]) for i in range(2))
        policy.set_goal(Goal(goal_frame, traj_latents=latents))
        drawn = policy.sample(current, generator=torch.Generator().manual_seed(draw))
        return torch.from_numpy(drawn.paths[:, -1, :2])

    reference = ends(1)
    result = {"reference with other noise": energy_distance(reference, ends(2))}
    for steps in (5, 10, 20):
        fast = ends(3, sampler="dpm_solver", num_steps=steps)
        result[f"dpm_solver, {steps} steps"] = energy_distance(reference, fast)
    result["spread of the reference"] = reference.std().item()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of weights, images and noise")
    found = deviation(parser.parse_args().seed)
    print("energy distance of path ends to the reference sampler's [m]")
    for name, value in found.items():
        print(f"  {name:30s} {value:8.4f}")
    print(json.dumps({"bench": "sampler_deviation", **found}))


if __name__ == "__main__":
    main()
