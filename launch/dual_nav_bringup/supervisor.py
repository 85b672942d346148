"""Runs the processes of a launch file until they end or until it is told to stop, and leaves none behind.

- Every child is a session of its own, so a Ctrl-C in the terminal reaches this process only, which passes SIGINT on
  once; what does not end by that gets SIGTERM, then SIGKILL. A second Ctrl-C goes to the next stage at once.
- A child is killed by the kernel when this process dies, however it dies. Whatever a child started itself is
  killed with it.
- One thread, no locks: children can be started again at any time without the hazards of fork among threads.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from dual_nav_bringup.launch_file import Process

PR_SET_PDEATHSIG = 1
GRACE_SECONDS = {signal.SIGINT: 5.0, signal.SIGTERM: 5.0, signal.SIGKILL: 5.0}  # as ros2 launch waits after each
STAGES = tuple(GRACE_SECONDS)
COLOURS = (36, 33, 32, 35, 34, 96, 93, 92)

_libc = ctypes.CDLL(None)


def exit_status(returncode: int) -> int:
    """What a shell reports: the exit code, or 128 + number of the signal that ended the process."""
    return returncode if returncode >= 0 else 128 - returncode


def how_it_ended(returncode: int) -> str:
    """`ended with exit status 3`, `was killed by SIGKILL` …"""
    if returncode < 0:
        return f"was killed by {signal.Signals(-returncode).name}"
    return f"ended with exit status {returncode}" if returncode else "ended"


def stop_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask for an orderly end; not SIGHUP where nohup had it ignored."""
    hung_up = () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)
    return signal.SIGINT, signal.SIGTERM, *hung_up


def die_with_parent(death_signal: signal.Signals) -> Callable[[], None]:
    """For `preexec_fn`: the child gets `death_signal` when the thread that starts it is gone.

    It also undoes an ignored SIGINT, which background jobs of a non-interactive shell inherit.
    """
    parent = os.getpid()

    def in_child() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # it died in between
            os._exit(1)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    return in_child


class _Child:
    """One process of the launch file, in whichever of its lives."""

    def __init__(self, process: Process, prefix: str):
        self.process = process
        self.prefix = prefix
        self.popen: subprocess.Popen | None = None
        self.rest = b""  # of the last line
        self.start_at: float | None = 0.0  # monotonic time of the next start; None: no further one

    @property
    def alive(self) -> bool:
        return self.popen is not None


