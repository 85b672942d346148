"""The furniture catalogue, and the models behind it where they have been fetched."""

import math
import os
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from nav_sim import furniture, scene
from nav_sim.camera import Camera
from nav_sim.grid import Grid, grid_of
from nav_sim.scene import ROBOT_RADIUS, build_spec, load_scene
from nav_sim.simulator import Config, Simulator
from nav_sim.worlds import COLOURS, FURNISHING, MOVABLE, Item, make_flat

models = pytest.mark.skipif(
    furniture.archives_folder() is None,
    reason="the furniture models are not there (python3 scripts/fetch_debian.py fetches them)",
)


def test_every_kind_a_flat_may_need_is_in_the_catalogue():
    kinds = {entry.kind for entry in furniture.catalogue()}
    needed = {kind for required, optional in FURNISHING.values() for kind in (*required, *optional)} | set(MOVABLE)
    assert needed <= kinds
    assert "person" in kinds


def test_an_entry_is_either_painted_or_has_a_colour_of_its_own():
    for entry in furniture.catalogue():
        if entry.kind != "person":
            assert bool(entry.paint) != bool(entry.colour), entry.key
    assert len({entry.key for entry in furniture.catalogue()}) == len(furniture.catalogue())


@models
@pytest.mark.parametrize("key", ["chair_3", "sofa_2", "plant_1", "bed_2", "bathtub_1", "lamp_1", "person_2"])
def test_a_model_has_the_size_of_the_catalogue_and_stands_on_the_floor(key):
    entry = furniture.entry(key)
    parts = furniture.model_parts(key)
    vertices = np.concatenate([part.vertices for part in parts])
    size = np.ptp(vertices, axis=0)
    # Merging vertices of dense models takes up to a cell (4 cm) off.
    assert size == pytest.approx(np.asarray((entry.width, entry.depth, entry.height)) / 100, abs=0.05)
    assert vertices[:, 2].min() == pytest.approx(0.0, abs=0.03)
    assert set(entry.paint) <= {part.material for part in parts}
    for part in parts:
        assert part.faces.max() < len(part.vertices)
        assert np.linalg.norm(part.normals, axis=1) == pytest.approx(1.0, abs=1e-3)


@models
def test_the_attribution_is_kept():
    (copyright_file,) = furniture.attribution()
    text = copyright_file.read_text(errors="replace")
    assert "CC-BY-3.0" in text
    assert "Scopia" in text


def test_painting_keeps_light_and_dark_and_drops_the_colour():
    texture = np.zeros((8, 8, 3), np.uint8)
    texture[:4] = (200, 40, 40)
    texture[4:] = (90, 20, 20)
    painted = furniture.painted(texture)
    assert (painted[..., 0] == painted[..., 1]).all()
    assert painted[0, 0, 0] > painted[7, 0, 0]
    assert painted.mean() > 128


@models
def test_both_looks_are_the_same_world_to_the_physics():
    def colliders(look):
        model = build_spec(make_flat(2), look, Camera()).compile()
        chosen = model.geom_contype == 1
        return np.concatenate([model.geom_pos[chosen], model.geom_quat[chosen], model.geom_size[chosen]], axis=1)

    assert (colliders("furniture") == colliders("plain")).all()


@models
def test_the_robot_runs_into_nothing_that_cannot_be_seen():
    """Corners of an outline and of a box are near the drawn model, and what is drawn does not stick out."""
    for entry in furniture.catalogue():
        vertices = np.concatenate([part.vertices for part in furniture.model_parts(entry.key)])
        drawn = ConvexHull(vertices[vertices[:, 2] < 0.75, :2])
        size = np.asarray([entry.width, entry.depth]) / 100
        corners = size * (entry.outline or [(0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5), (0.5, -0.5)])
        outside = corners @ drawn.equations[:, :2].T + drawn.equations[:, 2]
        assert outside.max() < 0.055, entry.key
        collider = ConvexHull(corners).equations
        points = drawn.points[drawn.vertices]
        assert (points @ collider[:, :2].T + collider[:, 2]).max() < 0.03, entry.key


