"""The trainers: what moves, what a run leaves behind, and that its result is what the nodes load."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny_data import make_vln_ce, make_vln_n1, tiny_config

from dual_nav_training.check_checkpoint import main as check_checkpoint
from dual_nav_training.random_checkpoint import write_checkpoint
from dual_nav_training.run_folder import RunError
from dual_nav_training.train import main, train
from dual_nav_training.train_config import ConfigError, TrainConfig
from dual_nav_training.trainer import NavTrainer
from dual_nav_util.checkpoint import CheckpointFolder

PROMPTS = {"image_width": 56, "image_height": 56, "num_history": 2}
# Float32 sums in another order; the losses are near 1 to 10.
CURVE_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Folder with data sets ``ce`` (8 plans), ``ce_small`` (8 answers) and ``n1``, and a checkpoint per variant."""
    root = tmp_path_factory.mktemp("material")
    make_vln_ce(root / "ce")
    make_vln_ce(root / "ce_small", episodes=2)
    make_vln_n1(root / "n1", episodes=8)
    for variant in ("none", "nextdit", "nextdit_async", "navdp_async", "navdp_standalone"):
        write_checkpoint(root / variant, tiny_config(variant))
    return root


def settings(steps: int, **changes):
    trainer = {
        "max_steps": steps,
        "per_device_train_batch_size": 2,
        "learning_rate": 3e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        **changes.pop("trainer", {}),
    }
    return TrainConfig(**{"data": {"prompts": PROMPTS}, "trainer": trainer, **changes})


def data_of(mode: str) -> str:
    return "n1" if mode == "s1_navdp" else "ce"


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


VLM = ("visual.", "model.embed_tokens.", "model.layers.", "model.norm.", "lm_head.")
NEXTDIT = ("model.action_encoder.", "model.action_decoder.", "model.traj_dit.", "model.cond_projector.")
IMAGES = ("model.memory_encoder.", "model.rgb_resampler.", "model.rgb_model.")
QUERIES = ("model.latent_queries",)
# In every checkpoint and in no computation, so nothing can move them.
NEVER = (
    "model.traj_dit.model.patch_embedder.",
    "model.rgb_resampler.visual_proj.",
    "model.navdp.decoder_layer.",
    "model.navdp.point_encoder.",
    "model.navdp.pg_",
    "model.navdp.critic_head.",
    "model.navdp.goal_compressor.positional_encoding.",
    "model.navdp.rgbd_encoder.rgb_model.",  # frozen, as in the releases
    "rgbd_encoder.rgb_model.",
)


@pytest.mark.parametrize(
    ("mode", "variant", "trained"),
    [
        ("s2", "none", VLM),
        ("s2", "nextdit_async", VLM),
        ("dual", "nextdit", QUERIES + NEXTDIT),
        ("dual", "nextdit_async", QUERIES + NEXTDIT + IMAGES),
        ("dual", "navdp_async", (*QUERIES, "model.navdp.")),
        ("joint", "nextdit_async", QUERIES + NEXTDIT + IMAGES + VLM[:-1]),
        ("joint", "navdp_async", (*QUERIES, "model.navdp.", *VLM[:-1])),
        ("s1_navdp", "navdp_standalone", ("",)),
    ],
)
def test_each_mode_moves_its_parameters_and_no_others(material, tmp_path, mode, variant, trained, capsys):
    source = CheckpointFolder(material / variant)
    result = train(
        mode,
        settings(2, dropout=0.0),
        data=material / data_of(mode),
        checkpoint=str(source.path),
        output=tmp_path / "run",
    )
    before, after = source.load(source.keys()), CheckpointFolder(result).load(source.keys())
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    expected = {
        key for key in before if key.startswith(trained) and not key.startswith(NEVER) and "mask_token" not in key
    }
    assert moved == expected
    assert "trained" in capsys.readouterr().out
    assert check_checkpoint([str(result)]) == 0


@pytest.mark.parametrize(
    ("mode", "variant", "data", "steps"),
    [
        ("s2", "none", "ce_small", 40),
        ("s1_navdp", "navdp_standalone", "n1", 120),
        ("dual", "nextdit_async", "ce", 100),
        ("dual", "navdp_async", "ce", 110),
        ("joint", "nextdit_async", "ce", 100),
    ],
)
def test_eight_samples_are_learned_by_heart(material, tmp_path, mode, variant, data, steps):
    """With the noise and time step of each sample fixed: with new noise each time the least loss is not zero."""
    config = settings(
        steps,
        dropout=0.0,
        fixed_draws=True,
        trainer={
            "per_device_train_batch_size": 8,
            "learning_rate": 5e-3,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 10,
            "adam_beta2": 0.99,
        },
    )
    run = tmp_path / "run"
    train(mode, config, data=material / data, checkpoint=str(material / variant), output=run)
    curve = losses(run)
    assert curve[-1] < 0.01 * curve[0]


