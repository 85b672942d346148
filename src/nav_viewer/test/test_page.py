"""The node and its page in a real browser, on messages as a robot sends them.

It needs Chromium or Chrome, installed or fetched by `scripts/fetch_debian.py --browser` (`make test` does).
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path as FilePath

import cv2
import numpy as np
import pytest
import viser
from geometry_msgs.msg import Point, PoseStamped
from nav_msgs.msg import Odometry, Path
from playwright.sync_api import sync_playwright
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import ColorRGBA, Header, String
from std_srvs.srv import Trigger
from visualization_msgs.msg import Marker, MarkerArray
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from dual_nav_util import images, qos
from dual_nav_util.stamps import to_stamp
from dual_nav_util.testing import Graph
from nav_msgs_ext.msg import ControllerState, S2Plan
from nav_viewer.colours import DRIVEN, PATH
from nav_viewer.node import NavViewer
from nav_viewer.page import check_host

ROOT = FilePath(__file__).resolve().parents[3]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FETCHED = ROOT / ".state" / "debian" / "chromium" / "usr" / "lib"
# The first two: without a sandbox as root, WebGL without a GPU. The others: nothing is looked up on the way.
FLAGS = ("--no-sandbox", "--enable-unsafe-swiftshader", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-first-run")  # fmt: skip
WINDOW = {"width": 1280, "height": 800}
SCENE = (slice(160, 800), slice(360, 920))  # rows, columns of the window between the panels
CANDIDATE = (255, 0, 0)
PERIOD = 0.1
PATIENCE = 120.0  # s; software rendering on a busy machine


def browser() -> str | None:
    """The executable, None where there is none."""
    fetched = FETCHED / "chromium" / "chromium"
    if fetched.is_file():
        return str(fetched)
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def browser_environment() -> dict[str, str]:
    """With the libraries that were fetched with the browser; those of ROS are none of its business."""
    # libpulse looks for a library of its own in /usr/lib, wherever it lies itself.
    folders = [*FETCHED.glob("*-linux-gnu"), *FETCHED.glob("*-linux-gnu/pulseaudio")]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, folders))}


class Robot:
    """Publishes what a robot and both nodes publish, ten times a second, and offers S1's services."""

    def __init__(self, graph: Graph) -> None:
        node = graph.tester
        self.publishers = {
            topic: node.create_publisher(kind, topic, profile)
            for topic, kind, profile in (
                ("rgb", Image, qos.NEWEST_FRAME),
                ("depth", Image, qos.NEWEST_FRAME),
                ("camera_info", CameraInfo, qos.NEWEST_FRAME),
                ("odom", Odometry, qos.ODOMETRY),
                ("s1/state", ControllerState, qos.NEWEST_STATE),
                ("s1/path", Path, qos.DEFAULT),
                ("s1/candidates", MarkerArray, qos.DEFAULT),
                ("s2/plan", S2Plan, qos.LATCHED),
                ("instruction", String, qos.LATCHED),
            )
        }
        self.stopped = threading.Event()
        node.create_service(Trigger, "s1_controller/emergency_stop", self._on_stop)
        node.create_service(Trigger, "s1_controller/release", lambda _, response: response)
        self.has_path = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _on_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.stopped.set()
        response.success = True
        return response

    def listeners(self, topic: str) -> int:
        return self.publishers[topic].get_subscription_count()

    def close(self) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        self.publishers["instruction"].publish(String(data="Go to the grey wall."))
        depth = np.full((480, 640), 2500, np.uint16)
        rgb = np.full((480, 640, 3), 120, np.uint8)
        for step in range(10**6):
            stamp = to_stamp(1_000_000_000_000 + step * 100_000_000)
            header = Header(stamp=stamp, frame_id="camera")
            odometry = Odometry(header=Header(stamp=stamp, frame_id="odom"))
            odometry.pose.pose.position.x, odometry.pose.pose.orientation.w = 0.01 * min(step, 100), 1.0
            self.publishers["odom"].publish(odometry)
            info = CameraInfo(header=header, width=640, height=480)
            info.k = [388.0, 0.0, 319.5, 0.0, 388.0, 239.5, 0.0, 0.0, 1.0]
            self.publishers["camera_info"].publish(info)
            self.publishers["rgb"].publish(images.image_from_array(rgb, "rgb8", header))
            self.publishers["depth"].publish(images.image_from_array(depth, "16UC1", header))
            self.publishers["s1/state"].publish(ControllerState(header=header, state=ControllerState.FOLLOWING))
            if step % 10 == 0:
                plan = S2Plan(header=header, kind=S2Plan.KIND_PIXEL_GOAL, plan_number=step // 10, answer="320 400")
                plan.pixel_goal_column, plan.pixel_goal_row, plan.image_width, plan.image_height = 320, 400, 640, 480
                self.publishers["s2/plan"].publish(plan)
            if self.has_path:
                self._publish_paths(odometry.pose.pose.position.x, Header(stamp=stamp, frame_id="odom"))
            if self._ending.wait(PERIOD):
                return

    def _publish_paths(self, x: float, header: Header) -> None:
        path = Path(header=header)
        for ahead in np.linspace(0.0, 2.0, 20).tolist():
            pose = PoseStamped(header=header)
            pose.pose.position = Point(x=x + ahead, y=0.1 * ahead * ahead)
            path.poses.append(pose)
        self.publishers["s1/path"].publish(path)
        marker = Marker(header=header, type=Marker.LINE_STRIP, color=ColorRGBA(r=CANDIDATE[0] / 255, a=1.0))
        marker.points = [Point(x=x, y=0.0), Point(x=x + 2.0, y=-1.0)]
        self.publishers["s1/candidates"].publish(MarkerArray(markers=[marker]))


@pytest.fixture(scope="module")
def graph():
    graph = Graph()
    yield graph
    graph.close()


@pytest.fixture(scope="module")
def robot(graph):
    robot = Robot(graph)
    yield robot
    robot.close()


@pytest.fixture(scope="module")
def viewer(graph):
    node = graph.make(NavViewer, autostart=True, port=18080 + os.getpid() % 1000)
    node.autostart()
    return node


@pytest.fixture(scope="module")
def page(viewer):
    if browser() is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed, and scripts/fetch_debian.py got none")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser(), args=list(FLAGS), env=browser_environment())
        page = chromium.new_page(viewport=WINDOW)
        page.set_default_timeout(PATIENCE * 1e3)
        page.asked = []  # addresses of everything the page loads
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("websocket", lambda socket: page.asked.append(socket.url))
        page.wrong = []
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        yield page
        chromium.close()


def screenshot(page) -> np.ndarray:
    """(H, W, 3) RGB."""
    data = np.frombuffer(page.screenshot(timeout=PATIENCE * 1e3), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]


def alike(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    """Pixels of the hue of a colour, whatever light and tone mapping make of it."""
    wanted = cv2.cvtColor(np.uint8([[colour]]), cv2.COLOR_RGB2HSV)[0, 0, 0]
    hue, saturation, value = cv2.split(cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2HSV))
    apart = np.abs(hue.astype(int) - int(wanted))
    return int(((np.minimum(apart, 180 - apart) <= 9) & (saturation > 150) & (value > 90)).sum())


def until(condition: Callable[[], object], what: str) -> object:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.5)
    raise AssertionError(f"{what}: not within {PATIENCE:g} s")


