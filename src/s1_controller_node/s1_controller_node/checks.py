"""Checks of what comes in through a public function: the error names the argument, what was expected
and what was given, so that a wrong array is found where it enters and not ten calls later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def _describe(shape: Sequence[int | None]) -> str:
    inner = ", ".join("any" if n is None else str(n) for n in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"


def check_shape(name: str, given: Sequence[int], expected: Sequence[int | None]) -> None:
    """Raise ValueError unless ``given`` has the rank and sizes of ``expected`` (None: any size but zero)."""
    fits = len(given) == len(expected) and all(
        (n > 0 if e is None else n == e) for n, e in zip(given, expected, strict=True)
    )
    if not fits:
        raise ValueError(f"{name}: expected shape {_describe(expected)}, got {tuple(given)}")


def check_array(
    name: str, value: Any, shape: Sequence[int | None], *, kind: str = "f", minimum: float | None = None
) -> np.ndarray:
    """``value`` as a numpy array after checking type, rank, sizes, dtype kind and values.

    Args:
        name: of the argument, for the error.
        value: a numpy array; nothing is converted silently.
        shape: expected sizes, None for any size but zero.
        kind: ``"f"`` floating point (all values finite) or ``"u8"`` uint8.
        minimum: smallest allowed value.

    Raises:
        TypeError: no array, or another dtype. ValueError: shape, NaN, infinity or a value below ``minimum``.
    """
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name}: expected a numpy array, got {type(value).__name__}")
    wrong = value.dtype != np.uint8 if kind == "u8" else value.dtype.kind != "f"
    if wrong:
        raise TypeError(f"{name}: expected dtype {'uint8' if kind == 'u8' else 'float'}, got {value.dtype}")
    check_shape(name, value.shape, shape)
    if kind == "f":
        if not np.isfinite(value).all():
            count = int(np.count_nonzero(~np.isfinite(value)))
            raise ValueError(f"{name}: expected finite values, got {count} NaN or infinite of {value.size}")
        if minimum is not None and value.min() < minimum:
            raise ValueError(f"{name}: expected values of at least {minimum}, got {value.min()}")
    return value


def check_tensor(name: str, value: Any, shape: Sequence[int | None], *, finite: bool = True) -> Tensor:
    """Like :func:`check_array` for a floating point torch tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(f"{name}: expected a floating point dtype, got {value.dtype}")
    check_shape(name, value.shape, shape)
    if finite and not torch.isfinite(value).all():
        count = int((~torch.isfinite(value)).sum())
        raise ValueError(f"{name}: expected finite values, got {count} NaN or infinite of {value.numel()}")
    return value


def check_positive_int(name: str, value: Any) -> int:
    """``value`` if it is an integer above zero."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, got {value}")
    return int(value)


def check_number(name: str, value: Any, minimum: float = -np.inf, maximum: float = np.inf) -> float:
    """``value`` if it is a finite number in [minimum, maximum]."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not np.isfinite(value) or not minimum <= value <= maximum:
        raise ValueError(f"{name}: expected a number in [{minimum}, {maximum}], got {value}")
    return float(value)


def check_range(name: str, value: Tensor, minimum: float = -np.inf, maximum: float = np.inf) -> Tensor:
    """``value`` if all its elements lie in [minimum, maximum]."""
    smallest, largest = float(value.min()), float(value.max())
    if not minimum <= smallest or not largest <= maximum:
        raise ValueError(f"{name}: expected values in [{minimum:g}, {maximum:g}], got {smallest:g} to {largest:g}")
    return value


def check_indices(name: str, value: Any, shape: Sequence[int | None], size: int) -> Tensor:
    """``value`` if it is an integer tensor of this shape with elements in 0..size-1."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch tensor, got {type(value).__name__}")
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name}: expected an integer dtype, got {value.dtype}")
    check_shape(name, value.shape, shape)
    return check_range(name, value, 0, size - 1)
