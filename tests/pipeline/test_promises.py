"""The promises of the pipeline: two runners, one truth; an edit re-executes what it touches; nothing half-written."""

import json

import pandas as pd
import pytest

from project import chain, stages_run, whole_chain

GATHER = {"compare", "report"}


def restored_or_clean(project):
    assert "Data and pipelines are up to date." in project.run("dvc", "status")


def test_after_snakemake_dvc_has_nothing_to_do(by_snakemake):
    assert len(by_snakemake.first_run) == 14
    restored_or_clean(by_snakemake)
    assert by_snakemake.repro() == set()
    assert "Nothing to be done" in by_snakemake.run("snakemake", "-n", "--cores", "2")


def test_after_dvc_snakemake_runs_no_script(fresh, by_snakemake):
    project = fresh("dvc")
    assert project.repro() == by_snakemake.first_run
    assert project.snakemake() == set()
    restored_or_clean(project)
    runs = "runs/seed0/incop_if/iteration-2/"
    for name in ("network.safetensors", "history.csv", "metrics.json"):
        assert (project.root / runs / name).read_bytes() == (by_snakemake.root / runs / name).read_bytes()
    project.edit(methods__sap__epochs=2)
    assert project.snakemake() == whole_chain("sap") | GATHER
    project.edit(methods__sap__epochs=1)
    assert project.repro() == set()
    assert project.snakemake() == set()
    assert "Nothing to be done" in project.run("snakemake", "-n", "--cores", "2")


def test_an_edit_of_epsilon_runs_that_method_and_going_back_trains_nothing(finished):
    finished.edit(methods__incop_if__epsilon=0.9)
    assert finished.repro() == whole_chain("incop_if") | GATHER
    finished.edit(methods__incop_if__epsilon=0.1)
    assert finished.repro() == set()
    finished.snakemake()
    finished.edit(methods__incop_if__epsilon=0.9)
    assert finished.snakemake() == set()
    restored_or_clean(finished)


def test_an_appended_iteration_runs_alone(finished):
    iterations = [{"t": t, "after": f"iteration-{t - 1}" if t > 1 else "../dense"} for t in (1, 2, 3)]
    finished.edit(study__iterations=iterations)
    assert finished.snakemake() == chain("sap", [2]) | chain("incop_if", [2]) | GATHER
    table = pd.read_csv(finished.root / "reports/tables/comparison.csv")
    assert sorted(table.iteration) == [1, 1, 2, 2, 3, 3]
    assert "Nothing to be done" in finished.run("snakemake", "-n", "--cores", "2")


def final(project, method="incop_if"):
    return json.loads((project.root / "reports/metrics.json").read_text())[method]


def shown(project):
    """Experiments of `dvc exp show`: name -> total epochs of incop_if and the epsilon they ran with."""
    project.run("dvc", "exp", "show", "--csv", "--only-changed")
    table = json.loads(project.run("dvc", "exp", "show", "--json"))
    experiments = {}
    for revision in table:
        for experiment in revision.get("experiments") or []:
            data = experiment["revs"][0]["data"]
            epsilon = data["params"]["params.yaml"]["data"]["methods"]["incop_if"]["epsilon"]
            metrics = data["metrics"]["reports/metrics.json"]["data"]["incop_if"]
            experiments[epsilon] = metrics["total_epochs"]
    return experiments


@pytest.mark.timeout(600)
def test_experiments_in_the_workspace_in_a_copy_and_queued(finished):
    finished.git("add", "-A")
    finished.git("commit", "-qm", "results")
    ran = finished.run("dvc", "exp", "run", "-S", "methods.incop_if.epsilon=0.05")
    changed = finished.git("diff", "--unified=0", "--", "params.yaml").splitlines()[5:]
    assert [line.partition("#")[0].split() for line in changed] == [["-", "epsilon:", "0.1"], ["+", "epsilon:", "0.05"]]
    assert changed[0].partition("#")[2] == changed[1].partition("#")[2]
    assert "prepare_data" not in stages_run(ran)
    finished.git("checkout", "-q", "--", ".")
    finished.run("dvc", "checkout")
    finished.run("dvc", "exp", "run", "--temp", "-S", "methods.incop_if.epsilon=0.9")
    finished.run("dvc", "exp", "run", "--queue", "-S", "methods.incop_if.epsilon=0.8")
    finished.run("dvc", "exp", "run", "--queue", "-S", "methods.incop_if.epsilon=0.7")
    finished.run("dvc", "queue", "start", "-j", "2")
    wait_for_queue(finished)
    finished.run("dvc", "queue", "stop", "--kill", status=None)  # a worker may linger after its last task
    assert set(shown(finished)) == {0.05, 0.9, 0.8, 0.7}
    finished.edit(methods__incop_if__epsilon=0.7)
    assert finished.repro() == set()


def wait_for_queue(project):
    import time

    for _ in range(200):
        status = project.run("dvc", "queue", "status")
        if "Queued" not in status and "Running" not in status:
            assert status.count("Success") == 2, status
            return
        time.sleep(1)
    raise AssertionError(status)


def test_a_failed_stage_leaves_nothing_half_written_and_the_next_run_goes_on(finished):
    script = finished.root / "stages/prunus/methods/incop_if.py"
    good = script.read_text()
    script.write_text(good + "\n\ndef recipe(settings):\n    raise RuntimeError('broken on purpose')\n")
    gathered = {"evaluate@0-incop_if", "compare", "report"}  # what there is: the other chain
    broken = {"chain_reference@0-incop_if", "prune_iteration@0-incop_if-iteration0"}
    assert finished.snakemake(status=1) == broken | gathered
    assert not list(finished.root.glob("runs/seed0/incop_if/iteration-1/*"))
    assert not list(finished.root.rglob("*.partial"))
    script.write_text(good.replace('"""InCoP-IF:', '"""InCoP-IF, mended:'))
    finished.edit(methods__incop_if__epsilon=0.3)
    assert finished.snakemake() == whole_chain("incop_if") | GATHER
    restored_or_clean(finished)
