"""The small planner's words: tokenizer, prompt template and instructions.

Kinds, colours and rooms are one token each, so that an image cell can be compared with a word. Coordinates are whole
numbers in steps of PIXEL_STEP, one token each, behind a sign that says that they come: choosing between a turn and a
drive is then one token against another, not against all the numbers it could be. The prompt is the release's protocol
in fewer words: the image, then the instruction itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from dual_nav_training.random_tokenizer import learn_tokens, with_added_tokens
from nav_sim.episodes import grammar
from nav_sim.furniture import catalogue
from nav_sim.worlds import COLOURS as PAINTS
from nav_sim.worlds import FURNISHING
from s2_planner_node.planner import PlannerConfig
from s2_planner_node.prompt import PromptTemplate

KINDS = tuple(sorted({entry.kind for entry in catalogue()} - {"person"}))
COLOURS = tuple(sorted({*PAINTS, *(entry.colour for entry in catalogue() if entry.colour)}))
ROOMS = tuple(sorted(FURNISHING))

PIXEL_STEP = 8  # pixels between the coordinates that can be said
IMAGE_SIDE = PlannerConfig.image_width  # pixels of the side of the square image that coordinates are in
NUMBERS = tuple(str(number) for number in range(0, IMAGE_SIDE, PIXEL_STEP))
DRIVE = "@"  # before the coordinates of an answer
VOCABULARY = 1024
_LEARNED = 800

TEMPLATE = PromptTemplate(
    task="{instruction}",
    history="",
    current="{image}",
    look_down="{image}",
    history_separator="\n",
    image_marker="<image>",
    actions={"STOP": 0, "↑": 1, "←": 2, "→": 3, "↓": 5},
    pixel_goal=f"{DRIVE}{{column}} {{row}}",
    pixel_step=PIXEL_STEP,
)
# Qwen's format of conversations without a system turn, and images before the text: where an image's cells are is then
# always the same distance from the first tokens, by which the network learns their rows and columns.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer() -> Tokenizer:
    """Tokenizer of the small planner; the same wherever it is built."""
    words = [*KINDS, *COLOURS, *ROOMS]
    sentences = [re.sub(r"\{\w+\}", "", sentence) for sentence in _sentences(grammar("train"))]
    prompt = "user\nassistant\n"
    # Repeated, so that each whole word outweighs the pieces it shares with others.
    text = [*sentences, prompt] * 20 + [f"{blank}{word}" for word in words for blank in ("", " ")] * 3
    several = [word for word in words if " " in word]
    return with_added_tokens(
        learn_tokens(text, _LEARNED),
        [*several, *TEMPLATE.actions, DRIVE, *NUMBERS],
        VOCABULARY,
        single_word=False,
    )


def _sentences(rules: dict[str, Any]) -> list[str]:
    lists = [list(rule.values()) if isinstance(rule, dict) else rule for rule in rules.values()]
    return [sentence for sentences in lists for sentence in sentences]


def word_tokens(tokenizer: Tokenizer, words: Sequence[str]) -> list[int]:
    """The token that each word is inside of a sentence. ValueError for a word of several tokens."""
    tokens = []
    for word in words:
        encoded = tokenizer.encode(f"the {word}.").tokens
        inside = [token for token in encoded[1:-1] if token != "Ġ"]
        if len(inside) != 1:
            raise ValueError(f"{word!r} is not one token but {inside}")
        tokens.append(tokenizer.token_to_id(inside[0]))
    return tokens


# --------------------------------------------------------------------------------------------------- instructions

# Words that an instruction's meaning hangs on. Anything else may be worded otherwise; also how near a landmark is, as
# the goal comes before it.
_MEANING = {part for word in (*KINDS, *COLOURS, *ROOMS) for part in word.split()} | set(
    re.findall(r"\w+", "left right front behind ahead door through then in the to at")
)
_SYLLABLES = re.findall(
    r"\w+",
    "ba be bi bo bu ca ce co da de di do el en er es fa fi fo ga ge go ha he hi in is it ju ka ke la le li lo ma me "
    "mi mo na ne ni no on or pa pe pi po ra re ri ro sa se si so ta te ti to un ur va ve vi wa we wi yo",
)


def object_instruction(rng: np.random.Generator, name: str, several: bool, split: str = "train") -> str:
    """A sentence that sends the robot to an object. several: any of those so named will do."""
    if _worded_freely(rng, split):
        return _sentence(rng, _named(rng, name))
    phrase = _choice(rng, grammar(split)["any" if several else "unique"]).format(object=name)
    return _worded(rng, "object", {"object": phrase}, split)


def relation_instruction(
    rng: np.random.Generator, name: str, landmark: str | None, room: str, split: str = "train"
) -> str:
    """A sentence that sends the robot to an object next to a landmark, or without one to the object in a room."""
    if _worded_freely(rng, split):
        if landmark is not None:
            return _sentence(rng, _named(rng, name), _named(rng, landmark))
        parts = [_named(rng, name), _named(rng, room)]
        return _sentence(rng, *(parts if rng.random() < 0.5 else reversed(parts)))
    if landmark is None:
        return _worded(rng, "in_room", {"object": name, "room": room}, split)
    return _worded(rng, "next_to", {"object": name, "landmark": landmark}, split)


def route_instruction(rng: np.random.Generator, name: str, split: str = "train") -> str:
    """A sentence that sends the robot through one or two doors, whichever, to an object."""
    if _worded_freely(rng, split):
        doors = [_door(rng) for _ in range(rng.integers(1, 3))]
        return _sentence(rng, *doors, _named(rng, name))
    rules = grammar(split)
    sides = {side: _choice(rng, list(rules[side].values())) for side in ("side", "next_side")}
    return _worded(rng, _choice(rng, ("one_door", "two_doors")), {"object": name, **sides}, split)


def right_first(instruction: str) -> bool:
    """Whether the first side that an instruction names is the right one."""
    return re.findall(r"\b(?:left|right)\b", instruction)[:1] == ["right"]


def _worded(rng: np.random.Generator, rule: str, words: dict[str, str], split: str) -> str:
    sentence = _choice(rng, grammar(split)[rule]).format(**words)
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", sentence)


# Half of the sentences of the training are in no grammar: what is named, in its order, among words of any meaning. So
# what must be understood is which words are names, whether there is a door, and which comes first.
_FREELY = 0.5
_FILLERS = re.findall(
    r"\w+",
    "please now you we me my your it this that there here one so and or with from for of on off up down out "
    "over under along across around toward until when once after which who what keep being is are be can could "
    "would should will shall must let us have has get take use make turn bring come drive travel roll proceed "
    "continue start finish stay rest pause end reach find see spot search approach visit just away first then "
    "last also still straight directly slowly quickly carefully simply kindly robot hey okay want need like "
    "time place way side back near next by beside against behind before placed located standing sitting found "
    "exactly somewhere everything its own",
)
_SIDES = re.findall(r"\w+", "left right ahead front behind straight back")


def _worded_freely(rng: np.random.Generator, split: str) -> bool:
    return split == "train" and rng.random() < _FREELY


def _named(rng: np.random.Generator, name: str) -> str:
    return " ".join(filter(None, (_choice(rng, ("the", "the", "a", "any", "some", "one", "that", "")), name)))


def _door(rng: np.random.Generator) -> str:
    words = [_choice(rng, ("the", "a", "that", "")), "door"]
    side = [*_fillers(rng, 0, 3), _choice(rng, _SIDES), *_fillers(rng, 0, 2)] if rng.random() < 0.8 else []
    return " ".join(filter(None, words + side if rng.random() < 0.8 else side + words))


def _fillers(rng: np.random.Generator, least: int, most: int) -> list[str]:
    count = rng.integers(least, most + 1)
    return [_choice(rng, _FILLERS) if rng.random() < 0.6 else _made_up(rng) for _ in range(count)]


def _sentence(rng: np.random.Generator, *parts: str) -> str:
    """The parts in their order, with fillers around them."""
    words = _fillers(rng, 0 if rng.random() < 0.1 else 1, 5)
    for number, part in enumerate(parts):
        words += [*(_fillers(rng, 1, 4) if number else []), part + ("," if rng.random() < 0.1 else "")]
    words += _fillers(rng, 1, 4) if rng.random() < 0.4 else []
    text = " ".join(words).rstrip(",")
    return text[0].upper() + text[1:] + _choice(rng, (".", ".", ".", "", "!"))


def with_unknown_words(rng: np.random.Generator, sentence: str) -> str:
    """The sentence with some words exchanged for made-up ones, or with made-up ones added.

    People word things as no grammar foresees: words that do not matter must not disturb.
    """
    if rng.random() < 0.3:
        return sentence
    words: list[str] = []
    for word in sentence.split():
        core = word.strip(".,:!")
        if core not in _MEANING and rng.random() < 0.25:
            word = _made_up(rng) + word[len(core) :]
        words.append(word)
        if rng.random() < 0.04:
            words.append(_made_up(rng))
    before, after = (rng.integers(1, 4) if rng.random() < share else 0 for share in (0.15, 0.1))
    return " ".join([*(_made_up(rng) for _ in range(before)), *words, *(_made_up(rng) for _ in range(after))])


def _made_up(rng: np.random.Generator) -> str:
    return "".join(rng.choice(_SYLLABLES, size=rng.integers(1, 4)))


def _choice(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[rng.integers(len(options))]
