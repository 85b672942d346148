"""Parameters are described, ranged, checked together, and locked while the node is configured."""

import dataclasses

import pytest
import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter

from dual_nav_util.node_parameters import NodeParameters
from dual_nav_util.params import ParameterError, build, parameter


@dataclasses.dataclass(frozen=True)
class Example:
    rate: float = parameter(20.0, "Commands per second", low=1.0, high=200.0, unit="Hz")
    samples: int = parameter(32, "Trajectories per frame", low=1, high=256)
    mode: str = parameter("sync", "Mode", choices=("sync", "partial_async"))
    model: str = parameter("", "Checkpoint folder")
    stamped: bool = parameter(False, "Stamped commands")
    slow: float = parameter(0.2, "Slow speed", low=0.0, high=1.0, unit="m/s", dynamic=True)
    fast: float = parameter(0.4, "Fast speed", low=0.0, high=1.0, unit="m/s", dynamic=True)

    def __post_init__(self) -> None:
        if self.slow > self.fast:
            raise ParameterError(f"parameter 'slow' is {self.slow}: must not exceed 'fast' ({self.fast})")


@pytest.fixture
def make_node():
    context = rclpy.Context()
    nodes = []

    def make(*overrides: str) -> Node:
        arguments = [a for override in overrides for a in ("-p", override)]
        rclpy.init(context=context, args=["--ros-args", *arguments])
        nodes.append(Node("example", context=context))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()
    context.try_shutdown()


def test_defaults_and_overrides_arrive_in_one_object(make_node):
    parameters = NodeParameters(make_node("samples:=4", "mode:=partial_async"), Example)
    assert parameters.read() == Example(samples=4, mode="partial_async")


def test_a_whole_number_is_taken_for_a_float(make_node):
    assert NodeParameters(make_node("rate:=30"), Example).read().rate == 30.0


def test_descriptors_carry_unit_and_range(make_node):
    node = make_node()
    NodeParameters(node, Example)
    rate, samples, mode = (node.describe_parameter(name) for name in ("rate", "samples", "mode"))
    assert rate.description == "Commands per second [Hz]"
    assert (rate.floating_point_range[0].from_value, rate.floating_point_range[0].to_value) == (1.0, 200.0)
    assert (samples.integer_range[0].from_value, samples.integer_range[0].to_value) == (1, 256)
    assert mode.additional_constraints == "one of 'sync', 'partial_async'"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rate:=0.5", r"'rate' is 0.5: must be 1 … 200 Hz"),
        ("rate:=1000", r"'rate' is 1000.*: must be 1 … 200 Hz"),
        ("rate:=.nan", r"'rate' is nan: must be 1 … 200 Hz"),
        ("samples:=0", r"'samples' is 0: must be 1 … 256"),
        ("samples:=3.5", r"'samples' is 3.5: must be a whole number"),
        ("samples:=true", r"'samples' is True: must be a whole number"),
        ("mode:=fast", r"'mode' is 'fast': must be one of 'sync', 'partial_async'"),
        ("model:=7", r"'model' is 7: must be a text"),
        ("slow:=0.9", r"'slow' is 0.9: must not exceed 'fast' \(0.4\)"),
    ],
)
def test_an_invalid_override_is_reported_when_read_by_name_value_and_what_is_allowed(make_node, override, message):
    parameters = NodeParameters(make_node(override), Example)
    with pytest.raises(ParameterError, match=message):
        parameters.read()


def test_setting_a_good_value_heals_a_bad_override(make_node):
    node = make_node("rate:=0.5")
    parameters = NodeParameters(node, Example)
    assert node.set_parameters([Parameter("rate", value=50.0)])[0].successful
    assert parameters.read().rate == 50.0


def test_while_locked_only_dynamic_parameters_change_and_the_reason_is_given(make_node):
    node, changes = make_node(), []
    parameters = NodeParameters(node, Example, changes.append)
    parameters.lock()
    refused = node.set_parameters([Parameter("mode", value="partial_async")])[0]
    assert not refused.successful
    assert "'mode' cannot change while the node is configured" in refused.reason
    assert node.set_parameters([Parameter("fast", value=0.8)])[0].successful
    assert [change.fast for change in changes] == [0.8]
    inconsistent = node.set_parameters([Parameter("slow", value=0.9)])[0]
    assert not inconsistent.successful
    assert "must not exceed 'fast' (0.8)" in inconsistent.reason
    parameters.unlock()
    assert node.set_parameters([Parameter("mode", value="partial_async")])[0].successful


def test_while_what_was_read_is_made_use_of_nothing_changes(make_node):
    node, changes = make_node(), []
    parameters = NodeParameters(node, Example, changes.append)
    parameters.freeze()
    refused = node.set_parameters([Parameter("fast", value=0.8)])[0]
    assert not refused.successful
    assert "'fast' cannot change while the node is being configured" in refused.reason
    parameters.lock()
    assert node.set_parameters([Parameter("fast", value=0.8)])[0].successful
    assert [change.fast for change in changes] == [0.8]


def test_a_number_without_range_or_with_a_default_outside_it_cannot_be_declared():
    with pytest.raises(TypeError, match="low and high"):
        parameter(1.0, "no range")
    with pytest.raises(TypeError, match=r"default 5.0 is not 0 … 1"):
        parameter(5.0, "outside", low=0.0, high=1.0)


def test_building_needs_no_ros():
    assert build(Example, {"samples": 2}).samples == 2
