"""The small planner: what it is asked and told, and that it is trained as the node runs it."""

import contextlib
import json

import numpy as np
import pytest
import torch

from dual_nav_training.run_folder import RunError
from dual_nav_training.small import train_s2
from dual_nav_training.small.batches import Ask, View, Views
from dual_nav_training.small.checkpoint import dual_config, planner_tensors, write_small_checkpoint
from dual_nav_training.small.drive import after
from dual_nav_training.small.language import (
    COLOURS,
    KINDS,
    NUMBERS,
    ROOMS,
    TEMPLATE,
    build_tokenizer,
    object_instruction,
    with_unknown_words,
    word_tokens,
)
from dual_nav_training.small.network import small_config
from dual_nav_training.small.objective import DRIVE, GROUND, READ, SEE, STAGES, TURN
from dual_nav_training.small.questions import mirrored, questions
from dual_nav_training.small.score import load_task, score
from dual_nav_training.small.train_s2 import build
from dual_nav_training.small.views import CELL, LEVEL_CELLS, LOOK_DOWN_CELLS, PIXEL_GOAL, WAYPOINTS, views_of
from dual_nav_util.checkpoint import CheckpointFolder
from nav_sim import gl
from nav_sim.camera import Camera
from nav_sim.grid import Grid, grid_of
from nav_sim.oracles import TURN_LEFT, TURN_RIGHT
from nav_sim.simulator import Pose
from nav_sim.worlds import make_flat
from s1_controller_node.policy import PolicyConfig, load_policy
from s2_planner_node.answer import AnswerError
from s2_planner_node.planner import Plan, PlannerConfig, load_planner
from s2_planner_node.sequence import ImageRef, token_sequence

SEED = 101
TINY = {
    "hidden": 64,
    "layers": 2,
    "heads": 1,
    "key_value_heads": 1,
    "feed_forward": 128,
    "vision_hidden": 32,
    "vision_layers": 2,
    "vision_heads": 2,
    "vision_feed_forward": 64,
}


@pytest.fixture(scope="module")
def flat():
    return make_flat(SEED)


@pytest.fixture(scope="module")
def items(flat):
    return tuple((item.kind, item.colour) for item in flat.items)


@pytest.fixture(scope="module")
def rendering():
    if not gl.choose():
        pytest.skip("nothing can be rendered on this machine: neither EGL nor OSMesa works")


@pytest.fixture(scope="module")
def views(rendering):
    return views_of(SEED, 8)


def view(views, number):
    return {name: array[number] for name, array in views.items()}


# ------------------------------------------------------------------------------------------------------- language


def test_words_symbols_and_coordinates_are_tokens_of_their_own():
    tokenizer = build_tokenizer()
    words = word_tokens(tokenizer, [*KINDS, *COLOURS, *ROOMS])
    assert len(set(words)) == len(words)
    for text in (*TEMPLATE.actions, *NUMBERS):
        assert len(tokenizer.encode(text).ids) == 1
    for answer in ("STOP", "←←←", "312 144"):
        assert tokenizer.decode(tokenizer.encode(answer).ids) == answer
    assert build_tokenizer().to_str() == tokenizer.to_str()


def test_made_up_words_never_replace_what_an_instruction_means():
    rng = np.random.default_rng(0)
    changed = 0
    for _ in range(200):
        sentence = object_instruction(rng, "orange coffee table", bool(rng.integers(2)))
        other = with_unknown_words(rng, sentence)
        changed += other != sentence
        kept = [word for word in other.split() if word.strip(".") in ("orange", "coffee", "table")]
        assert [word.strip(".") for word in kept] == ["orange", "coffee", "table"]
    assert changed > 80


# ---------------------------------------------------------------------------------------------------------- views


