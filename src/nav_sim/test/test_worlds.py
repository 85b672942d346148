"""Flats: the same everywhere, and always solvable."""

import os
import subprocess
import sys

import numpy as np
import pytest

from nav_sim.draw import Draw
from nav_sim.worlds import (
    APPROACH,
    COSINES,
    MAX_ITEMS,
    MIN_ITEMS,
    SINES,
    extent,
    is_connected,
    make_flat,
    mark_near,
)

# Computed on x86-64 with numpy 2.4; any other machine and version has to give the same.
FINGERPRINTS = {
    0: "218e024db1ec1635",
    1: "43b793d4a5a500a0",
    7: "fb6f78ac296f8f7e",
    42: "a1f6ddba53940a7f",
    1000000000: "b800c18de8b78e6d",
    1000000040: "2184cfd3190cea85",
}
SEEDS = range(40)


@pytest.mark.parametrize("seed", FINGERPRINTS)
def test_a_seed_gives_the_same_flat_on_every_machine(seed):
    assert make_flat(seed).fingerprint() == FINGERPRINTS[seed]


def test_the_hash_seed_of_python_changes_nothing():
    code = "from nav_sim.worlds import make_flat; print(make_flat(3).fingerprint())"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": number, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for number in ("1", "2")
    }
    assert found == {make_flat(3).fingerprint() + "\n"}


def test_draws_are_those_of_the_raw_stream():
    draw = Draw(1, 2, 3)
    assert [draw.below(1000) for _ in range(6)] == [670, 111, 511, 356, 704, 479]
    assert draw.shuffled(range(6)) == [5, 2, 3, 0, 1, 4]
    assert [draw.between(-5, 5) for _ in range(4)] == [3, -2, -4, 4]


def test_draws_are_even_and_stay_in_their_range():
    draw = Draw(5)
    counts = np.bincount([draw.below(7) for _ in range(7000)], minlength=7)
    assert counts.min() > 850  # 1000 ± 5 standard deviations
    assert counts.max() < 1150
    assert {draw.between(10, 20, 5) for _ in range(50)} == {10, 15, 20}
    with pytest.raises(ValueError, match="limit"):
        draw.below(0)


def test_the_turning_table_is_cosine_and_sine():
    angles = np.deg2rad(np.arange(24) * 15)
    assert np.abs(np.asarray(COSINES) / 1e4 - np.cos(angles)).max() < 1e-4
    assert np.abs(np.asarray(SINES) / 1e4 - np.sin(angles)).max() < 1e-4


@pytest.mark.parametrize("seed", SEEDS)
def test_a_flat_is_one_piece_for_the_robot_and_every_item_can_be_reached(seed):
    flat = make_flat(seed)
    assert 3 <= len(flat.rooms) <= 6
    assert MIN_ITEMS <= len(flat.items) <= MAX_ITEMS
    assert is_connected(flat.drivable)
    for room in range(len(flat.rooms)):
        box = flat.rooms[room].inside
        assert flat.drivable[box.y0 // 5 : box.y1 // 5, box.x0 // 5 : box.x1 // 5].any(), flat.rooms[room].name
    for item in flat.items:
        near = np.zeros_like(flat.drivable)
        mark_near(near, item.x, item.y, item.yaw, item.width, item.depth, APPROACH)
        assert (near & flat.drivable).any(), item.name


@pytest.mark.parametrize("seed", SEEDS)
def test_items_stand_in_their_rooms_and_not_in_each_other(seed):
    flat = make_flat(seed)
    taken = np.zeros_like(flat.drivable)
    for item in flat.items:
        box, inside = extent(item), flat.rooms[item.room].inside
        assert inside.x0 <= box.x0 <= box.x1 <= inside.x1, item.name
        assert inside.y0 <= box.y0 <= box.y1 <= inside.y1, item.name
        own = np.zeros_like(taken)
        mark_near(own, item.x, item.y, item.yaw, item.width - 8, item.depth - 8, 1)
        assert not (own & taken).any(), item.name
        taken |= own


def test_flats_differ():
    flats = [make_flat(seed) for seed in SEEDS]
    assert len({flat.fingerprint() for flat in flats}) == len(flats)
    assert len({len(flat.rooms) for flat in flats}) >= 3
    assert len({item.kind for flat in flats for item in flat.items}) >= 20
    assert len({item.colour for flat in flats for item in flat.items}) >= 8


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed: expected a non-negative integer, got -1"):
        make_flat(-1)
