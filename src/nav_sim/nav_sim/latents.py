"""Latents for an oracle's plans: what an S1 that drives by latents needs behind an S2 that makes no mistakes.

They are those that the S2 of the same checkpoint has once it has given the oracle's answer. This imports torch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dual_nav_util.checkpoint import CheckpointFolder
from s1_controller_node.checkpoint import described
from s2_planner_node.checkpoint import has_system1
from s2_planner_node.planner import PlannerConfig, load_planner

from .camera import Camera
from .oracles import KIND_TRAJ_LATENTS, PlanMade


def drives_by_latents(folder: str | Path) -> bool:
    """Whether a checkpoint's S1 is the dual system's. CheckpointError when it is none."""
    return has_system1(described(CheckpointFolder(folder)))


class Latents:
    """S2 of a checkpoint, told what to answer.

    It is told in one turn, about the level image: oracles that plan for it have to plan with `cameras`.
    """

    def __init__(self, folder: str | Path, config: PlannerConfig | None = None) -> None:
        self._planner = load_planner(folder, config or PlannerConfig())

    @staticmethod
    def cameras(cameras: dict[str, Camera]) -> dict[str, Camera]:
        """Those that pixel goals may be in: the level one in the place of both."""
        return {"level": cameras["level"], "look_down": cameras["level"]}

    def start_episode(self, instruction: str) -> None:
        """PromptError for one that cannot be put into a prompt."""
        self._planner.start_episode(instruction)

    def added_to(self, plan: PlanMade, rgb: np.ndarray) -> PlanMade:
        """A plan made from a frame of the level camera, uint8 (H, W, 3), with latents if it has a pixel goal."""
        if plan.pixel_goal is None:
            return plan
        answer = self._planner.pixel_answer(plan.pixel_goal, plan.image_size)
        told = self._planner.step(rgb, answer=answer)
        return PlanMade(
            KIND_TRAJ_LATENTS, (), told.pixel_goal, told.image_size, False, told.answer, told.traj_latents
        )
