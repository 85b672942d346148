"""Figures of a replay, computed from cases whose answers are known, and the pictures drawn from them."""

import numpy as np
import pytest

pytest.importorskip("nav_msgs_ext", reason="needs ROS 2 and the built workspace: source scripts/env.sh")

from PIL import Image

from dual_nav_bringup.observer import Observations, SeenPath, SeenPlan, SeenState
from dual_nav_bringup.pictures import draw_plan, write_top_down
from dual_nav_bringup.report import answered_share, percentiles_ms, summarise, table
from nav_msgs_ext.msg import ControllerState, S2Plan

MS = 1e-3
FRAMES = {number * 100_000_000: 10.0 + number * 0.1 for number in range(10)}  # 10 Hz


def path(number: int, delay: float) -> SeenPath:
    return SeenPath(10.0 + number * 0.1 + delay, number * 100_000_000, "odom", np.array([[0.0, 0.0], [1.0, 0.5]]))


def plan(number: int, delay: float, **fields) -> SeenPlan:
    return SeenPlan(10.0 + number * 0.1 + delay, number * 100_000_000, S2Plan(inference_time=0.2, **fields))


def test_every_frame_answered_in_time_is_all_it_could():
    assert answered_share([path(number, 30 * MS) for number in range(10)], FRAMES) == 1.0


def test_a_slow_controller_is_measured_against_what_fits_into_the_time():
    # 210 ms per inference on frames 100 ms apart: every second frame is all that fits.
    assert answered_share([path(number, 210 * MS) for number in (0, 2, 4, 6, 8)], FRAMES) == 1.0


def test_frames_left_out_without_need_lower_the_share():
    # After 30 ms the controller was free for each of the frames left out.
    assert answered_share([path(number, 30 * MS) for number in (0, 3, 6, 9)], FRAMES) == pytest.approx(0.4)


def test_one_slow_inference_excuses_only_the_frames_that_came_and_went_during_it():
    # Busy with frame 0 until 250 ms: frame 1 is replaced by frame 2 meanwhile; frame 2 waits and could be answered.
    slow = [path(0, 250 * MS), *(path(number, 30 * MS) for number in range(3, 10))]
    assert answered_share(slow, FRAMES) == pytest.approx(8 / 9)


def test_no_share_without_two_paths():
    assert answered_share([path(3, 30 * MS)], FRAMES) is None


def test_summary_counts_frames_and_measures_from_their_publishing():
    seen = Observations()
    seen.plans = [plan(0, 250 * MS, kind=S2Plan.KIND_TRAJ_LATENTS), plan(5, 350 * MS, kind=S2Plan.KIND_ACTIONS)]
    seen.paths = [path(number, 40 * MS) for number in range(3, 10)]
    for number in range(3, 10):
        for later in (50 * MS, 100 * MS):  # the state is repeated: only the first counts
            arrival = 10.0 + number * 0.1 + later
            seen.states.append(SeenState(arrival, number * 100_000_000, ControllerState.FOLLOWING, 0.0, ""))
    seen.alerts = [
        (9.0, "s2_planner: inputs", 2, "nothing yet"),  # before the first frame
        (12.0, "s2_planner: inputs", 2, "silent"),
        (13.0, "s2_planner: inputs", 1, "late"),
    ]
    summary = summarise(seen, FRAMES, {"s2_planner": [100.0, 115.0, 120.0, 110.0, 110.0], "s1_controller": []})
    assert summary["frames"] == 10
    assert summary["nodes"]["s2_planner"]["processed"] == 2
    assert summary["nodes"]["s2_planner"]["memory_mb"] == {"start": 100, "warm": 115, "end": 110, "max": 120}
    assert summary["nodes"]["s1_controller"] == {"processed": 7, "dropped": 3, "received": None}
    assert summary["plan_kinds"] == {"traj_latents": 1, "actions": 1}
    assert summary["latency_ms"]["camera_to_plan"]["p50"] == 300.0
    assert summary["latency_ms"]["camera_to_path"]["p99"] == 40.0
    assert summary["latency_ms"]["camera_to_command"] == {"p50": 50.0, "p95": 50.0, "p99": 50.0, "max": 50.0, "n": 7}
    assert summary["command_frame_age_ms"]["max"] == 100.0
    assert summary["errors"] == ["s2_planner: inputs: silent"]
    text = table(summary)
    assert "camera → command" in text
    assert "S1 answered        100.0%" in text


def test_a_replay_without_any_output_still_gives_a_table():
    summary = summarise(Observations(), {}, {"s2_planner": [], "s1_controller": []})
    assert summary["latency_ms"]["camera_to_plan"] is None
    assert "none" in table(summary)


def test_percentiles_are_in_milliseconds():
    assert percentiles_ms([0.001, 0.002, 0.003])["p50"] == 2.0


def test_the_pixel_goal_is_drawn_where_it_lies_in_the_image_of_another_size():
    blank = np.zeros((480, 640, 3), dtype=np.uint8)
    message = S2Plan(
        kind=S2Plan.KIND_PIXEL_GOAL, pixel_goal_column=160, pixel_goal_row=40, image_width=320, image_height=240
    )
    drawn = np.asarray(draw_plan(blank, message, 0.0, None))[:480].astype(int)
    rows, columns = np.nonzero(drawn[..., 0] > 200)
    assert columns.mean() == pytest.approx(321, abs=2)
    assert rows.mean() == pytest.approx(81, abs=2)
    without = S2Plan(kind=S2Plan.KIND_ACTIONS, actions=[2, 2], pixel_goal_column=-1, pixel_goal_row=-1, answer="←←")
    assert np.asarray(draw_plan(blank, without, 0.0, 0.2))[:480].max() == 0


def test_the_top_down_plot_is_not_blank(tmp_path):
    write_top_down(tmp_path / "paths.png", [path(0, 0.0), path(9, 0.0)], [(0.0, 0.0), (0.5, 0.1)], "a title")
    picture = np.asarray(Image.open(tmp_path / "paths.png").convert("RGB")).astype(int)
    saturation = picture.max(axis=-1) - picture.min(axis=-1)
    assert (saturation > 60).sum() > 1000
