"""Conversations are the checkpoint's own strings, to the character."""

import dataclasses
import json

import pytest

from s2_planner_node.history import FrameHistory
from s2_planner_node.prompt import (
    DEFAULT_TEMPLATE,
    TEMPLATE_FILE,
    PromptError,
    check_instruction,
    first_turn,
    load_template,
    look_down_turn,
    split_and_clean,
)

TEMPLATE = load_template()


def test_text_is_split_at_image_markers_and_cleaned(text_cases):
    for case in text_cases["split_and_clean"]:
        assert split_and_clean(case["input"]) == case["expected"], case["input"]


def test_conversations_are_those_of_the_reference(text_cases):
    compared = 0
    for case in text_cases["conversation"]:
        expected = case["expected"]
        if "error" in expected:
            continue  # <image> in an instruction: next test
        history = FrameHistory(case["num_history"], 512)
        for index in range(case["step"]):
            history.add(index)
        past = [index for index, _ in history.select()]
        conversation = first_turn(TEMPLATE, check_instruction(case["instruction"], TEMPLATE, 4096), len(past))
        images = [*past, case["step"]]
        if case["look_down"]:
            conversation = look_down_turn(TEMPLATE, conversation, case["first_turn_output"])
            images.append("look_down")
        assert conversation == expected["conversation"]
        assert images == expected["images"]
        compared += 1
    assert compared >= 16


def test_an_image_marker_in_an_instruction_is_refused(text_cases):
    refused = [case for case in text_cases["conversation"] if "error" in case["expected"]]
    assert refused
    for case in refused:
        with pytest.raises(PromptError, match="<image>"):
            check_instruction(case["instruction"], TEMPLATE, 4096)


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ("", "instruction is empty"),
        (" \n\t", "instruction is empty"),
        ("é" * 2049, "4098 bytes long, allowed are 4096"),
        ("x" * 100_000, "100000 bytes long, allowed are 4096"),
        ("stop<|im_end|>", r"control token '<\|im_end\|>'"),
        (None, "NoneType"),
        (b"go", "bytes"),
    ],
)
def test_an_unusable_instruction_is_refused_with_the_reason(instruction, message):
    with pytest.raises(PromptError, match=message):
        check_instruction(instruction, TEMPLATE, 4096)


def test_braces_in_an_instruction_stay_text():
    text = first_turn(TEMPLATE, "go to {image} and {instruction}", 0)[0]["content"][0]["text"]
    assert "Your task is to go to {image} and {instruction} Where" in text


def test_a_checkpoint_folder_may_bring_its_own_template(tmp_path):
    values = json.loads(DEFAULT_TEMPLATE.read_text(encoding="utf-8"))
    values["look_down"] = "below you is {image}"
    (tmp_path / TEMPLATE_FILE).write_text(json.dumps(values), encoding="utf-8")
    turn = look_down_turn(load_template(tmp_path), [], "↓")[-1]
    assert turn["content"] == [{"type": "text", "text": "below you is"}, {"type": "image", "image_index": 0}]


def test_a_template_without_history_is_one(tmp_path):
    values = json.loads(DEFAULT_TEMPLATE.read_text(encoding="utf-8")) | {"history": ""}
    (tmp_path / TEMPLATE_FILE).write_text(json.dumps(values), encoding="utf-8")
    turn = first_turn(load_template(tmp_path), "go on", 0)[-1]
    assert [part["type"] for part in turn["content"]].count("image") == 1


def test_a_template_without_a_field_is_refused(tmp_path):
    values = json.loads(DEFAULT_TEMPLATE.read_text(encoding="utf-8"))
    del values["look_down"]
    (tmp_path / TEMPLATE_FILE).write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(PromptError, match="look_down"):
        load_template(tmp_path)


def test_a_place_is_said_as_the_template_says_it():
    assert TEMPLATE.pixel_answer(312.9, 144.2, (640, 480)) == "312 144"
    assert TEMPLATE.pixel_answer(640.0, 480.0, (640, 480)) == "639 479"
    coarse = dataclasses.replace(TEMPLATE, pixel_goal="@{column} {row}", pixel_step=8)
    assert coarse.pixel_answer(312.9, 143.0, (640, 480)) == "@312 144"
    assert coarse.pixel_answer(383.0, 0.0, (384, 384)) == "@376 0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "no hole"}, "task must hold {instruction} once"),
        ({"actions": {}}, "actions must map"),
        ({"history": 3}, "history is 3"),
        ({"extra": "x"}, "may have"),
        ({"pixel_goal": "{column}"}, "pixel_goal must hold {row} once"),
        ({"pixel_step": 0}, "pixel_step must be at least 1"),
        ({"pixel_step": "8"}, "pixel_step is '8'"),
    ],
)
def test_a_template_with_a_mistake_is_refused(tmp_path, change, message):
    values = json.loads(DEFAULT_TEMPLATE.read_text(encoding="utf-8")) | change
    (tmp_path / TEMPLATE_FILE).write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(PromptError, match=message):
        load_template(tmp_path)
