"""The check says what is in a checkpoint, and fails where a process would refuse it."""

from __future__ import annotations

import json

import pytest

from dual_nav_training.check_checkpoint import inspect, main
from dual_nav_training.random_checkpoint import make_config, write_checkpoint
from dual_nav_util.checkpoint import CheckpointFolder
from s1_controller_node.checkpoint import expected_shapes as s1_shapes
from s2_planner_node.checkpoint import expected_shapes as s2_shapes

VARIANTS = ("nextdit_async", "nextdit", "navdp_async", "none", "navdp_standalone")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: write_checkpoint(root / name, make_config("tiny", name)) for name in VARIANTS}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_sound_checkpoint_of_every_variant_is_ok(folders, variant, capsys):
    assert main([str(folders[variant])]) == 0
    text = capsys.readouterr().out
    assert "ok: no key missing" in text
    assert "licence file" in text


def test_both_processes_together_load_every_parameter_of_a_dual_checkpoint(folders):
    folder = CheckpointFolder(folders["nextdit_async"])
    report = inspect(folder)
    assert report.loads["S1"][0] == len(s1_shapes(folder.config))
    assert report.loads["S2"][0] == len(s2_shapes(folder.config))
    assert report.loads["S1"][1] + report.loads["S2"][1] == sum(report.parts.values())
    assert "other" not in report.parts


def test_a_planner_alone_has_nothing_for_s1_and_a_standalone_navdp_nothing_for_s2(folders):
    assert inspect(CheckpointFolder(folders["none"])).loads["S1"] is None
    assert inspect(CheckpointFolder(folders["navdp_standalone"])).loads["S2"] is None


def break_index(folder, key):
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    del content["weight_map"][key]
    index.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("model.action_decoder.bias", "ERROR  S1: 1 missing keys: model.action_decoder.bias"),
        ("model.latent_queries", "ERROR  S2: 1 missing keys: model.latent_queries"),
    ],
)
def test_a_missing_key_is_named_with_the_process_that_misses_it(tmp_path, key, message, capsys):
    folder = write_checkpoint(tmp_path / "broken", make_config("tiny", "nextdit_async"))
    break_index(folder, key)
    assert main([str(folder)]) == 1
    assert message in capsys.readouterr().out


def test_a_missing_shard_and_a_missing_folder_are_errors(tmp_path, capsys):
    folder = write_checkpoint(tmp_path / "short", make_config("tiny", "nextdit"))
    next(folder.glob("model-00002*")).unlink()
    assert main([str(folder)]) == 1
    assert "is missing" in capsys.readouterr().err
    assert main([str(tmp_path / "nothing here")]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_a_wrong_config_is_an_error_of_the_process_that_reads_it(tmp_path, capsys):
    folder = write_checkpoint(tmp_path / "odd", make_config("tiny", "nextdit"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"system1": "diffusion"}))
    assert main([str(folder)]) == 1
    assert "ERROR  S1: config.json: system1 must be one of" in capsys.readouterr().out
