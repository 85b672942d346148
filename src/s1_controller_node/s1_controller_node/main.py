"""Entry point of the s1_controller process."""

from __future__ import annotations

import sys

from dual_nav_util.process import run


def make_node():
    """The node, once rclpy is initialised."""
    from .node import S1Controller

    return S1Controller()


def main() -> int:
    """Run until Ctrl-C or SIGTERM; the exit status."""
    return run(make_node)


if __name__ == "__main__":
    sys.exit(main())
