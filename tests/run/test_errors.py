"""An error that the user can fix is one line; a bug keeps its traceback."""

import errno
import json

import numpy as np
import pytest
import torch

from prunus.run import errors, files
from prunus.run.record import Recorder
from prunus.study import layout

RECORD = layout.record("seed0", "sap", "iteration-3")


def too_much_for_torch():
    torch.empty(10**15)


def too_much_for_numpy():
    np.empty(10**15)


def too_much_for_python():
    bytearray(2**62)


def too_much_for_a_gpu():  # as torch raises it; the real thing needs a GPU
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def too_much_for_cuda():
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


@pytest.mark.parametrize(
    "allocate",
    [too_much_for_torch, too_much_for_numpy, too_much_for_python, too_much_for_a_gpu, too_much_for_cuda],
)
def test_out_of_memory_is_one_line_that_says_what_to_lower(folder, allocate, capsys):
    with pytest.raises(SystemExit), errors.one_line_errors(), Recorder(RECORD, eased_by=["flow.samples"]):
        allocate()
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1
    assert "seed0 sap iteration-3: out of memory (" in stderr
    assert stderr.endswith("); lower flow.samples or run fewer stages at a time (snakemake --cores)\n")
    assert json.loads(layout.failure(RECORD).read_text())["kind"] == "out_of_memory"


def test_other_errors_keep_their_traceback(folder):
    for error in (RuntimeError("a shape is wrong"), FileNotFoundError(2, "No such file", "x"), ValueError()):
        with pytest.raises(type(error)), errors.one_line_errors(), Recorder(RECORD):
            raise error


def test_what_may_not_be_read_or_written_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit), errors.one_line_errors():
        files.write_json(tmp_path / "file" / "metrics.json", {})
    stderr = capsys.readouterr().err
    assert stderr.endswith("/file: File exists; fix it and run the same command again\n")
    with pytest.raises(SystemExit), errors.one_line_errors():
        raise PermissionError(errno.EACCES, "Permission denied", "data/raw/x")
    assert "data/raw/x: Permission denied; fix it" in capsys.readouterr().err
