"""S2 loads released checkpoints by their released names, and says what is wrong with a broken one."""

import json

import pytest
import torch
from safetensors.torch import save_file

from dual_nav_util.checkpoint import CheckpointError, CheckpointFolder
from s2_planner_node.checkpoint import (
    LATENT_QUERIES,
    build_network,
    choose_precision,
    expected_shapes,
    generation_settings,
    installed_name,
    load_model,
    load_protocol,
    released_name,
)


def test_the_release_has_exactly_the_expected_keys_and_shapes(shared):
    layout = json.loads((shared / "parity" / "checkpoint_layout.json").read_text(encoding="utf-8"))
    released = {key: tuple(shape) for key, shape in layout["s2_qwen2_5_vl_7b"].items()}
    released[LATENT_QUERIES] = tuple(layout["dualvln_nextdit_async"][LATENT_QUERIES])
    config = {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "image_token_id": 151655,
        "video_token_id": 151656,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
        "system1": "nextdit_async",
        "n_query": 4,
        "vision_config": {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 3584,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "model_type": "qwen2_5_vl",
        },
    }
    assert expected_shapes(config) == released


@pytest.fixture
def write_checkpoint(make_network):
    """Factory of checkpoints under released names, with S1 tensors that S2 must not touch."""
    return lambda *arguments, **changes: _write_checkpoint(make_network, *arguments, **changes)


def _write_checkpoint(make_network, folder, config, drop=(), add=None, reshape=None):
    folder.mkdir()
    network = make_network(config)
    tensors = {released_name(key, network): value for key, value in network.state_dict().items()}
    tensors[LATENT_QUERIES] = torch.randn(1, 4, config["hidden_size"])
    tensors["model.traj_dit.model.layers.0.gate"] = torch.zeros(6)
    tensors = {key: value for key, value in tensors.items() if key not in drop} | (add or {})
    for key in reshape or ():
        tensors[key] = tensors[key][..., :-1]
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return CheckpointFolder(folder), network


def test_loading_gives_the_network_its_own_tensors_under_installed_names(tmp_path, tiny_config, write_checkpoint):
    folder, network = write_checkpoint(tmp_path / "model", tiny_config)
    model = load_model(folder)
    loaded = model.network.state_dict()
    assert loaded.keys() == network.state_dict().keys()
    assert all(torch.equal(loaded[key], value) for key, value in network.state_dict().items())
    assert model.latent_queries.shape == (1, 4, 32)
    assert not any(parameter.requires_grad for parameter in model.network.parameters())


def test_only_the_tensors_of_s2_are_read(tmp_path, tiny_config, monkeypatch, write_checkpoint):
    folder, _ = write_checkpoint(tmp_path / "model", tiny_config)
    read = []
    load = CheckpointFolder.load
    monkeypatch.setattr(
        CheckpointFolder, "load", lambda self, keys, **options: read.extend(keys) or load(self, keys, **options)
    )
    load_model(folder)
    assert set(read) == set(expected_shapes(tiny_config))


def test_names_map_to_the_installed_version_and_back(tiny_config):
    network = build_network(tiny_config)
    for key in network.state_dict():
        assert installed_name(released_name(key, network), network) == key


def test_precision_is_chosen_by_device(tmp_path, tiny_config, write_checkpoint):
    assert choose_precision("auto", torch.device("cuda")) is torch.bfloat16
    assert choose_precision("auto", torch.device("cpu")) is torch.float32
    folder, _ = write_checkpoint(tmp_path / "model", tiny_config)
    assert load_model(folder, precision="bfloat16").latent_queries.dtype is torch.bfloat16
    with pytest.raises(ValueError, match="precision is 'int8'"):
        load_model(folder, precision="int8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": ["model.norm.weight", "lm_head.weight"]}, "2 missing keys: lm_head.weight, model.norm.weight"),
        (
            {"add": {f"model.layers.9.x{n}": torch.zeros(1) for n in range(7)}},
            r"7 unexpected keys: model.layers.9.x0, .*\(7 in all\)",
        ),
        ({"reshape": ["model.norm.weight"]}, r"norm.weight expected \(32,\), got \(31,\)"),
        ({"drop": [LATENT_QUERIES]}, "latent_queries is missing although config.json names system1 'nextdit_async'"),
        ({"reshape": [LATENT_QUERIES]}, r"latent_queries has shape \(1, 4, 31\), expected \(1, n_query, 32\)"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(tmp_path, tiny_config, change, message, write_checkpoint):
    folder, _ = write_checkpoint(tmp_path / "model", tiny_config, **change)
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)


def test_a_system2_only_checkpoint_loads_without_latents(tmp_path, tiny_config, write_checkpoint):
    config = {key: value for key, value in tiny_config.items() if key not in ("system1", "n_query")}
    folder, _ = write_checkpoint(tmp_path / "model", config, drop=[LATENT_QUERIES])
    assert load_model(folder).latent_queries is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llava"}, "model_type 'llava', expected 'internvla_n1'"),
        ({"hidden_size": None}, "1 missing fields: hidden_size"),
        ({"vision_config": None}, "vision_config is None"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "mrope_section": [1, 1, 2]}}, "yarn"),
        ({"eos_token_id": None}, "eos_token_id"),
    ],
)
def test_a_config_this_project_cannot_compute_is_refused(tmp_path, tiny_config, change, message, write_checkpoint):
    folder, _ = write_checkpoint(tmp_path / "model", tiny_config)
    (folder.path / "config.json").write_text(json.dumps(tiny_config | change), encoding="utf-8")
    with pytest.raises((CheckpointError, ValueError), match=message):
        load_model(CheckpointFolder(folder.path))


def test_generation_settings_come_from_the_checkpoint(tmp_path, tiny_config, write_checkpoint):
    folder, _ = write_checkpoint(tmp_path / "model", tiny_config)
    assert generation_settings(folder) == ([297], 1.0)
    (folder.path / "generation_config.json").write_text('{"eos_token_id": [297, 298], "repetition_penalty": 1.05}')
    assert generation_settings(folder) == ([297, 298], 1.05)


def test_missing_text_files_are_named(tmp_path, tiny_config, write_checkpoint):
    folder, _ = write_checkpoint(tmp_path / "model", tiny_config)
    with pytest.raises(CheckpointError, match=r"tokenizer.json is missing"):
        load_protocol(folder)
