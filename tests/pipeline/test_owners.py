"""tools/owners.py: a process that died holds nothing back, wherever it ran; a living one is waited for."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from dvc import rwlock
from dvc.fs import localfs

import owners

PROFILES = Path(owners.__file__).parent
# Makes a stage as one_stage.py does: holds its lock, notes its output, says so, and goes on until it is killed.
MAKE = """
import sys, time
sys.path.insert(0, sys.argv[1])
import owners
held = owners.hold(sys.argv[2])
with owners.rwlock(".dvc/tmp", None, f"tools/one_stage.py {sys.argv[2]} 1", ["/data"], [sys.argv[3]], False):
    print("made", flush=True)
    time.sleep(float(sys.argv[4]))
open(f"{sys.argv[2]}.done", "w").close()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / ".dvc/tmp"


def making(stage, output, seconds=60.0):
    command = [sys.executable, "-c", MAKE, PROFILES, stage, output, str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "made\n"
    return process


def elsewhere(folder, pid):
    """The file as if its processes had run on another machine, where their number was ``pid``."""
    text = (folder / "rwlock").read_text()
    content = json.loads(text)
    for owner in [*content["write"].values(), *(owner for found in content["read"].values() for owner in found)]:
        owner["pid"] = pid
    (folder / "rwlock").write_text(json.dumps(content))


def take(read=(), write=(), cmd="tools/one_stage.py mine 1"):
    return owners.rwlock(".dvc/tmp", None, cmd, list(read), list(write), False)


def dead_number():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("again", [True, False], ids=["the same stage", "another stage"])
def test_a_process_that_died_on_another_machine_does_not_block(folder, again):
    process = making("lost", "/runs/a")
    process.kill()
    process.communicate()
    elsewhere(folder, os.getppid())  # a number that lives here: plain DVC takes the dead process for it
    with (
        pytest.raises(Exception, match="is busy"),
        rwlock.rwlock(str(folder), localfs, "dvc repro", [], ["/runs/a"], False),
    ):
        pass
    if again:
        held = owners.hold("lost")
    with take(write=["/runs/a", "/data"], cmd=f"tools/one_stage.py {'lost' if again else 'other'} 1"):
        noted = json.loads((folder / "rwlock").read_text())
        assert noted["write"].keys() == {"/runs/a", "/data"} and noted["read"] == {}
    assert json.loads((folder / "rwlock").read_text()) == {"write": {}, "read": {}}
    if again:
        held.close()


def test_a_process_that_lives_on_another_machine_blocks(folder):
    process = making("far", "/runs/a")
    try:
        elsewhere(folder, dead_number())  # plain DVC would take it for dead
        with pytest.raises(owners.Busy, match="one_stage.py far"), take(read=["/runs/a/network.safetensors"]):
            pass
        with pytest.raises(owners.Busy), take(write=["/data"]):
            pass
        with take(read=["/data"], write=["/runs/b"]):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with take(read=["/runs/a/network.safetensors"]):
        pass


def test_the_same_stage_is_waited_for(folder):
    process = making("prune", "/runs/a", seconds=0.5)
    held = owners.hold("prune")
    assert Path("prune.done").exists()
    held.close()
    process.communicate()


def test_entries_of_plain_dvc_count_by_their_number(folder):
    entry = {"pid": os.getppid(), "cmd": "dvc repro"}
    (folder / "rwlock").write_text(json.dumps({"write": {"/runs/a": entry}, "read": {}}))
    with pytest.raises(owners.Busy, match="dvc repro"), take(write=["/runs/a"]):
        pass
    entry["pid"] = dead_number()
    (folder / "rwlock").write_text(json.dumps({"write": {"/runs/a": entry}, "read": {}}))
    with take(write=["/runs/a"]):
        pass


def test_blocks_within_blocks_release_what_they_took(folder):
    with take(read=["/data"], write=["/runs/a"]):
        before = (folder / "rwlock").read_text()
        with take(read=["/data"], write=["/runs/a"]):
            assert (folder / "rwlock").read_text() == before
        assert (folder / "rwlock").read_text() == before
        assert rwlock.SCHEMA(json.loads(before))  # as DVC reads it


@pytest.mark.parametrize("left", ["", '{"write": {"/runs/a": {"pid": 1, "cm'])
def test_a_file_whose_writer_died_holds_nothing(folder, left):
    (folder / "rwlock").write_text(left)
    with take(write=["/runs/a"]):
        assert list(json.loads((folder / "rwlock").read_text())["write"]) == ["/runs/a"]


def test_a_stage_waits_until_its_output_is_free(by_snakemake, tmp_path):
    project = by_snakemake.copy(tmp_path / "project")
    output = str(project.root / "runs/seed0/reference_flow.json")
    entry = {"pid": os.getpid(), "cmd": "dvc repro"}
    (project.root / ".dvc/tmp/rwlock").write_text(json.dumps({"write": {output: entry}, "read": {}}))
    command = [sys.executable, "tools/one_stage.py", "reference_flow@0"]
    stage = subprocess.Popen(command, cwd=project.root, stdout=subprocess.PIPE, text=True)
    assert "waiting: runs/seed0/reference_flow.json is in use by `dvc repro`" in next(
        line for line in stage.stdout if "waiting" in line
    )
    (project.root / ".dvc/tmp/rwlock").write_text("{}")
    assert stage.wait(60) == 0
    stage.stdout.close()
