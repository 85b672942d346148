"""From many trajectory samples to the one path that is followed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from scipy.spatial import KDTree

from .checks import check_array, check_number
from .geometry import compose

if TYPE_CHECKING:
    from .policy import Trajectories

Method = Literal["mean", "random", "critic", "clearance", "mean_if_clear"]
METHODS: tuple[str, ...] = get_args(Method)
BY_OBSTACLES: tuple[str, ...] = ("clearance", "mean_if_clear")  # methods that need obstacles from depth
CLEAR = 0.1  # metres between the robot and anything that are enough for `mean_if_clear`
TURNS = np.radians([sign * degrees for degrees in range(15, 91, 15) for sign in (1, -1)])  # of samples, as a way out


def select(
    trajectories: Trajectories,
    method: Method = "mean",
    *,
    obstacles: np.ndarray | None = None,
    robot_radius: float = 0.0,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """The path (T + 1, 3) float64 to follow, in the robot frame of the samples.

    Args:
        trajectories: samples of one frame.
        method: ``mean`` of all samples, as the published deployment does; ``random`` one; ``critic`` the one
            with the highest score; ``clearance`` the one that stays farthest from obstacles; ``mean_if_clear`` the
            mean while it keeps CLEAR, else the sample nearest to it that does (the mean of ways around both sides of
            a thing leads into it), else the nearest that does when it is turned by one of TURNS, and where none does
            the one that stays farthest. A robot that stands nearer to something than CLEAR may not come nearer.
        obstacles: for BY_OBSTACLES: (N, 2) obstacle points on the ground plane [m] in the same robot frame
            (:meth:`.motion.MotionLayer.obstacles_at`). Without any no sample is better than another, and the mean is
            taken.
        robot_radius: [m], taken off the clearance; paths that hit something all count as touching.
        rng: for ``random``.

    Raises:
        ValueError: an unknown method, or one whose input (scores, obstacles) is missing.
    """
    paths = check_array("trajectories.paths", trajectories.paths, (None, None, 3)).astype(np.float64)
    mean = paths.mean(axis=0)
    if method == "mean":
        return mean
    if method == "random":
        return paths[(rng or np.random.default_rng()).integers(len(paths))]
    if method == "critic":
        if trajectories.scores is None:
            raise ValueError("method 'critic' needs scores, and this model has no critic; expected mean or clearance")
        scores = check_array("trajectories.scores", trajectories.scores, (len(paths),))
        return paths[int(np.argmax(scores))]
    if method in BY_OBSTACLES:
        if obstacles is None:
            raise ValueError(f"method {method!r} needs obstacles (N, 2) from a depth image, got None")
        if not len(obstacles):
            return mean
        clearance = path_clearance(paths, obstacles, robot_radius)
        if method == "mean_if_clear":
            paths = np.concatenate([mean[None], paths])
            here = path_clearance(paths[:1, [0, 0]], obstacles, robot_radius)[0]
            enough = min(CLEAR, max(here - 1e-3, 0.0))
            clearance = np.minimum(path_clearance(paths, obstacles, robot_radius), enough)
            if clearance.max() < enough:
                turned = np.concatenate([compose(np.array([0.0, 0.0, turn]), paths) for turn in TURNS])
                paths = np.concatenate([paths, turned])
                clearance = np.minimum(path_clearance(paths, obstacles, robot_radius), enough)
        # Paths with equal clearance, e.g. all limited by one obstacle beside the start: the most ordinary one.
        best = np.flatnonzero(clearance >= clearance.max() - 1e-9)
        deviation = np.linalg.norm(paths[best, :, :2] - mean[None, :, :2], axis=-1).sum(axis=1)
        return paths[best[int(np.argmin(deviation))]]
    raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")


def path_clearance(paths: np.ndarray, obstacles: np.ndarray, robot_radius: float = 0.0) -> np.ndarray:
    """Smallest distance [m] of each path to any obstacle, less the robot's radius, not below 0: (S,).

    Args:
        paths: (S, N, 2 or 3), N at least 2; the first point, where the robot already is, does not count.
        obstacles: (M, 2), M at least 1, same frame.
    """
    check_array("paths", paths, (None, None, None))
    check_array("obstacles", obstacles, (None, 2))
    radius = check_number("robot_radius", robot_radius, 0.0)
    distance, _ = KDTree(obstacles).query(paths[:, 1:, :2])
    return np.maximum(distance.min(axis=1) - radius, 0.0)