def test_views_are_the_same_every_time_and_name_what_can_be_seen(views, flat):
    again = views_of(SEED, 2)
    for name, array in again.items():
        np.testing.assert_array_equal(array, views[name][:2], err_msg=name)
    assert views["level"].shape[1:3] == (LEVEL_CELLS[0] * CELL, LEVEL_CELLS[1] * CELL)
    assert views["look_down"].shape[1:3] == (LOOK_DOWN_CELLS[0] * CELL, LOOK_DOWN_CELLS[1] * CELL)
    assert (views["answers"][:, len(flat.items) :] == -1).all()
    for number in range(len(views["poses"])):
        shown = {*views["level_items"][number].flat, *views["look_down_items"][number].flat} - {-1}
        assert shown <= set(np.flatnonzero(views["shares"][number]).tolist())
    assert views["look_down_floor"].mean() > 25  # there is floor, mostly in the lower half
    assert views["look_down_floor"][:, 3:].mean() > views["look_down_floor"][:, :3].mean()


def test_pixel_goals_lie_on_the_way(views):
    camera = Camera().tilted()
    found = 0
    for number, item in np.argwhere(views["answers"][:, :, 0] == PIXEL_GOAL):
        column, row = views["answers"][number, item, 2:].tolist()
        goal = np.asarray(camera.floor_point(column, row))
        way = np.concatenate([[[0.0, 0.0]], views["waypoints"][number, item]])
        if np.linalg.norm(goal) < 0.25 * WAYPOINTS - 0.5:
            found += 1
            assert np.linalg.norm(way - goal, axis=1).min() < 0.3
    assert found


def test_a_mirrored_view_is_one_from_a_mirrored_flat(views):
    original = view(views, int(np.argmax((views["answers"][:, :, 0] >= 0).sum(1))))
    turned = mirrored(original)
    np.testing.assert_array_equal(turned["level"][:, 0], original["level"][:, -1])
    assert (turned["waypoints"][..., 1] == -original["waypoints"][..., 1]).all()
    swap = {TURN_LEFT: TURN_RIGHT, TURN_RIGHT: TURN_LEFT}
    kinds = original["answers"][:, 0].tolist()
    assert turned["answers"][:, 0].tolist() == [swap.get(kind, kind) for kind in kinds]
    for name, array in mirrored(turned).items():
        np.testing.assert_array_equal(array, original[name], err_msg=name)


# ------------------------------------------------------------------------------------------------------ questions


def test_questions_name_what_is_in_view_or_something_that_is_not(views, items):
    rng = np.random.default_rng(1)
    seen = unseen = 0
    for number in range(len(views["poses"])):
        one = view(views, number)
        for question in questions(one, items, 8, rng, "test"):
            if question.goal < 0:
                unseen += 1
                named = [item for item in items if " ".join(reversed(item)) in question.instruction]
                in_view = [items[i] for i in np.flatnonzero(one["shares"] > 1e-3)]
                assert not set(named) & set(in_view)
                assert question.answer[0] == TURN_LEFT
            else:
                seen += 1
                assert items[question.goal][0] in question.instruction
                assert question.answer == tuple(one["answers"][question.goal].tolist())
                assert question.goal in question.goals
    assert seen > 5
    assert unseen > 5


# -------------------------------------------------------------------------------------------------------- network


@pytest.fixture(scope="module")
def made():
    return build(small_config(**TINY), seed=3)


def batch_of(made, views, items, count=4):
    _task, collate, _ = made
    ask = Ask(4)
    return collate([ask(View(view(views, n), items), np.random.default_rng(n), False) for n in range(count)])


