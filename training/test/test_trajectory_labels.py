"""Labels are those of the public data loaders, number by number, and what they say about a path is true."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from dual_nav_training import trajectory_labels as labels
from s1_controller_node.path import path_from_increments

VECTORS = json.loads(Path(__file__).with_name("trajectory_label_vectors.json").read_text())


@pytest.mark.parametrize("case", VECTORS["dual"], ids=lambda case: f"{len(case['path'])} points")
def test_dual_label_is_the_reference(case):
    label = labels.dual_label(np.asarray(case["path"]))
    assert label.shape == (32, 3)
    np.testing.assert_allclose(label, case["label"], atol=2e-5)


@pytest.mark.parametrize("case", VECTORS["navdp"], ids=lambda case: f"{len(case['path'])} points")
def test_navdp_label_and_critic_are_the_reference(case):
    path = np.asarray(case["path"])
    turned = labels.turned(path, case["angle"])
    indices = labels.navdp_indices(len(path), 24, 4)
    initial = path[1] - path[0]
    poses = labels.with_directions(path, initial)
    np.testing.assert_allclose(poses[-1], case["goal"], atol=1e-5)
    np.testing.assert_allclose(labels.navdp_label(poses, indices), case["label"], atol=2e-5)
    augmented = labels.navdp_label(labels.with_directions(turned, initial), indices)
    np.testing.assert_allclose(augmented, case["augmented"], atol=2e-5)
    obstacles = cKDTree(case["obstacles"])
    for name, way in (("label_critic", path), ("augmented_critic", turned)):
        world = np.column_stack((-way[:, 1], way[:, 0]))
        assert labels.critic_label(world, indices, obstacles) == pytest.approx(case[name], abs=1e-5)


def test_the_controller_reads_the_path_back():
    """What the controller makes of a label runs along the recorded arc."""
    angles = np.linspace(0.0, math.pi / 2, 14)
    arc = 2.0 * np.column_stack((np.sin(angles), 1.0 - np.cos(angles)))
    path = path_from_increments(labels.dual_label(arc)[None])[0]
    radius = np.linalg.norm(path[:, :2] - (0.0, 2.0), axis=1)
    np.testing.assert_allclose(radius, 2.0, atol=0.01)
    assert np.linalg.norm(np.diff(path[:30, :2], axis=0), axis=1) == pytest.approx(labels.SPAN / 32, abs=0.002)


def test_turning_on_the_spot_and_trembling_leave_no_trace():
    straight = np.column_stack((np.arange(6) * 0.25, np.zeros(6)))
    trembling = np.repeat(straight, 2, axis=0)
    trembling[1::2] += 0.01
    trembling[1::2, 0] += 0.02
    trembling[2::2, 0] += 0.02
    assert np.abs(labels.dual_label(trembling)[:, 1]).max() < 0.2
    assert not labels.dual_label(np.zeros((5, 2))).any()


@pytest.mark.parametrize(("pitch", "forward"), [(0.0, 0.0), (math.radians(30), 0.0), (math.radians(30), 0.12)])
def test_relative_path_is_the_robots(pitch, forward):
    """However the camera sits on it and whatever the world's axes are."""
    poses = np.asarray([(1.0, 2.0, 0.5), (1.2, 2.1, 0.7), (1.1, 2.6, -2.0)])
    mount = labels.camera_mount(pitch, forward)
    mount[2, 3] = 0.6
    world = np.asarray([[0, 0, 1, 5.0], [1, 0, 0, -2], [0, 1, 0, 1], [0, 0, 0, 1]])
    cameras = []
    for x, y, yaw in poses:
        robot = np.eye(4)
        robot[:2, :2] = [[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]]
        robot[:2, 3] = (x, y)
        cameras.append(world @ robot @ mount)
    path = labels.relative_path(np.stack(cameras), pitch, forward)
    cos, sin = math.cos(0.5), math.sin(0.5)
    offset = poses[:, :2] - poses[0, :2]
    np.testing.assert_allclose(path[:, 0], offset @ (cos, sin), atol=1e-9)
    np.testing.assert_allclose(path[:, 1], offset @ (-sin, cos), atol=1e-9)
    np.testing.assert_allclose(path[:, 2], poses[:, 2] - 0.5, atol=1e-9)


def test_bad_paths_are_refused():
    with pytest.raises(ValueError, match=r"finite values of shape \(N, 2\)"):
        labels.dual_label(np.asarray([[0.0, 0.0], [np.nan, 1.0]]))
    with pytest.raises(ValueError, match="at least 2 points"):
        labels.navdp_indices(1, 24, 4)
