"""What an episode came to: the measures of VLN-CE, the same for the fast path and for runs over DDS."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from .episodes import SUCCESS_RADIUS, Episode, footprint_distance, goal_field, success_field
from .grid import Point, path_length
from .simulator import Pose, Simulator, wrapped

MIN_VISIBLE_SHARE = 0.001  # of the pixels of the level or the look-down image that show the goal object at the STOP
OUTCOMES = ("stopped", "timeout", "failed")
STILL = 1e-4  # metres or radians between two camera frames of a robot at rest
REST_TIME = 0.5  # seconds without motion after which it is at rest


@dataclass(frozen=True)
class Result:
    """One episode. Lengths in metres, time in simulated seconds.

    success: STOP within the radius of a goal object that the robot sees. oracle_success: came within that radius at
    some point, seen or not. navigation_error: distance left to the goal object at the end, along the floor.
    """

    name: str
    family: str
    instruction: str
    flat_seed: int
    success: bool
    spl: float
    oracle_success: bool
    navigation_error: float
    collisions: int
    time: float
    path_length: float
    shortest: float
    outcome: str
    distance_at_stop: float
    visible_share: float
    plans: int

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


class Judge:
    """Watches one episode: `observe` at every camera frame, `result` at its end.

    After the STOP the robot may roll out: what counts is where it comes to rest.

    shortest: metres from the start to the nearest place where a STOP would count.
    """

    def __init__(self, episode: Episode, radius: float = SUCCESS_RADIUS) -> None:
        self.episode = episode
        self.radius = radius
        self.shortest = episode.shortest
        if radius != SUCCESS_RADIUS:
            with contextlib.suppress(ValueError):  # nothing so near can be driven to
                start = (episode.start.x, episode.start.y)
                self.shortest = path_length(success_field(episode.flat, episode.goals, radius).path(start))
        self.driven: list[Point] = [(episode.start.x, episode.start.y)]
        self.path_length = 0.0
        self.pose = episode.start
        self._moved_until = 0.0  # seconds; at rest since
        self._observed_until = 0.0
        self._nearest = math.inf
        self._field = goal_field(episode.flat, episode.goals, max(radius, SUCCESS_RADIUS))
        self._watch(episode.start)

    def _watch(self, pose: Pose) -> None:
        # Reachable and near: a goal object behind a wall does not count as reached.
        if self._distance(pose) <= self.radius:
            self._nearest = min(self._nearest, self._field.at((pose.x, pose.y)))

    def _distance(self, pose: Pose) -> float:
        """Distance to the footprint of the nearest goal object."""
        return min(self._distance_to(goal, pose) for goal in self.episode.goals)

    def _distance_to(self, goal: int, pose: Pose) -> float:
        return footprint_distance(self.episode.flat.items[goal], (pose.x, pose.y))

    def observe(self, time: float, pose: Pose) -> None:
        """The robot's true pose this many simulated seconds after the instruction."""
        before = self.pose
        if math.dist((before.x, before.y), (pose.x, pose.y)) > STILL or abs(wrapped(pose.yaw - before.yaw)) > STILL:
            self.pose, self._moved_until = pose, time
        self._observed_until = time
        step = math.dist(self.driven[-1], (pose.x, pose.y))
        if step > 0.02:
            self.path_length += step
            self.driven.append((pose.x, pose.y))
        self._watch(pose)

    @property
    def at_rest(self) -> bool:
        """The robot has not moved for REST_TIME."""
        return self._observed_until - self._moved_until > REST_TIME - 1e-6

    def result(self, simulator: Simulator, outcome: str, plans: int, collisions: int, decided: float) -> Result:
        """The measures, at the end of the episode.

        Args:
            simulator: of the episode's flat; the robot is put where it ended, to see what it sees there.
            outcome: "stopped" by STOP, "timeout", or "failed". plans, collisions: how many there were.
            decided: seconds after the instruction at which the last plan was made.
        """
        if outcome not in OUTCOMES:
            raise ValueError(f"outcome: expected one of {', '.join(OUTCOMES)}, got {outcome!r}")
        episode, pose = self.episode, self.pose
        distance = self._distance(pose)
        near = [goal for goal in episode.goals if self._distance_to(goal, pose) <= self.radius]
        share = 0.0
        if outcome == "stopped" and near:
            simulator.place(pose)
            share = max(simulator.visible_share(goal, camera) for goal in near for camera in simulator.cameras)
        success = outcome == "stopped" and bool(near) and share >= MIN_VISIBLE_SHARE
        way = max(self.path_length, self.shortest)
        spl = (self.shortest / way if way > 0.0 else 1.0) if success else 0.0
        return Result(
            name=episode.name,
            family=episode.family,
            instruction=episode.instruction,
            flat_seed=episode.flat_seed,
            success=success,
            spl=spl,
            oracle_success=success or self._nearest <= self.radius,
            navigation_error=self._field.at((pose.x, pose.y)),
            collisions=collisions,
            time=max(decided, self._moved_until) if outcome == "stopped" else self._observed_until,
            path_length=self.path_length,
            shortest=self.shortest,
            outcome=outcome,
            distance_at_stop=distance,
            visible_share=share,
            plans=plans,
        )


# ------------------------------------------------------------------------------------------------------- summaries


def wilson_interval(successes: int, count: int) -> tuple[float, float]:
    """95 % confidence interval of a share (Wilson score)."""
    if not count:
        return 0.0, 1.0
    z = 1.959964
    share = successes / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % confidence interval of a mean (normal approximation)."""
    if len(values) < 2:
        return (values[0], values[0]) if values else (0.0, 0.0)
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = 1.959964 * deviation / math.sqrt(len(values))
    return mean - half, mean + half


def summarise(results: Sequence[dict[str, object]]) -> dict[str, object]:
    """Measures of a set of episodes (`Result.as_dict`), each as value and 95 % confidence interval."""
    summary: dict[str, object] = {"episodes": len(results)}
    for name in ("success", "oracle_success"):
        count = sum(bool(result[name]) for result in results)
        summary[name] = {"value": count / max(1, len(results)), "ci95": wilson_interval(count, len(results))}
    hit = sum(result["collisions"] > 0 for result in results)
    summary["episodes_with_collision"] = {
        "value": hit / max(1, len(results)),
        "ci95": wilson_interval(hit, len(results)),
    }
    for name in ("spl", "navigation_error", "collisions", "time", "path_length", "shortest", "plans"):
        values = [float(result[name]) for result in results]
        summary[name] = {"value": sum(values) / max(1, len(values)), "ci95": mean_interval(values)}
    return summary
