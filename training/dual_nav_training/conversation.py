"""A conversation with its answers as token ids and labels: what S2 is trained on.

The prompt is made by the planner's own code (``s2_planner_node.prompt``), so training sees exactly the tokens that
deployment does: the conversation up to where the assistant answers, then the answer and the end-of-turn token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from s2_planner_node.image_processor import ImageProcessor
from s2_planner_node.prompt import PromptError, PromptProtocol, PromptTemplate, first_turn, look_down_turn
from s2_planner_node.sequence import ImageRef, expand_image_tokens, rope_positions

NO_LABEL = -100  # torch's cross entropy leaves these positions out

# What stands before the current image. Deployment uses the first; the release was trained with all seven.
CONJUNCTIONS = (
    "you can see ",
    "in front of you is ",
    "there is ",
    "you can spot ",
    "you are toward the ",
    "ahead of you is ",
    "in your sight is ",
)


@dataclass(frozen=True)
class Conversation:
    """Tokens of one answered conversation.

    Attributes:
        ids: (n,) int64, image tokens expanded.
        positions: (3, n) int64 rotary positions.
        labels: (n,) int64, the token's own id on the assistant's tokens, ``NO_LABEL`` elsewhere (not shifted).
        patches: float32 (patches of all images, values), as ``ImageProcessor`` makes them.
        grids: (1, rows, columns) of each image.
    """

    ids: np.ndarray
    positions: np.ndarray
    labels: np.ndarray
    patches: np.ndarray
    grids: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class ConversationMaker:
    """Turns samples into tokens for one checkpoint."""

    protocol: PromptProtocol
    processor: ImageProcessor
    end_token_id: int  # ends an assistant's turn
    max_tokens: int  # the model's max_position_embeddings

    def __call__(
        self,
        instruction: str,
        images: Sequence[np.ndarray],
        answers: Sequence[str],
        rng: np.random.Generator | None = None,
    ) -> Conversation:
        """Tokens and labels.

        Args:
            instruction: the task.
            images: uint8 RGB in the prompt's order: history, current frame, and with two answers the look-down image.
            answers: the answer, or ``↓`` and the answer to the look-down image.
            rng: draws the conjunction of each turn; None takes the one of deployment.

        Raises:
            ValueError: numbers of answers and images that do not go together. PromptError: see ``first_turn``.
        """
        if len(answers) not in (1, 2) or len(images) < len(answers) or not all(answers):
            raise ValueError(
                f"answers are {list(answers)} for {len(images)} images: expected one answer and at least one image, "
                "or two answers and at least two images"
            )
        template = self.protocol.template if rng is None else _with_drawn_words(self.protocol.template, rng)
        patches, grids = self.processor(images)
        first_images = len(images) - len(answers) + 1
        messages = first_turn(template, instruction, first_images - 1)
        prompt = self.protocol.tokenize(messages)
        answer = [*self.protocol.encode_answer(answers[0]), self.end_token_id]
        spans = [(self._length(prompt, grids[:first_images]), answer)]
        ids = prompt + answer
        if len(answers) == 2:
            ids = self.protocol.tokenize(look_down_turn(template, messages, answers[0]))
            if ids[: len(prompt) + len(answer)] != prompt + answer:
                raise PromptError(
                    f"the tokens of the answer {answers[0]!r} change when the conversation goes on; tokenizer and "
                    "chat template cannot be trained on two turns"
                )
            answer = [*self.protocol.encode_answer(answers[1]), self.end_token_id]
            spans.append((self._length(ids, grids), answer))
            ids = ids + answer
        refs = [ImageRef(number, grid) for number, grid in enumerate(grids)]
        expanded = expand_image_tokens(ids, refs, self.protocol.image_token_id, self.processor.merge_size)
        if len(expanded) > self.max_tokens:
            raise PromptError(
                f"the conversation has {len(expanded)} tokens, the model takes {self.max_tokens} "
                "(max_position_embeddings); use a shorter instruction, fewer history frames or smaller images"
            )
        labels = np.full(len(expanded), NO_LABEL, np.int64)
        for start, tokens in spans:
            labels[start : start + len(tokens)] = tokens
        positions = rope_positions(expanded, grids, self.protocol.image_token_id, self.processor.merge_size)
        return Conversation(expanded, positions, labels, patches, tuple(grids))

    def _length(self, ids: Sequence[int], grids: Sequence[tuple[int, int, int]]) -> int:
        """Tokens with the placeholders of these images expanded."""
        return len(ids) + sum(rows * columns // self.processor.merge_size**2 - 1 for _, rows, columns in grids)


def _with_drawn_words(template: PromptTemplate, rng: np.random.Generator) -> PromptTemplate:
    def drawn(text: str) -> str:
        return text.replace(CONJUNCTIONS[0], CONJUNCTIONS[rng.integers(len(CONJUNCTIONS))])

    return replace(template, current=drawn(template.current), look_down=drawn(template.look_down))
