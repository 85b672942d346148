"""The robot: drives as told, stops when nobody tells it anything, sees what is there."""

import math

import numpy as np
import pytest

from nav_sim.draw import Draw
from nav_sim.episodes import draw_start
from nav_sim.scene import SceneError
from nav_sim.simulator import Config, OdometryNoise, Simulator, wrapped
from nav_sim.worlds import WALL, make_flat

FLAT = make_flat(1)  # a corridor along x from (0, 4.2) to (12.2, 5.9)
CORRIDOR = next(room for room in FLAT.rooms if room.kind == "corridor")
MIDDLE = (CORRIDOR.box.y0 + CORRIDOR.box.y1) / 200.0
PLAIN = Config(look="plain")


def drive(simulator, linear, angular, seconds):
    for _ in range(round(seconds / 0.05)):
        simulator.command(linear, angular)
        simulator.step(0.05)


@pytest.fixture
def simulator():
    with Simulator(FLAT, PLAIN) as made:
        made.reset(2.0, MIDDLE, 0.0)
        yield made


@pytest.mark.parametrize(("linear", "angular"), [(0.5, 0.0), (0.0, 0.8), (0.3, 0.4), (-0.2, 0.0), (0.2, -1.5)])
def test_the_velocity_is_what_was_commanded_within_a_percent(simulator, linear, angular):
    drive(simulator, linear, angular, 1.0)
    x, y, yaw = simulator.pose.x, simulator.pose.y, simulator.data.qpos[2]
    drive(simulator, linear, angular, 1.0)
    achieved = simulator.velocity
    assert achieved[0] == pytest.approx(linear, abs=max(0.002, 0.01 * abs(linear)))
    assert achieved[1] == pytest.approx(angular, abs=max(0.002, 0.01 * abs(angular)))
    assert simulator.data.qpos[2] - yaw == pytest.approx(angular, abs=max(0.002, 0.01 * abs(angular)))
    chord = abs(linear) if not angular else abs(2 * linear / angular * math.sin(angular / 2))
    assert math.dist((x, y), (simulator.pose.x, simulator.pose.y)) == pytest.approx(chord, abs=0.003)


def test_without_commands_the_robot_stands_after_the_timeout(simulator):
    drive(simulator, 0.5, 0.0, 1.0)
    simulator.step(0.45)
    assert simulator.velocity[0] == pytest.approx(0.5, abs=0.01)
    simulator.step(0.5)
    assert simulator.velocity == pytest.approx((0.0, 0.0), abs=1e-3)


def test_limits_hold(simulator):
    drive(simulator, 50.0, -50.0, 3.0)
    linear, angular = simulator.velocity
    assert linear <= PLAIN.max_linear * 1.01
    assert angular >= -PLAIN.max_angular * 1.01


@pytest.mark.parametrize("command", [(math.nan, 0.0), (0.0, math.inf)])
def test_a_command_that_is_no_number_is_refused(simulator, command):
    with pytest.raises(ValueError, match="command: expected finite numbers"):
        simulator.command(*command)


def test_a_wall_stops_the_robot_and_counts_once(simulator):
    simulator.reset(2.0, MIDDLE, math.pi)
    drive(simulator, 0.6, 0.0, 6.0)
    gap = simulator.pose.x - 0.20 - WALL / 200.0  # from the robot's edge to the wall's face
    assert -0.005 < gap < 0.01
    assert [collision.what for collision in simulator.collisions] == ["wall"]


def test_odometry_follows_the_truth_and_drifts_as_configured():
    noise = OdometryNoise(scale=0.02, yaw_scale=-0.05)
    with Simulator(FLAT, Config(look="plain", odometry=noise)) as simulator:
        simulator.reset(2.0, MIDDLE, 0.0)
        drive(simulator, 0.5, 0.0, 4.0)
        true, odometry = simulator.pose, simulator.odometry
        assert odometry.x - 2.0 == pytest.approx(1.02 * (true.x - 2.0), rel=1e-3)
        drive(simulator, 0.0, 0.0, 1.0)
        drive(simulator, 0.0, 0.5, 2.0)
        assert simulator.odometry.yaw == pytest.approx(0.95 * simulator.pose.yaw, rel=1e-2)
    with Simulator(FLAT, PLAIN) as simulator:
        simulator.reset(2.0, MIDDLE, 0.0)
        drive(simulator, 0.2, 0.6, 3.0)
        assert not simulator.collisions
        error = simulator.odometry.x - simulator.pose.x, simulator.odometry.y - simulator.pose.y
        assert math.hypot(*error) < 0.002


