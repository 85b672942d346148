"""The small planner: what it is asked and told, and that it is trained as the node runs it."""

import contextlib
import copy
import itertools
import json
import math
import re
import shutil
import signal
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from transformers import TrainingArguments

from dual_nav_training.conversation import NO_LABEL
from dual_nav_training.run_folder import RunError
from dual_nav_training.small import recipe, report, teacher, train_s1, train_s2
from dual_nav_training.small import ways as ways_module
from dual_nav_training.small.batches import Ask, Item, View, Views
from dual_nav_training.small.checkpoint import SYSTEM1_SIZES, dual_config, planner_tensors, write_small_checkpoint
from dual_nav_training.small.drive import after
from dual_nav_training.small.language import (
    COLOURS,
    DRIVE,
    IMAGE_SIDE,
    KINDS,
    NUMBERS,
    ROOMS,
    TEMPLATE,
    build_tokenizer,
    object_instruction,
    relation_instruction,
    right_first,
    route_instruction,
    with_unknown_words,
    word_tokens,
)
from dual_nav_training.small.muon import MuonTrainer, Together
from dual_nav_training.small.network import small_config
from dual_nav_training.small.objective import GROUND, SEE, STAGES
from dual_nav_training.small.questions import Things, best, mirrored, questions
from dual_nav_training.small.score import answers_to, load_task, score
from dual_nav_training.small.train_s2 import build
from dual_nav_training.small.views import (
    CAMERA,
    CELL,
    CELLS,
    LOOK_AROUND,
    LOOK_AROUND_RIGHT,
    PIXEL_GOAL,
    SIDE,
    WAYPOINTS,
    draw_pose,
    encoded,
    planner_to,
    views_of,
    way_on,
    way_to_door,
    write_flats,
)
from dual_nav_training.small.ways import FRAMES, Ways, ways_of
from dual_nav_util.checkpoint import CheckpointFolder
from nav_sim import gl
from nav_sim.camera import Camera
from nav_sim.episodes import (
    NEXT_TO_CM,
    NOT_NEXT_TO_CM,
    SUCCESS_RADIUS,
    entering,
    footprint_distance,
    grammar,
    is_in_sight,
    other_room,
)
from nav_sim.evaluation import InProcess, Output, Settings, evaluate
from nav_sim.grid import Grid, clear_line, grid_of
from nav_sim.oracles import (
    FORWARD,
    FORWARD_STEP,
    KIND_PIXEL_GOAL,
    STOP,
    TURN_LEFT,
    TURN_RIGHT,
    TURN_STEP,
    PlanMade,
    goal_on_floor,
)
from nav_sim.simulator import Config, Pose, Simulator, wrapped
from nav_sim.worlds import gap_squared, make_flat
from s1_controller_node.path import path_from_increments
from s1_controller_node.policy import PolicyConfig, load_policy
from s2_planner_node.answer import AnswerError
from s2_planner_node.planner import Plan, PlannerConfig, load_planner
from s2_planner_node.sequence import ImageRef, token_sequence

SEED = 101
TINY = {
    "hidden": 64,
    "layers": 2,
    "heads": 1,
    "key_value_heads": 1,
    "feed_forward": 128,
    "vision_hidden": 32,
    "vision_layers": 2,
    "vision_heads": 2,
    "vision_feed_forward": 64,
}


@pytest.fixture(scope="module")
def flat():
    return make_flat(SEED)


@pytest.fixture(scope="module")
def things(flat):
    return Things.of(flat)


@pytest.fixture(scope="module")
def rendering():
    if not gl.choose():
        pytest.skip("nothing can be rendered on this machine: neither EGL nor OSMesa works")


@pytest.fixture(scope="module")
def views(rendering):
    return views_of(SEED, 16)


def view(views, number):
    return {name: array[number] for name, array in views.items()}


# ------------------------------------------------------------------------------------------------------- language


def test_words_symbols_and_coordinates_are_tokens_of_their_own():
    tokenizer = build_tokenizer()
    words = word_tokens(tokenizer, [*KINDS, *COLOURS, *ROOMS])
    assert len(set(words)) == len(words)
    for text in (*TEMPLATE.actions, DRIVE, *NUMBERS):
        assert len(tokenizer.encode(text).ids) == 1
    for answer in ("STOP", "←←←", f"{DRIVE}312 144"):
        assert tokenizer.decode(tokenizer.encode(answer).ids) == answer
    assert build_tokenizer().to_str() == tokenizer.to_str()


def test_made_up_words_never_replace_what_an_instruction_means():
    rng = np.random.default_rng(0)
    changed = 0
    for _ in range(200):
        sentence = object_instruction(rng, "orange coffee table", bool(rng.integers(2)))
        other = with_unknown_words(rng, sentence)
        changed += other != sentence
        kept = [word.strip(".,!") for word in other.split()]
        assert [word for word in kept if word in ("orange", "coffee", "table")] == ["orange", "coffee", "table"]
    assert changed > 80


def test_half_of_the_training_is_worded_as_in_no_grammar_but_names_come_in_their_order():
    rng = np.random.default_rng(0)
    known = {object_instruction(np.random.default_rng(n), "red lamp", False, "train") for n in range(300)}
    assert len(known) > 120
    for _ in range(50):
        words = re.findall(r"\w+", relation_instruction(rng, "red lamp", "blue sofa", "", "train").lower())
        assert words.index("red") + 1 == words.index("lamp") < words.index("blue") == words.index("sofa") - 1
        words = re.findall(r"\w+", route_instruction(rng, "crate", "train").lower())
        assert words.index("door") < words.index("crate")
        assert not set(words) & ({*KINDS, *COLOURS, *ROOMS} - {"crate"})


# ---------------------------------------------------------------------------------------------------------- views


def test_looking_around_again_and_again_looks_everywhere():
    turns = len(LOOK_AROUND.actions)
    assert {turns * number % 24 for number in range(24)} == set(range(24))
    assert math.degrees(TURN_STEP) * turns < math.degrees(CAMERA.hfov)
    assert LOOK_AROUND.actions == (TURN_LEFT,) * turns
    assert LOOK_AROUND_RIGHT.actions == (TURN_RIGHT,) * turns


def test_the_last_steps_and_the_stop_are_one_answer_that_may_be_a_step_wrong(flat):
    rng, said, ends_early = np.random.default_rng(0), set(), []
    for item in range(len(flat.items)):
        planner = planner_to(flat, item)
        for _ in range(40 if planner else 0):
            pose = draw_pose(flat, rng)
            x, y = pose.to_local((flat.items[item].x / 100, flat.items[item].y / 100))
            pose = Pose(pose.x, pose.y, pose.yaw + math.atan2(y, x))
            actions = planner.answer(pose)[0].actions
            if STOP not in actions:
                continue
            said.add(actions)
            steps = len(actions) - 1
            end = pose.to_world((steps * FORWARD_STEP, 0.0))
            assert 0.2 < footprint_distance(flat.items[item], end) < SUCCESS_RADIUS - 0.04
            ends_early.append(footprint_distance(flat.items[item], pose.to_world((FORWARD_STEP * (steps - 1), 0.0))))
            assert clear_line(flat.passable, (pose.x, pose.y), pose.to_world((steps * FORWARD_STEP, 0.0)))
    assert {(STOP,), (FORWARD, STOP), (FORWARD, FORWARD, STOP)} <= said
    assert np.mean(np.asarray(ends_early) <= SUCCESS_RADIUS) > 0.8


