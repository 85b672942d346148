"""The newest item wins, and a worker outlives the errors of its function."""

import threading
import time

import pytest

from dual_nav_util.latest import Latest
from dual_nav_util.worker import Worker


def test_a_new_item_replaces_an_unread_one_and_is_counted():
    latest = Latest()
    for number in range(5):
        latest.put("frame", number)
    assert latest.take() == ("frame", 4)
    assert latest.dropped("frame") == 4


def test_lanes_do_not_replace_each_other_and_keep_their_order():
    latest = Latest()
    latest.put("rgb", 1)
    latest.put("depth", 1)
    latest.put("rgb", 2)
    assert [latest.take(), latest.take()] == [("rgb", 2), ("depth", 1)]


def test_taking_waits_for_an_item_and_closing_ends_the_wait():
    latest = Latest()
    taken = []
    thread = threading.Thread(target=lambda: taken.extend([latest.take(), latest.take()]))
    thread.start()
    time.sleep(0.05)
    assert not taken
    latest.put("frame", "late")
    latest_closed = threading.Timer(0.1, latest.close)
    latest_closed.start()
    thread.join(timeout=30)
    assert taken == [("frame", "late"), None]


def test_nothing_is_taken_after_closing():
    latest = Latest()
    latest.put("frame", 1)
    latest.close()
    latest.put("frame", 2)
    assert latest.take() is None


def test_a_slow_function_sees_only_the_newest_item():
    seen, first_started, release, finished = [], threading.Event(), threading.Event(), threading.Event()

    def slow(number):
        first_started.set()
        release.wait(30)
        seen.append(number)
        if number == 9:
            finished.set()

    worker = Worker("test", {"frame": slow}, on_error=lambda lane, error: None)
    worker.put("frame", 0)
    assert first_started.wait(30)
    for number in range(1, 10):
        worker.put("frame", number)
    release.set()
    assert finished.wait(30)
    assert seen == [0, 9]
    assert worker.dropped("frame") == 8
    assert worker.stop(30)


def test_an_error_is_reported_and_the_next_item_is_worked_on():
    errors, done = [], threading.Event()

    def function(number):
        if number == 0:
            raise ValueError("no")
        done.set()

    worker = Worker("test", {"frame": function}, on_error=lambda lane, error: errors.append((lane, str(error))))
    worker.put("frame", 0)
    while not errors:
        time.sleep(0.01)
    worker.put("frame", 1)
    assert done.wait(30)
    assert errors == [("frame", "no")]
    assert worker.stop(30)


def test_stop_says_when_the_function_is_still_busy():
    release, started = threading.Event(), threading.Event()

    def hang(_):
        started.set()
        release.wait(30)

    worker = Worker("test", {"frame": hang}, on_error=lambda lane, error: None)
    worker.put("frame", 0)
    assert started.wait(30)
    assert worker.stop(0.05) is False
    release.set()
    assert worker.stop(30) is True


def test_an_unknown_lane_is_an_error_that_names_the_known_ones():
    worker = Worker("test", {"frame": print}, on_error=lambda lane, error: None)
    with pytest.raises(KeyError, match="this worker has frame"):
        worker.put("image", 0)
    worker.stop(1)


def test_a_worker_is_idle_when_what_it_was_given_is_worked_off():
    go = threading.Event()
    worker = Worker("idle", {"lane": lambda _: go.wait(30)}, lambda *_: None)
    try:
        assert worker.wait_idle(30.0)
        worker.put("lane", 1)
        assert not worker.wait_idle(0.05)
        go.set()
        assert worker.wait_idle(30.0)
    finally:
        worker.stop(1.0)
