"""A video of an episode for people: what the camera sees with the planner's goal and answer, and the map beside it.

H.264 in mp4, which every browser plays, encoded by the ffmpeg that the package imageio-ffmpeg brings. Frames are
those of the camera, 10 a simulated second.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import cv2
import imageio_ffmpeg
import numpy as np

from .camera import Camera
from .episodes import Episode
from .evaluation import EvaluationError, Moment
from .grid import Point
from .oracles import KIND_ACTIONS, SYMBOLS, PlanMade
from .simulator import Pose

HEIGHT = 480  # rows of both halves
CAPTION = 64  # rows for the text below
FRAMES_PER_SECOND = 10
LAG = 60.0  # seconds the encoder may take to finish
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FLOOR, _WALL, _ITEM, _GOAL = (246, 243, 238), (58, 56, 54), (205, 200, 192), (220, 30, 120)
_PATH, _ROBOT, _MARK = (30, 90, 230), (30, 160, 60), (255, 60, 200)
_WORDS = {"↑": "forward", "←": "left", "→": "right", "↓": "look down"}  # OpenCV's fonts have no arrows


class VideoError(EvaluationError):
    """The video could not be encoded; the message has what the encoder said."""


class FloorPlan:
    """The flat from above, drawn from its plan: walls, furniture, goal objects."""

    def __init__(self, episode: Episode, height: int) -> None:
        flat = episode.flat
        self._scale = height / flat.height * 100.0  # pixels per metre
        self._height = height
        width = round(flat.width / 100.0 * self._scale) // 2 * 2
        self._image = np.full((height, width, 3), _FLOOR, np.uint8)
        for number, item in enumerate(flat.items):
            centre = self.pixel((item.x / 100, item.y / 100))
            size = (item.width / 100 * self._scale, item.depth / 100 * self._scale)
            corners = np.intp(cv2.boxPoints((centre, size, -item.yaw)))
            cv2.fillPoly(self._image, [corners], _ITEM, cv2.LINE_AA)
            if number in episode.goals:
                cv2.polylines(self._image, [corners], True, _GOAL, 2, cv2.LINE_AA)
        for wall in flat.walls:
            low, high = self.pixel((wall.x0 / 100, wall.y0 / 100)), self.pixel((wall.x1 / 100, wall.y1 / 100))
            cv2.rectangle(self._image, low, high, _WALL, -1)

    def pixel(self, point: Point) -> tuple[int, int]:
        """Column and row of a point of the flat, metres."""
        return round(point[0] * self._scale), round(self._height - 1 - point[1] * self._scale)

    def draw(self, driven: Sequence[Point], pose: Pose) -> np.ndarray:
        """(height, W, 3) uint8 with the path driven and the robot."""
        image = self._image.copy()
        if len(driven) > 1:
            cv2.polylines(image, [np.asarray([self.pixel(p) for p in driven])], False, _PATH, 2, cv2.LINE_AA)
        cv2.circle(image, self.pixel((pose.x, pose.y)), max(3, round(0.2 * self._scale)), _ROBOT, -1, cv2.LINE_AA)
        cv2.line(image, self.pixel((pose.x, pose.y)), self.pixel(pose.to_world((0.4, 0.0))), _ROBOT, 2, cv2.LINE_AA)
        return image


class EpisodeVideo:
    """Encodes an episode: a context manager that is called with every Moment. The file appears when it is whole."""

    def __init__(self, episode: Episode, camera: Camera, path: Path) -> None:
        self._episode, self._camera, self._path = episode, camera, path
        self._partial = path.with_suffix(".part.mp4")
        self._plan = FloorPlan(episode, HEIGHT)
        self._encoder: subprocess.Popen | None = None

    def __enter__(self) -> EpisodeVideo:
        return self

    def __call__(self, moment: Moment) -> None:
        """Append a frame; moments without a camera image are left out."""
        if moment.rgb is None:
            return
        picture = self._picture(moment)
        if self._encoder is None:
            self._encoder = _start_encoder(self._partial, picture.shape[1], picture.shape[0])
        try:
            self._encoder.stdin.write(picture.tobytes())
        except BrokenPipeError:
            raise VideoError(f"{self._path}: {self._encoder.stderr.read().decode(errors='replace')}") from None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._encoder is None:
            return
        _, said = self._encoder.communicate(timeout=LAG)
        if error is not None:
            self._partial.unlink(missing_ok=True)
        elif self._encoder.returncode:
            raise VideoError(f"{self._path}: {said.decode(errors='replace')}")
        else:
            self._partial.replace(self._path)

    def _picture(self, moment: Moment) -> np.ndarray:
        camera = moment.rgb
        if camera.shape[0] != HEIGHT:
            camera = cv2.resize(camera, (round(camera.shape[1] * HEIGHT / camera.shape[0]) // 2 * 2, HEIGHT))
        pair = np.hstack([self._with_goal(camera, moment), self._plan.draw(moment.driven, moment.pose)])
        picture = np.full((HEIGHT + CAPTION, pair.shape[1], 3), 255, np.uint8)
        picture[:HEIGHT] = pair
        lines = (self._episode.instruction, f"{moment.time:5.1f} s   S2: {_words(moment.plan)}")
        for row, text in enumerate(lines):
            cv2.putText(picture, text, (10, HEIGHT + 25 + 27 * row), _FONT, 0.6, (20, 20, 20), 1, cv2.LINE_AA)
        return picture

    def _with_goal(self, rgb: np.ndarray, moment: Moment) -> np.ndarray:
        """The place on the floor that the newest pixel goal meant, where it is in the image of now."""
        image = rgb.copy()
        if moment.goal is None:
            return image
        x, y = moment.pose.to_local(moment.goal)
        pixels, depth = self._camera.project(np.asarray([[x, y, 0.0]]))
        if depth[0] > 0.1:
            scale = rgb.shape[0] / self._camera.height_px
            place = (round(float(pixels[0, 0]) * scale), round(float(pixels[0, 1]) * scale))
            cv2.circle(image, place, 12, (255, 255, 255), 5, cv2.LINE_AA)
            cv2.circle(image, place, 12, _MARK, 3, cv2.LINE_AA)
        return image


def _words(plan: PlanMade | None) -> str:
    if plan is None:
        return "no plan yet"
    if plan.kind == KIND_ACTIONS:
        symbols = [SYMBOLS[action] for action in plan.actions]
        return ", ".join(_WORDS.get(symbol, symbol) for symbol in symbols)
    return f"goal {plan.pixel_goal[0]} {plan.pixel_goal[1]}" + (" (looking down)" if plan.look_down else "")


def _start_encoder(path: Path, width: int, height: int) -> subprocess.Popen:
    """ffmpeg reading RGB frames from its standard input; it ends when that does, however its parent ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size, rate = f"{width}x{height}", str(FRAMES_PER_SECOND)
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", rate, "-i", "-"]
    # yuv420p and the index at the front: what browsers want.
    target = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "24", "-pix_fmt", "yuv420p"]
    target += ["-movflags", "+faststart", "-threads", "1"]
    return subprocess.Popen(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *source, *target, str(path)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C in the terminal does not reach it
    )
