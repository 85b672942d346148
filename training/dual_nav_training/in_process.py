"""The real planner and controller for the simulator's fast path: episodes in one process, without ROS.

The same modules as in the nodes, called in the order of lock-step (nav_sim/lockstep.py): odometry and command, then
the camera frame with depth scan and path, then the plan. `python -m dual_nav_training.in_process --episodes 60 --s2
FOLDER --s1 FOLDER` evaluates them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from dual_nav_util.controller_state import State
from dual_nav_util.stamps import from_seconds
from nav_sim.camera import Camera
from nav_sim.episodes import Episode, other_instruction
from nav_sim.evaluate import command
from nav_sim.evaluation import CONTROLLERS, PLANNERS, Controller, Frame, Oracles, Planner, Settings
from nav_sim.latents import Latents, drives_by_latents
from nav_sim.oracles import (
    KIND_ACTIONS,
    KIND_PIXEL_GOAL,
    KIND_TRAJ_LATENTS,
    OraclePlanner,
    PlanMade,
    RandomPlanner,
)
from nav_sim.scene import ROBOT_RADIUS
from nav_sim.simulator import Simulator
from s1_controller_node import parameters as s1_parameters
from s1_controller_node.controller import Controller as S1Controller
from s1_controller_node.controller import GoalKinds
from s1_controller_node.frames import FrameRing
from s1_controller_node.geometry import Twist2D
from s1_controller_node.modes import Ask
from s1_controller_node.motion import MotionCommand, MotionLayer
from s1_controller_node.obstacles import Intrinsics
from s1_controller_node.odometry import OdometrySample
from s1_controller_node.path_maker import PathMaker
from s1_controller_node.plan_intake import PlanRefused
from s1_controller_node.policy import TrajectoryPolicy, load_policy
from s1_controller_node.preparation import FramePreparation
from s1_controller_node.selection import BY_OBSTACLES
from s2_planner_node import planner as s2
from s2_planner_node.answer import AnswerError

EPOCH_NS = 1_000_000_000_000  # where time begins: a stamp of zero would mean "none"
ROBOT_HEIGHT = 0.7  # metres, camera included
SOLVER_TIME_LIMIT = 0.5  # seconds of the tracker's solver: the way must not depend on the machine's speed
# Of S1, as launch/config/sim.yaml has them and says why.
S1_SETTINGS: dict[str, Any] = {
    "num_samples": 16,
    "num_steps": 5,
    "selection": "mean_if_clear",
    "plan_step_gap": 30,
    "s2_max_forward_step": 12,
    "max_angular_speed": 1.5,
    "turn_speed": 1.5,
    "angular_acceleration": 3.0,
    "cruise_speed": 0.5,
}
MILLIMETRE = np.float32(1e-3)
KINDS = {"actions": KIND_ACTIONS, "pixel_goal": KIND_PIXEL_GOAL, "traj_latents": KIND_TRAJ_LATENTS}


@dataclass(frozen=True)
class Parts:
    """Who drives: planner and controller are oracles or checkpoint folders.

    seed: of the controller's noise, anew in each episode. s1_options, s2_options: parameters of the nodes beyond the
    model, as (name, value). torch_threads: of each process. withheld: see `nav_sim.evaluation.WITHHELD`.
    """

    s2: str = "oracle"
    s1: str = "oracle"
    seed: int = 0
    s1_options: tuple[tuple[str, object], ...] = ()
    s2_options: tuple[tuple[str, object], ...] = ()
    torch_threads: int = 1
    withheld: tuple[str, ...] = ()

    def planner(self, episode: Episode, cameras: dict[str, Camera]) -> Planner:
        if self.s2 in PLANNERS and (self.s1 in CONTROLLERS or not drives_by_latents(self.s1)):
            return Oracles(s2=self.s2).planner(episode, cameras)
        torch.set_num_threads(self.torch_threads)
        if self.s2 in PLANNERS:
            latents = _load_latents(self.s1, self.s2_options)
            latents.start_episode(episode.instruction)
            return OracleWithLatents(PLANNERS[self.s2](episode, latents.cameras(cameras)), latents)
        planner = _load_planner(self.s2, self.s2_options)
        planner.start_episode(other_instruction(episode) if "instruction" in self.withheld else episode.instruction)
        return RealPlanner(planner, blind="s2_rgb" in self.withheld)

    def controller(self, episode: Episode, cameras: dict[str, Camera]) -> Controller:
        if self.s1 in CONTROLLERS:
            return Oracles(s1=self.s1).controller(episode, cameras)
        torch.set_num_threads(self.torch_threads)
        level = cameras["level"]
        parameters = s1_parameters.Parameters(
            model=self.s1,
            seed=self.seed,
            camera_height=level.height,
            camera_x=level.forward,
            robot_radius=ROBOT_RADIUS,
            robot_height=ROBOT_HEIGHT,
            solver_time_limit=SOLVER_TIME_LIMIT,
            **S1_SETTINGS,
        )
        parameters = dataclasses.replace(parameters, **dict(self.s1_options))
        return RealController(_load_policy(parameters), parameters, level, self.withheld)


@functools.lru_cache(maxsize=1)
def _load_planner(folder: str, options: tuple[tuple[str, object], ...]) -> s2.Planner:
    """One planner at a time is kept between episodes."""
    return s2.load_planner(folder, s2.PlannerConfig(**dict(options)))


@functools.lru_cache(maxsize=1)
def _load_latents(folder: str, options: tuple[tuple[str, object], ...]) -> Latents:
    return Latents(folder, s2.PlannerConfig(**dict(options)))


@functools.lru_cache(maxsize=1)
def _load_policy(parameters: s1_parameters.Parameters) -> TrajectoryPolicy:
    return load_policy(parameters.model, parameters.policy_config())


class RealPlanner:
    """S2 in nav_sim's closed loop."""

    def __init__(self, planner: s2.Planner, blind: bool = False) -> None:
        self._planner, self._blind = planner, blind

    def plan(self, frame: Frame) -> PlanMade | None:
        """A plan from a camera frame; None when the model's answer is no plan."""
        try:
            if self._blind:
                plan = self._planner.step(np.zeros_like(frame.rgb))
            else:
                plan = self._planner.step(frame.rgb, frame.look_down)
        except AnswerError:
            return None
        return PlanMade(
            KINDS[plan.kind],
            plan.actions,
            plan.pixel_goal,
            plan.image_size,
            plan.look_down,
            plan.answer,
            plan.traj_latents,
        )


