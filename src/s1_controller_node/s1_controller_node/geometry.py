"""Planar rigid motions and the kinematics of a unicycle.

A pose is an array (x [m], y [m], yaw [rad]) in the frame its variable name says, with yaw counter-clockwise from
the x axis (REP-103); a path is an array (N, 3) of poses. Nothing is modified in place.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Twist2D(NamedTuple):
    """Velocity of the base in its own frame; what geometry_msgs/Twist carries for a differential drive."""

    v: float  # forward velocity [m/s]
    omega: float  # yaw rate, counter-clockwise [rad/s]


STANDSTILL = Twist2D(0.0, 0.0)


def wrap_angle(angle):
    """Angle(s) [rad] brought into [-pi, pi); scalar in, float out; array in, array out."""
    wrapped = (np.asarray(angle, dtype=np.float64) + math.pi) % (2.0 * math.pi) - math.pi
    return float(wrapped) if wrapped.ndim == 0 else wrapped


def rotation(yaw: float) -> np.ndarray:
    """Rotation matrix (2, 2) that turns vectors counter-clockwise by ``yaw`` [rad]."""
    c, s = math.cos(yaw), math.sin(yaw)
    return np.array([[c, -s], [s, c]])


def transform_points(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (N, 2) given in ``frame``, expressed in the frame that ``frame`` (3,) is given in."""
    return points @ rotation(frame[2]).T + frame[:2]


def inverse_transform_points(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (N, 2) expressed in ``frame``: the inverse of :func:`transform_points`."""
    return (points - frame[:2]) @ rotation(frame[2])


def compose(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pose(s) ``second`` (3,) or (N, 3), given in ``first`` (3,), expressed in the frame ``first`` is given in."""
    second = np.asarray(second, dtype=np.float64)
    moved = np.empty_like(second)
    moved[..., :2] = second[..., :2] @ rotation(first[2]).T + first[:2]
    moved[..., 2] = wrap_angle(second[..., 2] + first[2])
    return moved


def relative(origin: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Pose(s) ``pose`` (3,) or (N, 3) as seen from ``origin`` (3,): ``compose(origin, relative(origin, p)) == p``."""
    pose = np.asarray(pose, dtype=np.float64)
    seen = np.empty_like(pose)
    seen[..., :2] = (pose[..., :2] - origin[:2]) @ rotation(origin[2])
    seen[..., 2] = wrap_angle(pose[..., 2] - origin[2])
    return seen


def drive(pose: np.ndarray, twist: Twist2D, duration: float) -> np.ndarray:
    """Where a unicycle at ``pose`` (3,) stands after ``duration`` [s] of constant ``twist``: an exact arc."""
    turned = twist.omega * duration
    # Chord of the arc: length v·t·sinc(turned/2), direction yaw + turned/2. Holds for straight lines too.
    chord = twist.v * duration * float(np.sinc(turned / (2.0 * math.pi)))
    direction = pose[2] + 0.5 * turned
    return np.array(
        [pose[0] + chord * math.cos(direction), pose[1] + chord * math.sin(direction), wrap_angle(pose[2] + turned)]
    )
