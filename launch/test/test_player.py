"""The player keeps the recording's timing and lets time go on over loops."""

import itertools
import statistics
import threading
import time

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: source scripts/env.sh")

import rclpy
from nav_msgs.msg import Odometry
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import String
from synthetic import write_corridor

from dual_nav_bringup.domain import free_domain_id
from dual_nav_bringup.player import LATCHED_QOS, Player
from dual_nav_util.recording import SECOND, Recording, choose_topics

QUEUE = QoSProfile(depth=200)
FRAMES, FPS, LOOPS, RATE = 10, 10.0, 3, 2.0


def to_ns(stamp) -> int:
    return stamp.sec * SECOND + stamp.nanosec


def wait_until(condition) -> None:
    """For 30 s; what is missing then the tests say."""
    end = time.monotonic() + 30.0
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)


@pytest.fixture(scope="module")
def received(tmp_path_factory):
    """(player, what a subscriber got per topic as (monotonic arrival, ROS time in ns or text))."""
    bag = write_corridor(tmp_path_factory.mktemp("bag") / "corridor", count=FRAMES, fps=FPS)
    context = rclpy.Context()
    context.init(domain_id=free_domain_id())
    node = rclpy.create_node("player_test", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    got = {"rgb": [], "odom": [], "clock": [], "instruction": []}
    wanted = (
        (Image, "rgb", QUEUE, lambda message: to_ns(message.header.stamp)),
        (Odometry, "odom", QUEUE, lambda message: to_ns(message.header.stamp)),
        (Clock, "/clock", QUEUE, lambda message: to_ns(message.clock)),
        (String, "instruction", LATCHED_QOS, lambda message: message.data),
    )
    for kind, topic, qos, value in wanted:
        note = got[topic.strip("/")]

        def remember(message, note=note, value=value) -> None:
            note.append((time.monotonic(), value(message)))

        node.create_subscription(kind, topic, remember, qos)
    with Recording(bag) as recording:
        player = Player(node, recording, choose_topics(recording, {}), RATE, LOOPS, None)
        spinner = threading.Thread(target=executor.spin, daemon=True)
        spinner.start()
        wait_until(lambda: all(player.subscribers(topic) for topic in ("rgb", "odom", "instruction")))
        player.play(lambda: True)
        wait_until(lambda: len(got["rgb"]) >= FRAMES * LOOPS and len(got["instruction"]) >= LOOPS)
        time.sleep(0.5)  # for what should not come
    executor.shutdown()
    spinner.join()
    node.destroy_node()
    context.shutdown()
    return player, got


def test_every_frame_of_every_loop_is_published_with_a_stamp_of_its_own(received):
    player, got = received
    stamps = [stamp for _, stamp in got["rgb"]]
    assert len(stamps) == FRAMES * LOOPS
    assert stamps == sorted(player.frame_sent)
    gaps = {after - before for before, after in itertools.pairwise(stamps)}
    assert max(gaps) == pytest.approx(min(gaps), abs=2)  # the first frame of a loop follows like any other
    assert len(got["odom"]) == LOOPS * (1 + round((FRAMES - 1) / FPS * 50))


def test_the_instruction_is_given_anew_with_every_loop(received):
    _, got = received
    assert len(got["instruction"]) == LOOPS


def test_the_clock_runs_evenly_at_the_rate_and_never_back(received):
    _, got = received
    times = [stamp for _, stamp in got["clock"]]
    assert times == sorted(times)
    steps = [after - before for before, after in itertools.pairwise(times)]
    assert statistics.median(steps) < 0.05 * SECOND
    assert max(steps) < SECOND  # a busy machine delays some
    (first, begin), (last, end) = got["clock"][0], got["clock"][-1]
    assert (end - begin) / SECOND / (last - first) == pytest.approx(RATE, rel=0.3)


def test_an_instruction_given_by_hand_replaces_the_recorded_one(tmp_path):
    bag = write_corridor(tmp_path / "corridor", count=2)
    context = rclpy.Context()
    context.init(domain_id=free_domain_id())
    node = rclpy.create_node("player_test", context=context)
    said = []
    node.create_subscription(String, "instruction", lambda message: said.append(message.data), LATCHED_QOS)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    with Recording(bag) as recording:
        player = Player(node, recording, choose_topics(recording, {}), 10.0, 1, "Go home.")
        player.play(lambda: True)
        end = time.monotonic() + 30.0
        while not said and time.monotonic() < end:
            executor.spin_once(timeout_sec=0.05)
    node.destroy_node()
    context.shutdown()
    assert said == ["Go home."]
