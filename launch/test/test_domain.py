"""A domain in use is not taken for a free one, and a new participant makes it one in use."""

import os
import subprocess
import sys

import pytest

from dual_nav_bringup.domain import FIRST_PORT, OFFSETS, PORTS_PER_DOMAIN, _is_free, free_domain_id, own_domain_id

pytest.importorskip("rclpy", reason="needs ROS 2: source scripts/env.sh")

PROGRAM = "import rclpy, sys; rclpy.init(); n = rclpy.create_node('x'); print('up', flush=True); sys.stdin.read()"


def ports(domain: int) -> list[int]:
    return [FIRST_PORT + PORTS_PER_DOMAIN * domain + offset for offset in OFFSETS]


def test_the_domain_of_a_robots_shell_is_not_taken(monkeypatch):
    monkeypatch.delenv("NAV_DOMAIN_ID", raising=False)
    monkeypatch.setenv("ROS_DOMAIN_ID", "5")
    monkeypatch.setattr("dual_nav_bringup.domain.free_domain_id", lambda: 77)
    assert own_domain_id() == "77"
    monkeypatch.setenv("NAV_DOMAIN_ID", "42")
    assert own_domain_id() == "42"


def test_a_participant_makes_its_domain_used():
    domain = free_domain_id()
    assert all(_is_free(port) for port in ports(domain))
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert not all(_is_free(port) for port in ports(domain))
        process.communicate()
