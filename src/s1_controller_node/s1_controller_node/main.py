"""Entry points of the processes s1_controller and cmd_vel_watchdog."""

from __future__ import annotations

import sys

from dual_nav_util.process import run


def make_node():
    """The node, once rclpy is initialised."""
    from .node import S1Controller

    return S1Controller()


def main() -> int:
    """Run the controller until Ctrl-C or SIGTERM; the exit status."""
    return run(make_node)


def make_watchdog():
    """The watchdog, once rclpy is initialised."""
    from .watchdog import CmdVelWatchdog

    return CmdVelWatchdog()


def watchdog() -> int:
    """Run the watchdog until Ctrl-C or SIGTERM; the exit status."""
    return run(make_watchdog)


if __name__ == "__main__":
    sys.exit(main())