def command(mode: str, config: TrainConfig, folder: Path, material: Path, checkpoint: str) -> list[str]:
    file = folder.parent / f"{folder.name}.yaml"
    file.write_text(yaml.safe_dump(config.as_dict()))
    options = {
        "config": file,
        "data": material / data_of(mode),
        "checkpoint": material / checkpoint,
        "output": folder,
    }
    return ["dual_nav_training.train", mode, *(str(x) for k, v in options.items() for x in (f"--{k}", v))]


ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def test_a_killed_run_goes_on_from_its_last_checkpoint_as_if_nothing_had_happened(material, tmp_path):
    config = settings(60, trainer={"save_strategy": "steps", "save_steps": 5, "save_total_limit": 2})
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train("dual", config, data=material / "ce", checkpoint=str(material / "nextdit_async"), output=whole)

    arguments = command("dual", config, killed, material, "nextdit_async")
    process = subprocess.Popen([sys.executable, "-m", *arguments], env=ONE_THREAD, stdout=subprocess.DEVNULL)
    metrics = killed / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.is_file() and len(metrics.read_text().splitlines()) > 12):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = len(metrics.read_text().splitlines())
    steps = sorted(int(folder.name.split("-")[1]) for folder in killed.glob("checkpoint-*"))
    assert reached < 60
    assert reached - steps[-1] <= 5
    # What a kill in the middle of writing a checkpoint leaves behind does no harm.
    (killed / "checkpoint.partial" / "checkpoint-99").mkdir(parents=True, exist_ok=True)

    assert main(arguments[1:]) == 0
    assert losses(killed) == pytest.approx(losses(whole), rel=1e-6)
    results = [CheckpointFolder(run / "model") for run in (whole, killed)]
    first, second = (folder.load(folder.keys()) for folder in results)
    assert all(torch.allclose(first[key], second[key], atol=1e-6) for key in first)
    assert sorted(folder.name for folder in killed.glob("checkpoint*")) == ["checkpoint-55", "checkpoint-60"]


def test_a_resumed_run_logs_its_parts_as_before_and_may_save_more_often(material, tmp_path):
    """The last checkpoint before the kill is not at a step that is logged."""
    saves = {"save_strategy": "steps", "save_steps": 5, "logging_steps": 4, "save_total_limit": None}
    config = settings(12, answer_weight=1.0, trainer=saves)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = {"data": material / "ce", "checkpoint": str(material / "nextdit_async")}
    train("joint", config, output=whole, **options)
    shutil.copytree(whole, cut)
    for step in (10, 12):
        shutil.rmtree(cut / f"checkpoint-{step}")
    shutil.rmtree(cut / "model")
    train("joint", replace(config, trainer=config.trainer | {"save_steps": 2}), output=cut, **options)
    parts = [
        {line["step"]: line["answer"] for line in map(json.loads, file.read_text().splitlines()) if "answer" in line}
        for file in (whole / "metrics.jsonl", cut / "metrics.jsonl")
    ]
    assert parts[1].keys() == {4, 8, 12}
    assert parts[1][12] == pytest.approx(parts[0][12], rel=1e-4)
    assert parts[1][8] == pytest.approx(parts[0][8], rel=0.5)  # of three of its four steps
    steps = {int(folder.name.partition("-")[2]) for folder in cut.glob("checkpoint-*")}
    assert {6, 8, 10, 12} <= steps


def test_a_run_is_not_gone_on_with_by_other_processes_or_from_another_checkpoint(material, tmp_path):
    checkpoint = shutil.copytree(material / "nextdit_async", tmp_path / "checkpoint")
    run, options = tmp_path / "run", {"data": material / "ce", "checkpoint": str(checkpoint)}
    train("dual", settings(1), output=run, **options)
    record = json.loads((run / "run.json").read_text())
    assert record["processes"] == 1
    weights = next(checkpoint.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(RunError, match=r"another run \(checkpoint.weights was"):
        train("dual", settings(1), output=run, **options)


def test_two_processes_with_accumulation_give_the_curve_of_one(material, tmp_path):
    steps = {"learning_rate": 1e-3, "max_grad_norm": 0.0}
    one = settings(4, dropout=0.0, answer_weight=0.5, trainer={**steps, "per_device_train_batch_size": 4})
    two = settings(
        4,
        dropout=0.0,
        answer_weight=0.5,
        trainer={**steps, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2},
    )
    train("joint", one, data=material / "ce", checkpoint=str(material / "navdp_async"), output=tmp_path / "one")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    launch += command("joint", two, tmp_path / "two", material, "navdp_async")
    done = subprocess.run(launch, env=ONE_THREAD, capture_output=True, text=True, timeout=480)
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=CURVE_TOLERANCE)
    parts = [json.loads((tmp_path / run / "metrics.jsonl").read_text().splitlines()[0]) for run in ("one", "two")]
    assert parts[0]["answer"] == pytest.approx(parts[1]["answer"], rel=CURVE_TOLERANCE)
    first, second = (CheckpointFolder(tmp_path / run / "model") for run in ("one", "two"))
    key = "visual.blocks.0.attn.qkv.weight"
    # Adam divides by the gradient's size, which enlarges what is rounding in it.
    assert torch.allclose(first.load([key])[key], second.load([key])[key], atol=2e-4)


