"""A ROS graph of its own for tests of nodes: real messages, one process, nobody else hears them.

This is a ROS module: it imports rclpy.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile

from . import qos

_DOMAINS = 101  # 1 … 101: their ports lie below those that Linux gives to outgoing connections


def own_domain() -> int:
    """A ROS domain id that other runs on this machine hardly use; ROS_DOMAIN_ID of the environment wins."""
    chosen = os.environ.get("ROS_DOMAIN_ID")
    return int(chosen) if chosen else 1 + os.getpid() % _DOMAINS


class Graph:
    """Nodes spinning in a thread, a tester's node among them, and a way to wait for something to happen."""

    def __init__(self) -> None:
        os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=own_domain())
        self._executor = SingleThreadedExecutor(context=self.context)
        self._nodes: list[Node] = []
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self.tester = self.add(Node("tester", context=self.context))
        self.diagnostics: dict[str, DiagnosticStatus] = {}
        self.listen(DiagnosticArray, "/diagnostics", qos.DEFAULT, self._on_diagnostics)
        self._thread.start()

    def add(self, node: Any) -> Any:
        self._nodes.append(node)
        self._executor.add_node(node)
        return node

    def make(self, node_class: type, **parameters: Any) -> Any:
        """A node of this graph with parameters."""
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        return self.add(node_class(context=self.context, parameter_overrides=overrides))

    def listen(self, kind: type, topic: str, profile: QoSProfile, callback: Callable | None = None) -> list:
        """The messages of a topic as they come."""
        received: list = []
        self.tester.create_subscription(kind, topic, callback or received.append, profile)
        return received

    def wait_for(self, condition: Callable[[], Any], what: str, timeout: float = 30.0) -> Any:
        """The first true value of the condition; AssertionError with `what` after the time-out."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            value = condition()
            if value:
                return value
            time.sleep(0.005)
        raise AssertionError(f"{what}: not within {timeout} s; diagnostics: {self.report()}")

    def report(self) -> str:
        """All diagnostics in one line each."""
        return "; ".join(f"[{status.name}] {status.message}" for status in self.diagnostics.values())

    def close(self) -> None:
        self._executor.shutdown(timeout_sec=2.0)
        self._thread.join(timeout=2.0)
        for node in self._nodes:
            if hasattr(node, "close"):
                node.close()
            node.destroy_node()
        rclpy.shutdown(context=self.context)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.diagnostics[status.name] = status

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()
