"""What is wrong with a running system, judged from what was heard of it: observations in, findings out.

Plain Python, no ROS: `doctor_listener.py` makes the observations, `doctor.py` prints. Times of a message are in
nanoseconds on both clocks, the machine's and that of /clock; the one the nodes use counts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from dual_nav_bringup.doctor_texts import TEXTS, Level
from dual_nav_util.controller_state import State

SECOND = 1_000_000_000
SENSORS = ("rgb", "depth", "camera_info", "odom")
CAMERA = ("rgb", "depth", "camera_info")
S1, S2, WATCHDOG = "s1_controller", "s2_planner", "cmd_vel_watchdog"

# Thresholds that are no parameter of a node (those are in Limits).
SLOWEST_CAMERA = 5.0  # Hz
SLOWEST_ODOMETRY = 15.0  # Hz
LOST_SHARE = 0.1  # of the camera's frames
OTHER_CLOCK = 1000.0  # s: a stamp this far off is of another clock, not late
CLOCKS_APART = 0.3  # s between the ages of camera and odometry
PAIRED_SHARE = 0.9  # of the RGB images need a depth image
STATE_RATE_SHARE = 0.7  # of control_rate
SLOW_PLANNER_SHARE = 0.6  # of plan_timeout
SLOW_CONTROLLER = 1.0  # s from camera to command, 95th percentile
IMAGES_IN_SEGMENT = 10  # pairs of images the shared memory of a camera driver should hold
STOOD_SHARE = 0.05  # of the time that may pass in a state of failure before it is mentioned
JUMP = 0.5  # m between two odometry samples
MILLIMETRES = 100.0  # a median depth above this [m] is in millimetres
MEASURED_SHARE = 0.05  # of a depth image; less is no picture

DRIVERS = {
    "rgb": "Start the camera driver, or give its topic: rgb_topic:=….",
    "depth": "Start the camera driver with depth aligned to colour, or give its topic: depth_topic:=….",
    "camera_info": "Start the camera driver, or give its topic: camera_info_topic:=….",
    "odom": "Start the base driver, or give its topic: odom_topic:=….",
    "rgb_look_down": "Start the tilted camera, or set use_look_down: false in the parameters of the planner.",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was found: what it is about (a topic or node), in words, and what to do.

    Attributes:
        code: its name in doctor_texts.TEXTS.
    """

    level: Level
    code: str
    about: str
    text: str
    advice: str = ""


def found(code: str, about: str, **values: Any) -> Finding:
    """The finding of this code with the values in its texts."""
    level, says, advice = TEXTS[code]
    return Finding(level, code, about, says.format(**values).strip(), advice.format(**values).strip())


# ----------------------------------------------------------------------------------------------------- observations


@dataclass(frozen=True)
class Endpoint:
    """A publisher or a subscription.

    Attributes:
        node: with its namespace. type: of the messages.
        reliable, latched: its quality of service (transient local is latched).
        segment_bytes: shared memory of its process for images, None when that is not known.
    """

    node: str
    type: str
    reliable: bool
    latched: bool
    segment_bytes: int | None = None


@dataclass(frozen=True)
class Arrival:
    """A message: when it came by the machine's clock and by /clock (None before its first), and its stamp [ns]."""

    system_ns: int
    clock_ns: int | None
    stamp_ns: int | None = None


@dataclass
class Topic:
    """A topic of the runtime, under the name the nodes have for it (`rgb`) and the one it really has.

    Attributes:
        refused: why messages cannot be used (of images, what the runtime's own conversion says) -> how often.
        details: encoding and size ("rgb8 640x480") -> how often. sizes: (width, height). frames: header frame ids.
        data_bytes: of the largest message. median, measured_share: of the last depth image looked at [m].
        elsewhere: topics of the same type that somebody publishes.
    """

    name: str
    topic: str
    publishers: list[Endpoint] = field(default_factory=list)
    subscribers: list[Endpoint] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    details: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    frames: Counter[str] = field(default_factory=Counter)
    data_bytes: int = 0
    median: float | None = None
    measured_share: float | None = None
    elsewhere: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """A message of s1/state: moment on the machine's clock [ns] and its fields."""

    system_ns: int
    state: State
    message: str
    asks: bool
    latency: float  # s