def test_training_computes_what_the_node_computes(made, views, items, tmp_path):
    task, _, tokenizer = made
    config = dual_config(task.planner.config, "nextdit_async")
    folder = write_small_checkpoint(tmp_path / "model", config, planner_tensors(task.planner), tokenizer)
    planner = load_planner(folder, PlannerConfig())
    batch = batch_of(made, views, items)
    row = 0
    number = int(batch[f"{DRIVE}_image"][row])
    with torch.no_grad():
        features = {camera: task.planner.encode(batch[camera]) for camera in ("level", "look_down")}
        own = {name.removeprefix(f"{DRIVE}_"): v for name, v in batch.items() if name.startswith(DRIVE)}
        decoded, _ = task.decoded(DRIVE, features, own)
    model, processor = planner._model, planner._processor
    images = [views["level"][number], views["look_down"][number]]
    patches, grids = processor(images)
    node_features = model.encode_images(patches, grids)
    torch.testing.assert_close(node_features[0], features["level"][number], atol=1e-4, rtol=1e-4)
    length = int(own["queries"][row])
    sequence = token_sequence(
        own["ids"][row, :length].numpy(), [ImageRef(n, grid) for n, grid in enumerate(grids)], model.image_token_id, 2
    )
    np.testing.assert_array_equal(sequence.positions, own["positions"][row, :, :length].numpy())
    hidden = model.hidden_states(sequence, dict(enumerate(node_features)))
    torch.testing.assert_close(hidden[0], decoded.hidden[row, :length], atol=1e-3, rtol=1e-3)
    latents = model.traj_latents(sequence, dict(enumerate(node_features)))
    queries = decoded.hidden[row, length : length + latents.shape[1]]
    torch.testing.assert_close(latents[0], queries, atol=1e-3, rtol=1e-3)


def test_labels_are_the_answers_and_coordinates_are_asked_for_where_they_are_said(made, views, items):
    _, _collate, tokenizer = made
    batch = batch_of(made, views, items)
    for row, ids in enumerate(batch[f"{DRIVE}_ids"]):
        asked = batch[f"{DRIVE}_asked"][row]
        pixel = batch[f"{DRIVE}_pixel"][row]
        assert [tokenizer.id_to_token(int(ids[place + 1])) for place in asked] == [
            "↓", *(NUMBERS[step] for step in pixel)
        ]  # fmt: skip
    labels, ids = batch[f"{TURN}_labels"], batch[f"{TURN}_ids"]
    said = labels >= 0
    assert (labels[said] == ids[said]).all()
    first = tokenizer.decode(labels[0][said[0]].tolist())
    assert first
    assert set(first) <= set("←→↑STOP")


@pytest.mark.parametrize("stage", STAGES)
def test_the_loss_falls_on_a_few_views(made, views, items, stage):
    task = build(small_config(**TINY), seed=4)[0]
    task.stage = stage
    batch = batch_of(made, views, items)
    if stage == SEE:
        batch = {name: value for name, value in batch.items() if not name.startswith((TURN, DRIVE))}
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = task(**{name: value for name, value in batch.items() if name != "weights"})["losses"].sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    unused = {name for name, parameter in task.named_parameters() if parameter.grad is None}
    assert any(".visual." in name for name in unused) == (stage == READ)
    assert any(".layers." in name for name in unused) == (stage == SEE)
    assert stage != GROUND or unused == {"directions"}


def test_the_checkpoint_drives_both_nodes(made, tmp_path):
    task, _, tokenizer = made
    image = np.zeros((480, 640, 3), np.uint8)
    for system1 in ("nextdit_async", "navdp_async"):
        config = dual_config(task.planner.config, system1)
        folder = write_small_checkpoint(
            tmp_path / system1, config, planner_tensors(task.planner), tokenizer, precision="float16"
        )
        planner = load_planner(folder, PlannerConfig(num_history=0, max_new_tokens=4))
        planner.start_episode("Go to the blue chair.")
        for _ in range(3):
            with contextlib.suppress(AnswerError):  # it has learned nothing
                planner.step(image, lambda: image)
        assert planner.frames_in_episode == 3
        assert planner._processor.grid(384, 384) == (1, 2 * LEVEL_CELLS[0], 2 * LEVEL_CELLS[1])
        assert planner._processor.grid(*image.shape[:2]) == (1, 2 * LOOK_DOWN_CELLS[0], 2 * LOOK_DOWN_CELLS[1])
        load_policy(folder, PolicyConfig(num_samples=2))


STEPS = {READ: 3, SEE: 2, GROUND: 2, train_s2.AGAIN: 1}


