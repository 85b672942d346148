"""From an instruction to the token ids of the conversation the checkpoint was trained on.

The strings are data of the checkpoint: they live in ``prompts/internvla_n1.json``; a checkpoint folder with
a file ``prompt_template.json`` of the same form brings its own.
"""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

DEFAULT_TEMPLATE = Path(__file__).with_name("prompts") / "internvla_n1.json"
TEMPLATE_FILE = "prompt_template.json"  # looked for in a checkpoint folder
# Text of this form becomes a control token of the chat format when it is tokenised.
_CONTROL_TOKEN = re.compile(r"<\|[^|>]*\|>")

Message = dict[str, Any]  # {"role": ..., "content": [{"type": "text", "text": ...} | {"type": "image", ...}]}


class PromptError(ValueError):
    """An instruction or template that cannot become a prompt; the message says what to change."""


@dataclass(frozen=True)
class PromptTemplate:
    """The strings of one prompt protocol.

    ``task`` holds ``{instruction}``, ``history`` holds ``{images}``, ``current`` and ``look_down`` hold
    ``{image}``. An empty ``history`` says that the model was trained without earlier frames: it gets none, whatever
    ``num_history`` is. ``actions`` maps every symbol the model may answer with to its action number. ``pixel_goal``
    is how it says a place in an image, in whole ``pixel_step``s of pixels.
    """

    task: str
    history: str
    current: str
    look_down: str
    history_separator: str
    image_marker: str
    actions: dict[str, int]
    pixel_goal: str = "{column} {row}"
    pixel_step: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            expected = {"actions": dict, "pixel_step": int}.get(field.name, str)
            if not isinstance(value, expected):
                raise PromptError(f"prompt template: {field.name} is {value!r}, expected a {expected.__name__}")
        for name, hole in (
            ("task", "{instruction}"),
            ("history", "{images}"),
            ("current", "{image}"),
            ("look_down", "{image}"),
            ("pixel_goal", "{column}"),
            ("pixel_goal", "{row}"),
        ):
            if getattr(self, name).count(hole) != 1 and (name, getattr(self, name)) != ("history", ""):
                raise PromptError(f"prompt template: {name} must hold {hole} once, got {getattr(self, name)!r}")
        if not self.image_marker:
            raise PromptError("prompt template: image_marker is empty")
        if not self.actions or not all(s and isinstance(n, int) for s, n in self.actions.items()):
            raise PromptError(f"prompt template: actions must map symbols to numbers, got {self.actions!r}")
        if self.pixel_step < 1:
            raise PromptError(f"prompt template: pixel_step must be at least 1, got {self.pixel_step}")

    def pixel_answer(self, column: float, row: float, image_size: tuple[int, int]) -> str:
        """The answer that means a place in an image of (width, height)."""
        step = self.pixel_step
        said = (
            min(int(value) if step == 1 else round(value / step) * step, (size - 1) // step * step)
            for value, size in zip((column, row), image_size, strict=True)
        )
        return self.pixel_goal.format(**dict(zip(("column", "row"), said, strict=True)))


def load_template(folder: Path | None = None) -> PromptTemplate:
    """The template of a checkpoint folder if it brings one, else the protocol of the InternVLA-N1 releases."""
    path = DEFAULT_TEMPLATE
    if folder is not None and (Path(folder) / TEMPLATE_FILE).is_file():
        path = Path(folder) / TEMPLATE_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise PromptError(f"prompt template {path} is not valid JSON: {error}") from error
    names = {field.name for field in fields(PromptTemplate)}
    required = {field.name for field in fields(PromptTemplate) if field.default is MISSING}
    if not isinstance(values, dict) or not required <= set(values) <= names:
        got = sorted(values) if isinstance(values, dict) else type(values).__name__
        raise PromptError(
            f"prompt template {path} must have the fields {sorted(required)}, and may have "
            f"{sorted(names - required)}; got {got}"
        )
    return PromptTemplate(**values)


def check_instruction(instruction: str, template: PromptTemplate, max_bytes: int) -> str:
    """Return ``instruction`` unchanged, or raise ``PromptError`` if it cannot be put into the prompt."""
    if not isinstance(instruction, str):
        raise PromptError(f"instruction is a {type(instruction).__name__}, expected text")
    if not instruction.strip():
        raise PromptError("instruction is empty; send a sentence such as 'Walk to the door and stop.'")
    size = len(instruction.encode("utf-8", errors="replace"))
    if size > max_bytes:
        raise PromptError(
            f"instruction is {size} bytes long, allowed are {max_bytes} (max_instruction_bytes); shorten it"
        )
    if template.image_marker in instruction:
        raise PromptError(
            f"instruction contains {template.image_marker!r}, which stands for an image in the prompt; remove it"
        )
    control = _CONTROL_TOKEN.search(instruction)
    if control:
        raise PromptError(f"instruction contains the control token {control.group()!r}; remove it")
    return instruction


def split_and_clean(text: str, image_marker: str = "<image>") -> list[str]:
    """Cut ``text`` at image markers (kept as elements); drop line breaks, outer blanks and empty pieces."""
    pieces = re.split(f"({re.escape(image_marker)})", text)
    cleaned = (piece.replace("\n", "").strip() for piece in pieces)
    return [piece for piece in cleaned if piece]


def _user_message(text: str, image_marker: str, first_image: int) -> Message:
    content: list[Message] = []
    image = first_image
    for piece in split_and_clean(text, image_marker):
        if piece == image_marker:
            content.append({"type": "image", "image_index": image})
            image += 1
        else:
            content.append({"type": "text", "text": piece})
    return {"role": "user", "content": content}


def first_turn(template: PromptTemplate, instruction: str, num_history_images: int) -> list[Message]:
    """Conversation of turn 1. Its images, in order of ``image_index``: history frames, then the current one.

    ``instruction`` has passed ``check_instruction``.
    """
    marker = template.image_marker
    text = template.task.replace("{instruction}", instruction)
    if num_history_images:
        images = (marker + template.history_separator) * num_history_images
        text += template.history.replace("{images}", images)
    text += template.current.replace("{image}", marker)
    return [_user_message(text, marker, 0)]


def look_down_turn(template: PromptTemplate, conversation: list[Message], answer: str) -> list[Message]:
    """``conversation`` continued by the model's ``answer`` and the look-down image (the last image)."""
    images = sum(part["type"] == "image" for message in conversation for part in message["content"])
    text = template.look_down.replace("{image}", template.image_marker)
    return [
        *conversation,
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        _user_message(text, template.image_marker, images),
    ]


class PromptProtocol:
    """Template, chat format and tokenizer of one checkpoint.

    ``tokenizer`` is a transformers tokenizer; ``chat_template`` its jinja chat format, which writes exactly
    one image placeholder token (``image_token_id``) per image.
    """

    def __init__(self, template: PromptTemplate, tokenizer: Any, chat_template: str, image_token_id: int) -> None:
        self.template = template
        self._tokenizer = tokenizer
        self._chat_template = chat_template
        self._image_token_id = image_token_id

    def tokenize(self, conversation: list[Message]) -> list[int]:
        """Token ids of the conversation up to where the assistant answers; one placeholder per image."""
        text = self._tokenizer.apply_chat_template(
            conversation, chat_template=self._chat_template, tokenize=False, add_generation_prompt=True
        )
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        images = sum(part["type"] == "image" for message in conversation for part in message["content"])
        found = ids.count(self._image_token_id)
        if found != images:
            raise PromptError(
                f"the chat template wrote {found} image placeholders (token {self._image_token_id}) for {images} "
                "images; tokenizer, chat template and config.json do not belong together"
            )
        return ids

    @property
    def image_token_id(self) -> int:
        """The token that stands for an image, or for one merge cell of it."""
        return self._image_token_id

    def encode_answer(self, answer: str) -> list[int]:
        """Token ids of an assistant's answer as the model would generate them, without the end of turn."""
        return self._tokenizer(answer, add_special_tokens=False)["input_ids"]

    def decode(self, token_ids: list[int]) -> str:
        """Text of a generated answer without control tokens."""
        return self._tokenizer.decode(token_ids, skip_special_tokens=True)
