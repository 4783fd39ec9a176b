"""A study that failed in parts: what is missing is listed with its reason, and no number hides it."""

import itertools
import json
import shutil

import numpy as np
import pandas as pd
import pytest

import compare
import report
from prunus.comparing import missing, tables
from prunus.reporting import frame
from prunus.run.errors import StageError
from prunus.study import layout

METHODS = ("lth", "sap", "incop_if")


def cut(seed, method, after, iterations=3):
    """Leave of a chain what a failure after iteration ``after`` leaves."""
    folder = layout.evaluation(seed, method)
    for t in range(after + 1, iterations + 1):
        layout.iteration_record(seed, method, t).unlink()
    if after == 0:
        shutil.rmtree(folder)
        return
    for path in folder.glob("*.csv"):
        pd.read_csv(path).query(f"iteration <= {after}").to_csv(path, index=False)


def note(record, kind, message, density=None):
    path = layout.failure(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"kind": kind, "message": message, "density": density}))


def collapse(seed, method, t, density=0.004):
    cut(seed, method, t - 1)
    note(layout.iteration_record(seed, method, t), "collapsed", f"seed {seed} {method} iteration {t}: empty", density)


def read(name):
    return pd.read_csv(layout.TABLES / f"{name}.csv")


def listed(study):
    comparison = tables.comparison(study)
    empty = pd.DataFrame(columns=["seed", "method", "iteration", "dataset"])
    return missing.missing(study, comparison, empty, empty, [], [])


def test_nothing_is_missing_in_a_complete_study(build):
    assert listed(build(seeds=[0], methods=METHODS, iterations=3)).empty


def test_a_chain_cut_short_says_why_and_what_waits(build):
    study = build(methods=METHODS, iterations=3)
    collapse(1, "lth", 2)
    note(layout.iteration_record(1, "lth", 3), "diverged", "of an earlier run")  # iteration 3 was not reached this time
    table = listed(study)
    first, second = (layout.prune_command(1, "lth", t) for t in (2, 3))
    assert table.drop(columns="density").values.tolist() == [
        ["prune_iteration", 1, "lth", 2, "collapsed", "seed 1 lth iteration 2: empty", first],
        ["prune_iteration", 1, "lth", 3, "not_made", "waits for iteration 2", second],
    ]
    assert table["density"][0] == 0.004 and np.isnan(table["density"][1])
    assert "missing: 2 prune_iteration; first: seed 1 lth iteration 2: empty (`python" in missing.one_line(table)


def test_a_seed_without_its_dense_network_says_why(build):
    study = build(methods=["lth", "sap"], iterations=2)
    for method in study.methods:
        cut(1, method, 0, 2)
    dense = layout.iteration_record(1, "dense", 0)
    dense.unlink()
    note(dense, "diverged", "seed 1 dense: the loss became infinite")
    layout.record("seed1", "reference_flow").unlink()
    layout.evaluation_record(1, "dense").unlink()
    table = listed(study)
    assert table["stage"].tolist() == ["pretrain", "reference_flow", "evaluate_dense", *["prune_iteration"] * 4]
    assert table["why"].tolist() == [
        "seed 1 dense: the loss became infinite",
        *["not made"] * 2,
        *["not made", "waits for iteration 1"] * 2,
    ]
    assert table["command"][0] == "python stages/pretrain.py --seed 1"


def test_what_is_made_and_not_evaluated_is_told_apart(build):
    study = build(seeds=[0, 1], methods=["sap"], iterations=2)
    shutil.rmtree(layout.evaluation(0, "sap"))
    note(layout.record("seed0", "sap/evaluate"), "out_of_memory", "out of memory")
    table = listed(study)
    assert table["stage"].tolist() == ["evaluate"] * 2
    assert table["kind"].tolist() == ["out_of_memory"] * 2
    assert table["command"].tolist() == ["python stages/evaluate.py --seed 0 --method sap"] * 2
    layout.evaluation_record(0, "dense").unlink()
    table = listed(study)
    assert table["stage"].tolist() == ["evaluate_dense", *["evaluate"] * 2]
    assert table["why"].tolist() == ["not made", *["out of memory"] * 2]
    assert table["command"][0] == "python stages/evaluate_dense.py --seed 0"


def test_an_imposed_chain_names_its_command(build):
    study = build(seeds=[0], methods=["mipp"], iterations=2, imposed=["thinet"])
    study = study.model_copy(update={"methods": ["mipp", "thinet_at_mipp"]})
    cut(0, "mipp", 1, 2)
    cut(0, "thinet_at_mipp", 1, 2)
    table = listed(study).set_index("method")
    assert table.loc["mipp", "why"] == "not made"
    assert table.loc["thinet_at_mipp", "why"] == "not made"
    assert table.loc["thinet_at_mipp", "command"] == layout.prune_command(0, "thinet", 2, "mipp")


