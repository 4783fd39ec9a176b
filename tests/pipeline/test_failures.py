"""A study of which one chain fails: the others go on and are compared, the report says what is missing, and once the
cause is mended either runner ends with what an undisturbed run leaves."""

import json

import pandas as pd
import pytest

from conftest import chain, stages_run

ITERATIONS = [{"t": t, "after": f"iteration-{t - 1}" if t > 1 else "../dense"} for t in (1, 2, 3)]
STUDY = {"study__methods": ["sap", "lth"], "study__iterations": ITERATIONS, "methods__lth__epochs": 1}
HARSH = 0.995  # of 43520 weights 218 are left, then 2, which is too few for three layers
GATHERED = {"compare", "report"}


def results(project):
    """What equal runs make equal: neither records nor times."""
    files = [*project.root.glob("runs/seed*/**/*"), *project.root.glob("runs/evaluations/**/*")]
    return {str(path.relative_to(project.root)): path.read_bytes() for path in files if path.is_file()}


def table(project, name):
    return pd.read_csv(project.root / f"reports/tables/{name}.csv")


def restored(project):
    assert "Data and pipelines are up to date." in project.run("dvc", "status")
    assert table(project, "missing").empty
    assert "This study is incomplete" not in (project.root / "reports/report.html").read_text()
    assert json.loads((project.root / "reports/metrics.json").read_text())["lth"].keys() >= {"final_density"}


@pytest.fixture(scope="module")
def whole(fresh):
    project = fresh("whole")
    project.edit(**STUDY)
    project.snakemake()
    restored(project)
    return project


@pytest.fixture(scope="module")
def in_parts(whole, tmp_path_factory):
    """The finished study after an edit with which a layer of one method's networks collapses at iteration 2."""
    project = whole.copy(tmp_path_factory.mktemp("in-parts") / "project")
    project.edit(methods__lth__fraction=HARSH, methods__sap__beta=0.5)
    project.output = project.run("snakemake", "--cores", "2", status=1)
    return project


def test_what_there_is_is_compared_and_what_is_missing_is_said(in_parts):
    comparison, missing = table(in_parts, "comparison"), table(in_parts, "missing")
    assert comparison.groupby("method")["iteration"].max().to_dict() == {"lth": 1, "sap": 3}
    assert comparison.loc[comparison["method"] == "lth", "density"].item() == pytest.approx(1 - HARSH, abs=1e-3)
    assert missing[["stage", "seed", "method", "iteration", "kind"]].values.tolist() == [
        ["prune_iteration", 0, "lth", 2, "collapsed"],
        ["prune_iteration", 0, "lth", 3, "not_made"],
    ]
    assert missing["density"][0] == pytest.approx(2 / 43520, rel=0.6)
    assert (
        "lower methods.lth.fraction, set methods.lth.scope: layer or list fewer study.iterations" in missing["why"][0]
    )
    assert missing["why"][1] == "waits for iteration 2"
    summary = table(in_parts, "summary").set_index("method")
    assert summary["seeds"].to_dict() == {"sap": 1, "lth": 0}
    assert summary.loc["lth"].drop(["seeds", "iterations"]).isna().all()
    page = (in_parts.root / "reports/report.html").read_text()
    assert "This study is incomplete" in page and "LTH, seed 0: iterations 2 to 3" in page
    assert "missing: 2 prune_iteration; first: seed 0 lth iteration 2: no weight is left in" in in_parts.output
    assert not list(in_parts.root.glob("runs/seed0/lth/iteration-[23]/*"))  # leftovers of the other settings


def test_running_again_without_mending_says_the_same(in_parts, tmp_path):
    project = in_parts.copy(tmp_path / "project")
    assert project.snakemake(status=1) == {"prune_iteration@0-lth-iteration1"}
    assert table(project, "missing").equals(table(in_parts, "missing"))


def test_snakemake_completes_the_study_once_it_is_mended(in_parts, whole, tmp_path):
    project = in_parts.copy(tmp_path / "project")
    project.edit(methods__lth__fraction=0.2, methods__sap__beta=0.9)
    assert project.snakemake() <= GATHERED  # the rest is in the cache
    restored(project)
    assert results(project) == results(whole)
    assert project.repro() == set()
    assert "Nothing to be done" in project.run("snakemake", "-n", "--cores", "2")


def test_dvc_keeps_going_gathers_and_completes_the_study(fresh, whole):
    project = fresh("by-dvc")
    project.edit(**STUDY | {"methods__lth__fraction": HARSH})
    ran = stages_run(project.run("dvc", "repro", "--keep-going", status=255))
    assert chain("sap", (0, 1, 2)) <= ran and "evaluate@0-lth" not in ran
    assert stages_run(project.run("python", "profiles/gather.py")) == {"evaluate@0-lth"} | GATHERED
    assert len(table(project, "missing")) == 2
    project.edit(methods__lth__fraction=0.2)
    assert project.repro() == chain("lth", (0, 1, 2)) | GATHERED
    restored(project)
    assert results(project) == results(whole)
    assert project.snakemake() == set()


def test_a_diverging_seed_is_missing_whole(in_parts, tmp_path):
    """Every chain waits for the dense network: nothing is left to compare, and the old tables are not shown as new."""
    project = in_parts.copy(tmp_path / "project")
    project.edit(training__sgd__learning_rate=1e12)
    text = project.run("snakemake", "--cores", "2", status=1)
    note = json.loads((project.root / "runs/unfinished/seed0/dense/failure.json").read_text())
    assert note["kind"] == "diverged" and "seed 0 dense: " in note["message"] and "epoch 1" in note["message"]
    assert note["message"] in text
    assert not list(project.root.glob("reports/tables/*")) and not list(project.root.glob("runs/evaluations/seed0/*/*"))
