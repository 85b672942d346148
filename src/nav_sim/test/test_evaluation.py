"""Closed loop in this process: oracles, measures, resuming."""

import json
import math
import os
import signal
from dataclasses import replace

import numpy as np
import pytest

from nav_sim.episodes import make_episode
from nav_sim.evaluation import (
    EvaluationError,
    InProcess,
    Oracles,
    Output,
    ResumeError,
    Settings,
    evaluate,
    run_episode,
    table,
)
from nav_sim.grid import Grid, clear_line, path_length
from nav_sim.judge import Judge, mean_interval, summarise, wilson_interval
from nav_sim.oracles import (
    FORWARD,
    FORWARD_STEP,
    KIND_ACTIONS,
    KIND_PIXEL_GOAL,
    KIND_TRAJ_LATENTS,
    LOOK_DOWN,
    STOP,
    TURN_LEFT,
    TURN_RIGHT,
    OracleController,
    OraclePlanner,
    PlanMade,
    actions_plan,
)
from nav_sim.simulator import Config, Pose, Simulator

SETTINGS = Settings(seed=9, episodes=6, simulator=Config(look="plain"))


def test_the_constants_are_those_of_the_messages():
    messages = pytest.importorskip("nav_msgs_ext.msg", reason="the workspace is not sourced")
    plan = messages.S2Plan
    assert (plan.KIND_ACTIONS, plan.KIND_PIXEL_GOAL) == (KIND_ACTIONS, KIND_PIXEL_GOAL)
    assert plan.KIND_TRAJ_LATENTS == KIND_TRAJ_LATENTS
    actions = (plan.ACTION_STOP, plan.ACTION_FORWARD, plan.ACTION_TURN_LEFT, plan.ACTION_TURN_RIGHT)
    assert actions == (STOP, FORWARD, TURN_LEFT, TURN_RIGHT)
    assert plan.ACTION_LOOK_DOWN == LOOK_DOWN


@pytest.mark.parametrize("family", ["object", "relation", "route"])
@pytest.mark.parametrize("number", [0, 5])
def test_the_oracles_solve_the_tasks_without_touching_anything(rendering, family, number):
    episode = make_episode("test", 9, family, number)
    with Simulator(episode.flat, SETTINGS.simulator) as simulator:
        run = run_episode(episode, SETTINGS, simulator, Oracles())
    result = run.result
    assert result.success, result
    assert result.collisions == 0
    assert result.navigation_error <= 1.0
    assert 0.7 < result.spl <= 1.0
    assert result.path_length == pytest.approx(path_length(run.driven))


def test_the_oracle_planner_looks_where_it_sends_the_robot():
    episode = make_episode("test", 9, "object", 1)
    with Simulator(episode.flat, SETTINGS.simulator) as simulator:
        planner = OraclePlanner(episode, simulator.cameras)
        for yaw in range(0, 360, 15):
            pose = Pose(episode.start.x, episode.start.y, math.radians(yaw))
            plan = planner.plan(pose)
            if plan.kind == KIND_ACTIONS:
                assert set(plan.actions) <= {TURN_LEFT, TURN_RIGHT, FORWARD}
                continue
            camera = simulator.cameras["look_down" if plan.look_down else "level"]
            assert plan.image_size == (640, 480)
            assert plan.answer == f"{plan.pixel_goal[0]} {plan.pixel_goal[1]}"
            goal = pose.to_world(camera.floor_point(*plan.pixel_goal))
            assert planner._grid.line_of_sight((pose.x, pose.y), goal)