def eyes(flat):
    """A robot that can be put anywhere in a flat of plain shapes."""
    return Simulator(flat, Config(look="plain", camera=CAMERA))


def depth_from(simulator, pose):
    simulator.reset(pose.x, pose.y, pose.yaw)
    return simulator.render("level")[1]


def test_who_looks_through_a_door_is_told_the_floor_behind_it(rendering):
    found = 0
    for seed in range(5):
        flat = make_flat(seed)
        with eyes(flat) as robot:
            for door, room in [(one, room) for one in flat.doors for room in one.rooms]:
                inside = entering(door, room, flat)
                pose = Pose(*inside.to_world((0.9, 0.0)), wrapped(inside.yaw + math.pi))
                told = way_to_door(flat, pose, depth_from(robot, pose))
                if flat.room_at(pose.x * 100, pose.y * 100) != room or told is None:
                    continue
                found += 1
                plan, way = told
                place = pose.to_world(goal_on_floor(plan, {"level": CAMERA, "look_down": CAMERA}))
                assert flat.room_at(place[0] * 100, place[1] * 100) == other_room(door, room)
                x, y = pose.to_local(place)
                assert abs(math.atan2(y, x)) < math.radians(21)
                assert math.dist(way[-1], (x, y)) < math.hypot(x, y)  # maybe around something
                assert np.linalg.norm(way[-1]) <= min(0.25 * WAYPOINTS, math.dist(place, (pose.x, pose.y)) + 0.2)
                # It is not the one to go through with one's back to it.
                away = Pose(*inside.to_world((0.0, 0.0)), inside.yaw)
                back = way_to_door(flat, away, depth_from(robot, away))
                if back is not None:
                    place = inside.to_world(goal_on_floor(back[0], {"level": CAMERA, "look_down": CAMERA}))
                    assert flat.room_at(place[0] * 100, place[1] * 100) != other_room(door, room)
    assert found > 5


def test_in_a_doorway_one_goes_on_into_the_room_before_one_looks_around(rendering):
    told = []
    for seed in range(8):
        flat = make_flat(seed)
        with eyes(flat) as robot:
            for door, room in [(one, room) for one in flat.doors for room in one.rooms]:
                inward = entering(door, room, flat)  # half a metre behind the door
                for behind, askew in itertools.product((-0.6, 0.0, 0.4), (0, 30)):
                    yaw = wrapped(inward.yaw + math.radians(askew))
                    pose = Pose(*inward.to_world((behind - 0.5, 0.0)), yaw)
                    plan, _ = way_on(flat, pose, depth_from(robot, pose)) or (None, None)
                    if plan is None or plan.pixel_goal is not None:
                        continue  # something stands there
                    told.append((behind, askew))
                    assert set(plan.actions) == {FORWARD}
                    end = pose.to_world((len(plan.actions) * FORWARD_STEP, 0.0))
                    assert 0.29 < inward.to_local(end)[0] + 0.5 <= 1.01
                    assert flat.room_at(100 * end[0], 100 * end[1]) == room
                    assert clear_line(flat.passable, (pose.x, pose.y), end)
                further = Pose(*inward.to_world((0.6, 0.0)), inward.yaw)
                aside = Pose(inward.x, inward.y, wrapped(inward.yaw + math.radians(50)))
                for pose in (further, aside):
                    depth = depth_from(robot, pose)
                    onwards, door_ahead = way_on(flat, pose, depth), way_to_door(flat, pose, depth)
                    assert (onwards or (None,))[0] == (door_ahead or (None,))[0]
    assert len(told) > 40
    # From before it at an angle, steps straight on would end in its frame.
    assert set(told) == {(-0.6, 0), (0.0, 0), (0.4, 0), (0.0, 30), (0.4, 30)}


def test_a_door_is_seen_over_low_things_and_not_through_high_ones(rendering):
    rng, around, over, doorless, hidden = np.random.default_rng(3), 0, 0, 0, 0
    for seed in range(8):
        flat = make_flat(seed)
        high = [item for item in flat.items if item.kind in ("fridge", "wardrobe")]  # nothing to see through
        with eyes(flat) as robot:
            for _ in range(90):
                pose = draw_pose(flat, rng)
                depth = depth_from(robot, pose)
                here, told = (pose.x, pose.y), way_to_door(flat, pose, depth)
                if told is None:
                    doorless += 1
                    hidden += way_to_door(flat, pose, np.full_like(depth, 99.0)) is not None
                    continue
                plan, way = told
                place = pose.to_world(goal_on_floor(plan, {"level": CAMERA, "look_down": CAMERA}))
                x, y = pose.to_local(place)
                assert abs(math.atan2(y, x)) < math.radians(21)
                line = [np.add(here, share * np.subtract(place, here)) for share in np.linspace(0, 1, 60)]
                assert min((footprint_distance(item, point) for item in high for point in line), default=1.0) > 0.0
                over += any(footprint_distance(item, point) == 0.0 for item in flat.items for point in line)
                if not grid_of(flat).drivable_line(here, place):
                    around += 1
                    assert all(flat.passable[grid_of(flat).cell(pose.to_world(point))] for point in way)
    assert around > 20
    assert over > 10
    assert doorless > 20
    assert hidden > 5


def test_where_the_way_leads_out_of_the_image_one_drives_to_floor_in_view_that_is_nearer_to_the_goal():
    found = 0
    for seed in range(4):
        flat, rng = make_flat(seed), np.random.default_rng(seed)
        for planner in filter(None, (planner_to(flat, item) for item in range(len(flat.items)))):
            for _ in range(15):
                pose = draw_pose(flat, rng)
                plan, field = planner.ask(pose)
                if field is not planner._field:
                    found += 1
                    place = pose.to_world(goal_on_floor(plan, {"level": CAMERA}))
                    assert planner._field.at(place) < planner._field.at((pose.x, pose.y))
    assert found > 5


def test_whoever_follows_the_answers_to_an_object_in_view_comes_to_stop_before_it():
    """With the map, as the answers are made; turned to where the goal is whenever it has left the image."""
    arrived = lost = 0
    for seed in range(6):
        flat, rng = make_flat(seed), np.random.default_rng(seed)
        for item in range(len(flat.items)):
            planner, pose = planner_to(flat, item), draw_pose(flat, rng)
            in_sight = is_in_sight(flat, item, (pose.x, pose.y))
            for _ in range(40 if planner and in_sight else 0):
                middle = pose.to_local((flat.items[item].x / 100, flat.items[item].y / 100))
                if abs(math.atan2(middle[1], middle[0])) > CAMERA.hfov / 2:
                    pose = Pose(pose.x, pose.y, pose.yaw + math.atan2(middle[1], middle[0]))
                plan, _ = planner.answer(pose)
                pose = after(flat, pose, plan, {"level": CAMERA, "look_down": CAMERA}, 2.0)
                if STOP in plan.actions:
                    break
            else:
                lost += planner is not None and in_sight
                continue
            arrived += footprint_distance(flat.items[item], (pose.x, pose.y)) < SUCCESS_RADIUS
    assert arrived > 25
    assert lost < 0.05 * arrived


