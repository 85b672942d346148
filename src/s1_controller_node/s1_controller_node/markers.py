"""Messages that show paths to people: s1/path and s1/candidates. No ROS node is needed, only message classes."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion
from nav_msgs.msg import Path
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

_LIFETIME = Duration(sec=2)  # candidates disappear when no new ones come
_WIDTH = 0.01  # m, of a candidate's line


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
        marker = Marker(header=header, ns="candidates", id=number, type=Marker.LINE_STRIP, action=Marker.ADD)
        marker.pose.orientation.w = 1.0
        marker.scale.x = _WIDTH
        marker.color = colour
        marker.lifetime = _LIFETIME
        marker.points = [Point(x=x, y=y) for x, y in path[:, :2].tolist()]
        markers.append(marker)
    return MarkerArray(markers=markers)


def _colours(scores: np.ndarray | None, count: int) -> Iterable[ColorRGBA]:
    if scores is None:
        return [ColorRGBA(r=0.6, g=0.6, b=0.6, a=0.5)] * count
    span = float(np.ptp(scores)) or 1.0
    shares = ((scores - scores.min()) / span).tolist()
    return [ColorRGBA(r=1.0 - share, g=share, b=0.1, a=0.8) for share in shares]
