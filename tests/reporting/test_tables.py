import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import compare
from prunus import layout
from prunus.reporting import tables
from prunus.runtime import StageError


def test_comparison_has_the_contract_columns_and_times(build):
    table = tables.comparison(build(seeds=[0, 3], iterations=3))
    first = "dataset,network,seed,method,iteration,density,test_accuracy,epochs,train_seconds,flow_seconds"
    assert list(table.columns[:11]) == [*first.split(","), "evaluation_seconds"]
    assert len(table) == 2 * 5 * 3
    assert list(table["method"].unique()) == ["one_shot", "lth", "sap", "incop_if", "incop_gf"]
    row = table[(table["seed"] == 3) & (table["method"] == "incop_if") & (table["iteration"] == 2)].iloc[0]
    assert (row["epochs"], row["flow_seconds"]) == (3, 0.05)
    assert row["train_seconds"] == pytest.approx(0.6)
    assert table.loc[table["method"] == "sap", "flow_seconds"].eq(0).all()


def test_leftovers_are_not_read(build):
    study = build(iterations=5)
    for old in (layout.evaluation(9, "sap"), layout.evaluation(0, "gone")):
        shutil.copytree(layout.evaluation(0, "sap"), old)
    shorter = study.model_copy(update={"iterations": study.iterations[:2], "methods": ["sap"], "seeds": [1]})
    table = tables.comparison(shorter)
    assert table[["seed", "method", "iteration"]].values.tolist() == [[1, "sap", 1], [1, "sap", 2]]
    assert sorted(tables.layers(shorter)["iteration"].unique()) == [0, 1, 2]
    assert sorted(tables.histories(shorter)["iteration"].unique()) == [1, 2]


def test_missing_record_is_unknown_not_zero(build):
    study = build(methods=["sap"], iterations=2)
    layout.iteration_record(0, "sap", 2).unlink()
    table = tables.comparison(study).set_index(["seed", "iteration"])
    assert np.isnan(table.loc[(0, 2), "train_seconds"])
    assert table.loc[(0, 1), "train_seconds"] > 0
    runs = tables.runs(study)
    assert len(runs) == 1 + 2 * (2 + 2 + 1)
    assert runs["seconds_total"].isna().sum() == 1
    assert runs.loc[runs["seconds_total"].isna(), "stage"].tolist() == ["prune_iteration"]


def test_missing_evaluation_names_the_file_and_the_command(build):
    study = build(methods=["sap"])
    (layout.evaluation(1, "sap") / "layers.csv").unlink()
    with pytest.raises(StageError, match=r"seed1/sap/layers.csv is missing; `python stages/evaluate.py --seed 1 --m"):
        tables.layers(study)


def test_evaluation_of_fewer_iterations_is_an_error(build):
    study = build(methods=["sap"], iterations=2)
    longer = study.model_copy(update={"iterations": [*study.iterations, None]})
    with pytest.raises(StageError, match="has no iteration 3"):
        tables.comparison(longer)


def test_evaluation_of_another_dataset_is_an_error(build):
    study = build(methods=["sap"], iterations=2).model_copy(update={"dataset": "mnist"})
    with pytest.raises(StageError, match="is of lenet5 on digits, the study is lenet5 on mnist"):
        tables.comparison(study)


def test_script_writes_every_table_and_the_metrics(build, run, capsys):
    build()
    run(compare)
    assert "compared 5 methods over 2 seeds" in capsys.readouterr().out
    names = {path.name for path in layout.TABLES.iterdir()}
    assert names == {
        f"{name}.csv"
        for name in ("comparison", "summary", "paired_tests", "matched_density", "layers", "histories", "runs")
    }
    metrics = json.loads(layout.METRICS.read_text())
    assert metrics["incop_if"]["epochs_saved_against_sap"] == pytest.approx(1 - 12 / 75)
    assert metrics["incop_if"]["final_density"] == pytest.approx(0.83**5, abs=1e-6)
    assert metrics["sap"]["total_epochs"] == 75
    matched = pd.read_csv(layout.TABLES / "matched_density.csv")
    assert matched["density"].min() == 0.328
    runs = pd.read_csv(layout.TABLES / "runs.csv", dtype=str)
    assert runs["threads"].tolist() == ["1"] * len(runs)


@pytest.mark.parametrize("methods", [["sap"], ["one_shot", "incop_if"]])
def test_script_takes_one_seed_and_no_baseline(build, run, methods):
    build(seeds=[4], methods=methods, iterations=1)
    run(compare)
    metrics = json.loads(layout.METRICS.read_text())
    assert "epochs_saved_against_lth" not in metrics[methods[0]]
    assert ("epochs_saved_against_sap" in metrics[methods[0]]) == ("sap" in methods)
    assert pd.read_csv(layout.TABLES / "summary.csv")["test_accuracy_ci95"].isna().all()


def test_script_reports_a_missing_file_in_one_line(build, run, capsys):
    build(methods=["sap"])
    (layout.evaluation(0, "sap") / "iterations.csv").unlink()
    with pytest.raises(SystemExit) as ended:
        run(compare)
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "iterations.csv is missing" in error
    assert not layout.METRICS.exists()


def test_gathering_does_not_import_torch():
    code = "import sys; import prunus.reporting.tables, prunus.reporting.page, prunus.reporting.statistics as s, sys; "
    stages = str(layout.Path(compare.__file__).parent)
    code = f"import sys; sys.path.insert(0, {stages!r}); {code} sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
