"""Parameters of the node nav_viewer. Plain Python.

Those of the camera's mount have the names they have in s1_controller, so that one file serves both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dual_nav_util.params import parameter

from .geometry import Mount


@dataclass(frozen=True)
class ViewerParameters:
    """All parameters but `autostart` and `use_sim_time`."""

    host: str = parameter(
        "127.0.0.1",
        "Address the page is served on; 0.0.0.0 lets everybody in the network watch, instruct and stop the robot",
    )
    port: int = parameter(8080, "Port of the page; the next free one if it is taken", low=1, high=65535)
    rate: float = parameter(10.0, "Updates of the page per second at most", low=0.5, high=10.0, unit="Hz")
    rgb_transport: str = parameter("raw", "Colour images are Image or CompressedImage", choices=("raw", "compressed"))

    camera_height: float = parameter(0.6, "Of the camera above the floor", low=0.02, high=3.0, unit="m")
    camera_pitch: float = parameter(0.0, "Downward tilt", low=-1.57, high=1.57, unit="rad")
    camera_x: float = parameter(0.0, "Of the camera ahead of base_link", low=-2.0, high=2.0, unit="m")
    look_down_pitch: float = parameter(
        math.radians(30.0), "Tilt of the look-down camera in the same place", low=0.0, high=1.57, unit="rad"
    )
    robot_radius: float = parameter(0.25, "Of the robot as drawn", low=0.05, high=2.0, unit="m")

    def mount(self) -> Mount:
        """Of the level camera."""
        return Mount(self.camera_height, self.camera_pitch, self.camera_x)

    def look_down_mount(self) -> Mount:
        """Of the look-down camera."""
        return Mount(self.camera_height, self.look_down_pitch, self.camera_x)
