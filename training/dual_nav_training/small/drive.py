"""Where a planner takes the robot: the places for which its next training should have the right answers.

A planner that only ever saw how it is done right does not know how to get back from where its own mistakes lead.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from dual_nav_training.small.language import object_instruction
from nav_sim.camera import Camera
from nav_sim.episodes import footprint_distance, is_in_sight
from nav_sim.expert import moved
from nav_sim.grid import Grid, Point, clear_line, grid_of
from nav_sim.oracles import FORWARD, STOP, TURN_LEFT, TURN_RIGHT, goal_on_floor
from nav_sim.simulator import Pose, Simulator, wrapped
from nav_sim.worlds import Flat
from s2_planner_node.answer import AnswerError
from s2_planner_node.planner import Plan, Planner

_STRIDE = 0.5  # metres driven on a pixel goal before the planner is asked again
_MAX_PLANS = 15  # of one instruction
_SIGHT = 6.0  # metres from which on a goal is too far off to start with


def visited_poses(simulator: Simulator, planner: Planner, count: int, random: np.random.Generator) -> list[Pose]:
    """`count` poses at which `planner` was asked, on its way to objects that are in sight of where it started.

    The robot is put from place to place without physics: along the way to the pixel goal, turned, or a step on.
    """
    flat, poses = simulator.flat, []
    while len(poses) < count:
        goal = int(random.integers(len(flat.items)))
        pose = _start(flat, goal, random)
        if pose is None:
            continue
        alike = [item for item in flat.items if item.name == flat.items[goal].name]
        planner.start_episode(object_instruction(random, flat.items[goal].name, len(alike) > 1))
        for _ in range(_MAX_PLANS):
            poses.append(pose)
            simulator.reset(pose.x, pose.y, pose.yaw)
            try:
                plan = planner.step(simulator.render("level")[0])
            except AnswerError:
                break
            pose = after(flat, pose, plan, simulator.cameras)
            if STOP in plan.actions:
                break
    return poses[:count]


def _start(flat: Flat, goal: int, random: np.random.Generator) -> Pose | None:
    """A place from where an item is in sight, looking anywhere; None when none was found."""
    cells = np.argwhere(flat.drivable)
    for cell in cells[random.integers(len(cells), size=60)]:
        point = Grid.centre(*cell)
        if footprint_distance(flat.items[goal], point) < _SIGHT and is_in_sight(flat, goal, point):
            return Pose(*point, random.uniform(-math.pi, math.pi))
    return None


def after(flat: Flat, pose: Pose, plan: Plan, cameras: dict[str, Camera]) -> Pose:
    """Where a plan takes the robot until the next one. cameras: the simulator's, by name."""
    if plan.pixel_goal is None:
        for action in plan.actions:
            if action in (TURN_LEFT, TURN_RIGHT) or (action == FORWARD and _is_free(flat, pose)):
                pose = moved(pose, action)
        return pose
    floor = goal_on_floor(plan, cameras)
    if floor is None:  # no place on the floor
        return moved(pose, TURN_LEFT)
    grid = grid_of(flat)
    target = Grid.centre(*grid.nearest_free(pose.to_world(floor)))
    return _along(grid.to_point(target).path((pose.x, pose.y)), pose)


def _is_free(flat: Flat, pose: Pose) -> bool:
    step = moved(pose, FORWARD)
    return clear_line(flat.passable, (pose.x, pose.y), (step.x, step.y))


def _along(path: list[Point], pose: Pose) -> Pose:
    """_STRIDE metres on along a path, or at its end, looking where it leads."""
    left = _STRIDE
    for a, b in pairwise(path):
        length = math.dist(a, b)
        if length < 1e-6:
            continue
        share = min(1.0, left / length)
        heading = math.atan2(b[1] - a[1], b[0] - a[0])
        pose = Pose(a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1]), wrapped(heading))
        left -= length
        if left <= 0:
            break
    return pose