@dataclass(frozen=True)
class DiagnosticPart:
    """The newest DiagnosticStatus of one part of a node: level 0 OK, 1 WARN, 2 ERROR, 3 STALE."""

    level: int
    message: str
    values: dict[str, str] = field(default_factory=dict)


@dataclass
class Node:
    """A node of the runtime.

    Attributes:
        present: it is in the ROS graph (that lasts some 20 s after it was killed).
        lifecycle: its state, None when it did not answer. parameters: those it told, by name.
        parts: its diagnostics by part ("sensors"), heard while listening.
    """

    name: str
    present: bool = False
    lifecycle: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, DiagnosticPart] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        return bool(self.parts) or self.lifecycle is not None


@dataclass
class Observations:
    """All that was heard in `seconds` of listening in a namespace.

    Attributes:
        ended_ns: end of listening on the machine's clock. clock_ns: the newest /clock, None without.
        clock_steps: how often /clock advanced. poses: of odometry (stamp [ns], x, y [m], norm of the quaternion).
        commands: to the base (moment on the machine's clock [ns], v [m/s]).
        plan_times: inference_time of each plan [s]. elsewhere: other namespaces in which nodes of the runtime are.
    """

    namespace: str = "/"
    domain: str = "0"
    seconds: float = 10.0
    rmw: str = "rmw_fastrtps_cpp"
    ended_ns: int = 0
    clock_ns: int | None = None
    clock_steps: int = 0
    topics: dict[str, Topic] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    reports: list[Report] = field(default_factory=list)
    poses: list[tuple[int, float, float, float]] = field(default_factory=list)
    commands: list[tuple[int, float]] = field(default_factory=list)
    plan_times: list[float] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    @property
    def simulated(self) -> bool:
        """Whether /clock is the time: what the nodes say, or what is there when none says it."""
        told = [node.parameters["use_sim_time"] for node in self.nodes.values() if "use_sim_time" in node.parameters]
        return any(told) if told else self.clock_ns is not None

    def parameter(self, node: str, name: str, default: Any) -> Any:
        found = self.nodes.get(node)
        return found.parameters.get(name, default) if found else default

    def now_ns(self, arrival: Arrival) -> int | None:
        """When a message came, on the clock that counts."""
        return arrival.clock_ns if self.simulated else arrival.system_ns

    def ages(self, name: str) -> np.ndarray:
        """Seconds between stamp and arrival of each message of a topic that has a stamp."""
        found = [(self.now_ns(arrival), arrival.stamp_ns) for arrival in self.topics[name].arrivals]
        return np.array([(now - stamp) / SECOND for now, stamp in found if now is not None and stamp])

    def gaps(self, name: str) -> np.ndarray:
        """Seconds between messages of a topic as they came, and from the last to the end of listening."""
        moments = [now for arrival in self.topics[name].arrivals if (now := self.now_ns(arrival)) is not None]
        end = self.clock_ns if self.simulated else self.ended_ns
        return np.diff([*moments, end]) / SECOND if moments and end is not None else np.zeros(0)

    def rate(self, name: str) -> float:
        """Messages per second, 0 for fewer than two."""
        gaps = self.gaps(name)[:-1]
        return len(gaps) / max(float(gaps.sum()), 1e-6) if len(gaps) else 0.0

    def diagnostic(self, node: str, part: str, key: str) -> float | None:
        """A number from the diagnostics of a node."""
        found = self.nodes.get(node)
        text = found.parts[part].values.get(key, "") if found and part in found.parts else ""
        try:
            return float(text)
        except ValueError:
            return None


@dataclass(frozen=True)
class Limits:
    """Time-outs the nodes work with: their parameters, or the defaults where they could not be asked."""

    sensor_timeout: float
    odometry_max_gap: float
    plan_timeout: float
    future_tolerance: float
    pairing_tolerance: float
    control_rate: float
    heartbeat_timeout: float

    @classmethod
    def of(cls, seen: Observations) -> Limits:
        return cls(
            sensor_timeout=seen.parameter(S1, "sensor_timeout", 0.5),
            odometry_max_gap=seen.parameter(S1, "odometry_max_gap", 0.25),
            plan_timeout=seen.parameter(S1, "plan_timeout", 5.0),
            future_tolerance=seen.parameter(S1, "future_tolerance", 0.5),
            pairing_tolerance=seen.parameter(S1, "pairing_tolerance", 0.015),
            control_rate=seen.parameter(S1, "control_rate", 20.0),
            heartbeat_timeout=seen.parameter(WATCHDOG, "heartbeat_timeout", 0.3),
        )


