"""S1 sampling against the plain way of computing it, side by side in one run.

    python bench/bench_s1.py                       # both models at release size, 32 samples, 2 threads
    python bench/bench_s1.py --case nextdit --repeats 5
    python bench/bench_s1.py --device cuda --compile --cuda-graph

Plain is float32 and does what the public InternNav implementation does per frame: both frames through the encoders,
both guidance halves, and everything about the condition again in every step and for every sample. Ours has the plan's
goal in place and takes one new frame, in float32 and in bfloat16; both are compared with the float32 plain time.
All ways take turns in every round, and the machine's matrix-product rate is measured between them, so that other load
meets all of them. Random weights, equal noise; the table also says how far the results are apart, and in float32 more
than rounding is an error. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plain_navdp
import plain_nextdit
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from s1_controller_node.navdp import NavDp, NavDpConfig
from s1_controller_node.navdp_policy import NavDpPolicy
from s1_controller_node.nextdit_model import NextDiTModel, NextDiTModelConfig
from s1_controller_node.policy import PRECISIONS, Goal, NextDiTPolicy, PolicyConfig, TrajectoryPolicy

# Times that the project promises against plain float32, at release size with 32 samples on a CPU.
TARGETS = {"nextdit": {"float32": 2.3, "bfloat16": 4.5}, "navdp": {"float32": 1.5, "bfloat16": 3.0}}
# Ours in float32 must give plain's result but for rounding, which random NavDP weights amplify over 20 steps.
TOLERANCE = {"nextdit": 1e-5, "navdp": 1e-4}


@dataclass(frozen=True)
class Case:
    """One model, plain and ours. To add one: a function that makes it, in CASES, and its targets."""

    plain: Callable[[], np.ndarray]
    ours: dict[str, Callable[[], np.ndarray]]  # precision -> trajectories (S, T, 3)
    operations: float  # floating-point operations of the matrix products that one call of ours cannot do without


def nextdit_case(options: argparse.Namespace) -> Case:
    config = NextDiTModelConfig(num_inference_steps=options.steps or NextDiTModelConfig.num_inference_steps)
    model = randomised(NextDiTModel(config)).to(options.device)
    latents, frames = scene(config.latent_dim)
    noise = torch.randn(options.samples, config.horizon, 3)

    def policy(precision: str) -> TrajectoryPolicy:
        return NextDiTPolicy(copy.deepcopy(model).to(PRECISIONS[precision]), policy_config(options, precision))

    made = {precision: with_goal(policy(precision), latents, frames) for precision in PRECISIONS}
    images = torch.from_numpy(np.stack([frame.rgb for frame in made["float32"][1]]))[None].float() / 255
    dit = config.dit
    per_token = dit.num_layers * (6 * dit.dim**2 + 3 * dit.dim * dit.ffn_dim)  # weights that a token meets in a step
    tokens = options.samples * config.horizon * config.num_inference_steps
    with torch.inference_mode():
        frame = torch.zeros(1, config.image_size, config.image_size, 3)
        encoded = model.encode_frames(frame)
        encoding = count_operations(lambda: (model.encode_frames(frame), model.memory_tokens(encoded, encoded)))
    return Case(
        operations=2 * per_token * tokens + encoding,
        plain=lambda: to_numpy(
            plain_nextdit.sample(
                model, torch.from_numpy(latents), images, noise, num_steps=config.num_inference_steps
            )
        ),
        ours={
            precision: lambda p=p, f=f: p.sample(f[1], noise=noise.numpy()).increments
            for precision, (p, f) in made.items()
        },
    )


def navdp_case(options: argparse.Namespace) -> Case:
    config = NavDpConfig(ddpm_train_steps=options.steps or NavDpConfig.ddpm_train_steps)
    model = randomised(NavDp(config)).to(options.device)
    latents, frames = scene(config.vlm_token_dim)
    noise = torch.randn(config.ddpm_train_steps, options.samples, config.predict_size, 3)

    def policy(precision: str) -> TrajectoryPolicy:
        return NavDpPolicy(copy.deepcopy(model).to(PRECISIONS[precision]), policy_config(options, precision))

    made = {precision: with_goal(policy(precision), latents, frames) for precision in PRECISIONS}
    goal, current = made["float32"][1]
    images = torch.from_numpy(np.stack((goal.rgb, current.rgb)))[None].float() / 255
    depths = torch.from_numpy(np.stack((goal.depth, current.depth)))[None]

    def plain() -> np.ndarray:
        arrays = (torch.from_numpy(latents), images, depths, noise[0], noise[1:])
        drawn = plain_navdp.sample_dual(model, *(array.to(options.device) for array in arrays))
        return to_numpy(drawn[0] if isinstance(drawn, tuple) else drawn)

    # Weights that a token meets in a step: self attention 4, feed-forward 8 times width squared (the projections of
    # the cross attention move into its keys and values); the critic's pass over the result is one step more.
    per_token = config.temporal_depth * 12 * config.token_dim**2
    tokens = options.samples * config.predict_size * (config.ddpm_train_steps + 1)
    with torch.inference_mode():
        arrays = (images.to(options.device), depths.to(options.device))
        encoding = count_operations(lambda: model.rgbd_encoder(*arrays))
    return Case(
        operations=2 * per_token * tokens + encoding / 2,  # one of the two frames is new
        plain=plain,
        ours={
            precision: lambda p=p, f=f: p.sample(f[1], noise=noise.numpy()).increments
            for precision, (p, f) in made.items()
        },
    )


CASES: dict[str, Callable[[argparse.Namespace], Case]] = {"nextdit": nextdit_case, "navdp": navdp_case}


def policy_config(options: argparse.Namespace, precision: str) -> PolicyConfig:
    return PolicyConfig(
        device=options.device,
        precision=precision,
        num_samples=options.samples,
        compile=options.compile,
        cuda_graph=options.cuda_graph,
    )


def with_goal(policy: TrajectoryPolicy, latents: np.ndarray, frames: list) -> tuple[TrajectoryPolicy, list]:
    """The policy with its plan taken, and the prepared frames (goal frame, current frame)."""
    prepared = [policy.prepare(stamp, *frame) for stamp, frame in enumerate(frames)]
    policy.set_goal(Goal(prepared[0], traj_latents=latents))
    return policy, prepared


def scene(latent_dim: int) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Planner latents and two camera frames (RGB, depth in metres)."""
    rng = np.random.default_rng(0)
    frames = [
        (rng.integers(0, 256, (480, 640, 3), dtype=np.uint8), rng.uniform(0.3, 5.0, (480, 640)).astype(np.float32))
        for _ in range(2)
    ]
    return rng.standard_normal((1, 4, latent_dim)).astype(np.float32), frames


