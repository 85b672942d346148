"""Parameters of the nodes of this package. Plain Python."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from dual_nav_util.params import ParameterError, parameter

from .camera import Camera
from .draw import Draw
from .episodes import FAMILIES, SPLITS, Episode, draw_start, make_episode
from .lockstep import WAIT_FOR
from .scene import LOOKS
from .sensors import DepthSensor
from .simulator import Config, OdometryNoise, Pose
from .worlds import Flat, make_flat

_EPISODE_NAME = re.compile(rf"({'|'.join(SPLITS)})-(\d{{1,3}})-({'|'.join(FAMILIES)})-(\d{{1,5}})")


def _parts(name: str) -> re.Match[str]:
    match = _EPISODE_NAME.fullmatch(name)
    if match is None:
        raise ParameterError(
            f"parameter 'episode' is {name!r}: must be <{'|'.join(SPLITS)}>-<seed>-<{'|'.join(FAMILIES)}>-<number>, "
            "such as test-0-object-0001, seed 0 to 999, number 0 to 99999"
        )
    return match


def episode_named(name: str) -> Episode:
    """The episode with a name such as test-0-object-0001. ParameterError for anything else."""
    match = _parts(name)
    try:
        return make_episode(match[1], int(match[2]), match[3], int(match[4]))
    except ValueError as error:
        raise ParameterError(f"parameter 'episode' is {name!r}: {error}") from None


@dataclass(frozen=True)
class SimulatorParameters:
    """Of the node nav_sim."""

    episode: str = parameter(
        "",
        "World and start of this episode, such as test-0-object-0001; empty: a flat by flat_seed. A change takes "
        "effect with ~/reset",
        dynamic=True,
    )
    flat_seed: int = parameter(7, "Which flat, without an episode", low=0, high=2**62, dynamic=True)
    publish_instruction: bool = parameter(False, "Publish the episode's instruction at the start, if there is one")
    look: str = parameter("", "Real furniture or primitives; empty: furniture where installed", choices=("", *LOOKS))
    seed: int = parameter(0, "Of noise, drift and what moves about", low=0, high=2**62, dynamic=True)
    people: int = parameter(0, "People walking about", low=0, high=8)
    boxes: int = parameter(0, "Boxes moving about", low=0, high=8)

    time: str = parameter(
        "simulated",
        "simulated: stamps are simulated time and /clock is published; real: stamps are the time of this machine",
        choices=("simulated", "real"),
    )
    wait_for: str = parameter(
        "nobody",
        "Lock-step: for whom the world stands still until they have answered (simulated time)",
        choices=WAIT_FOR,
    )
    wait_limit: float = parameter(20.0, "How long the world waits for one answer", low=0.1, high=600.0, unit="s")
    rate: float = parameter(1.0, "Speed of simulated time without lock-step", low=0.01, high=100.0)

    camera_rate: float = parameter(10.0, "Frames per second", low=0.1, high=100.0, unit="Hz")
    odometry_rate: float = parameter(50.0, "Odometry messages per second", low=1.0, high=100.0, unit="Hz")
    image_width: int = parameter(640, "Columns of all images", low=16, high=1920, unit="px")
    image_height: int = parameter(480, "Rows of all images", low=16, high=1080, unit="px")
    horizontal_fov: float = parameter(79.0, "Horizontal field of view", low=20.0, high=120.0, unit="deg")
    camera_height: float = parameter(0.6, "Of both cameras above the floor", low=0.1, high=2.0, unit="m")
    look_down_camera: bool = parameter(True, "A second camera, tilted down by 30 degrees")
    depth_minimum: float = parameter(0.2, "Nearest depth measured", low=0.0, high=5.0, unit="m")
    depth_maximum: float = parameter(10.0, "Farthest depth measured", low=0.5, high=65.0, unit="m")
    depth_dropout: float = parameter(0.0, "Share of pixels without a measurement", low=0.0, high=1.0)
    depth_edge_dropout: float = parameter(0.0, "Share of pixels without a measurement at edges", low=0.0, high=1.0)
    depth_noise: float = parameter(
        0.0, "Standard deviation divided by the squared distance", low=0.0, high=0.1, unit="1/m"
    )

    odometry_scale: float = parameter(0.0, "Relative error of driven distances", low=-0.5, high=0.5)
    odometry_yaw_scale: float = parameter(0.0, "Relative error of turned angles", low=-0.5, high=0.5)
    odometry_noise: float = parameter(0.0, "Noise of distances, m per root metre", low=0.0, high=1.0)
    odometry_yaw_noise: float = parameter(0.0, "Noise of angles, rad per root radian and metre", low=0.0, high=1.0)
    max_linear_speed: float = parameter(1.0, "Of the base", low=0.05, high=5.0, unit="m/s")
    max_angular_speed: float = parameter(2.0, "Of the base", low=0.05, high=10.0, unit="rad/s")
    command_timeout: float = parameter(0.5, "A command holds no longer than this", low=0.05, high=10.0, unit="s")
    cmd_vel_stamped: bool = parameter(False, "Commands are TwistStamped instead of Twist")
    frame_prefix: str = parameter("", "Put before all frame ids but map, such as robot1/")

    def __post_init__(self) -> None:
        if self.episode:
            _parts(self.episode)
        if self.wait_for != "nobody" and self.time != "simulated":
            raise ParameterError("parameter 'wait_for' needs parameter 'time' to be 'simulated'")
        if self.depth_minimum >= self.depth_maximum:
            raise ParameterError(
                f"parameter 'depth_minimum' is {self.depth_minimum}: must be below depth_maximum {self.depth_maximum}"
            )

    def world(self) -> tuple[Flat, Pose, str]:
        """Flat, start pose and instruction (empty without an episode)."""
        if self.episode:
            episode = episode_named(self.episode)
            return episode.flat, episode.start, episode.instruction
        flat = make_flat(self.flat_seed)
        return flat, draw_start(Draw(self.flat_seed, 17), flat), ""

    def config(self) -> Config:
        """Settings of the simulator."""
        return Config(
            look=self.look,
            camera=self.camera(),
            max_linear=self.max_linear_speed,
            max_angular=self.max_angular_speed,
            command_timeout=self.command_timeout,
            odometry=OdometryNoise(
                self.odometry_scale, self.odometry_yaw_scale, self.odometry_noise, self.odometry_yaw_noise
            ),
            people=self.people,
            boxes=self.boxes,
        )

    def camera(self) -> Camera:
        """The level camera."""
        return Camera(
            self.image_width, self.image_height, math.radians(self.horizontal_fov), height=self.camera_height
        )  # fmt: skip

    def depth_sensor(self) -> DepthSensor:
        """What the depth images go through."""
        return DepthSensor(
            self.depth_minimum, self.depth_maximum, self.depth_dropout, self.depth_edge_dropout, self.depth_noise
        )


@dataclass(frozen=True)
class OracleParameters:
    """Of the nodes oracle_s2 and oracle_s1."""

    planner: str = parameter(
        "oracle", "oracle: shortest path; random: acts without looking", choices=("oracle", "random")
    )
    s1_model: str = parameter(
        "", "Checkpoint folder of the S1 that follows; one that drives by latents gets them from its S2 (oracle_s2)"
    )
    plan_step_gap: int = parameter(10, "Frames driven on a plan after which the next is asked for", low=1, high=1000)
    control_rate: float = parameter(20.0, "Commands per second (oracle_s1)", low=1.0, high=100.0, unit="Hz")
    lock_step: bool = parameter(False, "The simulator waits: control periods are those of /clock (oracle_s1)")
    image_width: int = parameter(640, "As set for the simulator", low=16, high=1920, unit="px")
    image_height: int = parameter(480, "As set for the simulator", low=16, high=1080, unit="px")
    horizontal_fov: float = parameter(79.0, "As set for the simulator", low=20.0, high=120.0, unit="deg")
    camera_height: float = parameter(0.6, "As set for the simulator", low=0.1, high=2.0, unit="m")

    def cameras(self) -> dict[str, Camera]:
        """Both cameras by name."""
        level = Camera(
            self.image_width, self.image_height, math.radians(self.horizontal_fov), height=self.camera_height
        )  # fmt: skip
        return {"level": level, "look_down": level.tilted()}
