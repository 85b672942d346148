"""The runner starts real processes, passes their output and exit status on, stops them, and leaves none behind."""

import contextlib
import io
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ament_index_python", reason="needs ROS 2: source scripts/env.sh")

from dual_nav_bringup.supervisor import write_line

RUNNER = [sys.executable, "-m", "dual_nav_bringup.launch_runner"]
SLEEP = "print('up', flush=True); import time; time.sleep(60)"
DEAF = "import signal; [signal.signal(s, signal.SIG_IGN) for s in (2, 15)]; " + SLEEP
CLEAN = """
import signal, sys, time
def end(number, frame): print('got', number, flush=True); sys.exit(0)
signal.signal(2, end); print('up', flush=True); time.sleep(60)
"""
WITH_CHILD = "import subprocess, sys; subprocess.Popen(['sleep', '61.25']); " + SLEEP


def launch_file(folder: Path, **programs: str) -> Path:
    """A launch file with one process per Python program; `name_respawn` starts again after 0.2 s."""
    lines = []
    for name, program in programs.items():
        script = folder / f"{name}.py"
        script.write_text(program)
        again = ' respawn="true" respawn_delay="0.2"' if name.endswith("_respawn") else ""
        lines.append(f'<executable name="{name}" cmd="{sys.executable} {script}"{again}/>')
    path = folder / "some.launch.xml"
    path.write_text("<launch>\n" + "\n".join(lines) + "\n</launch>\n")
    return path


class Run:
    """A running runner and what it has written so far."""

    def __init__(self, path: Path, **options):
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **options}
        self.popen = subprocess.Popen([*RUNNER, str(path)], **options)
        self.output = ""

    def until(self, text: str, count: int = 1) -> None:
        while self.output.count(text) < count:
            line = self.popen.stdout.readline().decode()
            assert line, f"ended without '{text}':\n{self.output}"
            self.output += line

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.popen.pid).children(recursive=True)

    def end(self) -> int:
        self.output += self.popen.stdout.read().decode()
        return self.popen.wait(timeout=30)


def assert_all_gone(processes: list[psutil.Process]) -> None:
    assert processes
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_output_is_prefixed_and_a_failing_process_gives_the_exit_status(tmp_path):
    run = Run(launch_file(tmp_path, good="print('fine')", bad="import sys; print('no end', end=''); sys.exit(7)"))
    assert run.end() == 7
    assert "[good] fine\n" in run.output
    assert "[bad]  no end\n" in run.output
    assert "[bad]  -- ended with exit status 7" in run.output
    assert "\033[" not in run.output


def test_all_processes_ending_well_is_status_zero(tmp_path):
    assert Run(launch_file(tmp_path, one="pass", two="pass")).end() == 0


def test_a_process_killed_by_a_signal_is_named_while_the_others_go_on(tmp_path):
    run = Run(launch_file(tmp_path, victim="import os; os.kill(os.getpid(), 9)", other=CLEAN))
    run.until("was killed by SIGKILL")
    run.until("up")
    run.popen.send_signal(signal.SIGINT)
    assert run.end() == 128 + 9
    assert "[other]  got 2" in run.output


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_children_get_one_sigint_and_the_runner_ends_with_the_status_of_its_signal(tmp_path, number, status):
    run = Run(launch_file(tmp_path, one=CLEAN, two=CLEAN))
    run.until("up", count=2)
    children = run.children()
    run.popen.send_signal(number)
    assert run.end() == status
    assert run.output.count("got 2") == 2
    assert_all_gone(children)


def test_what_ignores_signals_is_killed_with_what_it_started(tmp_path):
    run = Run(launch_file(tmp_path, deaf=DEAF, parent=WITH_CHILD))
    run.until("up", count=2)
    children = run.children()
    assert len(children) == 3
    for _ in range(3):  # every further Ctrl-C goes one stage on, without waiting
        run.popen.send_signal(signal.SIGINT)
        time.sleep(0.3)
    assert run.end() == 130
    assert "still running: SIGTERM" in run.output
    assert "still running: SIGKILL" in run.output
    assert_all_gone(children)


