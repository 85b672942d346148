"""Range checks shared by the configuration dataclasses: a bad value is refused with its name."""

from __future__ import annotations

import math
from typing import Any


def check_bounds(config: Any, **bounds: tuple[float, float]) -> None:
    """Check numeric fields of a configuration object.

    Args:
        config: the dataclass instance, usually ``self`` in ``__post_init__``.
        bounds: field name = (smallest, largest allowed value), both included.

    Raises:
        ValueError: names class, field, value and range of the first field that is no finite number in its range.
    """
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or not low <= value <= high:
            raise ValueError(
                f"{type(config).__name__}.{name}: expected a number in [{low:g}, {high:g}], got {value!r}"
            )


def check_choice(config: Any, name: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless the text field ``name`` is one of ``choices``."""
    value = getattr(config, name)
    if value not in choices:
        raise ValueError(f"{type(config).__name__}.{name}: expected one of {', '.join(choices)}, got {value!r}")
