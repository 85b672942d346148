"""Where the depth camera sits: as the robot's static transforms say when they come in time, else as the parameters.

Plain Python, no ROS. Frames are names as in message headers; a leading slash is ignored.
"""

from __future__ import annotations

import math
import threading

import numpy as np

from .obstacles import CameraMount

FLOOR_FRAME = "base_footprint"  # REP-120: the base projected to the floor; not every robot has it


class TransformError(LookupError):
    """Two frames are not connected by static transforms; the text says what is there."""


class TransformTree:
    """Static transforms, each from a child frame to its parent, and what follows from chains of them."""

    def __init__(self) -> None:
        self._parents: dict[str, tuple[str, np.ndarray]] = {}  # child: (parent, 4x4 matrix child to parent)

    def add(
        self,
        parent: str,
        child: str,
        translation: tuple[float, float, float],
        quaternion: tuple[float, float, float, float],
    ) -> None:
        """Take in a transform; one of the same child replaces the former.

        Args:
            translation: of the child's origin in the parent frame [m].
            quaternion: (x, y, z, w) of the child's axes in the parent frame.

        Raises:
            ValueError: not finite, or no unit quaternion.
        """
        matrix = np.eye(4)
        matrix[:3, :3] = rotation_matrix(quaternion)
        matrix[:3, 3] = translation
        if not np.isfinite(matrix).all():
            raise ValueError(f"transform {parent} -> {child}: expected finite numbers, got {translation}")
        self._parents[child.lstrip("/")] = (parent.lstrip("/"), matrix)

    def lookup(self, target: str, source: str) -> np.ndarray:
        """Matrix (4, 4) that turns points of `source` into points of `target`.

        Raises:
            TransformError: there is no chain between the two.
        """
        above_target = self._chain(target)
        above_source = self._chain(source)
        for frame, to_frame in above_source.items():
            if frame in above_target:
                return np.linalg.inv(above_target[frame]) @ to_frame
        known = ", ".join(sorted({*self._parents, *(parent for parent, _ in self._parents.values())})) or "none"
        raise TransformError(f"no static transforms connect {target!r} and {source!r} (frames there: {known})")

    def _chain(self, frame: str) -> dict[str, np.ndarray]:
        """The frame and all above it, each with the matrix from `frame` to it, from the nearest to the root."""
        frame = frame.lstrip("/")
        chain = {frame: np.eye(4)}
        while frame in self._parents:
            parent, matrix = self._parents[frame]
            if parent in chain:  # a loop: wrongly published
                break
            chain[parent] = matrix @ chain[frame]
            frame = parent
        return chain


class MountChoice:
    """Decides once per configuration where the depth camera sits. Safe between threads.

    Args:
        configured: the mount of the parameters.
        base_frame: frame of the robot's centre.
        wait: seconds from the first depth image on to wait for transforms; None: tf is not asked.
        why_not: why it is not asked, for the text.
    """

    def __init__(
        self, configured: CameraMount, base_frame: str, wait: float | None, why_not: str = "mount_from_tf is never"
    ) -> None:
        self.mount: CameraMount | None = None  # None until it is decided
        self.text = "not known yet"  # the decision in words
        self._configured, self._base_frame, self._wait, self._why_not = configured, base_frame, wait, why_not
        self._tree = TransformTree()
        self._asked_since: float | None = None
        self._lock = threading.Lock()

    def add_transform(
        self,
        parent: str,
        child: str,
        translation: tuple[float, float, float],
        quaternion: tuple[float, float, float, float],
    ) -> None:
        """A static transform came; see TransformTree.add."""
        with self._lock:
            self._tree.add(parent, child, translation, quaternion)

    def decide(self, camera_frame: str, now: float) -> bool:
        """Try to decide with what has come by `now` (seconds of any clock); whether this call decided.

        Args:
            camera_frame: optical frame of the depth images.
        """
        with self._lock:
            if self.mount is not None:
                return False
            if self._wait is None:
                self._take_configured(self._why_not)
                return True
            if self._asked_since is None:
                self._asked_since = now
            try:
                self.mount = self._from_tree(camera_frame)
                self.text = f"{describe(self.mount)} (from tf: {self._base_frame} to {camera_frame})"
            except TransformError as error:
                if now - self._asked_since < self._wait:
                    return False
                self._take_configured(f"after {self._wait:g} s {error}")
            except ValueError as error:
                self._take_configured(f"what tf says cannot be: {error}")
            return True

    def _take_configured(self, why: str) -> None:
        self.mount = self._configured
        self.text = f"{describe(self.mount)} (from the parameters camera_*: {why})"

    def _from_tree(self, camera_frame: str) -> CameraMount:
        place = self._tree.lookup(self._base_frame, camera_frame)
        translation = place[:3, 3].copy()
        prefix = self._base_frame.rpartition("/")[0]
        try:  # base_link may lie above the floor
            floor = self._tree.lookup(f"{prefix}/{FLOOR_FRAME}" if prefix else FLOOR_FRAME, camera_frame)
            translation[2] = floor[2, 3]
        except TransformError:
            pass
        return CameraMount.from_transform(place[:3, :3], translation)


def rotation_matrix(quaternion: tuple[float, float, float, float]) -> np.ndarray:
    """Matrix (3, 3) of a unit quaternion (x, y, z, w).

    Raises:
        ValueError: its length is not 1.
    """
    x, y, z, w = quaternion
    norm = math.sqrt(x * x + y * y + z * z + w * w)
    if not abs(norm - 1.0) < 1e-2:  # also NaN
        raise ValueError(f"expected a unit quaternion (x, y, z, w), got {quaternion}")
    x, y, z, w = x / norm, y / norm, z / norm, w / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def describe(mount: CameraMount) -> str:
    """A mount in words a person can compare with the robot."""
    pitch, yaw, roll = (math.degrees(angle) for angle in (mount.pitch, mount.yaw, mount.roll))
    return (
        f"{mount.height:.3f} m above the floor, {mount.x:.3f} m ahead and {mount.y:.3f} m left of the base, "
        f"{pitch:.1f}° down, turned {yaw:.1f}° left, rolled {roll:.1f}°"
    )