def test_the_controller_turns_and_steps_by_what_the_actions_say():
    episode = make_episode("test", 9, "object", 1)
    with Simulator(episode.flat, SETTINGS.simulator) as simulator:
        simulator.reset(episode.start.x, episode.start.y, episode.start.yaw)
        controller = OracleController(episode, simulator.cameras)
        controller.set_plan(actions_plan([TURN_LEFT, TURN_LEFT, TURN_RIGHT]), simulator.pose, 0.0)
        for _ in range(200):
            simulator.command(*controller.command(simulator.pose, simulator.time))
            simulator.step(0.05)
        assert controller.done
        turned = math.remainder(simulator.pose.yaw - episode.start.yaw, 2 * math.pi)
        assert turned == pytest.approx(math.radians(15), abs=math.radians(4))
        controller.set_plan(PlanMade(KIND_PIXEL_GOAL, (), (320, 10), (640, 480)), simulator.pose, simulator.time)
        assert controller.done  # the sky is no place to drive to
        controller.set_plan(actions_plan([STOP]), simulator.pose, simulator.time)
        assert controller.command(simulator.pose, simulator.time) == (0.0, 0.0)
        assert controller.stopped


@pytest.mark.parametrize(("action", "count"), [(TURN_LEFT, 5), (TURN_RIGHT, 5), (TURN_RIGHT, 14)])
def test_turns_of_one_plan_are_one_motion_that_does_not_fall_short(action, count):
    episode = make_episode("test", 9, "object", 1)
    sign = 1 if action == TURN_LEFT else -1
    with Simulator(episode.flat, SETTINGS.simulator) as simulator:
        simulator.reset(episode.start.x, episode.start.y, episode.start.yaw)
        controller = OracleController(episode, simulator.cameras)
        controller.set_plan(actions_plan([action] * count), simulator.pose, 0.0)
        while not controller.done:
            v, omega = controller.command(simulator.pose, simulator.time)
            assert v == 0.0
            assert sign * omega >= 0.0  # half a turn and more: not the other way round
            assert controller.actions_left in (0, count - 10, count)  # ten at most are one motion
            simulator.command(v, omega)
            simulator.step(0.05)
            assert simulator.time < 20.0
        turned = simulator.pose.yaw - episode.start.yaw - sign * math.radians(15 * count)
    # Not as many times what one turn stops early.
    assert math.degrees(math.remainder(turned, 2 * math.pi)) == pytest.approx(0.0, abs=2.0)


def test_the_oracle_planner_steps_only_where_it_is_free():
    """Also from where it has come too close to something: nearer than any way that is planned."""
    stepped = turned = 0
    for number in range(6):
        episode = make_episode("test", 9, "object", number)
        with Simulator(episode.flat, SETTINGS.simulator) as simulator:
            planner = OraclePlanner(episode, simulator.cameras)
        for cell in np.argwhere(episode.flat.passable & ~episode.flat.drivable)[::7]:
            for yaw in range(0, 360, 45):
                pose = Pose(*Grid.centre(*cell), math.radians(yaw))
                plan = planner.plan(pose)
                if plan.actions == (FORWARD,):
                    stepped += 1
                    ahead = pose.to_world((FORWARD_STEP, 0.0))
                    assert clear_line(episode.flat.passable, (pose.x, pose.y), ahead)
                turned += TURN_LEFT in plan.actions or TURN_RIGHT in plan.actions
    assert stepped > 5
    assert turned > 20


@pytest.mark.parametrize("look_down", [False, True])
def test_a_pixel_goal_means_the_same_place_in_a_resized_image(look_down):
    """S2 plans on images that it has resized; whoever drives has those of the camera."""
    episode = make_episode("test", 9, "object", 1)
    with Simulator(episode.flat, SETTINGS.simulator) as simulator:
        paths = []
        for goal, size in (((240, 400), (640, 480)), ((120, 200), (320, 240)), ((144, 320), (384, 384))):
            controller = OracleController(episode, simulator.cameras)
            controller.set_plan(PlanMade(KIND_PIXEL_GOAL, (), goal, size, look_down), episode.start, 0.0)
            paths.append(controller.path)
    for path in paths[1:]:
        assert math.dist(path[-1], paths[0][-1]) < 0.1  # a cell of the map, and half a pixel


