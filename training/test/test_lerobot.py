"""Both layouts: what is written is read back, and what is wrong with a data set is named."""

from __future__ import annotations

import errno
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_fixtures import CE_LENGTHS, N1_LENGTHS, SETTING, write_ce, write_n1

from dual_nav_training.lerobot import (
    CameraSetting,
    DataError,
    VlnCeData,
    VlnN1Data,
    find_setting,
    fingerprint,
    read_obstacles,
)
from dual_nav_training.lerobot_writer import CeSceneWriter


@pytest.fixture(scope="module")
def ce_made(tmp_path_factory):
    return write_ce(tmp_path_factory.mktemp("ce"))


@pytest.fixture(scope="module")
def n1_made(tmp_path_factory):
    return write_n1(tmp_path_factory.mktemp("n1"))


@pytest.fixture
def ce(ce_made, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(ce_made, tmp_path / "ce", ignore=shutil.ignore_patterns(".index"))
    return tmp_path / "ce"


@pytest.fixture
def n1(n1_made, tmp_path):
    shutil.copytree(n1_made, tmp_path / "n1", ignore=shutil.ignore_patterns(".index"))
    return tmp_path / "n1"


def rewrite(path, **columns):
    """Replace columns of a parquet file; None drops one."""
    table = pq.read_table(path)
    for name, values in columns.items():
        name = name.replace("__", ".")
        index = table.column_names.index(name)
        table = table.remove_column(index)
        if values is not None:
            table = table.append_column(name, pa.array(values))
    pq.write_table(table, path)


def test_vln_ce_is_read_back(ce_made):
    data = VlnCeData(ce_made)
    assert data.setting == SETTING == find_setting(ce_made)
    assert [data.length(e) for e in range(len(data))] == CE_LENGTHS
    assert data.instructions[0] == ("Go to the lamp.", "Find the lamp.")
    assert data.actions_from(0).tolist() == [1, 1, 2, 2, 3, 1, 1, 1, 0]
    assert data.goal_frames[data.frames(0)].tolist() == [4, 3, -1, -1, -1, 3, 2, 1, -1]
    assert data.image_size(0, "level") == (40, 30)
    assert data.camera_forward[0] == pytest.approx(0.12)
    assert data.depth(0, 3, "look_down")[0, 0] == pytest.approx(1.3)
    assert abs(int(data.rgb(0, 5, "level")[0, 0, 0]) - 50) < 4
    np.testing.assert_allclose(data.poses[data.frames(0)][0][:3, 3], (0.12, 0.0, 0.6), atol=1e-9)


def test_of_several_cameras_in_one_data_set_those_are_read_that_are_chosen(ce):
    for parquet in (ce / "scene" / "data" / "chunk-000").iterdir():
        table = pq.read_table(parquet)
        for name in table.column_names:
            if "60cm" in name:
                table = table.append_column(name.replace("60cm", "125cm"), table.column(name))
        pq.write_table(table, parquet)
    for folder in list((ce / "scene" / "videos" / "chunk-000").iterdir()):
        shutil.copytree(folder, folder.with_name(folder.name.replace("60cm", "125cm")))
    with pytest.raises(DataError, match=r"data.cameras in training.*\(60, 0, 30\), .*\(125, 0, 30\)"):
        VlnCeData(ce)
    assert VlnCeData(ce, CameraSetting.of([125, 0, 30])).setting.height_cm == 125
    with pytest.raises(ValueError, match=r"cameras is \[125, 0\], expected three whole numbers"):
        CameraSetting.of([125, 0])


def test_vln_n1_is_read_back(n1_made):
    data = VlnN1Data(n1_made)
    assert [data.length(e) for e in range(len(data))] == N1_LENGTHS
    assert data.scenes == ["group/scene"]
    # The second episode's first image is its own, not the scene's.
    assert abs(int(data.rgb(1, 0)[0, 0, 0]) - 100) < 4
    assert data.depth(0, 2)[0, 0] == pytest.approx(1.2, abs=1e-4)
    assert data.intrinsics[0, 0, 0] == 30.0
    assert read_obstacles(data.point_cloud_file(0)).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    with pytest.raises(IndexError, match="episode 0 has 12 frames"):
        data.rgb(0, 12)


def test_the_index_is_kept_and_renewed(ce):
    VlnCeData(ce)
    (folder,) = (ce / ".index").iterdir()
    before = folder.stat().st_mtime_ns
    assert isinstance(VlnCeData(ce).poses, np.memmap)
    assert folder.stat().st_mtime_ns == before
    mark = fingerprint(ce)
    rewrite(ce / "scene" / "data" / "chunk-000" / "episode_000000.parquet", action=[-1, 1, 1, 2, 2, 2, 1, 1, 1])
    assert VlnCeData(ce).actions_from(0).tolist() == [1, 1, 2, 2, 2, 1, 1, 1, 0]
    assert len(list((ce / ".index").iterdir())) == 1
    assert fingerprint(ce) != mark


def test_an_image_that_went_is_noticed_with_an_index(ce):
    VlnCeData(ce)
    damage(ce, "missing image")
    with pytest.raises(DataError, match="is missing"):
        VlnCeData(ce)


def test_an_image_that_was_mended_in_place_is_noticed_with_an_index(ce):
    image = ce / f"{IMAGES}.rgb.60cm_0deg" / "episode_000000_4.jpg"
    whole = image.read_bytes()
    image.write_bytes(whole[:-200])
    assert len(VlnCeData(ce, on_problem="skip")) == len(CE_LENGTHS) - 1
    (folder,) = (ce / ".index").iterdir()
    before = folder.stat().st_mtime_ns
    assert VlnCeData(ce, on_problem="skip").problems  # from the index
    assert folder.stat().st_mtime_ns == before
    image.write_bytes(whole)
    assert len(VlnCeData(ce)) == len(CE_LENGTHS)


def test_a_disk_that_is_full_leaves_no_half_an_index(ce, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(np, "save", full)
        with pytest.raises(OSError, match="No space left"):
            VlnCeData(ce)
    assert not list((ce / ".index").iterdir())
    assert len(VlnCeData(ce)) == len(CE_LENGTHS)


def test_a_read_only_data_set_is_indexed_in_memory(ce, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("read-only")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    assert len(VlnCeData(ce)) == len(CE_LENGTHS)


SUFFIX = SETTING.suffix("look_down")
IMAGES = "scene/videos/chunk-000/observation.images"


def damage(root, how):
    parquet = root / "scene" / "data" / "chunk-000" / "episode_000000.parquet"
    level = root / f"{IMAGES}.rgb.60cm_0deg" / "episode_000000_4.jpg"
    depth = root / f"{IMAGES}.depth.{SUFFIX}" / "episode_000000_4.png"
    poses = pq.read_table(parquet).column(f"pose.{SUFFIX}").to_pylist()
    if how == "missing image":
        level.unlink()
    elif how == "cut image":
        level.write_bytes(level.read_bytes()[:-200])
    elif how == "cut depth":
        depth.write_bytes(depth.read_bytes()[:-20])
    elif how == "no image":
        level.write_bytes(b"text")
    elif how == "missing parquet":
        parquet.unlink()
    elif how == "no parquet":
        parquet.write_bytes(b"text")
    elif how == "missing column":
        rewrite(parquet, action=None)
    elif how == "NaN pose":
        poses[2][0][3] = float("nan")
        rewrite(parquet, **{f"pose__{SUFFIX}": poses})
    elif how == "no rotation":
        poses[2][0][0] += 0.1
        rewrite(parquet, **{f"pose__{SUFFIX}": poses})
    elif how == "wrong shape":
        rewrite(parquet, **{f"pose__{SUFFIX}": [pose[:3] for pose in poses]})
    elif how == "goal outside":
        goals = pq.read_table(parquet).column(f"goal.{SUFFIX}").to_pylist()
        rewrite(parquet, **{f"goal__{SUFFIX}": [[99.0, 5.0], *goals[1:]]})
    elif how == "goal after the end":
        rewrite(parquet, **{f"relative_goal_frame_id__{SUFFIX}": [9, *[-1] * 8]})
    elif how == "wrong length":
        lines = (root / "scene" / "meta" / "episodes.jsonl").read_text().splitlines()
        lines[0] = json.dumps({**json.loads(lines[0]), "length": 8})
        (root / "scene" / "meta" / "episodes.jsonl").write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing image", r"60cm_0deg/episode_000000_4\.jpg: is missing \(1 images"),
        ("cut image", r"episode_000000_4\.jpg: ends in the middle"),
        ("cut depth", r"episode_000000_4\.png: ends in the middle"),
        ("no image", r"episode_000000_4\.jpg: is not a JPG \(4 bytes\)"),
        ("missing parquet", r"episode_000000\.parquet: is missing"),
        ("no parquet", r"episode_000000\.parquet: is no readable parquet"),
        ("missing column", r"episode_000000\.parquet: lacks the columns action"),
        ("NaN pose", r"pose\.60cm_30deg is not finite in row 2 \(1 rows"),
        ("no rotation", r"pose\.60cm_30deg in row 2 is no rigid motion"),
        ("wrong shape", r"pose\.60cm_30deg must have 16 values in each of the 9 rows"),
        ("goal outside", r"goal\.60cm_30deg in row 0 is \[99\.0, 5\.0\], outside of the 40x30 image"),
        ("goal after the end", r"relative_goal_frame_id\.60cm_30deg in row 0 is 9, outside of the episode"),
        ("wrong length", r"has 9 rows, meta/episodes\.jsonl says 8"),
    ],
)
def test_what_is_wrong_is_named_or_left_out(ce, how, message):
    damage(ce, how)
    with pytest.raises(DataError, match=message):
        VlnCeData(ce)
    data = VlnCeData(ce, on_problem="skip")
    assert len(data) == len(CE_LENGTHS) - 1
    assert [len(data.problems), data.length(0)] == [1, CE_LENGTHS[1]]


def test_decoding_finds_what_the_ends_do_not_show(ce):
    path = ce / f"{IMAGES}.depth.{SUFFIX}" / "episode_000001_2.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    VlnCeData(ce)
    with pytest.raises(DataError, match=r"episode_000001_2\.png: cannot be decoded"):
        VlnCeData(ce, verify="decode")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cloud", r"pointcloud\.ply: cannot be read"),
        ("cut cloud", r"pointcloud\.ply: ends in the middle"),
        ("image", r"needs number 20"),
        ("stats", r"has 12 rows for the images 0 to 3"),
    ],
)
def test_vln_n1_problems_are_named(n1, how, message):
    scene = n1 / "group" / "scene"
    cloud, stats = scene / "meta" / "pointcloud.ply", scene / "meta" / "episodes_stats.jsonl"
    if how == "cloud":
        cloud.unlink()
    elif how == "cut cloud":
        cloud.write_bytes(cloud.read_bytes()[:-10])
    elif how == "image":
        (scene / "videos/chunk-000/observation.images.depth/episode_000000_000000.png").unlink()
    elif how == "stats":
        lines = [json.loads(line) for line in stats.read_text().splitlines()]
        lines[0]["image_index"]["max"] = 3
        stats.write_text("\n".join(json.dumps(line) for line in lines))
    with pytest.raises(DataError, match=message):
        VlnN1Data(n1)


def test_a_text_point_cloud_is_read(tmp_path):
    path = tmp_path / "cloud.ply"
    head = "ply\nformat ascii 1.0\nelement vertex 2\n" + "".join(f"property double {axis}\n" for axis in "xyz")
    head += "".join(f"property uchar {c}\n" for c in ("red", "green", "blue")) + "end_header\n"
    path.write_text(head + "1 2 0 0 0 128\n3 4 0 128 128 128\n")
    assert read_obstacles(path).tolist() == [[1.0, 2.0]]


def test_an_empty_folder_says_what_it_should_hold(tmp_path):
    with pytest.raises(DataError, match="<scene>/data"):
        VlnCeData(tmp_path)
    with pytest.raises(DataError, match="<group>/<scene>/meta"):
        VlnN1Data(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        VlnCeData(tmp_path / "nothing")


def test_an_interrupted_scene_leaves_nothing(tmp_path):
    def interrupted():
        with CeSceneWriter(tmp_path / "scene", CameraSetting(), np.eye(3), 0.0, 1.0):
            assert (tmp_path / "scene.partial").is_dir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())
