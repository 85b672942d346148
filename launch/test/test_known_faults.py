"""The nine faults seen in other ROS 2 deployments of this model: a test, or a few, named after each.

Small ones, on the plain modules and the sources. Over DDS with both processes: test_faults.py, test_system.py.
"""

import ast
import json
import math
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("nav_msgs_ext", reason="needs ROS 2 and the built workspace: source scripts/env.sh")

from safetensors.torch import load_file, save_file
from std_msgs.msg import Header

from dual_nav_util import images
from dual_nav_util.checkpoint import CheckpointError
from dual_nav_util.controller_state import State
from dual_nav_util.stamps import to_stamp
from s1_controller_node.controller import Controller, GoalKinds
from s1_controller_node.frames import FrameRing
from s1_controller_node.geometry import Twist2D
from s1_controller_node.motion import MotionConfig, MotionLayer
from s1_controller_node.obstacles import Intrinsics
from s1_controller_node.odometry import OdometrySample
from s1_controller_node.parameters import Parameters as S1Parameters
from s1_controller_node.plan_intake import AcceptedPlan, Action, Kind
from s1_controller_node.policy import PolicyConfig, load_policy
from s1_controller_node.preparation import FramePreparation, UnalignedDepthError
from s1_controller_node.safety import SafetyConfig
from s1_controller_node.tracking import TrackerConfig
from s1_controller_node.watchdog import WatchdogParameters
from s2_planner_node.decoder import choose_attention
from s2_planner_node.history import FrameHistory
from s2_planner_node.image_processor import ImageProcessor
from s2_planner_node.node import S2Planner
from s2_planner_node.parameters import Parameters as S2Parameters
from s2_planner_node.planner import PlannerConfig, load_planner
from s2_planner_node.prompt import first_turn, load_template
from s2_planner_node.trigger import Episode

ROOT = Path(__file__).resolve().parents[2]
NODES = ("src/s1_controller_node/s1_controller_node", "src/s2_planner_node/s2_planner_node")
SECOND = 1_000_000_000
START = 1_000 * SECOND
STRAIGHT = np.stack([np.linspace(0.0, 2.0, 33), np.zeros(33), np.zeros(33)], axis=1)
MOVES = (Action.FORWARD,) * 4
OPEN_FLOOR = SafetyConfig(use_depth=False, plan_timeout=3.0)


class Drive:
    """A motion layer on a base that drives 0.4 m/s on a circle of 1 m radius; camera and odometry at 20 Hz."""

    def __init__(self, **config) -> None:
        self.layer = MotionLayer(MotionConfig(safety=OPEN_FLOOR, **config))
        self.now = START
        self.run(0.5)

    @staticmethod
    def pose(now: int) -> np.ndarray:
        angle = 0.4 * (now - START) / SECOND
        return np.array([math.sin(angle), 1.0 - math.cos(angle), angle])

    def run(self, seconds: float, camera: bool = True):
        for _ in range(round(seconds * 20)):
            self.now += SECOND // 20
            self.layer.on_odometry(OdometrySample(self.now, self.pose(self.now), Twist2D(0.4, 0.4)))
            if camera:
                self.layer.on_frame(self.now)
            command = self.layer.step(self.now)
        return command

    def follow(self, number: int = 0) -> AcceptedPlan:
        plan = AcceptedPlan(7, number, self.now, Kind.TRAJ_LATENTS)
        self.layer.on_plan(plan)
        return plan

    def path(self, plan: AcceptedPlan, stamp_ns: int) -> bool:
        return self.layer.on_path(plan, stamp_ns, STRAIGHT, MOVES, self.now)


def stands(command) -> bool:
    return (command.v, command.omega) == (0.0, 0.0)


# 1. A path is placed at the newest odometry instead of the pose of its image; odometry is keyed by arrival time.


def test_1_a_path_lies_where_its_image_was_taken_however_late_it_comes():
    drive = Drive()
    plan, stamp_ns = drive.follow(), drive.now
    drive.run(0.7)
    assert drive.path(plan, stamp_ns)
    x, y, yaw = drive.pose(stamp_ns)
    way = np.array([math.cos(yaw), math.sin(yaw)])
    followed = drive.layer._path.points[:, :2] - (x, y)
    across = followed @ np.array([-way[1], way[0]])
    assert np.abs(across).max() < 1e-6, "the path is not on the line it was sampled on"
    assert (followed @ way).max() == pytest.approx(2.0), "its end is not 2 m ahead of the image's pose"