def test_pages_of_other_sites_are_refused_and_no_tunnel_is_opened(viewer):
    port = int(viewer._page.address.rpartition(":")[2])
    page, protocol = f"ws://127.0.0.1:{port}", [Subprotocol(f"viser-v{viser.__version__}")]
    foreign = "http://evil.example"
    for address, origin in ((page, foreign), (f"ws://evil.example:{port}", f"{foreign}:{port}")):
        sock = socket.create_connection(("127.0.0.1", port))  # the second: a name of theirs that leads here
        with pytest.raises(InvalidStatus) as refused:
            connect(address, sock=sock, subprotocols=protocol, origin=origin)
        assert refused.value.response.status_code == 403
    with connect(page, subprotocols=protocol, origin=f"http://127.0.0.1:{port}") as own:
        assert own.recv(timeout=PATIENCE)
    assert viewer._page._server.request_share_url() is None


@pytest.mark.parametrize("host", ["", "203.0.113.7", "no.such.name.invalid"])
def test_a_host_that_is_not_this_machine_is_named(host):
    with pytest.raises(ValueError, match=re.escape(f"parameter 'host' is {host!r}: no address of this machine")):
        check_host(host)


def test_without_a_browser_nothing_is_drawn_and_no_image_asked_for(graph, robot, viewer):
    graph.wait_for(lambda: robot.listeners("s1/state"), "the viewer listens")
    time.sleep(1.0)
    assert [robot.listeners(topic) for topic in ("rgb", "depth", "s1/path", "s1/candidates")] == [0, 0, 0, 0]
    assert viewer._shown.total == 0


def test_the_page_shows_instruction_state_plan_and_the_scene(robot, viewer, page):
    page.goto(viewer._page.address)
    page.get_by_text("Go to the grey wall.").wait_for()
    page.get_by_text("following", exact=True).wait_for()
    page.get_by_text("pixel goal 320, 400").wait_for()
    until(lambda: screenshot(page)[SCENE].std() > 15.0, "the scene is drawn")
    assert page.locator("img").count() >= 3  # camera, depth, map
    until(lambda: alike(screenshot(page)[SCENE], DRIVEN) > 200, "the driven path is seen")


def test_the_path_is_seen_when_there_is_one(robot, viewer, page):
    without = alike(screenshot(page)[SCENE], PATH)
    robot.has_path = True
    until(lambda: alike(screenshot(page)[SCENE], PATH) > without + 200, "the path is seen")
    until(lambda: alike(screenshot(page)[SCENE], CANDIDATE) > 30, "the candidate is seen in its colour")
    keep = os.environ.get("NAV_VIEWER_SCREENSHOT")
    if keep:
        page.screenshot(path=keep, timeout=PATIENCE * 1e3)


def test_everything_is_loaded_from_this_machine(page):
    hosts = {url.split("/")[2] for url in page.asked if url.startswith(("http", "ws"))}
    assert len(hosts) == 1, hosts
    assert hosts.pop().startswith("localhost:")
    assert page.wrong == []


def test_an_instruction_typed_into_the_page_reaches_the_topic(graph, page):
    heard = graph.listen(String, "instruction", qos.DEFAULT)
    field = page.get_by_role("textbox").first
    field.fill("  Go to the door. ")
    field.press("Enter")
    graph.wait_for(lambda: [m.data for m in heard] == ["Go to the door."], "the instruction", PATIENCE)
    page.get_by_text("Go to the door.").first.wait_for()


def test_the_stop_button_stops_the_robot(robot, page):
    page.get_by_role("button", name="Stop the robot").click()
    assert robot.stopped.wait(PATIENCE)


def test_when_the_browser_goes_images_are_no_longer_asked_for(graph, robot, page):
    assert robot.listeners("rgb") == 1
    page.close()
    graph.wait_for(lambda: not robot.listeners("rgb"), "the viewer lets go of the images", PATIENCE)
