"""The cmd_vel_watchdog: passes velocity commands on to the base only while the controller is alive.

A process of its own between s1_controller and the base. Whatever happens to the controller (a hang, SIGSTOP, kill,
a lost network), its state and its commands fall silent, and then zero goes to the base at `rate`. It does not judge
commands otherwise: that is the controller's safety gate. No torch, no model: it starts in a second and cannot hang in
one.

Subscribes to `cmd_vel_in` and `s1/state`, publishes `cmd_vel`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Twist, TwistStamped

from dual_nav_util import qos
from dual_nav_util.managed_node import ManagedNode, wait_until_received
from dual_nav_util.params import parameter
from dual_nav_util.stamps import to_stamp
from nav_msgs_ext.msg import ControllerState


@dataclass(frozen=True)
class WatchdogParameters:
    """All parameters but `autostart` and `use_sim_time`."""

    heartbeat_timeout: float = parameter(
        0.3, "Silence of s1/state or of the commands after which the base gets zero", low=0.02, high=5.0, unit="s"
    )
    rate: float = parameter(
        50.0, "Checks per second, and zeros per second when one fails", low=5.0, high=500.0, unit="Hz"
    )
    cmd_vel_stamped: bool = parameter(False, "Commands are TwistStamped instead of Twist, as of s1_controller")


class CmdVelWatchdog(ManagedNode):
    """See the module."""

    def __init__(self, **node_options: Any) -> None:
        super().__init__("cmd_vel_watchdog", WatchdogParameters, **node_options)

    def configure(self, parameters: WatchdogParameters) -> None:
        self._settings = parameters
        # By the machine's own clock: ROS time may stand still.
        self._last: dict[str, float | None] = {"s1/state": None, "commands": None}
        self._passing = False
        self._trips = 0
        self._frame_id = "base_link"
        self._kind = TwistStamped if parameters.cmd_vel_stamped else Twist
        self._publisher = self.managed_publisher(self._kind, "cmd_vel", qos.NEWEST_STATE)
        self.managed_subscription(ControllerState, "s1/state", self._on_state, qos.NEWEST_STATE)
        self.managed_subscription(self._kind, "cmd_vel_in", self._on_command, qos.NEWEST_STATE)
        self.managed_timer(1.0 / parameters.rate, self._check)

    def deactivate(self) -> None:
        self._publish_zero()
        wait_until_received(self._publisher)

    def _on_state(self, _: ControllerState) -> None:
        self._last["s1/state"] = time.monotonic()

    def _on_command(self, message: Twist | TwistStamped) -> None:
        self._last["commands"] = time.monotonic()
        twist = message
        if isinstance(message, TwistStamped):
            self._frame_id, twist = message.header.frame_id, message.twist
        if not (math.isfinite(twist.linear.x) and math.isfinite(twist.angular.z)):
            self.incidents.report("command", f"command refused: v={twist.linear.x}, omega={twist.angular.z}")
            self._publish_zero()
            return
        if self._silent() is None:
            self._passing = True
            self._publisher.publish(message)

    def _check(self) -> None:
        silent = self._silent()
        if silent is None:
            return
        if self._passing:
            self._passing = False
            self._trips += 1
            self.incidents.report("silence", f"zero to the base: {silent}")
        self._publish_zero()

    def _silent(self) -> str | None:
        """What has been silent for too long; None when nothing has."""
        now, timeout = time.monotonic(), self._settings.heartbeat_timeout
        for name, last in self._last.items():
            if last is None:
                return f"{name}: nothing received yet"
            if now - last > timeout:
                return f"{name}: silent for {now - last:.2f} s (heartbeat_timeout {timeout:g} s)"
        return None

    def _publish_zero(self) -> None:
        zero = self._kind()
        if isinstance(zero, TwistStamped):
            zero.header.stamp, zero.header.frame_id = to_stamp(self.now_ns()), self._frame_id
        self._publisher.publish(zero)

    def statuses(self) -> list[DiagnosticStatus]:
        """Levels: WARN before the controller was heard of, ERROR while it is silent."""
        status = self.status("commands")
        silent = self._silent()
        if silent is not None:
            (status.warn if None in self._last.values() else status.error)(silent)
        status.value("times tripped", self._trips)
        return [status.build("commands are passed on")]
