"""Where the reference vectors lie."""

import os
from pathlib import Path

import pytest
import torch

SHARED = Path(os.environ.get("NAV_SHARED_DIR", Path(__file__).resolve().parents[3] / "shared"))

torch.set_num_threads(1)  # small tensors: on a busy machine a second thread costs more than it gives


@pytest.fixture(scope="session")
def parity_folder():
    folder = SHARED / "parity"
    if not folder.is_dir():
        pytest.skip(f"no reference vectors at {folder}; set NAV_SHARED_DIR to the folder with parity/ and data/")
    return folder