class Supervisor:
    """Starts `processes`, prefixes their output line by line and hands it to `write`, respawns, stops."""

    def __init__(
        self,
        processes: Sequence[Process],
        write: Callable[[str], None],
        colour: bool,
        grace_seconds: Mapping[signal.Signals, float] = GRACE_SECONDS,
    ):
        width = max(len(process.label) for process in processes)
        self.children = []
        for number, process in enumerate(processes):
            label = f"[{process.label}]".ljust(width + 2)
            code = COLOURS[number % len(COLOURS)]
            self.children.append(_Child(process, f"\033[{code}m{label}\033[0m " if colour else f"{label} "))
        self.write = write
        self.colour = colour
        self.grace_seconds = grace_seconds
        self.status = 0  # of the first process that failed for good
        self.stop_signal: signal.Signals | None = None  # the one that told this process to stop
        self.stage = -1  # index into STAGES of what the children were sent last
        self.next_stage_at = float("inf")
        self.selector = selectors.DefaultSelector()

    def run(self) -> int:
        """Run until all processes have ended. Returns the exit status of the launcher.

        The status of the first process that failed and was not started again; otherwise 130 or 143 when stopped by
        SIGINT or SIGTERM; otherwise 0.
        """
        self._wake_read, wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(wake_write, False)
        self.selector.register(self._wake_read, selectors.EVENT_READ)
        before = {number: signal.signal(number, self._on_signal) for number in (*stop_signals(), signal.SIGCHLD)}
        wakeup_before = signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        try:
            while any(child.alive or child.start_at is not None for child in self.children):
                self._start_due()
                self._wait()
                self._reap()
                if time.monotonic() >= self.next_stage_at:
                    self._escalate()
        finally:
            self._kill_all()
            signal.set_wakeup_fd(wakeup_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            self.selector.close()
            os.close(self._wake_read)
            os.close(wake_write)
        if self.status == 0 and self.stop_signal is not None:
            return exit_status(-self.stop_signal)
        return self.status

    # ------------------------------------------------------------------------------------------------ one step each

    def _on_signal(self, number: int, frame: object) -> None:
        if number == signal.SIGCHLD:
            return
        if self.stop_signal is None:
            self.stop_signal = signal.Signals(number)
        self.next_stage_at = 0.0

    def _start_due(self) -> None:
        for child in self.children:
            if child.start_at is not None and time.monotonic() >= child.start_at:
                child.start_at = None
                if self.stop_signal is None:
                    self._start(child)

    def _start(self, child: _Child) -> None:
        # Python children write line by line; children know by the last variable whether colours are wanted.
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "RCUTILS_COLORIZED_OUTPUT": "01"[self.colour]}
        environment.update(child.process.environment)
        try:
            child.popen = subprocess.Popen(
                child.process.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),
            )
        except OSError as error:
            self._say(child, f"cannot be started: {error.strerror}: {child.process.command[0]}")
            self.status = self.status or 127
            return
        os.set_blocking(child.popen.stdout.fileno(), False)
        self.selector.register(child.popen.stdout, selectors.EVENT_READ, child)
        self._say(child, f"started, process {child.popen.pid}")

    def _wait(self) -> None:
        times = [child.start_at for child in self.children if child.start_at is not None]
        until = min([*times, self.next_stage_at])
        timeout = None if until == float("inf") else max(0.0, until - time.monotonic())
        for key, _ in self.selector.select(timeout):
            if key.data is None:
                os.read(self._wake_read, 4096)
            else:
                self._pass_on(key.data)

    def _reap(self) -> None:
        for child in self.children:
            if child.alive and child.popen.poll() is not None:
                popen = child.popen
                self._kill_group(popen.pid)
                while not popen.stdout.closed and self._pass_on(child):
                    pass
                if not popen.stdout.closed:
                    self._close_output(child)
                child.popen = None
                self._ended(child, popen.returncode)

    def _ended(self, child: _Child, returncode: int) -> None:
        if self.stop_signal is not None:
            self._say(child, how_it_ended(returncode))
        elif child.process.respawn:
            delay = child.process.respawn_delay
            self._say(child, f"{how_it_ended(returncode)}; starting it again in {delay:g} s")
            child.start_at = time.monotonic() + delay
        else:
            self._say(child, how_it_ended(returncode))
            self.status = self.status or exit_status(returncode)

    def _escalate(self) -> None:
        """Send the next stronger signal to whoever is left."""
        self.stage = min(self.stage + 1, len(STAGES) - 1)
        number = STAGES[self.stage]
        self.next_stage_at = time.monotonic() + self.grace_seconds[number]
        for child in self.children:
            child.start_at = None
            if not child.alive:
                continue
            if self.stage:
                self._say(child, f"still running: {number.name}")
            if number == signal.SIGKILL:
                self._kill_group(child.popen.pid)
            child.popen.send_signal(number)

    def _kill_all(self) -> None:
        for child in self.children:
            if child.alive:
                self._kill_group(child.popen.pid)
                child.popen.wait()

    @staticmethod
    def _kill_group(leader: int) -> None:
        try:
            os.killpg(leader, signal.SIGKILL)
        except ProcessLookupError:  # nobody left in it
            return

    # ------------------------------------------------------------------------------------------------------- output

    def _pass_on(self, child: _Child) -> bool:
        """Write the complete lines that have arrived; False when there is nothing more at present."""
        try:
            data = os.read(child.popen.stdout.fileno(), 65536)
        except BlockingIOError:
            return False
        if not data:
            self._close_output(child)
            return False
        *lines, child.rest = (child.rest + data).split(b"\n")
        for line in lines:
            self._line(child, line)
        return True

    def _close_output(self, child: _Child) -> None:
        """A process may close its output and live on; its end comes as SIGCHLD."""
        self.selector.unregister(child.popen.stdout)
        child.popen.stdout.close()
        if child.rest:
            self._line(child, child.rest)
            child.rest = b""

    def _line(self, child: _Child, line: bytes) -> None:
        self.write(child.prefix + line.decode(errors="replace").rstrip("\r"))

    def _say(self, child: _Child, text: str) -> None:
        self.write(f"{child.prefix}-- {text}")


def write_line(text: str) -> None:
    """To standard output, at once. A reader or terminal that is gone or a full disk does not stop the processes from
    being looked after: a supervisor that ends kills them, and the robot would not be told to stand."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except UnicodeEncodeError:
        write_line(text.encode("ascii", "backslashreplace").decode())
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the rest of this process)
