"""The s2_planner node with real messages and a small real checkpoint: what it publishes, and what it refuses."""

from __future__ import annotations

import array
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

import psutil
from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticStatus
from nav_msgs.msg import Odometry
from rclpy.action import ActionClient
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger

from dual_nav_util import images, qos
from dual_nav_util.stamps import to_nanoseconds, to_stamp
from dual_nav_util.testing import Graph
from nav_msgs_ext.action import NavigateInstruction
from nav_msgs_ext.msg import ControllerState, S2Plan
from s2_planner_node.node import S2Planner

WIDTH, HEIGHT = 160, 120
SUCCESS = TransitionCallbackReturn.SUCCESS


def make_checkpoint(folder: Path, *answers: str) -> Path:
    command = [sys.executable, "-m", "dual_nav_training.random_checkpoint", str(folder), "--answers", *answers]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """Looks down, then gives a pixel goal."""
    return make_checkpoint(tmp_path_factory.mktemp("pixel") / "model", "↓", "100 80")


@pytest.fixture(scope="session")
def stopping_model(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("stop") / "model", "STOP")


@pytest.fixture(scope="session")
def arriving_model(tmp_path_factory) -> Path:
    """Goes the last steps and stops."""
    return make_checkpoint(tmp_path_factory.mktemp("arrive") / "model", "↑↑STOP")


class World:
    """A camera, a person and a controller beside the node, and what the node tells them.

    asks: the controller asks for the next plan with every frame, as while it drives on in mode partial_async.
    """

    def __init__(self, graph: Graph, model: Path, *, asks: bool = True, **parameters) -> None:
        self.graph = graph
        self.asks = asks
        self.plans: list[S2Plan] = graph.listen(S2Plan, "s2/plan", qos.LATCHED)
        self.compressed = parameters.get("rgb_transport") == "compressed"
        tester = graph.tester
        kind = CompressedImage if self.compressed else Image
        self._rgb = tester.create_publisher(kind, "rgb", qos.NEWEST_FRAME)
        self._look_down = tester.create_publisher(kind, "rgb_look_down", qos.NEWEST_FRAME)
        self._instruction = tester.create_publisher(String, "instruction", qos.LATCHED)
        self._state = tester.create_publisher(ControllerState, "s1/state", qos.NEWEST_STATE)
        self._odometry = tester.create_publisher(Odometry, "odom", qos.ODOMETRY)
        self.pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        self.stamps: list[int] = []
        defaults = {"model": str(model), "torch_threads": 1}
        self.node = graph.make(S2Planner, **(defaults | parameters))
        assert self.node.trigger_configure() == SUCCESS
        assert self.node.trigger_activate() == SUCCESS
        graph.wait_for(lambda: self._rgb.get_subscription_count(), "subscription to rgb")
        graph.wait_for(lambda: self._instruction.get_subscription_count(), "subscription to instruction")

    def instruct(self, text: str) -> None:
        self._instruction.publish(String(data=text))

    def frame(self, image=None, stamp: int | None = None) -> None:
        stamp = time.time_ns() if stamp is None else stamp
        image = image or images.image_from_array(self.pixels, "rgb8", Header())
        image.header = Header(stamp=to_stamp(stamp), frame_id="camera")
        if self.asks and self.plans:
            plan = self.plans[-1]
            following = {"episode_id": plan.episode_id, "plan_number": plan.plan_number}
            self.report_state(**following, state=ControllerState.FOLLOWING, ask=ControllerState.ASK_STEP_GAP)
        self._rgb.publish(image)
        self.stamps.append(stamp)

    def look_down_frame(self, size: tuple[int, int]) -> None:
        pixels = np.zeros((*size, 3), np.uint8)
        message = images.image_from_array(pixels, "rgb8", Header(stamp=to_stamp(time.time_ns())))
        self._look_down.publish(message)

    def odometry(self, x: float) -> None:
        message = Odometry()
        message.pose.pose.position.x = x
        self._odometry.publish(message)

    def report_state(self, **fields) -> None:
        self._state.publish(ControllerState(**fields))

    def run(self, seconds: float, image=None) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.frame(image)
            time.sleep(0.03)

    def run_until(self, condition, what: str, timeout: float = 30.0):
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            self.frame()
            time.sleep(0.03)
            value = condition()
            if value:
                return value
        raise AssertionError(f"{what}: not within {timeout} s; {self.graph.report()}")

    def said(self, part: str) -> bool:
        return part in self.graph.report()


