"""History frames are the reference's, in bounded memory."""

import tracemalloc

import numpy as np
import pytest

from s2_planner_node.history import FrameHistory, ImagePool


def test_selected_frames_are_those_of_the_reference(text_cases):
    for case in text_cases["history_frames"]:
        history = FrameHistory(case["num_history"], 512)
        for index in range(case["step"]):
            history.add(f"frame {index}")
        assert [index for index, _ in history.select()] == case["expected_history"]
        assert [frame for _, frame in history.select()] == [f"frame {i}" for i in case["expected_history"]]


def test_selection_is_exact_up_to_the_capacity():
    history = FrameHistory(8, 100)
    for count in range(1, 101):
        history.add(count - 1)
        assert [i for i, _ in history.select()] == np.unique(np.linspace(0, count - 1, 8, dtype=int)).tolist()


@pytest.mark.parametrize("capacity", [16, 17, 64, 512])
def test_beyond_the_capacity_the_error_is_a_small_share_of_the_episode(capacity):
    history = FrameHistory(8, capacity)
    for count in range(1, 6 * capacity):
        history.add(count - 1)
        wanted = np.unique(np.linspace(0, count - 1, 8, dtype=int))
        chosen = history.select()
        assert [index for index, _ in chosen] == [frame for _, frame in chosen]
        indices = np.array([index for index, _ in chosen])
        assert indices[0] == 0
        assert indices[-1] == count - 1
        error = np.abs(wanted[:, None] - indices[None]).min(1)
        assert error.max() <= count / (capacity - 1)
        assert history.stored <= capacity


def test_memory_stays_flat_over_100_000_frames():
    history = FrameHistory(8, 64)
    peaks = []
    tracemalloc.start()
    for index in range(100_000):
        history.add(np.zeros((12, 12, 3), np.uint8))
        if index % 20_000 == 19_999:
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.reset_peak()
    tracemalloc.stop()
    assert len(history) == 100_000
    assert history.stored <= 64
    assert peaks[-1] <= 1.1 * peaks[0]
    assert len(history.select()) == 8


def test_a_new_episode_starts_with_an_empty_history():
    history = FrameHistory(8, 16)
    history.add("old")
    history.clear()
    assert history.select() == []
    assert len(history) == 0


@pytest.mark.parametrize(("num_history", "capacity", "name"), [(-1, 16, "num_history"), (8, 15, "history_capacity")])
def test_sizes_that_cannot_work_are_refused(num_history, capacity, name):
    with pytest.raises(ValueError, match=name):
        FrameHistory(num_history, capacity)


def test_images_of_long_and_many_episodes_stay_in_the_memory_taken_at_the_start():
    history, pool = FrameHistory(8, 16), ImagePool(17, 4, 6)
    places = set()
    for length in (300, 5, 1000):
        for index in range(length):
            copy = pool.copy(np.full((4, 6, 3), index % 256, dtype=np.uint8))
            places.add(copy.ctypes.data)
            selected = history.select()
            for dropped in history.add(copy):
                pool.give_back(dropped)
            # What was selected is still whole after the next was added, and is what was added under its number.
            assert all((image == number % 256).all() for number, image in selected)
        for dropped in history.clear():
            pool.give_back(dropped)
    assert len(places) <= 17


def test_without_history_nothing_is_selected():
    history = FrameHistory(0, 2)
    for number in range(5):
        history.add(number)
    assert history.select() == []
    assert len(history) == 5
    assert history.stored <= 3
