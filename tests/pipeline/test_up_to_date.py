"""What is up to date is DVC's answer: what `dvc status` calls changed Snakemake plans, and nothing but what follows.

An output that is as dvc.lock says and only absent from the cache is said, and not made again.
"""

import os
import re
import shutil
import time

import pytest
from dvc.repo import Repo
from dvc.utils.serialize import dumps_yaml, load_yaml

import dvc_status
from project import chain

NETWORK = "runs/seed0/sap/iteration-1/network.safetensors"
GATHER = {"compare", "report"}


def both(root):
    """The stages that DVC calls changed and those that the Snakefile does, here with its reasons."""
    return set(Repo(str(root)).status()), dvc_status.Workspace().changed


def append(path):
    def edit(project):
        with (project.root / path).open("a") as file:
            file.write("\n# edited\n")

    return edit


def locked(change):
    """An edit of dvc.lock's content."""

    def edit(project):
        path = project.root / "dvc.lock"
        content = load_yaml(path)
        change(content["stages"])
        path.write_text(dumps_yaml(content))

    return edit


def remove(path):
    return lambda project: (project.root / path).unlink()


def write(path):
    return lambda project: (project.root / path).write_text("something else")


def everything_is_older(project):
    for at, path in enumerate(sorted(project.root.rglob("*"))):
        if path.is_file() and ".git/" not in str(path):
            os.utime(path, (10**9 + at, 10**9 + at))


def values_of_every_kind(project):
    """Which readers of YAML 1.1 and 1.2 do not read alike."""
    project.edit(methods__incop_if__epsilon=1e-05, study__seeds=[0], methods__sap__beta=1)
    project.run("dvc", "commit", "-f")


CHANGES = {
    "nothing": lambda project: None,
    "ages": everything_is_older,
    "a parameter": lambda project: project.edit(methods__incop_if__epsilon=0.9),
    "a parameter of all": lambda project: project.edit(device__threads=2),
    "values of every kind": values_of_every_kind,
    "a method": append("stages/prunus/methods/sap.py"),
    "a file in a folder of code": append("stages/prunus/networks/mlp.py"),
    "a new file in a folder of code": write("stages/prunus/networks/another.py"),
    "code that is gone": remove("stages/prunus/flow.py"),
    "an output": write(NETWORK),
    "an output that is gone": remove(NETWORK),
    "the dataset": write("data/prepared/dataset.safetensors"),
    "a leftover beside outputs": write("runs/seed0/sap/iteration-1/other.csv"),
    "what DVC is told to ignore": write("runs/seed0/sap/iteration-1/network.safetensors.partial"),
    "a command": locked(lambda stages: stages["compare"].update(cmd="python3 stages/compare.py")),
    "a parameter that was not there": locked(lambda stages: stages["report"]["params"]["params.yaml"].pop("network")),
    "a dependency that was not there": locked(lambda stages: stages["pretrain@0"]["deps"].pop(1)),
    "an output that was not there": locked(lambda stages: stages["pretrain@0"]["outs"].pop(1)),
    "an entry that is gone": locked(lambda stages: stages.pop("reference_flow@0")),
    "dvc.lock": remove("dvc.lock"),
}
UNCHANGED = {"nothing", "ages", "values of every kind", "what DVC is told to ignore"}


@pytest.mark.parametrize("name", CHANGES)
def test_dvc_and_the_snakefile_call_the_same_stages_changed(finished, monkeypatch, name):
    monkeypatch.chdir(finished.root)
    CHANGES[name](finished)
    theirs, ours = both(finished.root)
    assert ours.keys() == theirs
    assert bool(ours) == (name not in UNCHANGED)
    assert all("\n" not in why for why in ours.values())


def test_what_has_changed_is_named(finished, monkeypatch):
    monkeypatch.chdir(finished.root)
    finished.edit(methods__incop_if__epsilon=0.9)
    (finished.root / NETWORK).unlink()
    _, ours = both(finished.root)
    assert ours["prune_iteration@0-incop_if-iteration1"] == "methods.incop_if has changed"
    assert ours["prune_iteration@0-sap-iteration0"] == f"{NETWORK} is missing"
    assert ours["evaluate@0-sap"] == "runs/seed0/sap has changed"
    plan = finished.run("snakemake", "-n")
    name = "prune_iteration@0-incop_if-iteration1 = incop_if, seed 0, iteration 2"
    assert f"{name} (methods.incop_if has changed; log: logs/" in plan


def test_a_clone_that_has_never_run_has_nothing_to_do(finished):
    """As after a pull: no memory of Snakemake's, and files of any age."""
    shutil.rmtree(finished.root / ".snakemake")
    everything_is_older(finished)
    assert "Nothing to be done" in finished.run("snakemake", "-n")
    assert "Nothing to be done" in finished.run("snakemake", "--cores", "2")


def planned(project):
    return set(re.findall(r"^Job \d+: (\S+) (?:= [^(]+ )?\(", project.run("snakemake", "-n"), re.MULTILINE))


def test_what_is_planned_is_what_has_changed_and_what_follows(finished):
    finished.edit(methods__incop_if__epsilon=0.9)
    expected = chain("incop_if") | GATHER | {"check_params", "chain_reference@0-incop_if"}
    assert planned(finished) == expected
    (finished.root / ".snakemake/changed").unlink()
    assert planned(finished) == expected


