"""Write a checkpoint with random weights in exactly the layout of the releases.

``make_checkpoint FOLDER --size tiny --system1 nextdit_async`` gives what a release has: config.json with
``model_type`` internvla_n1, sharded safetensors with the released key names, tokenizer, chat template and image
processor config. Both processes load it through the code that loads a release. The weights know nothing.

``--answers`` makes a fixture for tests and smoke runs: weights set so that the real forward pass and greedy decoding
give the stated answer to every prompt (see ``answer_fixture.py``). It is still no trained model.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dual_nav_training.answer_fixture import AnswerFixture
from dual_nav_training.checkpoint_writer import Progress, complete_or_absent, write_json, write_weights
from dual_nav_training.random_tokenizer import CHAT_TEMPLATE, RELEASE_TOKEN_IDS, build_tokenizer, special_token_ids
from s1_controller_node.checkpoint import expected_shapes as system1_shapes
from s2_planner_node.checkpoint import expected_shapes as s2_shapes
from s2_planner_node.checkpoint import has_system1

SIZES = ("tiny", "small", "release")
SYSTEM1 = ("nextdit_async", "nextdit", "navdp_async", "none", "navdp_standalone")
STANDALONE = "navdp_standalone"

_SMALL_VOCABULARY = 1024
_S2_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": _SMALL_VOCABULARY,
        "max_position_embeddings": 16384,
        "mrope_section": [2, 3, 3],
        "vision": {
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "fullatt_block_indexes": [1],
        },
    },
    "small": {
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": _SMALL_VOCABULARY,
        "max_position_embeddings": 16384,
        "mrope_section": [4, 6, 6],
        "vision": {
            "depth": 4,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_heads": 6,
            "fullatt_block_indexes": [3],
        },
    },
    "release": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "max_position_embeddings": 128000,
        "mrope_section": [16, 24, 24],
        "vision": {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
    },
}

_TINY_ENCODER = {"dim": 32, "depth": 2, "num_heads": 2}
# system1_config of small checkpoints; a release has none, which means release sizes.
_S1_SIZES: dict[str, dict[str, Any]] = {
    "nextdit_async": {
        "num_memory_tokens": 8,
        "dit": {"dim": 48, "num_layers": 2, "num_heads": 2, "ffn_multiple_of": 32, "condition_dim": 64},
        "vision": _TINY_ENCODER,
        "memory_encoder": {"num_layers": 1, "num_heads": 2, "ffn_dim": 64},
        "resampler": {"num_layers": 1, "num_heads": 2, "ffn_dim": 64},
    },
    "nextdit": {"dit": {"dim": 48, "num_layers": 2, "num_heads": 2, "ffn_multiple_of": 32, "condition_dim": 64}},
    "navdp_async": {
        "temporal_depth": 2,
        "heads": 2,
        "token_dim": 32,
        "former_heads": 2,
        "former_layers": 1,
        "former_feed_forward": 64,
        "encoder": _TINY_ENCODER,
    },
}
_S1_SIZES[STANDALONE] = _S1_SIZES["navdp_async"]


def make_config(size: str = "tiny", system1: str = "nextdit_async") -> dict[str, Any]:
    """Contents of config.json. ``small`` and ``release`` have a System 1 of release size."""
    if size not in SIZES:
        raise ValueError(f"size is {size!r}, expected one of {', '.join(SIZES)}")
    if system1 not in SYSTEM1:
        raise ValueError(f"system1 is {system1!r}, expected one of {', '.join(SYSTEM1)}")
    system1_config = {"system1_config": _S1_SIZES[system1]} if size == "tiny" and system1 in _S1_SIZES else {}
    if system1 == STANDALONE:
        return {"model_type": "navdp", **system1_config}
    config = s2_config(**_S2_SIZES[size])
    if system1 != "none":
        config |= {"system1": system1, "n_query": 4, **system1_config}
    return config


def s2_config(*, mrope_section: Sequence[int], vision: Mapping[str, Any], **sizes: Any) -> dict[str, Any]:
    """The Qwen2.5-VL part of config.json, flat as transformers 4.51 writes it, for any sizes."""
    ids = special_token_ids(sizes["vocab_size"])
    return {
        "architectures": ["InternVLAN1ForCausalLM"],
        "model_type": "internvla_n1",
        **sizes,
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "hidden_act": "silu",
        "image_token_id": ids["<|image_pad|>"],
        "initializer_range": 0.02,
        "max_window_layers": sizes["num_hidden_layers"],
        "rms_norm_eps": 1e-6,
        "rope_scaling": {"mrope_section": list(mrope_section), "rope_type": "default", "type": "default"},
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16" if sizes["vocab_size"] > RELEASE_TOKEN_IDS["<traj>"] else "float32",
        "transformers_version": "4.51.0",
        "use_cache": True,
        "use_sliding_window": False,
        "video_token_id": ids["<|video_pad|>"],
        "vision_config": {
            "hidden_act": "silu",
            "in_channels": 3,
            "in_chans": 3,
            "model_type": "qwen2_5_vl",
            "out_hidden_size": sizes["hidden_size"],
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
            **vision,
        },
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_token_id": ids["<|video_pad|>"],
    }


def write_checkpoint(
    folder: str | Path,
    config: Mapping[str, Any],
    *,
    seed: int = 0,
    answers: Sequence[str] = (),
    progress: Progress = lambda line: None,
) -> Path:
    """Write a random checkpoint for ``config`` (as from ``make_config``) into ``folder`` and return it.

    ``answers``: none, or the answer of turn 1 and, after a ``↓``, that of the look-down turn. The folder appears
    under its name only when it is complete. Raises ``ValueError`` for settings that do not go together,
    ``FileExistsError`` if the folder holds something else than a checkpoint written here.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARK).is_file():
        raise FileExistsError(f"{folder} exists and was not written by make_checkpoint; choose another folder")
    with complete_or_absent(folder) as partial:
        _write_files(partial, config, seed, answers, progress)
    return folder


