"""Two launchers at once, a disk that fills, a ready-made study that is killed."""

import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import damages
import kills
import oracle
from processes import Hung, Launch, wait_for_orphans
from project import ROOT, Project
from study import DVC, SNAKEMAKE, Result, Study, last_lines

CHAIN = ("prune_iteration@0-incop_if", "evaluate@0-incop_if", "compare", "report")


def half_done(study: Study) -> Project:
    """A copy of the finished study in which one chain, the tables and the report were never made."""
    project = study.copy(study.reference)
    study.forget(project, [name for name in study.stages if name.startswith(CHAIN)])
    return project


def at_once(commands: list[list[str]]):
    """Start two launchers a moment apart; each does its work or refuses, and the same command again finishes."""

    def fault(study: Study, name: str, rng: random.Random, log) -> Result:
        project, apart = half_done(study), rng.uniform(0, 5)
        first = Launch(project, commands[0])
        time.sleep(apart)
        second = Launch(project, commands[1])
        try:
            statuses = [launch.wait(study.limit) for launch in (first, second)]
            wait_for_orphans(project.root, study.limit)
        except Hung as error:
            return Result(name, "manual", notes=[f"hung: {error}"])
        notes = [
            f"{launch.command[0]}, {apart:.1f} s apart: status {status}; {last_lines(launch.output)}"
            for launch, status in zip((first, second), statuses, strict=True)
            if status
        ]
        notes += ["a traceback" for launch in (first, second) if "Traceback" in launch.output]
        outcome, more = study.mend(project, commands[0])
        log(
            f"{name}: {apart:.1f} s apart, statuses {statuses}: {outcome}" + "".join(f"\n    {n}" for n in notes + more)
        )
        shutil.rmtree(project.root)
        return Result(name, outcome, notes=notes + more)

    return fault


@contextmanager
def small_disk(folder: Path):
    """``folder``, with what is in it, on a file system of its own; yields a function that sets its free space."""
    kept = folder.with_name(folder.name + ".kept")
    folder.rename(kept)
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "prunus-faults", folder], check=True)
    try:
        shutil.copytree(kept, folder, dirs_exist_ok=True, symlinks=True)
        shutil.rmtree(kept)

        def free(count: int) -> None:
            used = os.statvfs(folder)
            size = (used.f_blocks - used.f_bfree) * used.f_frsize + count
            subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)

        yield free
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def can_mount() -> str | None:
    """None, or why no small file system can be had here."""
    if sys.platform != "linux" or os.geteuid():
        return "mounting a small tmpfs takes root"
    probe = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True
    )
    return probe.stderr.strip().splitlines()[-1] if probe.returncode else None


def full_disk(folder: str):
    """The disk under ``folder`` is full while a chain is made; then there is room, and the same command runs again."""

    def fault(study: Study, name: str, rng: random.Random, log) -> Result:
        if why := can_mount():
            return Result(name, "skipped", notes=[why])
        project, launcher = half_done(study), rng.choice([SNAKEMAKE, DVC])
        with small_disk(project.root / folder) as free:
            room = rng.randrange(4096, 120_000, 4096)
            free(room)
            try:
                status, text = study.run(project, launcher)
            except Hung as error:
                return Result(name, "manual", notes=[f"hung: {error}"])
            said = f"{launcher[0]} with {room} bytes free: status {status}; {last_lines(text, 6)}"
            if not status and (wrong := study.wrong(project, settled=False)):
                return Result(name, "wrong", notes=[said, *wrong])
            free(256 << 20)
            outcome, notes = study.mend(project, launcher)
        log(f"{name}: {outcome}\n    {said}" + "".join(f"\n    {note}" for note in notes))
        shutil.rmtree(project.root)
        return Result(name, outcome, notes=[said, *notes])

    return fault


def study_killed(study: Study, name: str, rng: random.Random, log) -> Result:
    """`studies/run.py` killed while params.yaml holds another study's settings, run again, and params.yaml is ours."""
    project = study.copy(study.reference)
    (project.root / "studies/tiny").mkdir(parents=True)
    for file in ("run.py", "overlay.py"):
        shutil.copy2(ROOT / "studies" / file, project.root / "studies")
    (project.root / "studies/tiny/params.yaml").write_text("methods:\n  lth:\n    epochs: 3\n")
    before, kept = (project.root / "params.yaml").read_bytes(), project.root / "params.yaml.before-study"
    command, count = ["python", "studies/run.py", "tiny"], rng.randint(1, 3)
    result = Result(name, "recovered")
    try:
        for _ in range(count):
            launch, until = Launch(project, command), time.monotonic() + study.limit
            while not kept.exists() and not launch.ended() and time.monotonic() < until:
                time.sleep(0.01)
            time.sleep(rng.choice([0, rng.uniform(0, 3)]))
            killed = not launch.ended()
            if killed:
                launch.process.kill()
                result.kills += 1
            launch.wait(study.limit)
            log(f"{name}: killed {killed}, kept aside {kept.exists()}; {kills.state(project.root)}")
        wait_for_orphans(project.root, study.limit)
        status, text = study.run(project, command)
        changed = (project.root / "params.yaml").read_bytes() != before or kept.exists()
        if status or changed:
            result.outcome = "wrong" if changed else "manual"
            result.notes.append(f"status {status}, params.yaml changed {changed}: {last_lines(text)}")
        else:
            result.outcome, result.notes = study.mend(project, SNAKEMAKE)
    except Hung as error:
        result.outcome, result.notes = "manual", [f"hung: {error}"]
    shutil.rmtree(project.root)
    return result


def checkpoint_damaged(study: Study, name: str, rng: random.Random, log) -> Result:
    """The dense training killed between epochs, and what it would go on from damaged."""
    project, result = study.copy(study.reference), Result(name, "recovered")
    shutil.rmtree(project.root / "runs/seed0/dense")
    command, found = ["python", "stages/pretrain.py", "--seed", "0"], []
    while not found and result.kills < 20:
        order = {"role": "stage", "nth": rng.randint(8, 60), "delay": 0.0, "everything": False}
        killed, *_ = kills.disturbed(project, command, order, study.limit)
        result.kills += bool(killed)
        found = list(project.root.glob("runs/unfinished/**/checkpoint.safetensors"))
    if not found:
        return Result(name, "manual", result.kills, ["no kill left a checkpoint"])
    said = rng.choice([damages.flip, damages.truncate, damages.empty])(found[0], rng)
    status, text = study.run(project, command)
    wrong = oracle.differences(project.root, study.final)
    if status or wrong:
        result.outcome = "wrong" if not status else "manual"
    result.notes = [f"{said}: status {status}, {wrong[:3]}; {last_lines(text)}"]
    log(f"{name}: {result.outcome}: {result.notes[0]}")
    shutil.rmtree(project.root)
    return result


TOGETHER = {
    "checkpoint damaged": checkpoint_damaged,
    "snakemake and dvc at once": at_once([SNAKEMAKE, DVC]),
    "dvc and snakemake at once": at_once([DVC, SNAKEMAKE]),
    "two snakemake at once": at_once([SNAKEMAKE, SNAKEMAKE]),
    "two dvc at once": at_once([DVC, DVC]),
    "disk full under runs": full_disk("runs"),
    "disk full under the cache": full_disk(".dvc/cache"),
    "studies/run.py killed": study_killed,
}
