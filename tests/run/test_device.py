"""Threads and device are as in params.yaml."""

import subprocess
import sys

import pytest
import torch

from prunus.run import errors
from prunus.run.device import open_device
from prunus.study import layout


def test_threads_are_the_parameters_whatever_the_launcher_exported():
    code = "from prunus.run.device import open_device; open_device('cpu', 1)"
    code += "; import torch; print(torch.get_num_threads())"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={"OMP_NUM_THREADS": "2", "PYTHONPATH": str(layout.ROOT / "stages")},
        capture_output=True,
        text=True,
    )
    assert ran.stdout == "1\n", ran.stderr


def test_cuda_that_is_not_there_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(errors.StageError, match="allowed here: auto, cpu"):
        open_device("cuda", 1)
    assert open_device("auto", 1).type == "cpu"