@pytest.fixture
def graph():
    graph = Graph()
    yield graph
    graph.close()


@pytest.fixture
def world(graph, model) -> World:
    return World(graph, model)


# ------------------------------------------------------------------------------------------------------- the work


def test_an_instruction_and_frames_become_plans_with_the_stamps_of_their_frames(world):
    world.run(0.3)
    assert not world.plans
    world.instruct("Go to the door and stop.")
    world.run_until(lambda: len(world.plans) >= 3, "plans")
    first = world.plans[0]
    assert first.kind == S2Plan.KIND_TRAJ_LATENTS
    assert (first.pixel_goal_column, first.pixel_goal_row, first.answer) == (100, 80, "100 80")
    assert (first.image_width, first.image_height, first.look_down) == (WIDTH, HEIGHT, False)
    assert list(first.traj_latents_shape) == [1, 4, 64]
    assert np.isfinite(first.traj_latents).all()
    assert first.inference_time > 0.0
    assert {to_nanoseconds(plan.header.stamp) for plan in world.plans} <= set(world.stamps)
    assert {plan.header.frame_id for plan in world.plans} == {"camera"}
    assert [plan.plan_number for plan in world.plans[:3]] == [0, 1, 2]
    assert len({plan.episode_id for plan in world.plans}) == 1


def test_an_instruction_given_before_the_planner_starts_is_still_carried_out(graph, model):
    publisher = graph.tester.create_publisher(String, "instruction", qos.LATCHED)
    publisher.publish(String(data="Go to the door."))
    world = World(graph, model)
    world.run_until(lambda: world.plans, "a plan")


def test_the_look_down_image_of_the_second_camera_is_used_when_there_is_one(graph, model):
    world = World(graph, model, use_look_down=True)
    world.instruct("Go to the door.")

    def plan_on_it():
        world.look_down_frame((90, 112))
        return [
            plan for plan in world.plans if (plan.image_width, plan.image_height, plan.look_down) == (112, 90, True)
        ]

    world.run_until(plan_on_it, "a plan on the look-down image")


def test_compressed_images_by_parameter(graph, model):
    import cv2

    world = World(graph, model, rgb_transport="compressed")
    data = array.array("B", cv2.imencode(".jpg", world.pixels)[1].tobytes())
    world.instruct("Go to the door.")
    end = time.monotonic() + 30
    while not world.plans and time.monotonic() < end:
        world.frame(CompressedImage(format="jpeg", data=data))
        time.sleep(0.03)
    assert world.plans


def test_stop_ends_the_planning_until_a_new_instruction(graph, stopping_model):
    world = World(graph, stopping_model)
    world.instruct("Stand still.")
    world.run_until(lambda: world.plans, "the stop")
    assert list(world.plans[0].actions) == [S2Plan.ACTION_STOP]
    world.run(0.8)
    assert len(world.plans) == 1
    world.instruct("Stand still again.")
    world.run_until(lambda: len(world.plans) == 2, "the next episode")
    assert world.plans[1].episode_id > world.plans[0].episode_id
    assert world.plans[1].plan_number == 0


def test_a_new_instruction_stops_the_robot_and_discards_the_plan_being_made(world, monkeypatch):
    world.instruct("Go left.")
    world.run_until(lambda: world.plans, "plans")
    started, release = threading.Event(), threading.Event()
    real_step = world.node._planner.step

    def slow_step(*arguments):
        plan = real_step(*arguments)
        started.set()
        release.wait(30.0)
        return plan

    monkeypatch.setattr(world.node._planner, "step", slow_step)
    world.run_until(started.is_set, "an inference under way")
    old = world.plans[-1].episode_id
    known = len(world.plans)
    world.instruct("Go right.")
    world.graph.wait_for(lambda: len(world.plans) > known, "the order to stop")
    assert (world.plans[-1].episode_id, list(world.plans[-1].actions)) == (old, [S2Plan.ACTION_STOP])
    known = len(world.plans)
    release.set()
    world.run_until(lambda: len(world.plans) > known, "a plan of the new episode")
    assert {plan.episode_id for plan in world.plans[known:]} == {old + 1}
    assert world.plans[known].plan_number == 0


