"""The motion layer: plans, paths, odometry and depth in, one velocity command per control period out.

The call chain, one file a step:

    plan or path ─► modes (what is followed, when S2 is asked) ─► delay (path to odom by its image's stamp)
      ─► tracking / mpc / actions (velocity wanted) ─► limits (acceleration, jerk) ─► safety (obstacles, time-outs)
      ─► command

The layer has no clock and no thread of its own. Stamps and `now_ns` are nanoseconds of ROS time; poses are
(x [m], y [m], yaw [rad]) in the odometry frame. One lock makes every method safe between threads.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dual_nav_util.controller_state import State
from dual_nav_util.stamps import seconds_between

from . import modes
from .actions import ActionConfig, ActionMotion
from .bounds import check_bounds
from .delay import compensate_delay
from .geometry import STANDSTILL, Twist2D, drive, wrap_angle
from .limits import CommandLimiter, DriveLimits
from .modes import Ask, Memory, ModeConfig
from .obstacles import CameraMount, Intrinsics, ObstacleConfig, ObstacleDetector, ObstacleMemory
from .odometry import OdometryBuffer, OdometryGap, OdometrySample
from .plan_intake import FORWARD_DISTANCE, TURN_ANGLE, AcceptedPlan
from .reference import ReferencePath
from .safety import Reason, SafetyConfig, SafetyGate, Surroundings
from .stop_rules import Ages
from .tracking import TrackerConfig, TrackingReport, make_tracker

STANDING = Twist2D(0.05, 0.1)  # slower than this by odometry the base stands; odometry is noisy


@dataclass(frozen=True)
class MotionConfig:
    """All parameters of the layer; every part checks its own fields."""

    modes: ModeConfig = field(default_factory=ModeConfig)
    drive: DriveLimits = field(default_factory=DriveLimits)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    actions: ActionConfig = field(default_factory=ActionConfig)
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    obstacles: ObstacleConfig = field(default_factory=ObstacleConfig)
    camera: CameraMount = field(default_factory=CameraMount)
    odometry_samples: int = 1000  # kept; at the base's rate they must span one inference
    odometry_gap: float = 0.25  # longest time without odometry over which a pose is still interpolated [s]
    # A larger step between two samples is no motion: the frame was moved, [m], or turned, [rad].
    odometry_jump: float = 0.5
    odometry_turn_jump: float = 1.0
    manual_timeout: float = 0.5  # a manual command counts this long [s]
    # A recording is played: its robot moves as it did then, whatever is commanded. Odometry is not compared with the
    # commands, and the robot counts as standing when it is told to.
    open_loop: bool = False

    def __post_init__(self) -> None:
        check_bounds(
            self,
            odometry_samples=(10, 100_000),
            odometry_gap=(0.02, 5.0),
            odometry_jump=(0.05, 10.0),
            odometry_turn_jump=(0.1, math.pi),
            manual_timeout=(0.05, 5.0),
        )
        for name, value, limit_name, limit in (
            ("tracker.cruise_speed", self.tracker.cruise_speed, "drive.v_max", self.drive.v_max),
            ("tracker.omega_max", self.tracker.omega_max, "drive.omega_max", self.drive.omega_max),
            ("actions.speed", self.actions.speed, "drive.v_max", self.drive.v_max),
            ("actions.turn_speed", self.actions.turn_speed, "drive.omega_max", self.drive.omega_max),
        ):
            if value > limit:
                raise ValueError(f"{name}: expected at most {limit_name} ({limit:g}), got {value:g}")


@dataclass(frozen=True)
class MotionCommand:
    """What to send and what to say in this control period.

    Attributes:
        v, omega: for cmd_vel [m/s], [rad/s].
        state, message: for s1/state. reasons: of the safety gate.
        actions_left: discrete actions not yet complete. distance_to_goal: along the path or action to its end [m].
        ask: why S2 is asked for a plan now (Ask.NO: it is not).
        frames_from_ns: stamp of the oldest frame S2 may use for it, None while the robot moves on (any new frame).
        path_wanted: whether a path sampled now would be used.
        frame_stamp_ns: image behind this command, 0 before the first.
        tracking: what the tracker found (cross-track error, solver time, fallback).
    """

    v: float
    omega: float
    state: State
    reasons: Reason
    message: str
    actions_left: int
    distance_to_goal: float
    ask: Ask
    frames_from_ns: int | None
    path_wanted: bool
    frame_stamp_ns: int
    tracking: TrackingReport


@dataclass(frozen=True, eq=False)
class MotionView:
    """What people are shown of the layer.

    Attributes:
        path: (N, 3) poses of the path being tracked, in odom; None without one.
        outline: (N, 2) corners of the footprint, in the base frame like the rest [m].
        stop_zone: (N, 2) where an obstacle would stop the robot. obstacles: (N, 2) cells that are remembered.
    """

    path: np.ndarray | None
    outline: np.ndarray
    stop_zone: np.ndarray
    obstacles: np.ndarray


class MotionLayer:
    """See the module. Time-outs, states and what stops the robot: docs/motion.md."""

    def __init__(self, config: MotionConfig) -> None:
        self.config = config
        self.odometry = OdometryBuffer(config.odometry_samples, config.odometry_gap)
        self.gate = SafetyGate(
            config.safety, config.drive.v_max, config.drive.omega_max, watch_odometry=not config.open_loop
        )
        self._tracker = make_tracker(config.tracker, config.drive)
        self._limiter = CommandLimiter(config.drive)
        self._obstacles = ObstacleMemory(config.obstacles)
        self._detector: ObstacleDetector | None = None
        self._lock = threading.RLock()
        self._memory = Memory()
        self._path: ReferencePath | None = None
        self._path_stamp_ns: int | None = None
        self._motion: tuple[modes.Run, ActionMotion, AcceptedPlan] | None = None
        self._anchor: np.ndarray | None = None  # pose the next discrete motion counts from
        self._frame_ns: int | None = None  # newest camera frame
        self._depth: tuple[int, float] | None = None  # stamp and valid share of the newest depth scan
        self._manual: tuple[int, Twist2D] | None = None
        self._last_step_ns: int | None = None
        self._counted_pose: np.ndarray | None = None  # up to where steps on the path are counted
        self._frame_behind_ns = 0
        self._hindered = False  # the gate reduced the last command
        self._blocked = False  # because of an obstacle

    # ------------------------------------------------------------------------------------------------- what arrives

    def on_odometry(self, sample: OdometrySample) -> None:
        """Take in odometry.

        Raises:
            OdometryError: the sample is not newer than the last, or not finite. Nothing changes.
        """
        with self._lock:
            before = self.odometry.newest()
            self.odometry.add(sample)
            if before is not None and self._jumped(before.pose, sample.pose):
                # The odometry frame was moved under the robot: what is expressed in it is no longer where it was.
                self.odometry.clear()
                self.odometry.add(sample)
                self._obstacles.clear()
                self._enter(modes.interrupted(self._memory))

    def _jumped(self, before: np.ndarray, after: np.ndarray) -> bool:
        moved, turned = math.dist(before[:2], after[:2]), abs(wrap_angle(after[2] - before[2]))
        return moved > self.config.odometry_jump or turned > self.config.odometry_turn_jump

    def on_frame(self, stamp_ns: int) -> None:
        """A camera frame arrived (for the time-out and the state; the layer does not look at it)."""
        with self._lock:
            self._frame_ns = stamp_ns

    def on_depth(self, stamp_ns: int, depth: np.ndarray, intrinsics: Intrinsics) -> None:
        """Take in a depth image, at its full size: (height, width) uint16 millimetres or float metres.

        Takes about 1 ms for 640×480. An image whose pose is not known is not used; the time-out notices.

        Raises:
            TypeError, ValueError: see obstacles.ObstacleDetector.scan.
            OdometryGap: the pose at the stamp is not known.
        """
        with self._lock:
            if self._detector is None or self._detector.intrinsics != intrinsics:
                self._detector = ObstacleDetector(intrinsics, self.config.camera, self.config.obstacles)
            detector = self._detector
        scan = detector.scan(depth)  # outside the lock: the control period does not wait for it
        with self._lock:
            self._obstacles.update(detector, scan, self.odometry.pose_at(stamp_ns), stamp_ns)
            self._depth = (stamp_ns, scan.valid_share)

    def on_plan(self, plan: AcceptedPlan) -> None:
        """Follow a plan that passed plan_intake.PlanIntake.

        Discrete actions count from the pose of the plan's image, so what was driven meanwhile is not driven twice.

        Raises:
            OdometryGap: that pose is not known, so discrete actions cannot be placed; the robot stands, NO_SENSORS.
        """
        with self._lock:
            memory = modes.plan_came(self._memory, plan)
            if memory is self._memory:
                return
            if plan.actions and not memory.stopped:
                try:
                    self._anchor = self.odometry.pose_at(plan.stamp_ns)
                except OdometryGap as gap:
                    self._enter(modes.hindered(memory, State.NO_SENSORS, str(gap)))
                    raise
                self._frame_behind_ns = plan.stamp_ns
            self._enter(memory)

    def on_path(
        self, plan: AcceptedPlan, stamp_ns: int, path: np.ndarray, conversion: Sequence[int], now_ns: int
    ) -> bool:
        """Follow a path sampled for a plan and a frame.

        Args:
            plan: the path was made for; one before the present makes it outdated (but see modes.path_renews).
            stamp_ns: of the frame. path: (T+1, 3) in the robot frame of that frame.
            conversion: the path as discrete actions (path.actions_from_path): whether the pixel goal is near, and
                what is driven where ``path_execution`` is "actions".

        Returns:
            Whether it is followed. False: outdated, after STOP, or not wanted now.

        Raises:
            OdometryGap: the pose of the frame is not known; the robot stands, NO_SENSORS.
            ValueError: the path is malformed; the robot stands, FAULT.
        """
        with self._lock:
            renews = modes.path_renews(self._memory, self.config.modes, plan)
            if not (renews or self.wants_path(plan, stamp_ns)):
                return False
            try:
                image_pose = self.odometry.pose_at(stamp_ns)
                placed = compensate_delay(path, image_pose, self._pose(now_ns))
            except OdometryGap as gap:
                self._enter(modes.hindered(self._memory, State.NO_SENSORS, str(gap)))
                raise
            except ValueError as error:
                self._enter(modes.hindered(self._memory, State.FAULT, str(error)))
                raise
            memory = self._memory
            if not renews:
                memory = modes.path_came(memory, tuple(conversion), self.config.modes)
            if memory.path and placed is None:
                memory = modes.path_ended(memory, self.config.modes)
            self._path, self._path_stamp_ns = placed, stamp_ns
            self._anchor = image_pose
            self._frame_behind_ns = stamp_ns
            self._enter(memory)
            return True

    def on_manual(self, twist: Twist2D, now_ns: int) -> None:
        """A person drives: this command replaces the layer's own for ``manual_timeout``, through the same gate."""
        with self._lock:
            self._manual = (now_ns, twist)

    def on_failure(self, text: str) -> None:
        """No path could be made (the model failed): stand until the next good path or plan."""
        with self._lock:
            self._enter(modes.hindered(self._memory, State.FAULT, text))

    def reset(self) -> None:
        """Forget everything but the emergency stop and the enable switch, also that an episode was stopped."""
        with self._lock:
            self._forget(also_stop=True)
            # A solver starts from its last solution: a new one, so that the same happens again.
            self._tracker = make_tracker(self.config.tracker, self.config.drive)
            self.gate.reset()

    def time_jumped(self) -> None:
        """Stamps begin anew: forget everything that carries one. A stopped episode stays stopped."""
        with self._lock:
            self._forget(also_stop=False)

    def reconfigure(self, config: MotionConfig) -> None:
        """Other limits and speeds of drive, tracker and actions from the next period on; the rest stays."""
        with self._lock:
            self.config = replace(self.config, drive=config.drive, tracker=config.tracker, actions=config.actions)
            self.gate.limit(config.drive.v_max, config.drive.omega_max)
            going = self._limiter.last
            self._limiter = CommandLimiter(config.drive)
            self._limiter.sent(going)
            self._tracker = make_tracker(config.tracker, config.drive)

    def mount_camera(self, mount: CameraMount) -> None:
        """Where the depth camera sits; to be told before the first depth image."""
        with self._lock:
            self.config = replace(self.config, camera=mount)
            self._detector = None

    # --------------------------------------------------------------------------------------------------- questions

    def wants_path(self, plan: AcceptedPlan, stamp_ns: int | None = None) -> bool:
        """Whether a path of this plan, made from a frame of this stamp (None: any), would be followed."""
        with self._lock:
            return plan is self._memory.plan and modes.path_wanted(self._memory, self.config.modes, stamp_ns)

    @property
    def plan(self) -> AcceptedPlan | None:
        """The plan being followed."""
        with self._lock:
            return self._memory.plan

    def ages(self, now_ns: int, clock_silence: float) -> Ages:
        """Ages of everything that has to keep coming; see step() for the arguments."""

        def age(stamp_ns: int | None) -> float | None:
            return None if stamp_ns is None else seconds_between(stamp_ns, now_ns)

        with self._lock:
            newest, plan = self.odometry.newest(), self._memory.plan
            return Ages(
                frame=age(self._frame_ns),
                odometry=age(newest.stamp_ns if newest else None),
                plan=None if plan is None or self._memory.stopped else age(plan.stamp_ns),
                path=age(self._path_stamp_ns) if self._memory.path else None,
                clock_silence=clock_silence,
            )

    def depth_age(self, now_ns: int) -> float | None:
        """Age [s] of the newest depth scan, None without one."""
        with self._lock:
            return seconds_between(self._depth[0], now_ns) if self._depth else None

    def obstacles_at(self, stamp_ns: int) -> np.ndarray:
        """Known obstacles, those out of the camera's sight too: (N, 2) [m] in the robot frame of an image.

        Raises:
            OdometryGap: the pose at the stamp is not known.
            ValueError: depth and camera_info have not been seen yet, so nothing can be known.
        """
        with self._lock:
            if self._depth is None:
                raise ValueError("the obstacles are not known: no depth image with its camera_info has been received")
            return self._obstacles.around(self.odometry.pose_at(stamp_ns))

    def view(self, now_ns: int) -> MotionView:
        """What the layer follows and looks at now, to be drawn."""
        with self._lock:
            path, pose = self._path, self._known_pose(now_ns)
            return MotionView(
                path=None if path is None else np.column_stack([path.points, path.heading]),
                outline=self.gate.footprint.outline(),
                stop_zone=self.gate.stop_zone(),
                obstacles=self._obstacles.around(pose) if pose is not None else np.zeros((0, 2)),
            )

    # ------------------------------------------------------------------------------------------------- each period

    def step(self, now_ns: int, clock_silence: float = 0.0) -> MotionCommand:
        """The command of this control period. Never raises: what fails inside ends in FAULT and standstill.

        Args:
            now_ns: ROS time. clock_silence: seconds of the machine's own clock since ROS time last advanced.
        """
        with self._lock:
            last = now_ns if self._last_step_ns is None else self._last_step_ns
            elapsed = seconds_between(last, now_ns)
            self._last_step_ns = now_ns
            if elapsed < -self.config.safety.future_tolerance:
                # The clock was set back: nothing that carries a stamp is valid any more.
                self._forget(also_stop=False)
            dt = min(max(elapsed, 0.001), 0.2)
            if self._stands():
                self._memory = modes.stands(self._memory, now_ns)
            manual = self._manual_command(now_ns)
            pose = self._known_pose(now_ns)
            try:
                target = manual if manual is not None else self._target(pose, now_ns, dt)
                if target is None:
                    self._limiter.reset()
                else:
                    self._limiter.limit(target, dt)
                wanted = self._limiter.last
            except Exception as error:  # whatever a tracker or a solver does, the robot has to stand then
                text = f"the motion layer failed: {error or type(error).__name__}"
                self._enter(modes.hindered(self._memory, State.FAULT, text))
                self._limiter.reset()
                wanted = STANDSTILL
            safe = self.gate.check(wanted, self._surroundings(pose, now_ns, clock_silence, manual is not None), dt)
            self._limiter.sent(safe.twist)
            self._hindered = safe.twist != wanted
            self._blocked = bool(safe.reasons & Reason.OBSTACLE_STOP)
            if safe.reasons & Reason.STALE_PLAN:
                self._enter(modes.interrupted(self._memory, Ask.STALE))
            if safe.reasons & Reason.STALLED and not self._memory.latched:
                self._enter(modes.hindered(self._memory, State.FAULT, safe.text, latched=True))
            return self._command(safe.twist, safe.reasons, safe.text, manual is not None)

    def _target(self, pose: np.ndarray | None, now_ns: int, dt: float) -> Twist2D | None:
        """The velocity wanted; None to stand at once."""
        newest = self.odometry.newest()
        if pose is None or newest is None or self._memory.hindrance is not None or self._memory.stopped:
            return None
        config = self.config.modes
        self._count_steps(pose)
        self._enter(modes.begin_next(self._memory))
        memory = self._memory
        if memory.stopped:
            return None
        if memory.run is not None:
            motion = self._running(memory.run, pose)
            twist = motion.command(pose, newest.twist, dt, hindered=self._hindered, blocked=self._blocked)
            if motion.stuck and not self.config.open_loop:
                text = (
                    f"{memory.run.count} × {memory.run.action.name} not complete after {motion.timeout:.1f} s: "
                    "the base does not move as told, or odometry does not see it"
                )
                self._enter(modes.hindered(memory, State.FAULT, text, latched=True))
                return None
            if motion.done or motion.stuck or motion.given_up:
                if self._motion[2] is memory.plan:  # else the next motion counts from the newer plan's image
                    self._anchor = np.array([pose[0], pose[1], motion.target_pose[2]])
                self._enter(modes.run_ended(memory, now_ns, config))
            return twist
        if memory.path:
            twist = self._tracker.command(pose, self._limiter.last, self._path, dt)
            if self._tracker.report.done:
                self._enter(modes.path_ended(memory, config))
            return twist
        return STANDSTILL

    def _running(self, run: modes.Run, pose: np.ndarray) -> ActionMotion:
        if self._motion is None or self._motion[0] is not run:
            anchor = pose if self._anchor is None else self._anchor
            config = self.config
            motion = ActionMotion(run.action, run.count, anchor, pose, config.actions, config.drive)
            self._motion = (run, motion, self._memory.plan)
        return self._motion[1]

    def _count_steps(self, pose: np.ndarray) -> None:
        """Motion along a path, in steps of a discrete action."""
        if not self._memory.path:
            self._counted_pose = None
            return
        if self._counted_pose is None:
            self._counted_pose = pose
        distance = math.dist(pose[:2], self._counted_pose[:2])
        angle = abs(wrap_angle(pose[2] - self._counted_pose[2]))
        # Whole quarters of a step only: odometry noise of a standing robot adds up to nothing.
        steps = max(distance / FORWARD_DISTANCE, angle / TURN_ANGLE)
        if steps >= 0.25:
            self._counted_pose = pose
            self._enter(modes.steps_driven(self._memory, steps, self.config.modes))

    def _manual_command(self, now_ns: int) -> Twist2D | None:
        if self._manual is None:
            return None
        age = seconds_between(self._manual[0], now_ns)
        if not 0.0 <= age <= self.config.manual_timeout:
            self._manual = None
            return None
        self._enter(modes.driven_by_hand(self._memory))
        return self._manual[1]

    def _pose(self, now_ns: int) -> np.ndarray:
        """Pose (3,) now: the newest odometry carried on with its velocity, within the odometry time-out.

        Raises:
            OdometryGap: there is none, or it is too old.
        """
        newest = self.odometry.newest()
        if newest is None:
            raise OdometryGap("no odometry has been received yet")
        age = seconds_between(newest.stamp_ns, now_ns)
        if age > self.config.safety.odometry_timeout:
            limit = self.config.safety.odometry_timeout
            raise OdometryGap(f"the newest odometry is {age:.3f} s old (odometry_timeout {limit:g} s)")
        return drive(newest.pose, newest.twist, max(age, 0.0))

    def _stands(self) -> bool:
        newest = self.odometry.newest()
        if newest is None or self._limiter.last != STANDSTILL:
            return False
        slow = abs(newest.twist.v) < STANDING.v and abs(newest.twist.omega) < STANDING.omega
        return slow or self.config.open_loop

    def _known_pose(self, now_ns: int) -> np.ndarray | None:
        try:
            return self._pose(now_ns)
        except OdometryGap:
            return None

    def _surroundings(self, pose: np.ndarray | None, now_ns: int, clock_silence: float, manual: bool) -> Surroundings:
        return Surroundings(
            ages=self.ages(now_ns, clock_silence),
            pose=pose,
            depth_age=self.depth_age(now_ns),
            valid_share=self._depth[1] if self._depth else 0.0,
            obstacles=self._obstacles.around(pose) if pose is not None else np.zeros((0, 2)),
            manual=manual,
        )

    def _command(self, twist: Twist2D, reasons: Reason, text: str, manual: bool) -> MotionCommand:
        memory = self._memory
        state, message = modes.report(memory, reasons, text)
        if twist != STANDSTILL and (manual or state == State.IDLE):
            state, message = State.FOLLOWING, "driven by hand" if manual else "coming to rest"
        motion = self._motion[1] if self._motion is not None and self._motion[0] is memory.run else None
        distance = 0.0
        if motion is not None:
            distance = motion.distance_left
        elif memory.path and self._path is not None:
            followed = self._tracker.path is self._path  # not yet in the period the path arrived in
            distance = self._tracker.report.remaining if followed else self._path.length
        return MotionCommand(
            v=twist.v,
            omega=twist.omega,
            state=state,
            reasons=reasons,
            message=message,
            actions_left=len(memory.queue)
            + (motion.actions_left if motion else memory.run.count if memory.run else 0),
            distance_to_goal=distance,
            ask=modes.ask(memory, self.config.modes),
            frames_from_ns=memory.settled_ns,
            path_wanted=modes.path_wanted(memory, self.config.modes),
            frame_stamp_ns=self._frame_behind_ns,
            tracking=self._tracker.report,
        )

    # ------------------------------------------------------------------------------------------------- forgetting

    def _enter(self, memory: Memory) -> None:
        """Take over a new memory and let go of what it does not follow any more."""
        self._memory = memory
        if not memory.path:
            self._path = self._path_stamp_ns = None
            self._tracker.reset()
        if memory.run is None:
            self._motion = None

    def _forget(self, *, also_stop: bool) -> None:
        self._enter(modes.forget(self._memory, also_stop=also_stop))
        self.odometry.clear()
        self._obstacles.clear()
        self._limiter.reset()
        self._frame_ns = self._depth = self._manual = self._anchor = None
        self._frame_behind_ns = 0