# -------------------------------------------------------------------------------------------------------- judgement


def judge(seen: Observations) -> list[Finding]:
    """Everything that was found, causes before their effects, notes at the end."""
    limits = Limits.of(seen)
    nodes = seen.elsewhere or any(node.present for node in seen.nodes.values())
    if not nodes and not any(topic.publishers for topic in seen.topics.values()):
        return [found("nothing_there", seen.namespace, namespace=seen.namespace, domain=seen.domain)]
    findings: list[Finding] = []
    for rule in (_nodes, _clock, _connections, _silence, _stamps, _images, _sizes, _pairs, _transport, _odometry):
        findings += rule(seen, limits)
    for rule in (_planner, _controller, _base):
        findings += rule(seen, limits)
    findings += _state(seen)
    findings += _diagnostics(seen, findings)
    return sorted(findings, key=lambda finding: finding.level == Level.NOTE)


def healthy(findings: list[Finding]) -> bool:
    """Whether there is nothing but notes."""
    return all(finding.level == Level.NOTE for finding in findings)


def _nodes(seen: Observations, _: Limits) -> Iterator[Finding]:
    for name in (S2, S1, WATCHDOG):
        node = seen.nodes.get(name, Node(name))
        if not node.present and name == WATCHDOG:
            if _alive(seen, S1) and not seen.simulated and not seen.parameter(S1, "open_loop", False):
                yield found("no_watchdog", name)
        elif not node.present:
            places = [place for place in seen.elsewhere if place.endswith(f"/{name}")]
            if places:
                other = places[0].rpartition("/")[0] or "/"
                yield found(
                    "node_elsewhere", name, node=name, namespace=seen.namespace, places=", ".join(places), other=other
                )
            else:
                yield found("node_missing", name, node=name, namespace=seen.namespace)
        elif not node.alive:
            yield found("node_silent", name, node=name)
        elif node.lifecycle not in (None, "active"):
            told = node.parts.get("life cycle")
            if node.lifecycle == "configuring":
                yield found("node_loading", name, node=name)
            elif told is not None and told.level >= 2:
                yield found("node_refused", name, node=name, told=told.message)
            else:
                path = _join(seen.namespace, name)
                yield found("node_not_active", name, node=name, state=node.lifecycle, path=path)


def _clock(seen: Observations, _: Limits) -> Iterator[Finding]:
    told = {n.name: n.parameters["use_sim_time"] for n in seen.nodes.values() if "use_sim_time" in n.parameters}
    if len(set(told.values())) > 1:
        uses = ", ".join(f"{str(value).lower()} in {name}" for name, value in sorted(told.items()))
        yield found("clock_mixed", "/clock", told=uses)
    elif seen.simulated and seen.clock_ns is None:
        yield found("clock_missing", "/clock")
    elif seen.simulated and seen.clock_steps == 0:
        yield found("clock_stopped", "/clock")


def _connections(seen: Observations, _: Limits) -> Iterator[Finding]:
    """Publishers and subscriptions that DDS does not connect, and topics with too many publishers."""
    for topic in seen.topics.values():
        for publisher in topic.publishers:
            for subscriber in topic.subscribers:
                yield from _mismatch(topic, publisher, subscriber)
        nodes = sorted({publisher.node for publisher in topic.publishers})
        if topic.name != "instruction" and len(nodes) > 1:
            joined = ", ".join(nodes)
            yield found("several_publishers", topic.name, topic=topic.topic, count=len(nodes), nodes=joined)


