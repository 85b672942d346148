"""Parameters of the s1_controller node. Plain Python, no ROS."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dual_nav_util.params import ParameterError, parameter

from .controller import PARTIAL_ASYNC, SYNC
from .follower import FollowerConfig
from .obstacles import CameraMount
from .policy import PRECISIONS, SAMPLERS, PolicyConfig
from .selection import METHODS
from .stop_rules import TimeLimits

TRANSPORTS = ("raw", "compressed")


@dataclass(frozen=True)
class Parameters:
    """All parameters but `autostart` and `use_sim_time`; ranges and descriptions are those of the ROS descriptors."""

    model: str = parameter("", "Checkpoint folder or hub id with the tensors of S1; its config selects the variant")
    device: str = parameter("cpu", "Where the model runs: cpu, cuda or cuda:N")
    precision: str = parameter("float32", "Floating-point type of the model", choices=tuple(PRECISIONS))
    torch_threads: int = parameter(
        0, "Threads of one torch operation on the CPU; 0 leaves torch's choice", low=0, high=256
    )
    num_samples: int = parameter(32, "Trajectories sampled per frame", low=1, high=1024)
    num_steps: int = parameter(0, "Denoising steps; 0 takes the checkpoint's own", low=0, high=1000)
    guidance_scale: float = parameter(
        1.0, "Classifier-free guidance of NextDiT; 1 is the release's", low=0.0, high=20.0
    )
    sampler: str = parameter("reference", "Sampler of NavDP", choices=SAMPLERS)
    compile: bool = parameter(False, "Run the denoiser through torch.compile; the first path takes a minute then")
    cuda_graph: bool = parameter(False, "Replay the sampling loop as a CUDA graph")
    selection: str = parameter("mean", "How one path is made of the samples", choices=METHODS)
    robot_radius: float = parameter(0.25, "For selection by clearance", low=0.0, high=5.0, unit="m")
    camera_height: float = parameter(0.6, "Of the depth camera above the floor", low=0.02, high=3.0, unit="m")
    camera_pitch: float = parameter(
        0.0, "Downward tilt of the depth camera", low=-math.pi / 2, high=math.pi / 2, unit="rad"
    )

    mode: str = parameter(
        PARTIAL_ASYNC,
        "sync: one path per plan, driven as discrete actions; partial_async: a new path for every frame",
        choices=(SYNC, PARTIAL_ASYNC),
    )
    rgb_transport: str = parameter(
        "raw", "Message type of rgb: Image or CompressedImage (JPEG, PNG)", choices=TRANSPORTS
    )
    depth_transport: str = parameter(
        "raw", "Message type of depth: Image or CompressedImage (16-bit PNG)", choices=TRANSPORTS
    )
    pairing_tolerance: float = parameter(
        0.015, "Largest difference of stamps of an RGB and depth pair", low=0.0, high=1.0, unit="s"
    )
    frame_memory: int = parameter(
        150, "Prepared frames kept to find the frame of a plan; has to span an inference of S2", low=2, high=5000
    )

    sensor_timeout: float = parameter(
        0.5, "Oldest camera frame the robot may drive on", low=0.05, high=10.0, unit="s"
    )
    odometry_timeout: float = parameter(0.5, "Oldest odometry the robot may drive on", low=0.02, high=10.0, unit="s")
    odometry_max_gap: float = parameter(
        0.25, "Longest time without odometry over which a pose is interpolated", low=0.01, high=5.0, unit="s"
    )
    plan_timeout: float = parameter(
        5.0, "Oldest plan and oldest path the robot may drive on", low=0.1, high=600.0, unit="s"
    )
    future_tolerance: float = parameter(
        0.5, "How far a stamp may lie ahead of this node's clock", low=0.0, high=10.0, unit="s"
    )

    control_rate: float = parameter(20.0, "Commands per second", low=1.0, high=200.0, unit="Hz")
    max_linear_speed: float = parameter(0.3, "Forward speed limit", low=0.01, high=3.0, unit="m/s", dynamic=True)
    max_angular_speed: float = parameter(0.5, "Yaw rate limit", low=0.01, high=5.0, unit="rad/s", dynamic=True)
    look_ahead: float = parameter(
        0.4, "Distance of the point on the path that is steered to", low=0.05, high=5.0, unit="m", dynamic=True
    )
    cmd_vel_stamped: bool = parameter(False, "Publish cmd_vel as TwistStamped instead of Twist")
    base_frame: str = parameter("base_link", "Frame of the robot in the headers of cmd_vel and s1/state")

    def __post_init__(self) -> None:
        if not self.model:
            raise ParameterError("parameter 'model' is empty: must be a checkpoint folder or a hub id")
        if self.sensor_timeout < 2.0 / self.control_rate:
            raise ParameterError(
                f"parameter 'sensor_timeout' is {self.sensor_timeout}: must be at least two control periods "
                f"({2.0 / self.control_rate:g} s)"
            )
        try:
            self.policy_config()
        except (ValueError, TypeError) as error:
            raise ParameterError(f"parameter '{str(error).split(':')[0]}' is not usable: {error}") from error

    def policy_config(self) -> PolicyConfig:
        """The part the model code needs."""
        return PolicyConfig(
            device=self.device,
            precision=self.precision,
            num_samples=self.num_samples,
            num_steps=self.num_steps or None,
            guidance_scale=self.guidance_scale,
            sampler=self.sampler,
            compile=self.compile,
            cuda_graph=self.cuda_graph,
        )

    def follower_config(self) -> FollowerConfig:
        """Limits of the motion layer."""
        return FollowerConfig(
            max_linear_speed=self.max_linear_speed,
            max_angular_speed=self.max_angular_speed,
            look_ahead=self.look_ahead,
        )

    def time_limits(self) -> TimeLimits:
        """When the robot has to stand."""
        return TimeLimits(
            sensor=self.sensor_timeout,
            odometry=self.odometry_timeout,
            plan=self.plan_timeout,
            future=self.future_tolerance,
        )

    def camera_mount(self) -> CameraMount:
        """Where the depth camera is."""
        return CameraMount(height=self.camera_height, pitch=self.camera_pitch)