def test_at_the_end_of_its_way_beside_a_wall_the_oracle_does_not_turn_back_and_forth(rendering):
    episode = make_episode("test", 0, "relation", 122)  # a turn off the last step, which a wall does not allow
    with Simulator(episode.flat, SETTINGS.simulator) as simulator:
        run = run_episode(episode, SETTINGS, simulator, Oracles())
    assert run.result.success, run.result


def test_a_stop_counts_only_near_the_goal_and_with_it_in_view(rendering):
    episode = make_episode("test", 9, "object", 1)
    with Simulator(episode.flat, SETTINGS.simulator) as simulator:
        run_episode(episode, SETTINGS, simulator, Oracles())
        at_goal = simulator.pose

        def verdict(pose, outcome="stopped"):
            simulator.reset(pose.x, pose.y, pose.yaw)
            judge = Judge(episode)
            judge.observe(0.0, pose)
            return judge.result(simulator, outcome, plans=1, collisions=0, decided=0.0)

        assert verdict(at_goal).success
        assert not verdict(at_goal, "timeout").success
        assert verdict(at_goal, "timeout").oracle_success
        away = verdict(Pose(at_goal.x, at_goal.y, at_goal.yaw + math.pi))
        assert not away.success
        assert away.visible_share == 0.0
        start = verdict(episode.start)
        assert not start.success
        assert not start.oracle_success
        assert start.navigation_error == pytest.approx(episode.shortest + 1.0, abs=0.6)
        with pytest.raises(ValueError, match="outcome: expected one of"):
            verdict(at_goal, "won")


def test_with_another_radius_the_shortest_way_ends_there():
    episode = make_episode("test", 9, "object", 1)
    shortest = [Judge(episode, radius).shortest for radius in (0.7, 1.0, 1.5)]
    assert shortest[1] == episode.shortest
    assert shortest[0] > shortest[1] > shortest[2] > 0.0
    assert shortest[1] - shortest[2] == pytest.approx(0.5, abs=0.15)


def test_of_several_goals_the_one_that_is_seen_counts(rendering):
    """Another stands nearer, behind the robot's back."""
    episode = make_episode("test", 9, "object", 1)
    with Simulator(episode.flat, SETTINGS.simulator) as simulator:
        run_episode(episode, SETTINGS, simulator, Oracles())
        judge = Judge(episode)
        judge.observe(0.0, simulator.pose)
        others = [n for n in range(len(episode.flat.items)) if n not in episode.goals]
        both = replace(episode, goals=(*episode.goals, others[0]))
        judge = Judge(both)
        judge._distance_to = lambda goal, _: 0.1 if goal == others[0] else 0.8
        judge.observe(0.0, simulator.pose)
        shares = {others[0]: 0.0}
        seen = simulator.visible_share
        simulator.visible_share = lambda goal, camera: shares.get(goal, seen(goal, camera))
        assert judge.result(simulator, "stopped", plans=1, collisions=0, decided=0.0).success


def test_what_counts_is_where_the_robot_comes_to_rest_after_the_stop():
    episode = make_episode("test", 9, "object", 1)
    judge = Judge(episode)
    start = episode.start
    for frame in range(12):
        moved = min(frame, 4) * 0.05  # metres: rolls for 0.4 s
        judge.observe(frame * 0.1, Pose(start.x + moved, start.y, start.yaw))
        assert judge.at_rest == (frame >= 9)  # half a second later
    with Simulator(episode.flat, SETTINGS.simulator) as simulator:
        result = judge.result(simulator, "stopped", plans=1, collisions=0, decided=0.2)
    assert result.time == pytest.approx(0.4)
    assert result.path_length == pytest.approx(0.2)


