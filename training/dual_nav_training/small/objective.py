"""What the small planner is trained on: its answers, and a good deal that the data of a simulator can tell beyond.

The language-model loss alone finds no connection between words and image cells in the time there is. So training has
three stages. The language model first learns to READ, with image features made from the labels: the word of the kind
plus the word of the colour, floor and distance (`painted`). The vision tower learns to SEE, that is to make the same
features of images. Then both learn together to GROUND words in images. And in training

- image features are compared with the words' own embeddings: a cell that shows a blue chair must resemble "blue" and
  "chair"; and they must tell floor and distance (`features`);
- in the middle and at the end of the language model, image cells must know whether they show what the instruction
  names (`cells`), and the one where the pixel goal lies must stand out (`spot`);
- in the middle they must know their row and column (`place`): the vision tower cannot tell them, its attention knows
  relative positions only;
- the positions that answer must attend to these cells (`attention`);
- the latents must tell the way to come (`way`), which S1 will need of them.

The heads for this are left out of the checkpoint: what ships is a plain Qwen2.5-VL.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from dual_nav_training.conversation import NO_LABEL
from dual_nav_training.small.language import COLOURS, KINDS, NUMBERS, word_tokens
from dual_nav_training.small.network import SCALE, Decoded, SmallPlanner
from dual_nav_training.small.views import LEVEL_CELLS, LOOK_DOWN_CELLS, WAYPOINTS

READ, SEE, GROUND = STAGES = ("read", "see", "ground")
TURN, DRIVE = "turn", "drive"  # questions answered at once, and those with a look-down turn and a pixel goal
CAMERAS = {"level": LEVEL_CELLS, "look_down": LOOK_DOWN_CELLS}
WEIGHTS = {
    "features": 0.3,
    "painted": 1.0,
    "decision": 1.0,
    "pixel": 0.5,
    "cells": 1.0,
    "spot": 0.3,
    "place": 0.2,
    "attention": 0.3,
    "way": 1.0,
}
_SPREAD = 1.2  # of a coordinate's label over its neighbours, in steps
_FURTHER_TOKENS = 0.3  # weight of an answer's tokens behind the one that decides
_NOTHING = 0.15  # weight of cells that show no object: there are many
_SHOWN = 4.0  # weight of cells that show the goal: there are few
_WAY_SCALE = 2.0  # metres
_NOISE = 0.5  # of painted features, in units of their own deviation


class GroundingTask(nn.Module):
    """The planner with its training heads; `forward` takes a batch of `grounding_batch` and gives the loss."""

    def __init__(self, planner: SmallPlanner, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.stage = GROUND
        self.planner = planner
        width = planner.latent_queries.shape[-1]
        token = tokenizer.token_to_id
        self.register_buffer("_kinds", torch.tensor(word_tokens(tokenizer, KINDS)), persistent=False)
        self.register_buffer("_colours", torch.tensor(word_tokens(tokenizer, COLOURS)), persistent=False)
        self.register_buffer("_numbers", torch.tensor([token(number) for number in NUMBERS]), persistent=False)
        self._image_token = token("<|image_pad|>")
        self.nothing = nn.Parameter(SCALE * torch.randn(2, width))  # what no kind, no colour resembles
        self.directions = nn.Parameter(SCALE * torch.randn(2, width))  # of floor and distance in painted features
        self.sharpness = nn.Parameter(torch.full((2,), 0.5))
        self.geometry = nn.Linear(width, 2)  # floor, logarithm of the distance
        self.place = nn.Linear(width, max(columns for _, columns in CAMERAS.values()) + LEVEL_CELLS[0])
        self.cells = nn.ModuleList([nn.Linear(width, 2) for _ in range(2)])  # shows the goal, holds the pixel goal
        self.way = nn.Linear(width, 2 * WAYPOINTS)

    def forward(self, **batch: Tensor) -> dict[str, Any]:
        """`losses` (1,), the mean over the questions, and its `parts` for the log."""
        painted = {camera: self.painted(camera, batch) for camera in CAMERAS}
        parts: dict[str, Tensor] = {}
        if self.stage == READ:
            features = {camera: image + _NOISE * SCALE * torch.randn_like(image) for camera, image in painted.items()}
        else:
            features = {camera: self.planner.encode(batch[camera]) for camera in CAMERAS}
            parts["features"] = sum(self._feature_loss(camera, features[camera], batch) for camera in CAMERAS)
        if self.stage == SEE:
            errors = [F.mse_loss(features[camera].float(), painted[camera].detach()) for camera in CAMERAS]
            parts["painted"] = sum(errors) / SCALE**2
        groups = {
            group: {name.removeprefix(f"{group}_"): value for name, value in batch.items() if name.startswith(group)}
            for group in (TURN, DRIVE)
        }
        groups = {group: own for group, own in groups.items() if own}
        total = sum(len(own["ids"]) for own in groups.values())
        for group, own in groups.items():
            share = len(own["ids"]) / total
            for name, value in self._question_losses(group, features, own).items():
                parts[name] = parts.get(name, 0.0) + share * value
        loss = sum(WEIGHTS[name] * value for name, value in parts.items())
        return {"losses": loss.reshape(1), "parts": {name: value.detach() for name, value in parts.items()}}

    # ------------------------------------------------------------------------------------------------- images

    def _feature_loss(self, camera: str, features: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        kinds, colours = self.looks_like(features)
        shown = batch[f"{camera}_kind"].flatten()
        weight = torch.where(shown == len(KINDS), _NOTHING, 1.0)
        named = sum(
            (F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none") * weight).sum()
            for logits, labels in ((kinds, batch[f"{camera}_kind"]), (colours, batch[f"{camera}_colour"]))
        )
        geometry = self.geometry(features).float()
        floor = F.binary_cross_entropy_with_logits(geometry[..., 0], batch[f"{camera}_floor"])
        distance = F.mse_loss(geometry[..., 1], batch[f"{camera}_distance"].log())
        return named / weight.sum() + 0.5 * (floor + distance)

    def painted(self, camera: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Features (B, cells, D) as they should be, from what each cell shows."""
        named = [
            torch.cat([self.planner.embeddings[tokens], self.nothing[number : number + 1]])[batch[f"{camera}_{what}"]]
            for number, (what, tokens) in enumerate((("kind", self._kinds), ("colour", self._colours)))
        ]
        measured = torch.stack([batch[f"{camera}_floor"], batch[f"{camera}_distance"].log()], -1)
        return (sum(named) + measured @ self.directions) / 2

    def looks_like(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """How much each cell resembles each kind and colour, the last of each being none: (…, cells, words)."""
        logits = []
        for number, tokens in enumerate((self._kinds, self._colours)):
            words = torch.cat([self.planner.embeddings[tokens], self.nothing[number : number + 1]])
            logits.append(features @ words.T.to(features.dtype) * self.sharpness[number])
        return logits[0], logits[1]

    # ---------------------------------------------------------------------------------------------- questions

    def decoded(
        self, group: str, features: Mapping[str, Tensor], own: Mapping[str, Tensor]
    ) -> tuple[Decoded, Tensor]:
        """The language model on the questions of a group, and which of its tokens are image cells (Q, L)."""
        seen = [features["level"][own["image"]]]
        if group == DRIVE:
            seen.append(features["look_down"][own["image"]])
        images = torch.cat(seen, 1)
        x = F.embedding(own["ids"], self.planner.embeddings).to(images.dtype)
        is_image = own["ids"] == self._image_token
        x = x.masked_scatter(is_image[..., None], images)
        if group == DRIVE:
            queries = self.planner.latent_queries.to(x.dtype).expand(len(x), -1, -1)
            x = x.scatter(1, _places(own["queries"], queries), queries)
        return self.planner.decode(x, own["positions"], own["asked"]), is_image

    def _question_losses(
        self, group: str, features: Mapping[str, Tensor], own: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        decoded, is_image = self.decoded(group, features, own)
        hidden = decoded.hidden
        count = len(hidden)
        losses = {"decision": self._answer_loss(hidden, own["labels"], own["asked"][:, 0]) / count}
        shows_goal = own["goal_cells"]
        levels = LEVEL_CELLS[0] * LEVEL_CELLS[1]
        for head, state in zip(self.cells, (decoded.middle, hidden), strict=True):
            cells = head(state[is_image].view(count, -1, state.shape[-1])).float()
            known = F.binary_cross_entropy_with_logits(cells[..., 0], shows_goal, pos_weight=cells.new_tensor(_SHOWN))
            losses["cells"] = losses.get("cells", 0.0) + known
            if group == DRIVE:
                found = F.cross_entropy(cells[:, levels:, 1], own["pixel_cell"])
                losses["spot"] = losses.get("spot", 0.0) + found
        losses["place"] = self._place_loss(decoded.middle[is_image].view(count, -1, hidden.shape[-1]))
        cell_index = is_image.nonzero()[:, 1].view(count, 1, -1)
        attention = decoded.attention.mean(1)
        attention = attention.gather(-1, cell_index.expand(-1, attention.shape[1], -1))
        goal = shows_goal[:, :levels]
        sizes = goal.sum(1)
        toward = (attention[:, 0, :levels].log_softmax(-1) * goal).sum(1) / sizes.clamp(min=1)
        losses["attention"] = -toward.sum() / count
        if group == DRIVE:
            for asked in (1, 2):
                losses["attention"] = losses["attention"] + F.cross_entropy(
                    attention[:, asked, levels:], own["pixel_cell"]
                )
            losses["pixel"] = self._pixel_loss(hidden, own)
            latents = hidden.gather(1, _places(own["queries"], self.planner.latent_queries.expand(count, -1, -1)))
            way = self.way(latents.mean(1)).float().view(count, WAYPOINTS, 2)
            losses["way"] = F.smooth_l1_loss(way, own["waypoints"] / _WAY_SCALE, beta=0.1)
        return losses

    def _place_loss(self, cells: Tensor) -> Tensor:
        """Rows and columns of image cells (Q, cells, D), the level image's first."""
        told = self.place(cells).float()
        loss: Tensor | float = 0.0
        start = 0
        for rows, columns in CAMERAS.values():
            if start == cells.shape[1]:
                break
            part = told[:, start : start + rows * columns].flatten(0, 1)
            cell = torch.arange(rows * columns, device=cells.device).repeat(len(cells))
            across, down = part.split([told.shape[-1] - LEVEL_CELLS[0], LEVEL_CELLS[0]], -1)
            loss = loss + F.cross_entropy(across, cell % columns) + F.cross_entropy(down, cell // columns)
            start += rows * columns
        return loss

    def _answer_loss(self, hidden: Tensor, labels: Tensor, decided_at: Tensor) -> Tensor:
        """Sum of the language-model loss on the answers but for coordinates."""
        row, column = (labels[:, 1:] != NO_LABEL).nonzero(as_tuple=True)
        logits = self.planner.network.lm_head(hidden[row, column]).float()
        losses = F.cross_entropy(logits, labels[row, column + 1], reduction="none")
        return (losses * torch.where(column == decided_at[row], 1.0, _FURTHER_TOKENS)).sum()

    def _pixel_loss(self, hidden: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        """Of column and row: being a step off is nearly right."""
        steps = torch.arange(len(NUMBERS), device=hidden.device)
        loss: Tensor | float = 0.0
        for number in range(2):
            logits = self.coordinate_logits(hidden, own["asked"][:, 1 + number], every_token=True)
            wanted = torch.exp(-0.5 * ((steps - own["pixel"][:, number, None]) / _SPREAD) ** 2)
            wanted = wanted / wanted.sum(1, keepdim=True)
            loss = loss - (wanted * logits.log_softmax(-1)[:, self._numbers]).sum(1).mean()
        return loss

    def coordinate_logits(self, hidden: Tensor, place: Tensor, every_token: bool = False) -> Tensor:
        """float32 logits of the numbers (or of all tokens) that follow these places."""
        logits = self.planner.network.lm_head(hidden[torch.arange(len(hidden)), place]).float()
        return logits if every_token else logits[:, self._numbers]


def _places(first: Tensor, queries: Tensor) -> Tensor:
    """Index (Q, n, D) of the n positions from `first` (Q,) on, for gather and scatter."""
    offsets = torch.arange(queries.shape[1], device=first.device)
    return (first[:, None] + offsets)[..., None].expand(-1, -1, queries.shape[-1])
