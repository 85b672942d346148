"""Samples follow the rules of the released recipe, look the same in any worker, and skip what cannot be read."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from data_fixtures import CE_LENGTHS, SETTING, write_ce, write_n1
from torch.utils.data import DataLoader

from dual_nav_training.lerobot import DataError, VlnCeData, VlnN1Data
from dual_nav_training.navdp_losses import standalone_navdp_loss
from dual_nav_training.samples import (
    DualDataset,
    DualSampleConfig,
    NavDpDataset,
    NavDpSampleConfig,
    S2Dataset,
    S2SampleConfig,
    collate_dual,
    history_frames,
    plan_frames,
    turn_run,
)
from s1_controller_node.path import path_from_increments
from s2_planner_node.prompt import load_template

ALL_FRAMES = S2SampleConfig(frame_step=1, image_width=28, image_height=28)


@pytest.fixture(scope="module")
def ce(tmp_path_factory):
    return VlnCeData(write_ce(tmp_path_factory.mktemp("ce")))


@pytest.fixture(scope="module")
def n1(tmp_path_factory):
    return VlnN1Data(write_n1(tmp_path_factory.mktemp("n1")))


def by_frame(dataset, episode):
    """Answers by frame; all instructions of an episode give the same."""
    return {s.frame: s.answers for s in (dataset[i] for i in range(len(dataset))) if s.episode == episode}


def test_answers_of_every_frame(ce):
    """Goals of less than three frames are too near; frames 2 and 3 turn, 4 turns back."""
    answers = by_frame(S2Dataset(ce, ALL_FRAMES), 0)
    assert answers == {
        0: ("↓", "20 10"),
        1: ("↓", "21 10"),
        2: ("←←→",),
        3: ("←→",),
        4: ("→",),
        5: ("↓", "25 10"),
        8: ("STOP",),
    }


def test_frames_kinds_and_weights(ce):
    """Every fourth frame and the last one, once for each instruction; STOP weighs five times."""
    dataset = S2Dataset(ce)
    chosen = [(s.episode, s.instruction, s.frame, s.kind) for s in (dataset[i] for i in range(len(dataset)))]
    first = [(0, "pixel_goal"), (4, "turn"), (8, "stop")]
    assert chosen == [
        *[(0, "Go to the lamp.", *f) for f in first],
        *[(0, "Find the lamp.", *f) for f in first],
        (1, "Stop at the sofa.", 0, "pixel_goal"),
        (1, "Stop at the sofa.", 5, "stop"),
    ]
    assert dataset.weights.tolist() == [1, 1, 5, 1, 1, 5, 1, 5]


def test_images_of_a_prompt(ce):
    """History and current frame at the planner's size, then the look-down image at its own."""
    dataset = S2Dataset(ce, ALL_FRAMES)
    sample = next(s for s in (dataset[i] for i in range(len(dataset))) if (s.episode, s.frame) == (0, 5))
    assert sample.history == (0, 1, 2, 3, 4)
    assert [round(image.mean() / 10) for image in sample.images] == [0, 1, 2, 3, 4, 5, 5]
    assert [image.shape for image in sample.images] == [(28, 28, 3)] * 6 + [(30, 40, 3)]
    assert (sample.pixel_goal, sample.goal_frames) == ((25.0, 10.5), 3)


def test_history_is_the_planners(parity_folder):
    cases = json.loads((parity_folder / "text_cases.json").read_text())["history_frames"]
    for case in cases:
        assert list(history_frames(case["step"], case["num_history"])) == case["expected_history"]
    assert len(cases) > 10


def test_turn_runs_end_at_four_turns_and_at_other_actions():
    assert turn_run([2, 2, 2, 2, 2, 1], 0, 4) == (2, 2, 2, 2)
    assert turn_run([2, 2, 2, 2, 2, 1], 3, 4) == (2, 2)
    assert turn_run([3, 0], 0, 4) == (3,)
    assert turn_run([1, 2], 0, 4) == ()


