"""Entry points of the processes nav_sim, oracle_s2 and oracle_s1."""

from __future__ import annotations

import sys

from dual_nav_util.process import run


def make_simulator():
    """The simulator, once rclpy is initialised."""
    from .node import NavSim

    return NavSim()


def make_oracle_s2():
    """The planner that knows the map."""
    from .oracle_node import OracleS2

    return OracleS2()


def make_oracle_s1():
    """The controller that knows the map."""
    from .oracle_node import OracleS1

    return OracleS1()


def nav_sim() -> int:
    """Run the simulator until Ctrl-C or SIGTERM; the exit status."""
    return run(make_simulator)


def oracle_s2() -> int:
    """Run the oracle planner until Ctrl-C or SIGTERM; the exit status."""
    return run(make_oracle_s2)


def oracle_s1() -> int:
    """Run the oracle controller until Ctrl-C or SIGTERM; the exit status."""
    return run(make_oracle_s1)


if __name__ == "__main__":
    sys.exit(nav_sim())