def test_a_round_thing_is_touched_where_its_round_side_is():
    ottoman = next(entry for entry in furniture.catalogue() if entry.kind == "ottoman")
    flat = make_flat(2)
    item = Item("ottoman", "black", ottoman.key, 0, 0, 0, 0, ottoman.width, ottoman.depth, ottoman.height)
    middle = Grid.centre(*np.argwhere(grid_of(flat).free)[0])
    flat = replace(flat, items=(replace(item, x=round(100 * middle[0]), y=round(100 * middle[1])),))
    with Simulator(flat, Config(look="plain")) as simulator:
        for bearing, touches_at in ((0.0, ottoman.width / 200), (math.pi / 4, (ottoman.width + ottoman.depth) / 400)):
            ahead = middle[0] + math.cos(bearing), middle[1] + math.sin(bearing)
            away = [touches_at + ROBOT_RADIUS + gap for gap in (0.03, -0.03)]
            for distance, hits in zip(away, (0, 1), strict=True):
                place = [m + distance * (a - m) for m, a in zip(middle, ahead, strict=True)]
                simulator.reset(*place, 0.0)
                simulator.step(0.1)
                assert len(simulator.collisions) == hits, (bearing, distance)


@models
def test_a_painted_item_looks_like_its_colour(rendering):
    flat = make_flat(5)
    index = next(i for i, item in enumerate(flat.items) if item.colour in COLOURS[:6])
    item = flat.items[index]
    with Simulator(flat, Config(look="furniture")) as simulator:
        plan, scale = simulator.plan_view(800)
    row, column = plan.shape[0] - round(item.y / 100 * scale), round(item.x / 100 * scale)
    patch = plan[row - 4 : row + 5, column - 4 : column + 5].reshape(-1, 3).astype(float).mean(axis=0)
    strongest = {"red": [0], "orange": [0], "yellow": [0, 1], "green": [1], "blue": [2], "purple": [0, 2]}[
        item.colour
    ]
    others = [channel for channel in range(3) if channel not in strongest]
    assert min(patch[strongest]) > max(patch[others]) + 10, (item.name, patch)


@models
def test_a_scene_comes_from_the_cache_and_a_broken_one_is_built_again(tmp_path, monkeypatch):
    archives = furniture.archives_folder()
    monkeypatch.setenv("NAV_SIM_STATE", str(tmp_path))
    monkeypatch.setattr(furniture, "archives_folder", lambda: archives)
    flat = make_flat(6)
    built = load_scene(flat, "furniture", Camera())
    (cached,) = (tmp_path / "scenes").glob("*.mjb")
    again = load_scene(flat, "furniture", Camera())
    assert (built.mesh_vert == again.mesh_vert).all()
    assert (built.tex_data == again.tex_data).all()
    cached.write_bytes(cached.read_bytes()[:10_000])
    assert load_scene(flat, "furniture", Camera()).ngeom == built.ngeom
    assert cached.stat().st_size > 100_000
    load_scene(flat, "furniture", Camera(height=0.8))
    assert len(list((tmp_path / "scenes").glob("*"))) == 2


@models
def test_a_full_cache_drops_what_was_not_used_for_longest_whatever_other_processes_remove(tmp_path, monkeypatch):
    archives = furniture.archives_folder()
    monkeypatch.setenv("NAV_SIM_STATE", str(tmp_path))
    monkeypatch.setattr(furniture, "archives_folder", lambda: archives)
    flat, camera = make_flat(7), Camera(64, 48)
    folder = tmp_path / "scenes"
    load_scene(flat, "furniture", camera)
    (used,) = folder.glob("*.mjb")
    (folder / "removed.mjb").symlink_to(folder / "nowhere")  # listed, but gone when it is looked at
    old = folder / "old.mjb"
    old.write_bytes(bytes(1000))
    os.utime(old, (0, 0))
    monkeypatch.setattr(scene, "CACHE_BYTES", used.stat().st_size + 500)
    used.unlink()
    load_scene(flat, "furniture", camera)
    assert used.is_file()
    assert not old.exists()
