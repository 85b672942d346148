"""The process around a node: signals, executor, an orderly end.

This is a ROS module, but it imports rclpy only after signals are taken care of: imports of this size take seconds,
and Ctrl-C must end them cleanly, too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from .dds import remove_stale_segments

if TYPE_CHECKING:
    from .managed_node import ManagedNode

JOIN_TIMEOUT = 1.0  # s to wait for the executor at the end
# s after which a thread that runs Python gives way to one that waits: an image handed from the executor to another
# thread must not wait, up to Python's 5 ms, until the executor has no more messages to read.
SWITCH_INTERVAL = 1e-4


def run(make_node: Callable[[], ManagedNode], arguments: list[str] | None = None) -> int:
    """Run a node until Ctrl-C, SIGTERM or a fatal error; the exit status of the process.

    rclpy's own signal handlers close the connection to ROS before a node could stop its robot, so they are not
    used: the main thread waits for signals, the executor runs in a second thread and ends first.

    Args:
        make_node: makes the node once rclpy is initialised; imports its module there.
        arguments: of the command line, None for those of the process.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        import rclpy
        from rclpy.signals import SignalHandlerOptions

        # Above all for a planner that is respawned: what it left when it was killed goes before it takes more.
        remove_stale_segments()
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
        node = make_node()
    except KeyboardInterrupt:
        return 0
    status, threads_ended = _run(node)
    with contextlib.suppress(RuntimeError):
        rclpy.shutdown()
    if not threads_ended:
        # A thread inside a model call would be torn down by the interpreter's end, which can abort the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _run(node: ManagedNode) -> tuple[int, bool]:
    """Exit status, and whether all threads of the node have ended."""
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

    executor = SingleThreadedExecutor()
    executor.add_node(node)
    ending, ended, failed = threading.Event(), threading.Event(), threading.Event()

    def spin() -> None:
        try:
            executor.spin()
        except ExternalShutdownException:
            pass
        except Exception:
            if not ending.is_set():  # an executor that is shut down in the middle of its work misses its handles
                failed.set()
                traceback.print_exc()
        finally:
            ended.set()

    spinner = threading.Thread(target=spin, name="executor", daemon=True)
    try:
        spinner.start()
        node.autostart()
        ended.wait()
    except KeyboardInterrupt:
        pass
    finally:
        # From here on the end runs its course; a second Ctrl-C must not leave the robot moving.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ending.set()
        executor.shutdown(timeout_sec=JOIN_TIMEOUT)
        spinner.join(timeout=JOIN_TIMEOUT)
        threads_ended = node.close()
        node.destroy_node()
    return (1 if failed.is_set() else 0), threads_ended
