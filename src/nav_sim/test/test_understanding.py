"""What the oracle planner makes of a person's sentence."""

import pytest

from nav_sim.episodes import make_episode
from nav_sim.understanding import goals_of, things_in
from nav_sim.worlds import make_flat


@pytest.mark.parametrize(("family", "least"), [("object", 1.0), ("relation", 0.9)])
def test_the_instructions_of_episodes_mean_the_goals_of_their_evaluator(family, least):
    agreed = []
    for split in ("train", "test"):
        for number in range(0, 40, 4):  # each in another flat
            episode = make_episode(split, 3, family, number)
            goals = goals_of(episode.flat, episode.instruction)
            agreed.append(bool(goals) and set(goals) <= set(episode.goals))
    assert sum(agreed) / len(agreed) >= least


def test_a_name_means_the_same_in_any_case_and_in_the_plural():
    flat = make_flat(7)
    item = flat.items[0]
    goals = goals_of(flat, f"Go to the {item.name}.")
    assert 0 in goals
    assert goals_of(flat, f"GO TO THE {item.name.upper()}S!") == goals


def test_a_room_alone_means_what_stands_in_it():
    flat = make_flat(7)
    room = flat.items[0].room
    goals = goals_of(flat, f"Drive to the {flat.rooms[room].name}")
    assert {flat.items[goal].room for goal in goals} >= {room}


def test_a_sentence_that_names_nothing_here_has_no_goal_and_the_flat_can_say_what_there_is():
    flat = make_flat(7)
    assert goals_of(flat, "Go to the moon.") == ()
    assert goals_of(flat, "") == ()
    assert flat.items[0].name in things_in(flat)