def test_the_next_plan_waits_until_the_controller_asks_and_is_made_from_a_frame_after_the_motion(graph, model):
    world = World(graph, model, asks=False)
    world.instruct("Go to the door.")
    world.run_until(lambda: world.plans, "the first plan")
    followed = {"episode_id": world.plans[0].episode_id, "plan_number": 0}
    for _ in range(10):
        world.report_state(**followed, state=ControllerState.FOLLOWING, actions_left=2)
        world.run(0.1)
    assert len(world.plans) == 1
    stood = time.time_ns() + 300_000_000
    asking = {"ask": ControllerState.ASK_USED_UP, "frames_from": to_stamp(stood)}
    world.report_state(**followed, state=ControllerState.IDLE, **asking)
    world.run_until(lambda: len(world.plans) == 2, "the second plan")
    assert to_nanoseconds(world.plans[1].header.stamp) >= stood


def test_the_debug_image_is_made_only_while_somebody_listens(world, monkeypatch):
    made = []
    real_draw = sys.modules["s2_planner_node.node"].draw_plan
    monkeypatch.setattr("s2_planner_node.node.draw_plan", lambda *a: made.append(1) or real_draw(*a))
    world.instruct("Go to the door.")
    world.run_until(lambda: len(world.plans) > 2, "plans")
    assert not made
    pictures = world.graph.listen(Image, "s2/debug_image", qos.DEFAULT)
    world.run_until(lambda: pictures, "a debug image")
    assert (pictures[0].width, pictures[0].height, pictures[0].encoding) == (WIDTH, HEIGHT, "rgb8")
    assert to_nanoseconds(pictures[0].header.stamp) in world.stamps


def call_reset(world: World) -> None:
    client = world.graph.tester.create_client(Trigger, "s2_planner/reset")
    assert client.wait_for_service(30.0)
    future = client.call_async(Trigger.Request())
    world.graph.wait_for(future.done, "the answer of reset")
    assert future.result().success


def test_reset_stops_the_robot_and_waits_for_an_instruction(world):
    world.instruct("Go to the door.")
    world.run_until(lambda: world.plans, "plans")
    call_reset(world)
    world.graph.wait_for(lambda: list(world.plans[-1].actions) == [S2Plan.ACTION_STOP], "the order to stop")
    known = len(world.plans)
    world.run(0.5)
    assert len(world.plans) == known


def test_reset_stops_a_robot_that_drives_the_steps_before_a_stop(graph, arriving_model):
    world = World(graph, arriving_model, asks=False)
    world.instruct("Go on.")
    world.run_until(lambda: world.plans, "the steps and the stop")
    assert list(world.plans[0].actions) == [S2Plan.ACTION_FORWARD] * 2 + [S2Plan.ACTION_STOP]
    call_reset(world)
    world.graph.wait_for(lambda: list(world.plans[-1].actions) == [S2Plan.ACTION_STOP], "the order to stop")


def test_steps_before_a_stop_that_were_interrupted_are_decided_anew_and_driven_ones_are_not(graph, arriving_model):
    world = World(graph, arriving_model, asks=False)
    world.instruct("Go on.")
    world.run_until(lambda: world.plans, "the steps and the stop")
    followed = {"episode_id": world.plans[0].episode_id, "plan_number": 0}
    world.report_state(**followed, state=ControllerState.IDLE, ask=ControllerState.ASK_INTERRUPTED)
    world.run_until(lambda: len(world.plans) == 2, "another plan")
    followed["plan_number"] = 1
    world.report_state(**followed, state=ControllerState.ARRIVED)
    world.run(1.5)  # longer than a plan may stay unanswered
    assert len(world.plans) == 2


