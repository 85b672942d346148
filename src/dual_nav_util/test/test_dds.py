"""The DDS check tells the shipped profile from Fast DDS as it comes, in real processes with real participants."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dual_nav_util.dds import image_transport_warnings, process_segment_bytes, remove_stale_segments

PROFILE = Path(__file__).resolve().parents[3] / "launch" / "config" / "fastdds.xml"
PROGRAM = """
import rclpy
from dual_nav_util.dds import image_transport_warnings, remove_stale_segments
rclpy.init()
node = rclpy.create_node("dds_check")
print("\\n".join(image_transport_warnings(rclpy.get_rmw_implementation_identifier())))
"""

pytest.importorskip("rclpy", reason="needs ROS 2: source scripts/env.sh")


def warnings_with_profile(profile: str) -> str:
    environment = {
        **os.environ,
        "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
        "FASTDDS_DEFAULT_PROFILES_FILE": profile,
        "FASTRTPS_DEFAULT_PROFILES_FILE": profile,
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    return run.stdout.strip()


def test_nothing_is_said_when_the_shipped_profile_is_in_force():
    assert warnings_with_profile(str(PROFILE)) == ""


def test_a_profile_that_cannot_be_read_is_named_with_what_is_in_force_instead(tmp_path):
    said = warnings_with_profile(str(tmp_path / "absent.xml"))
    assert "absent.xml" in said
    assert "needed: 16384 kB" in said


def test_the_shared_memory_of_another_process_can_be_seen():
    program = PROGRAM + "input()"
    environment = {
        **os.environ,
        "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
        "FASTDDS_DEFAULT_PROFILES_FILE": str(PROFILE),
    }
    environment["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(PROFILE)
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        other.stdout.readline()  # its node exists
        assert process_segment_bytes(other.pid) >= 32 * 2**20
        other.communicate("\n")
    assert process_segment_bytes(other.pid) is None


def test_another_rmw_is_named():
    assert "rmw_cyclonedds_cpp" in image_transport_warnings("rmw_cyclonedds_cpp")[0]


def test_segments_of_killed_processes_are_removed_and_those_of_living_ones_kept(tmp_path):
    old = time.time() - 60
    for name in (
        "fastdds_00000000000000aa",
        "fastdds_00000000000000bb",
        "fastdds_00000000000000cc",
        "fastdds_port7000",
    ):
        for path in (tmp_path / name, tmp_path / f"{name}_el"):
            path.touch()
            os.utime(path, (old, old))
    (tmp_path / "fastdds_00000000000000cc_el").touch()  # just made: its owner may be about to lock it
    with (tmp_path / "fastdds_00000000000000bb_el").open("r+b") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        assert remove_stale_segments(tmp_path) == 1
    left = sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith("_el"))
    assert left == ["fastdds_00000000000000bb", "fastdds_00000000000000cc", "fastdds_port7000"]
