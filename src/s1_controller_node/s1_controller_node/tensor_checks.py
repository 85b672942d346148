"""Checks on tensors handed to public functions: every error names the field, what was expected and what came."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_tensor(
    name: str,
    value: Tensor,
    shape: Sequence[int | str],
    *,
    low: float | None = None,
    high: float | None = None,
    integer: bool = False,
) -> Tensor:
    """Return ``value`` if it is a finite tensor of this shape and range.

    Args:
        name: how the caller calls it; begins every message.
        value: what was handed in.
        shape: expected sides; a string stands for any size of at least 1 and names it (``"samples"``).
        low, high: allowed range, both ends included.
        integer: expect an integer dtype instead of a floating point one.

    Raises:
        TypeError: no tensor, or another kind of dtype.
        ValueError: wrong rank or size, NaN or infinity, or a value out of range.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if integer == (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool):
        raise TypeError(f"{name} must be {'an integer' if integer else 'a floating point'} tensor, got {value.dtype}")
    expected = "(" + ", ".join(str(side) for side in shape) + ")"
    actual = tuple(value.shape)
    if len(actual) != len(shape) or any(
        (got < 1) if isinstance(want, str) else (got != want) for want, got in zip(shape, actual, strict=True)
    ):
        raise ValueError(f"{name} must have shape {expected}, got {actual}")
    if not integer and not torch.isfinite(value).all():
        bad = int((~torch.isfinite(value)).sum())
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite values of {value.numel()}")
    if low is not None or high is not None:
        smallest, largest = float(value.min()), float(value.max())
        if (low is not None and smallest < low) or (high is not None and largest > high):
            bounds = f"[{'-inf' if low is None else f'{low:g}'}, {'inf' if high is None else f'{high:g}'}]"
            raise ValueError(f"{name} must lie in {bounds}, got values from {smallest:g} to {largest:g}")
    return value
