"""The planner's episode on a checkpoint that answers ↓ and then a pixel goal: caches change nothing but time."""

import os

import numpy as np
import psutil
import pytest

from dual_nav_training.random_checkpoint import make_config, write_checkpoint
from s2_planner_node.answer import AnswerError
from s2_planner_node.planner import PlannerConfig, load_planner
from s2_planner_node.prompt import PromptError

INSTRUCTION = "Walk past the sofa and stop at the door."
UNCACHED = PlannerConfig(reuse_cache=False, feature_capacity=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = make_config("tiny", "nextdit")
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "look_down", config, answers=["↓", "325 148"])


def frames(count, seed=0, height=120, width=160):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def planner_in_episode(folder, config):
    planner = load_planner(folder, config)
    planner.start_episode(INSTRUCTION)
    return planner


def relative(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("feature_capacity", [512, 3])
def test_an_episode_of_30_steps_with_look_down_turns_equals_full_recomputation(folder, feature_capacity):
    cached = planner_in_episode(folder, PlannerConfig(feature_capacity=feature_capacity))
    full = planner_in_episode(folder, UNCACHED)
    down = frames(30, seed=1, height=360, width=480)
    for index, image in enumerate(frames(30)):
        ours = cached.step(image, lambda index=index: down[index])
        reference = full.step(image, lambda index=index: down[index])
        assert ours.look_down
        assert ours.answer == reference.answer == "325 148"
        assert relative(ours.traj_latents, reference.traj_latents) <= 1e-4, f"step {index}"


def test_latents_depend_on_the_images_far_more_than_that_tolerance(folder):
    first, second = (planner_in_episode(folder, PlannerConfig()) for _ in range(2))
    image, other = frames(2)
    big = frames(1, height=360, width=480)[0]
    assert relative(first.step(image, lambda: big).traj_latents, second.step(other, lambda: big).traj_latents) > 1e-3


def test_a_warm_step_encodes_only_the_new_images(folder):
    planner = planner_in_episode(folder, PlannerConfig())
    encoded = []
    encode = planner._model.encode_images
    planner._model.encode_images = lambda patches, grids: encoded.append(len(grids)) or encode(patches, grids)
    for image in frames(12):
        planner.step(image, lambda: frames(1, height=360, width=480)[0])
    assert encoded == [1, 1] * 12  # current frame, look-down image


def test_look_down_is_asked_for_only_after_a_down_arrow(folder, tmp_path):
    asked = []
    planner_in_episode(folder, PlannerConfig()).step(
        frames(1)[0], lambda: asked.append(1) or frames(1, height=360, width=480)[0]
    )
    assert asked == [1]
    write_checkpoint(tmp_path / "actions", make_config("tiny", "nextdit"), answers=["↑"])
    plan = planner_in_episode(tmp_path / "actions", PlannerConfig()).step(frames(1)[0], lambda: asked.append(2))
    assert asked == [1]
    assert plan.actions == (1,)
    assert plan.traj_latents is None


def test_frames_seen_without_a_plan_are_history_too(folder):
    planner, reference = (planner_in_episode(folder, PlannerConfig()) for _ in range(2))
    images, big = frames(4), frames(1, height=360, width=480)[0]
    for image in images[:3]:
        planner.observe(image)
        reference.step(image, lambda: big)
    assert planner.frames_in_episode == 3
    ours, expected = planner.step(images[3], lambda: big), reference.step(images[3], lambda: big)
    assert relative(ours.traj_latents, expected.traj_latents) <= 1e-4


def test_a_pixel_goal_outside_of_the_look_down_image_is_an_error_and_the_episode_goes_on(folder):
    planner = planner_in_episode(folder, PlannerConfig())
    with pytest.raises(AnswerError, match="outside of its image of 160x120"):
        planner.step(frames(1)[0])  # without a second camera the frame itself is shown again
    assert planner.frames_in_episode == 1
    assert planner.step(frames(1)[0], lambda: frames(1, height=360, width=480)[0]).pixel_goal == (325, 148)


def test_noise_instead_of_an_answer_is_an_error_with_the_text(tmp_path):
    write_checkpoint(tmp_path / "noise", make_config("tiny", "none"), seed=3)
    planner = planner_in_episode(tmp_path / "noise", PlannerConfig(max_new_tokens=4))
    with pytest.raises(AnswerError, match="answer '") as error:
        planner.step(frames(1)[0])
    assert isinstance(error.value.answer, str)


def test_a_system2_checkpoint_plans_with_pixel_goals_alone(tmp_path):
    write_checkpoint(tmp_path / "model", make_config("tiny", "none"), answers=["100 200"])
    planner = planner_in_episode(tmp_path / "model", PlannerConfig())
    plan = planner.step(frames(1)[0])
    assert (plan.kind, plan.pixel_goal, plan.traj_latents) == ("pixel_goal", (100, 200), None)
    assert not planner.has_latents


def test_a_new_instruction_starts_anew_and_a_bad_one_changes_nothing(folder):
    planner = planner_in_episode(folder, PlannerConfig())
    big = frames(1, height=360, width=480)[0]
    planner.step(frames(1)[0], lambda: big)
    with pytest.raises(PromptError, match="empty"):
        planner.start_episode("")
    assert planner.frames_in_episode == 1
    planner.start_episode("turn left")
    assert planner.frames_in_episode == 0
    fresh = load_planner(folder, PlannerConfig())
    fresh.start_episode("turn left")
    image = frames(1, seed=5)[0]
    ours, expected = planner.step(image, lambda: big), fresh.step(image, lambda: big)
    assert relative(ours.traj_latents, expected.traj_latents) == 0


def test_every_stage_of_a_step_is_timed(folder):
    timings = planner_in_episode(folder, PlannerConfig()).step(frames(1, height=360, width=480)[0]).timings
    assert set(timings) == {"prepare", "vision", "prefill", "decode", "latents", "total"}
    assert min(timings.values()) > 0
    assert sum(timings.values()) == pytest.approx(2 * timings["total"])


def test_the_callers_image_may_change_afterwards_and_is_not_changed(folder):
    planner, reference = (planner_in_episode(folder, PlannerConfig(feature_capacity=0)) for _ in range(2))
    big = frames(1, height=360, width=480)[0]
    first, second = frames(2, height=384, width=384)
    buffer = first.copy()
    planner.step(buffer, lambda: big)
    assert (buffer == first).all()
    reference.step(first, lambda: big)
    buffer[:] = 0
    ours, expected = planner.step(second, lambda: big), reference.step(second, lambda: big)
    assert relative(ours.traj_latents, expected.traj_latents) == 0


def test_memory_is_flat_over_a_long_episode(folder):
    planner = planner_in_episode(folder, PlannerConfig(history_capacity=32, feature_capacity=32))
    image, big = frames(1)[0], frames(1, height=360, width=480)[0]
    sizes = []
    for index in range(1500):
        if index % 50:
            planner.observe(image)
        else:
            planner.step(image, lambda: big)
        if index % 500 == 499:
            sizes.append(psutil.Process(os.getpid()).memory_info().rss)
    assert planner._history.stored <= 32
    assert len(planner._features) <= 32
    assert sizes[-1] - sizes[0] < 40e6  # 1000 frames of 384x384 kept would be 442 MB


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((10, 10, 3), np.float32), "float32, expected uint8"),
        (np.zeros((0, 10, 3), np.uint8), r"\(0, 10, 3\)"),
        (None, "NoneType"),
    ],
)
def test_a_bad_image_is_refused_and_leaves_the_history_alone(folder, image, message):
    planner = planner_in_episode(folder, PlannerConfig())
    with pytest.raises(ValueError, match=message):
        planner.step(image)
    with pytest.raises(ValueError, match=message):
        planner.observe(image)
    assert planner.frames_in_episode == 0


def test_a_step_without_an_instruction_is_refused(folder):
    with pytest.raises(RuntimeError, match="start_episode"):
        load_planner(folder, PlannerConfig()).step(frames(1)[0])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_history": -1}, r"num_history is -1, expected an integer in \[0, 64\]"),
        ({"num_history": 2.5}, "num_history is 2.5"),
        ({"history_capacity": 15}, r"history_capacity is 15, expected an integer in \[16"),
        ({"precision": "fp4"}, "precision is 'fp4', expected one of auto"),
        ({"attention": "xformers"}, "attention is 'xformers'"),
        ({"device": "tpu?"}, "device is 'tpu\\?'"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"feature_capacity": True}, "feature_capacity is True"),
        ({"image_width": 5}, "image_width is 5"),
    ],
)
def test_a_bad_setting_is_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        PlannerConfig(**values)


def test_a_device_that_is_not_there_is_refused(folder):
    with pytest.raises(ValueError, match="finds no CUDA device"):
        load_planner(folder, PlannerConfig(device="cuda"))
