"""The camera's mount from chains of static transforms, or from the parameters."""

import math

import numpy as np
import pytest

from s1_controller_node.camera_mount import MountChoice, TransformError, TransformTree, rotation_matrix
from s1_controller_node.obstacles import CameraMount

UPRIGHT = (0.0, 0.0, 0.0, 1.0)
OPTICAL = (-0.5, 0.5, -0.5, 0.5)  # of an optical frame in its body frame (REP-103)
CONFIGURED = CameraMount(height=0.9, pitch=0.1)


def about(axis: str, angle: float) -> tuple[float, float, float, float]:
    """Quaternion (x, y, z, w) of a turn about an axis [rad]."""
    half = math.sin(angle / 2)
    return (half * (axis == "x"), half * (axis == "y"), half * (axis == "z"), math.cos(angle / 2))


def add_robot(transforms) -> None:
    """A mast on the base, a camera at its end, tilted down by 20° and turned left by 10°."""
    transforms("base_link", "mast", (0.10, 0.02, 0.50), about("z", math.radians(10)))
    transforms("mast", "camera_link", (0.05, 0.0, 0.30), about("y", math.radians(20)))
    transforms("camera_link", "camera_optical", (0.0, 0.0, 0.0), OPTICAL)


def choice(wait: float | None = 2.0) -> MountChoice:
    return MountChoice(CONFIGURED, "base_link", wait)


def test_a_chain_of_transforms_gives_height_pitch_yaw_and_place():
    chosen = choice()
    add_robot(chosen.add_transform)
    assert chosen.decide("camera_optical", now=0.0)
    mount = chosen.mount
    # The camera is 5 cm ahead of the mast along the mast's own x axis.
    expected = (0.80, 0.10 + 0.05 * math.cos(math.radians(10)), 0.02 + 0.05 * math.sin(math.radians(10)))
    assert (mount.height, mount.x, mount.y) == pytest.approx(expected)
    assert (mount.pitch, mount.yaw, mount.roll) == pytest.approx((math.radians(20), math.radians(10), 0.0), abs=1e-9)
    assert "from tf: base_link to camera_optical" in chosen.text
    assert "20.0° down" in chosen.text


def test_the_height_is_above_base_footprint_where_the_robot_has_one():
    chosen = choice()
    add_robot(chosen.add_transform)
    chosen.add_transform("base_footprint", "base_link", (0.0, 0.0, 0.12), UPRIGHT)
    chosen.decide("camera_optical", now=0.0)
    assert chosen.mount.height == pytest.approx(0.92)
    assert chosen.mount.x == pytest.approx(0.149, abs=1e-3)


def test_frames_of_one_robot_among_several_have_a_prefix():
    chosen = MountChoice(CONFIGURED, "robot1/base_link", 2.0)
    chosen.add_transform("robot1/base_footprint", "robot1/base_link", (0.0, 0.0, 0.1), UPRIGHT)
    chosen.add_transform("/robot1/base_link", "robot1/camera", (0.2, 0.0, 0.4), OPTICAL)
    assert chosen.decide("/robot1/camera", now=0.0)
    assert (chosen.mount.height, chosen.mount.x) == pytest.approx((0.5, 0.2))


def test_transforms_that_come_late_are_waited_for_and_the_parameters_are_taken_after_that():
    late = choice()
    assert not late.decide("camera_optical", now=100.0)
    assert late.mount is None
    add_robot(late.add_transform)
    assert late.decide("camera_optical", now=101.9)
    assert late.mount.height == pytest.approx(0.8)

    never = choice()
    never.add_transform("base_link", "laser", (0.0, 0.0, 0.2), UPRIGHT)
    assert not never.decide("camera_optical", now=0.0)
    assert never.decide("camera_optical", now=2.1)
    assert never.mount == CONFIGURED
    assert "no static transforms connect 'base_link' and 'camera_optical'" in never.text
    assert "base_link, laser" in never.text


def test_once_decided_the_mount_stays():
    chosen = choice()
    add_robot(chosen.add_transform)
    chosen.decide("camera_optical", now=0.0)
    before = chosen.mount
    chosen.add_transform("base_link", "mast", (0.0, 0.0, 1.0), UPRIGHT)
    assert not chosen.decide("camera_optical", now=1.0)
    assert chosen.mount is before


def test_without_tf_the_parameters_count_at_once():
    chosen = choice(wait=None)
    assert chosen.decide("camera_optical", now=0.0)
    assert chosen.mount == CONFIGURED
    assert "mount_from_tf is never" in chosen.text


def test_a_mount_that_cannot_be_is_refused():
    chosen = choice()
    chosen.add_transform("base_link", "camera_optical", (0.0, 0.0, -0.4), OPTICAL)
    assert chosen.decide("camera_optical", now=0.0)
    assert chosen.mount == CONFIGURED
    assert "CameraMount.height" in chosen.text


def test_the_lookup_works_between_any_two_frames():
    tree = TransformTree()
    add_robot(tree.add)
    tree.add("base_link", "laser", (0.2, 0.0, 0.1), about("z", math.pi / 2))
    matrix = tree.lookup("laser", "camera_optical")
    back = tree.lookup("camera_optical", "laser")
    assert matrix @ back == pytest.approx(np.eye(4), abs=1e-12)
    # A point 1 m before the camera: along its optical axis, 20° down and 10° left of the base's x axis.
    ahead = tree.lookup("base_link", "camera_optical") @ [0.0, 0.0, 1.0, 1.0]
    origin = tree.lookup("base_link", "camera_optical")[:3, 3]
    pitch, yaw = math.radians(20), math.radians(10)
    axis = (math.cos(pitch) * math.cos(yaw), math.cos(pitch) * math.sin(yaw), -math.sin(pitch))
    assert ahead[:3] - origin == pytest.approx(axis)


def test_loops_and_malformed_transforms_are_refused():
    tree = TransformTree()
    tree.add("a", "b", (0.0, 0.0, 0.0), UPRIGHT)
    tree.add("b", "a", (0.0, 0.0, 0.0), UPRIGHT)
    with pytest.raises(TransformError, match="'base_link' and 'a'"):
        tree.lookup("base_link", "a")
    with pytest.raises(ValueError, match="unit quaternion"):
        tree.add("a", "c", (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="finite"):
        tree.add("a", "c", (0.0, math.nan, 0.0), UPRIGHT)


def test_rotation_matrices_of_turns_about_each_axis():
    assert rotation_matrix(about("z", math.pi / 2)) @ [1, 0, 0] == pytest.approx([0, 1, 0])
    assert rotation_matrix(about("x", math.pi / 2)) @ [0, 1, 0] == pytest.approx([0, 0, 1])
    assert rotation_matrix(about("y", math.pi / 2)) @ [0, 0, 1] == pytest.approx([1, 0, 0])
