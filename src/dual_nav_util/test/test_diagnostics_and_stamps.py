"""Figures are over bounded windows, repeated errors are logged once, the worst level wins."""

import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus

from dual_nav_util.diagnostics import EventRate, Incidents, LatencyWindow, StatusBuilder, diagnostic_array
from dual_nav_util.stamps import seconds_between, to_nanoseconds, to_stamp


def test_stamps_survive_the_way_there_and_back_exactly():
    nanoseconds = 1_763_829_012_123_456_789
    assert to_nanoseconds(to_stamp(nanoseconds)) == nanoseconds
    assert to_nanoseconds(Time(sec=1, nanosec=5)) == 1_000_000_005
    assert seconds_between(2_000_000_000, 500_000_000) == -1.5


@pytest.mark.parametrize("nanoseconds", [-1, 2**31 * 10**9])
def test_a_stamp_that_fits_no_message_is_an_error(nanoseconds):
    with pytest.raises(ValueError, match=str(nanoseconds)):
        to_stamp(nanoseconds)


def test_percentiles_are_those_of_the_newest_values_only():
    window = LatencyWindow(size=100)
    assert window.percentiles() is None
    for value in [1000.0] * 50 + [float(v) for v in range(100)]:
        window.add(value)
    p50, p95, p99 = window.percentiles()
    assert (p50, p95, p99) == pytest.approx((49.5, 94.05, 98.01))


def test_a_rate_falls_to_zero_when_events_stop():
    rate = EventRate(period=2.0)
    for step in range(31):
        rate.tick(now=100 + step / 10)
    assert rate.hertz(now=103.0) == pytest.approx(10.0)
    assert rate.hertz(now=110.0) == 0.0
    assert rate.total == 31


def test_a_repeated_error_is_logged_once_per_quiet_time_with_the_count():
    logged = []
    incidents = Incidents(logged.append, quiet=5.0)
    for step in range(10):
        incidents.report("image", f"bad image {step}", now=100.0 + step)
    incidents.report("plan", "bad plan", now=101.0)
    assert logged == [
        "bad image 0",
        "bad image 5 (4 more of this kind since the last message)",
        "bad plan",
    ]
    assert [(i.kind, i.text, i.count) for i in incidents.recent(1.5, now=110.0)] == [("image", "bad image 9", 10)]
    assert incidents.count("plan") == 1


def test_the_worst_level_gives_level_and_message():
    status = StatusBuilder("s1: sensors")
    status.warn("slow")
    status.error("no rgb")
    status.error("no odom")
    status.value("rgb [Hz]", 29.97)
    built = status.build("fine")
    assert built.level == DiagnosticStatus.ERROR
    assert built.message == "no rgb; no odom"
    assert [(v.key, v.value) for v in built.values] == [("rgb [Hz]", "29.970")]
    assert StatusBuilder("x").build("fine").message == "fine"
    assert diagnostic_array(5, built).header.stamp.nanosec == 5
