"""What S1 says it is doing. Plain Python, for those who read it without ROS."""

from __future__ import annotations

from enum import IntEnum


class State(IntEnum):
    """What the controller is doing; the constants of nav_msgs_ext/ControllerState (a test of S1 compares them)."""

    IDLE = 0
    FOLLOWING = 1
    TURNING = 2
    ARRIVED = 3
    BLOCKED = 4
    STALE_PLAN = 5
    NO_SENSORS = 6
    FAULT = 7