def test_1_poses_are_found_by_the_stamps_of_odometry_and_not_by_their_arrival():
    layer = MotionLayer(MotionConfig())
    for index in range(20):  # all at once, as after a hiccup of the network
        stamp = START + index * SECOND // 20
        layer.on_odometry(OdometrySample(stamp, Drive.pose(stamp), Twist2D(0.4, 0.4)))
    middle = START + SECOND * 21 // 40  # between two samples
    np.testing.assert_allclose(layer.odometry.pose_at(middle), Drive.pose(middle), atol=1e-6)


# 2. A path after STOP re-arms the controller; nothing times out; STOP does not end the loop.


def test_2_a_path_and_a_plan_after_stop_do_not_move_the_robot():
    drive = Drive()
    plan = drive.follow()
    assert drive.path(plan, drive.now)
    assert not stands(drive.run(0.5))
    in_flight = drive.now
    drive.layer.on_plan(AcceptedPlan(7, 1, drive.now, Kind.ACTIONS, (Action.STOP,)))
    assert not drive.path(plan, in_flight)
    drive.layer.on_plan(AcceptedPlan(7, 2, drive.now, Kind.ACTIONS, MOVES))
    command = drive.run(1.0)
    assert stands(command)
    assert command.state == State.ARRIVED


def test_2_a_plan_that_is_not_renewed_and_a_camera_that_is_silent_end_in_standstill():
    drive = Drive()
    assert drive.path(drive.follow(), drive.now)
    assert not stands(drive.run(0.4))
    assert drive.run(OPEN_FLOOR.sensor_timeout + 0.05, camera=False).state == State.NO_SENSORS
    drive = Drive()
    assert drive.path(drive.follow(), drive.now)
    command = drive.run(OPEN_FLOOR.plan_timeout + 0.05)
    assert stands(command)
    assert command.state == State.STALE_PLAN


# 3. A solver failure or an assert kills the node, and nobody stops the robot.


def test_3_a_solver_that_always_fails_is_replaced_by_pure_pursuit_in_the_same_period():
    drive = Drive(tracker=TrackerConfig(solver_time_limit=1e-6))
    assert drive.path(drive.follow(), drive.now)
    command = drive.run(0.5)
    assert "solver" in command.tracking.fallback
    assert command.v > 0.1
    assert command.state == State.FOLLOWING


def test_3_an_assertion_inside_the_motion_layer_is_a_fault_and_standstill(monkeypatch):
    drive = Drive()
    assert drive.path(drive.follow(), drive.now)
    assert not stands(drive.run(0.5))

    def fail(*_):
        raise AssertionError("singular matrix")

    monkeypatch.setattr(drive.layer._tracker, "_law", fail)
    command = drive.run(0.05)
    assert stands(command)
    assert command.state == State.FAULT
    assert "singular matrix" in command.message


# 4. BGR images are fed as RGB; aligned depth has the wrong frame or intrinsics; RGB and depth are not synchronised.


