"""Each thing the doctor can find: a healthy system in which one thing is made wrong."""

import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from dual_nav_bringup import doctor_findings
from dual_nav_bringup.doctor_findings import (
    S1,
    S2,
    SECOND,
    WATCHDOG,
    Arrival,
    DiagnosticPart,
    Endpoint,
    Node,
    Observations,
    Report,
    Topic,
    healthy,
    judge,
)
from dual_nav_bringup.doctor_texts import TEXTS, Level
from dual_nav_util.controller_state import State

BEGIN = 1_700_000_000 * SECOND
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
TYPES = {"rgb": IMAGE, "depth": IMAGE, "camera_info": "sensor_msgs/msg/CameraInfo", "odom": "nav_msgs/msg/Odometry"}
PARAMETERS = {"use_sim_time": False, "plan_timeout": 5.0, "control_rate": 20.0, "open_loop": False}


def arrivals(rate: float, age: float = 0.02, seconds: float = 10.0) -> list[Arrival]:
    """Messages at a rate [Hz], each `age` seconds after its stamp."""
    times = [BEGIN + round(number / rate * SECOND) for number in range(1, round(seconds * rate))]
    return [Arrival(time, None, time - round(age * SECOND)) for time in times]


def make_healthy() -> Observations:
    """A robot that drives: camera at 30 Hz, odometry at 50 Hz, both nodes and the watchdog, a plan every second."""
    seen = Observations(ended_ns=BEGIN + 10 * SECOND)
    for name, kind in TYPES.items():
        driver = Endpoint("/base" if name == "odom" else "/camera", kind, reliable=False, latched=False)
        readers = [Endpoint(f"/{S1}", kind, False, False)]
        readers += [Endpoint(f"/{S2}", kind, False, False)] if name == "rgb" else []
        seen.topics[name] = Topic(name, f"/{name}", [driver], readers, arrivals(50.0 if name == "odom" else 30.0))
    for name, data_bytes in (("rgb", 921_600), ("depth", 614_400), ("camera_info", 400)):
        topic = seen.topics[name]
        topic.sizes, topic.frames = Counter({(640, 480): 300}), Counter({"optical": 300})
        topic.data_bytes = data_bytes
        topic.publishers = [replace(topic.publishers[0], segment_bytes=32 * 2**20)]
    seen.topics["depth"].median, seen.topics["depth"].measured_share = 2.1, 0.9
    seen.poses = [(a.stamp_ns, 0.008 * n, 0.0, 1.0) for n, a in enumerate(seen.topics["odom"].arrivals)]
    seen.commands = [(a.system_ns, 0.4) for a in arrivals(20.0)]
    state = Endpoint(f"/{S1}", "nav_msgs_ext/msg/ControllerState", True, False)
    plan = Endpoint(f"/{S2}", "nav_msgs_ext/msg/S2Plan", True, True)
    twist = Endpoint(f"/{WATCHDOG}", "geometry_msgs/msg/Twist", True, False)
    text = Endpoint("/operator", "std_msgs/msg/String", True, True)
    seen.topics |= {
        "instruction": Topic("instruction", "/instruction", [text], [replace(text, node=f"/{S2}")]),
        "s2/plan": Topic("s2/plan", "/s2/plan", [plan], [replace(plan, node=f"/{S1}")], arrivals(1.0, age=0.6)),
        "s1/state": Topic("s1/state", "/s1/state", [state], [replace(state, node=f"/{S2}")], arrivals(20.0)),
        "cmd_vel": Topic("cmd_vel", "/cmd_vel", [twist], [replace(twist, node="/base")], arrivals(20.0)),
    }
    seen.plan_times = [0.5] * 9
    seen.reports = [
        Report(a.system_ns, State.FOLLOWING, "", asks=number % 20 > 10, latency=0.1)
        for number, a in enumerate(arrivals(20.0))
    ]
    planning = DiagnosticPart(0, "planning", {"instruction": "Go to the sofa.", "finished": "False"})
    seen.nodes = {
        S1: Node(S1, True, "active", dict(PARAMETERS), {"sensors": DiagnosticPart(0, "camera and odometry arrive")}),
        S2: Node(S2, True, "active", {"use_sim_time": False}, {"planning": planning}),
        WATCHDOG: Node(
            WATCHDOG, True, "active", {"use_sim_time": False}, {"commands": DiagnosticPart(0, "passed on")}
        ),
    }
    return seen


def codes(seen: Observations) -> list[str]:
    return [finding.code for finding in judge(seen)]


# ------------------------------------------------------------------ what is made wrong, and the finding that it gives


def no_topic(name: str):
    def change(seen: Observations) -> None:
        seen.topics[name].publishers, seen.topics[name].arrivals = [], []

    return change


def quiet(name: str):
    def change(seen: Observations) -> None:
        seen.topics[name].arrivals = []

    return change


