"""Answers of the model become actions or a pixel goal, or an error that quotes them."""

import json

import pytest

from s2_planner_node.answer import Answer, AnswerError, parse_actions, parse_answer
from s2_planner_node.prompt import load_template

ACTIONS = load_template().actions
# Answers the reference reads wrongly or not at all, and what they are here (None: an error).
DIFFERENT_HERE = {"12.5, 30": (12, 30), "42": None, "": None}


def test_action_symbols_are_parsed_in_order_as_the_reference_does(text_cases):
    for case in text_cases["parse_actions"]:
        assert parse_actions(case["input"], ACTIONS) == case["expected"], case["input"]


def test_answers_mean_what_they_mean_to_the_reference(text_cases):
    for case in text_cases["s2_output"]:
        text, expected = case["input"], case["expected"]
        if text in DIFFERENT_HERE:
            continue
        answer = parse_answer(text, ACTIONS)
        if expected["pixel_goal"] is None:
            assert answer == Answer(actions=tuple(expected["actions"])), text
        else:
            row, column = expected["pixel_goal"]  # the reference stores [row, column]
            assert answer == Answer(pixel_goal=(column, row)), text


@pytest.mark.parametrize(("text", "pixel_goal"), DIFFERENT_HERE.items())
def test_answers_the_reference_misreads_have_the_sensible_result_or_an_error(text, pixel_goal):
    if pixel_goal is not None:
        assert parse_answer(text, ACTIONS).pixel_goal == pixel_goal
    else:
        with pytest.raises(AnswerError, match=r"neither|single number") as error:
            parse_answer(text, ACTIONS)
        assert error.value.answer == text


def test_an_answer_without_digits_or_symbols_is_an_error_and_never_stop():
    with pytest.raises(AnswerError, match="'stop'"):
        parse_answer("stop", ACTIONS)


def test_a_pixel_outside_of_its_image_is_an_error():
    assert parse_answer("639, 479", ACTIONS, (640, 480)).pixel_goal == (639, 479)
    for text in ("640, 479", "639, 480", "99999999999999999999 1"):
        with pytest.raises(AnswerError, match=r"outside of its image of 640x480"):
            parse_answer(text, ACTIONS, (640, 480))


def test_only_a_lone_down_arrow_asks_to_look_down():
    assert parse_answer("↓", ACTIONS).asks_to_look_down
    assert not parse_answer("←↓", ACTIONS).asks_to_look_down
    assert not parse_answer("STOP", ACTIONS).asks_to_look_down


def test_recorded_answers_of_the_released_model_are_understood(shared):
    frames = json.loads((shared / "data/go2_internnav_rgb/scene1/frames.json").read_text(encoding="utf-8"))
    answers = [frame["internvla_n1_dualvln"] for frame in frames]
    spoken = [answer for answer in answers if answer["s2_text"] is not None]
    assert len(spoken) > 20
    for recorded in spoken:
        answer = parse_answer(recorded["s2_text"], ACTIONS, (640, 480))
        if recorded["kind"] == "action":
            assert list(answer.actions) == recorded["actions"]
        else:
            column, row = answer.pixel_goal
            assert [row, column] == recorded["pixel_row_col"]
