"""The furniture catalogue, and the models behind it where they have been fetched."""

import os

import numpy as np
import pytest

from nav_sim import furniture, scene
from nav_sim.camera import Camera
from nav_sim.scene import build_spec, load_scene
from nav_sim.simulator import Config, Simulator
from nav_sim.worlds import COLOURS, FURNISHING, MOVABLE, make_flat

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
