"""RGB and depth meet by stamp without waiting; frames of a few seconds are found again by stamp."""

from dataclasses import dataclass

import pytest

from s1_controller_node.frames import FrameNotFound, FrameRing
from s1_controller_node.pairing import StampPairing

MS = 1_000_000


@dataclass
class Frame:
    stamp_ns: int


def test_equal_stamps_pair_at_once_whichever_side_comes_first():
    pairing = StampPairing(5 * MS)
    assert pairing.add("rgb", 100 * MS, "r1") is None
    assert pairing.add("depth", 100 * MS, "d1") == ("r1", "d1")
    assert pairing.add("depth", 133 * MS, "d2") is None
    assert pairing.add("rgb", 133 * MS, "r2") == ("r2", "d2")


def test_the_nearest_partner_within_the_tolerance_is_taken():
    pairing = StampPairing(10 * MS)
    pairing.add("depth", 92 * MS, "far")
    pairing.add("depth", 103 * MS, "near")
    assert pairing.add("rgb", 100 * MS, "r") == ("r", "near")


def test_stamps_further_apart_than_the_tolerance_do_not_pair():
    pairing = StampPairing(5 * MS)
    pairing.add("rgb", 100 * MS, "r")
    assert pairing.add("depth", 106 * MS, "d") is None


def test_a_pair_is_never_older_than_the_last_one():
    pairing = StampPairing(5 * MS)
    pairing.add("rgb", 100 * MS, "r1")
    pairing.add("rgb", 133 * MS, "r2")
    assert pairing.add("depth", 133 * MS, "d2") == ("r2", "d2")
    assert pairing.add("depth", 100 * MS, "late") is None
    assert pairing.unpaired == 1


def test_a_side_that_never_comes_does_not_fill_the_memory():
    pairing = StampPairing(5 * MS, keep=4)
    for index in range(1000):
        pairing.add("rgb", index * 33 * MS, index)
    assert pairing.unpaired == 996
    assert pairing.add("depth", 990 * 33 * MS, "d") is None


def test_nothing_pairs_across_a_clear():
    pairing = StampPairing(5 * MS)
    pairing.add("rgb", 100 * MS, "r")
    pairing.clear()
    assert pairing.add("depth", 100 * MS, "d") is None


def ring_at_30_hz(count: int, capacity: int = 100) -> FrameRing:
    ring = FrameRing(capacity)
    for index in range(count):
        ring.add(Frame(1000 * MS + index * 33 * MS))
    return ring


def test_a_frame_is_found_by_its_exact_stamp():
    assert ring_at_30_hz(10).find(1000 * MS + 3 * 33 * MS).stamp_ns == 1099 * MS


@pytest.mark.parametrize(("offset_ms", "expected_ms"), [(16, 1099), (-16, 1099), (17, 1132)])
def test_the_nearest_frame_is_found(offset_ms, expected_ms):
    assert ring_at_30_hz(10).find((1099 + offset_ms) * MS).stamp_ns == expected_ms * MS


def test_for_a_frame_that_was_lost_its_neighbour_is_taken_and_nothing_further_away():
    ring = FrameRing(100)
    for index in (0, 1, 2, 3, 5, 6, 10):
        ring.add(Frame(1000 * MS + index * 33 * MS))
    assert ring.find((1000 + 4 * 33) * MS).stamp_ns in {(1000 + 3 * 33) * MS, (1000 + 5 * 33) * MS}
    with pytest.raises(FrameNotFound):
        ring.find((1000 + 8 * 33) * MS)


def test_the_neighbour_of_a_lost_frame_is_found_although_stamps_are_rounded():
    ring = FrameRing(100)
    for index in (0, 1, 2, 3, 5):
        ring.add(Frame(round(index * 1e9 / 30)))
    assert ring.find(round(4e9 / 30)).stamp_ns in {round(3e9 / 30), round(5e9 / 30)}


@pytest.mark.parametrize("stamp_ms", [900, 1400])
def test_a_frame_outside_the_ring_is_an_error_that_says_what_is_kept(stamp_ms):
    with pytest.raises(FrameNotFound, match=f"{stamp_ms * MS} ns is not among the 10 kept frames"):
        ring_at_30_hz(10).find(stamp_ms * MS)


def test_an_empty_ring_says_so():
    with pytest.raises(FrameNotFound, match="no camera frame has been received yet"):
        FrameRing(3).find(1)


def test_only_the_newest_frames_are_kept():
    ring = ring_at_30_hz(50, capacity=8)
    wanted = (1000 + 48 * 33) * MS
    assert [frame.stamp_ns for frame in ring.newest_until(wanted, 3)] == [(1000 + i * 33) * MS for i in (46, 47, 48)]
    assert len(ring.newest_until(wanted, 100)) == 7
    with pytest.raises(FrameNotFound):
        ring.find(1000 * MS)


def test_a_stamp_that_does_not_rise_is_refused():
    ring = ring_at_30_hz(2)
    with pytest.raises(ValueError, match="is not after the newest one"):
        ring.add(Frame(1033 * MS))
