"""What the small planner is trained on: its answers, and a good deal that the data of a simulator can tell beyond.

The language-model loss alone finds no connection between words and image cells in the time there is. So the vision
tower first learns to SEE; then all learns to GROUND words in images. In training

- image features are compared with the words' own embeddings: a cell that shows a blue chair must resemble "blue" and
  "chair"; and they must tell floor and distance (`features`);
- inside the language model, image cells must know their row and column (`place`): the vision tower cannot tell them,
  its attention knows relative positions only; what would be to do if what they show was the goal (`advice`); and
  which landmarks stand beside what they show, and in which room that is (`beside`);
- the positions that answer must know what the instruction names (`named`), and attend to the image cells that show
  what the answer leads to, or to the token before the image when it leads nowhere (`attention`);
- the latents must tell the way to come (`way`), which S1 will need of them.

The heads for this are left out of the checkpoint: what ships is a plain Qwen2.5-VL.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from dual_nav_training.conversation import NO_LABEL
from dual_nav_training.small.language import COLOURS, IMAGE_SIDE, KINDS, NUMBERS, ROOMS, word_tokens
from dual_nav_training.small.network import SCALE, Decoded, SmallPlanner
from dual_nav_training.small.views import CELLS, PIXEL_GOAL, SIDE, WAYPOINTS

SEE, GROUND = STAGES = ("see", "ground")
WEIGHTS = {
    "features": 0.5,
    "place": 0.2,
    "advice": 0.5,
    "beside": 0.2,
    "named": 0.5,
    "attention": 0.5,
    "decision": 1.0,
    "pixel": 0.5,
    "way": 1.0,
}
_SPREAD = 1.2  # of a coordinate's label over its neighbours, in steps
# Few answers are these; to miss one costs more. Not so to look around to the right: in doubt always to the same
# side, or one looks to and fro for ever. Nor to drive: a goal that is missed is seen again the next time around, but
# whoever drives to another thing stops there.
_DECISION_WEIGHTS = {"STOP": 1.5, "↑": 1.5}
_FURTHER_TOKENS = 0.3  # weight of an answer's tokens behind the one that decides
_IS_BESIDE = 4.0  # weight of the few words that are right
_HARDLY = -1.0  # logit of each word at first
_NOTHING = 0.15  # weight of cells that show no object: there are many
_WAY_SCALE = 2.0  # metres


class GroundingTask(nn.Module):
    """The planner with its training heads; `forward` takes a batch of `Collate` and gives the loss."""

    def __init__(self, planner: SmallPlanner, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.stage = GROUND
        self.planner = planner
        width = planner.latent_queries.shape[-1]
        token = tokenizer.token_to_id
        self.register_buffer("_kinds", torch.tensor(word_tokens(tokenizer, KINDS)), persistent=False)
        self.register_buffer("_colours", torch.tensor(word_tokens(tokenizer, COLOURS)), persistent=False)
        self.register_buffer("_marks", torch.tensor(word_tokens(tokenizer, [*KINDS, *ROOMS])), persistent=False)
        self.register_buffer("_numbers", torch.tensor([token(number) for number in NUMBERS]), persistent=False)
        weights = torch.ones(len(planner.embeddings))
        for symbol, weight in _DECISION_WEIGHTS.items():
            weights[token(symbol)] = weight
        self.register_buffer("_decision_weights", weights, persistent=False)
        self.image_token_id = token("<|image_pad|>")
        self.nothing = nn.Parameter(SCALE * torch.randn(2, width))  # what no kind, no colour resembles
        self.sharpness = nn.Parameter(torch.full((2,), 0.5))
        self.geometry = nn.Linear(width, 2)  # floor, logarithm of the distance
        self.place = nn.Linear(width, 2 * SIDE)
        self.advice = nn.Linear(width, PIXEL_GOAL + 1 + 2)  # kind of answer, column and row
        self.beside = nn.Linear(width, width + 1)  # to compare with words, and a threshold
        for parameter in self.beside.parameters():  # compared with words, anything else says far too much at first
            nn.init.zeros_(parameter)
        nn.init.constant_(self.beside.bias[-1:], _HARDLY)
        self.way = nn.Linear(width, 2 * WAYPOINTS)

    def forward(self, **batch: Tensor) -> dict[str, Any]:
        """`losses` (1,), the mean over the questions, and its `parts` for the log."""
        features = self.planner.encode(batch["image"])
        parts = {"features": self._feature_loss(features, batch)}
        if self.stage == GROUND:
            parts |= self._question_losses(self.decoded(features, batch), batch)
        loss = sum(WEIGHTS[name] * value for name, value in parts.items())
        return {"losses": loss.reshape(1), "parts": {name: value.detach() for name, value in parts.items()}}

    # ------------------------------------------------------------------------------------------------- images

    def _feature_loss(self, features: Tensor, batch: dict[str, Tensor]) -> Tensor:
        weight = torch.where(batch["kind"].flatten() == len(KINDS), _NOTHING, 1.0)
        named: Tensor | float = 0.0
        for logits, what in zip(self.looks_like(features), ("kind", "colour"), strict=True):
            losses = F.cross_entropy(logits.flatten(0, 1).float(), batch[what].flatten(), reduction="none")
            named = named + (losses * weight).sum() / weight.sum()
        geometry = self.geometry(features).float()
        floor = F.binary_cross_entropy_with_logits(geometry[..., 0], batch["floor"])
        distance = F.mse_loss(geometry[..., 1], batch["distance"].log())
        return named + 0.5 * (floor + distance)

    def looks_like(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """How much each cell resembles each kind and colour, the last of each being none: (…, cells, words)."""
        logits = []
        for number, tokens in enumerate((self._kinds, self._colours)):
            words = torch.cat([self.planner.embeddings[tokens], self.nothing[number : number + 1]])
            logits.append(features @ words.T.to(features.dtype) * self.sharpness[number])
        return logits[0], logits[1]

    # ---------------------------------------------------------------------------------------------- questions

    def decoded(self, features: Tensor, batch: dict[str, Tensor]) -> Decoded:
        """The language model on packed questions: each sees the image and itself."""
        x = F.embedding(batch["ids"], self.planner.embeddings).to(features.dtype)
        x = x.masked_scatter((batch["ids"] == self.image_token_id)[..., None], features)
        queries = self.planner.latent_queries[0].to(x.dtype)
        query = batch["query"]
        x = torch.where(query[..., None] < 0, x, queries[query.clamp(min=0)])
        part, length = batch["part"], x.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        mask = causal & ((part[:, None] == 0) | (part[:, None] == part[:, :, None]))
        return self.planner.decode(x, batch["positions"], mask, batch["row"], batch["asked"])

    def _question_losses(self, decoded: Decoded, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        row, asked, drives = batch["row"], batch["asked"], batch["drives"]
        count = max(1, len(row))
        is_image = batch["ids"] == self.image_token_id
        # As a layer sees them. States between layers grow to many times the scale of what goes in, and so would the
        # gradients of what looks at them: they would drown those of the answers.
        early, late = (
            F.rms_norm(state[is_image], state.shape[-1:]).view(len(is_image), CELLS, -1)
            for state in (decoded.early, decoded.late)
        )
        losses = {
            "place": self._place_loss(early),
            "advice": self._advice_loss(late, batch),
            "beside": self._beside_loss(late, batch["beside"]),
        }
        losses["named"] = sum(
            F.cross_entropy(logits.float(), batch["named"][:, number], reduction="sum") / count
            for number, logits in enumerate(self.looks_like(decoded.late[row, asked[:, 0]]))
        )
        wanted = batch["look_at"][:, None]
        attended = decoded.attention.log_softmax(-1)[..., : wanted.shape[-1]].mean(2)
        # How much is missing from what should be: zero when it is right.
        toward = torch.where(wanted > 0, wanted * (wanted.clamp(min=1e-9).log() - attended), 0.0).sum(-1)
        losses["attention"] = (toward[:, 0].sum() + toward[drives, 1:].mean(1).sum()) / count
        losses["decision"] = self._answer_loss(decoded.hidden, batch) / count
        if drives.any():
            row, asked = row[drives], asked[drives]
            losses["pixel"] = self._pixel_loss(decoded.hidden, row, asked, batch["pixel"][drives])
            latents = decoded.hidden[batch["query"] >= 0].view(len(row), -1, decoded.hidden.shape[-1])
            way = self.way(latents.mean(1)).float().view(-1, WAYPOINTS, 2)
            losses["way"] = F.smooth_l1_loss(way, batch["waypoints"][drives] / _WAY_SCALE, beta=0.1)
        return losses

    def _place_loss(self, cells: Tensor) -> Tensor:
        """Rows and columns of image cells (B, cells, D)."""
        down, across = self.place(cells).float().flatten(0, 1).chunk(2, -1)
        cell = torch.arange(CELLS, device=cells.device).repeat(len(cells))
        return F.cross_entropy(down, cell // SIDE) + F.cross_entropy(across, cell % SIDE)

    def _advice_loss(self, cells: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """What to do to get to what a cell shows; nothing of cells that show no object."""
        told = self.advice(cells).float()
        kind = batch["advice"][..., 0].long()
        known, drives = kind >= 0, kind == PIXEL_GOAL
        what = F.cross_entropy(told[known][:, :-2], kind[known], reduction="sum")
        where = F.smooth_l1_loss(told[drives][:, -2:], batch["advice"][drives][:, 1:], beta=0.05, reduction="sum")
        return (what + 10 * where) / known.sum().clamp(min=1)

    def _beside_loss(self, cells: Tensor, beside: Tensor) -> Tensor:
        known = (beside >= 0).any(-1)
        told = self.beside(cells[known])
        logits = (told[:, :-1] @ self.planner.embeddings[self._marks].T.to(told.dtype) + told[:, -1:]).float()
        wanted = beside[known]
        weight = torch.where(wanted > 0, _IS_BESIDE, 1.0) * (wanted >= 0)
        losses = F.binary_cross_entropy_with_logits(logits, wanted.clamp(min=0), weight, reduction="sum")
        return losses / known.sum().clamp(min=1)

    def _answer_loss(self, hidden: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Sum of the language-model loss on the answers but for coordinates."""
        row, place = (batch["labels"][:, 1:] != NO_LABEL).nonzero(as_tuple=True)
        logits = self.planner.network.lm_head(hidden[row, place]).float()
        labels = batch["labels"][row, place + 1]
        losses = F.cross_entropy(logits, labels, reduction="none")
        decides = torch.zeros_like(batch["labels"], dtype=torch.bool)
        decides[batch["row"], batch["asked"][:, 0]] = True
        return (losses * torch.where(decides[row, place], self._decision_weights[labels], _FURTHER_TOKENS)).sum()

    def _pixel_loss(self, hidden: Tensor, row: Tensor, asked: Tensor, pixel: Tensor) -> Tensor:
        """Of column and row: being a step off is nearly right."""
        steps = torch.arange(len(NUMBERS), device=hidden.device)
        loss: Tensor | float = 0.0
        for number in range(2):
            logits = self.planner.network.lm_head(hidden[row, asked[:, 1 + number]]).float()
            wanted = torch.exp(-0.5 * ((steps - pixel[:, number, None]) / _SPREAD) ** 2)
            wanted = wanted / wanted.sum(1, keepdim=True)
            missing = wanted.clamp(min=1e-9).log() - logits.log_softmax(-1)[:, self._numbers]
            loss = loss + (wanted * missing).sum(1).mean()
        return loss

    def coordinate_logits(self, hidden: Tensor, row: Tensor, place: Tensor) -> Tensor:
        """float32 logits of the numbers that may follow these places."""
        return self.planner.network.lm_head(hidden[row, place]).float()[:, self._numbers]


def advised(answers: Tensor) -> Tensor:
    """Answers (…, 4) as the `advice` of a batch has them: kind, column and row in parts of the image's side."""
    return torch.cat([answers[..., :1].float(), answers[..., 2:].float() / IMAGE_SIDE], -1)
