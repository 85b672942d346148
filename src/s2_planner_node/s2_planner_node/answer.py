"""What the model's answer means: a pixel goal or discrete actions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

LOOK_DOWN = 5  # action number: ask again with the down-looking image


class AnswerError(ValueError):
    """An answer that is neither actions nor a usable pixel goal. ``answer`` holds the model's text."""

    def __init__(self, message: str, answer: str) -> None:
        super().__init__(message)
        self.answer = answer


@dataclass(frozen=True)
class Answer:
    """Exactly one of ``pixel_goal`` (column, row) [px] and ``actions`` (non-empty) is set."""

    actions: tuple[int, ...] = ()
    pixel_goal: tuple[int, int] | None = None

    @property
    def asks_to_look_down(self) -> bool:
        """The answer is the single symbol ↓. Behind other symbols it is an action to come to later."""
        return self.actions == (LOOK_DOWN,)


def parse_actions(text: str, symbols: Mapping[str, int]) -> list[int]:
    """Numbers of all action symbols in ``text``, in their order; anything between them is ignored."""
    pattern = "|".join(re.escape(symbol) for symbol in symbols)
    return [symbols[symbol] for symbol in re.findall(pattern, text)]


def parse_answer(text: str, symbols: Mapping[str, int], image_size: tuple[int, int] | None = None) -> Answer:
    """Parse a model answer.

    Any digit means a pixel goal: the first two numbers are column and row; a decimal fraction is one number
    and falls into the pixel it lies in ("12.5, 30" is column 12, row 30). ``image_size`` is (width, height)
    of the image the goal refers to; without it the range is not checked.

    Raises ``AnswerError`` for a single number, a pixel outside of the image, and text with neither digits
    nor symbols (which is never taken for STOP).
    """
    if not any(character.isdecimal() for character in text):
        actions = parse_actions(text, symbols)
        if not actions:
            raise AnswerError(f"answer {text!r} has neither a pixel goal nor any of {' '.join(symbols)}", text)
        return Answer(actions=tuple(actions))
    numbers = re.findall(r"(\d+)(?:\.\d+)?", text)
    if len(numbers) < 2:
        raise AnswerError(f"answer {text!r} has a single number, expected column and row", text)
    column, row = int(numbers[0]), int(numbers[1])
    if image_size is not None and not (column < image_size[0] and row < image_size[1]):
        raise AnswerError(
            f"answer {text!r} is the pixel (column {column}, row {row}), outside of its image of "
            f"{image_size[0]}x{image_size[1]}",
            text,
        )
    return Answer(pixel_goal=(column, row))
