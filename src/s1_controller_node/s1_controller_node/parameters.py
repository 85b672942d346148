"""Parameters of the s1_controller node. Plain Python, no ROS."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dual_nav_util.params import ParameterError, parameter

from .actions import ActionConfig
from .limits import DriveLimits
from .modes import ACTIONS, PARTIAL_ASYNC, SYNC, TRACKING, ModeConfig
from .motion import MotionConfig
from .obstacles import CameraMount, ObstacleConfig
from .policy import PRECISIONS, SAMPLERS, PolicyConfig
from .safety import Footprint, SafetyConfig
from .selection import METHODS
from .tracking import TrackerConfig

ODOMETRY_MEMORY = 2000  # samples: 10 s at 200 Hz
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

    robot_radius: float = parameter(0.25, "Of the robot, where robot_outline is empty", low=0.02, high=3.0, unit="m")
    robot_outline: str = parameter(
        "", "Corners 'x,y x,y x,y …' of the robot on the ground in metres, base_link at 0,0; empty: a circle"
    )
    robot_height: float = parameter(0.8, "The robot passes under what is higher", low=0.1, high=3.0, unit="m")
    camera_height: float = parameter(0.6, "Of the depth camera above the floor", low=0.02, high=3.0, unit="m")
    camera_pitch: float = parameter(
        0.0, "Downward tilt of the depth camera", low=-math.pi / 2, high=math.pi / 2, unit="rad"
    )
    camera_roll: float = parameter(
        0.0, "Roll of the depth camera, positive: its right side is lower", low=-math.pi, high=math.pi, unit="rad"
    )
    camera_x: float = parameter(0.0, "Depth camera ahead of base_link", low=-2.0, high=2.0, unit="m")
    camera_y: float = parameter(0.0, "Depth camera left of base_link", low=-2.0, high=2.0, unit="m")
    camera_yaw: float = parameter(
        0.0, "Depth camera turned counter-clockwise from straight ahead", low=-math.pi, high=math.pi, unit="rad"
    )
    mount_from_tf: str = parameter(
        "auto",
        "Where the depth camera sits; auto: as the static transforms of tf say, else as camera_*; never: as camera_*",
        choices=("auto", "never"),
    )
    mount_wait: float = parameter(
        3.0, "How long static transforms are waited for after the first depth image", low=0.0, high=60.0, unit="s"
    )

    mode: str = parameter(
        PARTIAL_ASYNC,
        "sync: S2, then S1, then motion, then S2 again; partial_async: S2 and S1 work on while the robot drives",
        choices=(SYNC, PARTIAL_ASYNC),
    )
    path_execution: str = parameter(
        TRACKING,
        "tracking: sampled paths are tracked; actions: their conversion to turns and steps is driven",
        choices=(TRACKING, ACTIONS),
    )
    plan_step_gap: int = parameter(
        4, "Paths made from one plan after which S2 is asked for the next (partial_async)", low=1, high=1000
    )
    s2_max_forward_step: int = parameter(
        8, "Steps of 0.25 m or 15 degrees driven on one plan at most (partial_async)", low=1, high=1000
    )
    tracker: str = parameter(
        "mpc", "Law that tracks paths: model predictive control or pure pursuit", choices=("mpc", "pure_pursuit")
    )
    solver_time_limit: float = parameter(
        0.01,
        "Of one MPC solution; when it is not enough, this period's command comes from pure pursuit",
        low=1e-6,
        high=1.0,
        unit="s",
        dynamic=True,
    )
    open_loop: bool = parameter(
        False, "A recording is played: do not compare odometry with the commands. Never on a robot"
    )

    lock_step: bool = parameter(
        False, "A simulator waits for this node: control periods are those of /clock, which may stand still"
    )
    seed: int = parameter(
        -1, "Of the model's noise, anew in each episode; -1: another in each run", low=-1, high=2**62
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

    obstacle_stop: bool = parameter(
        True, "Slow down and stop for what depth shows in the way; false only for a base with its own protection"
    )
    floor_clearance: float = parameter(0.05, "What is lower is driven over", low=0.005, high=0.5, unit="m")
    floor_angle: float = parameter(
        math.radians(2.0), "Error of the camera's pitch and roll to allow for", low=0.0, high=0.3, unit="rad"
    )
    hole_depth: float = parameter(0.15, "What lies this much below the floor is a hole", low=0.03, high=5.0, unit="m")
    obstacle_range: float = parameter(3.0, "Farther obstacles do not matter yet", low=0.3, high=20.0, unit="m")
    obstacle_memory: float = parameter(
        20.0, "Driving time for which an obstacle out of sight is remembered", low=0.0, high=600.0, unit="s"
    )
    side_margin: float = parameter(0.05, "Kept free all around the robot", low=0.0, high=1.0, unit="m")
    stop_margin: float = parameter(0.10, "Left free ahead when the robot has stopped", low=0.02, high=2.0, unit="m")
    reaction_time: float = parameter(
        0.25, "From an obstacle's image to the base braking", low=0.0, high=2.0, unit="s"
    )
    braking: float = parameter(
        0.8, "Deceleration the base surely achieves when it is told to stop", low=0.05, high=20.0, unit="m/s²"
    )
    min_valid_share: float = parameter(
        0.3, "Of the depth of the floor ahead that has to be there; less is a covered camera", low=0.0, high=1.0
    )
    stall_distance: float = parameter(
        0.4, "Commanded without odometry moving, then something is stuck", low=0.05, high=10.0, unit="m"
    )

    sensor_timeout: float = parameter(
        0.5, "Oldest camera frame and depth the robot may drive on", low=0.05, high=10.0, unit="s"
    )
    odometry_timeout: float = parameter(0.5, "Oldest odometry the robot may drive on", low=0.02, high=10.0, unit="s")
    odometry_max_gap: float = parameter(
        0.25, "Longest time without odometry over which a pose is interpolated", low=0.02, high=5.0, unit="s"
    )
    plan_timeout: float = parameter(
        5.0, "Oldest image of a plan and of a path the robot may drive on", low=0.1, high=120.0, unit="s"
    )
    future_tolerance: float = parameter(
        0.5, "How far a stamp may lie ahead of this node's clock", low=0.0, high=10.0, unit="s"
    )
    manual_timeout: float = parameter(
        0.5, "A command on manual_cmd_vel counts this long", low=0.05, high=5.0, unit="s"
    )

    control_rate: float = parameter(20.0, "Commands per second", low=1.0, high=200.0, unit="Hz")
    max_linear_speed: float = parameter(0.5, "Forward speed limit", low=0.05, high=3.0, unit="m/s", dynamic=True)
    max_angular_speed: float = parameter(0.8, "Yaw rate limit", low=0.1, high=5.0, unit="rad/s", dynamic=True)
    cruise_speed: float = parameter(
        0.4, "On straight paths; not above max_linear_speed", low=0.05, high=3.0, unit="m/s", dynamic=True
    )
    cruise_turn_rate: float = parameter(
        0.6, "Along paths; not above max_angular_speed", low=0.05, high=5.0, unit="rad/s", dynamic=True
    )
    turn_speed: float = parameter(
        0.5, "Of turn actions; not above max_angular_speed", low=0.1, high=1.5, unit="rad/s", dynamic=True
    )
    acceleration: float = parameter(0.5, "Speeding up", low=0.05, high=10.0, unit="m/s²")
    deceleration: float = parameter(0.8, "Slowing down", low=0.05, high=10.0, unit="m/s²")
    jerk: float = parameter(3.0, "Build-up of an acceleration", low=0.1, high=200.0, unit="m/s³")
    angular_acceleration: float = parameter(2.0, "Of the yaw rate", low=0.05, high=50.0, unit="rad/s²")
    angular_jerk: float = parameter(20.0, "Build-up of the former", low=0.1, high=1000.0, unit="rad/s³")
    lateral_acceleration: float = parameter(0.4, "Slows the robot down in bends", low=0.01, high=10.0, unit="m/s²")
    actuation_delay: float = parameter(
        0.12, "From a command to the base following it: dead time plus time constant", low=0.0, high=1.0, unit="s"
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
        try:
            self.motion_config()
        except ParameterError:
            raise
        except ValueError as error:
            raise ParameterError(f"the parameters of the robot do not fit each other: {error}") from error

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

    def motion_config(self) -> MotionConfig:
        """The part the motion layer needs."""
        speed = min(self.cruise_speed, self.max_linear_speed)
        return MotionConfig(
            modes=ModeConfig(
                mode=self.mode,
                path_execution=self.path_execution,
                s2_max_forward_step=self.s2_max_forward_step,
                plan_step_gap=self.plan_step_gap,
            ),
            drive=DriveLimits(
                v_max=self.max_linear_speed,
                omega_max=self.max_angular_speed,
                acceleration=self.acceleration,
                deceleration=self.deceleration,
                jerk=self.jerk,
                angular_acceleration=self.angular_acceleration,
                angular_jerk=self.angular_jerk,
            ),
            tracker=TrackerConfig(
                tracker=self.tracker,
                cruise_speed=speed,
                omega_max=min(self.cruise_turn_rate, self.max_angular_speed),
                lateral_acceleration=self.lateral_acceleration,
                actuation_delay=self.actuation_delay,
                solver_time_limit=self.solver_time_limit,
            ),
            actions=ActionConfig(speed=min(speed, 0.6), turn_speed=min(self.turn_speed, self.max_angular_speed)),
            safety=SafetyConfig(
                radius=self.robot_radius,
                polygon=self.outline(),
                side_margin=self.side_margin,
                stop_margin=self.stop_margin,
                reaction_time=self.reaction_time,
                deceleration=self.braking,
                use_depth=self.obstacle_stop,
                min_valid_share=self.min_valid_share,
                sensor_timeout=self.sensor_timeout,
                odometry_timeout=self.odometry_timeout,
                plan_timeout=self.plan_timeout,
                future_tolerance=self.future_tolerance,
                stall_distance=self.stall_distance,
            ),
            obstacles=self.obstacle_config(),
            camera=self.camera_mount(),
            odometry_samples=ODOMETRY_MEMORY,
            odometry_gap=self.odometry_max_gap,
            manual_timeout=self.manual_timeout,
            open_loop=self.open_loop,
        )

    def obstacle_config(self) -> ObstacleConfig:
        """What counts as an obstacle."""
        return ObstacleConfig(
            floor_clearance=self.floor_clearance,
            floor_angle=self.floor_angle,
            robot_height=self.robot_height,
            drop=self.hole_depth,
            max_range=self.obstacle_range,
            memory_time=self.obstacle_memory,
        )

    def camera_mount(self) -> CameraMount:
        """Where the depth camera is."""
        return CameraMount(
            height=self.camera_height,
            pitch=self.camera_pitch,
            roll=self.camera_roll,
            x=self.camera_x,
            y=self.camera_y,
            yaw=self.camera_yaw,
        )

    def outline(self) -> tuple[tuple[float, float], ...]:
        """Corners of the robot, empty for a circle."""
        try:
            corners = tuple(
                tuple(float(place) for place in corner.split(",")) for corner in self.robot_outline.split()
            )
        except ValueError:
            corners = ((),)
        if any(len(corner) != 2 for corner in corners):
            raise ParameterError(
                f"parameter 'robot_outline' is {self.robot_outline!r}: must be corners 'x,y x,y x,y …' in metres"
            )
        try:
            Footprint(polygon=corners)
        except ValueError as error:
            raise ParameterError(f"parameter 'robot_outline' is {self.robot_outline!r}: {error}") from None
        return corners  # type: ignore[return-value]
