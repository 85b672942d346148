"""Token sequences with images: placeholder expansion, 3-axis positions and what identifies each position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from s2_planner_node.vision import Grid


@dataclass(frozen=True)
class ImageRef:
    """An image in a prompt: a number that no other image of the model's life has, and its patch grid."""

    image_id: int
    grid: Grid


@dataclass(frozen=True)
class TokenSequence:
    """A prompt, or a prompt with its answer.

    ``ids`` (n,) token ids with one image token per merge cell; ``positions`` (3, n) temporal, height and width
    positions; ``identity`` (n, 2) equal exactly where the model's input is equal: (token id, -1) for text,
    (image id, cell) in images.
    """

    ids: np.ndarray
    positions: np.ndarray
    identity: np.ndarray
    images: tuple[ImageRef, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def next_position(self) -> int:
        """Position, on all three axes, of a text token that follows."""
        return int(self.positions.max()) + 1

    def extended(self, token_ids: Sequence[int]) -> TokenSequence:
        """The sequence followed by text tokens."""
        ids = np.asarray(token_ids, np.int64).reshape(-1)
        positions = np.broadcast_to(self.next_position + np.arange(len(ids)), (3, len(ids)))
        return TokenSequence(
            np.concatenate([self.ids, ids]),
            np.concatenate([self.positions, positions], 1),
            np.concatenate([self.identity, np.stack([ids, np.full_like(ids, -1)], 1)]),
            self.images,
        )


def rope_positions(ids: np.ndarray, grids: Sequence[Grid], image_token_id: int, merge_size: int) -> np.ndarray:
    """Qwen2.5-VL's 3-axis rotary positions (3, n) of token ids (n,) with expanded image tokens.

    Text advances all axes together; an image keeps the temporal axis and counts rows and columns of its merge
    cells; the text behind it goes on from the larger of both. Raises ``ValueError`` if tokens and grids disagree.
    """
    positions = np.empty((3, len(ids)), np.int64)
    is_image = ids == image_token_id
    expected = sum(t * rows * columns for t, rows, columns in grids) // merge_size**2
    if int(is_image.sum()) != expected:
        raise ValueError(f"sequence has {int(is_image.sum())} image tokens, its {len(grids)} images need {expected}")
    place, position = 0, 0
    for _, rows, columns in grids:
        rows, columns = rows // merge_size, columns // merge_size
        start = place + int(np.argmax(is_image[place:]))
        positions[:, place:start] = position + np.arange(start - place)
        position += start - place
        place = start + rows * columns
        if not is_image[start:place].all():
            raise ValueError(f"image tokens at {start} are interrupted before {rows * columns} cells are complete")
        positions[0, start:place] = position
        positions[1, start:place] = position + np.repeat(np.arange(rows), columns)
        positions[2, start:place] = position + np.tile(np.arange(columns), rows)
        position += max(rows, columns)
    positions[:, place:] = position + np.arange(len(ids) - place)
    return positions


def expand_image_tokens(
    ids: Sequence[int], images: Sequence[ImageRef], image_token_id: int, merge_size: int
) -> np.ndarray:
    """Repeat each image placeholder once per merge cell of its image."""
    token_ids = np.asarray(ids, np.int64).reshape(-1)
    repeats = np.ones(len(token_ids), np.int64)
    placeholders = np.flatnonzero(token_ids == image_token_id)
    if len(placeholders) != len(images):
        raise ValueError(f"prompt has {len(placeholders)} image placeholders for {len(images)} images")
    repeats[placeholders] = [rows * columns // merge_size**2 for _, rows, columns in (i.grid for i in images)]
    return np.repeat(token_ids, repeats)


def token_sequence(
    ids: np.ndarray, images: Sequence[ImageRef], image_token_id: int, merge_size: int
) -> TokenSequence:
    """Sequence from token ids (n,) whose image tokens are expanded already."""
    ids = np.asarray(ids, np.int64).reshape(-1)
    if not len(ids):
        raise ValueError("token sequence is empty")
    positions = rope_positions(ids, [image.grid for image in images], image_token_id, merge_size)
    identity = np.stack([ids, np.full_like(ids, -1)], 1)
    cells = [
        (image.image_id, cell) for image in images for cell in range(image.grid[1] * image.grid[2] // merge_size**2)
    ]
    if cells:
        identity[ids == image_token_id] = cells
    return TokenSequence(ids, positions, identity, tuple(images))