# The script of `report`: makes its outputs, and edits what it depends on, in one of three ways.
SCRIPT = """
import subprocess, sys, time
from pathlib import Path
import yaml

def edit():
    {edit}

if "{when}" == "start":  # between what is put down and what is read
    edit()
sys.path.insert(0, "stages")
from prunus.run.errors import one_line_errors
from prunus.run.record import Obeys, Recorder
from prunus.study import layout
from prunus.study.params import for_stage
with one_line_errors():
    obeys = Obeys(Path(__file__), ["study"], for_stage(["study"]))
    with Recorder(layout.RECORDS / "report/record.json", obeys=obeys):
        for out in yaml.safe_load(Path("dvc.lock").read_text())["stages"]["report"]["outs"]:
            Path(out["path"]).parent.mkdir(parents=True, exist_ok=True)
            Path(out["path"]).write_text("made")
        if "{when}" == "middle":
            edit()
if "{when}" == "end":  # after the script has ended, before DVC has recorded the stage
    later = "import time; from pathlib import Path; time.sleep(0.02); " + {edit!r} + "; Path('edited').touch()"
    subprocess.Popen([sys.executable, "-c", later], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
"""
EDITS = {
    "code": 'Path("stages/prunus/study/layout.py").open("a").write("# edited")',
    "a parameter": 'Path("params.yaml").write_text(Path("params.yaml").read_text().replace("0.05", "0.07"))',
    "data": 'Path("reports/tables/summary.csv").open("a").write("edited")',
}


@pytest.mark.parametrize("when", ["start", "middle", "end"])
@pytest.mark.parametrize("what", EDITS)
def test_an_edit_while_a_stage_runs_is_seen_by_both(finished, monkeypatch, what, when):
    monkeypatch.chdir(finished.root)
    (finished.root / "stages/report.py").write_text(SCRIPT.format(edit=EDITS[what], when=when))
    before = load_yaml(finished.root / "dvc.lock")["stages"]["report"]
    said = finished.run("python", "tools/one_stage.py", "report", "0", status=None)
    for _ in range(600 * (when == "end")):
        if (finished.root / "edited").exists():
            break
        time.sleep(0.1)
    theirs, ours = both(finished.root)
    assert ours.keys() == theirs and "report" in ours
    assert "Traceback" not in said
    after = load_yaml(finished.root / "dvc.lock")["stages"]["report"]
    if what == "data" and when != "end":
        assert "reports/tables has changed while report ran; run it again" in said and after == before
    elif when == "start":
        assert "was edited while this stage started; run it again" in said and after == before
    elif what != "data":  # recorded with what it ran with, so that taking the edit back is enough
        assert after["params"] == before["params"]
        code = [[dep for dep in entry["deps"] if dep["path"] == "stages/prunus/study"] for entry in (before, after)]
        assert code[0] == code[1] and code[0]


ONCE = """
from pathlib import Path

if not Path("edited").exists():
    Path("edited").touch()
    with open("stages/prunus/reporting/page.py", "a") as code:
        code.write("# edited")
"""


def test_snakemake_runs_what_was_edited_while_it_ran(finished):
    with (finished.root / "stages/report.py").open("a") as script:
        script.write(ONCE)
    assert finished.snakemake() == {"report"}
    assert "report (stages/prunus/reporting" in finished.run("snakemake", "-n")
    assert finished.snakemake() == {"report"}
    assert "Data and pipelines are up to date." in finished.run("dvc", "status")
    assert "Nothing to be done" in finished.run("snakemake", "-n")


def files(project):
    """Every file but Snakemake's own and the memory of Python and git: bytes and age."""
    left_out, found = {".snakemake", "__pycache__", ".git", "tmp"}, {}
    for path in sorted(project.root.rglob("*")):
        name = path.relative_to(project.root)
        if path.is_file() and not left_out & set(name.parts):
            found[str(name)] = path.read_bytes(), path.stat().st_mtime_ns
    return found


def test_calls_that_read_touch_nothing(finished, tmp_path):
    """Damaged outputs, and some that a script run by hand has made and no cache holds."""
    (finished.root / NETWORK).write_bytes(b"damaged")
    (finished.root / "runs/seed0/incop_if/iteration-1/history.csv").write_text("by hand")
    (finished.root / "reports/report.html").write_text("<p>by hand</p>")
    finished.edit(methods__incop_if__epsilon=0.9)
    before = files(finished)
    for call in (["-n"], ["--lint"], ["--list-rules"], ["--dag"], ["--summary"], ["--report", str(tmp_path / "r.zip")]):
        finished.run("snakemake", *call, status=None if call == ["--lint"] else 0)
        assert files(finished) == before, call


def test_what_nothing_else_holds_is_moved_not_deleted(finished):
    by_hand = finished.root / "runs/seed0/incop_if/iteration-1/history.csv"
    by_hand.write_text("by hand")
    (finished.root / NETWORK).write_bytes(b"damaged")  # the cache has it
    finished.edit(methods__incop_if__epsilon=0.9)
    finished.run("snakemake", "--cores", "2")
    kept = [path for path in (finished.root / "runs/aside").rglob("*") if path.is_file()]
    assert [path.read_text() for path in kept] == ["by hand"]
    assert str(kept[0]).endswith("runs/seed0/incop_if/iteration-1/history.csv")


def test_an_empty_cache_is_filled_and_nothing_runs(finished):
    shutil.rmtree(finished.root / ".dvc/cache")
    said = finished.run("snakemake", "--cores", "2")
    assert "outputs are not in DVC's cache; `dvc commit` puts them there" in said and "Nothing to be done" in said
    finished.run("dvc", "commit")
    assert "Data and pipelines are up to date." in finished.run("dvc", "status")