def test_deactivation_stops_the_robot(world):
    world.instruct("Go to the door.")
    world.run_until(lambda: world.plans, "plans")
    assert world.node.trigger_deactivate() == SUCCESS
    world.graph.wait_for(lambda: list(world.plans[-1].actions) == [S2Plan.ACTION_STOP], "the order to stop")


# -------------------------------------------------------------------------------------------------- action navigate


class Client:
    """An action client that keeps what it is told."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.client = ActionClient(world.graph.tester, NavigateInstruction, "navigate")
        self.feedback: list = []
        world.graph.wait_for(self.client.server_is_ready, "the action server")

    def send(self, instruction: str = "Go to the door.", time_limit: float = 0.0):
        goal = NavigateInstruction.Goal(instruction=instruction, time_limit=time_limit)
        future = self.client.send_goal_async(goal, feedback_callback=lambda f: self.feedback.append(f.feedback))
        self.world.run_until(future.done, "the answer to the goal")
        assert future.result().accepted
        return future.result()

    def result(self, handle):
        future = handle.get_result_async()
        self.world.run_until(future.done, "the result")
        return future.result()


def stopped(world: World) -> bool:
    return list(world.plans[-1].actions) == [S2Plan.ACTION_STOP]


def test_a_goal_is_planned_for_reported_on_and_reached_when_the_controller_stands_after_stop(graph, stopping_model):
    world = World(graph, stopping_model)
    client = Client(world)
    handle = client.send("Stand still.")
    world.run_until(lambda: world.plans, "the stop")
    for x in (0.0, 0.5):
        world.odometry(x)
        world.run(0.2)
    world.run_until(lambda: any(f.plan.answer for f in client.feedback), "feedback with the plan")
    assert client.feedback[-1].distance_travelled == pytest.approx(0.5)
    assert client.feedback[-1].elapsed.sec + client.feedback[-1].elapsed.nanosec > 0
    world.asks = False
    world.report_state(episode_id=world.plans[0].episode_id, state=ControllerState.ARRIVED)
    response = client.result(handle)
    assert response.status == GoalStatus.STATUS_SUCCEEDED
    assert (response.result.success, response.result.reason) == (True, NavigateInstruction.Result.REACHED)


def test_cancelling_a_goal_stops_the_robot_at_once(world):
    client = Client(world)
    handle = client.send()
    world.run_until(lambda: world.plans, "plans")
    cancelled = handle.cancel_goal_async()
    world.graph.wait_for(lambda: stopped(world), "the order to stop")
    world.run_until(cancelled.done, "the answer to the cancellation")
    response = client.result(handle)
    assert response.status == GoalStatus.STATUS_CANCELED
    assert response.result.reason == NavigateInstruction.Result.CANCELLED
    known = len(world.plans)
    world.run(0.5)
    assert len(world.plans) == known


def test_a_new_goal_ends_the_one_before_and_an_instruction_on_the_topic_does_too(world):
    client = Client(world)
    first = client.send()
    world.run_until(lambda: world.plans, "plans")
    second = client.send("Go to the window.")
    response = client.result(first)
    assert response.status == GoalStatus.STATUS_ABORTED
    assert response.result.reason == NavigateInstruction.Result.PREEMPTED
    old = world.plans[0].episode_id
    world.run_until(lambda: world.plans[-1].episode_id > old, "plans for the new goal")
    world.instruct("Go to the table.")
    assert client.result(second).result.reason == NavigateInstruction.Result.PREEMPTED


def test_a_goal_that_takes_too_long_ends_with_the_order_to_stop(world):
    client = Client(world)
    handle = client.send(time_limit=1.0)
    response = client.result(handle)
    assert response.result.reason == NavigateInstruction.Result.TIME_LIMIT
    assert "1 s" in response.result.message
    world.graph.wait_for(lambda: stopped(world), "the order to stop")


@pytest.mark.parametrize(("goal", "said"), [({"instruction": ""}, "is empty"), ({"time_limit": -1.0}, "-1.0")])
def test_an_invalid_goal_is_answered_with_what_is_wrong(world, goal, said):
    client = Client(world)
    result = client.result(client.send(**goal)).result
    assert (result.success, result.reason) == (False, NavigateInstruction.Result.INVALID_GOAL)
    assert said in result.message


def test_a_goal_is_given_up_when_the_controller_stays_in_fault(world, monkeypatch):
    monkeypatch.setattr("s2_planner_node.navigate.FAULT_PATIENCE", 1.0)
    client = Client(world)
    handle = client.send()
    world.asks = False
    world.run_until(lambda: world.plans, "plans")
    for _ in range(20):
        world.report_state(state=ControllerState.FAULT, message="the base is stuck")
        world.run(0.1)
    result = client.result(handle).result
    assert result.reason == NavigateInstruction.Result.FAULT
    assert "the base is stuck" in result.message


def test_waiting_for_a_goal_costs_no_processor_time(world):
    client = Client(world)
    client.send()
    world.run_until(lambda: world.plans, "plans")
    world.node._worker.clear()
    executor = psutil.Process().cpu_times().user
    time.sleep(1.0)
    assert psutil.Process().cpu_times().user - executor < 0.5


# ------------------------------------------------------------------------------------------------ what it refuses


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "instruction refused: instruction is empty"),
        ("  \n", "instruction refused: instruction is empty"),
        ("go " * 34_000, "instruction refused: instruction is 102000 bytes long, allowed are 4096"),
        ("go <image> there", "instruction refused: instruction contains '<image>'"),
    ],
)
def test_an_unusable_instruction_is_one_clear_error_and_stops_the_robot(world, text, message):
    world.instruct("Go to the door.")
    world.run_until(lambda: world.plans, "plans")
    world.instruct(text)
    world.run_until(lambda: list(world.plans[-1].actions) == [S2Plan.ACTION_STOP], "the order to stop")
    world.run_until(lambda: world.said(message), f"{message!r} in diagnostics")
    known = len(world.plans)
    world.run(0.5)
    assert len(world.plans) == known
    assert world.node.incidents.count("instruction") == 1
    world.instruct("Go to the window.")
    world.run_until(lambda: len(world.plans) > known, "a plan after the next instruction")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 0, "data": array.array("B")}, "rgb: rgb8 image of 160x0 has no pixels"),
        ({"data": array.array("B", bytes(99))}, "rgb: rgb8 image of 160x120 with step 480 needs 57600 bytes of data"),
        ({"encoding": "bayer_rggb8"}, "rgb: encoding 'bayer_rggb8' is not supported for colour"),
    ],
)
def test_an_unusable_image_is_one_clear_error_and_no_plan(world, changes, message):
    world.instruct("Go to the door.")
    image = images.image_from_array(world.pixels, "rgb8", Header())
    for name, value in changes.items():
        setattr(image, name, value)
    world.run(1.2, image)
    world.graph.wait_for(lambda: world.said(f"planning failed: {message}"), f"{message!r} in diagnostics")
    assert not world.plans
    world.run_until(lambda: world.plans, "a plan on a good image")


def test_an_answer_that_is_no_plan_is_reported_with_its_text_and_nothing_is_published(graph, tmp_path):
    world = World(graph, make_checkpoint(tmp_path / "model", "7"))
    world.instruct("Go to the door.")
    world.run_until(lambda: world.said("planning failed: answer '7' has a single number"), "the error")
    assert not world.plans


def test_stamps_that_begin_anew_start_the_episode_again_with_an_empty_history(world):
    world.instruct("Go to the door.")
    world.run_until(lambda: len(world.plans) > 3, "plans")
    old = world.plans[0].episode_id
    start = time.time_ns() - 20 * 10**9
    for index in range(100):
        world.frame(stamp=start + index * 33_000_000)
        time.sleep(0.03)
        if world.plans[-1].episode_id > old:
            break
    assert world.plans[-1].episode_id == old + 1
    assert world.node._planner.frames_in_episode < 4
    world.graph.wait_for(lambda: world.said("stamps went back by"), "the jump in diagnostics")


def test_a_controller_that_falls_silent_is_said(world):
    world.graph.wait_for(lambda: world.said("s1/state: nothing received yet"), "diagnostics")
    world.report_state(state=ControllerState.IDLE)
    world.run_until(lambda: world.said("s1/state: silent for"), "diagnostics")
    assert world.graph.diagnostics["s2_planner: inputs"].level == DiagnosticStatus.ERROR


# -------------------------------------------------------------------------------------------------- configuration


def failed_configuration(graph: Graph, **parameters) -> str:
    node = graph.make(S2Planner, **parameters)
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    status = graph.wait_for(lambda: graph.diagnostics.get("s2_planner: life cycle"), "diagnostics")
    assert status.level == DiagnosticStatus.ERROR
    return status.message


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "parameter 'model' is empty"),
        ({"model": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"num_history": -1}, "parameter 'num_history' is -1: must be 0 … 64"),
        ({"precision": "float8"}, "parameter 'precision' is 'float8': must be one of"),
        ({"model": "x", "num_history": 8, "history_capacity": 9}, "history_capacity is 9"),
    ],
)
def test_an_invalid_parameter_fails_configuration_by_name_value_and_what_is_allowed(graph, parameters, message):
    assert message in failed_configuration(graph, **parameters)


def edited_checkpoint(model: Path, folder: Path, prefix: str) -> tuple[Path, str]:
    """A copy of the checkpoint and the file in which keys of the prefix lie."""
    copy = shutil.copytree(model, folder)
    weight_map = json.loads((copy / "model.safetensors.index.json").read_text())["weight_map"]
    return copy, next(file for key, file in weight_map.items() if key.startswith(prefix))


def test_a_missing_shard_fails_configuration_by_its_name(graph, model, tmp_path):
    folder, shard = edited_checkpoint(model, tmp_path / "model", "model.layers.")
    (folder / shard).unlink()
    assert shard in failed_configuration(graph, model=str(folder))


def test_missing_latent_queries_fail_configuration_by_their_name(graph, model, tmp_path):
    from safetensors.torch import load_file, save_file

    folder, shard = edited_checkpoint(model, tmp_path / "model", "model.latent_queries")
    tensors = load_file(folder / shard)
    del tensors["model.latent_queries"]
    save_file(tensors, folder / shard, metadata={"format": "pt"})
    index_path = folder / "model.safetensors.index.json"
    index = json.loads(index_path.read_text())
    del index["weight_map"]["model.latent_queries"]
    index_path.write_text(json.dumps(index))
    assert "model.latent_queries is missing" in failed_configuration(graph, model=str(folder))


def test_after_a_cleanup_a_bad_parameter_is_a_clear_error_and_a_good_one_starts_the_node(world, model):
    node = world.node
    assert node.trigger_deactivate() == SUCCESS
    assert node.trigger_cleanup() == SUCCESS
    node.set_parameters([Parameter("model", value="/nowhere/at/all")])
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    node.set_parameters([Parameter("model", value=str(model))])
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    assert node.trigger_deactivate() == SUCCESS
    assert node.trigger_cleanup() == SUCCESS
    assert node.trigger_shutdown() == SUCCESS


# ------------------------------------------------------------------------------------------------------ the process


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_process_ends_cleanly_on_a_signal_and_survives_a_failed_configuration(model, end):
    for path, expected in ((str(model), "loaded in"), ("/nowhere/at/all", "configuration failed: /nowhere/at/all")):
        command = [sys.executable, "-m", "s2_planner_node.main", "--ros-args", "-p", "autostart:=true"]
        process = subprocess.Popen([*command, "-p", f"model:={path}"], stderr=subprocess.PIPE, text=True)
        said = []
        for line in process.stderr:
            said.append(line)
            if expected in line:
                break
        process.send_signal(end)
        rest = process.communicate(timeout=20)[1]
        assert expected in "".join(said)
        assert process.returncode == 0
        assert "Traceback" not in rest


def test_a_signal_during_the_imports_ends_the_process_without_a_traceback():
    process = subprocess.Popen([sys.executable, "-m", "s2_planner_node.main"], stderr=subprocess.PIPE, text=True)
    status = Path(f"/proc/{process.pid}/status")
    while not int(status.read_text().split("SigCgt:")[1].split()[0], 16) & 1 << (signal.SIGTERM - 1):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)  # signals are taken care of from here on, and the imports have begun
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=20)[1]
    assert process.returncode == 0
    assert "Traceback" not in said