def parts_of(settings: Settings) -> Parts:
    """Who drives in an evaluation with these settings."""
    return Parts(settings.s2, settings.s1, settings.seed, withheld=settings.withheld)


class OracleWithLatents:
    """An oracle's plans with the latents that S2 has for them."""

    def __init__(self, oracle: OraclePlanner | RandomPlanner, latents: Latents) -> None:
        self._oracle, self._latents = oracle, latents

    def plan(self, frame: Frame) -> PlanMade:
        return self._latents.added_to(self._oracle.plan(frame.pose), frame.rgb)


class RealController:
    """S1 in nav_sim's closed loop; one per episode."""

    def __init__(
        self,
        policy: TrajectoryPolicy,
        parameters: s1_parameters.Parameters,
        camera: Camera,
        withheld: Sequence[str] = (),
    ) -> None:
        self._parameters, self._withheld = parameters, withheld
        self._intrinsics = Intrinsics(
            camera.width, camera.height_px, camera.focal, camera.focal, camera.centre[0], camera.centre[1]
        )
        self._policy = policy
        self._by_obstacles = parameters.selection in BY_OBSTACLES
        tolerance_ns = from_seconds(parameters.pairing_tolerance)
        self._preparation = FramePreparation(policy, tolerance_ns, with_depth=self._by_obstacles)
        self._ring = FrameRing(parameters.frame_memory)
        self._motion = MotionLayer(parameters.motion_config())
        radius = self._motion.gate.footprint.radius
        self._path_maker = PathMaker(policy, parameters.selection, radius, parameters.seed)
        goals = GoalKinds(latents=policy.needs_latents, pixel_goal=not policy.needs_latents)
        self._controller = S1Controller(goals, self._ring, self._motion)
        self._now_ns = EPOCH_NS
        self._frame_ns = 0
        self._plans = 0
        self._said: MotionCommand | None = None

    @property
    def stopped(self) -> bool:
        """STOP was reached."""
        return self._said is not None and self._said.state == State.ARRIVED

    @property
    def asks(self) -> bool:
        """Whether a plan is wanted from the frame seen last."""
        said = self._said
        return said is not None and said.ask != Ask.NO and self._frame_ns >= (said.frames_from_ns or 0)

    def command(self, simulator: Simulator) -> tuple[float, float]:
        """Take in odometry; the velocity command of this control period, m/s and rad/s."""
        self._now_ns = EPOCH_NS + simulator.time_ns
        pose = simulator.odometry
        sample = OdometrySample(self._now_ns, np.array([pose.x, pose.y, pose.yaw]), Twist2D(*simulator.velocity))
        self._motion.on_odometry(sample)
        return self._command()

    def see(self, frame: Frame) -> tuple[float, float] | None:
        """Work on a camera frame; the command if a path came of it."""
        self._frame_ns = self._now_ns
        depth = np.multiply(frame.depth, MILLIMETRE, dtype=np.float32)
        rgb = np.zeros_like(frame.rgb) if "s1_rgb" in self._withheld else frame.rgb
        prepared = self._preparation.rgb(self._frame_ns, rgb)
        if self._preparation.with_depth:
            seen = np.zeros_like(depth) if "s1_depth" in self._withheld else depth
            prepared = self._preparation.depth(self._frame_ns, seen)
        if self._parameters.obstacle_stop or self._by_obstacles:
            self._motion.on_depth(self._frame_ns, depth, self._intrinsics)
        assert prepared is not None  # both halves have the same stamp
        self._ring.add(prepared)
        self._motion.on_frame(self._frame_ns)
        task = self._controller.task(self._frame_ns)
        if task is None:
            return None
        try:
            self._path_maker.set_goal(task.plan, task.goal_frame)
            obstacles = self._motion.obstacles_at(self._frame_ns) if self._by_obstacles else None
            frames = self._ring.newest_until(self._frame_ns, self._policy.memory_frames)
            made = self._path_maker.make(frames, obstacles)
            followed = self._controller.path_ready(task, made.stamp_ns, made.path, made.conversion(), self._now_ns)
        except (ValueError, ArithmeticError, RuntimeError) as error:  # as in the node: stand until the next plan
            self._controller.inference_failed(task, f"no path: {error}")
            followed = True
        return self._command() if followed else None

    def set_plan(self, plan: PlanMade, frame: Frame) -> tuple[float, float]:
        """Follow a plan made from the frame seen last; the command of now."""
        latents = plan.traj_latents
        message = SimpleNamespace(
            header=SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0)),
            episode_id=1,
            plan_number=self._plans,
            kind=plan.kind,
            actions=plan.actions,
            pixel_goal_column=plan.pixel_goal[0] if plan.pixel_goal else -1,
            pixel_goal_row=plan.pixel_goal[1] if plan.pixel_goal else -1,
            image_width=plan.image_size[0],
            image_height=plan.image_size[1],
            look_down=plan.look_down,
            traj_latents_shape=() if latents is None else latents.shape,
            traj_latents=() if latents is None else latents.ravel(),
        )
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(self._frame_ns, 1_000_000_000)
        self._plans += 1
        # A plan that is refused: what is followed stays in force, and S1 goes on asking.
        with contextlib.suppress(PlanRefused, LookupError):
            self._controller.plan_arrived(message, self._now_ns)
        return self._command()

    def _command(self) -> tuple[float, float]:
        self._said = self._controller.command(self._now_ns, self._now_ns / 1e9).motion
        return self._said.v, self._said.omega


def main(words: Sequence[str] | None = None) -> int:
    return command(parts_of, __doc__, Path("runs/evaluation"), words)


if __name__ == "__main__":
    sys.exit(main())