def test_transfers_and_measurements_are_listed(build):
    study = build(seeds=[0], methods=["sap"], iterations=2)
    comparison = tables.comparison(study)
    keys = ["seed", "method", "iteration"]
    transfer = pd.DataFrame([(0, "sap", 1, "mnist"), (0, "dense", 0, "mnist")], columns=[*keys, "dataset"])
    layout.record("transfers", "mnist", "data").parent.mkdir(parents=True)
    layout.record("transfers", "mnist", "data").write_text("{}")
    information = pd.DataFrame([(0, "sap", 1), (0, "sap", 2)], columns=keys)
    moved = [("mnist", "dense"), ("mnist", "sap"), ("cifar10", "sap")]
    table = missing.missing(study, comparison, transfer, information, moved, ["sap"])
    assert table[["stage", "why", "command"]].values.tolist() == [
        ["transfer", "not made", "python stages/transfer.py --dataset mnist --seed 0 --method sap"],
        [
            "transfer",
            "not made",
            "python stages/transfer.py --dataset cifar10 --seed 0 --method sap",
        ],
    ]
    table = missing.missing(study, comparison, transfer, information.iloc[:1], [], ["sap"])
    assert table["stage"].tolist() == ["measure_information"]


def test_a_damaged_note_is_one_line(build):
    study = build(seeds=[0], methods=["sap", "lth"], iterations=2)
    cut(0, "lth", 1, 2)
    path = layout.failure(layout.iteration_record(0, "lth", 2))
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(StageError, match="failure.json is damaged; remove it"):
        listed(study)


def test_numbers_of_a_chain_s_end_are_of_chains_that_have_one(build, run, capsys):
    build(seeds=[0, 1, 2], methods=METHODS, iterations=3)
    run(compare)
    before = {name: read(name) for name in ("comparison", "summary", "paired_tests", "equal_density")}
    collapse(1, "lth", 2)
    run(compare)
    assert "missing: 2 prune_iteration" in capsys.readouterr().out
    summary = read("summary").set_index("method")
    assert summary["seeds"].to_dict() == {"lth": 2, "sap": 3, "incop_if": 3}
    ends = before["comparison"].query("iteration == 3 and method == 'lth' and seed != 1")
    assert summary.loc["lth", "test_accuracy_mean"] == pytest.approx(ends["test_accuracy"].mean())
    assert summary.loc["lth", "epochs_mean"] == 45  # not 15 of a chain that ended early among them
    others = before["summary"].set_index("method").loc[["sap", "incop_if"]]
    pd.testing.assert_frame_equal(
        summary.loc[["sap", "incop_if"]].filter(regex="^(?!.*against_lth)"), others.filter(regex="^(?!.*against_lth)")
    )
    tests = read("paired_tests").set_index(["method_a", "method_b"])
    assert tests["n"].to_dict() == {("lth", "sap"): 2, ("lth", "incop_if"): 2, ("sap", "incop_if"): 3}
    equal = read("equal_density").set_index(["seed", "method"])
    assert (1, "lth") not in equal.index
    assert equal.loc[0, "density"].tolist() == before["equal_density"].query("seed == 0")["density"].tolist()
    metrics = json.loads(layout.METRICS.read_text())
    assert [metrics[method]["seeds"] for method in METHODS] == [2, 3, 3]
    assert read("collapse")[["runs", "collapsed"]].sum().tolist() == [3 * 9 - 2 + 1, 1]
    assert read("matched_density").query("density == 0.512")["n"].tolist() == [2, 0, 0]


def drawn(run, monkeypatch):
    """The report's page, without pictures and without the library that draws in a browser."""
    monkeypatch.setattr(report, "png", lambda name, chart: b"")
    monkeypatch.setattr(frame, "_vega", lambda: "")
    run(compare)
    run(report)
    return layout.REPORT.read_text().replace("\u202f", " ")


BROKEN = {
    "the last iteration of one seed": [(1, "lth", 2)],
    "a method in every seed": [(0, "lth", 0), (1, "lth", 0)],
    "the baseline in every seed": [(0, "sap", 1), (1, "sap", 2)],
    "a whole seed": [(1, method, 0) for method in METHODS],
    "every chain's end": [(seed, method, 1) for seed, method in itertools.product((0, 1), METHODS)],
    "all but one chain": [(seed, method, 0) for seed, method in itertools.product((0, 1), METHODS)][1:],
    "another method in each seed": [(0, "lth", 1), (1, "incop_if", 1)],
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_page_is_drawn_of_what_there_is(build, run, monkeypatch, broken):
    build(methods=METHODS, iterations=3)
    for seed, method, after in broken:
        cut(seed, method, after)
    page = drawn(run, monkeypatch)
    assert "This study is incomplete" in page
    assert "made by" in page and page.count("Runs are missing (see the top of the page)") == 1
    assert "nan" not in page.split("<main")[1].split("</main>")[0].lower().replace("provenance", "")
    assert "NaN" not in page.split('id="drawing">')[1].split("</script>")[0]


def test_the_page_says_over_which_seeds_its_means_are(build, run, monkeypatch):
    build(methods=METHODS, iterations=3)
    collapse(1, "lth", 2)
    page = drawn(run, monkeypatch)
    assert "LTH, seed 1: iterations 2 to 3" in page and "seed 1 lth iteration 2: empty" in page
    assert "LTH without seed 1" in page
    assert '<th scope="col">seeds</th>' in page.split("Summary per method")[1]
    data = json.loads(page.split('id="drawing">')[1].split("</script>")[0])["charts"]["accuracy_against_density"]
    assert "LTH" in json.dumps(data, ensure_ascii=False)


def test_a_complete_study_says_nothing_of_it(build, run, monkeypatch):
    build(methods=METHODS, iterations=2)
    page = drawn(run, monkeypatch)
    assert "incomplete" not in page.split("<main")[1] and "Runs are missing" not in page
