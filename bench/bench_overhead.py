"""What the runtime itself costs: from a camera stamp to the velocity command, without the model's own time.

A camera process publishes 640x480 RGB and depth at 30 Hz with odometry and plans, the real s1_controller runs in a
second process with a small real checkpoint, and this process listens: everything over DDS, once with the project's
DDS profile and once with Fast DDS as it comes.

    python bench/bench_overhead.py [--seconds 20] [--system1 nextdit_async navdp_async] [--model FOLDER] [--json]

Overhead is measured by s1_controller (it alone knows when a model call began and ended) and read from /diagnostics;
latency and answered frames are measured from outside, on s1/state. A frame is lost when it was published and never
led to a command. Needs a sourced workspace (`. scripts/env.sh`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, HEIGHT, CAMERA_RATE, ODOMETRY_RATE, PLAN_RATE = 640, 480, 30.0, 50.0, 2.0
WARM_UP = 4.0  # s at the start that do not count: discovery, first calls of the model
SAMPLES, STEPS = 4, 2  # enough to run every line of the sampler, few enough to be quick
# What s1_controller counted since its start, to see on which way a frame was lost.
COUNTS = (
    "rgb received",
    "depth received",
    "rgb replaced by newer ones",
    "depth replaced by newer ones",
    "images without a partner",
    "prepared received",
    "frames replaced by newer ones",
    "paths",
)
PROFILE = Path(__file__).resolve().parent.parent / "launch" / "config" / "fastdds.xml"
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")


# ------------------------------------------------------------------------------------------------ camera process


class Serialized:
    """A message as it goes over the wire, stamped anew each time.

    A camera driver is a C++ program: converting every image from Python is no part of the runtime's overhead.
    """

    def __init__(self, message: Any) -> None:
        from rclpy.serialization import serialize_message

        self._bytes = bytearray(serialize_message(message))

    def stamped(self, now_ns: int) -> bytes:
        # Behind four bytes that say how it is serialized stands the header, which begins with the stamp.
        struct.pack_into("<iI", self._bytes, 4, *divmod(now_ns, 1_000_000_000))
        return bytes(self._bytes)


def run_camera(latents_shape: tuple[int, int, int]) -> None:
    """Publish images, odometry and plans until SIGTERM; prints the number of frames published."""
    import array

    import rclpy
    from nav_msgs.msg import Odometry
    from rclpy.signals import SignalHandlerOptions
    from sensor_msgs.msg import CameraInfo, Image
    from std_msgs.msg import Header

    from dual_nav_util import images, qos
    from dual_nav_util.stamps import to_stamp
    from nav_msgs_ext.msg import S2Plan

    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("bench_camera")
    rgb_publisher = node.create_publisher(Image, "rgb", qos.NEWEST_FRAME)
    depth_publisher = node.create_publisher(Image, "depth", qos.NEWEST_FRAME)
    odometry_publisher = node.create_publisher(Odometry, "odom", qos.ODOMETRY)
    plan_publisher = node.create_publisher(S2Plan, "s2/plan", qos.LATCHED)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    rgb = Serialized(images.image_from_array(pixels, "rgb8", Header()))
    # An empty floor 0.6 m below a level camera, with a wall at 4 m: nothing in the way of the obstacle stop.
    focal, below = 600.0, np.arange(HEIGHT)[:, None] - (HEIGHT - 1) / 2
    metres = np.minimum(np.where(below > 0, 0.6 * focal / np.maximum(below, 1e-6), np.inf), 4.0)
    floor = np.broadcast_to(metres * 1000, (HEIGHT, WIDTH)).astype(np.uint16)
    depth = Serialized(images.image_from_array(floor, "16UC1", Header()))
    info = CameraInfo(width=WIDTH, height=HEIGHT)
    info.k = np.array([focal, 0, (WIDTH - 1) / 2, 0, focal, (HEIGHT - 1) / 2, 0, 0, 1], dtype=float)
    info_publisher = node.create_publisher(CameraInfo, "camera_info", qos.NEWEST_FRAME)
    odometry = Odometry()
    odometry.header.frame_id = "odom"
    odometry.pose.pose.orientation.w = 1.0
    plan = S2Plan(
        episode_id=time.time_ns(),
        kind=S2Plan.KIND_TRAJ_LATENTS,
        pixel_goal_column=WIDTH // 2,
        pixel_goal_row=HEIGHT // 2,
        image_width=WIDTH,
        image_height=HEIGHT,
        traj_latents_shape=array.array("I", latents_shape),
        traj_latents=array.array("f", rng.standard_normal(latents_shape).astype(np.float32).tobytes()),
    )
    running = True

    def stop(*_: object) -> None:
        nonlocal running
        running = False

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stamps: list[int] = []
    start = time.monotonic()
    ticks = {"camera": 0, "odometry": 0, "plan": 0}
    while running:
        due = {
            "camera": start + ticks["camera"] / CAMERA_RATE,
            "odometry": start + ticks["odometry"] / ODOMETRY_RATE,
            "plan": start + (ticks["plan"] + 0.1) / PLAN_RATE,
        }
        kind = min(due, key=lambda name: due[name])
        time.sleep(max(0.0, due[kind] - time.monotonic()))
        ticks[kind] += 1
        now = time.time_ns()
        if kind == "camera":
            info.header.stamp = to_stamp(now)
            info_publisher.publish(info)
            rgb_publisher.publish(rgb.stamped(now))
            depth_publisher.publish(depth.stamped(now))
            stamps.append(now)
        elif kind == "odometry":
            odometry.header.stamp = to_stamp(now)
            odometry_publisher.publish(odometry)
        elif len(stamps) > CAMERA_RATE / 2:
            # As after half a second of inference of S2.
            plan.header.stamp = to_stamp(stamps[-round(CAMERA_RATE / 2)])
            plan.plan_number += 1
            plan_publisher.publish(plan)
    print(json.dumps(stamps))
    node.destroy_node()
    rclpy.shutdown()


# ------------------------------------------------------------------------------------------------------- listener


class Listener:
    """Collects what s1_controller says."""

    def __init__(self) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray

        from dual_nav_util import qos
        from dual_nav_util.stamps import to_nanoseconds
        from nav_msgs_ext.msg import ControllerState

        self._node = rclpy.create_node("bench_listener")
        self.first_seen: dict[int, float] = {}  # frame stamp: seconds until its first command was heard of
        self.ages: list[float] = []  # of the frame behind every command
        self.diagnostics: dict[str, str] = {}
        self.failures: set[str] = set()

        def on_state(message: ControllerState) -> None:
            stamp = to_nanoseconds(message.header.stamp)
            if stamp:
                age = (time.time_ns() - stamp) * 1e-9
                self.first_seen.setdefault(stamp, age)
                if message.state == ControllerState.FOLLOWING:
                    self.ages.append(age)

        def on_diagnostics(message: DiagnosticArray) -> None:
            for status in message.status:
                if "s1_controller" in status.name:
                    self.diagnostics.update({value.key: value.value for value in status.values})
                    if status.level == status.ERROR:
                        self.failures.add(status.message)

        deep = qos.QoSProfile(depth=100, reliability=qos.ReliabilityPolicy.RELIABLE)
        self._node.create_subscription(ControllerState, "s1/state", on_state, deep)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, deep)

    def listen(self, seconds: float) -> None:
        import rclpy

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            rclpy.spin_once(self._node, timeout_sec=0.1)


def measure(arguments: argparse.Namespace, system1: str, profile: str) -> dict:
    """One run of all processes; figures in milliseconds."""
    import rclpy

    for variable in PROFILE_VARIABLES:
        os.environ.pop(variable, None)
    if profile == "project":
        os.environ[PROFILE_VARIABLES[0]] = str(PROFILE)
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or make_model(Path(folder), system1)
        shape = latents_shape(Path(model))
        controller = [sys.executable, "-m", "s1_controller_node.main", "--ros-args", "-p", "autostart:=true"]
        # The bench's robot does not move: its odometry stands, as in a replay.
        settings = {"model": model, "torch_threads": 1, "open_loop": "true"}
        if arguments.model is None:
            settings |= (
                {"num_samples": SAMPLES, "num_steps": STEPS}
                if "nextdit" in system1
                else {"num_samples": SAMPLES, "num_steps": STEPS, "sampler": "dpm_solver"}
            )
        for name, value in settings.items():
            controller += ["-p", f"{name}:={value}"]
        camera = [sys.executable, __file__, "--camera", *map(str, shape)]
        rclpy.init()
        listener = Listener()
        processes = [subprocess.Popen(controller), subprocess.Popen(camera, stdout=subprocess.PIPE, text=True)]
        try:
            listener.listen(WARM_UP + 6.0)
            listener.failures.clear()
            counted_from = time.time_ns()
            listener.listen(arguments.seconds)
            counted_until = time.time_ns()
            listener.listen(1.5)  # what is on its way still counts; a last diagnostic message
        finally:
            for process in reversed(processes):
                process.terminate()
            stamps = json.loads(processes[1].communicate(timeout=10)[0] or "[]")
            exit_status = processes[0].wait(timeout=10)
            rclpy.shutdown()
    counted = [stamp for stamp in stamps if counted_from <= stamp < counted_until]
    answered = [listener.first_seen[stamp] for stamp in counted if stamp in listener.first_seen]
    found = listener.diagnostics

    def from_s1(name: str) -> list[float | None]:
        return [float(found[key]) if (key := f"{name} {p} [ms]") in found else None for p in ("p50", "p95", "p99")]

    return {
        "system1": system1,
        "profile": profile,
        "frames": len(counted),
        "answered": len(answered),
        "lost_percent": 100.0 * (1.0 - len(answered) / len(counted)) if counted else 100.0,
        "overhead_ms": from_s1("overhead"),
        "model_ms": from_s1("model"),
        "goal_ms": from_s1("goal"),
        "latency_ms": from_s1("camera to command"),
        "latency_outside_ms": (np.percentile(answered, (50, 95, 99)) * 1e3).tolist() if answered else [None] * 3,
        "oldest_frame_behind_a_command_ms": max(listener.ages, default=float("nan")) * 1e3,
        "counts": {name: int(found[name]) for name in COUNTS if name in found},
        "errors": sorted(listener.failures),
        "exit_status": exit_status,
    }


# The bias of the forward step in the last layer, and the value that makes random trajectories lead ahead: at a path
# that ends near the robot S1 asks for the next plan and, rightly, samples no further ones meanwhile.
AHEAD = {"nextdit": ("model.action_decoder.bias", -1.0), "navdp": ("model.navdp.action_head.bias", -5.0)}


def make_model(folder: Path, system1: str) -> str:
    """A small random checkpoint, made by the command that makes those of the tests, with paths that lead ahead."""
    from safetensors.torch import load_file, save_file

    model = folder / "model"
    command = [sys.executable, "-m", "dual_nav_training.random_checkpoint", str(model), "--system1", system1]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    key, value = AHEAD["nextdit" if "nextdit" in system1 else "navdp"]
    shard = model / json.loads((model / "model.safetensors.index.json").read_text())["weight_map"][key]
    tensors = load_file(shard)
    tensors[key][0] = value
    save_file(tensors, shard, metadata={"format": "pt"})
    return str(model)


def latents_shape(model: Path) -> tuple[int, int, int]:
    config = json.loads((model / "config.json").read_text())
    return 1, config.get("n_query", 4), config["hidden_size"]


# --------------------------------------------------------------------------------------------------------- output


def describe_machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    load = os.getloadavg()[0]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, load average {load:.1f}"


def print_result(result: dict) -> None:
    def row(name: str, values: list[float | None]) -> None:
        shown = "  ".join("     –" if value is None else f"{value:6.2f}" for value in values)
        print(f"    {name:44s}{shown}")

    print(f"  {result['system1']}, DDS profile: {result['profile']}")
    print(f"    {'milliseconds':44s}   p50     p95     p99")
    row("overhead (camera stamp to command - model)", result["overhead_ms"])
    row("model", result["model_ms"])
    row("camera stamp to command", result["latency_ms"])
    row("camera stamp to state, heard outside", result["latency_outside_ms"])
    row("taking a new plan (before its next frame)", result["goal_ms"])
    print(
        f"    frames {result['frames']}, answered {result['answered']}, lost {result['lost_percent']:.2f} %; "
        f"oldest frame behind a command {result['oldest_frame_behind_a_command_ms']:.0f} ms"
    )
    print("    " + ", ".join(f"{name} {count}" for name, count in result["counts"].items()))
    for error in result["errors"][:2]:
        print(f"    s1_controller reported: {error}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="measured time of each run")
    parser.add_argument("--system1", nargs="+", default=["nextdit_async", "navdp_async"])
    parser.add_argument(
        "--profile", nargs="+", choices=("project", "default"), default=["project", "default"], help="DDS profiles"
    )
    parser.add_argument("--model", help="checkpoint to run instead of a small one, with its own samples and steps")
    parser.add_argument("--json", action="store_true", help="one JSON line at the end")
    parser.add_argument("--camera", nargs=3, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.camera:
        run_camera(tuple(arguments.camera))
        return 0
    os.environ.setdefault("ROS_DOMAIN_ID", str(60 + os.getpid() % 30))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    print(f"Runtime overhead, {WIDTH}x{HEIGHT} RGB + depth at {CAMERA_RATE:.0f} Hz; {describe_machine()}")
    results = []
    for system1 in arguments.system1:
        for profile in arguments.profile:
            results.append(measure(arguments, system1, profile))
            print_result(results[-1])
    if arguments.json:
        print(json.dumps({"bench": "overhead", "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