def test_a_video_is_h264_with_camera_and_map_side_by_side(rendering, tmp_path):
    import cv2

    settings = Settings(seed=9, episodes=1, families=("object",), simulator=Config(look="plain"))
    evaluate(settings, Output(tmp_path, pictures=False, video=True), InProcess(Oracles()), processes=1, quiet=True)
    (path,) = (tmp_path / "videos").iterdir()
    assert path.name == "test-9-object-0000.mp4"
    assert b"avc1" in path.read_bytes()
    video = cv2.VideoCapture(str(path))
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1][..., ::-1])
    (result,) = (json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines())
    assert len(frames) == pytest.approx(result["time"] * 10, abs=7)  # and half a second at rest
    assert frames[0].shape[0] == 480 + 64
    assert frames[0][:480, :640].std() > 10  # a picture, not a blank one
    blue = (np.abs(frames[-1][:480, 640:].astype(int) - (30, 90, 230)).sum(axis=2) < 60).sum()
    assert blue > 100  # the path driven


def test_acting_at_random_fails(rendering, tmp_path):
    summary = evaluate(
        Settings(seed=9, episodes=9, s2="random", time_limit=40.0, simulator=Config(look="plain")),
        Output(tmp_path, pictures=False), InProcess(Oracles(s2="random")), processes=1, quiet=True,
    )  # fmt: skip
    assert summary["all"]["success"]["value"] <= 1 / 9


def test_an_interrupted_evaluation_goes_on_and_gives_the_same(rendering, tmp_path, monkeypatch):
    oracles = InProcess(Oracles())
    whole = evaluate(SETTINGS, Output(tmp_path / "whole"), oracles, processes=2, quiet=True)
    assert len(list((tmp_path / "whole" / "pictures").glob("*.png"))) == SETTINGS.episodes
    folder = tmp_path / "cut"
    cut = Output(folder, pictures=False)
    evaluate(Settings(seed=9, episodes=3, simulator=Config(look="plain")), cut, oracles, 1, True)
    log = folder / "episodes.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join(lines[:2]) + "\n" + lines[2][:40])  # killed while writing the third
    resumed = evaluate(SETTINGS, cut, oracles, processes=1, quiet=True)
    for part in ("all", "object", "relation", "route"):
        assert resumed[part] == whole[part]
    assert [json.loads(line)["name"] for line in log.read_text().splitlines()[:2]] == [
        json.loads(line)["name"] for line in lines[:2]
    ]
    assert "object" in table(resumed)
    for other in ({"seed": 8}, {"launch": ("people:=3",)}, {"seed": 9}):
        settings = Settings(**{"seed": 9, "episodes": 3, "simulator": Config(look="plain"), **other})
        if other == {"seed": 9}:  # the same, but for the weights behind a name
            monkeypatch.setattr("nav_sim.evaluation._weights", lambda _: ["others"])
        with pytest.raises(ResumeError, match="other settings"):
            evaluate(settings, cut, oracles, 1, True)


def killed(*_):
    """Stands for episodes whose process the system ends."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_ends_the_evaluation(tmp_path):
    two_flats = replace(SETTINGS, episodes=60)
    with pytest.raises(EvaluationError, match="was killed"):
        evaluate(two_flats, Output(tmp_path, pictures=False), killed, processes=2, quiet=True)


def test_confidence_intervals_are_those_of_the_books():
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(200, 200)[0] == pytest.approx(0.9812, abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    low, high = mean_interval([1.0, 2.0, 3.0, 4.0])
    assert (low + high) / 2 == pytest.approx(2.5)
    assert high - low == pytest.approx(2 * 1.959964 * 1.2909944 / 2)
    summary = summarise([])
    assert summary["episodes"] == 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"s2": "genius"}, "S2: expected oracle, random or a checkpoint folder, got 'genius'"),
        ({"families": ("poem",)}, "families: expected some of"),
        ({"episodes": 0}, "episodes: expected a positive number, got 0"),
        ({"withheld": ("sound",)}, "withheld: expected some of instruction, s2_rgb, s1_rgb, s1_depth, got sound"),
        ({"withheld": ("s2_rgb",), "s2": "random"}, "withheld s2_rgb: S2 is random"),
        ({"withheld": ("s1_depth",)}, "withheld s1_depth: S1 is oracle"),
    ],
)
def test_wrong_settings_are_refused(change, text):
    with pytest.raises(ValueError, match=text):
        Settings(**change)
