"""The picture of a plan shows the goal where it is and leaves the camera's image alone."""

import numpy as np

from s2_planner_node.overlay import describe, draw_plan
from s2_planner_node.planner import Plan


def plan(**changes) -> Plan:
    fields = {"kind": "pixel_goal", "actions": (), "pixel_goal": (96, 192), "image_size": (384, 384)}
    return Plan(**(fields | {"look_down": False, "traj_latents": None, "answer": "96 192"} | changes))


def test_the_goal_is_drawn_at_its_place_in_an_image_of_another_size():
    image = np.zeros((480, 640, 3), np.uint8)
    picture = draw_plan(image, plan())
    assert not image.any()
    rows, columns = np.nonzero(picture[:440].any(axis=2))
    assert abs(columns.mean() - 96.5 / 384 * 640) < 1.5
    assert abs(rows.mean() - 192.5 / 384 * 480) < 1.5
    assert (picture[240, 160] == (255, 64, 64)).all()  # red stays in the first channel: RGB


def test_actions_are_named_and_nothing_is_marked():
    actions = plan(kind="actions", actions=(2, 1, 0), pixel_goal=None)
    assert describe(actions) == "left, forward, stop"
    picture = draw_plan(np.full((480, 640, 3), 7, np.uint8), actions)
    assert (picture[:440] == 7).all()
    assert picture[444:].max() == 255


def test_a_look_down_goal_says_so():
    assert describe(plan(look_down=True)) == "goal 96 192 (look down)"