def ages(name: str, age: float):
    def change(seen: Observations) -> None:
        topic = seen.topics[name]
        topic.arrivals = [replace(a, stamp_ns=a.stamp_ns - round(age * SECOND)) for a in topic.arrivals]

    return change


def stamps(name: str, change_stamp):
    def change(seen: Observations) -> None:
        topic = seen.topics[name]
        topic.arrivals = [replace(a, stamp_ns=change_stamp(n, a.stamp_ns)) for n, a in enumerate(topic.arrivals)]

    return change


def thin(name: str, keep):
    """Only some of the messages of a topic arrive."""

    def change(seen: Observations) -> None:
        topic = seen.topics[name]
        topic.arrivals = [arrival for number, arrival in enumerate(topic.arrivals) if keep(number)]
        if name == "odom":
            seen.poses = [pose for number, pose in enumerate(seen.poses) if keep(number)]

    return change


def node(name: str, **changes):
    def change(seen: Observations) -> None:
        for field, value in changes.items():
            setattr(seen.nodes[name], field, value)

    return change


def parameter(name: str, parameter_name: str, value):
    def change(seen: Observations) -> None:
        seen.nodes[name].parameters[parameter_name] = value

    return change


def topic(name: str, **changes):
    def change(seen: Observations) -> None:
        for field, value in changes.items():
            setattr(seen.topics[name], field, value)

    return change


def publisher(name: str, **changes):
    def change(seen: Observations) -> None:
        seen.topics[name].publishers = [replace(seen.topics[name].publishers[0], **changes)]

    return change


def second_publisher(seen: Observations) -> None:
    seen.topics["cmd_vel"].publishers.append(replace(seen.topics["cmd_vel"].publishers[0], node="/teleop"))


def reports(**changes):
    def change(seen: Observations) -> None:
        seen.reports = [replace(report, **changes) for report in seen.reports]

    return change


def stood_in_the_middle(seen: Observations) -> None:
    half = len(seen.reports) // 2
    seen.reports = [
        replace(report, state=State.NO_SENSORS, message="late") if half < number < half + 30 else report
        for number, report in enumerate(seen.reports)
    ]


def simulated(stands: bool):
    def change(seen: Observations) -> None:
        for name in seen.nodes:
            seen.nodes[name].parameters["use_sim_time"] = True
        if stands:
            seen.clock_ns = BEGIN

    return change


def poses(change_pose):
    def change(seen: Observations) -> None:
        seen.poses = [change_pose(number, pose) for number, pose in enumerate(seen.poses)]

    return change


def no_instruction(seen: Observations) -> None:
    seen.nodes[S2].parts["planning"] = DiagnosticPart(0, "waiting for an instruction", {"instruction": ""})
    seen.reports = [replace(report, state=State.IDLE, message="no plan yet") for report in seen.reports]


def nothing(seen: Observations) -> None:
    seen.nodes, seen.topics, seen.reports = {}, {}, []


def elsewhere(seen: Observations) -> None:
    seen.nodes[S1] = Node(S1)
    seen.elsewhere = [f"/robot1/{S1}"]


def slow_camera(seen: Observations) -> None:
    seen.topics["rgb"].arrivals = seen.topics["depth"].arrivals = arrivals(3.0)


