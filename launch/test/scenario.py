"""Both nodes on a recording: playing it to them, and what must come out.

The nodes are started by somebody else: by this package's runner in test_system.py, by ROS's launch package in
test_system_launch_pytest.py. What is asserted is the same.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from synthetic import write_corridor

from dual_nav_bringup.observer import Observations, Observer
from dual_nav_bringup.player import Player
from dual_nav_bringup.replay import ActiveWatch
from dual_nav_bringup.report import answered_share, command_ages, first_arrivals, inference_times
from dual_nav_util.recording import Recording, choose_topics
from nav_msgs_ext.msg import ControllerState

CORES = os.cpu_count() or 1
CONTROL_PERIOD = 0.05  # [s], of the controller's default rate
SLACK = 0.25  # [s] that other threads on two slow cores may add on the way of a message
START_SECONDS = 180.0


def recording(folder: Path) -> Path:
    """The real recording beside the checkout if it is there, otherwise a calculated one."""
    root = Path(__file__).resolve().parents[2]
    real = Path(os.environ.get("NAV_SHARED_DIR", root.parent / "shared")) / "data" / "realsense_lab_bag"
    return real if real.is_dir() else write_corridor(folder / "corridor", count=60, jpeg=True)


def crowding() -> float:
    """How many times longer things take because other programs want the processor too; 1 on a machine of one's own.

    Both nodes, the recording and this test make a load of about two per core themselves.
    """
    return max(1.0, os.getloadavg()[0] / (2 * CORES))


def make_checkpoint(folder: Path) -> Path:
    """A small random checkpoint whose planner always answers with the same pixel goal, after a look down."""
    command = [sys.executable, "-m", "dual_nav_training.random_checkpoint", str(folder), "--answers", "↓", "160 200"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


class Scenario:
    """Plays a recording to running nodes in this process's ROS domain and watches what they publish."""

    def __init__(self, bag: Path, out: Path, rate: float = 1.0, loops: int = 1):
        self.recording = Recording(bag)
        topics = choose_topics(self.recording, {})
        self.transport = "compressed" if topics["rgb"].type.endswith("CompressedImage") else "raw"
        self.context = rclpy.Context()
        self.context.init()
        self.node = rclpy.create_node("scenario", context=self.context)
        self.player = Player(self.node, self.recording, topics, rate, loops, None)
        self.observer = Observer(self.node, out, lambda: self.player.now_ns)
        self.watch = ActiveWatch(self.node)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self._spinner = threading.Thread(target=self._spin, daemon=True)
        self._spinner.start()
        self._stop = threading.Event()
        self._playing: threading.Thread | None = None

    def _spin(self) -> None:
        with contextlib.suppress(rclpy.executors.ExternalShutdownException):
            self.executor.spin()

    @property
    def seen(self) -> Observations:
        return self.observer.seen

    @property
    def sent(self) -> dict[int, float]:
        return self.player.frame_sent

    def wait_active(self) -> None:
        self.until(
            lambda: self.watch.all_active() and self.observer.connected(), START_SECONDS, "both nodes are active"
        )

    def until(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        """Wait for a condition; AssertionError that says what did not happen, and what diagnostics say instead."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                said = [f"{name}: {status.level} {status.message}" for name, status in self.seen.status.items()]
                raise AssertionError(f"not within {seconds:g} s: {what}. States {self.watch.states}, said: {said}")
            time.sleep(0.02)

    def start_playing(self) -> None:
        self._playing = threading.Thread(
            target=self.player.play, args=(lambda: not self._stop.is_set(),), daemon=True
        )
        self._playing.start()

    def play(self) -> None:
        self.start_playing()
        self._playing.join()

    def complains(self, name: str, about: str) -> bool:
        """Whether the newest diagnostic status of this name is a warning or an error, and what it is about."""
        status = self.seen.status.get(name)
        return status is not None and status.level != DiagnosticStatus.OK and about in status.message

    def close(self) -> None:
        self._stop.set()
        if self._playing is not None:
            self._playing.join(timeout=5)
        self.executor.shutdown()
        self.observer.close()
        self.node.destroy_node()
        self.context.shutdown()
        self.recording.close()


@contextlib.contextmanager
def playing(bag: Path, out: Path, **options) -> Iterator[Scenario]:
    """A Scenario that is closed whatever happens."""
    scenario = Scenario(bag, out, **options)
    try:
        yield scenario
    finally:
        scenario.close()


def node_processes(name: str) -> list[psutil.Process]:
    """The running processes of a node in this ROS domain, found by their command line."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if f"__node:={name}" in process.cmdline():
                domain = process.environ().get("ROS_DOMAIN_ID")
                if domain == os.environ.get("ROS_DOMAIN_ID"):
                    found.append(process)
    return found


def left_running(processes: list[psutil.Process], seconds: float = 30.0) -> list[psutil.Process]:
    """Those that do not end in this time; one that nobody has collected yet has ended."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


# ------------------------------------------------------------------------------------------------------- assertions


def assert_pipeline_worked(scenario: Scenario) -> None:
    """Plans, paths and commands come out, stamped with the frame they were made from, and nothing queues up."""
    seen, sent = scenario.seen, scenario.sent
    period = scenario.player.loop_ns / 1e9 / max(1, len(sent) / scenario.player.loops) / scenario.player.rate

    assert seen.plans, "no plan"
    assert {plan.stamp for plan in seen.plans} <= set(sent), "a plan's stamp is not that of a camera frame"
    numbers = [(plan.message.episode_id, plan.message.plan_number) for plan in seen.plans]
    assert numbers == sorted(set(numbers)), "plan numbers do not grow"
    with_latents = [plan.message for plan in seen.plans if plan.message.traj_latents_shape]
    assert with_latents, "no plan with latents"
    for message in with_latents:
        assert len(message.traj_latents) == np.prod(message.traj_latents_shape)
        assert np.isfinite(np.array(message.traj_latents)).all()
        assert (message.pixel_goal_column, message.pixel_goal_row) == (160, 200)
        assert not message.look_down  # ↓ was answered, and there is no such camera: the level image was shown again

    assert seen.paths, "no path"
    assert {path.stamp for path in seen.paths} <= set(sent), "a path's stamp is not that of a camera frame"
    assert {path.frame for path in seen.paths} == {"odom"}
    assert all(len(path.points) > 1 and np.isfinite(path.points).all() for path in seen.paths)
    assert_paths_start_at_the_pose_of_their_frame(scenario)

    assert seen.commands, "no velocity command"
    assert all(np.isfinite([command.linear, command.angular]).all() for command in seen.commands)
    following = [state for state in seen.states if state.state == ControllerState.FOLLOWING]
    assert following, f"the controller never followed a path: {sorted({s.message for s in seen.states})}"
    assert all(np.isfinite(state.latency) and state.latency >= 0 for state in seen.states)

    # Every kind of latency was measured, and nothing queues up: a path is made of the newest frame, so that no frame
    # waits longer than until the next one comes, and a command is replaced after one more inference.
    assert first_arrivals(seen.plans, sent)
    assert first_arrivals(seen.states, sent)
    slack = SLACK * crowding()
    inference = float(np.percentile(inference_times(seen.paths, sent), 95))
    waits = [before.arrival - sent[path.stamp] for before, path in pairwise(seen.paths)]
    assert float(np.percentile(waits, 95)) < period + slack
    ages = command_ages(seen, sent)
    assert ages
    assert float(np.percentile(ages, 95)) < inference + max(inference, period) + CONTROL_PERIOD + slack
    # Needless drops leave a half or less; on a slow machine a path may end right when the next frame comes.
    assert answered_share(seen.paths, sent) >= 0.7 / crowding()


def assert_paths_start_at_the_pose_of_their_frame(scenario: Scenario) -> None:
    """A path begins where odometry was at the stamp of its image, not where it is when the path comes out."""
    poses = {pose_stamp: np.array(xy) for pose_stamp, xy in scenario.seen.odometry}
    stamps = np.array(sorted(poses))
    xy = np.array([poses[stamp] for stamp in stamps])
    for path in scenario.seen.paths:
        at = [np.interp(path.stamp, stamps, xy[:, axis]) for axis in (0, 1)]
        assert np.hypot(*(path.points[0] - at)) < 0.02, (
            f"path of frame {path.stamp} starts {path.points[0]}, not {at}"
        )
