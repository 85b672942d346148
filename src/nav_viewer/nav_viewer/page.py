"""The page in the browser: a thin layer over viser, which serves everything from this machine.

Two panels beside a 3D scene. The scene is drawn in frames below one root that moves against the robot, so that the
robot stays in the middle and a person turns the view freely meanwhile.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import numpy as np
import viser
import websockets.asyncio.server

from .colours import DRIVEN, GOAL, PATH
from .geometry import Pose, segments
from .pictures import FloorPlan
from .texts import legend_html

_LEFT_WIDTH, _RIGHT_WIDTH = 350, 350  # px; leaves half of a 1280 px window to the scene
_PICTURE_QUALITY = 80
_TURNING = 0.15  # share of the robot's turn the view makes up for with each update
_VIEWS = {"Behind": (-2.9, 0.0, 2.3), "Above": (-0.6, 0.0, 7.5), "Side": (0.6, -3.6, 1.8)}  # m from the robot
_LOOK_AT = (0.9, 0.0, 0.2)
_ORIGIN = Pose()
_NO_LINES = np.zeros((1, 2, 3), np.float32)  # one that is not seen
_NO_POINTS = np.zeros((0, 3), np.float32)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, eq=False)
class View:
    """What the page shows at one moment. Lines (N, 2) and points are in the frame of odometry, metres.

    `map_from_odom`: that frame in the map's. Candidates are lines with their colours. None: not known.
    """

    mission: str = ""
    figures: str = ""
    camera_picture: np.ndarray | None = None
    depth_picture: np.ndarray | None = None
    map_picture: np.ndarray | None = None
    robot: Pose | None = None
    map_from_odom: Pose = _ORIGIN
    path: np.ndarray | None = None
    candidates: list[tuple[np.ndarray, tuple[int, int, int]]] = field(default_factory=list)
    driven: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    goal: np.ndarray | None = None
    cloud: tuple[np.ndarray, np.ndarray] = field(
        default_factory=lambda: (_NO_POINTS, np.zeros((0, 3), np.uint8))
    )  # points (N, 3) in the robot frame of `cloud_pose`, colours
    cloud_pose: Pose = _ORIGIN
    can_stop: bool = False


def _of_own_page(serve: Callable[..., Any]) -> Callable[..., Any]:
    """`serve` of websockets that refuses what pages of other sites ask for, for which viser has no check: any site
    that a browser on this machine opens could instruct the robot otherwise, or release a robot that was stopped."""

    def checked(handler: Any, host: str, port: int, *, process_request: Any, **options: Any) -> Any:
        def check(connection: Any, request: Any) -> Any:
            origin, asked = request.headers.get("Origin"), request.headers.get("Host", "")
            foreign = origin is not None and urlsplit(origin).netloc != asked
            # A name of somebody else's that leads here: its pages would count as our own.
            rebound = host in _LOOPBACK and urlsplit(f"//{asked}").hostname not in _LOOPBACK
            if foreign or rebound:
                return connection.respond(403, "this page is not for other sites\n")
            return process_request(connection, request)

        return serve(handler, host, port, process_request=check, **options)

    return checked


def check_host(host: str) -> None:
    """ValueError for what is no address of this machine: viser would wait for ever."""
    try:
        if not host:
            raise OSError("it is empty")
        family, kind, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except OSError as error:
        raise ValueError(
            f"parameter 'host' is {host!r}: no address of this machine ({error}); 127.0.0.1 is for this machine "
            "only, 0.0.0.0 for everybody"
        ) from None


class Page:
    """Serves the page; `show` brings it up to date.

    Args:
        host, port: where; the next free port is taken if it is in use. ValueError for a host that is not this one.
        robot_radius: of the robot as drawn [m].
        on_instruction, on_stop, on_release: what a person does, called in a thread of the page.
    """

    def __init__(
        self,
        host: str,
        port: int,
        robot_radius: float,
        on_instruction: Callable[[str], None],
        on_stop: Callable[[], None],
        on_release: Callable[[], None],
    ) -> None:
        logging.getLogger("websockets").setLevel(logging.CRITICAL)  # a browser that goes away is no error
        check_host(host)
        server = websockets.asyncio.server
        with (
            contextlib.redirect_stdout(io.StringIO()),  # its banner; the node says the address
            mock.patch.object(server, "serve", _of_own_page(server.serve)),
        ):
            self._server = viser.ViserServer(host=host, port=port, label="Dual-system navigation", verbose=False)
        # A client may ask for a tunnel through a public server, whether there is a button for it or not.
        self._server.request_share_url = lambda *_, **__: None  # type: ignore[method-assign]
        self.address = f"http://{'localhost' if host in ('127.0.0.1', '0.0.0.0') else host}:{self._server.get_port()}"
        self._radius = robot_radius
        self._heading = 0.0  # of the view
        self._server.gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False, brand_color=PATH)
        self._make_panels(on_instruction, on_stop, on_release)
        self._make_scene()
        self._set_view("Behind")

    @property
    def watched(self) -> bool:
        """Whether a browser is connected."""
        return bool(self._server.get_clients())

    def close(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._server.stop()

    # ------------------------------------------------------------------------------------------------- making

    def _make_panels(
        self,
        on_instruction: Callable[[str], None],
        on_stop: Callable[[], None],
        on_release: Callable[[], None],
    ) -> None:
        gui = self._server.gui
        gui.main_panel.dock_right()
        gui.main_panel.set_width(_RIGHT_WIDTH)
        self._mission = gui.add_html("")
        self._figures = gui.add_html("")
        with gui.add_form(None) as form:
            text = gui.add_text("Instruction", "", hint="What the robot is to do next; Enter sends it")
            send = gui.add_button("Send", icon=viser.Icon.SEND)
        send.on_click(lambda _: form.submit())

        @form.on_submit
        def _(_: object) -> None:
            if text.value.strip():
                on_instruction(text.value.strip())
                text.value = ""

        self._stop = gui.add_button("Stop the robot", color="red", icon=viser.Icon.HAND_STOP, disabled=True)
        self._stop.on_click(lambda _: on_stop())
        self._release = gui.add_button("Release", color="gray", icon=viser.Icon.PLAYER_PLAY, disabled=True)
        self._release.on_click(lambda _: on_release())
        self._map_picture = gui.add_image(np.zeros((2, 2, 3), np.uint8), label="Map", format="jpeg", visible=False)

        eyes = gui.add_panel()
        with eyes.add_tab("What the robot sees"):
            self._camera_picture = self._picture("Camera")
            self._depth_picture = self._picture("Depth: red is near, blue 5 m and more")
            gui.add_html(legend_html())
            view = gui.add_button_group("View", tuple(_VIEWS))
            view.on_click(lambda _: self._set_view(view.value))
        eyes.dock_left()
        eyes.set_width(_LEFT_WIDTH)

    def _picture(self, label: str) -> viser.GuiImageHandle:
        empty = np.zeros((2, 2, 3), np.uint8)
        return self._server.gui.add_image(
            empty, label=label, format="jpeg", jpeg_quality=_PICTURE_QUALITY, visible=False
        )

    def _make_scene(self) -> None:
        scene = self._server.scene
        scene.world_axes.visible = False
        scene.configure_default_lights(cast_shadow=False)  # half the time of a frame where there is no GPU
        self._root = scene.add_frame("/view", show_axes=False)
        self._map = scene.add_frame("/view/map", show_axes=False)
        self._odom = scene.add_frame("/view/map/odom", show_axes=False)
        self._grid = scene.add_grid(
            "/view/map/odom/grid",
            40.0,
            40.0,
            cell_color=(60, 70, 80),
            section_color=(80, 90, 100),
            position=(0, 0, -0.03),
        )
        below = "/view/map/odom"
        self._driven = scene.add_line_segments(f"{below}/driven", _NO_LINES, _deeper(DRIVEN), thickness=0.035)
        self._candidates = scene.add_line_segments(
            f"{below}/candidates", _NO_LINES, np.zeros((1, 2, 3), np.uint8), thickness=0.012
        )
        self._path = scene.add_line_segments(f"{below}/path", _NO_LINES, _deeper(PATH), thickness=0.06)
        self._cloud = scene.add_point_cloud(
            f"{below}/cloud", _NO_POINTS, np.zeros((0, 3), np.uint8), point_size=0.028, point_shading="flat"
        )
        self._goal = scene.add_frame(f"{below}/goal", show_axes=False, visible=False)
        scene.add_icosphere(f"{below}/goal/head", radius=0.09, color=GOAL, position=(0, 0, 0.55))
        scene.add_cylinder(f"{below}/goal/pole", radius=0.015, height=0.5, color=GOAL, position=(0, 0, 0.25))
        scene.add_cylinder(f"{below}/goal/foot", radius=0.13, height=0.01, color=GOAL, position=(0, 0, 0.01))
        self._robot = scene.add_frame(f"{below}/robot", show_axes=False, visible=False)
        self._make_robot(f"{below}/robot")

    def _make_robot(self, name: str) -> None:
        scene, radius = self._server.scene, self._radius
        white, dark = (232, 236, 240), (52, 60, 70)
        scene.add_cylinder(f"{name}/base", radius=radius, height=0.2, color=white, position=(0, 0, 0.13))
        scene.add_cylinder(f"{name}/skirt", radius=radius * 0.9, height=0.06, color=dark, position=(0, 0, 0.03))
        scene.add_cylinder(f"{name}/mast", radius=0.025, height=0.36, color=dark, position=(0, 0, 0.4))
        scene.add_box(f"{name}/head", dimensions=(0.06, 0.16, 0.06), color=dark, position=(0, 0, 0.6))
        nose = np.array([[[radius * 0.2, 0.0, 0.24], [radius * 0.95, 0.0, 0.24]]], np.float32)
        scene.add_arrows(f"{name}/nose", nose, PATH, shaft_radius=0.02, head_radius=0.05, head_length=0.08)

    def _set_view(self, name: str) -> None:
        """Where people look from: for those who are here and those who come."""
        start = self._server.initial_camera
        start.position, start.look_at = _VIEWS[name], _LOOK_AT
        for client in self._server.get_clients().values():
            with client.atomic():
                client.camera.position, client.camera.look_at = _VIEWS[name], _LOOK_AT
                client.camera.up_direction = (0.0, 0.0, 1.0)

    # ------------------------------------------------------------------------------------------------ showing

    def set_plan(self, plan: FloorPlan) -> None:
        """The surroundings, drawn on the floor instead of the grid."""
        self._grid.visible = False
        self._server.scene.add_image(
            "/view/map/plan",
            plan.picture,
            plan.width,
            plan.height,
            format="jpeg",
            jpeg_quality=85,
            cast_shadow=False,
            receive_shadow=False,
            # An image's x is to the right and its y down; the map's y is up.
            wxyz=(0.0, 1.0, 0.0, 0.0),
            position=(plan.x + plan.width / 2, plan.y + plan.height / 2, -0.02),
        )

    def show(self, view: View) -> None:
        """Bring the page up to date; what has not changed is not sent."""
        with self._server.atomic():
            self._mission.content, self._figures.content = view.mission, view.figures
            for handle, picture in (
                (self._camera_picture, view.camera_picture),
                (self._depth_picture, view.depth_picture),
                (self._map_picture, view.map_picture),
            ):
                handle.visible = picture is not None
                if picture is not None:
                    handle.image = picture
            self._stop.disabled = self._release.disabled = not view.can_stop
            self._show_scene(view)

    def _show_scene(self, view: View) -> None:
        _put(self._odom, view.map_from_odom)
        self._robot.visible = view.robot is not None
        if view.robot is not None:
            _put(self._robot, view.robot)
            self._follow(view.map_from_odom.then(view.robot))
        self._cloud.points, self._cloud.colors = view.cloud
        _put(self._cloud, view.cloud_pose)
        _draw(self._driven, view.driven, 0.012)
        _draw(self._path, view.path, 0.05)
        lines = [segments(line, 0.03) for line, _ in view.candidates]
        colours = [
            np.broadcast_to(np.uint8(_deeper(colour)), (len(line), 2, 3))
            for line, (_, colour) in zip(lines, view.candidates, strict=True)
        ]
        self._candidates.visible = bool(lines)
        if lines:
            self._candidates.points, self._candidates.colors = np.concatenate(lines), np.concatenate(colours)
        self._goal.visible = view.goal is not None
        if view.goal is not None:
            self._goal.position = (float(view.goal[0]), float(view.goal[1]), 0.0)

    def _follow(self, robot: Pose) -> None:
        """Move the scene so that the robot is in the middle, looking away from whoever is behind it."""
        turn = math.remainder(robot.yaw - self._heading, math.tau)
        self._heading += turn if abs(turn) > math.pi / 2 else _TURNING * turn
        _put(self._root, Pose(robot.x, robot.y, self._heading).inverse())


def _put(handle: viser.SceneNodeHandle, pose: Pose) -> None:
    handle.position = (pose.x, pose.y, handle.position[2])
    handle.wxyz = (math.cos(pose.yaw / 2), 0.0, 0.0, math.sin(pose.yaw / 2))


def _draw(handle: viser.LineSegmentsHandle, line: np.ndarray | None, height: float) -> None:
    handle.visible = line is not None and len(line) > 1
    if handle.visible:
        handle.points = segments(line, height)


def _deeper(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """A line's colour for the scene, whose tone mapping makes everything paler."""
    return tuple(round(255 * (part / 255) ** 1.8 * 0.8) for part in colour)
