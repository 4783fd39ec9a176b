"""The run record of a stage, the note it leaves when it fails, and stages that take turns."""

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from prunus.run import errors, gpus
from prunus.run import record as record_module
from prunus.run.code import STAGES
from prunus.run.device import open_device
from prunus.run.record import AS_STARTED, Obeys, Recorder
from prunus.study import layout, params


def test_a_record_says_what_made_a_run(folder):
    path = layout.record("seed0", "dense")
    with (
        Recorder(path, device=torch.device("cpu"), threads=1, seeds={"order": 3}) as recorder,
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


def test_a_failed_stage_leaves_a_note_and_no_record_until_it_is_run_again(folder):
    with pytest.raises(ZeroDivisionError), Recorder(RECORD):
        raise ZeroDivisionError("by zero\nand more")
    assert not RECORD.exists()
    message = "ZeroDivisionError: by zero; the stage's output has the traceback"
    assert note() == {"kind": "error", "message": message, "density": None}
    with pytest.raises(errors.StageError), Recorder(RECORD):
        raise errors.StageError("no weight is left", "collapsed", 0.01)
    assert note() == {"kind": "collapsed", "message": "no weight is left", "density": 0.01}
    with pytest.raises(KeyboardInterrupt), Recorder(RECORD):
        raise KeyboardInterrupt  # and a note of an earlier run would be wrong now
    assert not layout.failure(RECORD).exists()
    with Recorder(RECORD):
        pass
    assert RECORD.exists() and not layout.failure(RECORD).exists()


def test_what_is_edited_while_plain_dvc_runs_a_stage_ends_it(folder, monkeypatch):
    code = folder / "code.py"
    code.touch()
    monkeypatch.setattr(record_module, "STARTED", code.stat().st_ctime_ns)
    monkeypatch.setattr(params, "edited", lambda keys, before: [])
    obeys = Obeys(code, ["training"], SimpleNamespace())

    def run():
        time.sleep(0.01)  # so that the clock of the file system has gone on
        with Recorder(RECORD, obeys=obeys):
            os.utime(code, (1, code.stat().st_mtime + 1))

    run()  # by hand: nobody takes note of the code
    monkeypatch.setenv("DVC_STAGE", "pretrain@0")
    RECORD.unlink()
    with pytest.raises(errors.StageError, match=r"code\.py was edited while this stage ran"):
        run()
    assert not RECORD.exists() and note()["kind"] == "error"
    with Recorder(RECORD):  # it checks no code and no settings
        os.utime(code)
    monkeypatch.setenv(AS_STARTED, str(time.time_ns() + 10**9))
    run()  # edited after it was read: what started the stage has put down what it read
    RECORD.unlink()
    monkeypatch.setenv(AS_STARTED, str(code.stat().st_ctime_ns - 1))
    with pytest.raises(errors.StageError, match=r"code\.py was edited while this stage started"):
        run()
    assert note()["kind"] == "error"
    monkeypatch.delenv(AS_STARTED)
    monkeypatch.setattr(params, "edited", lambda keys, before: keys)
    with pytest.raises(errors.StageError, match="training was edited"), Recorder(RECORD, obeys=obeys):
        pass


def test_the_code_of_a_stage_is_its_own_methods_and_no_others():
    names = [path.name for path in Obeys(STAGES / "pretrain.py", ["study", "methods.sap"], SimpleNamespace()).code]
    assert {"pretrain.py", "sap.py", "loop.py"} <= set(names) and "oto.py" not in names


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


def test_a_stage_computes_on_the_gpu_it_was_given_or_leases_one(folder, monkeypatch):
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
    with Recorder(RECORD, device=device):
        pass
    record = json.loads(RECORD.read_text())
    assert (record["gpu"], record["device"], record["peak_gpu_bytes"]) == ("GPU-6f", "GPU at 1", 5)
