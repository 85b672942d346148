"""A calculated RGB-D camera in a corridor: floor, ceiling, walls, and boxes that come and go.

For recordings that need no robot: colour and depth agree pixel by pixel, and with the odometry. The camera looks
ahead, level, 0.6 m above the floor; x leads along the corridor, whose middle is y = 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dual_nav_bringup.make_bag import Intrinsics, RgbdFrame

CAMERA = Intrinsics(width=320, height=240, fx=300.0, fy=300.0, cx=159.5, cy=119.5)
HALF_WIDTH, HEIGHT, END = 1.2, 2.4, 12.0  # of the corridor [m]
CAMERA_HEIGHT = 0.6  # [m]
RANGE = 8.0  # of the depth camera [m]
COLOURS = np.array([(150, 120, 90), (225, 225, 220), (90, 120, 170), (170, 100, 90), (120, 150, 110), (200, 160, 40)])


@dataclass(frozen=True)
class Box:
    """Standing in the corridor, its corners in metres."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]


def render(pose: np.ndarray, boxes: Sequence[Box] = ()) -> RgbdFrame:
    """What the camera sees at a pose (x, y [m], yaw [rad])."""
    x, y, yaw = pose
    column, row = np.meshgrid(np.arange(CAMERA.width), np.arange(CAMERA.height))
    left = -(column - CAMERA.cx) / CAMERA.fx  # for a step of 1 m along the optical axis
    up = -(row - CAMERA.cy) / CAMERA.fy
    direction = np.stack([np.cos(yaw) - left * np.sin(yaw), np.sin(yaw) + left * np.cos(yaw), up], axis=-1)
    origin = np.array([x, y, CAMERA_HEIGHT])
    surfaces = ((2, 0.0), (2, HEIGHT), (1, HALF_WIDTH), (1, -HALF_WIDTH), (0, END))
    with np.errstate(divide="ignore", invalid="ignore"):
        depths = [(at - origin[axis]) / direction[..., axis] for axis, at in surfaces]
        for box in boxes:
            # A ray is inside between the last of the three slabs it enters and the first it leaves.
            ends = [(np.array(corner) - origin) / direction for corner in (box.low, box.high)]
            entered, left_again = np.minimum(*ends).max(axis=-1), np.maximum(*ends).min(axis=-1)
            depths.append(np.where(entered < left_again, entered, np.inf))
    depths = np.stack(depths)
    depths[~(depths > 1e-6)] = np.inf
    nearest = np.minimum(depths.argmin(axis=0), len(COLOURS) - 1)
    depth = depths.min(axis=0)
    points = origin + direction * depth[..., None]
    tiles = np.floor(points / 0.5 + 1e-6).astype(int).sum(axis=-1) % 2
    shade = np.clip(1.1 - depth / 14, 0.35, 1.0) * (0.75 + 0.25 * tiles)
    rgb = (COLOURS[nearest] * shade[..., None]).astype(np.uint8)
    return RgbdFrame(rgb, np.where(depth < RANGE, depth * 1000, 0).astype(np.uint16))


@dataclass(frozen=True)
class ObstacleAppears:
    """A drive straight ahead; somebody steps before the robot, which stops, and goes away again. Times in seconds.

    The obstacle stands where the robot comes to rest `gap` before it: nearer than a controller may drive.
    """

    fps: float = 15.0
    duration: float = 11.0
    speed: float = 0.4  # [m/s]
    appears: float = 4.0
    clears: float = 7.0
    reaction: float = 0.15  # of the robot that was recorded
    braking: float = 1.5  # [m/s²]
    acceleration: float = 0.5  # [m/s²]
    robot_radius: float = 0.25  # [m]
    gap: float = 0.12  # from the robot's edge to the obstacle when it stands [m]

    def poses(self) -> np.ndarray:
        """x, y [m], yaw [rad] at each frame: float64 (frames, 3)."""
        times = np.arange(round(self.duration * self.fps)) / self.fps
        braked = self.speed - self.braking * (times - self.appears - self.reaction)
        going = self.acceleration * (times - self.clears - 2 * self.reaction)
        speeds = np.where(times < self.clears, np.clip(braked, 0, self.speed), np.clip(going, 0, self.speed))
        x = np.concatenate([[0.0], np.cumsum(speeds[:-1]) / self.fps])
        return np.stack([x, np.zeros_like(x), np.zeros_like(x)], axis=1)

    def shown(self, frame: int) -> bool:
        """Whether the obstacle is in the picture of this frame."""
        return self.appears <= frame / self.fps < self.clears

    def frames(self) -> Iterator[RgbdFrame]:
        """The pictures, in order."""
        poses = self.poses()
        front = poses[round(self.clears * self.fps), 0] + self.robot_radius + self.gap
        # Narrow enough that the camera sees all of it go: what left the picture sideways would stay remembered.
        person = Box((front, -0.15, 0.0), (front + 0.3, 0.15, 1.7))
        return (render(pose, [person] if self.shown(frame) else []) for frame, pose in enumerate(poses))

    def actions(self, frame: int) -> tuple[int, ...]:
        """What the planner decides on a frame: once a second, to go on straight ahead for ten metres."""
        return (1,) * 40 if frame % round(self.fps) == 5 else ()
