"""Entry point of the s2_planner process."""

from __future__ import annotations

import sys

from dual_nav_util.memory import keep_large_buffers_out_of_the_heap
from dual_nav_util.process import run


def make_node():
    """The node, once rclpy is initialised."""
    from .node import S2Planner

    return S2Planner()


def main() -> int:
    """Run until Ctrl-C or SIGTERM; the exit status."""
    keep_large_buffers_out_of_the_heap()
    return run(make_node)


if __name__ == "__main__":
    sys.exit(main())
