"""The motion layer on a simulated course: placement of late paths, cross-track error, solver and step times.

    python bench/motion_course.py [--out FOLDER] [--seeds N]

Drives the S-curve (0.4 m/s, up to 0.5 rad/s, S1 answering 0.7 s late, drifting odometry) with each tracker, then
toward an obstacle and along a free course; prints the figures and one JSON line, and draws course and commands to
FOLDER/motion_course.png. The simulated base is the one of the tests.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src" / "s1_controller_node" / "test"))

from motion_simulation import MOUNT, Drive, distance_to_course, s_curve  # noqa: E402

from s1_controller_node.geometry import relative  # noqa: E402
from s1_controller_node.motion import MotionConfig  # noqa: E402
from s1_controller_node.safety import Reason  # noqa: E402
from s1_controller_node.tracking import TrackerConfig  # noqa: E402

TRACKERS = ("mpc", "pure_pursuit")
CONFIG = MotionConfig(camera=MOUNT)


def spread(values: list[float], scale: float = 1.0) -> dict[str, float]:
    """Mean, p50, p99 and largest of some values times ``scale``."""
    data = np.asarray(values) * scale
    found = {"mean": data.mean(), "p50": np.percentile(data, 50), "p99": np.percentile(data, 99), "max": data.max()}
    return {name: round(float(value), 3) for name, value in found.items()}


def drive_course(tracker: str, seed: int, *, exact_odometry: bool = False) -> tuple[Drive, dict[str, list[float]]]:
    """Ten metres of S-curve; per path its placement error, per period cross-track error and times."""
    course = s_curve(14.0)
    drive = Drive(course, replace(CONFIG, tracker=TrackerConfig(tracker=tracker)), seed=seed)
    if exact_odometry:  # its stamps still jitter, and it comes at a rate of its own
        exact = {"scale": (1.0, 1.0), "walk": (0.0, 0.0), "white": (0.0, 0.0), "velocity_noise": (0.0, 0.0)}
        drive.odometer = replace(drive.odometer, **exact)
    found: dict[str, list[float]] = {
        name: [] for name in ("place", "angle", "cross", "solver", "step", "busy", "fallback")
    }
    poses: dict[int, np.ndarray] = {}
    layer, on_path, step = drive.layer, drive.layer.on_path, drive.layer.step

    def watched_path(plan, stamp_ns, path, conversion, now_ns):
        followed = on_path(plan, stamp_ns, path, conversion, now_ns)
        if followed and stamp_ns in poses:
            image, now = layer.odometry.pose_at(stamp_ns), layer.odometry.pose_at(now_ns)
            error = relative(relative(image, now), relative(poses[stamp_ns], drive.base.pose))
            found["place"].append(math.hypot(error[0], error[1]))
            found["angle"].append(abs(error[2]))
        return followed

    def watched_step(now_ns, clock_silence=0.0):
        poses[now_ns] = drive.base.pose
        started, busy = time.perf_counter(), time.thread_time()
        command = step(now_ns, clock_silence)
        found["step"].append(time.perf_counter() - started)
        found["busy"].append(time.thread_time() - busy)
        if command.tracking.solver_seconds:
            found["solver"].append(command.tracking.solver_seconds)
            found["fallback"].append(float(bool(command.tracking.fallback)))
        found["cross"].append(distance_to_course(course, drive.base.pose))
        return command

    layer.on_path, layer.step = watched_path, watched_step
    on_frame = layer.on_frame

    def watched_frame(stamp_ns):
        poses[stamp_ns] = drive.base.pose
        on_frame(stamp_ns)

    layer.on_frame = watched_frame
    drive.run(40.0, until=lambda c: drive.base.pose[0] > course[1000, 0])
    return drive, found


def drive_to_obstacle(seed: int) -> dict[str, float]:
    """A box of a person's size appears 1 m before the bumper at 0.4 m/s."""
    straight = np.stack([np.arange(0.0, 25.0, 0.01), np.zeros(2500), np.zeros(2500)], axis=1)
    drive = Drive(straight, CONFIG, seed=seed)
    drive.run(8.0, until=lambda c: c.v > 0.38)
    drive.run(0.5)
    front = drive.base.pose[0] + CONFIG.safety.radius + 1.0
    drive.camera.boxes = np.array([[front, -0.3, 0.0, front + 0.4, 0.3, 1.5]])
    drive.run(10.0)
    gap = front - CONFIG.safety.radius - max(p[0] for p in drive.poses)
    drive.camera.boxes = np.zeros((0, 6))
    cleared = drive.now
    drive.run(3.0, until=lambda c: c.v > 0.02)
    return {"gap_m": round(float(gap), 3), "resume_s": round(drive.now - cleared, 2)}


