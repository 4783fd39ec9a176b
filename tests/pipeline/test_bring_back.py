"""What DVC's cache holds is brought back before a run is planned: no job, the same bytes, and no call that only reads
writes anything.

The stages only write their outputs (benchmarks/trivial.py).
"""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

import dvc_status
import trivial
from project import Project, environment, stages_run

NETWORK = "runs/seed0/sap/iteration-1/network.safetensors"
PRUNING = "prune_iteration@0-sap-iteration0"
OUTPUTS = ("runs", "reports", "data/prepared")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished study of 13 stages."""
    project = trivial.Project(tmp_path_factory.mktemp("made") / "project", 1, ["sap", "incop_if"], 1)
    project.run("snakemake", "--cores", "2")
    return Project(project.root)


@pytest.fixture
def study(made, tmp_path):
    return made.copy(tmp_path / "project")


def contents(project):
    files = [path for folder in OUTPUTS for path in (project.root / folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(project.root)): path.read_bytes() for path in files}


def remove_outputs(project):
    for folder in OUTPUTS:
        shutil.rmtree(project.root / folder)


def run(project, *options):
    """What ``snakemake`` said, and the stages whose script ran."""
    shutil.rmtree(project.root / "logs", ignore_errors=True)
    said = project.run("snakemake", "--cores", "2", *options)
    logs = [path.read_text() for path in project.root.glob("logs/*.log")]
    return said, stages_run("".join(logs))


def is_up_to_date(project):
    return "Data and pipelines are up to date." in project.run("dvc", "status")


def change_and_make(project, **changes):
    project.edit(**changes or {"methods__sap__q": 1.1})
    _, ran = run(project)
    assert PRUNING in ran and ("pretrain@0" in ran) == bool(changes)


@pytest.mark.parametrize("links", ["copy", "symlink", "hardlink"])
def test_outputs_that_are_gone_come_back_without_a_job(made, study, links):
    study.run("dvc", "config", "cache.type", links)
    lock = (study.root / "dvc.lock").read_bytes()
    remove_outputs(study)
    said, ran = run(study)
    assert "13 stages brought back from DVC's cache" in said and "Nothing to be done" in said and not ran
    assert not list(study.root.glob("logs/*.log"))
    assert contents(study) == contents(made)
    assert (study.root / "dvc.lock").read_bytes() == lock and is_up_to_date(study)
    network = study.root / NETWORK
    assert (network.is_symlink(), network.stat().st_nlink > 1) == (links == "symlink", links == "hardlink")
    assert study.repro() == set()


def test_another_lock_file_brings_its_outputs(made, study):
    change_and_make(study)
    study.git("add", "-Af", "dvc.lock", "params.yaml")
    study.git("commit", "-qm", "another")
    other = contents(study)
    for name in ("dvc.lock", "params.yaml"):
        shutil.copy2(made.root / name, study.root / name)
    assert run(study)[1] == set() and contents(study) == contents(made)
    study.git("checkout", "-q", "--", "dvc.lock", "params.yaml")
    assert run(study)[1] == set() and contents(study) == other and is_up_to_date(study)


@pytest.mark.parametrize("changes", [{}, {"training__epochs": 31}], ids=["of a method", "of all"])
def test_a_parameter_that_is_put_back_brings_its_results_and_their_record(made, study, changes):
    change_and_make(study, **changes)
    assert contents(study) != contents(made)
    shutil.copy(made.root / "params.yaml", study.root / "params.yaml")
    said, ran = run(study)
    assert "brought back from DVC's cache" in said and "Nothing to be done" in said and not ran
    assert contents(study) == contents(made)
    assert (study.root / "dvc.lock").read_bytes() == (made.root / "dvc.lock").read_bytes()
    assert is_up_to_date(study)


def test_a_lock_file_that_is_gone_is_written_anew(made, study):
    (study.root / "dvc.lock").unlink()
    assert run(study)[1] == set()
    assert yaml.safe_load((study.root / "dvc.lock").read_text()) == yaml.safe_load((made.root / "dvc.lock").read_text())
    assert is_up_to_date(study)


def test_what_is_new_runs_and_the_rest_comes_back(made, study):
    remove_outputs(study)
    study.edit(methods__sap__q=1.2)  # check_params runs, and the others do not wait for it to bring back theirs
    said, ran = run(study)
    assert ran == {"chain_reference@0-sap", PRUNING, "evaluate@0-sap", "compare", "report"}
    assert "brought back from DVC's cache" in said and is_up_to_date(study)


def cached(project, path):
    stages = yaml.safe_load((project.root / "dvc.lock").read_text())["stages"].values()
    md5 = next(out["md5"] for stage in stages for out in stage["outs"] if out["path"] == path)
    return project.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]


def shorten(path):
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    path.chmod(0o444)


def flip(path):
    """As DVC sees it: an object that is not read-only is read."""
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize("damage", [Path.unlink, shorten, flip])
def test_only_what_the_cache_lacks_is_made(made, study, damage):
    damage(cached(study, NETWORK))
    remove_outputs(study)
    said, ran = run(study)
    assert ran == {PRUNING}
    assert (f"is damaged: removed; {NETWORK} is made again" in said) == (damage is not Path.unlink)
    assert contents(study) == contents(made) and is_up_to_date(study)


def test_a_damaged_entry_of_the_run_cache_is_no_result(made, study):
    change_and_make(study)
    shutil.copy(made.root / "params.yaml", study.root / "params.yaml")
    for entry in (study.root / ".dvc/cache/runs").glob("*/*/*"):
        if "--method sap" in entry.read_text():
            entry.write_text("cmd: [")
    _, ran = run(study)
    assert PRUNING in ran and contents(study) == contents(made) and is_up_to_date(study)


def files(project):
    left_out = {".snakemake", "__pycache__", ".git", "tmp"}
    names = {path: path.relative_to(project.root) for path in project.root.rglob("*") if path.is_file()}
    return {
        str(name): (path.read_bytes(), path.stat().st_mtime_ns)
        for path, name in names.items()
        if not left_out & set(name.parts)
    }


@pytest.mark.parametrize("how", ["gone", "put back"])
def test_a_call_that_does_not_run_the_study_brings_nothing_back(made, study, how):
    if how == "gone":
        remove_outputs(study)
    else:
        change_and_make(study)
        shutil.copy(made.root / "params.yaml", study.root / "params.yaml")
    before = files(study)
    for call in (["-n"], ["--lint"], ["--list-rules"], ["--dag"], ["--summary"], ["--touch", "--cores", "1"]):
        said = study.run("snakemake", *call, status=None)
        assert "brought back" not in said
        now = files(study)
        if call[0] == "--touch":  # ages are its purpose
            assert {name: of[0] for name, of in now.items()} == {name: of[0] for name, of in before.items()}
        else:
            assert now == before, call
    assert PRUNING in study.run("snakemake", "-n")


def test_a_target_brings_back_what_it_needs(study):
    remove_outputs(study)
    dense = "runs/seed0/dense/network.safetensors"
    said, ran = run(study, dense)
    assert "Nothing to be done" in said and not ran
    assert (study.root / dense).exists() and not (study.root / NETWORK).exists()


def test_what_nothing_else_holds_is_moved_not_replaced(made, study):
    change_and_make(study)
    (study.root / NETWORK).write_text("by hand")
    shutil.copy(made.root / "params.yaml", study.root / "params.yaml")
    said, ran = run(study)
    assert not ran and "not in DVC's cache, so kept in runs/aside/" in said
    kept = [path for path in (study.root / "runs/aside").rglob("*") if path.is_file()]
    assert [path.read_text() for path in kept] == ["by hand"] and str(kept[0]).endswith(NETWORK)
    assert (study.root / NETWORK).read_bytes() == (made.root / NETWORK).read_bytes()


@pytest.mark.parametrize("name", ["data/prepared/dataset.safetensors", NETWORK])
def test_a_kill_in_the_middle_leaves_nothing_half_done(made, study, name):
    change_and_make(study)
    shutil.copy(made.root / "params.yaml", study.root / "params.yaml")
    remove_outputs(study)
    with subprocess.Popen(
        ["snakemake", "--cores", "2"], cwd=study.root, env=environment(), stderr=subprocess.DEVNULL
    ) as process:
        while not (study.root / name).exists() and process.poll() is None:
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
    assert contents(study).items() <= contents(made).items()
    assert run(study)[1] == set()
    assert contents(study) == contents(made) and is_up_to_date(study)


def test_only_one_launcher_brings_back(study):
    remove_outputs(study)
    with (study.root / ".snakemake/running").open("a") as file:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
        said = study.run("snakemake", "--cores", "2", status=1)
    assert "another snakemake" in said and "Traceback" not in said
    assert not (study.root / NETWORK).exists()


EDITS = {
    "dvc.yaml": lambda text: text.replace("python stages/compare.py", "python stages/compare.py --again"),
    "params.yaml": lambda text: re.sub(r"(?m)^  - incop_if\n", "", text, count=1),
    ".dvcignore": lambda text: text + "/stages/prunus/flow.py\n",
    ".snakemake/dvc/graph.json": lambda text: text[:-10],
    ".snakemake/dvc/lock.json": lambda text: "[]",
}


@pytest.mark.parametrize("name", EDITS)
def test_what_is_remembered_is_of_the_files_as_they_are(study, monkeypatch, name):
    monkeypatch.chdir(study.root)
    dvc_status.Workspace().changed  # noqa: B018 - remembers
    path = study.root / name
    path.write_text(EDITS[name](path.read_text()))
    with Repo() as repo:
        theirs = set(repo.status())
        stages = {stage.addressing for stage in repo.index.stages if stage.cmd}
    ours = dvc_status.Workspace()
    assert ours.changed.keys() == theirs and ours.stages.keys() == stages
