"""Random checkpoints have the released layout, load through the released path, and answer as told."""

import json

import numpy as np
import pytest
import torch

from dual_nav_training import random_checkpoint
from dual_nav_training.random_checkpoint import SYSTEM1, main, make_config, s2_config, tensor_shapes, write_checkpoint
from dual_nav_training.random_tokenizer import RELEASE_TOKEN_IDS, build_tokenizer
from dual_nav_util.checkpoint import CheckpointFolder
from s2_planner_node.checkpoint import load_model, load_protocol
from s2_planner_node.planner import PlannerConfig, load_planner
from s2_planner_node.prompt import first_turn, load_template, look_down_turn


@pytest.mark.parametrize("system1", SYSTEM1)
def test_a_checkpoint_is_sharded_and_holds_exactly_the_keys_of_its_variant(tmp_path, system1):
    config = make_config("tiny", system1)
    folder = CheckpointFolder(write_checkpoint(tmp_path / "model", config))
    assert folder.shapes() == tensor_shapes(config)
    assert len(list((tmp_path / "model").glob("model-*-of-*.safetensors"))) >= 3
    assert folder.config == config
    if system1 != "navdp_standalone":
        model = load_model(folder)
        assert (model.latent_queries is None) == (system1 == "none")


@pytest.mark.parametrize(
    ("system1", "layout"),
    [("nextdit_async", "dualvln_nextdit_async"), ("nextdit", "nextdit"), ("navdp_async", "navdp_async")],
)
def test_the_release_size_is_the_released_layout(parity_folder, system1, layout):
    released = json.loads((parity_folder / "checkpoint_layout.json").read_text(encoding="utf-8"))
    expected = released[layout] | released["s2_qwen2_5_vl_7b"]
    assert tensor_shapes(make_config("release", system1)) == {key: tuple(shape) for key, shape in expected.items()}


def test_the_same_seed_gives_the_same_weights_and_another_one_others(tmp_path):
    config = make_config("tiny", "none")
    weights = [
        CheckpointFolder(write_checkpoint(tmp_path / name, config, seed=seed)).load(
            ["model.norm.weight", "lm_head.weight"]
        )
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    for key in weights[0]:
        assert torch.equal(weights[0][key], weights[1][key])
        assert not torch.equal(weights[0][key], weights[2][key])


def test_control_tokens_have_their_released_ids_in_a_vocabulary_of_release_size():
    config = make_config("release", "none")
    tokenizer = build_tokenizer(config)
    for token, number in RELEASE_TOKEN_IDS.items():
        assert tokenizer.encode(token).ids == [number]
    assert config["image_token_id"] == 151655


def test_the_chat_format_is_that_of_qwen(tmp_path):
    protocol = load_protocol(CheckpointFolder(write_checkpoint(tmp_path / "model", make_config("tiny", "none"))))
    template = load_template()
    conversation = look_down_turn(template, first_turn(template, "Turn left.", 1), "↓")
    ids = protocol.tokenize(conversation)
    text = protocol._tokenizer.decode(ids, skip_special_tokens=False)
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nYou are an autonomous navigation assistant. Your task is to Turn left. Where should "
        "you go next to stay on track? Please output the next waypoint's coordinates in the image. Please output "
        "STOP when you have successfully completed the task. These are your historical observations:"
        f"{image}. you can see{image}.<|im_end|>\n"
        "<|im_start|>assistant\n↓<|im_end|>\n"
        f"<|im_start|>user\nyou can see{image}.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert len(ids) < 140  # words, not bytes
    assert protocol.decode(ids[-3:]) == "assistant\n"


def frame(rng, height=480, width=640):
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("answers", "kind", "actions", "pixel_goal"),
    [
        (["→→→→"], "actions", (3, 3, 3, 3), None),
        (["STOP"], "actions", (0,), None),
        (["↑↑←"], "actions", (1, 1, 2), None),
        (["31, 207"], "traj_latents", (), (31, 207)),
        (["↓", "320 240"], "traj_latents", (), (320, 240)),
        (["↓", "←←"], "actions", (2, 2), None),
    ],
)
def test_a_fixture_gives_its_answer_to_every_prompt(tmp_path, answers, kind, actions, pixel_goal):
    write_checkpoint(tmp_path / "model", make_config("tiny", "nextdit"), answers=answers)
    planner = load_planner(tmp_path / "model", PlannerConfig())
    rng = np.random.default_rng(0)
    for instruction in ("Walk past the sofa and stop at the door.", "turn left ↑ 12 34"):
        planner.start_episode(instruction)
        for _ in range(2):
            looks_down = len(answers) == 2
            for down in (None, lambda: frame(rng)):
                plan = planner.step(frame(rng), down)
                assert (plan.kind, plan.actions, plan.pixel_goal) == (kind, actions, pixel_goal)
                assert plan.answer == answers[-1]
                assert plan.look_down == (looks_down and down is not None)
                assert plan.image_size == ((640, 480) if looks_down else (384, 384))


@pytest.mark.parametrize(
    ("answers", "message"),
    [(["STOP", "↓"], "expected one answer"), (["↓", "↓"], "no plan"), ([""], "empty")],
)
def test_answers_that_cannot_be_are_refused(tmp_path, answers, message):
    with pytest.raises(ValueError, match=message):
        write_checkpoint(tmp_path / "model", make_config("tiny", "none"), answers=answers)
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_a_checkpoint_and_explains_failures(tmp_path, capsys):
    target = str(tmp_path / "model")
    assert main([target, "--system1", "none"]) == 0
    assert "MB of random weights (tiny, none)" in capsys.readouterr().out
    assert main([target, "--system1", "none", "--seed", "1"]) == 0  # may replace its own work
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep")
    assert main([str(tmp_path / "mine"), "--system1", "none"]) == 1
    assert "was not written by make_checkpoint" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "keep"


def test_a_vocabulary_too_small_for_the_control_tokens_is_refused():
    sizes = dict(random_checkpoint._S2_SIZES["tiny"], vocab_size=500)
    with pytest.raises(ValueError, match="vocab_size is 500, must be at least"):
        s2_config(**sizes)