def _mismatch(topic: Topic, publisher: Endpoint, subscriber: Endpoint) -> Iterator[Finding]:
    values = {"publisher": publisher.node, "subscriber": subscriber.node, "topic": topic.topic}
    if publisher.type != subscriber.type:
        how = "Make both the same type."
        if "CompressedImage" in publisher.type + subscriber.type:
            transport = "compressed" if "Compressed" in publisher.type else "raw"
            how = f"Give {topic.name}_transport:={transport} to the launch file, or another topic."
        elif "Twist" in publisher.type:
            stamped = str(subscriber.type.endswith("TwistStamped")).lower()
            how = f"Set cmd_vel_stamped: {stamped} in the parameters of the controller (s1_params)."
        yield found("type_mismatch", topic.name, sent=publisher.type, wanted=subscriber.type, how=how, **values)
    elif subscriber.reliable and not publisher.reliable:
        yield found("qos_mismatch", topic.name, offered="best effort", wanted="reliable", how="", **values)
    elif subscriber.latched and not publisher.latched:
        how = " (ros2 topic pub --qos-durability transient_local …)" if topic.name == "instruction" else ""
        yield found("qos_mismatch", topic.name, offered="volatile", wanted="transient local", how=how, **values)


def _silence(seen: Observations, limits: Limits) -> Iterator[Finding]:
    for name in (*SENSORS, "rgb_look_down"):
        topic = seen.topics.get(name)
        if topic is None or not _wanted(seen, topic):
            continue
        how = "Look at the log of the base driver." if name == "odom" else "Look at the log of the camera driver."
        if not topic.publishers and not topic.arrivals:
            there = ", ".join(topic.elsewhere[:6])
            elsewhere = f" Topics with messages of that type: {there}." if there else ""
            yield found(
                "topic_unpublished", name, topic=topic.topic, name=name, how=DRIVERS[name], elsewhere=elsewhere
            )
        elif not topic.arrivals:
            nodes = ", ".join(sorted({publisher.node for publisher in topic.publishers}))
            values = {"name": name, "nodes": nodes, "seconds": seen.seconds, "how": how}
            yield found("topic_silent", name, topic=topic.topic, **values)
        elif name != "camera_info" and len(gaps := seen.gaps(name)):
            if gaps[-1] > max(limits.sensor_timeout, 1.0):
                yield found("topic_stopped", name, topic=topic.topic, last=float(gaps[-1]), how=how)
            elif name != "odom" and gaps.max() > limits.sensor_timeout:
                gap = float(gaps.max())
                yield found("topic_gap", name, topic=topic.topic, gap=gap, limit=limits.sensor_timeout, how=how)
    state = seen.topics.get("s1/state")
    if state is not None and not state.arrivals and _active(seen, S1):
        values = {"name": "s1/state", "nodes": S1, "seconds": seen.seconds, "how": "Does the controller hang?"}
        yield found("topic_silent", "s1/state", topic=state.topic, **values)


def _wanted(seen: Observations, topic: Topic) -> bool:
    """Whether a node of the runtime takes it; all sensors while the controller is not there to say so."""
    nodes = {_join(seen.namespace, name) for name in (S1, S2)}
    if _active(seen, S1):
        return any(subscriber.node in nodes for subscriber in topic.subscribers)
    return topic.name in SENSORS


def _stamps(seen: Observations, limits: Limits) -> Iterator[Finding]:
    medians: dict[str, float] = {}
    for name in ("rgb", "depth", "odom"):
        topic = seen.topics.get(name)
        stamps = [arrival.stamp_ns for arrival in topic.arrivals if arrival.stamp_ns is not None] if topic else []
        if not stamps:
            continue
        if not any(stamps):
            yield found("stamp_zero", name, topic=topic.topic)
            continue
        back = sum(later < earlier for earlier, later in pairwise(stamps))
        same = sum(later == earlier for earlier, later in pairwise(stamps))
        if back:
            yield found("stamp_backwards", name, topic=topic.topic, times=back)
        if same > len(stamps) // 10:
            yield found("stamp_repeated", name, topic=topic.topic, same=same, count=len(stamps))
        ages = seen.ages(name)
        if not len(ages) or (seen.simulated and seen.clock_steps == 0):
            continue
        medians[name] = float(np.median(ages))
        yield from _age(seen, topic, medians[name], float(np.percentile(ages, 95)), limits)
    apart = medians.get("rgb", 0.0) - medians.get("odom", 0.0)
    if {"rgb", "odom"} <= set(medians) and CLOCKS_APART < abs(apart) < OTHER_CLOCK:
        yield found("clocks_apart", "odom", older="rgb" if apart > 0 else "odom", apart=abs(apart))