def test_answers_for_a_larger_camera(ce):
    config = S2SampleConfig(image_width=28, image_height=28, answer_width=640, answer_height=480)
    assert S2Dataset(ce, config)[0].answers == ("↓", "320 168")
    coarse = dataclasses.replace(load_template(), pixel_goal="at {column} {row}", pixel_step=50)
    dataset = S2Dataset(ce, dataclasses.replace(config, num_history=0), coarse)
    assert dataset[0].answers == ("↓", "at 300 150")
    assert all(not dataset[index].history for index in range(len(dataset)))


def test_frames_of_a_plan():
    assert list(plan_frames(5, 2, 12)) == [0, 2, 4]
    assert list(plan_frames(30, 2, 12)) == list(range(0, 30, 3))
    assert len(plan_frames(24, 2, 12)) == 12


def test_plans_lead_to_their_goal(ce):
    """From each frame, the trajectory ends where the robot stood at the goal frame."""
    dataset = DualDataset(ce, DualSampleConfig(image_size=28), ALL_FRAMES)
    sample = next(s for s in (dataset[i] for i in range(len(dataset))) if s.prompt.episode == 1)
    assert sample.frames == (0, 2, 4)
    assert sample.images.shape == (3, 28, 28, 3)
    ends = path_from_increments(sample.trajectories)[:, -1, :2]
    np.testing.assert_allclose(ends, [(1.25, 0), (0.75, 0), (0.25, 0)], atol=1e-5)
    np.testing.assert_allclose(sample.depths[:, 0, 0], [1.0, 1.2, 1.4], atol=1e-3)


def test_batches_of_plans_are_padded(ce):
    dataset = DualDataset(ce, DualSampleConfig(image_size=28), S2SampleConfig(image_width=28, image_height=28))
    batch = collate_dual([dataset[0], dataset[len(dataset) - 1]])
    assert batch["frame_counts"].tolist() == [2, 3]
    assert batch["images"].shape == (2, 3, 28, 28, 3)
    assert torch.equal(batch["trajectories"][0, 1], batch["trajectories"][0, 2])
    assert batch["depths"].dtype == torch.float32
    assert [prompt.kind for prompt in batch["prompts"]] == ["pixel_goal"] * 2


CONFIG = NavDpSampleConfig(memory_size=3, predict_size=5, stride=2, image_size=28, pixel_channels=7)


def test_navdp_samples(n1):
    dataset = NavDpDataset(n1, CONFIG)
    for number in range(20):
        draw = dataset.draw(number, np.random.default_rng(number))
        sample = dataset.sample(number, np.random.default_rng(number))
        assert draw.given <= draw.current < draw.goal < n1.length(draw.episode) - 1
        # Straight ahead, 0.1 m a frame; the goal is the last point but one.
        np.testing.assert_allclose(sample["points"], (0.1 * (draw.goal - draw.current - 1), 0, 0), atol=1e-6)
        along = np.clip(np.arange(6) * 2, 0, draw.goal - draw.current - 1) * 0.1
        np.testing.assert_allclose(sample["labels"][:, 0], np.diff(along) * 4, atol=1e-6)
        length = np.linalg.norm(sample["augmented"][:, :2], axis=1)
        np.testing.assert_allclose(length, sample["labels"][:, 0].abs(), atol=1e-5)
        first = float(sample["images"][0].max())
        assert (first == 0.0) == (draw.current < 4) or draw.episode == 0
        assert sample["depths"].shape == (1, 28, 28)
        assert sample["depths"].max() == pytest.approx(1 + draw.current / 10, abs=1e-3)


def test_pixel_goals_lie_where_the_camera_sees_the_goal(n1):
    """Ahead on the middle column, below the horizon, and the nearer the lower."""
    dataset = NavDpDataset(n1, CONFIG)
    far, near = dataset.goal_pixel(0, 0, 11), dataset.goal_pixel(0, 0, 10)
    assert far[0] == pytest.approx(19.5)
    assert 14.5 < far[1] < near[1]
    # 0.8 of the camera's height below it, 1.0 m ahead of the robot and 0.9 m ahead of the camera.
    assert far[1] == pytest.approx(14.5 + 30 * 0.4 / 0.9, abs=1e-6)
    assert dataset.goal_pixel(0, 0, 2) is None


