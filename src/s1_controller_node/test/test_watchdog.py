"""The watchdog passes commands on while the controller lives, and nothing but zeros otherwise."""

from __future__ import annotations

import math
import time

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Twist, TwistStamped
from rclpy.lifecycle import TransitionCallbackReturn

from dual_nav_util import qos
from dual_nav_util.testing import Graph
from nav_msgs_ext.msg import ControllerState
from s1_controller_node.watchdog import CmdVelWatchdog

TIMEOUT, RATE = 0.5, 50.0  # s, Hz
SLACK = 0.3  # s a message may take on a slow and crowded machine


class Controller:
    """Plays the controller: heartbeat and commands at 50 Hz while they are switched on; hears what the base gets."""

    def __init__(self, graph: Graph, stamped: bool = False) -> None:
        self.graph, self.kind = graph, TwistStamped if stamped else Twist
        self.beats, self.commands = True, True
        self.v, self.omega = 0.3, -0.2
        self.received: list[tuple[float, Twist | TwistStamped]] = []
        self._state = graph.tester.create_publisher(ControllerState, "s1/state", qos.NEWEST_STATE)
        self._command = graph.tester.create_publisher(self.kind, "cmd_vel_in", qos.NEWEST_STATE)
        graph.listen(self.kind, "cmd_vel", qos.DEFAULT, lambda m: self.received.append((time.monotonic(), m)))
        self.node = graph.make(CmdVelWatchdog, heartbeat_timeout=TIMEOUT, rate=RATE, cmd_vel_stamped=stamped)
        assert self.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert self.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        graph.wait_for(lambda: self._command.get_subscription_count(), "the watchdog listens")

    def start(self) -> None:
        self.graph.tester.create_timer(0.02, self._send)

    def _send(self) -> None:
        if self.beats:
            self._state.publish(ControllerState())
        if self.commands:
            command = self.kind()
            twist = command.twist if isinstance(command, TwistStamped) else command
            twist.linear.x, twist.angular.z = self.v, self.omega
            if isinstance(command, TwistStamped):
                command.header.frame_id = "base_of_this_robot"
            self._command.publish(command)

    def velocities(self, since: float = 0.0) -> list[tuple[float, float, float]]:
        """What the base got: moment, v, omega."""
        twists = [(moment, getattr(message, "twist", message)) for moment, message in self.received]
        return [(moment, t.linear.x, t.angular.z) for moment, t in twists if moment >= since]

    def passes(self) -> None:
        """Wait until commands arrive at the base."""
        begin = time.monotonic()
        self.graph.wait_for(lambda: any(v for _, v, _ in self.velocities(begin)), "commands are passed on")


@pytest.fixture
def graph():
    graph = Graph()
    yield graph
    graph.close()


@pytest.fixture
def controller(graph):
    controller = Controller(graph)
    controller.start()
    controller.passes()
    return controller


def stands(controller: Controller, since: float, seconds: float = 0.4) -> list[tuple[float, float, float]]:
    """Zeros keep coming, and nothing else; returns them."""
    time.sleep(max(0.0, since + seconds - time.monotonic()))
    got = controller.graph.wait_for(lambda: controller.velocities(since), "zeros")
    assert {(v, omega) for _, v, omega in got} == {(0.0, 0.0)}
    return got


def test_the_base_gets_zeros_before_anything_was_heard_of_the_controller(graph):
    controller = Controller(graph)
    begin = time.monotonic()
    graph.wait_for(lambda: len(controller.velocities(begin)) >= 0.4 * RATE, "zeros at the rate")
    assert 0.3 < time.monotonic() - begin < 2.0
    stands(controller, begin)
    graph.wait_for(lambda: "cmd_vel_watchdog: commands" in graph.diagnostics, "diagnostics")
    status = graph.diagnostics["cmd_vel_watchdog: commands"]
    assert status.level == DiagnosticStatus.WARN
    assert "nothing received yet" in status.message


def test_commands_of_a_living_controller_arrive_unchanged(controller):
    got = {(v, omega) for _, v, omega in controller.velocities()}
    assert got <= {(0.0, 0.0), (0.3, -0.2)}
    since = time.monotonic()
    time.sleep(0.3)
    assert {(v, omega) for _, v, omega in controller.velocities(since)} == {(0.3, -0.2)}


@pytest.mark.parametrize("silent", ["beats", "commands"])
def test_silence_ends_in_zeros_within_the_time_out_and_stays_so(controller, silent):
    setattr(controller, silent, False)
    since = time.monotonic()
    stands(controller, since + TIMEOUT + 1 / RATE + SLACK, seconds=0.5)


def test_commands_are_passed_on_again_when_the_controller_is_back(controller):
    controller.beats = False
    since = time.monotonic()
    controller.graph.wait_for(lambda: any(not v for _, v, _ in controller.velocities(since)), "a zero")
    controller.beats = True
    controller.passes()
    assert controller.node.incidents.count("silence") == 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_command_that_is_no_number_becomes_zero_at_once_and_is_reported(controller, value):
    controller.omega = value
    since = time.monotonic() + SLACK
    stands(controller, since, seconds=0.2)
    assert controller.node.incidents.count("command") > 0


def test_the_end_of_the_watchdog_is_a_zero(controller):
    assert controller.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    controller.graph.wait_for(lambda: controller.velocities()[-1][1:] == (0.0, 0.0), "a zero")
    time.sleep(SLACK)
    count = len(controller.received)
    time.sleep(0.1)
    assert len(controller.received) == count


def test_stamped_zeros_carry_time_and_the_frame_of_the_commands(graph):
    controller = Controller(graph, stamped=True)
    controller.start()
    controller.passes()
    controller.commands = False
    since = time.monotonic() + TIMEOUT + 1 / RATE + SLACK
    stands(controller, since, seconds=0.2)
    header = controller.received[-1][1].header
    assert header.frame_id == "base_of_this_robot"
    assert header.stamp.sec > 1_500_000_000