def drive_free(seed: int) -> dict[str, float]:
    """Twenty metres between walls 1.5 m apart."""
    straight = np.stack([np.arange(0.0, 25.0, 0.01), np.zeros(2500), np.zeros(2500)], axis=1)
    walls = np.array([[-2.0, -0.85, 0.0, 27.0, -0.75, 2.0], [-2.0, 0.75, 0.0, 27.0, 0.85, 2.0]])
    drive = Drive(straight, CONFIG, seed=seed, boxes=walls)
    drive.run(80.0, until=lambda c: drive.base.pose[0] > 20.0)
    stopped = sum(bool(c.reasons & (Reason.OBSTACLE_STOP | Reason.BLIND)) for c in drive.commands)
    slowed = sum(bool(c.reasons & Reason.OBSTACLE_SLOW) for c in drive.commands)
    periods = len(drive.commands)
    return {"false_stop_share": round(stopped / periods, 4), "slowed_share": round(slowed / periods, 4)}


def draw(drives: dict[str, Drive], file: Path) -> None:
    """Course with both drives, distance from it, and commands, side by side over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    course = next(iter(drives.values())).course
    figure, (top, cross, speed, turn) = pyplot.subplots(
        4, 1, figsize=(9, 8), gridspec_kw={"height_ratios": [1.1, 1, 1, 1]}, constrained_layout=True
    )
    top.plot(course[:1000, 0], course[:1000, 1], color="0.6", linewidth=5, label="course", solid_capstyle="round")
    for name, drive in drives.items():
        poses = np.array(drive.poses)
        seconds = np.array(drive.times) - drive.times[0]
        label = name.replace("_", " ")
        top.plot(poses[:, 0], poses[:, 1], label=label, linewidth=1.5)
        cross.plot(seconds, [100.0 * distance_to_course(course, pose) for pose in poses], label=label)
        speed.plot(seconds, [c.v for c in drive.commands])
        turn.plot(seconds, [c.omega for c in drive.commands])
    top.set(title="S-curve at 0.4 m/s, every path 0.7 s late, odometry with drift", xlabel="x [m]", ylabel="y [m]")
    top.set_aspect("equal")
    top.legend(loc="lower right", ncols=3)
    cross.axhline(5.0, color="0.7", linestyle="--", linewidth=1)
    cross.set_ylabel("from course [cm]")
    speed.set_ylabel("v [m/s]")
    turn.set_ylabel("ω [rad/s]")
    turn.set_xlabel("time [s]")
    for axis in (top, cross, speed, turn):
        axis.grid(alpha=0.3)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "motion", help="folder of the picture")
    parser.add_argument("--seeds", type=int, default=3, help="drives per tracker, each with other noise")
    arguments = parser.parse_args()
    summary: dict[str, dict] = {}
    shown: dict[str, Drive] = {}
    for tracker in TRACKERS:
        found: dict[str, list[float]] = {}
        _, exact = drive_course(tracker, 0, exact_odometry=True)
        for seed in range(arguments.seeds):
            drive, part = drive_course(tracker, seed)
            shown.setdefault(tracker, drive)
            for name, values in part.items():
                found.setdefault(name, []).extend(values)
        summary[tracker] = {
            "paths": len(found["place"]),
            "placement_mm": spread(found["place"], 1e3),
            "placement_deg": spread(found["angle"], math.degrees(1.0)),
            "placement_with_exact_odometry_mm": spread(exact["place"], 1e3),
            "placement_with_exact_odometry_deg": spread(exact["angle"], math.degrees(1.0)),
            "cross_track_cm": spread(found["cross"], 1e2),
            "step_ms": spread(found["step"], 1e3),
            "step_cpu_ms": spread(found["busy"], 1e3),  # what other load on the machine does not lengthen
        }
        if found["solver"]:
            summary[tracker]["solver_ms"] = spread(found["solver"], 1e3)
            summary[tracker]["fallback_share"] = round(float(np.mean(found["fallback"])), 4)
    summary["obstacle"] = drive_to_obstacle(0)
    summary["free_20_m"] = drive_free(0)
    for name, figures in summary.items():
        print(name)
        for key, value in figures.items():
            shown_value = "  ".join(f"{k} {v:g}" for k, v in value.items()) if isinstance(value, dict) else value
            print(f"  {key:33} {shown_value}")
    picture = arguments.out / "motion_course.png"
    draw(shown, picture)
    print(f"picture: {picture}")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
