"""The node nav_viewer: what the robot sees, plans and does, in a browser (page.py).

It listens and never stands in anybody's way: subscriptions keep the newest message only, a thread of its own builds
the page at `rate` at most, and images, depth and candidates are subscribed to only while a browser is connected (the
simulator renders, and S1 publishes candidates, only for somebody). Odometry, plans, states and the instruction are
always listened to, so that a page opened late shows the whole path.

Publishes `instruction` when a person types one into the page; calls `s1_controller/emergency_stop` and `…/release`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from nav_msgs.msg import OccupancyGrid, Odometry
from nav_msgs.msg import Path as PathMessage
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String
from std_srvs.srv import Trigger
from visualization_msgs.msg import MarkerArray

from dual_nav_util import images, qos
from dual_nav_util.diagnostics import EventRate, LatencyWindow
from dual_nav_util.managed_node import ManagedNode
from dual_nav_util.stamps import to_nanoseconds
from nav_msgs_ext.msg import ControllerState, S2Plan

from .geometry import Camera, Pose, dense
from .memory import SeenObstacles, Track
from .page import Page, View
from .parameters import ViewerParameters
from .pictures import CAMERA_WIDTH, DEPTH_WIDTH, FloorPlan, camera_picture, depth_picture, map_picture, plan_of_grid
from .texts import figures_html, mission_html

STOP_TIMEOUT = 3.0  # s to wait for the drawing thread at the end
STALE = 1.5  # s after which a path or candidates no longer say what the robot is about to do
MANY_FRAMES = 20  # depth images kept to find the one a plan was made from
CLOUD_STEP, CLOUD_REACH, CLOUD_TOP = 6, 6.0, 1.9  # pixels, m, m
MAP_FRAME = "map"
OBSTACLE_HEIGHTS = (0.08, 1.0)  # m above the floor


class NavViewer(ManagedNode):
    """See the module."""

    def __init__(self, **node_options: Any) -> None:
        super().__init__("nav_viewer", ViewerParameters, **node_options)
        self._page: Page | None = None
        self._drawing: threading.Thread | None = None
        self._ending = threading.Event()

    # ------------------------------------------------------------------------------------------- life cycle

    def configure(self, parameters: ViewerParameters) -> None:
        self._settings = parameters
        self._lock = threading.Lock()
        self._newest: dict[str, tuple[float, Any]] = {}  # topic: arrival (monotonic s), message
        self._depths: dict[int, Image] = {}  # by stamp
        self._track, self._obstacles = Track(), SeenObstacles()
        self._truth: tuple[int, Pose] | None = None
        self._map_from_odom: Pose | None = None
        self._speed = 0.0
        self._goal: np.ndarray | None = None  # in the frame of odometry
        self._plan_of_goal: S2Plan | None = None
        self._floor: FloorPlan | None = None
        self._grid: OccupancyGrid | None = None  # what the floor plan was made from
        self._picture: Image | None = None
        self._frame_ns = 0
        self._frames, self._plans, self._shown = EventRate(), EventRate(period=15.0), EventRate()
        self._building = LatencyWindow(256)
        self._watched_entities: list[Any] = []
        self._stop_client = self.create_client(Trigger, "s1_controller/emergency_stop")
        self._release_client = self.create_client(Trigger, "s1_controller/release")
        self._page = Page(
            parameters.host,
            parameters.port,
            parameters.robot_radius,
            on_instruction=self._instruct,
            on_stop=lambda: self._call(self._stop_client),
            on_release=lambda: self._call(self._release_client),
        )
        self._instruction_publisher = self.managed_publisher(String, "instruction", qos.LATCHED)
        for kind, topic, callback, profile in (
            (Odometry, "odom", self._on_odometry, qos.ODOMETRY),
            (Odometry, "ground_truth", self._on_truth, qos.ODOMETRY),
            (ControllerState, "s1/state", self._on_state, qos.NEWEST_STATE),
            (S2Plan, "s2/plan", self._on_plan, qos.LATCHED),
            (String, "instruction", self._keep("instruction"), qos.LATCHED),
            (OccupancyGrid, "map", self._keep("map"), qos.LATCHED),
            (Image, "map_picture", self._keep("map_picture"), qos.LATCHED),
        ):
            self.managed_subscription(kind, topic, callback, profile)
        self.managed_timer(0.2, self._watch)

    def activate(self) -> None:
        self._ending.clear()
        self._drawing = threading.Thread(target=self._draw, name="drawing", daemon=True)
        self._drawing.start()
        self.get_logger().info(f"open {self._page.address} in a browser")

    def deactivate(self) -> None:
        self._end_drawing()

    def release(self) -> bool:
        if not self._end_drawing():
            return False
        if self._page is not None:
            self._page.close()
            self._page = None
            self._unsubscribe()
            for client in (self._stop_client, self._release_client):
                self.destroy_client(client)
        return True

    def _end_drawing(self) -> bool:
        self._ending.set()
        if self._drawing is not None:
            self._drawing.join(STOP_TIMEOUT)
            if self._drawing.is_alive():
                return False
            self._drawing = None
        return True

    # ------------------------------------------------------------------------------- messages, executor thread

    def _watch(self) -> None:
        """Subscribe to what is large only while somebody looks."""
        watched = self.is_active and self._page is not None and self._page.watched
        if watched == bool(self._watched_entities):
            return
        if not watched:
            self._unsubscribe()
            return
        rgb = CompressedImage if self._settings.rgb_transport == "compressed" else Image
        for kind, topic, callback, profile in (
            (rgb, "rgb", self._keep("rgb"), qos.NEWEST_FRAME),
            (Image, "depth", self._on_depth, qos.NEWEST_FRAME),
            (CameraInfo, "camera_info", self._keep("camera_info"), qos.NEWEST_FRAME),
            (PathMessage, "s1/path", self._keep("s1/path"), qos.NEWEST_STATE),
            (MarkerArray, "s1/candidates", self._keep("s1/candidates"), qos.NEWEST_STATE),
        ):
            self._watched_entities.append(self.create_subscription(kind, topic, callback, profile))

    def _unsubscribe(self) -> None:
        while self._watched_entities:
            self.destroy_subscription(self._watched_entities.pop())

    def _keep(self, topic: str) -> Any:
        def callback(message: Any) -> None:
            with self._lock:
                self._newest[topic] = (time.monotonic(), message)

        return callback

    def _on_depth(self, message: Image) -> None:
        with self._lock:
            self._newest["depth"] = (time.monotonic(), message)
            self._depths[to_nanoseconds(message.header.stamp)] = message
            while len(self._depths) > MANY_FRAMES:
                del self._depths[next(iter(self._depths))]

    def _on_odometry(self, message: Odometry) -> None:
        stamp_ns, pose = to_nanoseconds(message.header.stamp), _pose_of(message)
        with self._lock:
            self._speed = message.twist.twist.linear.x
            if self._track.add(stamp_ns, pose):
                self._obstacles.clear()
                self._goal = self._map_from_odom = None
            if self._truth is not None and self._truth[0] == stamp_ns:
                self._map_from_odom = self._truth[1].then(pose.inverse())

    def _on_truth(self, message: Odometry) -> None:
        """The simulator's; a robot has none, and its map frame is that of odometry here."""
        stamp_ns, pose = to_nanoseconds(message.header.stamp), _pose_of(message)
        with self._lock:
            self._truth = (stamp_ns, pose)
            odometry = self._track.pose_at(stamp_ns)
            if odometry is not None:
                self._map_from_odom = pose.then(odometry.inverse())

    def _on_state(self, message: ControllerState) -> None:
        stamp_ns = to_nanoseconds(message.header.stamp)
        with self._lock:
            self._newest["s1/state"] = (time.monotonic(), message)
            if stamp_ns != self._frame_ns:
                self._frame_ns = stamp_ns
                self._frames.tick()

    def _on_plan(self, message: S2Plan) -> None:
        with self._lock:
            self._newest["s2/plan"] = (time.monotonic(), message)
            self._plans.tick()

    # ---------------------------------------------------------------------------------- the page, other threads

    def _instruct(self, text: str) -> None:
        self._instruction_publisher.publish(String(data=text))

    def _call(self, client: Any) -> None:
        if client.service_is_ready():
            client.call_async(Trigger.Request())
        else:
            self.incidents.report("service", f"{client.srv_name} is not there: is S1 running?")

    def _draw(self) -> None:
        period = 1.0 / self._settings.rate
        while not self._ending.is_set():
            started = time.monotonic()
            if self._page.watched:
                try:
                    self._page.show(self._view())
                except Exception as error:
                    self.incidents.report("page", f"the page was not brought up to date: {error!r}")
                self._shown.tick()
                self._building.add(time.monotonic() - started)
            self._ending.wait(max(0.0, started + period - time.monotonic()))

    def _view(self) -> View:
        """What is known now."""
        now = time.monotonic()
        with self._lock:
            newest = {topic: message for topic, (_, message) in self._newest.items()}
            age = {topic: now - arrival for topic, (arrival, _) in self._newest.items()}
            robot, driven, distance = self._track.pose, self._track.driven(), self._track.distance
            map_from_odom, speed = self._map_from_odom or Pose(), self._speed
        self._take_floor(newest.get("map"), newest.get("map_picture"))
        state: ControllerState | None = newest.get("s1/state")
        plan: S2Plan | None = newest.get("s2/plan")
        rgb = self._rgb(newest.get("rgb"))
        camera = self._camera(newest.get("camera_info"))
        goal = self._goal_of(plan, camera)
        path = _line_of(newest["s1/path"]) if age.get("s1/path", math.inf) < STALE else None
        if path is not None and newest["s1/path"].header.frame_id == MAP_FRAME:  # of the simulator's oracle
            path = map_from_odom.inverse().place(path)
        candidates = _candidates_of(newest["s1/candidates"]) if age.get("s1/candidates", math.inf) < STALE else []

        depth = cloud = cloud_pose = None
        if "depth" in newest:
            depth = self._readable(images.depth_from_image, newest["depth"], "depth")
            cloud_pose = self._pose_at(newest["depth"])
        if camera is not None and depth is not None and cloud_pose is not None:
            cloud = camera.cloud(depth, rgb, CLOUD_STEP, CLOUD_REACH, CLOUD_TOP)
            self._remember_obstacles(cloud[0], cloud_pose)
        shown_path = shown_goal = None
        if rgb is not None and camera is not None:
            shown_path, shown_goal = self._in_image(camera, self._pose_at(newest["rgb"]), path, goal)

        optional = {} if cloud is None else {"cloud": cloud, "cloud_pose": cloud_pose}
        return View(
            mission=mission_html(newest["instruction"].data if "instruction" in newest else None, state, plan),
            figures=figures_html(
                self._frames.hertz(),
                state.latency if state is not None else 0.0,
                self._plans.hertz(),
                plan.inference_time if plan is not None else 0.0,
                speed,
                distance,
            ),
            camera_picture=None if rgb is None else camera_picture(rgb, shown_path, shown_goal, CAMERA_WIDTH),
            depth_picture=None if depth is None else depth_picture(depth, DEPTH_WIDTH),
            map_picture=map_picture(
                self._floor,
                None if robot is None else map_from_odom.then(robot),
                map_from_odom.place(driven),
                None if path is None else map_from_odom.place(path),
                None if goal is None else map_from_odom.place(goal[None])[0],
                map_from_odom.place(self._obstacles.places()),
                self._settings.robot_radius,
            ),
            robot=robot,
            map_from_odom=map_from_odom,
            path=path,
            candidates=candidates,
            driven=driven,
            goal=goal,
            can_stop=self._stop_client.service_is_ready(),
            **optional,
        )

    # ------------------------------------------------------------------------------------------ parts of the view

    def _take_floor(self, grid: OccupancyGrid | None, picture: Image | None) -> None:
        """Draw the map on the floor when a new one has come. A picture of it covers the same area."""
        if grid is None or (grid is self._grid and picture is self._picture):
            return
        self._grid, self._picture = grid, picture
        origin = grid.info.origin.position
        cells = np.array(grid.data, dtype=np.int8).reshape(grid.info.height, grid.info.width)
        plan = plan_of_grid(cells, grid.info.resolution, origin.x, origin.y)
        if picture is not None:
            rgb = self._readable(images.rgb_from_image, picture, "map_picture")
            if rgb is not None:
                plan = FloorPlan(plan.x, plan.y, plan.width, plan.height, rgb)
        self._floor = plan
        self._page.set_plan(plan)

    def _rgb(self, message: Image | CompressedImage | None) -> np.ndarray | None:
        if message is None:
            return None
        compressed = isinstance(message, CompressedImage)
        return self._readable(images.rgb_from_compressed if compressed else images.rgb_from_image, message, "rgb")

    def _readable(self, read: Callable[[Any, str], np.ndarray], message: Any, topic: str) -> np.ndarray | None:
        """The image; None for one that cannot be used: the rest of the page, and its button to stop, go on."""
        try:
            return read(message, topic)
        except images.ImageError as error:
            self.incidents.report(topic, str(error))
            return None

    def _camera(self, message: CameraInfo | None) -> Camera | None:
        if message is None or not message.k[0]:
            return None
        k = message.k
        return Camera(message.width, message.height, k[0], k[4], k[2], k[5], self._settings.mount())

    def _pose_at(self, message: Any) -> Pose | None:
        """Of the robot when an image was taken."""
        with self._lock:
            return self._track.pose_at(to_nanoseconds(message.header.stamp))

    def _goal_of(self, plan: S2Plan | None, camera: Camera | None) -> np.ndarray | None:
        """Where the newest plan's pixel goal lies, (3,) in the frame of odometry; kept until another plan comes."""
        if plan is None or plan is self._plan_of_goal or camera is None:
            return self._goal if plan is not None else None
        self._plan_of_goal, self._goal = plan, None
        pose = self._pose_at(plan)
        if plan.kind == S2Plan.KIND_ACTIONS or pose is None or not plan.image_width or not plan.image_height:
            return None
        column = (plan.pixel_goal_column + 0.5) * camera.width / plan.image_width - 0.5
        row = (plan.pixel_goal_row + 0.5) * camera.height / plan.image_height - 0.5
        depth = 0.0
        if plan.look_down:
            camera = camera.mounted(self._settings.look_down_mount())
        else:
            with self._lock:
                message = self._depths.get(to_nanoseconds(plan.header.stamp))
            measured = None if message is None else self._readable(images.depth_from_image, message, "depth")
            if measured is not None:
                at = (
                    round(row * measured.shape[0] / camera.height),
                    round(column * measured.shape[1] / camera.width),
                )
                if 0 <= at[0] < measured.shape[0] and 0 <= at[1] < measured.shape[1]:
                    depth = float(measured[at])
        place = camera.place_of(column, row, depth)
        self._goal = None if place is None else pose.place(place[None])[0]
        return self._goal

    def _remember_obstacles(self, points: np.ndarray, pose: Pose) -> None:
        """On a robot without a map, what depth showed is the map."""
        if self._floor is None:
            low, high = OBSTACLE_HEIGHTS
            self._obstacles.add(pose.place(points[(points[:, 2] > low) & (points[:, 2] < high)]))

    def _in_image(
        self, camera: Camera, pose: Pose | None, path: np.ndarray | None, goal: np.ndarray | None
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Pixels of path and goal in an image taken at `pose`."""
        if pose is None:
            return None, None
        here = pose.inverse()
        shown_path = shown_goal = None
        if path is not None and len(path) > 1:
            line = dense(path)
            shown_path = camera.pixels_of(here.place(np.column_stack([line, np.zeros(len(line))])))
        if goal is not None:
            shown_goal = camera.pixels_of(here.place(goal[None]))[0]
        return shown_path, shown_goal

    # ---------------------------------------------------------------------------------------------- diagnostics

    def statuses(self) -> list[DiagnosticStatus]:
        status = self.status("page")
        status.value("address", self._page.address if self._page is not None else "")
        status.value("updates [Hz]", self._shown.hertz())
        status.latency("update", self._building)
        for incident in self.incidents.recent(5.0):
            status.warn(incident.text)
        watched = self._page is not None and self._page.watched
        return [status.build("a browser is connected" if watched else "no browser is connected")]


def _pose_of(message: Odometry) -> Pose:
    position, orientation = message.pose.pose.position, message.pose.pose.orientation
    yaw = math.atan2(
        2.0 * (orientation.w * orientation.z + orientation.x * orientation.y),
        1.0 - 2.0 * (orientation.y**2 + orientation.z**2),
    )
    return Pose(position.x, position.y, yaw)


def _line_of(message: PathMessage) -> np.ndarray:
    """(N, 2), metres."""
    return np.array([(pose.pose.position.x, pose.pose.position.y) for pose in message.poses]).reshape(-1, 2)


def _candidates_of(message: MarkerArray) -> list[tuple[np.ndarray, tuple[int, int, int]]]:
    """Lines (N, 2) with the colours S1 gave them: from red (worst score) to green (best), grey without scores."""
    lines = []
    for marker in message.markers:
        if len(marker.points) > 1:
            colour = tuple(round(255 * part) for part in (marker.color.r, marker.color.g, marker.color.b))
            lines.append((np.array([(point.x, point.y) for point in marker.points]), colour))
    return lines
