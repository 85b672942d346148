"""What both nodes have in common as ROS processes: life cycle, parameters, diagnostics, signals.

This is a ROS module: it imports rclpy.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from rclpy.timer import Timer

from .diagnostics import Incidents, StatusBuilder, diagnostic_array
from .node_parameters import NodeParameters

DIAGNOSTICS_PERIOD = 1.0  # s
ACKNOWLEDGE_TIMEOUT = 0.2  # s to wait at the end until the last command has been received


class ManagedNode(LifecycleNode):
    """Lifecycle node whose parameters are one dataclass and whose failures are visible in /diagnostics.

    A subclass writes `configure`, `activate`, `deactivate`, `release` and `statuses`; ROS entities made in
    `configure` with the `managed_…` methods are destroyed when the node is cleaned up.

    A failed configuration leaves the node alive and unconfigured, with one ERROR in the log and the same text in
    /diagnostics. Nothing is retried by itself.
    """

    def __init__(self, name: str, parameters: type, **node_options: Any) -> None:
        super().__init__(name, **node_options)
        self.incidents = Incidents(self.get_logger().error)
        self._state = "unconfigured"
        self._failure: str | None = None
        self._entities: list[Callable[[], object]] = []
        self._parameters = NodeParameters(self, parameters, self.parameters_changed)
        description = "Configure and activate by itself at the start of the process (read by the process only)"
        try:
            self.declare_parameter("autostart", False, ParameterDescriptor(description=description))
        except ParameterException as error:
            raise SystemExit(f"{name}: parameter 'autostart' must be true or false: {error}") from None
        # /clock may stand still; diagnostics and control must not.
        self.steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(DIAGNOSTICS_PERIOD, self._publish_diagnostics, clock=self.steady_clock)

    # ------------------------------------------------------------------------------ what a subclass provides

    def configure(self, parameters: Any) -> None:
        """Read models, make publishers and subscriptions; any exception fails the configuration."""
        raise TypeError(f"{type(self).__name__} has no configure()")

    def activate(self) -> None:
        """Start work."""

    def deactivate(self) -> None:
        """Stop work; the last moment to publish."""

    def release(self) -> bool:
        """Let go of models and threads, also after half a configuration; False when a thread is still busy."""
        return True

    def parameters_changed(self, parameters: Any) -> None:
        """Take over dynamic parameters set while configured."""

    def statuses(self) -> list[DiagnosticStatus]:
        """Diagnostics while configured."""
        return []

    # ------------------------------------------------------------------------------------------- for subclasses

    @property
    def is_active(self) -> bool:
        return self._state == "active"

    def now_ns(self) -> int:
        """ROS time in nanoseconds (simulated when use_sim_time is set)."""
        return self.get_clock().now().nanoseconds

    def status(self, part: str) -> StatusBuilder:
        """Start the diagnostic status of one part of this node."""
        return StatusBuilder(f"{self.get_fully_qualified_name().lstrip('/')}: {part}")

    def managed_publisher(self, kind: type, topic: str, qos: QoSProfile) -> Publisher:
        """Publisher that is silent unless the node is active, and is destroyed on clean-up."""
        publisher = self.create_lifecycle_publisher(kind, topic, qos)
        self._entities.append(lambda: self.destroy_lifecycle_publisher(publisher))
        return publisher

    def managed_subscription(self, kind: type, topic: str, callback: Callable, qos: QoSProfile) -> None:
        subscription = self.create_subscription(kind, topic, callback, qos)
        self._entities.append(lambda: self.destroy_subscription(subscription))

    def managed_timer(self, period: float, callback: Callable[[], None]) -> Timer:
        """Timer on the steady clock."""
        timer = self.create_timer(period, callback, clock=self.steady_clock)
        self._entities.append(lambda: self.destroy_timer(timer))
        return timer

    def managed_service(self, kind: type, name: str, callback: Callable) -> None:
        service = self.create_service(kind, name, callback)
        self._entities.append(lambda: self.destroy_service(service))

    # ------------------------------------------------------------------------------------------- transitions

    def on_configure(self, previous: LifecycleState) -> TransitionCallbackReturn:
        try:
            self.configure(self._parameters.read())
        except Exception as error:
            self._failure = f"configuration failed: {error or type(error).__name__}"
            self.get_logger().error(self._failure)
            self.get_logger().debug(traceback.format_exc())
            self._clean_up()
            return TransitionCallbackReturn.FAILURE
        self._failure = None
        self._parameters.lock()
        self._state = "inactive"
        return super().on_configure(previous)

    def on_activate(self, previous: LifecycleState) -> TransitionCallbackReturn:
        result = super().on_activate(previous)
        self._state = "active"
        self.activate()
        return result

    def on_deactivate(self, previous: LifecycleState) -> TransitionCallbackReturn:
        self._halt()
        return super().on_deactivate(previous)

    def on_cleanup(self, previous: LifecycleState) -> TransitionCallbackReturn:
        self._clean_up()
        return super().on_cleanup(previous)

    def on_shutdown(self, previous: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return super().on_shutdown(previous)

    def on_error(self, previous: LifecycleState) -> TransitionCallbackReturn:
        self._failure = "an error ended a transition of the life cycle: configure again"
        self.get_logger().error(self._failure)
        self.close()
        return super().on_error(previous)

    def autostart(self) -> None:
        """Configure and activate, once, when the parameter `autostart` says so."""
        if not self.get_parameter("autostart").value:
            return
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def close(self) -> bool:
        """Stop work and let go of everything, from any state; False when a thread is still busy."""
        self._halt()
        return self._clean_up()

    def _halt(self) -> None:
        if self._state == "active":
            self._state = "inactive"
            self.deactivate()

    def _clean_up(self) -> bool:
        ended = self.release()
        while self._entities:
            self._entities.pop()()
        self._parameters.unlock()
        self._state = "unconfigured"
        return ended

    def _publish_diagnostics(self) -> None:
        if self._state == "unconfigured":
            lifecycle = self.status("life cycle")
            if self._failure is not None:
                lifecycle.error(self._failure)
            else:
                lifecycle.warn("unconfigured: waiting for a configure transition")
            statuses = [lifecycle.build("")]
        else:
            statuses = self.statuses()
        self._diagnostics.publish(diagnostic_array(self.now_ns(), *statuses))


def wait_until_received(publisher: Publisher) -> None:
    """Give subscribers a short time to acknowledge what was published last (the standstill at the end)."""
    publisher.wait_for_all_acked(Duration(seconds=ACKNOWLEDGE_TIMEOUT))


def run(make_node: Callable[[], ManagedNode], arguments: list[str] | None = None) -> int:
    """Run a node until Ctrl-C, SIGTERM or a fatal error; the exit status of the process.

    rclpy's own signal handlers close the connection to ROS before a node could stop its robot, so they are not
    used: the main thread waits for signals, the executor runs in a second thread and ends first.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    failed = threading.Event()
    ended = threading.Event()
    threads_ended = True
    node: ManagedNode | None = None
    executor = SingleThreadedExecutor()

    def spin() -> None:
        try:
            executor.spin()
        except ExternalShutdownException:
            pass
        except Exception:
            failed.set()
            traceback.print_exc()
        finally:
            ended.set()

    spinner = threading.Thread(target=spin, name="executor", daemon=True)
    try:
        node = make_node()
        executor.add_node(node)
        spinner.start()
        node.autostart()
        ended.wait()
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        executor.shutdown(timeout_sec=1.0)
        if spinner.is_alive():
            spinner.join(timeout=1.0)
        if node is not None:
            threads_ended = node.close()
            node.destroy_node()
        with contextlib.suppress(RuntimeError):
            rclpy.shutdown()
    status = 1 if failed.is_set() else 0
    if not threads_ended:
        # A thread inside a model call would be torn down by the interpreter's end, which can abort the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status
