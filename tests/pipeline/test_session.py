"""Where Snakemake and DVC are started, stopped and started twice: one line each, and nothing is lost."""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager

import pytest

from processes import of_study
from project import ROOT, environment
from together import can_mount

SLOW = "import prunus.run.warm\nimport time\nprint('at work', flush=True)\ntime.sleep(120)\n"
SECONDS_TO_END = 5.0


@contextmanager
def running(project, *command, **variables):
    """A launcher in a session of its own; yields the process and a function that reads what it has said so far."""
    log = project.root.parent / f"{project.root.name}-{time.monotonic_ns()}.txt"
    with log.open("w") as output:
        own = {"env": environment() | variables, "start_new_session": True}
        process = subprocess.Popen(command, cwd=project.root, stdout=output, stderr=output, **own)
    try:
        yield process, log.read_text
    finally:
        for pid in of_study(project.root):
            os.kill(pid, signal.SIGKILL)
        process.wait()


def until(true, seconds=60.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.02)


@pytest.fixture
def slow(fresh):
    """A study whose first stage takes two minutes."""
    project = fresh("slow")
    (project.root / "stages/prepare_data.py").write_text(SLOW)
    return project


def at_work(project):
    log = project.root / "logs/prepare_data.log"
    return lambda: log.exists() and "at work" in log.read_text()


def ends_in_one_line(process, said, send, status, command):
    before, start = len(said()), time.monotonic()
    send()
    assert process.wait(60) == status
    assert time.monotonic() - start < SECONDS_TO_END
    line = said()[before:]
    assert re.fullmatch(r"[^\n]+\n", line) and f"`{command}` goes on from there" in line, line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("group", [True, False], ids=["to all, as Ctrl-C", "to snakemake alone"])
def test_a_stop_ends_within_seconds_in_one_line(slow, number, group):
    with running(slow, "snakemake", "--cores", "1") as (process, said):
        until(at_work(slow))
        send = (lambda: os.killpg(process.pid, number)) if group else (lambda: process.send_signal(number))
        ends_in_one_line(process, said, send, 128 + number, "snakemake --cores 1")
        assert not of_study(slow.root)


def test_a_stop_while_snakemake_plans(finished):
    finished.edit(methods__sap__epochs=2)
    with running(finished, "snakemake", "-n") as (process, said):
        judging = set()  # params.yaml is judged in a process of its own, a copy of this one
        while not judging:
            others = set(of_study(finished.root)) - {process.pid}
            time.sleep(0.05)
            judging = {pid for pid in others if os.path.exists(f"/proc/{pid}")}
        ends_in_one_line(process, said, lambda: process.send_signal(signal.SIGTERM), 143, "snakemake -n")


def test_a_second_snakemake_names_the_first(slow):
    with running(slow, "snakemake", "--cores", "1") as (process, _):
        until(at_work(slow))
        said = slow.run("snakemake", "--cores", "1", status=1)
        assert f"another snakemake (process {process.pid}) is running this study" in said
        assert "Traceback" not in said and f"`kill {process.pid}`" in said
        assert "prepare_data" in slow.run("snakemake", "-n")  # reading is free


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_ready_made_study_that_is_stopped_puts_params_back(slow, number):
    (slow.root / "studies/tiny").mkdir(parents=True)
    for name in ("run.py", "overlay.py"):
        shutil.copy2(ROOT / "studies" / name, slow.root / "studies")
    (slow.root / "studies/tiny/params.yaml").write_text("methods:\n  lth:\n    epochs: 3\n")
    before, command = (slow.root / "params.yaml").read_bytes(), "python studies/run.py tiny"
    with running(slow, *command.split()) as (process, said):
        until(at_work(slow))
        assert (slow.root / "params.yaml").read_bytes() != before
        ends_in_one_line(process, said, lambda: process.send_signal(number), 128 + number, command)
        assert (slow.root / "params.yaml").read_bytes() == before and not of_study(slow.root)


def test_dvc_keeps_its_stage_when_another_dvc_looks_at_all_stages(fresh):
    """Here the other one is this process, which holds DVC's lock for longer than DVC's patience of 3 s."""
    project = fresh("two-dvc")
    with running(project, "dvc", "repro", "prepare_data") as (process, said):
        until(lambda: "Running stage 'prepare_data'" in said())
        with (project.root / ".dvc/tmp/lock").open() as lock:
            until(lambda: free(lock))
            until((project.root / "runs/records/data/record.json").exists)
            time.sleep(5)
        assert process.wait(60) == 0, said()
    assert "didn't change" in project.run("dvc", "repro", "prepare_data")


