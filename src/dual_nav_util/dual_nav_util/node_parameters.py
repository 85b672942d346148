"""Declares a parameter dataclass (`params.py`) on a ROS node and reads it back, checked.

This is a ROS module: it imports rclpy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar, get_type_hints

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from .params import ParameterError, Rule, build

T = TypeVar("T")


class NodeParameters(Generic[T]):
    """Declares the fields of `spec` on a node and reads them back as one checked object.

    An override (launch file, YAML, command line) that the descriptor refuses does not raise here: the parameter is
    declared with its default, the bad value is remembered, and `read` reports it, so that configuration fails with a
    message instead of the process at start. Setting the parameter to a good value heals that.

    Between `lock` and `unlock` only dynamic fields can be set; `on_change` gets the new object then. From `freeze` to
    the one or the other none can: what was read is being made use of.
    """

    def __init__(self, node: Node, spec: type[T], on_change: Callable[[T], None] | None = None) -> None:
        self._node = node
        self._spec = spec
        self._on_change = on_change
        self._locked = self._frozen = False
        self._refused: dict[str, Any] = {}
        self._rules: dict[str, Rule] = {}
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

    def freeze(self) -> None:
        """From now on no parameter can be set."""
        self._frozen = True

    def lock(self) -> None:
        """From now on only dynamic parameters can be set."""
        self._locked, self._frozen = True, False

    def unlock(self) -> None:
        """All parameters can be set again; they are read at the next configuration."""
        self._locked = self._frozen = False

    def _declare(self, name: str, default: Any, kind: type, rule: Rule) -> None:
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
        if self._frozen:
            return SetParametersResult(
                successful=False,
                reason=f"parameter '{next(iter(wanted))}' cannot change while the node is being configured: "
                "set it again when that is done",
            )
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


def _descriptor(kind: type, rule: Rule) -> ParameterDescriptor:
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