def test_a_killed_runner_takes_its_children_along(tmp_path):
    run = Run(launch_file(tmp_path, one=DEAF, two=SLEEP))
    run.until("up", count=2)
    children = run.children()
    run.popen.kill()
    assert_all_gone(children)
    run.end()


def test_a_process_is_started_again_until_the_runner_is_stopped(tmp_path):
    run = Run(launch_file(tmp_path, phoenix_respawn=SLEEP))
    run.until("up")
    for life in (2, 3):
        run.children()[0].kill()
        run.until("up", count=life)
    children = run.children()
    run.popen.send_signal(signal.SIGINT)
    assert run.end() == 130
    assert run.output.count("was killed by SIGKILL; starting it again in 0.2 s") == 2
    assert_all_gone(children)


def test_ctrl_c_works_from_a_shell_that_ignores_sigint_in_the_background(tmp_path):
    def ignore_sigint() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    run = Run(launch_file(tmp_path, one=SLEEP), preexec_fn=ignore_sigint)
    run.until("up")
    run.popen.send_signal(signal.SIGINT)
    assert run.end() == 130
    assert "KeyboardInterrupt" in run.output


def test_a_hang_up_ends_the_run_but_not_one_under_nohup(tmp_path):
    run = Run(launch_file(tmp_path, one=CLEAN))
    run.until("up")
    run.popen.send_signal(signal.SIGHUP)
    assert run.end() == 128 + signal.SIGHUP

    def ignore_sighup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    run = Run(launch_file(tmp_path, one=CLEAN), preexec_fn=ignore_sighup)
    run.until("up")
    run.popen.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert run.popen.poll() is None
    run.popen.send_signal(signal.SIGINT)
    assert run.end() == 130


def test_a_full_disk_or_a_terminal_that_is_gone_does_not_end_the_run(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        write_line("lost")
        write_line("lost, too")
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()


def test_a_terminal_without_the_letters_of_an_answer_still_gets_the_lines(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", terminal)
    write_line("the planner says ↓")
    write_line("more")
    assert terminal.buffer.getvalue() == b"the planner says \\u2193\nmore\n"


def test_closed_output_of_a_process_does_not_keep_the_runner_busy(tmp_path):
    program = "import os, time; os.close(1); os.close(2); time.sleep(1.5)"
    run = Run(launch_file(tmp_path, quiet=program, other=CLEAN))
    run.until("up")
    runner = psutil.Process(run.popen.pid)
    before = sum(runner.cpu_times()[:2])
    time.sleep(1)
    assert sum(runner.cpu_times()[:2]) - before < 0.3
    run.until("[quiet] -- ended")
    run.popen.send_signal(signal.SIGINT)
    assert run.end() == 130


@pytest.mark.parametrize(("no_colour", "coloured"), [(None, True), ("1", False)])
def test_colours_are_for_terminals_and_can_be_switched_off(tmp_path, no_colour, coloured):
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    if no_colour:
        environment["NO_COLOR"] = no_colour
    master, slave = pty.openpty()
    popen = subprocess.Popen([*RUNNER, str(launch_file(tmp_path, one="print('x')"))], stdout=slave, env=environment)
    popen.wait(timeout=60)
    os.close(slave)
    assert ("\033[" in os.read(master, 10000).decode()) == coloured
    os.close(master)


def test_a_bad_launch_file_is_one_line_and_status_two(tmp_path):
    path = tmp_path / "bad.launch.xml"
    path.write_text("<launch>\n<nonsense/>\n</launch>")
    run = Run(path)
    assert run.end() == 2
    assert run.output == f"run_launch: {path}:2: <nonsense> is not supported inside <launch> " + (
        "(supported: arg, executable, group, include, let, node)\n"
    )


def test_show_args_prints_name_default_and_description(tmp_path):
    path = tmp_path / "some.launch.xml"
    path.write_text('<launch><arg name="a" default="1" description="what it is"/></launch>')
    output = subprocess.run([*RUNNER, str(path), "--show-args"], capture_output=True, text=True, check=True).stdout
    assert "a  (default: '1')" in output
    assert "what it is" in output