def test_the_same_seed_and_commands_give_the_same_poses_and_images(rendering):
    def run():
        noise = OdometryNoise(noise=0.02, yaw_noise=0.02)
        with Simulator(FLAT, Config(look="plain", people=1, boxes=1, odometry=noise), seed=4) as simulator:
            simulator.reset(2.0, MIDDLE, 0.3)
            seen = []
            for turn in (0.3, -0.8, 0.0):
                drive(simulator, 0.4, turn, 0.7)
                seen.append((simulator.pose, simulator.odometry, simulator.movers, *simulator.render("level")))
            return seen

    for first, second in zip(run(), run(), strict=True):
        assert first[:3] == second[:3]
        assert (first[3] == second[3]).all()
        assert (first[4] == second[4]).all()


def test_depth_is_the_distance_to_the_wall_along_the_optical_axis(simulator, rendering):
    simulator.reset(2.0, MIDDLE, math.pi)
    _, depth = simulator.render("level")
    distance = 2.0 - WALL / 200.0 - PLAIN.camera.forward
    # Along the axis all of a wall that is met squarely has the same depth.
    assert depth[240, 200:440] == pytest.approx(distance, abs=0.005)
    assert depth.dtype == np.float32


@pytest.mark.parametrize("name", ["level", "look_down"])
def test_the_floor_is_where_the_pinhole_model_has_it(simulator, rendering, name):
    simulator.reset(3.0, MIDDLE, 0.0)
    _, depth = simulator.render(name)
    camera = simulator.cameras[name]
    for point in ((1.4, 0.0), (2.0, 0.3), (2.5, -0.2)):
        pixels, distance = camera.project(np.asarray([[*point, 0.0]]))
        column, row = np.rint(pixels[0]).astype(int)
        if camera.contains(column, row, 2):
            assert depth[row, column] == pytest.approx(distance[0], rel=0.01)


def test_an_item_is_seen_when_it_is_in_front_and_not_when_it_is_behind(simulator, rendering):
    index = next(i for i, item in enumerate(FLAT.items) if item.kind == "fridge")
    item = FLAT.items[index]
    back = math.radians(item.yaw) + math.pi / 2
    front = (item.x / 100 - 1.5 * math.cos(back), item.y / 100 - 1.5 * math.sin(back))
    simulator.reset(*front, back)
    assert simulator.visible_share(index) > 0.02
    shown = simulator.shown_items() == index
    assert shown.mean() == pytest.approx(simulator.visible_share(index))
    # Standing on the floor straight ahead: in the middle columns, from below the horizon upwards.
    rows, columns = np.nonzero(shown)
    assert columns.mean() == pytest.approx(shown.shape[1] / 2, abs=20)
    assert rows.max() > shown.shape[0] * 0.6
    simulator.reset(*front, wrapped(back + math.pi))
    assert simulator.visible_share(index) == 0.0
    simulator.reset(2.0, MIDDLE, math.pi)
    assert simulator.visible_share(index) == 0.0


def test_the_view_from_above_shows_the_robot_where_it_is(simulator, rendering):
    before, scale = simulator.plan_view(480)
    simulator.reset(6.0, MIDDLE, 0.0)
    after, _ = simulator.plan_view(480)
    changed = np.argwhere(np.abs(before.astype(int) - after).sum(axis=2) > 60)
    columns = changed[:, 1] / scale
    rows = (after.shape[0] - changed[:, 0]) / scale
    assert columns.min() == pytest.approx(1.8, abs=0.08)
    assert columns.max() == pytest.approx(6.2, abs=0.08)
    assert rows.mean() == pytest.approx(MIDDLE, abs=0.08)


def test_people_and_boxes_move_and_wait_for_the_robot():
    with Simulator(FLAT, Config(look="plain", people=1, boxes=1), seed=2) as simulator:
        start = draw_start(Draw(3), FLAT)
        simulator.reset(start.x, start.y, start.yaw)
        before = simulator.movers
        simulator.step(2.0)
        after = simulator.movers
        assert [kind for kind, _ in after] == ["person", "box"]
        moved = [math.dist(a[1], b[1]) for a, b in zip(before, after, strict=True)]
        assert max(moved) > 0.3
        assert all(distance <= 2.0 * simulator.config.mover_speed + 1e-6 for distance in moved)


def test_wrong_settings_are_refused_by_name(simulator):
    with pytest.raises(SceneError, match="look: expected one of furniture, plain, got 'photo'"):
        Simulator(FLAT, Config(look="photo"))
    with pytest.raises(ValueError, match="max_linear: expected a positive number, got -1"):
        Config(max_linear=-1)
    with pytest.raises(ValueError, match="camera: expected one of level, look_down, got 'rear'"):
        simulator.render("rear")