def test_4_bgr_and_rgb_images_of_the_same_scene_are_the_same_to_the_models():
    rgb = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    for encoding, pixels in (("rgb8", rgb), ("bgr8", np.ascontiguousarray(rgb[..., ::-1]))):
        message = images.image_from_array(pixels, encoding, Header())
        np.testing.assert_array_equal(images.rgb_from_image(message, "rgb"), rgb)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Small, with both systems; the planner looks down and then names a pixel."""
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    command = [sys.executable, "-m", "dual_nav_training.random_checkpoint", str(folder), "--answers", "↓", "160 200"]
    subprocess.run([*command, "--system1", "navdp_async"], check=True, capture_output=True)
    return folder


def test_4_only_rgb_and_depth_of_one_moment_and_one_size_make_a_frame(checkpoint):
    policy = load_policy(checkpoint, PolicyConfig(num_samples=2))
    prepare = FramePreparation(policy, 15_000_000, with_depth=False)
    rgb, depth = np.zeros((48, 64, 3), np.uint8), np.ones((48, 64), np.float32)
    assert prepare.rgb(START, rgb) is None
    assert prepare.depth(START + 40_000_000, depth) is None, "40 ms apart is no pair"
    assert prepare.rgb(START + 41_000_000, rgb).stamp_ns == START + 41_000_000
    assert prepare.rgb(START + SECOND, rgb) is None
    with pytest.raises(UnalignedDepthError, match="depth is 32x24 and rgb 64x48"):
        prepare.depth(START + SECOND, depth[::2, ::2].copy())


def test_4_depth_of_another_size_than_its_intrinsics_is_refused():
    drive = Drive()
    with pytest.raises(ValueError, match="64"):
        drive.layer.on_depth(drive.now, np.ones((48, 64), np.float32), Intrinsics(32, 24, 20.0, 20.0, 15.5, 11.5))


# 5. History grows without bound: out of memory after minutes, prompts of more than 8192 tokens.


def test_5_an_hour_of_history_is_bounded_and_its_prompt_stays_below_8192_tokens():
    parameters = S2Parameters(model="x")
    history = FrameHistory(parameters.num_history, parameters.history_capacity)
    for index in range(7200):  # two plans a second
        history.add(index)
    assert history.stored <= parameters.history_capacity
    shown = len(history.select())
    assert shown <= parameters.num_history
    conversation = first_turn(load_template(), "x" * parameters.max_instruction_bytes, shown)
    parts = [part for message in conversation for part in message["content"]]
    config, processor = PlannerConfig(), ImageProcessor()
    _, rows, columns = processor.grid(config.image_height, config.image_width)
    _, down_rows, down_columns = processor.grid(480, 640)  # after a look down there is one more
    merged = processor.merge_size**2
    pixels = shown + 1
    tokens = pixels * rows * columns // merged + down_rows * down_columns // merged
    # A byte of text is at most one token.
    tokens += sum(len(part["text"].encode()) for part in parts if part["type"] == "text") + parameters.max_new_tokens
    assert sum(part["type"] == "image" for part in parts) == pixels
    assert tokens < 8192


# 6. Absolute topic names, parameters documented but not declared, an instruction in the source, a 100 s timeout.


def strings_of_calls(path: Path, methods: tuple[str, ...]) -> list[str]:
    """Texts given to calls of these methods."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    named = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr in methods]
    arguments = [argument for call in named for argument in call.args]
    return [a.value for a in arguments if isinstance(a, ast.Constant) and isinstance(a.value, str)]


INTERFACES = ("publisher", "subscription", "service", "client")
GRAPH_METHODS = tuple(f"{prefix}_{kind}" for prefix in ("managed", "create") for kind in INTERFACES)


def test_6_topics_and_services_of_both_nodes_follow_namespace_and_remapping():
    files = [path for folder in NODES for path in (ROOT / folder).glob("*.py")]
    named = {name for path in files for name in strings_of_calls(path, GRAPH_METHODS)}
    assert {"cmd_vel", "s1/state", "s2/plan", "rgb", "odom", "instruction", "~/reset"} <= named
    # Where the frames of a robot hang together is known to all of ROS by this name.
    assert {name for name in named if name.startswith("/")} <= {"/tf_static"}


def declared(*nodes: type) -> dict[str, object]:
    """Every parameter of some nodes with its default."""
    return {field.name: field.default for node in nodes for field in fields(node)}


@pytest.mark.parametrize(
    ("name", "nodes"),
    [("s1_controller.yaml", (S1Parameters, WatchdogParameters)), ("s2_planner.yaml", (S2Parameters,))],
    ids=["s1_controller", "s2_planner"],
)
def test_6_every_parameter_of_the_parameter_files_is_declared_with_that_default(name, nodes):
    given = yaml.safe_load((ROOT / "launch/config" / name).read_text())["/**"]["ros__parameters"]
    assert given
    known = declared(*nodes)
    assert not set(given) - set(known)
    assert {key: value for key, value in given.items() if known[key] != value} == {}


def test_6_every_default_on_the_motion_page_is_that_of_a_declared_parameter():
    page = (ROOT / "docs/motion.md").read_text()
    rows = page.split("## Parameters")[1].split("|---|---|")[1].split("\n\n")[0]
    shown = re.findall(r"\b([a-z][a-z0-9_]+) = (-?[\d.]+|[a-z_]+)", rows)
    assert len(shown) > 25
    known = declared(S1Parameters, WatchdogParameters)
    for name, value in shown:
        assert name in known, f"{name} is documented, but not declared"
        default = known[name]
        if isinstance(default, bool | str):
            assert str(default).lower() == value, name
        elif name != "floor_angle":  # shown in degrees
            assert float(default) == float(value), name


