"""Where the reference vectors and recordings lie, and a small network to test with."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from s2_planner_node.checkpoint import LATENT_QUERIES, build_network, released_name
from s2_planner_node.model import S2Model

SHARED = Path(os.environ.get("NAV_SHARED_DIR", Path(__file__).resolve().parents[4] / "shared"))

torch.set_num_threads(1)  # small tensors: on a busy machine a second thread costs more than it gives


@pytest.fixture(scope="session")
def shared():
    """Folder with ``parity`` and ``data``."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference vectors at {SHARED}; set NAV_SHARED_DIR to the folder with parity/ and data/")
    return SHARED


@pytest.fixture(scope="session")
def parity(shared):
    """``verify`` and ``deterministic_weights`` of the reference vectors, as (load_case, fill_)."""
    folder = str(shared / "parity")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    import deterministic_weights
    import verify

    return verify.load_case, deterministic_weights.fill_


@pytest.fixture(scope="session")
def text_cases(shared):
    return json.loads((shared / "parity" / "text_cases.json").read_text(encoding="utf-8"))


TINY_CONFIG = {
    "model_type": "internvla_n1",
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": [1, 1, 2]},
    "tie_word_embeddings": False,
    "eos_token_id": 297,
    "image_token_id": 290,
    "video_token_id": 291,
    "vision_start_token_id": 292,
    "vision_end_token_id": 293,
    "system1": "nextdit_async",
    "n_query": 4,
    "vision_config": {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [1],
        "in_channels": 3,
        "hidden_act": "silu",
        "tokens_per_second": 2,
    },
}


@pytest.fixture(scope="session")
def tiny_config():
    return TINY_CONFIG


def random_network(config, seed=0):
    """transformers' network with random weights of unit gain, so that every part matters to the result."""
    torch.manual_seed(seed)
    network = build_network(config, "cpu")
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        else:
            torch.nn.init.normal_(parameter, mean=float(parameter.detach().mean().round()), std=0.05)
    torch.nn.init.normal_(network.get_input_embeddings().weight)
    return network.requires_grad_(False)


@pytest.fixture(scope="session")
def make_network():
    """Factory: ``make_network(config, seed=0)``."""
    return random_network


@pytest.fixture(scope="session")
def tiny_network():
    return random_network(TINY_CONFIG)


@pytest.fixture
def tiny_model(tiny_network):
    """Factory of models on one network: ``tiny_model(reuse_cache=False)``."""
    queries = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(1))

    def build(**options):
        return S2Model(tiny_network, queries, **{"end_token_ids": [297], **options})

    return build


@pytest.fixture
def parity_model(parity):
    """(case ``s2_small``, model filled by the parity rule from the released key names)."""
    load_case, fill_ = parity
    case = load_case("s2_small")
    network = build_network(case.meta["config"], "cpu")
    tensors = {released_name(key, network): value for key, value in network.state_dict().items()}
    tensors[LATENT_QUERIES] = torch.empty(1, case.meta["config"]["n_query"], case.meta["config"]["hidden_size"])
    fill_(tensors)
    return case, S2Model(network, tensors[LATENT_QUERIES], end_token_ids=[])


@pytest.fixture
def rng():
    return np.random.default_rng(0)