def test_the_answers_lead_to_objects_in_the_closed_loop(rendering, tmp_path):
    settings = Settings(families=("object",), episodes=8, simulator=Config(look="plain"))
    done = evaluate(settings, Output(tmp_path, pictures=False), InProcess(teacher.parts_of(settings)), processes=1)
    assert done["all"]["success"]["value"] >= 0.8
    assert done["all"]["episodes_with_collision"]["value"] == 0.0


@pytest.mark.parametrize("name", ["s1", "s2"])
def test_the_teacher_drives_with_no_other_planner_or_controller(name):
    with pytest.raises(ValueError, match=f"--{name}: .* not with 'models/small'"):
        teacher.parts_of(SimpleNamespace(**({"s1": "oracle", "s2": "oracle"} | {name: "models/small"})))


def test_a_process_that_is_killed_while_it_renders_ends_the_command_with_how_to_go_on(tmp_path, capfd):
    (tmp_path / "1.npz").touch()  # is there already
    assert write_flats(tmp_path, [1], 1, signal.raise_signal) == 0
    assert write_flats(tmp_path, [1, int(signal.SIGKILL)], 1, signal.raise_signal) == 1
    assert "a process was killed" in capfd.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(tmp_path, capfd):
    (tmp_path / "views").touch()
    assert write_flats(tmp_path / "views", [1], 1, signal.raise_signal) == 1
    assert str(tmp_path / "views") in capfd.readouterr().err


