"""What models are left without in an ablation, and that nothing else is taken from them."""

from types import SimpleNamespace

import numpy as np
import pytest

from dual_nav_training import in_process
from dual_nav_training.in_process import Parts, RealController, RealPlanner
from dual_nav_training.random_checkpoint import make_config, write_checkpoint
from nav_sim.camera import Camera
from nav_sim.episodes import make_episode, other_instruction
from nav_sim.parameters import OracleParameters
from s1_controller_node import parameters as s1_parameters
from s1_controller_node.policy import PolicyConfig, load_policy
from s2_planner_node.planner import Plan


def frame():
    rng = np.random.default_rng(0)
    return SimpleNamespace(
        rgb=rng.integers(1, 256, (48, 64, 3), dtype=np.uint8),
        depth=rng.integers(500, 4000, (48, 64), dtype=np.uint16),
        look_down=lambda: None,
    )


class Recorder:
    """In the place of S2: remembers what it is told and shown."""

    def __init__(self):
        self.instructions, self.images = [], []

    def start_episode(self, instruction):
        self.instructions.append(instruction)

    def step(self, rgb, look_down=None):
        self.images.append(rgb)
        return Plan("actions", (0,), None, (384, 384), False, None, "STOP")


@pytest.mark.parametrize("withheld", [(), ("instruction",), ("s2_rgb",)])
def test_the_planner_is_left_without_instruction_or_image_only_where_it_is_said(withheld, monkeypatch):
    recorder, episode = Recorder(), make_episode("test", 0, "object", 0)
    monkeypatch.setattr(in_process, "_load_planner", lambda folder, options: recorder)
    planner = Parts("model", "oracle", withheld=withheld).planner(episode, OracleParameters().cameras())
    assert isinstance(planner, RealPlanner)
    seen = frame()
    planner.plan(seen)
    told = other_instruction(episode) if "instruction" in withheld else episode.instruction
    assert recorder.instructions == [told]
    shown = np.zeros_like(seen.rgb) if "s2_rgb" in withheld else seen.rgb
    np.testing.assert_array_equal(recorder.images[0], shown)


@pytest.mark.parametrize("withheld", [(), ("s1_rgb",), ("s1_depth",)])
def test_the_controllers_model_is_left_without_an_image_but_obstacles_are_still_looked_for(
    withheld, tmp_path, monkeypatch
):
    folder = write_checkpoint(tmp_path / "model", make_config("tiny", "navdp_async"))
    policy = load_policy(folder, PolicyConfig(num_samples=2))
    controller = RealController(policy, s1_parameters.Parameters(model=str(folder), seed=0), Camera(64, 48), withheld)
    looked = []
    monkeypatch.setattr(controller._motion, "on_depth", lambda stamp, depth, intrinsics: looked.append(depth))
    seen = frame()
    controller.see(seen)
    prepared = controller._ring.newest_until(controller._frame_ns, 1)[0]
    assert prepared.rgb.any() == ("s1_rgb" not in withheld)
    assert prepared.depth.any() == ("s1_depth" not in withheld)
    np.testing.assert_allclose(looked[0], seen.depth * 1e-3, rtol=1e-6)
