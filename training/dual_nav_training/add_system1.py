"""Give a planner checkpoint a System 1 to train: latent queries and a new NextDiT or NavDP.

``add_system1 PLANNER OUTPUT --system1 nextdit_async --image-encoder depth_anything_v2_vits.pth`` writes a dual one
for mode ``dual``. S1 begins with the usual random initialisation of its layers, its RGB encoder with the weights of
Depth Anything V2 small where they are given, as in the releases.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from dual_nav_training.checkpoint_writer import Progress
from dual_nav_training.export import export_checkpoint
from dual_nav_util.checkpoint import CheckpointError, CheckpointFolder, load_into
from s1_controller_node.checkpoint import build_model, key_prefix
from s1_controller_node.dinov2 import DinoV2
from s2_planner_node import checkpoint as s2

VARIANTS = ("nextdit_async", "nextdit", "navdp_async")
_ENCODER_PREFIX = "pretrained."  # of the encoder in Depth Anything's files
_QUERY_STD = 0.02


def add_system1(
    output: Path,
    planner: CheckpointFolder,
    system1: str,
    *,
    n_query: int = 4,
    sizes: Mapping[str, Any] | None = None,
    image_encoder: CheckpointFolder | None = None,
    seed: int = 0,
    progress: Progress = lambda line: None,
) -> Path:
    """Write the dual checkpoint and return its folder.

    Args:
        planner: a planner without S1.
        system1: one of ``VARIANTS``.
        n_query: number of latent queries.
        sizes: ``system1_config``; None: those of the releases.
        image_encoder: weights of Depth Anything V2 small, for S1's RGB encoder.

    Raises:
        CheckpointError: the planner has an S1 already, or sizes or encoder do not fit.
    """
    if planner.config.get("model_type") != s2.MODEL_TYPE or s2.has_system1(planner.config):
        raise CheckpointError(f"{planner.path}: expected a {s2.MODEL_TYPE} checkpoint without system1")
    config = {**planner.config, "system1": system1, "n_query": n_query}
    if sizes:
        config["system1_config"] = dict(sizes)
    torch.manual_seed(seed)
    model = build_model(config, "cpu")
    if image_encoder is not None:
        tensors = image_encoder.load(prefixes=[_ENCODER_PREFIX], dtype=torch.float32)
        load_into(_rgb_encoder(model), tensors, prefix=_ENCODER_PREFIX, where=str(image_encoder.path))
    new = {key_prefix(config) + key: value for key, value in model.state_dict().items()}
    new[s2.LATENT_QUERIES] = _QUERY_STD * torch.randn(1, n_query, int(config["hidden_size"]))
    precision = str(config.get("torch_dtype", "float32"))
    progress(f"{system1}: {sum(tensor.numel() for tensor in new.values()):,} new parameters")
    return export_checkpoint(output, planner, new, precision, config=config)


def _rgb_encoder(model: nn.Module) -> DinoV2:
    found = [module for name, module in model.named_modules() if name.endswith("rgb_model")]
    if not found:
        raise CheckpointError("an image encoder is given, but system1 nextdit looks at no images")
    return found[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Console command; exit status 1 with a message when it cannot be done."""
    parser = argparse.ArgumentParser(prog="add_system1", description=__doc__.split("\n\n")[0])
    parser.add_argument("planner", help="planner checkpoint: folder or hub id")
    parser.add_argument("output", type=Path)
    parser.add_argument("--system1", choices=VARIANTS, default="nextdit_async")
    parser.add_argument("--n-query", type=int, default=4)
    parser.add_argument("--sizes", type=Path, help="YAML file with system1_config; without: release sizes")
    parser.add_argument("--image-encoder", help="weights file of Depth Anything V2 small")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        folder = add_system1(
            options.output,
            CheckpointFolder(options.planner),
            options.system1,
            n_query=options.n_query,
            sizes=yaml.safe_load(options.sizes.read_text(encoding="utf-8")) if options.sizes else None,
            image_encoder=CheckpointFolder(options.image_encoder) if options.image_encoder else None,
            seed=options.seed,
            progress=lambda line: print(line, flush=True),
        )
    except (CheckpointError, OSError, yaml.YAMLError) as error:
        print(f"add_system1: {error}", file=sys.stderr)
        return 1
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
