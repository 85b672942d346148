"""The goal handed to the model is the plan's, in the pixels of the camera."""

import pytest

from s1_controller_node.path_maker import pixel_in_camera_image
from s1_controller_node.plan_intake import AcceptedPlan, Kind


def plan(pixel, size) -> AcceptedPlan:
    return AcceptedPlan(1, 0, 0, Kind.PIXEL_GOAL, pixel_goal=pixel, image_size=size)


@pytest.mark.parametrize(
    ("pixel", "asked", "camera", "expected"),
    [
        ((100, 200), (640, 480), (640, 480), (100.5, 200.5)),
        ((96, 192), (384, 384), (640, 480), (96.5 * 640 / 384, 192.5 * 480 / 384)),
        ((383, 383), (384, 384), (640, 480), (383.5 * 640 / 384, 383.5 * 480 / 384)),
    ],
)
def test_a_pixel_of_a_resized_image_is_the_same_place_in_the_camera_image(pixel, asked, camera, expected):
    column, row = pixel_in_camera_image(plan(pixel, asked), camera)
    assert (column, row) == pytest.approx(expected)
    assert column < camera[0]
    assert row < camera[1]


def test_a_plan_without_a_pixel_goal_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="plan 0 of episode 1 has no pixel goal"):
        pixel_in_camera_image(plan(None, (384, 384)), (640, 480))
