import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import compare
from prunus.comparing import tables
from prunus.evaluation import preservation
from prunus.run.errors import StageError
from prunus.study import layout

PROJECT = Path(compare.__file__).parents[1]
DVC = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]


def test_comparison_has_the_contract_columns_and_times(build):
    table = tables.comparison(build(seeds=[0, 3], iterations=3))
    first = "dataset,network,seed,method,iteration,density,test_accuracy,epochs,train_seconds,flow_seconds"
    assert list(table.columns[:12]) == [*first.split(","), "evaluation_seconds", "prune_seconds"]
    assert len(table) == 2 * 5 * 3
    assert list(table["method"].unique()) == ["one_shot", "lth", "sap", "incop_if", "incop_gf"]
    row = table[(table["seed"] == 3) & (table["method"] == "incop_if") & (table["iteration"] == 2)].iloc[0]
    assert (row["epochs"], row["flow_seconds"], row["prune_seconds"]) == (3, 0.05, 0.01)
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
    runs = tables.runs(study, [])
    assert len(runs) == 1 + 2 * (3 + 2 + 1)
    assert runs["seconds_total"].isna().sum() == 1
    assert runs.loc[runs["seconds_total"].isna(), "stage"].tolist() == ["prune_iteration"]


def test_information_is_gathered_where_it_is_measured(build):
    study = build(seeds=[0, 1], methods=["mipp", "sap"], iterations=2)
    nothing = tables.information(study, [])
    assert nothing.empty and list(nothing.columns) == tables.INFORMATION_COLUMNS
    assert tables.information(study, ["mipp"]).empty
    for seed in study.seeds:
        rows = [
            dict.fromkeys(tables.INFORMATION_COLUMNS, 0.5)
            | {"seed": seed, "method": "mipp", "iteration": t, "layer": "fc1", "quantity": "kept"}
            for t in (1, 2, 3)  # the third is a leftover
        ]
        pd.DataFrame(rows).to_csv(layout.evaluation(seed, "mipp") / "information.csv", index=False)
    table = tables.information(study, ["mipp"])
    assert list(table.columns) == tables.INFORMATION_COLUMNS
    assert table[["seed", "iteration"]].values.tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    assert tables.runs(study, ["mipp"])["stage"].eq("measure_information").sum() == 2


def test_the_columns_of_information_are_those_the_stage_writes():
    assert ["seed", "method", "iteration", *preservation.COLUMNS] == tables.INFORMATION_COLUMNS


def test_latency_comes_from_the_record_of_the_evaluation(build):
    study = build(seeds=[0, 1], methods=["sap", "thinet"], iterations=2)
    path = layout.record("seed0", "thinet/evaluate")
    record = json.loads(path.read_text())
    record["latency"] = [
        {"iteration": 2, "batch": 1, "dense_seconds": 0.004, "compact_seconds": 0.002, "repeats": 5},
        {"iteration": 2, "batch": 256, "dense_seconds": 0.9, "compact_seconds": 0.3, "repeats": 5},
        {"iteration": 3, "batch": 1, "dense_seconds": 1.0, "compact_seconds": 1.0, "repeats": 5},  # beyond the study
    ]
    path.write_text(json.dumps(record))
    layout.record("seed1", "thinet/evaluate").unlink()
    table = tables.comparison(study).set_index(["seed", "method", "iteration"])
    columns = ["latency_1_seconds", "latency_256_seconds", "speedup_1", "speedup_256"]
    assert table.loc[(0, "thinet", 2), columns].tolist() == pytest.approx([0.002, 0.3, 2.0, 3.0])
    assert table[columns].notna().sum().tolist() == [1, 1, 1, 1]


