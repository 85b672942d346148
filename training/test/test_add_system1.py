"""A planner checkpoint with a new System 1 is a dual checkpoint that trains."""

from __future__ import annotations

import pytest
import torch
import yaml
from safetensors.torch import save_file
from tiny_data import tiny_config

from dual_nav_training.add_system1 import main
from dual_nav_training.check_checkpoint import main as check_checkpoint
from dual_nav_training.modules import load_module
from dual_nav_training.random_checkpoint import write_checkpoint
from dual_nav_util.checkpoint import CheckpointFolder
from s1_controller_node.checkpoint import build_model


@pytest.fixture(scope="module")
def planner(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("planner") / "s2", tiny_config("none"))


@pytest.mark.parametrize("variant", ["nextdit", "nextdit_async", "navdp_async"])
def test_a_planner_with_a_new_system1_is_a_sound_dual_checkpoint(planner, tmp_path, variant):
    config = tiny_config(variant)
    sizes = tmp_path / "sizes.yaml"
    sizes.write_text(yaml.safe_dump(config["system1_config"]))
    assert main([str(planner), str(tmp_path / "dual"), "--system1", variant, "--sizes", str(sizes)]) == 0
    assert check_checkpoint([str(tmp_path / "dual")]) == 0
    folder, source = CheckpointFolder(tmp_path / "dual"), CheckpointFolder(planner)
    assert load_module("dual", folder).latent_queries.shape == (1, 4, 64)
    before, after = source.load(source.keys()), folder.load(source.keys())
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_image_encoder_has_the_weights_of_the_file(planner, tmp_path, capsys):
    config = tiny_config("nextdit_async")
    sizes = tmp_path / "sizes.yaml"
    sizes.write_text(yaml.safe_dump(config["system1_config"]))
    encoder = build_model(config, "cpu").rgb_model.state_dict()
    weights = {f"pretrained.{key}": torch.full_like(value, 0.5) for key, value in encoder.items()}
    save_file({**weights, "depth_head.weight": torch.ones(1)}, tmp_path / "depth_anything.safetensors")
    options = ["--sizes", str(sizes), "--image-encoder", str(tmp_path / "depth_anything.safetensors")]
    assert main([str(planner), str(tmp_path / "dual"), *options]) == 0
    loaded = CheckpointFolder(tmp_path / "dual").load(prefixes=["model.rgb_model."])
    assert all((value == 0.5).all() for value in loaded.values())

    assert main([str(planner), str(tmp_path / "other"), "--system1", "nextdit", *options[2:]]) == 1
    assert "looks at no images" in capsys.readouterr().err
    assert main([str(tmp_path / "dual"), str(tmp_path / "other")]) == 1
    assert "without system1" in capsys.readouterr().err