def _age(seen: Observations, topic: Topic, median: float, high: float, limits: Limits) -> Iterator[Finding]:
    """What is wrong with the ages [s] of a topic's messages: their median and 95th percentile."""
    name, values = topic.name, {"topic": topic.topic, "limit": limits.sensor_timeout}
    if abs(median) > OTHER_CLOCK:
        time = "that of /clock" if seen.simulated else "the machine's"
        yield found("stamp_other_clock", name, topic=topic.topic, span=_span(median), time=time)
    elif median < -limits.future_tolerance:
        yield found("stamp_future", name, topic=topic.topic, ahead=-median, limit=limits.future_tolerance)
    elif median > limits.sensor_timeout:
        yield found("stamp_old", name, age=median, **values)
    elif high > limits.sensor_timeout:
        yield found("stamp_late", name, age=high, **values)


def _images(seen: Observations, _: Limits) -> Iterator[Finding]:
    for name in ("rgb", "depth", "rgb_look_down"):
        topic = seen.topics.get(name)
        if topic is None or not topic.arrivals or not _wanted(seen, topic):
            continue
        for why in topic.refused:
            yield found("image_unusable", name, why=why)
        rate, lost = seen.rate(name), _lost_share(topic)
        if 0 < rate < SLOWEST_CAMERA:
            yield found("camera_slow", name, topic=topic.topic, rate=rate, limit=SLOWEST_CAMERA)
        if lost > LOST_SHARE:
            yield found("frames_lost", name, topic=topic.topic, share=lost)
    depth = seen.topics.get("depth")
    if depth is not None and depth.median is not None and depth.median > MILLIMETRES:
        yield found("depth_unit", "depth", topic=depth.topic, median=depth.median)
    if depth is not None and depth.measured_share is not None and depth.measured_share < MEASURED_SHARE:
        yield found("depth_empty", "depth", topic=depth.topic, share=depth.measured_share)


def _lost_share(topic: Topic) -> float:
    """Share of messages that are missing between the stamps of those that came."""
    stamps = sorted({arrival.stamp_ns for arrival in topic.arrivals if arrival.stamp_ns})
    steps = np.diff(stamps)
    if len(steps) < 10:
        return 0.0
    missing = float((np.rint(steps / np.median(steps)) - 1).clip(min=0).sum())
    return missing / (len(stamps) + missing)


def _sizes(seen: Observations, _: Limits) -> Iterator[Finding]:
    sizes, frames = {}, {}
    for name in CAMERA:
        topic = seen.topics.get(name)
        if topic is not None and topic.sizes:
            width, height = topic.sizes.most_common(1)[0][0]
            sizes[name] = f"{width}x{height}"
        if topic is not None and topic.frames:
            frames[name] = topic.frames.most_common(1)[0][0]
    if {"rgb", "depth"} <= set(sizes) and sizes["rgb"] != sizes["depth"]:
        yield found("size_mismatch", "depth", depth=sizes["depth"], rgb=sizes["rgb"])
    image = sizes.get("rgb", sizes.get("depth"))
    if image and sizes.get("camera_info", image) != image:
        yield found("info_mismatch", "camera_info", info=sizes["camera_info"], image=image)
    if "camera_info" in seen.topics:
        for why in seen.topics["camera_info"].refused:
            yield found("info_invalid", "camera_info", why=why)
    if "rgb" in frames and len(set(frames.values())) > 1:
        said = ", ".join(f"{name}: {frame or 'none'}" for name, frame in frames.items())
        yield found("frame_mismatch", "depth", frames=said)


