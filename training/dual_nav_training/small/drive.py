"""Where a planner takes the robot: the places for which its next training should have the right answers.

A planner that only ever saw how it is done right does not know how to get back from where its own mistakes lead.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from dual_nav_training.small.language import object_instruction, route_instruction
from nav_sim.camera import Camera
from nav_sim.episodes import footprint_distance, is_in_sight
from nav_sim.expert import moved
from nav_sim.grid import Grid, Point, clear_line, grid_of
from nav_sim.oracles import FORWARD, STOP, TURN_LEFT, TURN_RIGHT, goal_on_floor
from nav_sim.simulator import Pose, Simulator, wrapped
from nav_sim.worlds import Flat
from s2_planner_node.answer import AnswerError
from s2_planner_node.planner import Plan, Planner

_STRIDES = (0.5, 3.0)  # metres driven on a pixel goal before the planner is asked again, at least and at most
_MAX_PLANS = 15  # of one instruction
_ROUTES = 0.2  # of the instructions
_SIGHT = 6.0  # metres from which on a goal is too far off to start with


def visited_poses(simulator: Simulator, planner: Planner, count: int, random: np.random.Generator) -> list[Pose]:
    """`count` poses at which `planner` was asked, on its way to objects in sight of where it started, or on a route.

    The robot is put from place to place without physics: along the way to the pixel goal, turned, or a step on.
    """
    flat, poses = simulator.flat, []
    while len(poses) < count:
        goal = int(random.integers(len(flat.items)))
        name = flat.items[goal].name
        if random.random() < _ROUTES:
            pose = Pose(*Grid.centre(*random.choice(np.argwhere(flat.drivable))), random.uniform(-math.pi, math.pi))
            instruction = route_instruction(random, name)
        else:
            pose = _start(flat, goal, random)
            if pose is None:
                continue
            instruction = object_instruction(random, name, sum(item.name == name for item in flat.items) > 1)
        planner.start_episode(instruction)
        for _ in range(_MAX_PLANS):
            poses.append(pose)
            simulator.reset(pose.x, pose.y, pose.yaw)
            try:
                plan = planner.step(simulator.render("level")[0])
            except AnswerError:
                break
            pose = after(flat, pose, plan, simulator.cameras, random.uniform(*_STRIDES))
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


def after(flat: Flat, pose: Pose, plan: Plan, cameras: dict[str, Camera], stride: float = _STRIDES[0]) -> Pose:
    """Where a plan takes the robot until the next one. cameras: the simulator's, by name. stride: metres driven on a
    pixel goal."""
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
    return _along(grid.to_point(target).path((pose.x, pose.y)), pose, stride)


def _is_free(flat: Flat, pose: Pose) -> bool:
    step = moved(pose, FORWARD)
    return clear_line(flat.passable, (pose.x, pose.y), (step.x, step.y))


def _along(path: list[Point], pose: Pose, stride: float) -> Pose:
    """`stride` metres on along a path, or at its end, looking where it leads."""
    left = stride
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
