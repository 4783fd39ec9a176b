"""An edit reruns what reads it: other methods' files, also while a stage runs, and what a chain is not held against."""

import json
import subprocess
import time

import psutil
import pytest

from project import chain, environment

UNUSED = "stages/prunus/methods/oto.py"
STAGE = "prune_iteration@0-sap-iteration0"
CHECKPOINT = "runs/unfinished/seed0/sap/iteration-1/checkpoint.safetensors"
RECORD = "runs/records/seed0/sap/iteration-1/record.json"
RUNNERS = {"dvc": ("dvc", "repro", "--single-item", STAGE), "snakemake": ("snakemake", "--cores", "1", "--until")}
RUNNERS["snakemake"] += ("prune_iteration_0_sap_iteration0",)


def run(project, runner):
    return project.repro() if runner == "dvc" else project.snakemake()


def edit_another_method(project):
    path = project.root / UNUSED
    path.write_text(path.read_text() + "\n# a remark\n")
    (project.root / "stages/prunus/methods/fresh.py").write_text('"""A method that nobody has finished."""\n')


def start(project, runner):
    """The process of ``runner``, that has the stage in training."""
    with (project.root / "output.txt").open("w") as output:
        process = subprocess.Popen(
            RUNNERS[runner], cwd=project.root, env=environment(), stdout=output, stderr=subprocess.STDOUT
        )
    end = time.monotonic() + 120
    while not (project.root / CHECKPOINT).exists():
        assert process.poll() is None and time.monotonic() < end, (project.root / "output.txt").read_text()
        time.sleep(0.01)
    return process


def output(project):
    logs = (path.read_text() for path in sorted(project.root.glob("logs/*.log")))
    return (project.root / "output.txt").read_text() + "".join(logs)


@pytest.mark.parametrize("runner", RUNNERS)
def test_another_methods_file_is_edited_while_a_stage_runs(finished, runner):
    finished.edit(methods__sap__epochs=150)
    process = start(finished, runner)
    edit_another_method(finished)
    assert process.wait(300) == 0, output(finished)
    assert (finished.root / RECORD).exists() and "was edited" not in output(finished)


@pytest.mark.parametrize("runner", RUNNERS)
def test_another_methods_file_is_edited_and_the_checkpoint_counts(finished, runner):
    finished.edit(methods__sap__epochs=150)
    process = start(finished, runner)
    for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        one.kill()
    process.wait(60)
    assert (finished.root / CHECKPOINT).exists(), output(finished)
    edit_another_method(finished)
    finished.run(*RUNNERS[runner])
    [resumed_after] = json.loads((finished.root / RECORD).read_text())["resumed_after_epochs"]
    assert resumed_after > 0


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_syntax_error_counts_where_the_method_is_used(finished, runner):
    unused = finished.root / UNUSED
    unused.write_text(unused.read_text() + "\nthis is no Python\n")
    finished.edit(methods__sap__eta=0.1)
    assert chain("sap") <= run(finished, runner)
    used, command = finished.root / "stages/prunus/methods/sap.py", "dvc repro" if runner == "dvc" else "snakemake -c1"
    used.write_text(used.read_text() + "\nthis is no Python\n")
    number = used.read_text().count("\n")
    before = times(finished)
    said = finished.run(*command.split(), status=None)
    [line] = [line for line in said.splitlines() if "sap.py" in line]
    assert f"line {number}" in line and "Traceback" not in said, said
    assert times(finished) == before


def times(project):
    """When the files of all stages but check_params, which judges, were written."""
    files = (path for path in (project.root / "runs").rglob("*") if path.is_file() and path.name != "checked.txt")
    return {path: path.stat().st_mtime_ns for path in files}


REFERENCES = {"reference_flow@0", "chain_reference@0-sap", "chain_reference@0-incop_if"}


@pytest.mark.parametrize("runner", RUNNERS)
def test_other_flow_samples_retrain_those_who_look_at_flow(finished, runner):
    finished.edit(flow__samples=65)
    assert run(finished, runner) == REFERENCES | chain("incop_if") | {"compare", "report"}


@pytest.mark.parametrize("runner", RUNNERS)
def test_other_warm_up_steps_retrain_nothing_where_nothing_rewinds_to_them(finished, runner):
    finished.edit(training__warmup_steps=7)
    assert run(finished, runner) == REFERENCES | {"pretrain@0", "compare", "report"}  # for the records' seconds


@pytest.mark.parametrize("runner", RUNNERS)
def test_an_editors_backup_in_a_room_reruns_nothing(finished, runner):
    for name in (
        "training/loop.py~",
        "training/.loop.py.swp",
        "flow.py.orig",
        "training/.#loop.py",
        "study/#layout.py#",
    ):
        (finished.root / "stages/prunus" / name).write_text("an older state")
    (finished.root / "stages/prunus/training/.ipynb_checkpoints").mkdir()
    (finished.root / "stages/prunus/training/.ipynb_checkpoints/loop-checkpoint.py").write_text("an older state")
    assert run(finished, runner) == set()
