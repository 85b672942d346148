"""Messages that show people what the controller does: paths, candidates, the robot and where it would stop.

No ROS node is needed, only message classes. What is drawn in the base frame carries no stamp, so that rviz takes the
newest transform, and moves with the robot.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion, Vector3
from nav_msgs.msg import Path
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from dual_nav_util.controller_state import State

from .motion import MotionCommand, MotionView
from .safety import Reason

_LIFETIME = Duration(sec=2)  # markers disappear when no new ones come
_WIDTH = 0.01  # m, of a candidate's line
_CELL = 0.05  # m, of the drawn cells of stop zone and obstacles
_TEXT_HEIGHT = 0.12  # m, of a letter
_ABOVE = 0.25  # m, of the text over the robot

_GREY = ColorRGBA(r=0.6, g=0.6, b=0.6, a=0.5)
_WHITE = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
_CYAN = ColorRGBA(r=0.1, g=0.8, b=0.9, a=1.0)
_GREEN = ColorRGBA(r=0.2, g=0.8, b=0.3, a=0.35)
_ORANGE = ColorRGBA(r=1.0, g=0.6, b=0.1, a=0.45)
_RED = ColorRGBA(r=0.9, g=0.1, b=0.1, a=0.6)
FAULTS = (State.STALE_PLAN, State.NO_SENSORS, State.FAULT)


def path_message(path: np.ndarray, header: Header) -> Path:
    """A path (N, 3) of poses in the header's frame."""
    poses = []
    for x, y, yaw in path.tolist():
        orientation = Quaternion(z=math.sin(0.5 * yaw), w=math.cos(0.5 * yaw))
        poses.append(PoseStamped(header=header, pose=Pose(position=Point(x=x, y=y), orientation=orientation)))
    return Path(header=header, poses=poses)


def candidates_message(paths: np.ndarray, scores: np.ndarray | None, header: Header) -> MarkerArray:
    """Sampled paths (S, N, 2 or 3) in the header's frame, from red (worst score) to green (best); grey unscored."""
    markers = []
    for number, (path, colour) in enumerate(zip(paths, _colours(scores, len(paths)), strict=True)):
        marker = _marker(header.frame_id, "candidates", Marker.LINE_STRIP, colour, number)
        marker.header.stamp = header.stamp
        marker.scale.x = _WIDTH
        marker.points = _points(path)
        markers.append(marker)
    return MarkerArray(markers=markers)


def robot_message(view: MotionView, motion: MotionCommand, height: float, frame: str) -> MarkerArray:
    """The robot as the controller sees it, in the base frame `frame`.

    Namespaces: `footprint` (outline), `stop_zone` (where an obstacle would stop the robot: green on a free way,
    orange while it is slowed down, red while it is blocked), `obstacles` (cells seen or remembered), `state` (state,
    velocity and why).

    Args:
        view: what the motion layer looks at. motion: the last command.
        height: of the robot [m]: the text stands above it.
        frame: name of the base frame.
    """
    footprint = _marker(frame, "footprint", Marker.LINE_STRIP, _CYAN)
    footprint.scale.x = 2 * _WIDTH
    footprint.points = _points(np.concatenate([view.outline, view.outline[:1]]))
    hindered = _RED if motion.reasons & Reason.OBSTACLE_STOP else _ORANGE
    free = not motion.reasons & (Reason.OBSTACLE_STOP | Reason.OBSTACLE_SLOW)
    zone = _cells(frame, "stop_zone", view.stop_zone, _GREEN if free else hindered)
    obstacles = _cells(frame, "obstacles", view.obstacles, _RED, high=0.1)

    said = _marker(frame, "state", Marker.TEXT_VIEW_FACING, _RED if motion.state in FAULTS else _WHITE)
    said.color.a = 1.0
    said.scale.z = _TEXT_HEIGHT
    said.pose.position.z = height + _ABOVE
    said.text = (
        f"{motion.state.name}  {motion.v:.2f} m/s, {round(math.degrees(motion.omega))} °/s\n{motion.message}".rstrip()
    )
    return MarkerArray(markers=[footprint, zone, obstacles, said])


def _marker(frame: str, namespace: str, kind: int, colour: ColorRGBA, number: int = 0) -> Marker:
    marker = Marker(header=Header(frame_id=frame), ns=namespace, id=number, type=kind, action=Marker.ADD)
    marker.pose.orientation.w = 1.0
    marker.color = ColorRGBA(r=colour.r, g=colour.g, b=colour.b, a=colour.a)
    marker.lifetime = _LIFETIME
    return marker


def _cells(frame: str, namespace: str, places: np.ndarray, colour: ColorRGBA, high: float = 0.005) -> Marker:
    """Cells at places (N, 2); without any, a marker that removes those shown before."""
    marker = _marker(frame, namespace, Marker.CUBE_LIST, colour)
    if not len(places):
        marker.action = Marker.DELETE
    marker.scale = Vector3(x=_CELL, y=_CELL, z=high)
    marker.points = _points(places)
    return marker


def _points(places: np.ndarray) -> list[Point]:
    return [Point(x=x, y=y) for x, y in places[:, :2].tolist()]


def _colours(scores: np.ndarray | None, count: int) -> Iterable[ColorRGBA]:
    if scores is None:
        return [_GREY] * count
    span = float(np.ptp(scores)) or 1.0
    shares = ((scores - scores.min()) / span).tolist()
    return [ColorRGBA(r=1.0 - share, g=share, b=0.1, a=0.8) for share in shares]