_MARK = "RANDOM_WEIGHTS.txt"


def _write_files(
    folder: Path, config: Mapping[str, Any], seed: int, answers: Sequence[str], progress: Progress
) -> None:
    shapes = tensor_shapes(config)
    fixture = None
    if config["model_type"] == "navdp":
        if answers:
            raise ValueError("answers are given, but a standalone NavDP checkpoint has no language model")
    else:
        tokenizer = build_tokenizer(config, answers)
        tokenizer.save(str(folder / "tokenizer.json"))
        write_json(folder / "tokenizer_config.json", tokenizer_config(CHAT_TEMPLATE))
        write_json(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
        write_json(folder / "preprocessor_config.json", preprocessor_config(config))
        write_json(
            folder / "generation_config.json",
            {"bos_token_id": config["bos_token_id"], "do_sample": False, "eos_token_id": config["eos_token_id"]},
        )
        if answers:
            fixture = AnswerFixture(config, tokenizer, answers)
    write_json(folder / "config.json", config)
    note = f"Random weights, seed {seed}: not a trained model."
    if answers:
        note += f" Its answers are fixed: {' then '.join(answers)}."
    (folder / _MARK).write_text(note + "\n", encoding="utf-8")

    def tensor_of(key: str) -> torch.Tensor:
        value = random_tensor(key, shapes[key], seed)
        return value if fixture is None else fixture.shape_weight(key, value)

    write_weights(folder, shapes, tensor_of, getattr(torch, config.get("torch_dtype", "float32")), progress)


def tensor_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Released key → shape of the whole checkpoint: what S2 and S1 each expect from it."""
    if config["model_type"] == "navdp":
        return system1_shapes(config)
    shapes = dict(s2_shapes(config))
    if has_system1(config):
        shapes.update(system1_shapes(config))
    return shapes


def random_tensor(key: str, shape: Sequence[int], seed: int) -> torch.Tensor:
    """float32 weights that depend on key, shape and seed only: scales near 1, small biases, matrices of unit gain."""
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") % 2**63)
    value = torch.randn(tuple(shape), generator=generator)
    leaf = key.rsplit(".", 1)[-1]
    if len(shape) <= 1:
        return 1 + 0.02 * value if leaf in ("weight", "gamma") else 0.02 * value
    is_table = leaf == "latent_queries" or key.endswith(("embed_tokens.weight", "_embedding.weight", "pos_embed"))
    return 0.2 * value if is_table else value / math.sqrt(math.prod(shape[1:]))


def tokenizer_config(chat_template: str) -> dict[str, Any]:
    """Contents of tokenizer_config.json."""
    return {
        "add_prefix_space": False,
        "chat_template": chat_template,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }


def preprocessor_config(config: Mapping[str, Any], max_pixels: int = 12845056) -> dict[str, Any]:
    """Contents of preprocessor_config.json; larger images than `max_pixels` are made smaller."""
    vision = config["vision_config"]
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "Qwen2VLImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "max_pixels": max_pixels,
        "merge_size": vision["spatial_merge_size"],
        "min_pixels": 3136,
        "patch_size": vision["patch_size"],
        "processor_class": "Qwen2_5_VLProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "temporal_patch_size": vision["temporal_patch_size"],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Console command ``make_checkpoint``."""
    parser = argparse.ArgumentParser(prog="make_checkpoint", description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="folder to write; replaced if it is a random checkpoint already")
    parser.add_argument("--size", choices=SIZES, default="tiny", help="release: sizes of the 7B release, 17 GB")
    parser.add_argument("--system1", choices=SYSTEM1, default="nextdit_async")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--answers",
        nargs="+",
        default=[],
        metavar="TEXT",
        help="fixed answer of turn 1 (e.g. '→→' or STOP), or ↓ and the look-down turn's answer (e.g. ↓ '320 240')",
    )
    options = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        config = make_config(options.size, options.system1)
        folder = write_checkpoint(
            options.folder,
            config,
            seed=options.seed,
            answers=options.answers,
            progress=lambda line: print(line, flush=True),
        )
    except (ValueError, OSError) as error:
        print(f"make_checkpoint: {error}", file=sys.stderr)
        return 1
    size, took = sum(file.stat().st_size for file in folder.iterdir()) / 1e6, time.monotonic() - started
    print(f"{folder}: {size:.1f} MB of random weights ({options.size}, {options.system1}), {took:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