def test_critic_sees_the_obstacles(n1):
    """Robot at y = 0.5 driving along x; the obstacles are at (1, 2) and (3, 4): clearance is gained and lost."""
    dataset = NavDpDataset(n1, CONFIG)
    number = next(i for i in range(50) if dataset.draw(i, np.random.default_rng(i)).goal > 6)
    draw = dataset.draw(number, np.random.default_rng(number))
    sample = dataset.sample(number, np.random.default_rng(number))
    last = min(10, draw.goal - draw.current - 1)
    gain = abs(1.0 - 0.1 * (draw.current + last)) - abs(1.0 - 0.1 * draw.current)
    assert float(sample["label_critic"]) == pytest.approx(0.5 * gain, abs=1e-5)


def test_samples_fit_the_loss(n1):
    """The batch has every entry the standalone loss asks for."""
    batch = next(iter(DataLoader(NavDpDataset(n1, CONFIG), batch_size=2)))
    taken = []

    class Config:
        predict_size, ddpm_train_steps = 5, 10

    class Model:
        config = Config()

        def __call__(self, *arguments):
            taken.extend(arguments)
            raise InterruptedError

    noise, steps = torch.zeros(2, 5, 3), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(InterruptedError):
        standalone_navdp_loss(Model(), batch, noise, steps, noise, steps)
    assert [tuple(argument.shape) for argument in taken[:5]] == [
        (2, 3), (2, 28, 28, 6), (2, 28, 28, 7), (2, 3, 28, 28, 3), (2, 1, 28, 28),
    ]  # fmt: skip


def test_workers_give_the_same_samples_and_epochs_others(n1):
    dataset = NavDpDataset(n1, NavDpSampleConfig(image_size=28, draws_per_episode=3))
    alone = [batch["labels"] for batch in DataLoader(dataset, batch_size=2)]
    shared = [batch["labels"] for batch in DataLoader(dataset, batch_size=2, num_workers=2)]
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))
    dataset.set_epoch(1)
    other = [batch["labels"] for batch in DataLoader(dataset, batch_size=2)]
    assert not all(torch.equal(a, b) for a, b in zip(alone, other, strict=True))


def test_unreadable_samples_are_fatal_or_counted(tmp_path):
    data = VlnCeData(write_ce(tmp_path))
    data.rgb_file(0, 8, "level").write_bytes(b"")  # after the index was made
    with pytest.raises(DataError, match=r"episode_000000_8\.jpg: is not a JPG \(0 bytes\)"):
        S2Dataset(data, ALL_FRAMES)[6]
    dataset = S2Dataset(data, ALL_FRAMES, on_problem="skip")
    loader = DataLoader(dataset, batch_size=1, num_workers=2, collate_fn=only)
    frames = [(sample.episode, sample.frame) for sample in loader]
    assert (0, 8) not in frames
    assert len(frames) == len(dataset)
    assert dataset.skipped == 2  # once for each instruction


def only(samples):
    return samples[0]


def test_look_down_images_for_the_released_recipe(ce):
    sample = DualDataset(ce, DualSampleConfig("look_down", 28, depth=False), ALL_FRAMES)[0]
    assert sample.depths is None
    assert ce.setting.pitch_deg("look_down") == SETTING.down_deg == round(math.degrees(math.pi / 6))
    assert sum(CE_LENGTHS) == len(ce.actions)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: S2SampleConfig(frame_step=0), "frame_step"),
        (lambda: S2SampleConfig(stop_weight=0), "stop_weight"),
        (lambda: S2SampleConfig(answer_width=640), "answer_width"),
        (lambda: S2SampleConfig(num_history=-1), "num_history"),
        (lambda: DualSampleConfig(camera="down"), "camera"),
        (lambda: NavDpSampleConfig(pixel_channels=5), "pixel_channels"),
    ],
)
def test_bad_settings_name_the_field(make, message):
    with pytest.raises(ValueError, match=message):
        make()
