"""What the page says."""

import array

import pytest

from nav_msgs_ext.msg import ControllerState, S2Plan
from nav_viewer.texts import STATES, describe_plan, figures_html, mission_html


def actions(*values):
    return S2Plan(kind=S2Plan.KIND_ACTIONS, actions=array.array("B", values))


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (actions(2, 2, 2, 1), "turn left 3×, forward"),
        (actions(0), "stop"),
        (actions(5), "look down"),
        (actions(9), "action 9"),
        (actions(), "nothing"),
        (S2Plan(kind=1, pixel_goal_column=312, pixel_goal_row=240), "pixel goal 312, 240"),
        (S2Plan(kind=2, pixel_goal_column=3, pixel_goal_row=4, look_down=True), "pixel goal 3, 4 (look-down image)"),
    ],
)
def test_a_plan_is_said_in_words(plan, words):
    assert describe_plan(plan) == words


def test_every_state_has_a_name():
    constants = vars(type(ControllerState))["_Metaclass_ControllerState__constants"]
    states = {value for name, value in constants.items() if not name.startswith("ASK_")}
    assert states == set(STATES)


def test_what_comes_from_a_topic_cannot_become_markup():
    plan = S2Plan(kind=1, answer="<img src=x onerror=alert(1)>")
    state = ControllerState(state=ControllerState.FAULT, message="<script>")
    html = mission_html("<b>go</b>", state, plan)
    for markup in ("<b>go", "<img", "<script"):
        assert markup not in html
    assert "&lt;b&gt;go" in html
    assert "fault" in html


def test_a_long_answer_is_cut_and_nothing_known_is_said_plainly():
    assert len(mission_html("go", None, S2Plan(kind=1, answer="x" * 5000))) < 2000
    html = mission_html(None, None, None)
    assert "No instruction yet" in html
    assert "waiting for S1" in html


def test_figures_have_their_units():
    html = figures_html(9.96, 0.0321, 0.84, 0.64, 0.4, 3.2)
    for words in ("10.0 Hz", "32 ms", "0.8 Hz", "640 ms", "0.40 m/s", "3.2 m"):
        assert words in html
