"""The soak finds growth, threads and handles that are too many, and both nodes pass a short one."""

import csv
import json
import os
import subprocess
import sys

import psutil
import pytest

pytest.importorskip("nav_msgs_ext", reason="needs ROS 2 and the built workspace: source scripts/env.sh")

from PIL import Image
from scenario import make_checkpoint
from synthetic import write_corridor

from dual_nav_bringup.domain import free_domain_id
from dual_nav_bringup.soak import Usage, judge, memory_of, usage_of

HOUR = 3600


def samples(memory=lambda t: 500.0, threads=lambda t: 24, handles=lambda t: 23) -> list[Usage]:
    return [Usage(float(t), memory(t), 600.0, threads(t), handles(t)) for t in range(HOUR)]


@pytest.mark.parametrize(
    ("used", "said"),
    [
        (samples(), []),
        (samples(memory=lambda t: 300.0 + min(t, 300)), []),  # caches fill in the first five minutes
        (samples(memory=lambda t: 500.0 * (1 + 0.02 * t / HOUR)), ["node: memory grew by 1.66%"]),
        (samples(memory=lambda t: 550.0 if t % 20 == 0 else 500.0), []),
        (samples(threads=lambda t: 24 + t // 3000), ["node: 25 threads, 24 during the warm-up"]),
        (samples(threads=lambda t: 26 if t < 60 else 24), []),
        (samples(memory=lambda t: 450.0 + 50.0 * (t % 250) / 250), []),  # the history of an episode
        (samples(handles=lambda t: 23 + t // 600), ["node: 28 open handles, 23 during the warm-up"]),
        (samples(handles=lambda t: 24 if t in (840, 3590) else 23), []),
    ],
    ids=[
        "constant",
        "warm-up",
        "memory leak",
        "peaks of single inferences",
        "a thread",
        "threads of the start",
        "episodes",
        "handle leak",
        "a file open for an instant",
    ],
)
def test_what_grows_after_the_warm_up_is_found(used, said):
    found = judge(used, warm_up=300.0).faults("node", allowed_growth=0.01)
    assert len(found) == len(said)
    assert all(text in fault for text, fault in zip(said, found, strict=True))


def test_too_few_samples_are_no_verdict():
    with pytest.raises(ValueError, match="too few to compare after 300 s"):
        judge(samples()[:200], warm_up=300.0)


def test_pages_of_files_and_shared_memory_are_not_held_and_swapped_out_ones_are():
    status = (
        "Name:\tpython\nVmRSS:\t 1000 kB\nRssAnon:\t 600 kB\nRssFile:\t 300 kB\nRssShmem:\t 100 kB\nVmSwap:\t 50 kB\n"
    )
    held, resident = memory_of(status)
    assert held == pytest.approx(0.6656)
    assert resident == pytest.approx(1.024)


def test_memory_and_handles_of_a_process_are_seen():
    code = "import sys; a = b'x' * 50_000_000; f = open('/dev/null'); print(flush=True); sys.stdin.read()"
    plain = "import sys; print(flush=True); sys.stdin.read()"
    used = []
    for text in (plain, code):
        with subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            used.append(usage_of(psutil.Process(process.pid), 0.0))
            process.stdin.close()
    assert used[1].memory_mb - used[0].memory_mb == pytest.approx(50.0, abs=6.0)  # in pages of up to 2 MB
    assert used[1].handles == used[0].handles + 1
    assert used[1].threads == used[0].threads == 1


def test_both_nodes_pass_a_short_soak_that_ends_with_table_figures_and_picture(tmp_path):
    model = make_checkpoint(tmp_path / "model")
    bag = write_corridor(tmp_path / "corridor", count=60, fps=10.0)
    command = [
        sys.executable,
        "-m",
        "dual_nav_bringup.soak",
        "--bag",
        bag,
        "--model",
        model,
        "--out",
        tmp_path / "out",
    ]
    # Memory is still settling in so short a time: what is looked at here is that the soak works.
    command += ["--minutes", "0.3", "--warm-up", "0.17", "--growth", "50"]
    environment = os.environ | {"ROS_DOMAIN_ID": str(free_domain_id()), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert run.returncode == 0, run.stderr + run.stdout
    summary = json.loads(run.stdout.splitlines()[-1])
    assert summary["complete"]
    assert summary["faults"] == []
    assert set(summary["nodes"]) == {"s2_planner", "s1_controller", "cmd_vel_watchdog"}
    assert summary["plans"] > 3
    assert summary["paths"] > 3
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    with (tmp_path / "out" / "usage.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 3 * 10
    assert all(float(row["memory_mb"]) > 20 and int(row["threads"]) > 1 and int(row["handles"]) > 3 for row in rows)
    assert Image.open(tmp_path / "out" / "memory.png").size[0] == 800
