"""Work spread over processes of their own."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

Task, Result = TypeVar("Task"), TypeVar("Result")


def in_processes(work: Callable[[Task], Result], tasks: Sequence[Task], processes: int) -> Iterator[Result]:
    """What `work` (picklable) makes of each task, in the order it is finished.

    Ctrl-C ends the processes at once. Raises what `work` raises, once the tasks that others work on are done and
    without beginning any more, and BrokenExecutor when a process was killed, as by a system that is out of memory.
    """
    # Not forks: an OpenGL context does not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, signal.signal, (signal.SIGINT, signal.SIG_DFL)) as pool:
        futures = [pool.submit(work, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            # Waits: when this block ends the pool is shut down again, which would take back that tasks are cancelled.
            pool.shutdown(wait=True, cancel_futures=True)
            raise