def _pairs(seen: Observations, limits: Limits) -> Iterator[Finding]:
    """Whether RGB and depth are taken at the same time."""
    if not {"rgb", "depth"} <= set(seen.topics):
        return
    rgb, depth = (
        np.array(sorted(arrival.stamp_ns for arrival in seen.topics[name].arrivals if arrival.stamp_ns))
        for name in ("rgb", "depth")
    )
    if len(depth) < 2 or len(rgb) < 2:
        return
    rgb = rgb[(rgb >= depth[0]) & (rgb <= depth[-1])]  # one may have begun earlier
    if not len(rgb):
        return
    at = np.searchsorted(depth, rgb).clip(1, len(depth) - 1)
    offset = np.minimum(np.abs(rgb - depth[at - 1]), np.abs(depth[at] - rgb)) / SECOND
    paired = float((offset <= limits.pairing_tolerance).mean())
    if paired < PAIRED_SHARE:
        tolerance, nearest = limits.pairing_tolerance * 1e3, float(np.median(offset)) * 1e3
        yield found("unsynchronised", "depth", share=paired, limit=tolerance, offset=nearest)


def _transport(seen: Observations, _: Limits) -> Iterator[Finding]:
    """Whether the DDS profile for images is in force where it counts: in the processes that send them."""
    if not seen.rmw.startswith("rmw_fastrtps"):
        yield found("other_rmw", "DDS", rmw=seen.rmw)
        return
    senders = [seen.topics[name] for name in ("rgb", "depth", "rgb_look_down") if name in seen.topics]
    needed = IMAGES_IN_SEGMENT * sum(topic.data_bytes for topic in senders)
    sizes = {(sender.node, sender.segment_bytes) for topic in senders for sender in topic.publishers}
    for node, size in sizes:
        if size is not None and size < needed:
            yield found("dds_profile", node, node=node, size=size // 1024, needed=needed // 1024)


def _odometry(seen: Observations, limits: Limits) -> Iterator[Finding]:
    topic = seen.topics.get("odom")
    if topic is None or len(topic.arrivals) < 2:
        return
    rate = seen.rate("odom")
    if rate < SLOWEST_ODOMETRY:
        yield found("odometry_slow", "odom", topic=topic.topic, rate=rate)
    gap = max(later[0] - earlier[0] for earlier, later in pairwise(seen.poses)) / SECOND
    if gap > limits.odometry_max_gap:
        yield found("odometry_gap", "odom", topic=topic.topic, gap=gap, limit=limits.odometry_max_gap)
    if any(not all(map(math.isfinite, pose[1:])) or abs(pose[3] - 1.0) > 0.05 for pose in seen.poses):
        yield found("odometry_invalid", "odom", topic=topic.topic)
        return
    jump = max(math.dist(earlier[1:3], later[1:3]) for earlier, later in pairwise(seen.poses))
    if jump > JUMP:
        yield found("odometry_jump", "odom", topic=topic.topic, jump=jump)
    told = sum(v * (later - moment) / SECOND for (moment, v), (later, _) in pairwise(seen.commands))
    moved = max(math.dist(seen.poses[0][1:3], pose[1:3]) for pose in seen.poses)
    if told > JUMP and moved < 0.1 * told and not seen.parameter(S1, "open_loop", False):
        yield found("base_does_not_move", "odom", topic=topic.topic, told=told, moved=moved)


def _planner(seen: Observations, limits: Limits) -> Iterator[Finding]:
    """Whether S2 is late."""
    if not _alive(seen, S2):
        return
    ages = seen.ages("s2/plan") if "s2/plan" in seen.topics else np.zeros(0)
    if len(ages) and (age := float(np.median(ages))) > SLOW_PLANNER_SHARE * limits.plan_timeout:
        code = "planner_too_slow" if age > limits.plan_timeout else "planner_slow"
        yield found(code, S2, age=age, model=float(np.median(seen.plan_times)), limit=limits.plan_timeout)
    asking = _longest_asking(seen)
    if _has_episode(seen) and asking > limits.plan_timeout:
        yield found("planner_owes", S2, asking=asking)


def _longest_asking(seen: Observations) -> float:
    """Longest time in seconds that S1 asked S2 without a plan coming."""
    plans = [arrival.system_ns for arrival in seen.topics["s2/plan"].arrivals] if "s2/plan" in seen.topics else []
    longest, since = 0, None
    for report in seen.reports:
        if not report.asks:
            since = None
            continue
        begun = report.system_ns if since is None else since
        since = max([begun, *(plan for plan in plans if plan <= report.system_ns)])
        longest = max(longest, report.system_ns - since)
    return longest / SECOND


def _has_episode(seen: Observations) -> bool:
    part = seen.nodes[S2].parts.get("planning") if S2 in seen.nodes else None
    return part is not None and bool(part.values.get("instruction")) and part.values.get("finished") != "True"


def _controller(seen: Observations, limits: Limits) -> Iterator[Finding]:
    """Whether S1 is late, or of another version."""
    if "s1/state" in seen.topics:
        for why in seen.topics["s1/state"].refused:
            yield found("state_unknown", S1, why=why)
    moments = [report.system_ns for report in seen.reports]
    if len(moments) < 2:
        return
    gap = float(np.diff([*moments, seen.ended_ns]).max()) / SECOND
    rate = (len(moments) - 1) * SECOND / max(moments[-1] - moments[0], 1)
    if gap > limits.heartbeat_timeout:
        yield found("heartbeat_gap", S1, gap=gap, limit=limits.heartbeat_timeout)
    elif rate < STATE_RATE_SHARE * limits.control_rate:
        yield found("controller_slow", S1, rate=rate, wanted=limits.control_rate)
    latencies = [report.latency for report in seen.reports if report.latency > 0.0]
    if latencies and (high := float(np.percentile(latencies, 95))) > SLOW_CONTROLLER:
        yield found("controller_latency", S1, latency=high)


def _base(seen: Observations, _: Limits) -> Iterator[Finding]:
    topic = seen.topics.get("cmd_vel")
    replayed = seen.parameter(S1, "open_loop", False)
    if topic is not None and not topic.subscribers and _active(seen, S1) and not replayed:
        yield found("no_base", "cmd_vel", topic=topic.topic)


def _state(seen: Observations) -> Iterator[Finding]:
    """What the robot does about all this."""
    if not seen.reports:
        return
    last = seen.reports[-1]
    stood = [report for report in seen.reports if report.state in (State.FAULT, State.NO_SENSORS, State.STALE_PLAN)]
    share = len(stood) / len(seen.reports)
    if stood and stood[-1] is last and seen.reports[-1 - len(seen.reports) // 10].state == last.state:
        yield found("stands", S1, state=last.state.name, message=last.message)
    elif share > STOOD_SHARE:
        yield found("stood", S1, share=share, state=stood[-1].state.name, message=stood[-1].message)
    elif last.state == State.IDLE and _alive(seen, S2) and not _has_episode(seen):
        topic = seen.topics["instruction"].topic if "instruction" in seen.topics else "instruction"
        yield found("no_instruction", S2, topic=topic)
    elif last.message:
        yield found("state", S1, state=last.state.name, message=last.message)


# What a part of a node says in its diagnostics is explained by findings about these.
EXPLAINED_BY = {
    (S1, "sensors"): set(SENSORS),
    (S1, "planner"): {S2, "s2/plan", *SENSORS},  # a controller that stands for its sensors does not ask for plans
    (S1, "control"): {S1},
    (S1, "life cycle"): {S1},
    (S2, "inputs"): {"rgb", S1, "s1/state"},
    (S2, "life cycle"): {S2},
    (WATCHDOG, "commands"): {S1, "s1/state"},
    (WATCHDOG, "life cycle"): {WATCHDOG},
}


def _diagnostics(seen: Observations, findings: list[Finding]) -> Iterator[Finding]:
    """What the nodes say themselves and is not explained by now."""
    about = {finding.about for finding in findings if finding.level != Level.NOTE}
    for node in seen.nodes.values():
        for part, told in node.parts.items():
            if told.level >= 2 and not EXPLAINED_BY.get((node.name, part), set()) & about:
                yield found("diagnostics", node.name, node=node.name, part=part, message=told.message)


def _alive(seen: Observations, name: str) -> bool:
    return name in seen.nodes and seen.nodes[name].present and seen.nodes[name].alive


def _active(seen: Observations, name: str) -> bool:
    return _alive(seen, name) and seen.nodes[name].lifecycle == "active"


def _join(namespace: str, name: str) -> str:
    return f"{namespace.rstrip('/')}/{name}"


def _span(seconds: float) -> str:
    """A long time in words."""
    hours = abs(seconds) / 3600
    return (
        f"{hours / 8766:.0f} years" if hours > 17532 else f"{hours / 24:.0f} days" if hours > 48 else f"{hours:.1f} h"
    )
