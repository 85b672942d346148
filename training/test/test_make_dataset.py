"""Data sets from the simulator: both layouts, the same each time, resumable, never half of an episode."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from dual_nav_training import check_dataset, make_dataset
from dual_nav_training.lerobot import VlnCeData, VlnN1Data, fingerprint
from dual_nav_training.make_dataset import (
    DatasetError,
    Settings,
    camera_pose,
    n1_extrinsic,
    n1_pose,
    scene_name,
    tasks_for,
)
from dual_nav_training.samples import DualDataset, DualSampleConfig, NavDpDataset, S2SampleConfig
from nav_sim import gl
from nav_sim.camera import Camera
from nav_sim.episodes import grammar, make_episode
from nav_sim.simulator import Pose
from s1_controller_node.path import path_from_increments

SMALL = Settings(look="plain", width=64, height=48, families=("object",))


@pytest.fixture(scope="module", autouse=True)
def rendering():
    if not gl.choose():
        pytest.skip("neither EGL nor OSMesa can be used here (python3 scripts/fetch_debian.py provides OSMesa)")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two episodes in both layouts."""
    out = tmp_path_factory.mktemp("data") / "set"
    return out, make_dataset.make_dataset(SMALL, 2, out, workers=1, quiet=True)


def test_what_it_says_about_itself(made):
    out, about = made
    assert json.loads(json.dumps(about)) == json.loads((out / "dataset.json").read_text())
    assert (about["episodes"], about["complete"], about["failed"]) == (2, True, [])
    assert about["settings"]["seed"] == 0
    assert len(about["fingerprint"]) == 16
    assert "CC-BY 3.0" in about["licence"]
    assert not list(out.rglob("*.partial"))


def test_both_layouts_hold_the_episodes(made):
    out, about = made
    ce, n1 = VlnCeData(out / "vln_ce", verify="decode"), VlnN1Data(out / "vln_n1", verify="decode")
    assert (len(ce), len(n1)) == (2, 2)
    assert about["frames"] == {"vln_ce": len(ce.actions), "vln_n1": len(n1.poses)}
    assert ce.instructions[0][0] == make_episode("train", 0, "object", 0).instruction
    assert len(ce.instructions[0]) > 1


def test_images_fit_the_poses(made):
    """The floor at a pixel goal is as far away as the goal's place, by the depth image."""
    out, _ = made
    ce = VlnCeData(out / "vln_ce")
    camera = Camera(64, 48).tilted()
    errors = []
    for episode in range(len(ce)):
        frames = ce.frames(episode)
        for frame in np.flatnonzero(ce.goal_frames[frames] >= 0):
            poses = ce.poses[frames]
            column, row = ce.goals[frames][frame]
            place = poses[frame + ce.goal_frames[frames][frame]] @ np.linalg.inv(camera_pose(Pose(0, 0, 0), camera))
            local = np.linalg.inv(poses[frame]) @ place[:, 3]
            depth = ce.depth(episode, int(frame), "look_down")[round(float(row)), round(float(column))]
            errors.append(abs(depth - local[2]) / local[2])
    assert len(errors) > 20
    assert np.median(errors) < 0.05


def test_labels_lead_to_the_pixel_goal(made):
    """The dual system's trajectory at the plan's frame ends at the floor point of its pixel goal."""
    out, _ = made
    data = VlnCeData(out / "vln_ce")
    plans = DualDataset(data, DualSampleConfig(image_size=28), S2SampleConfig(image_width=28, image_height=28))
    camera = Camera(64, 48).tilted()
    compared = 0
    for number in range(len(plans)):
        plan = plans[number]
        path = path_from_increments(plan.trajectories[:1])[0]
        if np.linalg.norm(np.diff(path[-2:, :2], axis=0)) > 0.01:
            continue  # longer than a label reaches
        goal = camera.floor_point(*plan.prompt.pixel_goal)
        assert math.dist(path[-1, :2], goal) < 0.05
        compared += 1
    assert compared > 2


def test_the_camera_of_the_vln_n1_layout_sits_on_the_robot():
    """Ahead is −z of the camera, up is y; its place is ahead of and above the robot's centre."""
    camera = Camera()
    pose = n1_pose(Pose(1.0, 2.0, math.pi / 2), camera)
    np.testing.assert_allclose(-pose[:3, 2], (0, 1, 0), atol=1e-12)
    np.testing.assert_allclose(pose[:3, 1], (0, 0, 1), atol=1e-12)
    np.testing.assert_allclose(pose[:3, 3], (1.0, 2.12, 0.6), atol=1e-12)
    body = pose @ np.linalg.inv(n1_extrinsic(camera))
    np.testing.assert_allclose(body[:3, 1], (0, 1, 0), atol=1e-12)
    np.testing.assert_allclose(body[:3, 3], (1.0, 2.0, 0.0), atol=1e-12)


