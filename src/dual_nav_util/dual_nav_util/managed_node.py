"""What both nodes have in common as ROS nodes: life cycle, parameters, diagnostics.

This is a ROS module: it imports rclpy.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription
from rclpy.timer import Timer

from .dds import image_transport_warnings
from .diagnostics import Incidents, StatusBuilder, diagnostic_array
from .node_parameters import NodeParameters
from .stamps import NANOSECONDS

DIAGNOSTICS_PERIOD = 1.0  # s
NEW_TIME_NS = NANOSECONDS  # stamps that go back by this much begin a new time; less is out of order
NO_TIME = "use_sim_time is true and no /clock has been received"
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
        self._lifecycle = "unconfigured"
        self._failure: str | None = None
        self._entities: list[Callable[[], object]] = []
        self._subscriptions_made: list[Subscription] = []
        self._typed_parameters = NodeParameters(self, parameters, self.parameters_changed)
        description = "Configure and activate by itself at the start of the process (read by the process only)"
        try:
            self.declare_parameter("autostart", False, ParameterDescriptor(description=description))
        except ParameterException as error:
            raise SystemExit(f"{name}: parameter 'autostart' must be true or false: {error}") from None
        # /clock may stand still; diagnostics and control must not.
        self.steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        # A jump back of less than this is jitter of /clock.
        new_time = Duration(nanoseconds=-NEW_TIME_NS)
        backward = JumpThreshold(min_forward=None, min_backward=new_time, on_clock_change=False)
        self._jump_handle = self.get_clock().create_jump_callback(backward, post_callback=self._on_time_jump)
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

    def time_jumped(self, why: str) -> None:
        """ROS time went back while configured (a looped recording, a restarted simulator)."""

    def statuses(self) -> list[DiagnosticStatus]:
        """Diagnostics while configured."""
        return []

    # ------------------------------------------------------------------------------------------- for subclasses

    @property
    def is_active(self) -> bool:
        return self._lifecycle == "active"

    def now_ns(self) -> int:
        """ROS time in nanoseconds (simulated when use_sim_time is set)."""
        return self.get_clock().now().nanoseconds

    @property
    def has_time(self) -> bool:
        """Whether ROS time has begun: simulated time is 0 until the first /clock; no stamp can be judged by it."""
        return self.now_ns() > 0

    def image_transport_warnings(self) -> list[str]:
        """What stands in the way of camera images on this node's transport (see `dds.py`)."""
        return image_transport_warnings(rclpy.get_rmw_implementation_identifier())

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
        self._subscriptions_made.append(subscription)
        self._entities.append(lambda: self.destroy_subscription(subscription))

    def managed_raw_subscription(self, kind: type, topic: str, callback: Callable, qos: QoSProfile) -> None:
        """Subscription whose callback gets serialized messages."""
        subscription = self.create_subscription(kind, topic, callback, qos, raw=True)
        self._entities.append(lambda: self.destroy_subscription(subscription))

    def managed_timer(self, period: float, callback: Callable[[], None]) -> Timer:
        """Timer on the steady clock."""
        timer = self.create_timer(period, callback, clock=self.steady_clock)
        self._entities.append(lambda: self.destroy_timer(timer))
        return timer

    def managed_clock_period(self, period: float, callback: Callable[[], None]) -> None:
        """Call back whenever ROS time passes a multiple of `period` [s], with simulated time only.

        What arrived before that time did is handed out first, so that a simulator that waits for the answer gets the
        same one every time.
        """
        period_ns = round(period * NANOSECONDS)
        passed = self.now_ns() // period_ns

        def on_jump(_: TimeJump) -> None:
            nonlocal passed
            if self.now_ns() // period_ns != passed:
                passed = self.now_ns() // period_ns
                self._hand_out()
                callback()

        every = JumpThreshold(min_forward=Duration(nanoseconds=1), min_backward=None, on_clock_change=False)
        handle = self.get_clock().create_jump_callback(every, post_callback=on_jump)
        self._entities.append(handle.unregister)

    def _hand_out(self) -> None:
        """Call back for all messages received; the executor takes one of each topic at a time."""
        for subscription in list(self._subscriptions_made):
            with subscription.handle:
                while (taken := subscription.handle.take_message(subscription.msg_type, False)) is not None:
                    subscription.callback(taken[0])

    def managed_service(self, kind: type, name: str, callback: Callable) -> None:
        service = self.create_service(kind, name, callback)
        self._entities.append(lambda: self.destroy_service(service))

    # ------------------------------------------------------------------------------------------- transitions

    def on_configure(self, previous: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._typed_parameters.freeze()
            self.configure(self._typed_parameters.read())
        except Exception as error:
            self._failure = f"configuration failed: {error or type(error).__name__}"
            self.get_logger().error(self._failure)
            self.get_logger().debug(traceback.format_exc())
            self._clean_up()
            return TransitionCallbackReturn.FAILURE
        self._failure = None
        self._typed_parameters.lock()
        self._lifecycle = "inactive"
        return super().on_configure(previous)

    def on_activate(self, previous: LifecycleState) -> TransitionCallbackReturn:
        result = super().on_activate(previous)
        self._lifecycle = "active"
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

    def _on_time_jump(self, jump: TimeJump) -> None:
        if self._lifecycle != "unconfigured":
            self.time_jumped(f"ROS time went back by {-jump.delta.nanoseconds / NANOSECONDS:.1f} s")

    def _halt(self) -> None:
        if self._lifecycle == "active":
            self._lifecycle = "inactive"
            self.deactivate()

    def _clean_up(self) -> bool:
        ended = self.release()
        self._subscriptions_made.clear()
        while self._entities:
            self._entities.pop()()
        self._typed_parameters.unlock()
        self._lifecycle = "unconfigured"
        return ended

    def _publish_diagnostics(self) -> None:
        if self._lifecycle == "unconfigured":
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
