"""GPUs are listed; stages spread over them evenly, hold one slot each and lose it only when they end."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from prunus.run import gpus
from prunus.study import layout


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A function that pretends what nvidia-smi prints; the machine's own GPUs and slots are out of sight."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(gpus.VISIBLE, raising=False)
    monkeypatch.delenv(gpus.SLOT, raising=False)
    monkeypatch.setattr(gpus, "_held", [])

    def pretend(printed: str, status: int = 0):
        command = tmp_path / "nvidia-smi"
        command.write_text(f"#!{sys.executable}\nprint({printed!r})\nraise SystemExit({status})\n")
        command.chmod(0o755)

    yield pretend
    for _, handle in gpus._held:
        handle.close()
    os.environ.pop(gpus.SLOT, None)


def slots_held(tmp_path):
    return sum(not gpus._free(slot) for slot in tmp_path.glob("prunus-*-gpus/*,*"))


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("0,1", ["0", "1"]),
        (" 3 , 1", ["3", "1"]),
        ("GPU-6f2a,GPU-91", ["GPU-6f2a", "GPU-91"]),
        ("MIG-GPU-6f/1/0", ["MIG-GPU-6f/1/0"]),
        ("0,-1,1", ["0"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
    ],
)
def test_names_are_those_of_cuda_visible_devices(given, names, machine, monkeypatch):
    machine("GPU 7: A (UUID: GPU-7)")
    monkeypatch.setenv(gpus.VISIBLE, given)
    assert gpus.visible() == names


LISTING = """GPU 0: NVIDIA H200 (UUID: GPU-6f2a)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-91)
  MIG 3g.20gb     Device  0: (UUID: MIG-c7)
  MIG 3g.20gb     Device  1: (UUID: MIG-d8)
GPU 2: NVIDIA H200 (UUID: GPU-a0)"""


def test_nvidia_smi_names_gpus_and_the_parts_of_one_that_is_cut(machine):
    assert gpus.visible() == []
    machine(LISTING)
    assert gpus.visible() == ["0", "MIG-c7", "MIG-d8", "2"]
    machine("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", status=9)
    assert gpus.visible() == []


def test_stages_spread_evenly_in_whatever_order_they_end(monkeypatch):
    monkeypatch.setenv(gpus.VISIBLE, "GPU-a,MIG-GPU-b/1/0")
    assert [gpus.take(2) for _ in range(4)] == [0, 1, 0, 1]
    assert [name for name, _ in gpus._held] == ["GPU-a", "MIG-GPU-b/1/0"] * 2
    for index in (3, 1, 0):  # the third stays, on the first GPU, in its second slot
        gpus._held.pop(index)[1].close()
    assert [gpus.take(2) for _ in range(3)] == [1, 0, 1]


def test_torch_counts_where_nobody_else_knows(monkeypatch):
    assert [gpus.take(2), gpus.take(2)] == [0, 1]
    assert gpus.held() == "0"
    monkeypatch.setenv(gpus.VISIBLE, "4,5,6")  # of which torch finds two
    assert [gpus.take(2) for _ in range(3)] == [0, 1, 0]


def test_a_placed_stage_takes_no_second_slot(tmp_path, monkeypatch):
    monkeypatch.setenv(gpus.VISIBLE, "0,GPU-91")
    gpus.take(2)
    gpus.place()
    assert os.environ[gpus.VISIBLE] == "GPU-91"
    assert (gpus.take(1), gpus._held[-1][0], slots_held(tmp_path)) == (0, "GPU-91", 2)


def test_a_stage_waits_until_a_gpu_has_room(monkeypatch):
    monkeypatch.setenv(gpus.VISIBLE, "GPU-a,GPU-b")
    for _ in range(3):
        gpus.take(2)
    waited = []

    def sleep(seconds):
        """While the stage waits, the second one, on GPU-b, ends."""
        waited.append(seconds)
        gpus._held.pop(1)[1].close()

    monkeypatch.setattr(gpus.time, "sleep", sleep)
    gpus.place(at_most=2)
    assert (os.environ.pop(gpus.VISIBLE), waited) == ("GPU-b", [])
    monkeypatch.setenv(gpus.VISIBLE, "GPU-a,GPU-b")
    gpus.place(at_most=2)
    assert (os.environ[gpus.VISIBLE], len(waited)) == ("GPU-b", 1)
    monkeypatch.setenv(gpus.VISIBLE, "GPU-a,GPU-b")
    gpus.place()
    assert os.environ[gpus.VISIBLE] == "GPU-a"


def test_without_gpus_nothing_changes(monkeypatch):
    gpus.place()
    assert not {gpus.VISIBLE, gpus.SLOT} & set(os.environ)
    assert gpus.held() is None


STAGE = "from prunus.run import gpus; gpus.take(1); print(gpus.held(), flush=True); input()"
RUNNER = f"""
import os, subprocess, sys
from prunus.run import gpus
gpus.place()
stage = subprocess.Popen([sys.executable, "-c", {STAGE!r}])
print(os.environ[gpus.VISIBLE], stage.pid, flush=True)
stage.wait()
"""


def start(code):
    environment = os.environ | {"PYTHONPATH": str(layout.ROOT / "stages")}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, text=True, **pipes)


def test_a_slot_is_free_again_once_all_that_held_it_were_killed(tmp_path, monkeypatch):
    monkeypatch.setenv(gpus.VISIBLE, "0,1")
    with start(RUNNER) as first, start(RUNNER) as second:
        outputs = [{process.stdout.readline().strip() for _ in range(2)} for process in (first, second)]
        placed = [next(line.split() for line in lines if " " in line) for lines in outputs]
        assert sorted(name for name, _ in placed) == ["0", "1"]
        assert all(name in lines for (name, _), lines in zip(placed, outputs, strict=True))
        assert slots_held(tmp_path) == 2
        first.kill()
        first.wait()
        assert slots_held(tmp_path) == 2  # its stage goes on
        os.kill(int(placed[0][1]), signal.SIGKILL)
        first.stdout.read()  # ends when the stage has ended
        assert slots_held(tmp_path) == 1
        assert gpus.take(2) == int(placed[0][0])
        second.communicate("\n")
    assert slots_held(tmp_path) == 1
