"""Parameters of a node as a dataclass: descriptions, ranges, checks of single values and of all together.

A node's parameters are one frozen dataclass; every field is made by `parameter`:

    @dataclass(frozen=True)
    class Parameters:
        control_rate: float = parameter(20.0, "Commands per second", low=1.0, high=200.0, unit="Hz")

        def __post_init__(self) -> None:      # what concerns several fields together
            if ...: raise ParameterError(...)

Field types are bool, int, float and str. Plain Python; `node_parameters.py` declares such a dataclass on a ROS node.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


class ParameterError(ValueError):
    """A parameter has a value that is not allowed; the text gives its name, value and what is allowed."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """What is allowed for one parameter."""

    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] | None = None
    unit: str = ""
    dynamic: bool = False

    def allowed(self) -> str:
        """The allowed values in words."""
        if self.choices is not None:
            return "one of " + ", ".join(repr(choice) for choice in self.choices)
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.low:g} … {self.high:g}{unit}"

    def admits(self, value: Any) -> bool:
        if self.choices is not None:
            return value in self.choices
        if self.low is None or self.high is None:
            return True
        return math.isfinite(value) and self.low <= value <= self.high


def parameter(
    default: Any,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[Any] | None = None,
    unit: str = "",
    dynamic: bool = False,
) -> Any:
    """A dataclass field that is a ROS parameter.

    Args:
        default: value without an override.
        description: what it does, in plain words.
        low, high: allowed range with both ends; numbers need both.
        choices: the allowed values instead of a range.
        unit: of the value.
        dynamic: may change while the node is configured.
    """
    is_number = isinstance(default, (int, float)) and not isinstance(default, bool)
    if (low is None) != (high is None) or (is_number and low is None and choices is None):
        raise TypeError("a number needs low and high, or choices")
    rule = Rule(description, low, high, None if choices is None else tuple(choices), unit, dynamic)
    if not rule.admits(default):
        raise TypeError(f"the default {default!r} is not {rule.allowed()}")
    return dataclasses.field(default=default, metadata={"rule": rule})


def build(spec: type[T], values: dict[str, Any]) -> T:
    """An instance of the dataclass from raw values, each checked.

    A whole number is accepted for a float, as people write `20` in YAML.

    Raises:
        ParameterError: type, range, choice, or a check of the dataclass's own `__post_init__`.
    """
    types = get_type_hints(spec)
    checked = {}
    for field in dataclasses.fields(spec):  # type: ignore[arg-type]
        if field.name not in values:
            continue
        value, kind, rule = values[field.name], types[field.name], field.metadata["rule"]
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise ParameterError(f"parameter '{field.name}' is {value!r}: must be {_KINDS[kind]}")
        if not rule.admits(value):
            raise ParameterError(f"parameter '{field.name}' is {value!r}: must be {rule.allowed()}")
        checked[field.name] = value
    return spec(**checked)
