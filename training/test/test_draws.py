"""What is drawn for a sample depends on seed, epoch and sample alone; and the files for several processes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from tiny_data import picture

from dual_nav_training.augment import ColourChange
from dual_nav_training.draws import Visit, VisitSampler
from dual_nav_training.train_config import load_config
from s1_controller_node.dinov2 import DinoV2Config
from s1_controller_node.navdp_standalone import NavDpStandalone, NavDpStandaloneConfig

CONFIGS = Path(__file__).resolve().parents[1] / "config"


def test_an_epoch_uses_every_sample_as_often_as_it_weighs_in_an_order_of_its_own():
    sampler = VisitSampler(np.array([1.0, 5.0, 0.2]), seed=0)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert len(sampler) == 7
    assert Counter(visit.index for visit in first) == {0: 1, 1: 5, 2: 1}
    assert [visit.index for visit in first] != [visit.index for visit in second]
    assert len({visit.generator(0).random() for visit in first + second}) == 14  # no two visits draw the same


def test_an_epoch_ends_with_its_last_whole_step_and_leaves_out_other_samples_the_next_time():
    sampler = VisitSampler(np.ones(9), seed=0, step_visits=4)
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        epochs.append([visit.index for visit in sampler])
    assert len(sampler) == len(set(epochs[0])) == len(set(epochs[1])) == 8
    assert set(epochs[0]) != set(epochs[1])
    assert len(list(VisitSampler(np.ones(3), seed=0, step_visits=4))) == 3


def test_a_visit_draws_the_same_again_and_with_another_seed_something_else():
    draws = [Visit(2, 7).generator(seed).random() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_fixed_draws_are_those_of_the_first_epoch():
    sampler = VisitSampler(np.ones(3), seed=0, fixed_draws=True)
    sampler.set_epoch(5)
    assert {visit.epoch for visit in sampler} == {0}


def test_no_colour_change_changes_nothing_and_a_drawn_one_keeps_size_and_place():
    image = picture(np.random.default_rng(0))
    assert np.array_equal(ColourChange()(image), image)
    for seed in range(8):
        changed = ColourChange.drawn(np.random.default_rng(seed))(image)
        assert changed.shape == image.shape
        assert changed.dtype == np.uint8
        # bright stays bright: nothing is moved or turned over
        assert np.corrcoef(changed.mean(-1).ravel(), image.mean(-1).ravel())[0, 1] > 0.8
    assert np.array_equal(ColourChange(posterise=True)(image), image & 0xF0)


def test_the_mixed_goal_takes_the_goals_that_the_number_says():
    sizes = {"image_size": 28, "memory_size": 1, "predict_size": 4, "temporal_depth": 1, "heads": 2, "token_dim": 16}
    former = {"former_heads": 2, "former_feed_forward": 16, "ddpm_train_steps": 5}
    encoder = DinoV2Config(dim=16, depth=1, num_heads=2, position_grid=2)
    model = NavDpStandalone(NavDpStandaloneConfig(**sizes, **former, encoder=encoder)).eval()
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    goals = [draw(2, 3), draw(2, 28, 28, 6), draw(2, 28, 28, 4)]
    steps = torch.ones(2, dtype=torch.long)
    actions = [draw(2, 4, 3), steps, draw(2, 4, 3), steps, draw(2, 4, 3), draw(2, 4, 3)]
    images = [draw(2, 1, 28, 28, 3), draw(2, 1, 28, 28)]

    def mixed(mix: list[int] | None, point: torch.Tensor = goals[0]) -> torch.Tensor:
        given = None if mix is None else torch.tensor(mix)
        return model(point, *goals[1:], *images, *actions, given).noise_mixed_goal

    with torch.no_grad():
        assert torch.equal(mixed(None), mixed([0, 1]))  # the release counts through the batch
        only_images = mixed([1 + 3 + 9, 2 + 6 + 18])  # image in all slots; pixel in all slots
        assert torch.equal(only_images, mixed([13, 26], goals[0] + 1))
        assert not torch.equal(mixed([0, 0]), mixed([0, 0], goals[0] + 1))


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("accelerate_*.yaml")), ids=lambda file: file.stem)
def test_accelerate_reads_the_shipped_files(file):
    config = load_config_from_file(str(file))
    assert config.num_processes >= 2
    assert config.distributed_type.name == yaml.safe_load(file.read_text())["distributed_type"]


@pytest.mark.parametrize("name", ["s2", "s2_lora", "dual", "joint", "s1_navdp"])
def test_the_shipped_settings_are_valid(name):
    config = load_config(CONFIGS / f"{name}.yaml", ["trainer.learning_rate=1e-4", "seed=3"])
    config.check_mode(name.removesuffix("_lora"))
    assert config.trainer["learning_rate"] == pytest.approx(1e-4)
    assert config.seed == 3
