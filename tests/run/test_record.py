"""Seeds, whole-or-nothing files, records, and the device."""

import errno
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from prunus import masks as masking
from prunus.networks import checkpoint
from prunus.run import errors, files, gpus
from prunus.run import record as record_module
from prunus.run.device import open_device
from prunus.run.record import AS_STARTED, Recorder
from prunus.run.seeds import derive_seed
from prunus.study import layout, params


def test_seeds_differ_by_purpose_and_are_stable():
    seeds = {derive_seed(seed, method, t) for seed in (0, 1) for method in ("sap", "lth") for t in (1, 2)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "dense", "order") == 7827773531602408127


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "folder" / "file.txt"
    with files.write_atomically(target) as partial:
        partial.write_text("old")
    with pytest.raises(RuntimeError), files.write_atomically(target) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_record_says_what_made_a_run(project):
    path = layout.record("seed0", "dense")
    with (
        Recorder(path, torch.device("cpu"), threads=1, seeds={"order": 3}) as recorder,
        recorder.clock.time("train"),
    ):
        pass
    record = json.loads(path.read_text())
    assert record["seeds"] == {"order": 3}
    assert record["threads"] == 1
    assert (record["device"], record["gpu"]) == ("cpu", None)
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    assert 0 <= record["seconds"]["train"] <= record["seconds"]["total"]


def test_no_record_of_what_failed_and_what_is_unfinished_goes_with_success_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = layout.record("seed0", "dense")
    unfinished = layout.unfinished(path) / layout.CHECKPOINT
    unfinished.parent.mkdir(parents=True)
    unfinished.touch()
    with pytest.raises(RuntimeError), Recorder(path):
        raise RuntimeError
    assert unfinished.exists() and not path.exists()
    with Recorder(path):
        pass
    assert path.exists() and not unfinished.parent.exists()


RECORD = layout.record("seed0", "sap", "iteration-3")


def note():
    return json.loads(layout.failure(RECORD).read_text())


def test_a_failed_stage_leaves_a_note_and_no_record_until_it_is_run_again(project):
    with pytest.raises(ZeroDivisionError), Recorder(RECORD):
        raise ZeroDivisionError("by zero\nand more")
    assert not RECORD.exists()
    said = "ZeroDivisionError: by zero; the stage's output has the traceback"
    assert note() == {"kind": "error", "message": said, "density": None}
    with pytest.raises(errors.StageError), Recorder(RECORD):
        raise errors.StageError("no weight is left", "collapsed", 0.01)
    assert note() == {"kind": "collapsed", "message": "no weight is left", "density": 0.01}
    with pytest.raises(KeyboardInterrupt), Recorder(RECORD):
        raise KeyboardInterrupt  # and a note of an earlier run would be wrong now
    assert not layout.failure(RECORD).exists()
    with Recorder(RECORD):
        pass
    assert RECORD.exists() and not layout.failure(RECORD).exists()


def test_what_is_edited_while_plain_dvc_runs_a_stage_ends_it(project, monkeypatch):
    code = project / "code.py"
    code.touch()
    monkeypatch.setattr(record_module, "loaded_code", lambda: [str(code)])
    monkeypatch.setattr(params, "edited", lambda: [])

    def run():
        with Recorder(RECORD):
            os.utime(code, (1, code.stat().st_mtime + 1))

    run()  # by hand: nobody takes note of the code
    monkeypatch.setenv("DVC_STAGE", "pretrain@0")
    RECORD.unlink()
    with pytest.raises(errors.StageError, match=r"code\.py was edited while this stage ran"):
        run()
    assert not RECORD.exists() and note()["kind"] == "error"
    monkeypatch.setenv(AS_STARTED, str(time.time_ns() + 10**9))
    run()  # edited after it was read: what started the stage has put down what it read
    RECORD.unlink()
    monkeypatch.setenv(AS_STARTED, str(code.stat().st_ctime_ns - 1))
    with pytest.raises(errors.StageError, match=r"code\.py was edited while this stage started"):
        run()
    assert note()["kind"] == "error"
    monkeypatch.delenv(AS_STARTED)
    monkeypatch.setattr(params, "edited", lambda: ["training.epochs"])
    with pytest.raises(errors.StageError, match="training.epochs was edited"), Recorder(RECORD):
        pass


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
def test_out_of_memory_is_one_line_that_says_what_to_lower(project, allocate, capsys):
    with pytest.raises(SystemExit), errors.one_line_errors(), Recorder(RECORD, eased_by=["flow.samples"]):
        allocate()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "seed0 sap iteration-3: out of memory (" in said
    assert said.endswith("); lower flow.samples or run fewer stages at a time (snakemake --cores)\n")
    assert note()["kind"] == "out_of_memory"