def test_channels_relative_to_the_mean_of_the_groups(build):
    study = build(seeds=[0], methods=["sap", "thinet"], iterations=2)
    rows = [(1, "a", 10, 5), (1, "b", 20, 20), (1, "c", 4, 3), (2, "a", 10, 5), (2, "b", 20, 10), (2, "c", 4, 2)]
    groups = pd.DataFrame(rows, columns=["iteration", "group", "channels", "alive"])
    path = layout.evaluation(0, "thinet") / "channels.csv"
    groups.assign(seed=0, method="thinet").to_csv(path, index=False)
    table = tables.channels(study)
    thinet = table[table["method"] == "thinet"]
    # iteration 1 removed 1/2, 0 and 1/4, on average 1/4; iteration 2 half of everything
    assert thinet["removed"].tolist() == [0.5, 0.0, 0.25, 0.5, 0.5, 0.5]
    assert thinet["relative"].tolist() == [2.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    assert table.loc[table["method"] == "sap", "removed"].eq(0).all()
    assert table.loc[table["method"] == "sap", "relative"].isna().all()


def test_a_network_without_channel_groups_has_an_empty_table(build, run):
    study = build(methods=["sap"], iterations=1)
    for seed in (0, 1):
        path = layout.evaluation(seed, "sap") / "channels.csv"
        path.write_text("seed,method,iteration,group,channels,alive\n")
    columns = ["seed", "method", "iteration", "group", "channels", "alive", "removed", "relative"]
    assert tables.channels(study).empty
    run(compare)
    assert list(pd.read_csv(layout.TABLES / "channels.csv").columns) == columns


def test_some_iterations_without_channels_are_an_error(build):
    study = build(seeds=[0], methods=["sap"], iterations=2)
    path = layout.evaluation(0, "sap") / "channels.csv"
    pd.read_csv(path).query("iteration == 1").to_csv(path, index=False)
    with pytest.raises(StageError, match="channels.csv has no iteration 2"):
        tables.channels(study)


def test_missing_evaluation_names_the_file_and_the_command(build):
    study = build(methods=["sap"])
    (layout.evaluation(1, "sap") / "layers.csv").unlink()
    with pytest.raises(StageError, match=r"seed1/sap/layers.csv is missing; `python stages/evaluate.py --seed 1 --m"):
        tables.layers(study)


def test_damaged_evaluation_of_an_imposed_ratio_names_its_own_command(build):
    study = build(seeds=[0], methods=["mipp"], imposed=["thinet"])
    (layout.evaluation(0, "thinet_at_mipp") / "iterations.csv").write_text("")
    every = study.model_copy(update={"methods": ["mipp", "thinet_at_mipp"]})
    with pytest.raises(StageError, match=r"evaluate.py --seed 0 --method thinet --ratio-of mipp` makes it anew"):
        tables.comparison(every)


def test_evaluation_of_another_dataset_is_an_error(build):
    study = build(methods=["sap"], iterations=2).model_copy(update={"dataset": "mnist"})
    with pytest.raises(StageError, match="is of lenet5 on digits, the study is lenet5 on mnist"):
        tables.comparison(study)


def transferred(seed, method, iterations, source="digits"):
    """The table that a chain's transfer to MNIST would have left."""
    row = {"seed": seed, "method": method, "source_dataset": source, "dataset": "mnist", "start": "initial"}
    row |= {"density": 0.5, "epochs": 3, "train_loss": 0.2}
    path = layout.transfer("mnist", seed, method)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [row | {"iteration": t, "test_accuracy": 0.9 - 0.1 * t - 0.02 * seed} for t in iterations]
    pd.DataFrame(rows).to_csv(path, index=False)


def test_transfers_stand_beside_the_accuracy_at_home(build):
    study = build(methods=["sap", "lth"], iterations=2)
    comparison = tables.comparison(study)
    for seed in study.seeds:
        transferred(seed, "dense", [0])
        transferred(seed, "sap", [1, 2, 3])  # the third a leftover
    table = tables.transfer(study, comparison, ["mnist"], ["dense", "sap"])
    assert list(table.columns) == tables.TRANSFER_COLUMNS
    assert table[["seed", "method", "iteration"]].values.tolist() == [
        [seed, method, t] for seed in (0, 1) for method, t in (("dense", 0), ("sap", 1), ("sap", 2))
    ]
    home = comparison.set_index(["method", "seed", "iteration"])
    assert table["source_test_accuracy"][0] == home.loc[("sap", 0, 1), "dense_test_accuracy"]
    assert table["source_test_accuracy"][5] == home.loc[("sap", 1, 2), "test_accuracy"]
    assert table["test_accuracy"].tolist() == pytest.approx([0.9, 0.8, 0.7, 0.88, 0.78, 0.68])


def test_transfers_of_another_study_are_an_error(build):
    study = build(seeds=[0], methods=["sap"], iterations=2)
    comparison = tables.comparison(study)
    assert tables.transfer(study, comparison, ["mnist"], ["sap"]).empty
    transferred(0, "sap", [1, 2], source="cifar10")
    with pytest.raises(StageError, match="sap.csv is not of networks from digits"):
        tables.transfer(study, comparison, ["mnist"], ["sap"])
    assert list(tables.transfer(study, comparison, [], []).columns) == tables.TRANSFER_COLUMNS


def test_script_writes_every_table_and_the_metrics(build, run, capsys):
    build()
    run(compare)
    assert "compared 5 methods over 2 seeds" in capsys.readouterr().out
    names = {path.name for path in layout.TABLES.iterdir()}
    listed = {path for path in DVC["compare"]["outs"] if path.startswith("reports/tables/")}
    assert {f"reports/tables/{name}" for name in names} == listed
    assert {"channels.csv", "collapse.csv", "matched_channels.csv"} < names
    metrics = json.loads(layout.METRICS.read_text())
    assert metrics["incop_if"]["epochs_saved_against_sap"] == pytest.approx(1 - 12 / 75)
    assert metrics["incop_if"]["final_density"] == pytest.approx(0.83**5, abs=1e-6)
    assert metrics["sap"]["total_epochs"] == 75
    assert metrics["sap"]["total_seconds"] == pytest.approx(75 * 0.2 + 5 * 0.1 + 0.05)
    saved = {f"epochs_saved_against_{base}" for base in ("sap", "lth")}
    few = {"final_test_accuracy", "final_density", "total_epochs", "total_seconds"} | saved
    assert all(set(values) == few for values in metrics.values())
    assert pd.read_csv(layout.TABLES / "matched_channels.csv").empty
    equal = pd.read_csv(layout.TABLES / "equal_density.csv").set_index(["method", "seed"])
    assert equal["density"].tolist() == pytest.approx([0.83**5] * len(equal))  # SAP and InCoP end there, LTH is past
    assert equal.loc[("sap", 0), ["epochs", "seconds"]].tolist() == pytest.approx([75, 75 * 0.2 + 5 * 0.1 + 0.05])
    assert equal.loc[("incop_if", 0), "seconds"] == pytest.approx(12 * 0.2 + 5 * (0.1 + 0.01 + 0.05) + 0.5)
    assert 0 < equal.loc[("lth", 0), "epochs"] < 75
    matched = pd.read_csv(layout.TABLES / "matched_density.csv")
    assert matched["density"].min() == 0.328
    runs = pd.read_csv(layout.TABLES / "runs.csv", dtype=str)
    assert runs["threads"].tolist() == ["1"] * len(runs)


def test_script_compares_at_the_ratios_of_mipp(build, run):
    build(seeds=[0], methods=["thinet", "mipp"], imposed=["thinet"])
    run(compare)
    table = pd.read_csv(layout.TABLES / "matched_channels.csv").set_index(["method", "iteration"])
    accuracy = pd.read_csv(layout.TABLES / "comparison.csv").set_index(["method", "iteration"])["test_accuracy"]
    assert set(table.index.unique("method")) == {"thinet", "mipp", "thinet_at_mipp"}
    assert table["channels_removed"].groupby("iteration").first().tolist() == pytest.approx(
        [0.14, 0.28, 0.42, 0.56, 0.7]
    )
    # ThiNet is at 0.1 and 0.2 after its first iterations, so 0.14 lies at 0.4 of the way; its last has 0.5
    between = 0.6 * accuracy["thinet", 1] + 0.4 * accuracy["thinet", 2]
    assert table.loc[("thinet", 1), "test_accuracy"] == pytest.approx(between)
    assert table.loc["thinet", "test_accuracy"].isna().tolist() == [False, False, False, True, True]
    for exact in ("mipp", "thinet_at_mipp"):
        assert table.loc[exact, "test_accuracy"].tolist() == accuracy[exact].tolist()
        assert table.loc[exact, "interpolated"].eq(0).all()
    metrics = json.loads(layout.METRICS.read_text())["mipp"]
    assert metrics["final_channels_removed"] == pytest.approx(0.7)
    ends = pd.read_csv(layout.TABLES / "comparison.csv").query("method == 'mipp' and iteration == 5")
    assert ends[["speedup_1", "speedup_256"]].values[0] == pytest.approx([1 / 0.86, 1 / 0.3], abs=1e-6)


@pytest.mark.parametrize("methods", [["sap"], ["one_shot", "incop_if"]])
def test_script_takes_one_seed_and_no_baseline(build, run, methods):
    build(seeds=[4], methods=methods, iterations=1)
    run(compare)
    metrics = json.loads(layout.METRICS.read_text())
    assert "epochs_saved_against_lth" not in metrics[methods[0]]
    assert ("epochs_saved_against_sap" in metrics[methods[0]]) == ("sap" in methods)
    assert pd.read_csv(layout.TABLES / "summary.csv")["test_accuracy_ci95"].isna().all()


def test_script_reports_in_one_line_that_nothing_is_there(build, run, capsys):
    build(methods=["sap"])
    for seed in (0, 1):
        (layout.evaluation(seed, "sap") / "iterations.csv").unlink()
    with pytest.raises(SystemExit) as ended:
        run(compare)
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no chain of the study is evaluated" in error and "evaluate.py --seed 0 --method sap" in error
    assert not layout.METRICS.exists()


def test_gathering_does_not_import_torch():
    code = "import sys; import prunus.comparing.tables, prunus.reporting.page, prunus.comparing.statistics; "
    stages = str(layout.Path(compare.__file__).parent)
    code = f"import sys; sys.path.insert(0, {stages!r}); {code} sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