def test_a_module_in_shards_has_the_loss_and_gradients_of_a_whole_one(material):
    worker = Path(__file__).with_name("sharded_worker.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(worker)]
    folders = [str(material / "nextdit_async"), str(material / "ce")]
    done = subprocess.run([*launch, *folders], env=ONE_THREAD, capture_output=True, text=True, timeout=480)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_full_disk_is_said_and_leaves_the_checkpoint_before_it(material, tmp_path, monkeypatch, capsys):
    config = settings(6, trainer={"save_strategy": "steps", "save_steps": 2})
    whole, run = tmp_path / "whole", tmp_path / "run"
    train("dual", config, data=material / "ce", checkpoint=str(material / "nextdit_async"), output=whole)
    original = NavTrainer._save_checkpoint
    largest = 100_000  # bytes a file may have: a limit of the operating system, which answers as a full disk does

    def with_a_full_disk(self, model, trial):
        if self.state.global_step < 4:
            return original(self, model, trial)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
        try:
            return original(self, model, trial)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    arguments = command("dual", config, run, material, "nextdit_async")[1:]
    with monkeypatch.context() as patched:
        patched.setattr(NavTrainer, "_save_checkpoint", with_a_full_disk)
        assert main(arguments) == 1
    message = capsys.readouterr().err
    assert "checkpoint-4 could not be written" in message
    assert "no room on the disk" in message
    assert [folder.name for folder in run.glob("checkpoint*")] == ["checkpoint-2"]

    assert main(arguments) == 0
    assert losses(run) == pytest.approx(losses(whole), rel=1e-6)


def test_a_finished_run_takes_no_further_step_and_says_so(material, tmp_path, capsys):
    config = settings(3, trainer={"save_strategy": "steps", "save_steps": 2})
    run = tmp_path / "run"
    arguments = command("dual", config, run, material, "nextdit_async")[1:]
    assert main(arguments) == 0
    assert "finished: " not in capsys.readouterr().out
    metrics = (run / "metrics.jsonl").read_text()
    result = CheckpointFolder(run / "model")
    trained = result.load(result.keys())
    shutil.rmtree(run / "model")  # as if it had ended while the result was written
    assert main(arguments) == 0
    assert "finished: " in capsys.readouterr().out
    assert (run / "metrics.jsonl").read_text() == metrics
    assert sorted(folder.name for folder in run.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]
    again = CheckpointFolder(run / "model").load(result.keys())
    assert all(torch.equal(trained[key], again[key]) for key in trained)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_sample_is_named(material, tmp_path, capsys, workers):
    data = make_vln_ce(tmp_path / "data", episodes=2)
    config = settings(8, trainer={"dataloader_num_workers": workers})
    arguments = command("s2", config, tmp_path / "run", material, "none")[1:]
    arguments[arguments.index("--data") + 1] = str(data)
    assert main([*arguments, "--set", "trainer.max_steps=1"]) == 0  # the index is made, all files are there
    broken = next(
        (data / "flat" / "videos" / "chunk-000" / "observation.images.rgb.60cm_0deg").glob("*_000001_0.jpg")
    )
    broken.write_bytes(broken.read_bytes()[:200])
    arguments[arguments.index("--output") + 1] = str(tmp_path / "second")
    assert main(arguments) == 1
    message = capsys.readouterr().err
    assert str(broken) in message
    assert "Traceback" not in message

    arguments[arguments.index("--output") + 1] = str(tmp_path / "third")
    capsys.readouterr()
    assert main([*arguments, "--set", "data.on_problem=skip"]) == 0
    assert "samples that could not be read and were left out: " in capsys.readouterr().out


def test_what_the_index_leaves_out_is_counted(material, tmp_path, capsys):
    data = make_vln_ce(tmp_path / "data", episodes=3)
    next(
        (data / "flat" / "videos" / "chunk-000" / "observation.images.rgb.60cm_0deg").glob("*_000001_0.jpg")
    ).unlink()
    arguments = command("s2", settings(1), tmp_path / "run", material, "none")[1:]
    arguments[arguments.index("--data") + 1] = str(data)
    assert main(arguments) == 1
    assert "on_problem='skip' leaves these episodes out" in capsys.readouterr().err
    assert main([*arguments, "--set", "data.on_problem=skip"]) == 0
    assert "1 problems left out; the first: flat/videos" in capsys.readouterr().out


def test_a_run_folder_says_what_was_done_and_is_not_mixed_with_another(material, tmp_path):
    run, options = tmp_path / "run", {"data": material / "n1", "checkpoint": str(material / "navdp_standalone")}
    train("s1_navdp", settings(2), output=run, eval_data=material / "n1", **options)
    record = json.loads((run / "run.json").read_text())
    assert record["mode"] == "s1_navdp"
    assert len(record["data"]["fingerprint"]) == 16
    assert record["git"]
    assert record["versions"]["torch"] == torch.__version__
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_steps"] == 2
    assert list((run / "tensorboard").rglob("events*"))
    with pytest.raises(RunError, match=r"another run \(settings.seed was 0, is 1\)"):
        train("s1_navdp", settings(2, seed=1), output=run, eval_data=material / "n1", **options)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep")
    with pytest.raises(RunError, match="not empty and holds no run"):
        train("s1_navdp", settings(2), output=tmp_path / "mine", **options)


@pytest.mark.parametrize(
    ("mode", "variant", "changes"),
    [
        ("s2", "none", {"trainer": {"gradient_checkpointing": True}}),
        ("joint", "nextdit", {"vision_learning_rate": 1e-4, "answer_weight": 1.0}),
        ("dual", "navdp_async", {"frozen_precision": "bfloat16", "trainer": {"gradient_accumulation_steps": 2}}),
    ],
)
def test_mixed_precision_and_the_loss_on_other_data_while_training(material, tmp_path, mode, variant, changes):
    run = tmp_path / "run"
    changes = {**changes, "trainer": {"eval_steps": 2, "bf16": True, **changes.get("trainer", {})}}
    result = train(
        mode,
        settings(4, **changes),
        data=material / "ce",
        checkpoint=str(material / variant),
        output=run,
        eval_data=material / "ce_small",
    )
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "eval_loss" in line] == [2, 4]
    assert check_checkpoint([str(result)]) == 0


