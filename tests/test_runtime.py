"""Seeds, whole-or-nothing files, records, and the device."""

import fcntl
import json
import os
import subprocess
import sys

import pytest
import torch

from prunus import checkpoint, layout, runtime


def test_seeds_differ_by_purpose_and_are_stable():
    seeds = {runtime.derive_seed(seed, method, t) for seed in (0, 1) for method in ("sap", "lth") for t in (1, 2)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert runtime.derive_seed(0, "dense", "order") == 7827773531602408127


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "folder" / "file.txt"
    with runtime.write_atomically(target) as partial:
        partial.write_text("old")
    with pytest.raises(RuntimeError), runtime.write_atomically(target) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_a_record_says_what_made_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = layout.record("data")
    with (
        runtime.Recorder(path, torch.device("cpu"), threads=1, seeds={"order": 3}) as recorder,
        recorder.clock.time("train"),
    ):
        pass
    record = json.loads(path.read_text())
    assert record["seeds"] == {"order": 3}
    assert record["threads"] == 1
    assert record["device"] == "cpu"
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    assert 0 <= record["seconds"]["train"] <= record["seconds"]["total"]


def test_no_record_of_what_failed_and_what_is_unfinished_goes_with_success_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = layout.record("seed0", "dense")
    unfinished = layout.unfinished(path) / layout.CHECKPOINT
    unfinished.parent.mkdir(parents=True)
    unfinished.touch()
    with pytest.raises(RuntimeError), runtime.Recorder(path):
        raise RuntimeError
    assert unfinished.exists() and not path.exists()
    with runtime.Recorder(path):
        pass
    assert path.exists() and not unfinished.parent.exists()


def test_two_processes_of_one_stage_take_turns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = layout.record("seed0", "dense")
    code = f"from pathlib import Path; from prunus import runtime\nwith runtime.Recorder(Path('{path}')): print('in')"
    environment = os.environ | {"PYTHONPATH": str(layout.ROOT / "stages")}
    with runtime.Recorder(path):
        other = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        assert "another process runs this stage (runs/records/seed0/dense)" in other.stdout.readline()
        assert other.poll() is None
    assert other.communicate()[0] == "in\n"
    assert other.returncode == 0


def test_missing_and_damaged_files_name_the_command_that_makes_them(tmp_path):
    path = tmp_path / "network.safetensors"
    with pytest.raises(runtime.StageError, match="is missing; `python x.py` makes it"):
        checkpoint.load(path, torch.device("cpu"), "python x.py")
    path.write_bytes(b"not tensors")
    with pytest.raises(runtime.StageError, match="is damaged"):
        checkpoint.load(path, torch.device("cpu"), "python x.py")
    with pytest.raises(runtime.StageError, match="`python y.py` makes it"):
        runtime.read_json(tmp_path / "reference_flow.json", "python y.py")


def test_a_checkpoint_comes_back_with_its_masks(tmp_path, small_network):
    masks = {"0.weight": torch.rand(4, 1, 3, 3) < 0.5}
    checkpoint.save(tmp_path / "a", small_network.state_dict(), masks)
    state, loaded = checkpoint.load(tmp_path / "a", torch.device("cpu"), "")
    assert all(torch.equal(state[name], tensor) for name, tensor in small_network.state_dict().items())
    assert torch.equal(loaded["0.weight"], masks["0.weight"])


def test_threads_are_the_parameters_whatever_the_launcher_exported():
    code = "from prunus.runtime import open_device; import torch; open_device('cpu', 1); print(torch.get_num_threads())"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={"OMP_NUM_THREADS": "2", "PYTHONPATH": str(layout.ROOT / "stages")},
        capture_output=True,
        text=True,
    )
    assert ran.stdout == "1\n", ran.stderr


def test_cuda_that_is_not_there_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(runtime.StageError, match="allowed here: auto, cpu"):
        runtime.open_device("cuda", 1)
    assert runtime.open_device("auto", 1).type == "cpu"


def test_stages_take_the_first_gpu_nobody_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(runtime, "_leases", [])
    try:
        assert [runtime._lease_gpu(2), runtime._lease_gpu(2)] == [0, 1]
        assert runtime._lease_gpu(2) in (0, 1)
    finally:
        for handle in runtime._leases:
            fcntl.flock(handle, fcntl.LOCK_UN)
            handle.close()
