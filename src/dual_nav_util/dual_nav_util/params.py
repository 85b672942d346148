"""ROS parameters from a dataclass: declared with descriptor and range, checked together, locked while in use.

A node's parameters are one frozen dataclass; every field is made by `parameter`:

    @dataclass(frozen=True)
    class Parameters:
        control_rate: float = parameter(20.0, "Commands per second", low=1.0, high=200.0, unit="Hz")

        def __post_init__(self) -> None:      # what concerns several fields together
            if ...: raise ParameterError(...)

Field types are bool, int, float and str. The dataclass itself needs no ROS.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar, get_type_hints

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

T = TypeVar("T")

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


class ParameterError(ValueError):
    """A parameter has a value that is not allowed; the text gives its name, value and what is allowed."""


@dataclasses.dataclass(frozen=True)
class _Rule:
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
    rule = _Rule(description, low, high, None if choices is None else tuple(choices), unit, dynamic)
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


class NodeParameters(Generic[T]):
    """Declares the fields of `spec` on a node and reads them back as one checked object.

    An override (launch file, YAML, command line) that the descriptor refuses does not raise here: the parameter is
    declared with its default, the bad value is remembered, and `read` reports it, so that configuration fails with a
    message instead of the process at start. Setting the parameter to a good value heals that.

    Between `lock` and `unlock` only dynamic fields can be set; `on_change` gets the new object then.
    """

    def __init__(self, node: Node, spec: type[T], on_change: Callable[[T], None] | None = None) -> None:
        self._node = node
        self._spec = spec
        self._on_change = on_change
        self._locked = False
        self._refused: dict[str, Any] = {}
        self._rules: dict[str, _Rule] = {}
        types = get_type_hints(spec)
        for field in dataclasses.fields(spec):  # type: ignore[arg-type]
            self._rules[field.name] = field.metadata["rule"]
            self._declare(field.name, field.default, types[field.name], field.metadata["rule"])
        node.add_on_set_parameters_callback(self._check_set)

    def read(self) -> T:
        """The values of now.

        Raises:
            ParameterError: the first value that is not allowed, or fields that do not fit each other.
        """
        values = {name: self._node.get_parameter(name).value for name in self._rules}
        return build(self._spec, values | self._refused)

    def lock(self) -> None:
        """From now on only dynamic parameters can be set."""
        self._locked = True

    def unlock(self) -> None:
        """All parameters can be set again; they are read at the next configuration."""
        self._locked = False

    def _declare(self, name: str, default: Any, kind: type, rule: _Rule) -> None:
        node, descriptor = self._node, _descriptor(kind, rule)
        try:
            node.declare_parameter(name, default, descriptor)
            return
        except (InvalidParameterTypeException, InvalidParameterValueException):
            pass
        # Declared once without type and range only to learn the override.
        node.declare_parameter(name, descriptor=ParameterDescriptor(dynamic_typing=True))
        override = node.get_parameter(name).value
        node.undeclare_parameter(name)
        if kind is float and type(override) is int and rule.admits(override):
            default = float(override)
        else:
            self._refused[name] = override
        node.declare_parameter(name, default, descriptor, ignore_override=True)

    def _check_set(self, changes: Iterable[Parameter]) -> SetParametersResult:
        wanted = {change.name: change.value for change in changes if change.name in self._rules}
        if not wanted:
            return SetParametersResult(successful=True)
        fixed = [name for name in wanted if not self._rules[name].dynamic]
        if self._locked and fixed:
            return SetParametersResult(
                successful=False,
                reason=f"parameter '{fixed[0]}' cannot change while the node is configured: "
                "deactivate and clean up the node first",
            )
        if self._locked:
            values = {name: self._node.get_parameter(name).value for name in self._rules}
            try:
                changed = build(self._spec, values | wanted)
            except ParameterError as error:
                return SetParametersResult(successful=False, reason=str(error))
            if self._on_change is not None:
                self._on_change(changed)
        for name in wanted:
            self._refused.pop(name, None)
        return SetParametersResult(successful=True)


def _descriptor(kind: type, rule: _Rule) -> ParameterDescriptor:
    unit = f" [{rule.unit}]" if rule.unit else ""
    descriptor = ParameterDescriptor(description=rule.description + unit)
    if rule.choices is not None:
        descriptor.additional_constraints = rule.allowed()
    elif rule.low is not None and rule.high is not None:
        if kind is int:
            descriptor.integer_range = [IntegerRange(from_value=int(rule.low), to_value=int(rule.high), step=1)]
        else:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(rule.low), to_value=float(rule.high), step=0.0)
            ]
    return descriptor