def test_views_are_the_same_every_time_and_name_what_can_be_seen(views, flat):
    again = views_of(SEED, 2)
    for name, array in again.items():
        np.testing.assert_array_equal(array, views[name][:2], err_msg=name)
    assert views["image"].shape[1:3] == (SIDE * CELL, SIDE * CELL)
    assert (views["answers"][:, len(flat.items) :] == -1).all()
    for number in range(len(views["poses"])):
        shown = set(np.flatnonzero(views["cover"][number].max(1)).tolist())
        assert shown <= set(np.flatnonzero(views["shares"][number]).tolist())
    floor = views["floor"].reshape(-1, SIDE, SIDE).mean((0, 2))
    assert (floor[: SIDE // 2] == 0).all()  # above the horizon
    assert floor[-1] > 25


def test_pixel_goals_lie_on_the_way(views):
    found = 0
    for number, item in np.argwhere(views["answers"][:, :, 0] == PIXEL_GOAL):
        column, row = views["answers"][number, item, 2:].tolist()
        pixel = (column * CAMERA.width / IMAGE_SIDE, row * CAMERA.height_px / IMAGE_SIDE)
        goal = np.asarray(CAMERA.floor_point(*pixel))
        way = np.concatenate([[[0.0, 0.0]], views["waypoints"][number, item]])
        if np.linalg.norm(goal) < 0.25 * WAYPOINTS - 0.3:
            found += 1
            assert np.linalg.norm(way - goal, axis=1).min() < 0.3
    assert found


def test_a_mirrored_view_is_one_from_a_mirrored_flat(views):
    original = view(views, int(np.argmax((views["answers"][:, :, 0] >= 0).sum(1))))
    turned = mirrored(original)
    np.testing.assert_array_equal(turned["image"][:, 0], original["image"][:, -1])
    cells = [one["floor"].reshape(SIDE, SIDE) for one in (original, turned)]
    np.testing.assert_array_equal(cells[0][:, 0], cells[1][:, -1])
    assert (turned["waypoints"][..., 1] == -original["waypoints"][..., 1]).all()
    swap = {TURN_LEFT: TURN_RIGHT, TURN_RIGHT: TURN_LEFT}
    kinds = original["answers"][:, 0].tolist()
    assert turned["answers"][:, 0].tolist() == [swap.get(kind, kind) for kind in kinds]
    for name, array in mirrored(turned).items():
        np.testing.assert_array_equal(array, original[name], err_msg=name)


# ------------------------------------------------------------------------------------------------------ questions


@pytest.mark.parametrize(
    ("instruction", "right"),
    [
        ("Take the door on your right. Stop at the lamp.", True),
        ("Go through the door on your left, then through the door on your right, and walk to the lamp.", False),
        ("Go through the door straight ahead, then through the door on your right, and walk to the lamp.", True),
        ("Take the door behind you. Stop at the lamp.", False),
        ("Take the upright door. Stop at the lamp.", False),
    ],
)
def test_the_side_that_an_instruction_names_first_is_known(instruction, right):
    assert right_first(instruction) == right


BESIDE_WORDS = ("beside", "by the", "close to")  # of the test wordings
RELATION_WORDS = (*BESIDE_WORDS, "stands in the", "Inside the")


def test_questions_name_what_is_in_view_or_something_that_is_not(views, things):
    rng = np.random.default_rng(1)
    seen = unseen = landmarks = 0
    for number in range(len(views["poses"])):
        one = view(views, number)
        in_view = [things.names[i] for i in np.flatnonzero(one["shares"][: len(things.names)] > 1e-3)]
        for question in questions(one, things, 24, rng, "test"):
            kind, colour = question.named
            assert f"{colour} {kind}".strip() in question.instruction
            if question.goal < 0:
                unseen += 1
                door = tuple(one["door"].tolist())
                straight = door[0] == FORWARD or abs(door[2] - IMAGE_SIDE / 2) <= 40
                through = door[0] >= 0 and ("door" in question.instruction or straight)
                on_route = "door" in question.instruction
                around = LOOK_AROUND_RIGHT if on_route and right_first(question.instruction) else LOOK_AROUND
                assert question.answer == (door if through else encoded(around))
                # Of a relation it may be that one is in view that is called so, but it is not the one that is meant.
                relation = any(word in question.instruction for word in RELATION_WORDS)
                assert relation or colour or kind not in {other for other, _ in in_view}
                assert relation or question.named not in in_view
            elif things.names[question.goal][0] != kind:
                landmarks += 1
                assert any(word in question.instruction for word in BESIDE_WORDS)
                assert things.names[question.goal][0] in question.instruction
                assert question.answer == tuple(one["answers"][question.goal].tolist())
                assert question.answer[0] == PIXEL_GOAL
            else:
                seen += 1
                assert things.names[question.goal] in ((kind, colour), (kind, things.names[question.goal][1]))
                assert question.answer == tuple(one["answers"][question.goal].tolist())
                assert question.goal in question.goals
    assert seen > 5
    assert unseen > 5
    assert landmarks > 5


def test_of_several_the_one_ahead_is_gone_to_and_else_the_one_that_shows_most():
    answers = np.asarray(
        [(TURN_LEFT, 3, -1, -1), (PIXEL_GOAL, 1, 190, 200), (TURN_RIGHT, 1, -1, -1), (STOP, 2, -1, -1)]
    )
    seen = {"answers": answers, "shares": np.asarray([0.5, 0.1, 0.4, 0.2])}
    assert best(seen, [0, 1, 2]) == 1
    assert best(seen, [0, 2]) == 2
    assert best(seen, [0, 1, 2, 3]) == 3


def test_a_thing_in_another_room_is_not_the_one_that_is_meant(views, things):
    rng = np.random.default_rng(2)
    meant = others = 0
    for number in range(len(views["poses"])):
        one = view(views, number)
        in_view = np.flatnonzero(one["shares"][: len(things.names)] > 1e-3).tolist()
        for question in questions(one, things, 30, rng, "test"):
            room = next((room for room in ROOMS if f"the {room}" in question.instruction), None)
            alike = [i for i in in_view if things.names[i][0] == question.named[0]]
            alike = [i for i in alike if question.named[1] in ("", things.names[i][1])]
            if room is None or not alike:
                continue
            here = any(things.rooms[i] == room for i in alike)
            assert (question.goal >= 0) == here, question
            meant, others = meant + here, others + (not here)
    assert meant > 5
    assert others > 5


def test_cells_know_the_landmarks_beside_what_they_show_and_its_room(made, views, things, flat):
    _, collate, _ = made
    beside, elsewhere = 0, 0
    for number in range(len(views["poses"])):
        one = view(views, number)
        (told,) = collate([Item(View(one, things), ())])["beside"].numpy()
        shown = np.where(one["cover"].max(0) >= 31, one["cover"].argmax(0), -1)
        for cell, item in enumerate(shown.tolist()):
            if item < 0:
                assert (told[cell] == -1).all()
                continue
            rooms = told[cell, len(KINDS) :]
            assert [ROOMS[n] for n in np.flatnonzero(rooms == 1)] == [things.rooms[item]]
            assert (np.delete(rooms, ROOMS.index(things.rooms[item])) == 0).all()
            for kind in np.flatnonzero(told[cell, : len(KINDS)] == 1).tolist():
                marks = [i for i, (name, _) in enumerate(things.names) if name == KINDS[kind] and i != item]
                assert min(gap_squared(flat.items[item], flat.items[mark]) for mark in marks) <= NEXT_TO_CM**2
                assert any(one["shares"][mark] > 0 for mark in marks)
                beside += 1
            elsewhere += (told[cell, : len(KINDS)] == 0).any()
    assert beside
    assert elsewhere


def test_a_landmark_is_mostly_asked_for_where_what_is_in_view_stands_beside_another_one(views, things):
    rng, meant, others = np.random.default_rng(4), 0, 0
    for number in range(len(views["poses"])):
        one = view(views, number)
        kinds = {things.names[i][0] for i in np.flatnonzero(one["shares"][: len(things.names)] > 1e-3)}
        for question in questions(one, things, 30, rng, "test"):
            if question.named[0] in kinds and re.search("close to|standing by|right beside", question.instruction):
                found = question.goal >= 0 and things.names[question.goal][0] == question.named[0]
                meant, others = meant + found, others + (not found)
    assert meant > 5
    assert others > meant / 2


def test_landmarks_tell_an_item_from_others_of_its_kind():
    found = 0
    for seed in range(40):
        flat = make_flat(seed)
        things = Things.of(flat)
        for index, marks in enumerate(things.landmarks):
            for mark in marks:
                found += 1
                assert gap_squared(flat.items[index], flat.items[mark]) <= NEXT_TO_CM**2
                assert things.rooms[index] == things.rooms[mark]
                for other, item in enumerate(flat.items):
                    if other != index and item.kind == flat.items[index].kind:
                        assert gap_squared(item, flat.items[mark]) >= NOT_NEXT_TO_CM**2
    assert found


def test_every_family_is_worded_by_the_simulators_grammar():
    rng = np.random.default_rng(0)
    beside = {relation_instruction(rng, "lamp", "blue sofa", "", "test") for _ in range(60)}
    assert len(beside) == len(grammar("test")["next_to"])
    assert "Walk to the lamp that is near the blue sofa." in {
        relation_instruction(rng, "lamp", "blue sofa", "", "train") for _ in range(60)
    }
    assert relation_instruction(rng, "lamp", None, "kitchen", "test") in (
        "Head for the lamp that stands in the kitchen.",
        "Inside the kitchen there is a lamp: halt there.",
    )
    ways = {route_instruction(rng, "lamp") for _ in range(200)}
    assert "Take the door behind you. Stop at the lamp." in ways
    assert any("straight ahead" in way for way in ways)


# -------------------------------------------------------------------------------------------------------- network


@pytest.fixture(scope="module")
def made():
    return build(small_config(**TINY), seed=3)


def batch_of(made, views, things, count=4):
    _task, collate, _ = made
    ask = Ask(4)
    return collate([ask(View(view(views, n), things), np.random.default_rng(n), False) for n in range(count)])


def test_training_computes_what_the_node_computes(made, views, things, tmp_path):
    """Questions packed behind one image are as good as alone."""
    task, _, tokenizer = made
    config = dual_config(task.planner.config, "nextdit_async")
    folder = write_small_checkpoint(tmp_path / "model", config, planner_tensors(task.planner), tokenizer)
    planner = load_planner(folder, PlannerConfig(reuse_cache=False))
    batch = batch_of(made, views, things)
    number = int(torch.argmax((batch["query"] >= 0).sum(1)))
    with torch.no_grad():
        features = task.planner.encode(batch["image"])
        decoded = task.decoded(features, batch)
    model, processor = planner._model, planner._processor
    patches, grids = processor([views["image"][number]])
    node_features = model.encode_images(patches, grids)
    torch.testing.assert_close(node_features[0], features[number], atol=1e-4, rtol=1e-4)
    drives = 0
    for part in range(1, int(batch["part"][number].max()) + 1):
        own = (batch["part"][number] == 0) | (batch["part"][number] == part)
        said = own & (batch["query"][number] < 0)
        ids = batch["ids"][number][said].numpy()
        sequence = token_sequence(ids, [ImageRef(0, grids[0])], model.image_token_id, 2)
        np.testing.assert_array_equal(sequence.positions, batch["positions"][number][:, said].numpy())
        hidden = model.hidden_states(sequence, {0: node_features[0]})
        torch.testing.assert_close(hidden[0], decoded.hidden[number, said], atol=1e-3, rtol=1e-3)
        queries = own & (batch["query"][number] >= 0)
        if queries.any():
            drives += 1
            latents = model.traj_latents(sequence, {0: node_features[0]})
            torch.testing.assert_close(latents[0], decoded.hidden[number, queries], atol=1e-3, rtol=1e-3)
    assert drives


def test_the_prompt_in_training_is_the_nodes(made, views, things, tmp_path):
    task, _, tokenizer = made
    config = dual_config(task.planner.config, "nextdit_async")
    folder = write_small_checkpoint(tmp_path / "model", config, planner_tensors(task.planner), tokenizer)
    planner = load_planner(folder, PlannerConfig())
    item = Ask(1)(View(view(views, 0), things), np.random.default_rng(0), False)
    batch = made[1]([item])
    asked = []
    generate = planner._model.generate
    planner._model.generate = lambda sequence, *rest: asked.append(sequence) or generate(sequence, *rest)
    planner.start_episode(item.questions[0].instruction)
    for _ in range(2):  # a frame before changes nothing
        with contextlib.suppress(AnswerError):
            planner.step(np.zeros((480, 640, 3), np.uint8))
        prompt = batch["ids"][0, : int(batch["asked"][0, 0]) + 1]
        np.testing.assert_array_equal(asked[-1].ids, prompt.numpy())


def test_labels_are_the_answers_and_coordinates_are_asked_for_where_they_are_said(made, views, things):
    _, _collate, tokenizer = made
    batch = batch_of(made, views, things)
    kinds = set()
    for number, row in enumerate(batch["row"].tolist()):
        ids, labels = batch["ids"][row], batch["labels"][row]
        asked, pixel = batch["asked"][number], batch["pixel"][number]
        said = labels[asked[0] + 1]
        assert said == ids[asked[0] + 1]
        kinds.add(tokenizer.id_to_token(int(said)))
        if batch["drives"][number]:
            told = [tokenizer.id_to_token(int(ids[place + 1])) for place in asked]
            assert told == [DRIVE, *(NUMBERS[step] for step in pixel)]
            assert (labels[asked[1:] + 1] == NO_LABEL).all()
    assert kinds <= {*TEMPLATE.actions, DRIVE}
    assert len(kinds) > 1


def test_what_only_training_has_does_not_depend_on_the_scale_of_states(made, views, things):
    task, batch = made[0], batch_of(made, views, things)
    with torch.no_grad():
        decoded = task.decoded(task.planner.encode(batch["image"]), batch)
        larger = replace(decoded, early=30 * decoded.early, late=30 * decoded.late)
        losses, others = (task._question_losses(one, batch) for one in (decoded, larger))
    for name in ("place", "advice", "beside"):
        torch.testing.assert_close(losses[name], others[name], atol=1e-3, rtol=1e-3)


def test_batches_have_few_lengths(made, views, things):
    for count in (1, 3, 4):
        assert batch_of(made, views, things, count)["ids"].shape[1] % 32 == 0


def test_attention_is_led_to_the_cells_that_show_the_goal(made, views, things):
    items = [
        Ask(6)(View(view(views, n), things), np.random.default_rng(n), False) for n in range(len(views["poses"]))
    ]
    asked, batch = [question for item in items for question in item.questions], made[1](items)
    cells = (batch["ids"][0] == made[0].planner.config["image_token_id"]).nonzero()[:, 0]
    assert len(cells) == CELLS
    torch.testing.assert_close(batch["look_at"].sum(1), torch.ones(len(asked)))
    on_cells = batch["look_at"][:, cells[0] : cells[-1] + 1]
    # To the goal, or to the floor behind a door that leads on.
    assert (on_cells.sum(1) > 0).tolist() == (batch["found"] | batch["drives"]).tolist()
    doors = 0
    for number, question in enumerate(asked):
        best = int(on_cells[number].argmax())
        if question.goal >= 0:
            shown = int(batch["kind"][batch["row"][number], best])
            goal = KINDS.index(things.names[question.goal][0])
            assert shown == goal or views["cover"][batch["row"][number], question.goal, best] < 128
        elif question.answer[0] == PIXEL_GOAL:
            doors += 1
            for pixel, place in zip(question.answer[:1:-1], divmod(best, SIDE), strict=True):
                assert place * IMAGE_SIDE / SIDE - 1 <= pixel <= (place + 1) * IMAGE_SIDE / SIDE
    assert doors > 3


@pytest.mark.parametrize("stage", STAGES)
def test_the_loss_falls_on_a_few_views(made, views, things, stage):
    task = build(small_config(**TINY), seed=4)[0]
    task.stage = stage
    batch = batch_of(made, views, things)
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = task(**{name: value for name, value in batch.items() if name != "weights"})["losses"].sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    unused = {name for name, parameter in task.named_parameters() if parameter.grad is None}
    assert any(".layers." in name for name in unused) == (stage == SEE)
    assert stage != GROUND or not unused


def test_the_checkpoint_drives_both_nodes(made, tmp_path):
    task, _, tokenizer = made
    image = np.zeros((480, 640, 3), np.uint8)
    for system1 in ("nextdit_async", "navdp_async"):
        config = dual_config(task.planner.config, system1)
        folder = write_small_checkpoint(
            tmp_path / system1, config, planner_tensors(task.planner), tokenizer, precision="float16"
        )
        planner = load_planner(folder, PlannerConfig(max_new_tokens=4))
        planner.start_episode("Go to the blue chair.")
        for _ in range(3):
            with contextlib.suppress(AnswerError):  # it has learned nothing
                planner.step(image, lambda: image)
        assert planner.frames_in_episode == 3
        assert planner._processor.grid(IMAGE_SIDE, IMAGE_SIDE) == (1, 2 * SIDE, 2 * SIDE)
        load_policy(folder, PolicyConfig(num_samples=2))


STEPS = {SEE: 3, train_s2.READ: 2, GROUND: 2, train_s2.AGAIN: 1}


def test_training_goes_on_from_where_it_was(views, tmp_path, monkeypatch):
    (tmp_path / "views").mkdir()
    np.savez(tmp_path / "views" / f"{SEED}.npz", **views)
    monkeypatch.setattr(train_s2, "small_config", lambda: small_config(**TINY))

    def run(output, steps):
        stages = [
            train_s2.Stage(
                name,
                SEE if name == SEE else GROUND,
                count,
                2,
                2 * (name != SEE),
                vision=0.0 if name == train_s2.READ else 1.0,
            )
            for name, count in steps.items()
        ]
        folder = tmp_path / "views"
        return train_s2.train(
            folder, tmp_path / output, stages, system1="nextdit_async", seed=1, visited=folder, eval_views=folder
        )

    whole = CheckpointFolder(run("whole", STEPS))
    with pytest.raises(RunError, match="steps was 3, is 4"):
        run("whole", {SEE: 4})
    monkeypatch.setattr(train_s2.MuonTrainer, "training_step", None)  # nothing is left to train
    again = CheckpointFolder(run("whole", STEPS))
    tensors = whole.load(whole.keys())
    assert "model.latent_queries" in tensors
    record = json.loads((tmp_path / "whole" / train_s2.AGAIN / "run.json").read_text())
    assert record["samples"] == 2 * len(views["image"])
    for key, tensor in tensors.items():
        torch.testing.assert_close(again.load([key])[key], tensor, rtol=0, atol=0)


def test_a_stage_that_was_interrupted_ends_with_the_weights_of_one_that_was_not(views, tmp_path, monkeypatch):
    (tmp_path / "views").mkdir()
    np.savez(tmp_path / "views" / f"{SEED}.npz", **views)
    monkeypatch.setattr(train_s2, "small_config", lambda: small_config(**TINY))
    arguments = train_s2._arguments

    def saving_every_second_step(*args, **kwargs):
        made = arguments(*args, **kwargs)
        made.save_steps = 2
        return made

    def run(output):
        stages = [train_s2.Stage(GROUND, GROUND, 5, 2, 2)]
        folder = CheckpointFolder(
            train_s2.train(tmp_path / "views", tmp_path / output, stages, system1="nextdit_async", seed=1)
        )
        return folder.load(folder.keys())

    monkeypatch.setattr(train_s2, "_arguments", saving_every_second_step)
    whole = run("whole")
    step, seen = train_s2.MuonTrainer.training_step, []

    def interrupted(trainer, *args, **kwargs):
        seen.append(trainer.state.global_step)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return step(trainer, *args, **kwargs)

    monkeypatch.setattr(train_s2.MuonTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("again")
    again = run("again")
    assert seen == [0, 1, 2, 3, 2, 3, 4]
    for key, tensor in whole.items():
        torch.testing.assert_close(again[key], tensor, rtol=0, atol=0, msg=key)


@pytest.mark.parametrize("planner", [True, False])
def test_muon_has_the_matrices_of_the_layers_and_adamw_everything_else(made, tmp_path, planner):
    task = made[0]
    task.planner.requires_grad_(planner)
    arguments = TrainingArguments(output_dir=str(tmp_path), learning_rate=4e-4, weight_decay=0.02, use_cpu=True)
    try:
        trainer = MuonTrainer(task, arguments, None, None, None, vision_learning_rate=2e-4, matrices_rate=4.0)
        optimizer = trainer.create_optimizer()
    finally:
        task.planner.requires_grad_(True)
    kinds = {type(part).__name__: part for part in optimizer.parts}
    assert set(kinds) == ({"Muon", "AdamW"} if planner else {"AdamW"})
    names = {id(parameter): name for name, parameter in task.named_parameters()}
    owner, rates, decays = {}, {}, {}
    for kind, part in kinds.items():
        for group in part.param_groups:
            for parameter in group["params"]:
                name = names[id(parameter)]
                assert name not in owner
                owner[name], rates[name], decays[name] = kind, group["lr"], group["weight_decay"]
    assert len(optimizer.param_groups) == sum(len(part.param_groups) for part in kinds.values())
    if not planner:
        assert owner.keys() == {name for name in names.values() if not name.startswith("planner.")}
        return
    assert owner.keys() == set(names.values())
    layer = "planner.network.model.language_model.layers.0."
    assert owner[layer + "mlp.down_proj.weight"] == owner[layer + "self_attn.q_proj.weight"] == "Muon"
    assert owner["planner.network.model.visual.blocks.0.attn.qkv.weight"] == "Muon"
    for name in ("planner.network.lm_head.weight", "planner.latent_queries", layer + "input_layernorm.weight"):
        assert owner[name] == "AdamW"
    assert owner["planner.network.model.visual.patch_embed.proj.weight"] == "AdamW"
    for kind, share in (("Muon", 4), ("AdamW", 1)):
        of_kind = {(".visual." in name, rates[name]) for name in rates if owner[name] == kind}
        assert of_kind == {(True, share * 2e-4), (False, share * 4e-4)}
    assert decays[layer + "self_attn.q_proj.bias"] == 0
    assert decays[layer + "self_attn.q_proj.weight"] == 0.02


def test_several_optimisers_as_one_follow_one_schedule_and_go_on_from_what_they_saved():
    def begin():
        torch.manual_seed(0)
        net = torch.nn.Linear(3, 4)
        parts = [torch.optim.Muon([net.weight], lr=0.1), torch.optim.AdamW([net.bias], lr=0.2)]
        together = Together(parts)
        return net, together, torch.optim.lr_scheduler.LambdaLR(together, lambda step: 1 / (1 + step))

    def steps(net, together, schedule, count):
        for _ in range(count):
            together.zero_grad()
            net(torch.ones(2, 3)).square().sum().backward()
            together.step()
            schedule.step()

    whole = begin()
    steps(*whole, 4)
    assert [group["lr"] for part in whole[1].parts for group in part.param_groups] == pytest.approx([0.02, 0.04])
    first, second = begin(), begin()
    steps(*first, 2)
    second[0].load_state_dict(first[0].state_dict())
    second[1].load_state_dict(copy.deepcopy(first[1].state_dict()))
    second[2].load_state_dict(first[2].state_dict())
    steps(*second, 2)
    for got, expected in zip(second[0].parameters(), whole[0].parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match="at least one"):
        Together([])
    with pytest.raises(ValueError, match="no closure"):
        second[1].step(lambda: 0.0)


def test_the_vision_tower_stays_as_it_is_while_the_planner_learns_to_read(views, tmp_path, monkeypatch):
    (tmp_path / "views").mkdir()
    np.savez(tmp_path / "views" / f"{SEED}.npz", **views)
    monkeypatch.setattr(train_s2, "small_config", lambda: small_config(**TINY))
    see = train_s2.Stage(SEE, SEE, 2, 2, 0)
    read = train_s2.Stage(train_s2.READ, GROUND, 2, 2, 2, vision=0.0)
    trained = []
    for number, stages in enumerate(([see], [see, read])):
        output = tmp_path / str(number)
        trained.append(
            CheckpointFolder(train_s2.train(tmp_path / "views", output, stages, system1="nextdit_async", seed=1))
        )
    before, after_reading = (folder.load(folder.keys()) for folder in trained)
    same = {key: torch.equal(tensor, after_reading[key]) for key, tensor in before.items()}
    assert all(same[key] for key in same if ".visual." in key)
    assert not any(same[key] for key in same if "q_proj.weight" in key)


def test_a_dictated_answer_has_the_latents_of_one_that_the_planner_gives(made, views, tmp_path):
    task, _, tokenizer = made
    config = dual_config(task.planner.config, "nextdit_async")
    folder = write_small_checkpoint(tmp_path / "model", config, planner_tensors(task.planner), tokenizer)
    planner = load_planner(folder, PlannerConfig())
    answer = planner.pixel_answer((400, 300), (640, 480))
    assert answer == f"{DRIVE}240 240"
    model, tokens = planner._model, planner._protocol.encode_answer(answer)
    generate = model.generate

    def says_it(sequence, features, count):
        generate(sequence, features, count)  # leaves something in the cache
        return [*tokens, *model.end_token_ids]

    plans = []
    for asked in (False, True):
        planner.start_episode("Go to the blue chair.")
        monkey = pytest.MonkeyPatch()
        monkey.setattr(model, "generate", says_it)
        with monkey.context():
            plans.append(planner.step(views["image"][0], answer=None if asked else answer))
        monkey.undo()
    assert plans[0].pixel_goal == plans[1].pixel_goal == (240, 240)
    assert plans[0].answer == plans[1].answer == answer
    np.testing.assert_allclose(plans[0].traj_latents, plans[1].traj_latents, atol=1e-5)


# ----------------------------------------------------------------------------------------------------------- ways


@pytest.fixture(scope="module")
def ways(rendering, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ways")
    np.savez(folder / f"{SEED}.npz", **ways_of(SEED, 6, 112))
    return folder


def test_ways_lead_to_the_pixel_goal_from_wherever_the_robot_is(ways):
    samples = Ways(ways, depth=True)
    assert len(samples) == 12
    camera = {"level": CAMERA}
    for index in range(0, len(samples), 2):
        sample = samples[index]
        assert sample.images.shape == (FRAMES, 112, 112, 3)
        assert sample.depths.shape == (FRAMES, 112, 112)
        assert 0 < sample.depths.max() <= 5.0
        plan = PlanMade(KIND_PIXEL_GOAL, (), sample.prompt.pixel_goal, (IMAGE_SIDE, IMAGE_SIDE))
        goal = np.asarray(goal_on_floor(plan, camera))
        ends = path_from_increments(sample.trajectories)[:, -1, :2]
        if np.linalg.norm(goal) < 2.5:
            assert np.linalg.norm(ends[0] - goal) < 0.35
        lengths = np.linalg.norm(sample.trajectories[..., :2], axis=2).sum(1)
        assert lengths[0] >= lengths[-1] - 0.5  # the way gets shorter


def test_some_frames_show_where_one_stands_that_went_straight_on(rendering, monkeypatch):
    """On the line from the planner's place to its goal, however the way leads around; and never in something."""
    flat, aside = make_flat(SEED), {}
    for share in (0.0, 1.0):
        monkeypatch.setattr(ways_module, "_STRAIGHT_ON", share)
        made = ways_of(SEED, 12, 28)
        aside[share] = []
        for goal, (start, *driven) in zip(made["goal"], made["poses"], strict=True):
            plan = PlanMade(KIND_PIXEL_GOAL, (), tuple(goal), (IMAGE_SIDE, IMAGE_SIDE))
            x, y = goal_on_floor(plan, {"level": CAMERA})
            for pose in driven:
                local = Pose(*map(float, start)).to_local((float(pose[0]), float(pose[1])))
                aside[share].append(abs(local[0] * y - local[1] * x) / math.hypot(x, y))
                assert flat.passable[grid_of(flat).cell((float(pose[0]), float(pose[1])))]
    assert max(aside[1.0]) < 0.2 < max(aside[0.0])  # metres; 0.05 of standard deviation


def test_every_way_has_a_mirror_image(ways):
    samples = Ways(ways, depth=False)
    there, mirrored_one = samples[0], samples[1]
    assert there.depths is None
    np.testing.assert_array_equal(there.images[:, :, ::-1], mirrored_one.images)
    np.testing.assert_allclose(there.trajectories * (1, -1, -1), mirrored_one.trajectories)
    columns = there.prompt.pixel_goal[0] + mirrored_one.prompt.pixel_goal[0]
    assert columns == IMAGE_SIDE - 1


def test_without_ways_training_says_how_to_make_some(tmp_path):
    with pytest.raises(RunError, match=r"small\.ways"):
        Ways(tmp_path, depth=False)


@pytest.mark.parametrize("system1", ["nextdit_async", "navdp_async"])
def test_s1_is_trained_behind_the_planner_which_stays_as_it_is(made, ways, tmp_path, system1):
    task, _, tokenizer = made
    config = dual_config(task.planner.config, "nextdit_async")
    folder = write_small_checkpoint(tmp_path / "model", config, planner_tensors(task.planner), tokenizer)
    options = ["--model", str(folder), "--ways", str(ways), "--system1", system1, "--steps", "2", "--plans", "2"]
    assert train_s1.main([*options, "--output", str(tmp_path / "s1")]) == 0
    result = tmp_path / "s1" / system1 / "model"
    before, after_training = CheckpointFolder(folder), CheckpointFolder(result)
    for key in before.select(("model.layers.", "model.visual.", "visual.", "lm_head.")):
        assert torch.equal(after_training.load([key])[key], before.load([key])[key].half())
    queries = "model.latent_queries"
    assert (after_training.load([queries])[queries] != before.load([queries])[queries]).any()
    load_policy(result, PolicyConfig(num_samples=2))
    assert train_s1.main([*options, "--output", str(tmp_path / "s1")]) == 0  # finished


def test_the_s1_a_checkpoint_has_can_be_trained_further(made, ways, tmp_path, capsys):
    task, _, tokenizer = made
    config = dual_config(task.planner.config, "nextdit_async")
    folder = write_small_checkpoint(tmp_path / "model", config, planner_tensors(task.planner), tokenizer, seed=5)
    options = ["--model", str(folder), "--ways", str(ways), "--steps", "1", "--plans", "2", "--learning-rate", "1e-6"]
    before = CheckpointFolder(folder)
    key = "model.action_decoder.weight"
    for more, near in (["--go-on"], True), ([], False):
        output = tmp_path / "".join(["s1", *more])
        assert train_s1.main([*options, *more, "--output", str(output)]) == 0
        after_training = CheckpointFolder(output / "nextdit_async" / "model").load([key])[key].float()
        assert torch.allclose(after_training, before.load([key])[key], atol=1e-3) == near
    wrong = [*options, "--go-on", "--system1", "navdp_async", "--output", str(tmp_path / "other")]
    assert train_s1.main(wrong) == 1
    assert "is no navdp_async" in capsys.readouterr().err


def test_the_planner_a_checkpoint_has_can_be_trained_further_and_its_s1_stays(views, tmp_path, monkeypatch, capsys):
    (tmp_path / "views").mkdir()
    np.savez(tmp_path / "views" / f"{SEED}.npz", **views)
    monkeypatch.setattr(train_s2, "small_config", lambda: small_config(**TINY))
    monkeypatch.setattr(train_s2, "_HEADS_STEPS", 2)
    task, _, tokenizer = build(small_config(**TINY), seed=3)
    config = dual_config(task.planner.config, "navdp_async")
    folder = write_small_checkpoint(tmp_path / "model", config, planner_tensors(task.planner), tokenizer, seed=5)
    options = ["--views", str(tmp_path / "views"), "--images", "2", "--questions", "2", "--go-on", str(folder)]
    options += ["--output", str(tmp_path / "s2"), "--again-steps", "1"]
    assert train_s2.main(options) == 0
    before, after_training = CheckpointFolder(folder), CheckpointFolder(tmp_path / "s2" / "model")
    assert after_training.config["system1"] == "navdp_async"
    moved = [
        (after_training.load([key])[key] - tensor.float()).abs().max().item()
        for key, tensor in before.load(before.keys()).items()
        if key in planner_tensors(task.planner)
    ]
    assert 0 < max(moved) < 5e-3  # a step of the optimiser
    of_s1 = set(before.keys()) - set(planner_tensors(task.planner))
    assert of_s1
    for key in of_s1:
        assert torch.equal(after_training.load([key])[key], before.load([key])[key]), key
    heads = CheckpointFolder(tmp_path / "s2" / train_s2.HEADS / "checkpoint-2").keys()
    assert "way.weight" in heads
    assert not any(key.startswith("planner.") for key in heads)
    wrong = [*options[:-4], "--output", str(tmp_path / "other"), "--go-on", str(tmp_path / "views")]
    assert train_s2.main(wrong) == 1
    assert str(tmp_path / "views") in capsys.readouterr().err


def test_a_planner_is_followed_to_where_it_leads():
    flat, cameras = make_flat(SEED), {"level": Camera(), "look_down": Camera().tilted()}
    start = Grid.centre(*np.argwhere(flat.drivable)[200])
    pose = Pose(*start, 0.0)

    def plan(actions=(), pixel=None):
        return Plan("pixel_goal" if pixel else "actions", actions, pixel, (384, 384), False, None, "")

    turned = after(flat, pose, plan((TURN_LEFT,) * 3), cameras)
    assert (turned.x, turned.y, turned.yaw) == pytest.approx((*start, np.pi / 4))
    ahead = after(flat, pose, plan(pixel=(192, 300)), cameras)
    assert 0.0 < np.hypot(ahead.x - pose.x, ahead.y - pose.y) <= 0.51
    assert grid_of(flat).is_drivable((ahead.x, ahead.y))
    assert after(flat, pose, plan(pixel=(192, 0)), cameras).yaw != pose.yaw  # above the horizon


def test_views_from_where_a_planner_goes(made, tmp_path, rendering):
    task, _, tokenizer = made
    config = dual_config(task.planner.config, "nextdit_async")
    folder = write_small_checkpoint(tmp_path / "model", config, planner_tensors(task.planner), tokenizer)
    planner = load_planner(folder, PlannerConfig(max_new_tokens=4))
    views = views_of(SEED, 3, planner)
    assert len(views["image"]) == len(np.unique(views["poses"], axis=0)) == 3


def test_scores_tell_reading_from_guessing(made, views, tmp_path):
    """Weights that always say ←: mostly right where no goal is in view, wrong for pixel goals, whatever is asked."""
    task, _, tokenizer = made
    (tmp_path / "views").mkdir()
    np.savez(tmp_path / "views" / f"{SEED}.npz", **views)
    tensors = planner_tensors(task.planner)
    tensors["lm_head.weight"] = torch.zeros_like(tensors["lm_head.weight"])
    tensors["model.norm.weight"] = torch.zeros_like(tensors["model.norm.weight"])
    config = dual_config(task.planner.config, "nextdit_async")
    folder = write_small_checkpoint(tmp_path / "model", config, tensors, tokenizer)
    loaded, collate = load_task(folder)
    head = loaded.planner.network.lm_head
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
    with torch.no_grad():
        head.bias[tokenizer.token_to_id("←")] = 1.0
    stored = Views(tmp_path / "views")
    result = score(loaded, collate, stored, len(stored))
    items = [Ask(6)(stored[n], np.random.default_rng(n), False) for n in range(len(stored))]
    told = answers_to(loaded, collate, items)
    left = np.asarray(told.wanted) == TURN_LEFT  # the other way round on routes to the right, or through a door
    for found, name in ((True, "decision_in_view"), (False, "decision_not_in_view")):
        share = np.mean(left[np.asarray(told.found) == found])
        assert result[name] == result[f"shuffled_{name}"] == pytest.approx(share, abs=1e-4)
    assert result["decision_in_view"] < 0.5 < result["decision_not_in_view"]
    # Relations only: nobody else is sent to another one of what he sees.
    for question, alike in zip([q for item in items for q in item.questions], told.alike, strict=True):
        words = question.instruction.lower()
        named = sum(len(re.findall(rf"\b{word}\b", words)) for word in (*KINDS, *ROOMS))
        assert not alike or (question.goal < 0 and named >= 2), words
    assert any(told.alike)
    assert result["decision_another_in_view"] == pytest.approx(np.mean(left[told.alike]), abs=1e-4)
    assert result["decision"] == result["shuffled_decision"]


def test_the_recipe_ends_with_the_first_command_that_fails_and_trains_on_no_test_flat(tmp_path, monkeypatch):
    ran = []

    def run(command, check):
        ran.append(command[1:])
        return SimpleNamespace(returncode=3 if "--planner" in command else 0)

    monkeypatch.setattr(recipe.subprocess, "run", run)
    assert recipe.main([str(tmp_path), "--size", "cpu"]) == 3
    assert [command[1].rpartition(".")[2] for command in ran] == ["views", "views", "train_s2", "views"]
    first = {command[2]: int(command[command.index("--first") + 1]) for command in ran if "--first" in command}
    train = ran[2]
    assert first[train[train.index("--views") + 1]] < first[str(tmp_path / "visited")] < 10**9
    assert first[train[train.index("--eval-views") + 1]] >= 10**9


def test_the_recipe_trains_both_kinds_of_s1_on_training_flats_and_evaluates_them(tmp_path):
    for size in recipe.SIZES.values():
        made = list(recipe.commands(tmp_path, size, 2))
        modules = [command[1].rpartition(".")[2] for command in made]
        assert modules[-5:] == ["train_s1", "in_process", "train_s1", "in_process", "report"]
        trained = [command for command in made if command[1].endswith("train_s1")]
        assert {command[command.index("--system1") + 1] for command in trained} == set(SYSTEM1_SIZES)
        rendered = {
            command[2]: int(command[command.index("--first") + 1]) for command in made if "--first" in command
        }
        for command in trained:
            assert rendered[command[command.index("--ways") + 1]] < 10**9
            assert rendered[command[command.index("--eval-ways") + 1]] >= 10**9


# --------------------------------------------------------------------------------------------------------- report


def test_a_run_is_reported_in_figures_and_pictures(made, views, ways, tmp_path, capsys):
    task, _, tokenizer = made
    for place in ("s2", "s1/nextdit_async"):
        config = dual_config(task.planner.config, "nextdit_async")
        write_small_checkpoint(tmp_path / place / "model", config, planner_tensors(task.planner), tokenizer)
    (tmp_path / "held").mkdir()
    np.savez(tmp_path / "held" / f"{SEED}.npz", **views)
    shutil.copytree(ways, tmp_path / "held_ways")
    (tmp_path / "s2" / "see").mkdir()
    lines = [{"step": n, "loss": 1.0 / n, "features": 2.0 / n, "epoch": 1} for n in (1, 2)]
    lines.append({"step": 2, "eval_loss": 1.0})
    (tmp_path / "s2" / "see" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    part = {"episodes": 4, "success": {"value": 0.5, "ci95": [0.2, 0.8]}}
    summary = {"settings": {"families": ["object"]}, "object": part, "all": part}
    (tmp_path / "eval_x").mkdir()
    (tmp_path / "eval_x" / "summary.json").write_text(json.dumps(summary))
    assert report.main([str(tmp_path), "--count", "4"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told == json.loads((tmp_path / "report" / "report.json").read_text())
    assert sum(sum(row.values()) for row in told["planner"]["confusion"].values()) <= 24
    assert 0 <= told["planner"]["decision"] <= 1
    assert told["s1"]["nextdit_async"]["mean_error"] > 0
    assert told["closed_loop"]["eval_x"]["object"]["episodes"] == 4
    for name in ("losses", "decisions", "pixel_error", "attention", "s1", "success"):
        picture = cv2.imread(str(tmp_path / "report" / f"{name}.png"))
        assert picture.std() > 5, name


def test_a_folder_without_a_run_is_told(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 1
    assert "make train-small" in capsys.readouterr().err