@pytest.mark.parametrize(
    ("mode", "changes", "message"),
    [
        ("s2", {"trainer": {"max_step": 1}}, "unexpected keyword argument 'max_step'"),
        ("dual", {"lora": {"r": 4, "target_modules": ["q_proj"]}}, "lora is set, but does nothing in mode dual"),
        ("s2", {"data": {"frame_step": 2}}, "data: unknown settings frame_step"),
        ("s2", {"data": {"on_problem": "fatal"}}, "data.on_problem is 'fatal', expected one of raise, skip"),
        ("s2", {"data": {"prompts": {"frame_step": 0}}}, "data: frame_step: expected at least 1, got 0"),
        ("s2", {"data": {"cameras": "60 0 30"}}, "data: cameras is '60 0 30', expected three whole numbers"),
        ("s2", {"lora": {"r": 4, "target_modules": ["no_such_layer"]}}, "no_such_layer"),
        ("dual", {"answer_weight": 1.0}, "answer_weight is set"),
    ],
)
def test_a_wrong_setting_is_named(material, tmp_path, capsys, mode, changes, message):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(changes))
    arguments = ["--config", file, "--data", material / "ce", "--checkpoint", material / "nextdit_async"]
    assert main([mode, *map(str, arguments), "--output", str(tmp_path / "run")]) == 1
    assert message in capsys.readouterr().err


def test_a_checkpoint_of_another_kind_is_refused(material, tmp_path, capsys):
    arguments = command("s1_navdp", settings(1), tmp_path / "run", material, "none")[1:]
    assert main(arguments) == 1
    assert "mode s1_navdp trains a standalone NavDP" in capsys.readouterr().err


def test_the_seed_of_a_config_is_checked():
    with pytest.raises(ConfigError, match="seed is -1"):
        TrainConfig(seed=-1)
    with pytest.raises(ConfigError, match="output_dir cannot be set here"):
        TrainConfig(trainer={"output_dir": "x"})
    assert np.isclose(TrainConfig(dropout=0.2).dropout, 0.2)
