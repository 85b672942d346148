"""Work spread over processes: what happens to the rest when a task fails."""

from __future__ import annotations

import multiprocessing
import time
from functools import partial
from pathlib import Path

import pytest

from dual_nav_training.workers import in_processes


def _work(folder: Path, task: int) -> int:
    if task == 1:
        raise ValueError("no good")
    time.sleep(0.1)
    (folder / str(task)).touch()
    return task


def test_an_error_is_raised_and_tasks_that_have_not_begun_are_left_out(tmp_path: Path) -> None:
    done = in_processes(partial(_work, tmp_path), range(30), 1)
    assert next(done) == 0
    with pytest.raises(ValueError, match="no good"):
        next(done)
    for process in multiprocessing.active_children():
        process.join()
    assert len(list(tmp_path.iterdir())) < 10