def test_6_no_time_out_waits_longer_than_five_seconds():
    known = [declared(node).items() for node in (S1Parameters, S2Parameters, WatchdogParameters)]
    timeouts = {(node, name): value for node in range(3) for name, value in known[node] if "timeout" in name}
    assert len(timeouts) >= 5
    assert {name: value for name, value in timeouts.items() if not 0.0 < value <= 5.0} == {}


def test_6_there_is_no_instruction_until_somebody_gives_one(checkpoint):
    planner = load_planner(checkpoint, PlannerConfig())
    with pytest.raises(RuntimeError, match="no instruction yet"):
        planner.step(np.zeros((48, 64, 3), np.uint8))


# 7. "Look down" feeds the same image again although there is a tilted camera.


def test_7_after_a_look_down_the_planner_sees_the_image_of_the_tilted_camera(checkpoint):
    rng = np.random.default_rng(0)
    level = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    tilted = [rng.integers(0, 256, (360, 480, 3), dtype=np.uint8) for _ in range(2)]
    planner = load_planner(checkpoint, PlannerConfig())
    plans, asked = [], []
    for image in tilted:
        planner.start_episode("Go to the door.")
        plans.append(planner.step(level, lambda image=image: asked.append(1) or image))
    assert len(asked) == 2
    assert all(plan.look_down and plan.image_size == (480, 360) for plan in plans)
    assert np.abs(plans[0].traj_latents - plans[1].traj_latents).max() > 1e-4, "the tilted image changes nothing"


# 8. A crash at start for a missing argument; a missing tensor without a clear message; hard pins; flash attention.


@pytest.mark.parametrize("module", ["s1_controller_node.main", "s2_planner_node.main"])
def test_8_a_node_without_a_checkpoint_says_what_is_missing(module):
    parameters = {"s1_controller_node.main": S1Parameters, "s2_planner_node.main": S2Parameters}[module]
    with pytest.raises(ValueError, match="parameter 'model' is empty: must be a checkpoint folder or a hub id"):
        parameters()


def test_8_a_checkpoint_without_latent_queries_is_named_in_the_error(checkpoint, tmp_path):
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shard = tmp_path / index["weight_map"].pop("model.latent_queries")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    tensors = {name: tensor for name, tensor in load_file(shard).items() if name != "model.latent_queries"}
    save_file(tensors or {"unused": torch.zeros(1)}, shard)
    with pytest.raises(CheckpointError, match=r"latent_queries is missing although config\.json names system1"):
        load_planner(tmp_path, PlannerConfig())


def test_8_model_libraries_are_ranges_and_flash_attention_is_no_requirement():
    lines = [
        line.split("#")[0].strip()
        for file in (ROOT / "requirements").glob("*.txt")
        for line in file.read_text().splitlines()
    ]
    bounds = {re.split(r"[<>=!\[ ]", line)[0]: line for line in lines if line}
    for name in ("torch", "transformers", "diffusers", "numpy", "tokenizers", "safetensors"):
        assert "==" not in bounds[name], f"hard pin: {bounds[name]}"
    assert not [name for name in bounds if "flash" in name]
    assert choose_attention("auto", torch.device("cpu"), torch.float32) == "sdpa"


# 9. Stamps are taken after processing instead of from the camera.


def test_9_plans_paths_and_commands_carry_the_stamp_of_the_camera_image():
    image = Header(stamp=to_stamp(START), frame_id="camera_color_optical_frame")
    assert S2Planner._message(None, image, Episode(7, "Go."), 3).header == image
    drive = Drive()
    controller = Controller(GoalKinds(latents=True, pixel_goal=False), FrameRing(10), drive.layer)
    plan, stamp_ns = drive.follow(), drive.now
    drive.run(0.7)
    assert drive.path(plan, stamp_ns)
    command = controller.command(drive.now + SECOND // 20, 0.0)
    assert command.motion.frame_stamp_ns == stamp_ns
    assert command.latency == pytest.approx(0.75)
    assert drive.layer.ages(drive.now, 0.0).path == pytest.approx(0.7)


def test_9_what_is_old_when_it_comes_is_not_taken_for_new():
    drive = Drive()
    plan, stamp_ns = drive.follow(), drive.now
    assert drive.path(plan, stamp_ns)
    old = drive.now - round((OPEN_FLOOR.plan_timeout + 0.1) * SECOND)
    drive.layer.on_plan(AcceptedPlan(7, 1, old, Kind.TRAJ_LATENTS))
    command = drive.run(0.05)
    assert stands(command)
    assert command.state == State.STALE_PLAN