def test_training_goes_on_from_where_it_was(views, tmp_path, monkeypatch):
    (tmp_path / "views").mkdir()
    np.savez(tmp_path / "views" / f"{SEED}.npz", **views)
    monkeypatch.setattr(train_s2, "small_config", lambda: small_config(**TINY))

    def run(output, steps):
        tasks = {train_s2.AGAIN: GROUND}
        stages = [
            train_s2.Stage(name, tasks.get(name, name), count, 2, 2 * (name != SEE)) for name, count in steps.items()
        ]
        folder = tmp_path / "views"
        return train_s2.train(
            folder, tmp_path / output, stages, system1="nextdit_async", seed=1, visited=folder, eval_views=folder
        )

    whole = CheckpointFolder(run("whole", STEPS))
    with pytest.raises(RunError, match="steps was 3, is 4"):
        run("whole", {READ: 4})
    monkeypatch.setattr(train_s2.NavTrainer, "training_step", None)  # nothing is left to train
    again = CheckpointFolder(run("whole", STEPS))
    tensors = whole.load(whole.keys())
    assert "model.latent_queries" in tensors
    record = json.loads((tmp_path / "whole" / train_s2.AGAIN / "run.json").read_text())
    assert record["samples"] == 2 * len(views["level"])
    for key, tensor in tensors.items():
        torch.testing.assert_close(again.load([key])[key], tensor, rtol=0, atol=0)


def test_a_planner_is_followed_to_where_it_leads():
    flat, camera = make_flat(SEED), Camera().tilted()
    start = Grid.centre(*np.argwhere(flat.drivable)[200])
    pose = Pose(*start, 0.0)

    def plan(actions=(), pixel=None):
        return Plan("pixel_goal" if pixel else "actions", actions, pixel, (640, 480), True, None, "")

    turned = after(flat, pose, plan((TURN_LEFT,) * 3), camera)
    assert (turned.x, turned.y, turned.yaw) == pytest.approx((*start, np.pi / 4))
    ahead = after(flat, pose, plan(pixel=(320, 200)), camera)
    assert 0.0 < np.hypot(ahead.x - pose.x, ahead.y - pose.y) <= 0.51
    assert grid_of(flat).is_drivable((ahead.x, ahead.y))
    assert after(flat, pose, plan(pixel=(320, 0)), camera).yaw != pose.yaw  # above the horizon


def test_views_from_where_a_planner_goes(made, tmp_path, rendering):
    task, _, tokenizer = made
    config = dual_config(task.planner.config, "nextdit_async")
    folder = write_small_checkpoint(tmp_path / "model", config, planner_tensors(task.planner), tokenizer)
    planner = load_planner(folder, PlannerConfig(num_history=0, max_new_tokens=4))
    views = views_of(SEED, 3, planner)
    assert len(views["level"]) == len(np.unique(views["poses"], axis=0)) == 3


def test_scores_tell_reading_from_guessing(made, views, tmp_path):
    """Weights that always say ←: right where no goal is in view, wrong for pixel goals, however instructions go."""
    task, _, tokenizer = made
    (tmp_path / "views").mkdir()
    np.savez(tmp_path / "views" / f"{SEED}.npz", **views)
    tensors = planner_tensors(task.planner)
    tensors["lm_head.weight"] = torch.zeros_like(tensors["lm_head.weight"])
    tensors["model.norm.weight"] = torch.zeros_like(tensors["model.norm.weight"])
    config = dual_config(task.planner.config, "nextdit_async")
    folder = write_small_checkpoint(tmp_path / "model", config, tensors, tokenizer)
    loaded, collate = load_task(folder)
    head = loaded.planner.network.lm_head
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
    with torch.no_grad():
        head.bias[tokenizer.token_to_id("←")] = 1.0
    result = score(loaded, collate, Views(tmp_path / "views"), 8)
    assert result["decision_not_in_view"] == result["shuffled_decision_not_in_view"] == 1.0
    assert result["decision_in_view"] < 0.5
    assert result["decision"] == result["shuffled_decision"]
