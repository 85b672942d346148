"""What the doctor can find: how grave it is, what it says and what to do about it, in one table.

The rules that find these things are in `doctor_findings.py`; words in braces are filled in there.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Level(IntEnum):
    """How grave a finding is. A note is no fault: a healthy system has notes, too."""

    NOTE = 0
    WARNING = 1
    ERROR = 2


class Text(NamedTuple):
    """Level, what is said, what to do."""

    level: Level
    says: str
    advice: str = ""


NOTE, WARNING, ERROR = Level.NOTE, Level.WARNING, Level.ERROR

TEXTS = {
    # nodes
    "nothing_there": Text(
        ERROR,
        "Nothing is there: no node of the runtime, no camera and no odometry in namespace {namespace} of ROS domain "
        "{domain}.",
        "Is it started? With the same ROS_DOMAIN_ID, ROS_AUTOMATIC_DISCOVERY_RANGE and network as here?",
    ),
    "node_missing": Text(
        ERROR,
        "{node} is not to be found in namespace {namespace}: it does not run, or it hangs.",
        "Does its process live (ps)? If it ended, the last lines of its log say why; if it hangs, kill it. Start it "
        "(robot.launch.xml) with the same ROS_DOMAIN_ID and ROS_AUTOMATIC_DISCOVERY_RANGE as here.",
    ),
    "node_elsewhere": Text(
        ERROR, "{node} does not run in namespace {namespace}, but as {places}.", "Give --namespace {other}."
    ),
    "node_silent": Text(
        ERROR,
        "{node} is known in the network but says nothing: no diagnostics, no answer. It was killed a moment ago, or "
        "it hangs.",
        "Does its process live (ps)? What does its log say? A hung one has to be killed. The planner starts again by "
        "itself, the controller has to be started.",
    ),
    "node_loading": Text(WARNING, "{node} is still loading its model.", "Wait, and ask again."),
    "node_refused": Text(
        ERROR,
        "{node} could not be configured: {told}.",
        "Correct that and start it again; until then it does nothing.",
    ),
    "node_not_active": Text(
        ERROR,
        "{node} is {state}, not active.",
        "ros2 lifecycle set {path} configure, then activate; with autostart: true, as in the launch files, it does "
        "so by itself.",
    ),
    "no_watchdog": Text(
        WARNING,
        "cmd_vel_watchdog does not run: nobody stops the base when the controller hangs or dies.",
        "Leave watchdog:=true in the launch file.",
    ),
    # time
    "clock_mixed": Text(
        ERROR,
        "The nodes do not use the same time: use_sim_time is {told}.",
        "Give use_sim_time:=true or false to the launch file, for all nodes.",
    ),
    "clock_missing": Text(
        ERROR,
        "The nodes take the time from /clock (use_sim_time), and nobody publishes it: time stands still.",
        "Start the simulator or the recording (ros2 bag play --clock); on a robot use_sim_time:=false.",
    ),
    "clock_stopped": Text(
        ERROR, "/clock does not advance: the simulation or the recording is paused.", "Let it go on."
    ),
    "stamp_zero": Text(
        ERROR,
        "The stamps of {topic} are zero.",
        "Let the driver stamp each message with the time of the measurement.",
    ),
    "stamp_backwards": Text(
        ERROR,
        "The stamps of {topic} went back {times} times.",
        "Two publishers, a recording that began anew, or a clock that is being set (ntp, ptp)?",
    ),
    "stamp_repeated": Text(
        ERROR,
        "{same} of {count} messages on {topic} carry the stamp of the one before.",
        "The driver repeats old data: is the sensor frozen?",
    ),
    "stamp_other_clock": Text(
        ERROR,
        "The stamps of {topic} are {span} away from the time of the nodes, which is {time}: they are of another "
        "clock.",
        "With a simulator or a recording use_sim_time:=true; on a robot false, and drivers that stamp with the "
        "host's time.",
    ),
    "stamp_future": Text(
        ERROR,
        "The stamps of {topic} lie {ahead:.2f} s in the future; beyond {limit:g} s (future_tolerance) messages are "
        "refused.",
        "Synchronise the clocks of the computers (chrony, ptp).",
    ),
    "stamp_old": Text(
        ERROR,
        "Messages on {topic} are {age:.2f} s old when they come; from {limit:g} s on the robot stands.",
        "A slow driver or network, or clocks that differ: synchronise them (chrony, ptp); over a network send "
        "compressed images (rgb_transport:=compressed).",
    ),
    "stamp_late": Text(
        WARNING,
        "One in twenty messages on {topic} is {age:.2f} s old or more when it comes; from {limit:g} s on the robot "
        "stands.",
        "Is this machine overloaded (top)? Is the network?",
    ),
    "clocks_apart": Text(
        WARNING,
        "Camera and odometry do not share a clock: the stamps of {older} are {apart:.2f} s older. Paths are then "
        "placed where the robot was not.",
        "Synchronise the clocks of the computers (chrony, ptp), or let both drivers stamp with the host's time.",
    ),
    # who hears whom
    "type_mismatch": Text(
        ERROR,
        "{publisher} publishes {topic} as {sent}, but {subscriber} expects {wanted}: nothing gets through.",
        "{how}",
    ),
    "qos_mismatch": Text(
        ERROR,
        "{publisher} publishes {topic} {offered}, but {subscriber} asks for {wanted}: DDS does not connect the two.",
        "Let the publisher be {wanted}{how}.",
    ),
    "several_publishers": Text(
        WARNING,
        "{topic} is published by {count} nodes at once: {nodes}. Their messages mix.",
        "Stop all but one, or put them into other namespaces. A person drives on manual_cmd_vel.",
    ),
    "topic_unpublished": Text(ERROR, "Nobody publishes {topic} ({name}).", "{how}{elsewhere}"),
    "topic_silent": Text(
        ERROR, "{topic} ({name}) is silent: {nodes} announces it, and nothing came in {seconds:.0f} s.", "{how}"
    ),
    "topic_stopped": Text(ERROR, "{topic} fell silent {last:.1f} s before the end of listening.", "{how}"),
    "topic_gap": Text(
        ERROR, "{topic} was silent for {gap:.2f} s in between; after {limit:g} s the robot stops.", "{how}"
    ),
    "no_base": Text(
        WARNING,
        "Nobody listens to {topic}: no base gets the commands.",
        "Start the base driver, or give its topic: cmd_vel_topic:=…",
    ),
    # images
    "image_unusable": Text(ERROR, "Images cannot be used. {why}.", "Set the format in the camera driver."),
    "camera_slow": Text(
        WARNING,
        "{topic} comes at {rate:.1f} Hz; a moving robot needs {limit:g} Hz, better 10 to 30.",
        "Raise the frame rate of the driver, or lower the resolution.",
    ),
    "frames_lost": Text(
        WARNING,
        "{share:.0%} of the images on {topic} are missing: lost on the way, or left out by the camera.",
        "Is the camera's machine overloaded? Is the DDS profile for images in force in its driver (docs/replay.md)? "
        "Over a network: rgb_transport:=compressed with rgb_topic:=<its topic>/compressed.",
    ),
    "depth_unit": Text(
        ERROR,
        "The depth on {topic} reads {median:.0f} m in the middle: 32FC1 has to be metres.",
        "Divide by 1000 in the driver, or publish 16UC1 in millimetres.",
    ),
    "depth_empty": Text(
        ERROR,
        "{topic} arrives, but only {share:.0%} of its pixels hold a distance.",
        "Is the camera covered, its projector off, or something nearer than it can measure?",
    ),
    "size_mismatch": Text(
        ERROR,
        "depth is {depth} and rgb {rgb}: depth is not aligned to rgb.",
        "Take the driver's aligned depth (align_depth.enable:=true).",
    ),
    "info_mismatch": Text(
        ERROR,
        "camera_info is for images of {info}, but they are {image}: distances would be wrong.",
        "Use the camera_info of the colour stream (camera_info_topic:=…).",
    ),
    "info_invalid": Text(
        ERROR,
        "camera_info cannot be used: {why}.",
        "Calibrate the camera, or let the driver publish its intrinsics.",
    ),
    "frame_mismatch": Text(
        WARNING,
        "rgb, depth and camera_info are of different frames ({frames}): depth is hardly aligned to rgb.",
        "Take aligned depth and the camera_info of the colour stream.",
    ),
    "unsynchronised": Text(
        WARNING,
        "Only {share:.0%} of the rgb images have a depth image within {limit:.0f} ms (pairing_tolerance); the "
        "nearest is {offset:.0f} ms away. NavDP and the selections clearance and mean_if_clear get no frames then.",
        "Synchronise the streams in the driver (enable_sync:=true), or raise pairing_tolerance.",
    ),
    "dds_profile": Text(
        WARNING,
        "The DDS profile for images is not in force in {node}: its shared memory has {size} kB, {needed} kB are "
        "needed. Images get lost without an error.",
        "Set FASTDDS_DEFAULT_PROFILES_FILE (Humble, Jazzy: FASTRTPS_DEFAULT_PROFILES_FILE) to config/fastdds.xml of "
        "dual_nav_bringup in its environment, and start it again.",
    ),
    "other_rmw": Text(
        NOTE,
        "{rmw} is in use; the DDS profile for images of this project is for rmw_fastrtps_cpp.",
        "Give it buffers for images of 1 MB, or set RMW_IMPLEMENTATION=rmw_fastrtps_cpp in every process.",
    ),
    # odometry
    "odometry_slow": Text(
        WARNING, "{topic} comes at {rate:.1f} Hz; 20 Hz or more are needed.", "Raise the rate of the base driver."
    ),
    "odometry_gap": Text(
        ERROR,
        "{topic} has gaps of up to {gap:.2f} s; beyond {limit:g} s (odometry_max_gap) the robot stands, because a "
        "pose in between would be a guess.",
        "Is the base driver overloaded, or its link bad?",
    ),
    "odometry_invalid": Text(
        ERROR,
        "{topic} holds poses that are none: not finite, or an orientation that is no unit quaternion.",
        "Correct the base driver (orientation.w = 1 for no rotation).",
    ),
    "odometry_jump": Text(
        WARNING,
        "{topic} jumped by {jump:.1f} m: path and remembered obstacles are dropped at each jump.",
        "Use wheel or inertial odometry, which drifts but does not jump, and not a localisation.",
    ),
    "base_does_not_move": Text(
        ERROR,
        "{told:.1f} m were commanded, and by {topic} the robot moved {moved:.2f} m.",
        "Does the base get the commands (see cmd_vel)? Is it stuck or switched off, or is odometry frozen?",
    ),
    # S2 or S1 is late
    "planner_slow": Text(
        WARNING,
        "S2 is late: its plans are {age:.1f} s old when they come, {model:.1f} s of it in the model; S1 drives on a "
        "plan for {limit:g} s at most (plan_timeout).",
        "A GPU for S2 (device:=cuda, precision bfloat16), a smaller num_history, or a larger plan_timeout.",
    ),
    "planner_too_slow": Text(
        ERROR,
        "S2 is late: its plans are {age:.1f} s old when they come, {model:.1f} s of it in the model. S1 drops them: "
        "it drives on a plan for {limit:g} s at most (plan_timeout).",
        "A GPU for S2 (device:=cuda, precision bfloat16), a smaller num_history, or a larger plan_timeout.",
    ),
    "planner_owes": Text(
        ERROR,
        "S2 is late: S1 has been asking for a plan for {asking:.1f} s.",
        "What does s2_planner say (errors, does rgb arrive there)? What is the load of its machine?",
    ),
    "state_unknown": Text(
        ERROR,
        "The controller reports {why}, which is none of those known here: it is of another version.",
        "Build all packages from the same version, on every computer.",
    ),
    "heartbeat_gap": Text(
        WARNING,
        "S1 is late: s1/state paused for {gap:.2f} s; from {limit:g} s on (heartbeat_timeout) the watchdog stops the "
        "base.",
        "Is its machine overloaded (top)? Fewer torch_threads, fewer num_samples, or a GPU.",
    ),
    "controller_slow": Text(
        WARNING,
        "S1 is late: it sends {rate:.1f} commands per second instead of {wanted:g} (control_rate).",
        "Is its machine overloaded (top)? Fewer torch_threads, or a lower control_rate.",
    ),
    "controller_latency": Text(
        WARNING,
        "S1 is late: {latency:.1f} s from a camera image to the command made of it.",
        "A GPU for S1 (s1_device:=cuda), fewer num_samples, precision bfloat16.",
    ),
    # what the nodes say
    "stands": Text(ERROR, "Therefore the controller stands: {state}, {message}.", "docs/motion.md, states."),
    "stood": Text(
        WARNING, "The controller stood {share:.0%} of the time: {state}, {message}.", "docs/motion.md, states."
    ),
    "state": Text(NOTE, "The controller is in {state}: {message}."),
    "no_instruction": Text(
        NOTE,
        "There is no instruction: the robot waits.",
        "Give one: ros2 topic pub --once --qos-durability transient_local {topic} std_msgs/msg/String \"{{data: 'Go "
        "to the sofa.'}}\"",
    ),
    "diagnostics": Text(ERROR, "{node} says ({part}): {message}", "docs/motion.md, diagnostics, and the node's log."),
}
