"""Simulator, planner and controller as processes, and episodes that run in them one after another.

    with ClosedLoop(parts, folder) as loop:
        run = loop.run(make_episode("test", 0, "object", 0))

starts sim.launch.xml once. For each episode planner and controller forget the last one (`~/reset`), the simulator
loads the next (parameter `episode`, then `~/reset`) and gives its instruction (`~/instruct`). What the robot did is
taken from `ground_truth` and `collisions` and judged like an episode of `nav_sim.evaluation`.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from nav_msgs.msg import Odometry
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import String, UInt32
from std_srvs.srv import Trigger

from dual_nav_bringup.domain import own_domain_id
from dual_nav_bringup.replay import ActiveWatch, System, spinning_node
from dual_nav_util import images, qos
from dual_nav_util.recording import SECOND
from dual_nav_util.stamps import to_nanoseconds
from nav_msgs_ext.msg import ControllerState, S2Plan
from nav_sim.camera import Camera
from nav_sim.episodes import Episode, make_episode
from nav_sim.evaluation import (
    CONTROL_PERIOD,
    CONTROLLERS,
    PERIODS_PER_FRAME,
    PLANNERS,
    EvaluationError,
    Keys,
    Moment,
    Output,
    Run,
    Settings,
    Simulators,
    Watch,
    floor_point,
)
from nav_sim.grid import Point
from nav_sim.judge import Judge
from nav_sim.oracles import PlanMade
from nav_sim.simulator import Pose, yaw_of

START_TIMEOUT = 600.0  # s the processes have to load their models
LOAD_TIMEOUT = 120.0  # s a flat may take to build
CALL_TIMEOUT = 30.0  # s a service may take to answer
SILENCE_TIMEOUT = 60.0  # s without any pose after which an episode is given up
POLL = 0.02  # s
LOOK_PERIOD = 1.0  # s between two looks at the processes
FRAME_PERIOD_NS = round(CONTROL_PERIOD * PERIODS_PER_FRAME * SECOND)  # the judge looks this often
QUEUE = QoSProfile(depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT)


class LoopError(Exception):
    """The processes cannot go on; the message says why."""


class Interrupted(Exception):
    """The caller asked to stop."""


@dataclass(frozen=True)
class Parts:
    """Who drives, and in what world.

    s1, s2: "oracle", for s2 also "random", or a checkpoint folder. launch: further arguments of sim.launch.xml.
    """

    s1: str = "oracle"
    s2: str = "oracle"
    look: str = ""
    seed: int = 0
    wait_for: str = "planner_and_controller"
    launch: tuple[str, ...] = ()

    @property
    def nodes(self) -> tuple[str, str]:
        """Names of planner and controller."""
        return (
            "oracle_s2" if self.s2 in PLANNERS else "s2_planner",
            "oracle_s1" if self.s1 in CONTROLLERS else "s1_controller",
        )

    def arguments(self) -> list[str]:
        """Of the launch file; the models are those of the real parts."""
        s1 = "oracle" if self.s1 in CONTROLLERS else "real"
        s2 = self.s2 if self.s2 in PLANNERS else "real"
        words = [f"s1:={s1}", f"s2:={s2}", f"look:={self.look}", f"seed:={self.seed}", f"wait_for:={self.wait_for}"]
        if s2 == "real":
            words.append(f"model:={Path(self.s2).resolve()}")
        if s1 == "real":
            words.append(f"s1_model:={Path(self.s1).resolve()}")
        # No episode yet: the simulator stands in some flat until the first one is loaded.
        return [*words, "episode:=", "publish_instruction:=false", *self.launch]


class ClosedLoop(contextlib.AbstractContextManager):
    """See the module. One episode at a time.

    Args:
        folder: gets nodes.log.
        show: gets the lines of the processes' log that a person should see.
        keep_going: asked all the time; False ends whatever is being done with Interrupted.
        images: the camera's images are subscribed to, for those who watch.
        record: everything is recorded as a rosbag2 in `folder`.
    """

    def __init__(
        self,
        parts: Parts,
        folder: Path,
        show: Callable[[str], None] = print,
        keep_going: Callable[[], bool] = lambda: True,
        images: bool = False,
        record: bool = False,
    ) -> None:
        self.parts = parts
        self._folder, self._show, self._keep_going, self._images = folder, show, keep_going, images
        self._record = record
        self._at_the_end = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._course: _Course | None = None
        self._seen: set[str] = set()  # nodes whose process was there
        self._loaded = 0  # episodes the simulator said it has loaded
        self._looked_at = 0.0  # when the processes were looked at last

    def __enter__(self) -> ClosedLoop:
        os.environ["ROS_DOMAIN_ID"] = own_domain_id()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self.node = self._at_the_end.enter_context(spinning_node("closed_loop"))
            self._subscribe(self.node)
            log = self._folder / "nodes.log"
            arguments = self.parts.arguments()
            if self._record:
                recording = self._folder.resolve() / f"recording-{datetime.now():%Y%m%d-%H%M%S}"
                arguments += ["record:=true", f"record_folder:={recording}"]
            self.system = System(arguments, log, self._show, "sim.launch.xml")
            self._at_the_end.callback(self.system.stop)
            self._wait_until_active()
        except BaseException:
            self._at_the_end.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._at_the_end.close()

    # ---------------------------------------------------------------------------------------------- an episode

    def run(self, episode: Episode, radius: float, time_limit: float, simulators: Simulators,
            watch: Watch | None = None) -> Run:  # fmt: skip
        """Run one episode in the processes.

        Args:
            radius, time_limit: as in nav_sim.evaluation.Settings.
            simulators: to see what the robot sees at the end.
            watch: called at every camera frame, in another thread; it must not take long.

        Raises:
            LoopError: the processes have ended or do not answer. Interrupted: keep_going said so.
            EvaluationError: what `watch` raised.
        """
        planner, controller = self.parts.nodes
        self._call(f"{planner}/reset", Trigger.Request())
        self._load(episode)
        if controller == "s1_controller":  # the oracle begins anew by itself
            self._call(f"{controller}/reset", Trigger.Request())
        simulator = simulators.of(episode)
        course = _Course(Judge(episode, radius), time_limit, simulator.cameras, watch)
        with self._lock:
            self._course = course
        try:
            self._call("nav_sim/instruct", Trigger.Request())
            self._wait(lambda: course.over, f"the end of {episode.name}", lambda: course.heard + SILENCE_TIMEOUT)
        finally:
            with self._lock:
                self._course = None
        if course.failure is not None:
            raise course.failure
        outcome = "stopped" if course.arrived else "timeout"
        result = course.judge.result(simulator, outcome, course.plans, course.collisions, course.decided)
        return Run(result, course.judge.driven, course.goals)

    def __call__(self, keys: Keys, settings: Settings, output: Output) -> Iterator[dict]:
        """Episodes as nav_sim.evaluation.evaluate wants them."""
        with Simulators(settings) as simulators:
            for family, number in keys:
                episode = make_episode(settings.split, settings.seed, family, number)
                start = time.monotonic()
                with output.watch(episode, settings.simulator.camera) as watch:
                    run = self.run(episode, settings.radius, settings.time_limit, simulators, watch)
                yield output.record(episode, simulators.of(episode), run, time.monotonic() - start)

    def _load(self, episode: Episode) -> None:
        before = self._loaded
        name = Parameter("episode", value=episode.name).to_parameter_msg()
        answer = self._call("nav_sim/set_parameters", SetParameters.Request(parameters=[name]))
        if not answer.results[0].successful:
            raise LoopError(f"nav_sim refuses {episode.name}: {answer.results[0].reason}")
        self._call("nav_sim/reset", Trigger.Request())
        end = time.monotonic() + LOAD_TIMEOUT
        self._wait(lambda: self._loaded > before, f"{episode.name} is loaded", lambda: end)

    # ------------------------------------------------------------------------------------- messages, executor thread

    def _subscribe(self, node: Node) -> None:
        node.create_subscription(Odometry, "ground_truth", self._on_pose, QUEUE)
        node.create_subscription(UInt32, "collisions", self._on_collisions, qos.LATCHED)
        node.create_subscription(S2Plan, "s2/plan", self._on_plan, qos.LATCHED)
        node.create_subscription(ControllerState, "s1/state", self._on_state, qos.DEFAULT)
        node.create_subscription(String, "episode", self._on_episode, qos.LATCHED)
        if self._images:
            node.create_subscription(Image, "rgb", self._on_rgb, QUEUE)
        # Long before they are called: an answer is lost when its sender does not know the client yet.
        self._services = {"nav_sim/set_parameters": node.create_client(SetParameters, "nav_sim/set_parameters")}
        for name in ("nav_sim/reset", "nav_sim/instruct", *(f"{name}/reset" for name in self.parts.nodes)):
            self._services[name] = node.create_client(Trigger, name)

    def _on_episode(self, _: String) -> None:
        self._loaded += 1

    def _on_pose(self, message: Odometry) -> None:
        with self._lock:
            if self._course is not None:
                self._course.pose(message)

    def _on_collisions(self, message: UInt32) -> None:
        with self._lock:
            if self._course is not None:
                self._course.collisions = message.data

    def _on_plan(self, message: S2Plan) -> None:
        with self._lock:
            if self._course is not None:
                self._course.plan(message)

    def _on_state(self, message: ControllerState) -> None:
        with self._lock:
            if self._course is not None:
                self._course.state(message)

    def _on_rgb(self, message: Image) -> None:
        with self._lock:
            if self._course is not None:
                self._course.frame(message)

    # ---------------------------------------------------------------------------------------------------- waiting

    def _wait_until_active(self) -> None:
        watch = ActiveWatch(self.node, ("nav_sim", *self.parts.nodes, *(["recorder"] if self._record else [])))
        end = time.monotonic() + START_TIMEOUT

        def all_active() -> bool:
            if watch.failure:
                raise LoopError(watch.failure)
            return watch.all_active()

        self._wait(all_active, "all nodes are active", lambda: end)

    def _call(self, name: str, request: Any) -> Any:
        client, end = self._services[name], time.monotonic() + CALL_TIMEOUT
        self._wait(client.service_is_ready, f"{name} is there", lambda: end)
        future = client.call_async(request)
        self._wait(future.done, f"an answer of {name}", lambda: end)
        return future.result()

    def _wait(self, condition: Callable[[], bool], what: str, deadline: Callable[[], float]) -> None:
        while not condition():
            if not self._keep_going():
                raise Interrupted(what)
            now = time.monotonic()
            if now > deadline():
                raise LoopError(f"not in time: {what}. What the processes said: {self._folder / 'nodes.log'}")
            if now - self._looked_at > LOOK_PERIOD:
                self._looked_at = now
                self._look_at_processes()
            time.sleep(POLL)

    def _look_at_processes(self) -> None:
        """LoopError when one is gone that does not come back; the planner is started again by the launch file."""
        if (status := self.system.ended()) is not None:
            raise LoopError(f"all processes have ended with status {status}: see {self._folder / 'nodes.log'}")
        self._seen |= (running := set(self.system.processes()))
        gone = self._seen & {"nav_sim", "oracle_s1", "oracle_s2", "s1_controller", "recorder"} - running
        if gone:
            raise LoopError(f"{', '.join(sorted(gone))} has ended: see {self._folder / 'nodes.log'}")


class _Course:
    """What is known of the running episode."""

    def __init__(self, judge: Judge, time_limit: float, cameras: dict[str, Camera], watch: Watch | None) -> None:
        self.judge = judge
        self.plans, self.collisions, self.decided = 0, 0, 0.0
        self.goals: list[Point] = []
        self.arrived = self.over = False
        self.failure: EvaluationError | None = None
        self.heard = time.monotonic()
        self._limit, self._cameras, self._watch = time_limit, cameras, watch
        self._plan: PlanMade | None = None
        self._goal: Point | None = None
        self._episode_id: int | None = None
        self._begin_ns: int | None = None  # stamp of the first plan's frame
        self._due_ns = 0  # the judge looks next so long after the begin
        self._first_ns: int | None = None
        self._poses: dict[int, Pose] = {}  # all, by stamp
        self._newest_ns = 0
        self._ahead: deque[int] = deque()  # stamps not yet judged
        self._frames: deque[Image] = deque(maxlen=100)  # whose pose has not come yet

    def pose(self, message: Odometry) -> None:
        self.heard = time.monotonic()
        stamp_ns = to_nanoseconds(message.header.stamp)
        position, orientation = message.pose.pose.position, message.pose.pose.orientation
        self._poses[stamp_ns] = Pose(position.x, position.y, yaw_of(orientation.z, orientation.w))
        self._newest_ns = stamp_ns
        self._first_ns = stamp_ns if self._first_ns is None else self._first_ns
        self._ahead.append(stamp_ns)
        if self._begin_ns is None:
            self.over |= (stamp_ns - self._first_ns) / SECOND > self._limit  # no plan at all
            return
        while self._ahead and not self.over:
            self._judge(self._ahead.popleft())
        self._show_frames()

    def _judge(self, stamp_ns: int) -> None:
        since = stamp_ns - self._begin_ns
        if since < self._due_ns:
            return
        self._due_ns = (since // FRAME_PERIOD_NS + 1) * FRAME_PERIOD_NS
        if since / SECOND > self._limit + 1e-6:
            self.over = True
            return
        self.judge.observe(since / SECOND, self._poses[stamp_ns])
        self.over = self.arrived and self.judge.at_rest

    def plan(self, message: S2Plan) -> None:
        if self._episode_id is None and message.plan_number == 0:
            self._episode_id = message.episode_id
            self._begin_ns = to_nanoseconds(message.header.stamp)
        if message.episode_id != self._episode_id:
            return
        stamp_ns = to_nanoseconds(message.header.stamp)
        self.plans = message.plan_number + 1
        self.decided = (stamp_ns - self._begin_ns) / SECOND
        self._plan = plan_made(message)
        pose = self._poses.get(stamp_ns)
        goal = floor_point(self._plan, pose, self._cameras) if pose else []
        self._goal = goal[0] if goal else None
        self.goals += goal

    def state(self, message: ControllerState) -> None:
        if message.state == ControllerState.ARRIVED and message.episode_id == self._episode_id:
            self.arrived = True

    def frame(self, message: Image) -> None:
        self._frames.append(message)
        self._show_frames()

    def _show_frames(self) -> None:
        """To those who watch: the frames whose pose is known."""
        while self._frames and (stamp_ns := to_nanoseconds(self._frames[0].header.stamp)) <= self._newest_ns:
            message = self._frames.popleft()
            pose = self._poses.get(stamp_ns)
            if self._watch is None or self._begin_ns is None or pose is None or stamp_ns < self._begin_ns:
                continue
            rgb = images.rgb_from_image(message, "rgb")
            since = (stamp_ns - self._begin_ns) / SECOND
            try:
                self._watch(Moment(since, pose, rgb, self._plan, self._goal, self.judge.driven))
            except EvaluationError as error:  # no video: for the thread that waits for the end
                self.failure, self.over = error, True


def plan_made(message: S2Plan) -> PlanMade:
    """A plan as nav_sim has it."""
    return PlanMade(
        kind=message.kind,
        actions=tuple(message.actions),
        pixel_goal=(message.pixel_goal_column, message.pixel_goal_row) if message.pixel_goal_column >= 0 else None,
        image_size=(message.image_width, message.image_height),
        look_down=message.look_down,
        answer=message.answer,
    )