STOPPED_PLANS = [Report(a.system_ns, State.IDLE, "", asks=True, latency=0.1) for a in arrivals(20.0)]
CASES = [
    ("nothing_there", nothing, "ROS domain 0"),
    (
        "node_missing",
        node(S2, present=False, lifecycle=None, parts={}),
        "s2_planner is not to be found in namespace /",
    ),
    ("node_elsewhere", elsewhere, "--namespace /robot1"),
    ("node_silent", node(S2, lifecycle=None, parts={}), "s2_planner is known in the network but says nothing"),
    ("node_loading", node(S2, lifecycle="configuring"), "still loading"),
    (
        "node_refused",
        node(S1, lifecycle="unconfigured", parts={"life cycle": DiagnosticPart(2, "configuration failed: no model")}),
        "configuration failed: no model",
    ),
    ("node_not_active", node(S1, lifecycle="inactive"), "ros2 lifecycle set /s1_controller"),
    ("no_watchdog", node(WATCHDOG, present=False), "nobody stops the base"),
    ("clock_mixed", parameter(S1, "use_sim_time", True), "true in s1_controller, false in s2_planner"),
    ("clock_missing", simulated(stands=False), "nobody publishes it"),
    ("clock_stopped", simulated(stands=True), "does not advance"),
    ("stamp_zero", stamps("rgb", lambda n, s: 0), "stamps of /rgb are zero"),
    ("stamp_backwards", stamps("odom", lambda n, s: s - SECOND // 10 * (n == 100)), "went back 1 times"),
    ("stamp_repeated", stamps("depth", lambda n, s: BEGIN + 9 * SECOND), "carry the stamp of the one before"),
    ("stamp_other_clock", ages("rgb", 1e9), "32 years away from the time of the nodes, which is the machine's"),
    ("stamp_future", ages("rgb", -2.0), "1.98 s in the future"),
    ("stamp_old", ages("depth", 1.0), "1.02 s old when they come"),
    ("stamp_late", stamps("rgb", lambda n, s: s - SECOND * (n % 10 == 0)), "One in twenty messages on /rgb"),
    ("clocks_apart", ages("odom", 0.4), "stamps of odom are 0.40 s older"),
    ("type_mismatch", publisher("rgb", type=COMPRESSED), "rgb_transport:=compressed"),
    ("type_mismatch", publisher("cmd_vel", type="geometry_msgs/msg/TwistStamped"), "cmd_vel_stamped: false"),
    ("qos_mismatch", publisher("instruction", latched=False), "qos-durability transient_local"),
    ("qos_mismatch", publisher("s1/state", reliable=False), "best effort, but /s2_planner asks for reliable"),
    ("several_publishers", second_publisher, "/cmd_vel_watchdog, /teleop"),
    ("topic_unpublished", no_topic("depth"), "Nobody publishes /depth"),
    ("topic_silent", quiet("depth"), "/camera announces it, and nothing came in 10 s"),
    ("topic_silent", quiet("s1/state"), "/s1/state (s1/state) is silent"),
    ("topic_stopped", thin("rgb", lambda n: n < 200), "fell silent 3.3 s before the end"),
    ("topic_gap", thin("rgb", lambda n: not 100 < n < 125), "was silent for 0.83 s"),
    ("no_base", topic("cmd_vel", subscribers=[]), "no base gets the commands"),
    ("image_unusable", topic("depth", refused=Counter({"depth: encoding 'rgb8' is not supported": 3})), "'rgb8'"),
    ("camera_slow", slow_camera, "comes at 3.0 Hz"),
    ("frames_lost", thin("rgb", lambda n: n % 4 != 0), "25% of the images on /rgb are missing"),
    ("depth_unit", topic("depth", median=2100.0), "32FC1 has to be metres"),
    ("depth_empty", topic("depth", measured_share=0.01), "only 1% of its pixels"),
    ("size_mismatch", topic("depth", sizes=Counter({(848, 480): 9})), "depth is 848x480 and rgb 640x480"),
    ("info_mismatch", topic("camera_info", sizes=Counter({(1280, 720): 9})), "for images of 1280x720"),
    ("info_invalid", topic("camera_info", refused=Counter({"its focal lengths are 0 and 0": 9})), "focal lengths"),
    ("state_unknown", topic("s1/state", refused=Counter({"state 99": 200})), "state 99"),
    ("frame_mismatch", topic("depth", frames=Counter({"depth_optical": 9})), "depth: depth_optical"),
    ("unsynchronised", stamps("depth", lambda n, s: s + SECOND // 60), "the nearest is 17 ms away"),
    (
        "dds_profile",
        publisher("rgb", segment_bytes=512 * 1024),
        "not in force in /camera: its shared memory has 512 kB",
    ),
    ("other_rmw", lambda seen: setattr(seen, "rmw", "rmw_cyclonedds_cpp"), "rmw_cyclonedds_cpp is in use"),
    ("odometry_slow", thin("odom", lambda n: n % 5 == 0), "/odom comes at 10.0 Hz"),
    ("odometry_gap", thin("odom", lambda n: not 100 < n < 120), "gaps of up to 0.40 s"),
    ("odometry_invalid", poses(lambda n, p: (*p[:3], 0.0)), "no unit quaternion"),
    ("odometry_invalid", poses(lambda n, p: (p[0], math.nan, *p[2:])), "not finite"),
    ("odometry_jump", poses(lambda n, p: (p[0], p[1] + 3.0 * (n > 50), *p[2:])), "jumped by 3.0 m"),
    ("base_does_not_move", poses(lambda n, p: (p[0], 0.0, *p[2:])), "4.0 m were commanded"),
    ("planner_slow", ages("s2/plan", 3.0), "S2 is late: its plans are 3.6 s old"),
    ("planner_too_slow", ages("s2/plan", 7.0), "S1 drops them"),
    (
        "planner_owes",
        lambda seen: (quiet("s2/plan")(seen), setattr(seen, "reports", STOPPED_PLANS)),
        "S2 is late: S1 has been asking for a plan for 9.9 s",
    ),
    (
        "heartbeat_gap",
        lambda seen: setattr(seen, "reports", [*seen.reports[:90], *seen.reports[120:]]),
        "S1 is late: s1/state paused for 1.55 s",
    ),
    ("controller_slow", lambda seen: setattr(seen, "reports", seen.reports[::2]), "10.0 commands per second"),
    ("controller_latency", reports(latency=1.7), "S1 is late: 1.7 s from a camera image"),
    ("stands", reports(state=State.FAULT, message="emergency stop"), "FAULT, emergency stop"),
    ("stood", stood_in_the_middle, "stood 15% of the time: NO_SENSORS, late"),
    ("state", reports(state=State.BLOCKED, message="an obstacle"), "BLOCKED: an obstacle"),
    ("no_instruction", no_instruction, "'Go to the sofa.'"),
    (
        "diagnostics",
        node(S2, parts={"planning": DiagnosticPart(2, "planning failed: out of memory")}),
        "out of memory",
    ),
]


def test_a_healthy_system_gives_no_finding():
    assert judge(make_healthy()) == []


@pytest.mark.parametrize(("code", "change", "said"), CASES, ids=[f"{n}-{case[0]}" for n, case in enumerate(CASES)])
def test_one_thing_wrong_is_found_and_said(code, change, said):
    seen = make_healthy()
    change(seen)
    findings = judge(seen)
    assert code in [finding.code for finding in findings]
    finding = next(finding for finding in findings if finding.code == code)
    assert said in f"{finding.text} {finding.advice}"
    assert not re.search(r"[{}]", finding.text), "a word was not filled in"
    assert finding.advice or finding.level == Level.NOTE, "a fault without advice"
    assert healthy(findings) == (TEXTS[code].level == Level.NOTE)


def test_every_finding_has_a_case_and_every_text_is_used():
    source = Path(doctor_findings.__file__).read_text()
    assert {case[0] for case in CASES} == set(TEXTS)
    assert all(f'"{code}"' in source for code in TEXTS)


def test_a_dead_planner_is_not_found_again_in_what_the_controller_says_about_it():
    seen = make_healthy()
    node(S2, present=False, lifecycle=None, parts={})(seen)
    quiet("s2/plan")(seen)
    seen.nodes[S1].parts["planner"] = DiagnosticPart(2, "the newest plan is 9 s old: is s2_planner alive?")
    assert codes(seen) == ["node_missing"]


def test_a_silent_sensor_is_named_before_the_standstill_it_causes():
    seen = make_healthy()
    no_topic("depth")(seen)
    reports(state=State.NO_SENSORS, message="the newest depth is 4.00 s old")(seen)
    seen.nodes[S1].parts["sensors"] = DiagnosticPart(2, "the newest depth is 4.00 s old")
    assert codes(seen) == ["topic_unpublished", "stands"]


def test_topics_with_images_are_named_when_the_one_looked_for_is_not_there():
    seen = make_healthy()
    no_topic("depth")(seen)
    seen.topics["depth"].elsewhere = ["/camera/aligned_depth_to_color/image_raw"]
    assert "/camera/aligned_depth_to_color/image_raw" in judge(seen)[0].advice


def test_sensors_that_the_controller_does_not_take_are_not_missed():
    seen = make_healthy()
    for name in ("depth", "camera_info"):
        no_topic(name)(seen)
        seen.topics[name].subscribers = []
    assert codes(seen) == []


def test_without_any_node_all_sensors_are_looked_for():
    seen = make_healthy()
    seen.nodes, seen.reports = {}, []
    no_topic("depth")(seen)
    assert codes(seen) == ["node_missing", "node_missing", "topic_unpublished"]


def test_under_simulated_time_ages_and_gaps_are_those_of_the_clock():
    seen = make_healthy()
    simulated(stands=False)(seen)
    seen.clock_steps = 1000
    start = 1_000 * SECOND
    for topic_seen in seen.topics.values():  # a simulation that is five times slower than real time
        topic_seen.arrivals = [
            Arrival(
                a.system_ns, start + (a.system_ns - BEGIN) // 5, start + (a.system_ns - BEGIN) // 5 - SECOND // 50
            )
            for a in topic_seen.arrivals
        ]
    seen.clock_ns = start + 2 * SECOND
    seen.poses = [(a.stamp_ns, *pose[1:]) for a, pose in zip(seen.topics["odom"].arrivals, seen.poses, strict=True)]
    assert codes(seen) == []
    seen.topics["rgb"].arrivals = [replace(a, stamp_ns=a.system_ns) for a in seen.topics["rgb"].arrivals]
    assert "stamp_other_clock" in codes(seen)


def test_a_recording_needs_no_base_and_does_not_obey():
    seen = make_healthy()
    seen.nodes[S1].parameters["open_loop"] = True
    seen.topics["cmd_vel"].subscribers = []
    seen.nodes[WATCHDOG].present = False
    poses(lambda n, p: (p[0], 0.0, *p[2:]))(seen)
    assert codes(seen) == []