def test_navdp_paths_are_clear_of_obstacles(made):
    """No step of a driven path is priced as too close; some turned paths are."""
    out, _ = made
    dataset = NavDpDataset(VlnN1Data(out / "vln_n1"))
    labels = [dataset.sample(i % 2, np.random.default_rng(i)) for i in range(12)]
    assert min(float(sample["label_critic"]) for sample in labels) > -1.0
    assert all(torch_is_finite(sample) for sample in labels)


def torch_is_finite(sample):
    return all(bool(value.isfinite().all()) for value in sample.values())


def test_the_same_again_and_other_seeds_differ(made, tmp_path):
    _, about = made
    again = make_dataset.make_dataset(SMALL, 2, tmp_path / "again", workers=1, quiet=True)
    assert again["fingerprint"] == about["fingerprint"]
    assert fingerprint(tmp_path / "again") == about["fingerprint"]


def test_goes_on_where_it_was_stopped(made, tmp_path, monkeypatch):
    """Killed in the second scene: the first stays, nothing partial is left behind by the next run."""
    _, about = made
    out, write = tmp_path / "set", make_dataset.write_scenes
    done = []

    def stop_at_second(task):
        if done:
            half = make_dataset.scene_folder(out, "vln_ce", f"{scene_name(SMALL, '0001', 7)}.partial")
            half.mkdir()
            (half / "image.jpg").write_bytes(b"half")
            raise KeyboardInterrupt
        done.append(task)
        return write(task)

    monkeypatch.setattr(make_dataset, "write_scenes", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        make_dataset.make_dataset(SMALL, 2, out, workers=1, quiet=True)
    assert not json.loads((out / "dataset.json").read_text())["complete"]
    (scene,) = (path for path in (out / "vln_ce").iterdir() if path.suffix != ".partial")
    before = scene.stat().st_mtime_ns
    monkeypatch.setattr(make_dataset, "write_scenes", write)
    (out / "scenes.jsonl").open("a").write('{"keys": [["obj')  # a line cut off
    resumed = make_dataset.make_dataset(SMALL, 2, out, workers=1, quiet=True)
    assert resumed["fingerprint"] == about["fingerprint"]
    recording = make_dataset.scene_folder(out, "vln_ce", "lab")  # converted into the same folder by a person
    recording.mkdir()
    make_dataset.make_dataset(SMALL, 2, out, workers=1, quiet=True)
    assert recording.is_dir()
    assert scene.stat().st_mtime_ns == before
    assert not list(out.rglob("*.partial"))


def test_other_settings_and_other_folders_are_refused(made, tmp_path):
    out, _ = made
    with pytest.raises(DatasetError, match=r"other settings \(seed\)"):
        make_dataset.make_dataset(Settings(**{**SMALL.__dict__, "seed": 1}), 2, out, quiet=True)
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(DatasetError, match="is not empty and no data set"):
        make_dataset.make_dataset(SMALL, 2, tmp_path, quiet=True)


def test_training_wordings_only(made):
    """No sentence of the data set can come from the test grammar."""
    out, _ = made
    starts = {template.split("{")[0] for rule in ("object",) for template in grammar("test")[rule]}
    texts = [text for texts in VlnCeData(out / "vln_ce").instructions for text in texts]
    assert texts
    assert not [text for text in texts for start in starts if start and text.startswith(start)]


def test_work_is_spread_over_flats():
    """Two workers begin with two flats; every episode is there once."""
    tasks = tasks_for(Settings(), 60, None, 2)
    numbers = [task.keys[0][1] for task in tasks]
    assert numbers[:4] == [0, 4, 1, 5]
    assert sorted(key for task in tasks for key in task.keys) == sorted(
        (family, number) for family in Settings().families for number in range(20)
    )


@pytest.mark.parametrize(
    ("values", "message"), [({"families": ("flying",)}, "families"), ({"wordings": 0}, "wordings"),
                            ({"slip_percent": 80}, "slip_percent"), ({"layouts": ()}, "layouts")]
)  # fmt: skip
def test_bad_settings_name_the_field(values, message):
    with pytest.raises(ValueError, match=message):
        Settings(**values)


def test_the_check_prints_and_draws(made, tmp_path, capsys):
    out, _ = made
    assert check_dataset.main([str(out), "--out", str(tmp_path), "--samples", "3"]) == 0
    text = capsys.readouterr().out
    assert "2 episodes" in text
    assert "pixel_goal" in text
    pictures = {path.name.split("_")[0] for path in tmp_path.glob("*.png")}
    assert pictures == {"pixel", "planner", "plan", "navdp"}
    cameras = ["--cameras", "55", "0", "30"]
    assert check_dataset.main([str(out), "--out", str(tmp_path), *cameras]) == 1
    assert "55cm_30deg" in capsys.readouterr().err
    assert check_dataset.main([str(tmp_path), "--out", str(tmp_path)]) == 1
    assert "neither <scene>/meta" in capsys.readouterr().err
