"""`doctor`: listens to a running system and says in plain words what is missing or wrong, and what to do.

    doctor                         in the namespace of ROS_NAMESPACE or none, ten seconds
    doctor --namespace robot1      one robot of several
    doctor --json                  for programs

It publishes nothing and changes nothing. Renamed topics are those the nodes say they have; without nodes they can be
given: doctor --ros-args -r depth:=camera/aligned_depth_to_color/image_raw

Exit status: 0 healthy, 1 something is wrong, 2 it could not listen.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from dual_nav_bringup.doctor_findings import (
    S1,
    S2,
    WATCHDOG,
    Finding,
    Limits,
    Observations,
    Topic,
    healthy,
    judge,
)
from dual_nav_bringup.doctor_texts import Level

WIDTH = 100  # of the printed text


def figures(seen: Observations) -> dict[str, Any]:
    """What was measured, for --json and for the table."""
    topics = {}
    for topic in seen.topics.values():
        ages = seen.ages(topic.name)
        topics[topic.name] = {
            "topic": topic.topic,
            "messages": len(topic.arrivals),
            "hertz": round(seen.rate(topic.name), 2),
            "age_ms_p50": round(float(np.median(ages)) * 1e3, 1) if len(ages) else None,
            "age_ms_p95": round(float(np.percentile(ages, 95)) * 1e3, 1) if len(ages) else None,
            "content": _most(topic.details),
            "publishers": sorted({publisher.node for publisher in topic.publishers}),
            "subscribers": sorted({subscriber.node for subscriber in topic.subscribers}),
        }
    nodes = {
        name: {"present": node.present, "lifecycle": node.lifecycle, "answers": node.alive}
        for name in (S2, S1, WATCHDOG)
        if (node := seen.nodes.get(name)) is not None
    }
    latencies = [report.latency for report in seen.reports if report.latency > 0.0]
    latency = {
        "camera_to_command_ms": _percentiles(latencies),
        "camera_to_plan_ms": _percentiles(list(seen.ages("s2/plan"))),
        "planner_inference_ms": _percentiles(seen.plan_times),
    }
    return {"topics": topics, "nodes": nodes, "latency": latency}


def report(seen: Observations, findings: Sequence[Finding]) -> str:
    """What the doctor prints."""
    time_source = "/clock" if seen.simulated else "the machine's clock"
    lines = [f"Listened {seen.seconds:.0f} s in namespace {seen.namespace}; time: {time_source}; {seen.rmw}", ""]
    measured = figures(seen)
    lines.append(f"  {'topic':<14}{'rate':>9}{'age':>10}   topic")
    for topic in seen.topics.values():
        if topic.publishers or topic.subscribers:
            lines.append(_topic_line(topic, measured["topics"][topic.name]))
    lines += ["", *_node_lines(seen, measured)]
    wrong = [finding for finding in findings if finding.level != Level.NOTE]
    lines += ["", f"{len(wrong)} finding{'s' * (len(wrong) > 1)}:" if wrong else "Nothing wrong was found."]
    for number, finding in enumerate(wrong, 1):
        lines += _wrapped(f"{number}. {finding.level.name} {finding.text}", "   ")
        lines += _wrapped(f"   → {finding.advice}", "     ") if finding.advice else []
    for finding in findings:
        if finding.level == Level.NOTE:
            lines += _wrapped(f"Note: {finding.text} {finding.advice}".rstrip(), "      ")
    return "\n".join(lines)


def _topic_line(topic: Topic, measured: dict[str, Any]) -> str:
    rate = f"{measured['hertz']:.1f} Hz" if len(topic.arrivals) > 1 else f"{len(topic.arrivals)} msg"
    age = f"{measured['age_ms_p50']:.0f} ms" if measured["age_ms_p50"] is not None else ""
    to_base = topic.name == "cmd_vel"
    ends = ", ".join(measured["subscribers" if to_base else "publishers"]) or "nobody"
    content = f": {measured['content']}" if measured["content"] else ""
    return f"  {topic.name:<14}{rate:>9}{age:>10}   {topic.topic} {'to' if to_base else 'from'} {ends}{content}"


def _node_lines(seen: Observations, measured: dict[str, Any]) -> list[str]:
    limits, lines = Limits.of(seen), []
    for name, node in measured["nodes"].items():
        state = node["lifecycle"] or ("does not answer" if node["present"] else "not there")
        if name == S2 and (latency := measured["latency"]["camera_to_plan_ms"]):
            state += f"; a plan is {latency[0]:.0f} ms old when it comes (plan_timeout {limits.plan_timeout:g} s)"
        if name == S1 and seen.reports:
            state += f"; {seen.reports[-1].state.name}"
            if latency := measured["latency"]["camera_to_command_ms"]:
                state += f"; camera to command {latency[0]:.0f} ms, at most {latency[1]:.0f} ms in 95 of 100"
        lines.append(f"  {name:<18}{state}")
    return lines


def _most(counted: Counter[str]) -> str:
    return counted.most_common(1)[0][0] if counted else ""


def _percentiles(seconds: Sequence[float]) -> tuple[float, float] | None:
    """50th and 95th percentile in milliseconds."""
    if not seconds:
        return None
    p50, p95 = np.percentile(seconds, (50, 95))
    return round(float(p50) * 1e3, 1), round(float(p95) * 1e3, 1)


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def seconds_given(word: str) -> float:
    """For argparse: a time to listen."""
    value = float(word)
    if not 1.0 <= value <= 600.0:
        raise argparse.ArgumentTypeError(f"{word} is not between 1 and 600")
    return value


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--namespace",
        "-n",
        default=os.environ.get("ROS_NAMESPACE"),
        help="of the robot (default: ROS_NAMESPACE, else none)",
    )
    parser.add_argument("--seconds", "-s", type=seconds_given, default=10.0, help="to listen (default: 10)")
    parser.add_argument("--json", action="store_true", help="print findings and figures as JSON")
    try:
        from rclpy.exceptions import NameValidationException
        from rclpy.utilities import remove_ros_args

        from dual_nav_bringup.doctor_listener import Listener
        from dual_nav_bringup.replay import spinning_node
    except ImportError as error:
        print(f"doctor: ROS 2 or the workspace is not sourced ({error}): . scripts/env.sh", file=sys.stderr)
        return 2
    words = remove_ros_args(sys.argv)[1:] if words is None else words
    options = parser.parse_args(words)
    try:
        with spinning_node("doctor", options.namespace) as node:
            if not options.json:
                print(f"Listening for {options.seconds:.0f} s …", file=sys.stderr)
            seen = Listener(node).listen(options.seconds)
    except KeyboardInterrupt:
        return 130
    except NameValidationException as error:
        print(f"doctor: --namespace {options.namespace}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    findings = judge(seen)
    if options.json:
        told = [dataclasses.asdict(finding) | {"level": finding.level.name} for finding in findings]
        print(json.dumps({"healthy": healthy(findings), "findings": told, **figures(seen)}, indent=2))
    else:
        print(report(seen, findings))
    return 0 if healthy(findings) else 1


if __name__ == "__main__":
    sys.exit(main())
