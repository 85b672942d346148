"""The denoiser with its linear layers in oneDNN's weight layout, for sampling on a CPU.

Same computation, same structure: every linear layer of the blocks is replaced by its packed form and everything else
is shared with the model it was made from, which stays as it is and keeps being the one that is trained and saved.
Measured on one Zen 4 core at release size with 16 samples: 1.1 times (float32), 1.05 times (bfloat16) as fast.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from .nextdit import NextDiT
from .packed_linear import PackedLinear, packing_works


class _PackedModule(nn.Module):
    """A frozen linear layer on inputs of any rank."""

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        super().__init__()
        bias = linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias
        self._linear = PackedLinear(linear.weight, bias, packed=True, rows=rows)

    def forward(self, x: Tensor) -> Tensor:
        return self._linear(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)


def packed_for_sampling(dit: NextDiT, rows: int) -> NextDiT:
    """A NextDiT whose `denoise` gives the same as that of ``dit``, faster on a CPU; only `denoise` may be used.

    Args:
        dit: with frozen weights; they must not change afterwards.
        rows: trajectory tokens per call of a linear layer, a hint for the layout.

    Returns:
        ``dit`` itself where packing does not exist for its device and dtype.
    """
    weight = next(dit.parameters())
    if weight.device.type != "cpu" or not packing_works(weight.dtype):
        return dit
    packed = copy.copy(dit)
    packed._modules = {**dit._modules, "layers": _packed(dit.layers, rows), "norm_out": _packed(dit.norm_out, rows)}
    return packed


@torch.inference_mode()
def _packed(module: nn.Module, rows: int) -> nn.Module:
    if isinstance(module, nn.Linear):
        return _PackedModule(module, rows)
    clone = copy.copy(module)  # shares parameters and settings
    clone._modules = {name: _packed(child, rows) for name, child in module._modules.items()}
    return clone
