"""Muon for the matrices of the small planner's layers, AdamW for all else.

A step of Muon (Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024) has the same length in
every direction of a matrix. What it brings the small planner is in docs/small_model.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dual_nav_training.run_folder import RunError
from dual_nav_training.trainer import NavTrainer

# Embeddings, the language model's head and the training's own heads are no maps between states: AdamW's.
_LAYERS = (".language_model.layers.", ".visual.blocks.", ".visual.merger.mlp.")


class Together(torch.optim.Optimizer):
    """Several optimisers as one; their groups are its groups, so that one schedule sets all learning rates."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        if not parts:
            raise ValueError("Together: expected at least one optimiser, got none")
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share_groups()

    def _share_groups(self) -> None:
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        if closure is not None:
            raise ValueError("Together.step takes no closure: the parts would evaluate it one after the other")
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()


class MuonTrainer(NavTrainer):
    """NavTrainer whose optimiser is Muon for the layers' matrices and AdamW for the rest.

    matrices_rate: learning rate of the matrices in parts of AdamW's; at 1 Muon's steps have the size of AdamW's.
    """

    def __init__(self, *args: Any, matrices_rate: float = 1.0, **options: Any) -> None:
        self._matrices_rate = matrices_rate
        super().__init__(*args, **options)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is not None:
            return self.optimizer
        if not hasattr(torch.optim, "Muon"):
            version = torch.__version__
            raise RunError(f"the small planner is trained with Muon: PyTorch 2.9 or later, this is {version}")
        model = self.model if model is None else model
        trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        matrices = [(n, p) for n, p in trained if p.ndim == 2 and any(part in n for part in _LAYERS)]
        chosen = {name for name, _ in matrices}
        others = [(name, parameter) for name, parameter in trained if name not in chosen]
        parts: list[torch.optim.Optimizer] = []
        if matrices:
            groups = self.parameter_groups(model, matrices)
            for group in groups:
                group["lr"] *= self._matrices_rate
            parts.append(torch.optim.Muon(groups, adjust_lr_fn="match_rms_adamw"))
        if others:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            parts.append(kind(self.parameter_groups(model, others), **options))
        self.optimizer = Together(parts)
        return self.optimizer