def test_other_errors_keep_their_traceback(project):
    for error in (RuntimeError("a shape is wrong"), FileNotFoundError(2, "No such file", "x"), ValueError()):
        with pytest.raises(type(error)), errors.one_line_errors(), Recorder(RECORD):
            raise error


@pytest.fixture
def full_disk(tmp_path):
    """A folder on a file system of one MiB; skipped where none may be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]).returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def written(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_full_disk_is_one_line_and_leaves_nothing(full_disk, capsys):
    path, tensors = full_disk / "runs" / "network.safetensors", {"a": torch.zeros(10**6)}
    checkpoint.save(full_disk / "small.safetensors", {"a": torch.zeros(10)})
    for write in (lambda: checkpoint.save(path, tensors), lambda: files.write_json(path, "x" * 2**21)):
        with pytest.raises(SystemExit), errors.one_line_errors():
            write()
        said = capsys.readouterr().err
        assert said.endswith(
            f"{path} could not be written (No space left on device); free some space, then run the same command again\n"
        )
        assert written(full_disk) == [full_disk / "small.safetensors"]


def test_a_stage_whose_disk_is_full_says_so_even_if_its_note_cannot_be_written(full_disk):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(full_disk)
        (full_disk / "filling").write_bytes(bytes(2**20 - 4096 * 3))
        with pytest.raises(errors.StageError, match="could not be written") as raised, Recorder(RECORD):
            files.write_json(layout.dense(0) / "metrics.json", "x" * 2**16)
    assert raised.value.kind == "disk_full"
    assert not list(full_disk.rglob("*.partial"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_on_any_machine(tmp_path, number):
    with (
        pytest.raises(errors.StageError, match=r"a\.csv could not be written"),
        files.write_atomically(tmp_path / "a.csv") as partial,
    ):
        partial.write_text("half")
        raise OSError(number, os.strerror(number))
    assert not list(tmp_path.iterdir())


def test_what_may_not_be_read_or_written_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit), errors.one_line_errors():
        files.write_json(tmp_path / "file" / "metrics.json", {})
    said = capsys.readouterr().err
    assert said.endswith("/file: File exists; mend that, then run the same command again\n")
    with pytest.raises(SystemExit), errors.one_line_errors():
        raise PermissionError(errno.EACCES, "Permission denied", "data/raw/x")
    assert "data/raw/x: Permission denied; mend that" in capsys.readouterr().err


def test_two_processes_of_one_stage_take_turns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = layout.record("seed0", "dense")
    code = "from pathlib import Path; from prunus.run.record import Recorder\n"
    code += f"with Recorder(Path('{path}')): print('in')"
    environment = os.environ | {"PYTHONPATH": str(layout.ROOT / "stages")}
    with Recorder(path):
        other = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        assert "another process runs this stage (runs/records/seed0/dense)" in other.stdout.readline()
        assert other.poll() is None
    assert other.communicate()[0] == "in\n"
    assert other.returncode == 0


def test_missing_and_damaged_files_name_the_command_that_makes_them(tmp_path):
    path = tmp_path / "network.safetensors"
    with pytest.raises(errors.StageError, match="is missing; `python x.py` makes it"):
        checkpoint.load(path, torch.device("cpu"), "python x.py")
    path.write_bytes(b"not tensors")
    with pytest.raises(errors.StageError, match="is damaged"):
        checkpoint.load(path, torch.device("cpu"), "python x.py")
    with pytest.raises(errors.StageError, match="`python y.py` makes it"):
        files.read_json(tmp_path / "reference_flow.json", "python y.py", {})


def test_a_checkpoint_comes_back_with_its_masks(tmp_path, small_network):
    masks = masking.ones(small_network) | {"0.weight": torch.rand(4, 1, 3, 3) < 0.5}
    masking.apply(small_network, masks)
    checkpoint.save(tmp_path / "a", small_network.state_dict(), masks)
    state, loaded = checkpoint.load(tmp_path / "a", torch.device("cpu"), "")
    assert all(torch.equal(state[name], tensor) for name, tensor in small_network.state_dict().items())
    assert torch.equal(loaded["0.weight"], masks["0.weight"])


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


def test_a_stage_computes_on_the_gpu_it_was_given_or_leases_one(project, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU at {device.index}")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode, warn_only: None)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(gpus, "take", lambda count: count - 1)
    monkeypatch.setattr(gpus, "held", lambda: "GPU-6f")
    device = open_device("auto", 1)
    assert device == torch.device("cuda", 1)
    with Recorder(RECORD, device):
        pass
    record = json.loads(RECORD.read_text())
    assert (record["gpu"], record["device"], record["peak_gpu_bytes"]) == ("GPU-6f", "GPU at 1", 5)