def free(lock):
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def test_dvc_names_the_snakemake_that_runs_the_study_and_may_look(slow):
    with running(slow, "snakemake", "--cores", "1") as (process, said):
        until(at_work(slow))
        second = slow.run("dvc", "repro", status=255)
        assert "is busy, it is being blocked by" in second and f"(PID {process.pid}): snakemake" in second
        assert "prepare_data" in slow.run("dvc", "status")
        assert process.poll() is None
        process.kill()
        process.wait()
        for pid in of_study(slow.root):
            os.kill(pid, signal.SIGKILL)
    (slow.root / "stages/prepare_data.py").write_text((ROOT / "stages/prepare_data.py").read_text())
    assert slow.run("dvc", "repro", "prepare_data")  # a process that died holds nothing


def test_snakemake_names_the_dvc_that_runs_a_stage(slow):
    with running(slow, "dvc", "repro", "prepare_data") as (process, said):
        until(lambda: "at work" in said())
        (line,) = refused(slow, "snakemake", "--cores", "1")
        assert f"(process {process.pid}) is at work on this study" in line and f"`kill {process.pid}`" in line
        assert process.poll() is None


def test_jobs_that_a_killed_snakemake_has_left_are_waited_for(finished):
    with (finished.root / "stages/report.py").open("a") as script:
        script.write("    import time\n    print('at work', flush=True)\n    time.sleep(8)\n")
    log = finished.root / "logs/report.log"
    with running(finished, "snakemake", "--cores", "1", PRUNUS_WARM="0") as (process, _):
        until(lambda: log.exists() and "at work" in log.read_text())
        process.kill()
        process.wait()
        said = finished.run("snakemake", "--cores", "1")
        assert "waiting: another process makes report" in said
        assert "Nothing to be done" in said  # made once, by the job that was left


def test_jobs_of_a_killed_snakemake_end_with_it(slow):
    with running(slow, "snakemake", "--cores", "1") as (process, _):
        until(at_work(slow))
        process.kill()
        until(lambda: of_study(slow.root) == [process.pid] or not of_study(slow.root), SECONDS_TO_END)


def test_a_second_dvc_names_the_first(slow):
    with running(slow, "dvc", "repro", "prepare_data") as (process, said):
        until(lambda: "at work" in said())
        second = slow.run("dvc", "repro", status=255)
        assert "is busy, it is being blocked by" in second and f"(PID {process.pid})" in second
        assert process.poll() is None


def refused(project, *command, folder=None, **variables):
    """What Snakemake says where it cannot work; no traceback, and lines of ours."""
    done = subprocess.run(
        command, cwd=folder or project.root, env=environment() | variables, capture_output=True, text=True
    )
    said = done.stdout + done.stderr
    assert done.returncode and "Traceback" not in said and "Error" not in said.replace("OSError", ""), said
    return [line for line in said.splitlines() if line.startswith("snakemake: ")]


def test_from_another_folder(finished, tmp_path):
    snakefile, folder = finished.root / "Snakefile", tmp_path / "elsewhere"
    folder.mkdir()
    (line,) = refused(finished, "snakemake", "-s", str(snakefile), "--cores", "1", folder=folder)
    assert f"run it in the project's folder: `cd {finished.root}`" in line
    done = subprocess.run(
        ["snakemake", "-n", "-s", snakefile, "-d", finished.root], cwd=folder, env=environment(), capture_output=True
    )
    assert done.returncode == 0 and b"Nothing to be done" in done.stdout + done.stderr


def test_a_home_that_is_none(finished):
    (line,) = refused(finished, "snakemake", "--cores", "1", HOME="/dev/null")
    assert "DVC cannot start: [Errno 20] Not a directory: '/dev/null/.config/dvc/config'; fix it" in line


MOUNTED = """
set -e
mount --bind {root} {root}
cd {root}
{make}
exec snakemake --cores 1
"""
NO_HOME = "mkdir home; mount -t tmpfs -o ro none home; export HOME=$PWD/home"
READ_ONLY = "mount -o remount,bind,ro {root}"
FULL = "mount -t tmpfs -o size=4k none .snakemake; head -c 4096 /dev/zero > .snakemake/full || true"


needs_mounts = pytest.mark.skipif(can_mount() is not None, reason=str(can_mount()))


def mounted(project, make):
    script = MOUNTED.format(root=project.root, make=make.format(root=project.root))
    return "unshare", "--mount", "sh", "-c", script


@needs_mounts
@pytest.mark.parametrize(
    ("make", "what"), [(READ_ONLY, "Read-only file system"), (FULL, "No space left on device")], ids=["read", "full"]
)
def test_no_place_to_write(finished, make, what):
    (line,) = refused(finished, *mounted(finished, make))
    assert line.startswith(f"snakemake: {finished.root}/.snakemake: {what}; ")


@needs_mounts
def test_nothing_is_written_into_the_home_folder(finished):
    assert "Nothing to be done" in finished.run(*mounted(finished, NO_HOME))
