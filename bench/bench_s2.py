"""S2 step with look-down turn and 8 history frames, caches warm, against the plain way, on the same inputs.

``python bench/bench_s2.py`` prints both times, their ratio, and each one's share of the machine's measured
matrix-product rate, then one JSON line. Steps of the two are interleaved, so that other load on the machine meets
both. It ends with an error if the two do not give the same answer and latents.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from plain_s2 import PlainS2
from torch.utils.flop_counter import FlopCounterMode

from dual_nav_training.random_checkpoint import make_config, s2_config, write_checkpoint
from dual_nav_util.checkpoint import CheckpointFolder
from s2_planner_node.checkpoint import load_protocol
from s2_planner_node.history import FrameHistory
from s2_planner_node.image_processor import ImageProcessor
from s2_planner_node.planner import Plan, PlannerConfig, load_planner

INSTRUCTION = (
    "Turn around and walk out of this office. Go near the red bin, enter the open door on your right side and stop."
)
ANSWERS = ("↓", "325 148")  # 1 and 7 tokens and the end of turn, as in real answers
HISTORY_STEPS = 12  # steps before the measured ones: more than 8 history frames to choose from
# The size of the reference's measurement (speed.json, "S2 setup"); what it leaves open is in Qwen2.5-VL's proportion.
MEDIUM = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "mrope_section": [8, 12, 12],
    "vision": {
        "depth": 8,
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_heads": 6,
        "fullatt_block_indexes": [3, 7],
    },
}


def bench_config(size: str) -> dict[str, Any]:
    """config.json of the benchmark model: ``medium``, or ``release`` for a GPU; System 1 as small as it gets."""
    s2 = make_config("release", "none") if size == "release" else s2_config(**MEDIUM)
    return make_config("tiny", "nextdit") | s2


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix product, median of nine."""
    n = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return 2 * n**3 / statistics.median(timed(lambda: a @ b, device)[0] for _ in range(9))


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """(wall seconds, result)."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, result


def count_flops(work: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def run(size: str, device: str, precision: str, repeats: int, folder: str) -> dict[str, Any]:
    """Measure ``repeats`` interleaved pairs of steps; raises ``AssertionError`` if results differ."""
    write_checkpoint(folder, bench_config(size), answers=ANSWERS)
    planner = load_planner(folder, PlannerConfig(device=device, precision=precision))
    checkpoint = CheckpointFolder(folder)
    model = planner._model
    plain = PlainS2(
        model.network,
        model.latent_queries,
        load_protocol(checkpoint),
        ImageProcessor.from_folder(checkpoint.path),
        checkpoint.config["eos_token_id"],
    )
    dtype, target = model.latent_queries.dtype, torch.device(device)
    tolerance = 1e-4 if dtype == torch.float32 else 0.1

    rng = np.random.default_rng(0)
    history: FrameHistory[np.ndarray] = FrameHistory(8, 512)
    planner.start_episode(INSTRUCTION)
    plans: list[Plan] = []
    ours, theirs, rates, differences = [], [], [], []
    for number in range(HISTORY_STEPS + repeats):
        # Smooth random scenes: a resize of pure noise would be no image.
        small = rng.integers(0, 256, (2, 12, 16, 3), dtype=np.uint8)
        frame, down = (np.kron(image, np.ones((40, 40, 1), np.uint8)) for image in small)
        past = [image for _, image in history.select()]
        history.add(frame)
        if number < HISTORY_STEPS:
            planner.step(frame, lambda down=down: down)
            continue
        seconds, plan = timed(lambda frame=frame, down=down: planner.step(frame, lambda: down), target)
        ours.append(seconds)
        plans.append(plan)
        rates.append(matmul_rate(target, dtype))  # beside the step: other load meets both
        seconds, (text, latents) = timed(
            lambda past=past, frame=frame, down=down: plain.step(INSTRUCTION, past, frame, down), target
        )
        theirs.append(seconds)
        print(f"  pair {len(ours)}: plain {theirs[-1]:.2f} s, ours {ours[-1]:.2f} s", flush=True)
        differences.append(float(np.linalg.norm(plan.traj_latents - latents) / np.linalg.norm(latents)))
        assert plan.answer == text == ANSWERS[-1], f"answers differ: plain {text!r}, ours {plan.answer!r}"
        assert differences[-1] <= tolerance, f"latents differ by rel. L2 {differences[-1]:.2g}, allowed {tolerance}"
    work = count_flops(lambda: planner.step(frame, lambda: down))
    rate = statistics.median(rates)
    return {
        "bench": "s2_step_look_down",
        "machine": torch.cuda.get_device_name(target) if target.type == "cuda" else _processor(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "size": size,
        "dtype": str(dtype).removeprefix("torch."),
        "pairs": repeats,
        "plain_s": round(statistics.median(theirs), 4),
        "ours_s": round(statistics.median(ours), 4),
        "ratio": round(statistics.median(t / o for t, o in zip(theirs, ours, strict=True)), 2),
        "latents_rel_l2": max(differences),
        "matmul_gflops": round(rate / 1e9, 1),
        "ours_gflop": round(work / 1e9, 2),
        "ours_share_of_matmul_rate": round(work / statistics.median(ours) / rate, 3),
        "stages_s": {name: round(statistics.median(p.timings[name] for p in plans), 4) for name in plans[0].timings},
    }


def _processor() -> str:
    return f"{platform.machine()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=("medium", "release"), default="medium")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--repeats", type=int, default=2, help="pairs of steps; plain takes a minute on a CPU")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(f"S2 step with look-down turn, {options.size} size, {options.device}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        result = run(options.size, options.device, options.precision, options.repeats, folder + "/model")
    print(f"{result['machine']}, torch {result['torch']}, {result['threads']} threads, {result['dtype']}")
    print(f"  plain {result['plain_s']:8.3f} s")
    print(f"  ours  {result['ours_s']:8.3f} s   {result['ratio']:.1f} x   {result['stages_s']}")
    print(
        f"  ours: {result['ours_gflop']} GFLOP at {100 * result['ours_share_of_matmul_rate']:.0f} % of the measured "
        f"matrix-product rate ({result['matmul_gflops']} GFLOP/s); latents differ by {result['latents_rel_l2']:.1e}"
    )
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
