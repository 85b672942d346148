"""The standalone NavDP gives the reference's numbers; the first test that fails names the wrong stage."""

from __future__ import annotations

import json

import pytest
import torch
from navdp_vectors import PARITY, fill, require_vectors, tensors

from s1_controller_node.ddpm_sampler import ddpm_schedule, sample
from s1_controller_node.navdp_core import DenoiserEngine
from s1_controller_node.navdp_standalone import NavDpStandalone, rank_by_critic, trajectories_from_actions


@pytest.fixture(scope="module")
def case():
    return require_vectors().load_case("navdp_standalone_infer")


@pytest.fixture(scope="module")
def stages(case) -> dict[str, torch.Tensor]:
    """Every stage computed once, each from the one before."""
    model, inputs, got = fill(NavDpStandalone().eval()), tensors(case), {}
    slots, schedule = model.goal_tokens, ddpm_schedule(model.config.ddpm_train_steps)
    with torch.inference_mode():
        got["rgbd_encoder"] = model.rgbd_encoder(inputs["images"], inputs["depth"][:, None])
        engine = DenoiserEngine(model)
        memory = engine.condition(model.point_goal(inputs["goal_point"]).expand(slots, -1), got["rgbd_encoder"][0])
        got["predict_noise"] = engine.predict_noise(inputs["last_actions"], int(inputs["timestep"]), memory)
        got["predict_critic"] = engine.critic(inputs["last_actions"], memory)
        predictions = []

        def predict(x: torch.Tensor, timestep: int) -> torch.Tensor:
            predictions.append(engine.predict_noise(x, timestep, memory))
            return predictions[-1]

        def ranked(actions: torch.Tensor, scores: torch.Tensor, prefix: str) -> None:
            best, worst = rank_by_critic(scores, 8)
            paths = trajectories_from_actions(actions)
            got[prefix + "positive"], got[prefix + "negative"] = paths[best], paths[worst]

        noises = (inputs["initial_noise"], inputs["step_noise"])
        got["final_actions"] = sample(predict, schedule, *noises)
        got["noise_pred_all"] = torch.stack(predictions)
        got["ddpm_timesteps"] = torch.tensor([step.timestep for step in schedule])
        got["critic_values"] = engine.critic(got["final_actions"], memory)
        ranked(got["final_actions"], got["critic_values"], "")
        memory = engine.condition(model.no_goal().expand(slots, -1), got["rgbd_encoder"][0])
        actions = sample(lambda x, t: engine.predict_noise(x, t, memory), schedule, *noises)
        ranked(actions, engine.critic(actions, memory), "nogoal_")
    return got


def test_a_model_of_the_release_sizes_has_exactly_the_released_keys_and_shapes():
    require_vectors()
    layout = json.loads((PARITY / "checkpoint_layout.json").read_text())
    with torch.device("meta"):
        model = NavDpStandalone()
    expected = {k: tuple(v) for k, v in layout["navdp_standalone"].items()}
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == expected
    assert list(model.named_buffers()) == layout["navdp_standalone_buffers_in_state_dict"]


@pytest.mark.parametrize("stage", ["rgbd_encoder", "predict_noise", "predict_critic"])
def test_single_call_equals_the_reference(case, stages, stage):
    case.check(stage, stages[stage], strict=True)


def test_every_noise_prediction_equals_the_reference_step_by_step(case, stages):
    case.check("ddpm_timesteps", stages["ddpm_timesteps"])
    verify, limits = require_vectors(), case.tolerance("noise_pred_all", strict=True)
    expected = case.expected("noise_pred_all")
    for step, (got, want) in enumerate(zip(stages["noise_pred_all"], expected, strict=True)):
        difference = verify.compare(got, want, **limits, name=f"noise_pred of step {step}")
        assert difference.passed, str(difference)


def test_final_actions_equal_the_reference(case, stages):
    # The first step divides by alpha = 1/35, so a single element may carry 35 times the rounding of a
    # prediction (torch's own layers reach 1.7e-5, oneDNN's products 2.5e-5): default limit on that element.
    case.check("final_actions", stages["final_actions"])
    case.check("final_actions", stages["final_actions"], strict=True, max_abs=5e-5)


@pytest.mark.parametrize("output", ["critic_values", "positive", "negative", "nogoal_positive", "nogoal_negative"])
def test_ranking_equals_the_reference(case, stages, output):
    case.check(output, stages[output], strict=True)
