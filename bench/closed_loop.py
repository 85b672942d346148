"""Whether the closed loop keeps up with real time: simulator, planner and controller as processes, without lock-step.

    python bench/closed_loop.py --model checkpoints/tiny          # make checkpoint OUT=checkpoints/tiny SIZE=tiny

prints simulated seconds per second, camera frames, paths and plans per second, and how many cores each process kept
busy: their sum is what the loop needs of a machine, whatever else runs on it meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo

from dual_nav_bringup.closed_loop import ClosedLoop, Parts
from dual_nav_util import qos
from dual_nav_util.stamps import to_nanoseconds
from nav_msgs_ext.msg import DiscreteActions, S2Plan
from nav_sim.episodes import make_episode
from nav_sim.evaluation import Settings, Simulators
from nav_sim.simulator import Config


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint folder")
    parser.add_argument("--look", default="", help="furniture or plain (default: furniture where it is installed)")
    parser.add_argument("--seconds", type=float, default=30.0, help="simulated (default: 30)")
    parser.add_argument("launch", nargs="*", metavar="name:=value", help="further arguments of sim.launch.xml")
    arguments = parser.parse_args()
    parts = Parts(arguments.model, arguments.model, arguments.look, wait_for="nobody", launch=tuple(arguments.launch))
    counts = {"frames": 0, "paths": 0, "plans": 0}
    clock: list[int] = []

    def count(name: str):
        def add(_: object) -> None:
            counts[name] += 1

        return add

    with tempfile.TemporaryDirectory() as folder, ClosedLoop(parts, Path(folder), lambda _: None) as loop:
        node = loop.node
        node.create_subscription(CameraInfo, "camera_info", count("frames"), qos.NEWEST_FRAME)
        node.create_subscription(DiscreteActions, "s1/actions", count("paths"), qos.DEFAULT)
        node.create_subscription(S2Plan, "s2/plan", count("plans"), qos.LATCHED)
        node.create_subscription(
            Clock, "/clock", lambda message: clock.append(to_nanoseconds(message.clock)), qos.NEWEST_STATE
        )
        settings = Settings(simulator=Config(look=arguments.look))
        with Simulators(settings) as simulators:
            episode = make_episode("test", 0, "object", 0)
            loop.run(episode, settings.radius, 3.0, simulators)  # everything is loaded and warm
            before = {name: sum(process.cpu_times()[:2]) for name, process in loop.system.processes().items()}
            first, began = dict(counts), time.monotonic()
            start_ns = clock[-1]
            loop.run(episode, settings.radius, arguments.seconds, simulators)
            elapsed, simulated = time.monotonic() - began, (clock[-1] - start_ns) / 1e9
            cores = {
                name: round((sum(process.cpu_times()[:2]) - before.get(name, 0.0)) / elapsed, 2)
                for name, process in loop.system.processes().items()
            }
    rates = {f"{name}_per_second": round((counts[name] - first[name]) / elapsed, 2) for name in counts}
    load = round(os.getloadavg()[0], 1)
    print(json.dumps({"real_time_factor": round(simulated / elapsed, 3), **rates, "cores": cores, "load": load}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
