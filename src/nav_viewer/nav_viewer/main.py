"""Entry point of the process nav_viewer."""

from __future__ import annotations

import os
import sys

from dual_nav_util.process import run

NICENESS = 10  # where cores are short, planner and controller go first


def make_node():
    """The node, once rclpy is initialised."""
    from .node import NavViewer

    return NavViewer()


def main() -> int:
    """Run the viewer until Ctrl-C or SIGTERM; the exit status."""
    os.nice(NICENESS)
    return run(make_node)


if __name__ == "__main__":
    sys.exit(main())
