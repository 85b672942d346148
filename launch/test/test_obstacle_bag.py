"""A recorded drive on simulated time, in which somebody steps before the robot and goes away again.

The shape of the test of Nav2's collision monitor. The recording is made by `make_bag --scene obstacle_appears`; it
holds the planner's decisions too, so what is judged is the controller: camera, odometry and plans in, commands out.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nav_msgs_ext", reason="needs ROS 2 and the built workspace: source scripts/env.sh")

import rclpy
from geometry_msgs.msg import Twist
from rclpy.executors import SingleThreadedExecutor
from scenario import CONTROL_PERIOD, START_SECONDS, crowding, make_checkpoint

from dual_nav_bringup.domain import free_domain_id
from dual_nav_bringup.player import Player
from dual_nav_bringup.scenes import ObstacleAppears
from dual_nav_util import qos
from dual_nav_util.recording import SECOND, Recording, choose_topics
from nav_msgs_ext.msg import ControllerState

SCENE = ObstacleAppears()
SETTLED = 1.5  # [s] of the recording until the first plan is being driven
LONGEST_STOP, LONGEST_RESUME = 0.6, 0.6  # [s]
HELD, FALSE_STOPS = 0.95, 0.01  # shares of the commands
LARGEST_BAG = 3_000_000  # bytes


@dataclass(frozen=True)
class Reaction:
    """How commands follow an obstacle that comes and goes."""

    stop: float  # from its first picture to the first zero command [s]
    hold: float  # share of zero commands from then until it is gone
    resume: float  # from the first picture without it to the first command to move [s]
    false_stops: float  # share of zero commands before, and after the robot has resumed
    commands: int


def reaction(commands: np.ndarray, appears: float, clears: float, begin: float, end: float) -> Reaction:
    """Commands are rows of (moment [s], v [m/s], omega [rad/s]); the other times are [s] of the same clock."""
    moments, moving = commands[:, 0], (commands[:, 1:] != 0.0).any(axis=1)

    def first(kind: np.ndarray, since: float) -> float:
        later = moments[kind & (moments >= since)]
        return float(later[0]) if len(later) else np.inf

    stopped, resumed = first(~moving, appears), first(moving, clears)
    held = ~moving[(moments >= stopped) & (moments < clears)]
    free = ((moments >= begin) & (moments < appears)) | ((moments >= resumed) & (moments < end))
    return Reaction(
        stop=stopped - appears,
        hold=float(held.mean()) if len(held) else 0.0,
        resume=resumed - clears,
        false_stops=float((~moving[free]).mean()) if free.any() else 1.0,
        commands=len(commands),
    )


def test_the_figures_are_those_of_the_commands():
    times = np.arange(0, 11, 0.05)
    v = np.where((times >= 4.3) & (times < 7.2), 0.0, 0.4)
    v[100:103] = 0.1  # three of 54 while it should stand
    v[40] = 0.0  # one of 126 while it should drive
    found = reaction(np.stack([times, v, 0 * v], axis=1), 4.0, 7.0, 1.5, 11.0)
    assert found.stop == pytest.approx(0.3, abs=0.01)
    assert found.hold == pytest.approx(51 / 54)
    assert found.resume == pytest.approx(0.2, abs=0.01)
    assert found.false_stops == pytest.approx(1 / 126)
    never = reaction(np.stack([times, 0 * times + 0.4, 0 * times], axis=1), 4.0, 7.0, 1.5, 11.0)
    assert never.stop == np.inf
    assert never.hold == 0.0


@pytest.fixture(scope="module")
def commands(tmp_path_factory) -> np.ndarray:
    """What the controller commanded: rows of (moment of the recording [s], v, omega)."""
    folder = tmp_path_factory.mktemp("obstacle")
    bag = folder / "bag"
    make = [sys.executable, "-m", "dual_nav_bringup.make_bag", "--scene", "obstacle_appears", str(bag)]
    subprocess.run([*make, "--jpeg", "--compression", "chunk"], check=True, capture_output=True)
    assert sum(file.stat().st_size for file in bag.iterdir()) < LARGEST_BAG
    model = make_checkpoint(folder / "model")
    before = os.environ.get("ROS_DOMAIN_ID")
    os.environ["ROS_DOMAIN_ID"] = str(free_domain_id())
    try:
        return play(bag, model, folder / "nodes.log")
    finally:
        os.environ.pop("ROS_DOMAIN_ID") if before is None else os.environ.update(ROS_DOMAIN_ID=before)
        print((folder / "nodes.log").read_text()[-3000:])


def play(bag: Path, model: Path, log: Path) -> np.ndarray:
    context = rclpy.Context()
    context.init()
    node = rclpy.create_node("base", context=context)
    arrived: list[tuple[float, float, float]] = []
    states: list[ControllerState] = []
    executor = SingleThreadedExecutor(context=context)
    with Recording(bag) as recording, log.open("w") as sink:
        plans = {topic.name: topic for topic in recording.topics}["/s2/plan"]
        player = Player(node, recording, choose_topics(recording, {}) | {"s2/plan": plans}, 1.0, 1, None)

        def on_command(message: Twist) -> None:
            moment = (player.now_ns - recording.start_ns) / SECOND
            arrived.append((moment, message.linear.x, message.angular.z))

        node.create_subscription(Twist, "cmd_vel", on_command, qos.DEFAULT)
        node.create_subscription(ControllerState, "s1/state", states.append, qos.DEFAULT)
        executor.add_node(node)
        spinner = threading.Thread(target=executor.spin, daemon=True)
        spinner.start()
        words = [f"model:={model}", "s2:=false", "obstacle_stop:=true", "rgb_transport:=compressed"]
        command = [sys.executable, "-m", "dual_nav_bringup.launch_runner", "replay.launch.xml", *words]
        nodes = subprocess.Popen(command, stdout=sink, stderr=sink)
        try:
            end = time.monotonic() + START_SECONDS
            while not (states and arrived and player.subscribers("s2/plan")):
                assert time.monotonic() < end, "the controller is not active"
                time.sleep(0.05)
            player.play(lambda: True)
        finally:
            nodes.send_signal(signal.SIGINT)
            nodes.wait(timeout=30)
            executor.shutdown()
            spinner.join(timeout=5)
            node.destroy_node()
            context.shutdown()
    return np.array([row for row in arrived if row[0] > 0.0])


def test_the_robot_stops_in_time_stands_while_the_obstacle_is_there_and_goes_on_when_it_is_gone(commands):
    found = reaction(commands, SCENE.appears, SCENE.clears, SETTLED, SCENE.duration)
    print(
        f"\nobstacle appears: stop after {found.stop:.2f} s (limit {LONGEST_STOP}), held {found.hold:.1%} of the "
        f"commands ({HELD:.0%}), resumed after {found.resume:.2f} s ({LONGEST_RESUME}), false stops "
        f"{found.false_stops:.1%} ({FALSE_STOPS:.0%}), {found.commands} commands"
    )
    # On a crowded machine a picture waits for the processor before it is looked at.
    late = CONTROL_PERIOD * (crowding() - 1.0)
    assert found.stop <= LONGEST_STOP + late
    assert found.hold >= HELD
    assert found.resume <= LONGEST_RESUME + late
    assert found.false_stops <= FALSE_STOPS
    assert found.commands > 0.8 * SCENE.duration / CONTROL_PERIOD