def randomised(model: nn.Module) -> nn.Module:
    """In evaluation mode with every parameter random: fresh gates are zero and would hide a whole branch."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim <= 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval().requires_grad_(False)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()


def timed(work: Callable[[], object], device: str) -> tuple[float, object]:
    """(wall seconds, result)."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large square matrix product, median of five."""
    n = 2048 if device == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return 2 * n**3 / statistics.median(timed(lambda: a @ b, device)[0] for _ in range(5))


def measure(name: str, case: Case, options: argparse.Namespace) -> dict:
    """Times of all ways in turn; raises if float32 results differ by more than rounding."""
    ways = {"plain": case.plain, **case.ours}
    times: dict[str, list[float]] = {way: [] for way in ways}
    rates: dict[str, list[float]] = {precision: [] for precision in case.ours}
    first_call, results = {}, {}
    for way, run in ways.items():  # also warms up; a compiler's time shows here and nowhere else
        first_call[way], results[way] = timed(run, options.device)
    for number in range(options.repeats):
        for way, run in ways.items():
            times[way].append(timed(run, options.device)[0])
            if way in rates:
                rates[way].append(matmul_rate(options.device, PRECISIONS[way]))
        took = ", ".join(f"{way} {values[-1]:.3f}" for way, values in times.items())
        print(f"  {name} round {number + 1}: {took} s", file=sys.stderr, flush=True)

    plain = statistics.median(times["plain"])
    rows = {"plain": {"seconds": plain, "first_call": first_call["plain"]}}
    for way in case.ours:
        seconds = statistics.median(times[way])
        difference = np.linalg.norm(results[way] - results["plain"]) / np.linalg.norm(results["plain"])
        rows[way] = {
            "seconds": seconds,
            "first_call": first_call[way],
            "ratio": plain / seconds,
            "target": TARGETS[name][way],
            "rel_l2_to_plain": float(difference),
            "matmul_gflops": max(rates[way]) / 1e9,  # the best round: what the machine can do
            "matmul_share": case.operations / seconds / max(rates[way]),
        }
    return rows


def count_operations(run: Callable[[], object]) -> int:
    """Operations of matrix products and attention in one call, as far as the calling thread does them."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def table(name: str, rows: dict) -> str:
    head = f"{name:<9} {'time [s]':>9} {'per second':>11} {'x plain':>8} {'promised':>9} {'rel. L2':>9}"
    head += f" {'first call [s]':>15} {'of matmul rate':>24}"
    lines = [head, "-" * len(head)]
    for way, row in rows.items():
        line = f"{way:<9} {row['seconds']:9.3f} {1 / row['seconds']:11.2f}"
        if way != "plain":
            line += f" {row['ratio']:8.2f} {row['target']:9.1f} {row['rel_l2_to_plain']:9.1e}"
            line += f" {row['first_call']:15.1f}"
            line += f" {row['matmul_share']:9.0%} of {row['matmul_gflops']:.0f} GFLOP/s"
        lines.append(line)
    return "\n".join(lines)


def machine(device: str) -> str:
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, action="append", help="which model; may be repeated (default: all)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds after the warm-up (default 3)")
    parser.add_argument("--samples", type=int, default=32, help="trajectories per frame (default 32)")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the release's, NextDiT 10, NavDP 20)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument(
        "--compile", action="store_true", help="ours through torch.compile; its time is in first_call"
    )
    parser.add_argument("--cuda-graph", action="store_true", help="ours with the sampling loop as one CUDA graph")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    facts = {
        "machine": machine(options.device),
        "torch": torch.__version__,
        "threads": options.threads,
        "samples": options.samples,
        "load_before": os.getloadavg()[0],
    }
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    results = {}
    for name in options.case or CASES:
        results[name] = measure(name, CASES[name](options), options)
        print("\n" + table(name, results[name]), flush=True)
    print(f"\nload after: {os.getloadavg()[0]} (other work on the machine slows all ways, not all equally)")
    print(json.dumps({"bench": "s1", **facts, "results": results}))
    off = [n for n, rows in results.items() if rows["float32"]["rel_l2_to_plain"] > TOLERANCE[n]]
    if off:
        print(f"ERROR  float32 results differ from plain by more than rounding: {', '.join(off)}", file=sys.stderr)
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
