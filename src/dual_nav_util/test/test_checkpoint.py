"""A checkpoint gives exactly the tensors asked for, and says what is wrong with it otherwise."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dual_nav_util.checkpoint import CheckpointError, CheckpointFolder, load_into, name_some


def write_sharded(folder, shards, config=None):
    """shards: file name -> {key: tensor}."""
    folder.mkdir(exist_ok=True)
    for name, tensors in shards.items():
        save_file(tensors, str(folder / name))
    weight_map = {key: name for name, tensors in shards.items() for key in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "internvla_n1"}))
    return folder


def read_everything(folder):
    checkpoint = CheckpointFolder(folder)
    return checkpoint.config, checkpoint.load(prefixes=["model."])


@pytest.fixture
def sharded(tmp_path):
    shards = {
        "model-00001-of-00002.safetensors": {
            "model.a.weight": torch.arange(6.0).view(2, 3),
            "lm_head.weight": torch.ones(4),
        },
        "model-00002-of-00002.safetensors": {
            "model.a.bias": torch.tensor([1.0, 2.0]),
            "count": torch.tensor([7]),
        },
    }
    return write_sharded(tmp_path / "ckpt", shards)


def test_keys_shapes_and_config_are_read_without_tensors(sharded):
    checkpoint = CheckpointFolder(sharded)
    assert checkpoint.keys() == ["count", "lm_head.weight", "model.a.bias", "model.a.weight"]
    assert checkpoint.shapes()["model.a.weight"] == (2, 3)
    assert checkpoint.config == {"model_type": "internvla_n1"}


def test_loading_by_prefix_spans_shards_and_converts_only_floats(sharded):
    tensors = CheckpointFolder(sharded).load(prefixes=["model.a.", "count"], dtype=torch.bfloat16)
    assert set(tensors) == {"model.a.weight", "model.a.bias", "count"}
    assert tensors["model.a.weight"].dtype == torch.bfloat16
    assert tensors["count"].dtype == torch.int64
    assert torch.equal(tensors["model.a.bias"].float(), torch.tensor([1.0, 2.0]))


def test_single_safetensors_file_is_a_checkpoint_too(tmp_path):
    save_file({"w": torch.ones(3)}, str(tmp_path / "model.safetensors"))
    (tmp_path / "config.json").write_text("{}")
    assert torch.equal(CheckpointFolder(tmp_path).load(["w"])["w"], torch.ones(3))


def test_loaded_tensors_survive_the_removal_of_the_file(sharded):
    tensors = CheckpointFolder(sharded).load(["model.a.weight"])
    for file in sharded.iterdir():
        file.write_bytes(b"")
    assert tensors["model.a.weight"].sum() == 15


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda d: (d / "model-00002-of-00002.safetensors").unlink(),
            r"shard model-00002-of-00002.safetensors with 1 wanted keys is missing: model\.a\.bias",
        ),
        (
            lambda d: (d / "model-00002-of-00002.safetensors").write_bytes(b"not weights"),
            "not a readable safetensors file",
        ),
        (lambda d: (d / "model.safetensors.index.json").write_text("{"), "not readable as JSON"),
        (lambda d: (d / "model.safetensors.index.json").write_text("{}"), "weight_map"),
        (
            lambda d: (d / "model.safetensors.index.json").unlink(),
            r"expected model\.safetensors\.index\.json",
        ),
        (lambda d: (d / "config.json").unlink(), "config.json is missing"),
        (
            lambda d: (d / "model.safetensors.index.json").write_text(
                '{"weight_map": {"model.a.bias": "../x.safetensors"}}'
            ),
            r"plain file name, got '\.\./x\.safetensors'",
        ),
        (
            lambda d: save_file({"count": torch.tensor([7])}, str(d / "model-00002-of-00002.safetensors")),
            "lacks 1 keys that the index places here: model.a.bias",
        ),
    ],
)
def test_each_defect_of_a_checkpoint_is_one_clear_error(sharded, break_it, message):
    break_it(sharded)
    with pytest.raises(CheckpointError, match=message):
        read_everything(sharded)


def test_missing_keys_and_prefixes_are_named(sharded):
    checkpoint = CheckpointFolder(sharded)
    with pytest.raises(CheckpointError, match=r"1 missing keys: model\.latent_queries"):
        checkpoint.load(["model.a.bias", "model.latent_queries"])
    with pytest.raises(CheckpointError, match=r"no key starts with model\.navdp\."):
        checkpoint.load(prefixes=["model.navdp."])


def test_neither_a_folder_nor_a_hub_id_is_an_error():
    with pytest.raises(CheckpointError, match="no such folder or file, and not a hub id"):
        CheckpointFolder("/nowhere/at/all")


def test_load_into_names_the_first_missing_and_unexpected_keys_and_wrong_shapes():
    module = nn.Sequential(*(nn.Linear(2, 2) for _ in range(5)))
    tensors = {"p." + key: value for key, value in module.state_dict().items()}
    tensors["p.0.weight"] = torch.zeros(3, 2)
    for key in ("p.1.weight", "p.1.bias", "p.2.weight", "p.2.bias", "p.3.weight", "p.3.bias"):
        del tensors[key]
    tensors["p.extra"] = torch.zeros(1)
    tensors["elsewhere"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as error:
        load_into(module, tensors, prefix="p.", where="x")
    text = str(error.value)
    assert "6 missing keys: p.1.bias, p.1.weight, p.2.bias, p.2.weight, p.3.bias, … (6 in all)" in text
    assert "1 unexpected keys: p.extra" in text
    assert re.search(r"p\.0\.weight expected \(2, 2\), got \(3, 2\)", text)


def test_load_into_fills_a_module_built_on_the_meta_device():
    source = nn.Linear(3, 2)
    with torch.device("meta"):
        module = nn.Linear(3, 2)
    load_into(module, {f"m.{k}": v for k, v in source.state_dict().items()}, prefix="m.")
    x = torch.ones(1, 3)
    assert torch.equal(module(x), source(x))
    assert module.weight.requires_grad


def test_torch_files_are_read_as_weights_only(tmp_path):
    torch.save({"state_dict": {"module.w": torch.ones(2)}}, tmp_path / "navdp.ckpt")
    checkpoint = CheckpointFolder(tmp_path)
    assert checkpoint.config == {}
    assert torch.equal(checkpoint.load(["w"])["w"], torch.ones(2))


class _RunsCode:
    def __reduce__(self):
        return (os.system, ("echo this must never run",))


def test_a_torch_file_that_wants_to_run_code_is_refused(tmp_path, capfd):
    torch.save({"w": _RunsCode()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="weights_only=True"):
        CheckpointFolder(tmp_path).load(["w"])
    assert "never run" not in capfd.readouterr().out


_MEASURE = """
import resource, sys
from dual_nav_util.checkpoint import CheckpointFolder
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
CheckpointFolder(sys.argv[1]).load(prefixes=[sys.argv[2]])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def _growth_mib(folder, prefix):
    result = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(folder), prefix],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ.copy() | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return int(result.stdout)


def test_tensors_of_the_other_process_are_never_read(tmp_path):
    decoy = {"model.layers.0.weight": torch.zeros(64, 1024, 1024)}  # 256 MiB that S1 must not touch
    own = {"model.traj_dit.weight": torch.zeros(4, 1024, 1024)}  # 16 MiB in the same shard and in another
    folder = write_sharded(
        tmp_path / "big",
        {"a.safetensors": {**decoy, **own}, "b.safetensors": {"model.traj_dit.bias": torch.zeros(8)}},
    )
    assert _growth_mib(folder, "model.traj_dit.") < 64
    assert _growth_mib(folder, "model.layers.") > 128  # the measurement sees a tensor that is read


def test_name_some_gives_the_first_few_and_the_count():
    assert name_some(["b", "a"]) == "a, b"
    assert name_some([str(n) for n in range(7)], shown=2) == "0, 1, … (7 in all)"
