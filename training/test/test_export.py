"""A trained module written out is what planner and controller load: same weights, same numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny_data import make_vln_ce, tiny_config

from dual_nav_training.check_checkpoint import main as check_checkpoint
from dual_nav_training.checkpoint_writer import write_json
from dual_nav_training.conversation import NO_LABEL
from dual_nav_training.export import export_checkpoint
from dual_nav_training.modules import load_module, set_dropout, trained_tensors
from dual_nav_training.random_checkpoint import write_checkpoint
from dual_nav_training.train import open_data
from dual_nav_training.train_config import TrainConfig
from dual_nav_training.trainable import add_adapters, choose_parameters
from dual_nav_util.checkpoint import CheckpointFolder
from s1_controller_node.policy import Goal, NextDiTPolicy, PolicyConfig, load_policy
from s2_planner_node.planner import PlannerConfig, load_planner
from s2_planner_node.sequence import ImageRef, token_sequence

CONFIG = TrainConfig(
    augment=False,
    vary_wording=False,
    data={"prompts": {"image_width": 56, "image_height": 56, "num_history": 2}},
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_vln_ce(tmp_path_factory.mktemp("data") / "ce")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return CheckpointFolder(
        write_checkpoint(tmp_path_factory.mktemp("source") / "dual", tiny_config("nextdit_async"))
    )


def batch_of(mode, folder, data, indices):
    training_set, collate = open_data(mode, CONFIG, folder, data)
    batch = collate([training_set[index] for index in indices])
    del batch["weights"]
    return batch


def stepped(mode, folder, data):
    """A module one plain gradient step away from its checkpoint."""
    module = load_module(mode, folder)
    set_dropout(module, 0.0)
    choose_parameters(mode, folder.config, module)
    module.train()
    module(**batch_of(mode, folder, data, [0, 3]))["losses"].sum().backward()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
    return module.eval()


def test_both_nodes_compute_with_the_exported_folder_what_the_trained_module_does(source, data, tmp_path):
    module = stepped("joint", source, data)
    export_checkpoint(tmp_path / "model", source, trained_tensors(module, module.state_dict()), "float32")
    assert check_checkpoint([str(tmp_path / "model")]) == 0
    training_set, _ = open_data("joint", CONFIG, source, data)
    item = training_set[0]
    batch = batch_of("joint", source, data, [0])
    prompt = [batch[n] for n in ("input_ids", "attention_mask", "position_ids", "pixel_values", "image_grid_thw")]
    with torch.no_grad():
        latents, hidden = module._joint_latents(*prompt)

    planner = load_planner(tmp_path / "model", PlannerConfig())
    model = planner._model
    patches, grids = item.conversation.patches, list(item.conversation.grids)
    features = dict(enumerate(model.encode_images(patches, grids)))
    sequence = token_sequence(
        item.conversation.ids,
        [ImageRef(number, grid) for number, grid in enumerate(grids)],
        model.image_token_id,
        model.merge_size,
    )
    assert np.array_equal(sequence.positions, item.conversation.positions)
    assert torch.allclose(model.hidden_states(sequence, features), hidden, atol=2e-4)
    model.forget()
    assert torch.allclose(model.traj_latents(sequence, features), latents, atol=2e-4)

    policy = load_policy(tmp_path / "model", PolicyConfig(num_samples=2))
    trained = NextDiTPolicy(module.system1.requires_grad_(False), PolicyConfig(num_samples=2))
    rgb = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    noise = np.random.default_rng(1).standard_normal((2, 32, 3), np.float32)
    paths = []
    for each in (policy, trained):
        each.set_goal(Goal(goal_frame=each.prepare(0, rgb), traj_latents=latents.numpy()))
        paths.append(each.sample(each.prepare(1, rgb), noise=noise).paths)
    assert np.allclose(*paths, atol=1e-5)
    untrained = load_policy(source.path, PolicyConfig(num_samples=2))
    untrained.set_goal(Goal(goal_frame=untrained.prepare(0, rgb), traj_latents=latents.numpy()))
    assert not np.allclose(untrained.sample(untrained.prepare(1, rgb), noise=noise).paths, paths[0], atol=1e-3)


def test_frozen_and_joint_planner_give_the_same_latents_and_gradients_of_the_queries(source, data):
    batch = batch_of("dual", source, data, [0, 3, 6])
    gradients = []
    for mode in ("dual", "joint"):
        module = load_module(mode, source)
        set_dropout(module, 0.0)
        choose_parameters(mode, source.config, module)
        module.train()
        loss = module(**batch)["losses"].sum()
        loss.backward()
        gradients.append((loss.item(), module.latent_queries.grad))
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-5)
    assert torch.allclose(gradients[0][1], gradients[1][1], rtol=1e-3, atol=1e-6)
    assert gradients[0][1].abs().max() > 1e-5


def test_the_loss_of_the_answers_is_transformers_own(source, data):
    module, batch = load_module("s2", source).eval(), batch_of("s2", source, data, [0, 1, 2, 3])
    with torch.no_grad():
        ours = module(**batch)["losses"].item()
        kinds = (batch["input_ids"] == module.image_token_id).int()
        theirs = module.network(**batch, mm_token_type_ids=kinds, use_cache=False).loss.item()
        del batch["position_ids"]  # worked out by transformers from ids and image grids
        without_positions = module.network(**batch, mm_token_type_ids=kinds, use_cache=False).loss.item()
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert ours == pytest.approx(without_positions, rel=1e-5)


def test_a_conversation_in_a_padded_batch_has_the_loss_it_has_alone(source, data):
    module = load_module("s2", source).eval()
    training_set, collate = open_data("s2", CONFIG, source, data)
    items = [training_set[index] for index in (0, 1, 2, 3)]  # pixel goals, turns, STOP: other lengths
    tokens = [int((item.labels != NO_LABEL).sum()) for item in items]
    with torch.no_grad():
        alone = []
        for item in items:
            batch = collate([item])
            del batch["weights"]
            alone.append(module(**batch)["losses"].item())
        batch = collate(items)
        assert batch.pop("weights").tolist() == [sum(tokens)]
        together = module(**batch)["losses"].item()
    assert together == pytest.approx(np.average(alone, weights=tokens), rel=1e-5)


def test_labels_are_the_answers_of_both_turns_and_nothing_else(source, data):
    training_set, _ = open_data("s2", CONFIG, source, data)
    sample, item = training_set.samples[0], training_set[0]
    assert sample.answers[0] == "↓"
    planner = load_planner(source.path, PlannerConfig())
    text = planner._protocol._tokenizer.decode(item.labels[item.labels != NO_LABEL].tolist())
    assert text == f"↓<|im_end|>{sample.answers[1]}<|im_end|>"


def test_wording_is_drawn_in_training_and_the_deployed_one_in_evaluation(source, data):
    changed = TrainConfig(augment=False, vary_wording=True, data=CONFIG.data)
    training_set, _ = open_data("s2", changed, source, data)
    prepare, sample = training_set._prepare, training_set.samples[3]
    lengths = {len(prepare(sample, np.random.default_rng(seed), True).ids) for seed in range(20)}
    assert len(lengths) > 1
    assert len({len(prepare(sample, np.random.default_rng(seed), False).ids) for seed in range(20)}) == 1


def test_adapters_are_merged_into_the_layers_they_are_on(source, data, tmp_path):
    module = load_module("s2", source)
    choose_parameters("s2", source.config, module)
    add_adapters(module, {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "lora_dropout": 0.0})
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if ".lora_B" in name:
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(0))
    batch = batch_of("s2", source, data, [0, 1])
    export_checkpoint(tmp_path / "model", source, trained_tensors(module, module.state_dict()), "float32")
    merged, plain = load_module("s2", CheckpointFolder(tmp_path / "model")), load_module("s2", source)
    with torch.no_grad():
        expected, got, before = (m.eval()(**batch)["losses"].item() for m in (module, merged, plain))
    assert got == pytest.approx(expected, rel=1e-5)
    assert got != pytest.approx(before, rel=1e-3)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_smaller_precision_halves_the_files_and_loads(source, tmp_path, precision):
    export_checkpoint(tmp_path / "model", source, {}, precision)
    assert check_checkpoint([str(tmp_path / "model")]) == 0
    assert json.loads((tmp_path / "model" / "config.json").read_text())["torch_dtype"] == precision
    sizes = [
        sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        for folder in (tmp_path / "model", source.path)
    ]
    assert sizes[0] < 0.6 * sizes[1]
    assert load_planner(tmp_path / "model", PlannerConfig()).has_latents
    assert load_policy(tmp_path / "model").needs_latents


def test_export_carries_what_the_nodes_read_and_replaces_a_result_only_when_complete(source, tmp_path):
    write_json(tmp_path / "template.json", {})
    (source.path / "LICENSE").write_text("terms")
    export_checkpoint(tmp_path / "model", source, {}, "float32")
    for name in ("tokenizer.json", "chat_template.json", "preprocessor_config.json", "LICENSE"):
        assert (tmp_path / "model" / name).read_bytes() == (source.path / name).read_bytes()
    key = "model.norm.weight"
    huge = {key: torch.full((64,), 1e6)}
    with pytest.raises(ValueError, match=rf"{key}: values up to 1e\+06 do not fit into torch.float16"):
        export_checkpoint(tmp_path / "model", source, huge, "float16")
    with pytest.raises(ValueError, match=rf"{key}: shape \(3,\)"):
        export_checkpoint(tmp_path / "model", source, {key: torch.ones(3)}, "float32")
    assert [folder.name for folder in tmp_path.glob("model*")] == ["model"]
    assert check_checkpoint([str(tmp_path / "model")]) == 0
