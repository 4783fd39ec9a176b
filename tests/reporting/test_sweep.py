"""Experiments side by side: what varies, who counts once, and what the table says."""

import numpy as np
import pandas as pd
import pytest
import yaml

import compare
import sweep_report
from prunus.reporting import sweep, sweep_page
from prunus.run.errors import StageError
from prunus.study import layout


def comparison(accuracies: dict[str, list[float]], epochs: int = 4) -> pd.DataFrame:
    """Two iterations and one seed per accuracy, that of the last iteration, for every method."""
    rows = [
        {"seed": seed, "method": method, "iteration": t, "density": 0.5**t, "epochs": epochs, "test_accuracy": value}
        for method, values in accuracies.items()
        for seed, value in enumerate(values)
        for t in (1, 2)
    ]
    table = pd.DataFrame(rows)
    for column in ("macs", "bytes", "channels_removed", "compact_parameters", "compact_macs"):
        table[column] = 0.0
    for column in ("dense_macs", "parameters", "dense_test_accuracy"):
        table[column] = 1.0
    for column in ("prune", "train", "flow", "evaluation"):
        table[f"{column}_seconds"] = 1.0
    return table.assign(speedup_1=np.nan, speedup_256=np.nan)


def params(**changes) -> dict:
    content = {
        "study": {"methods": ["sap"], "seeds": [0, 1]},
        "methods": {"sap": {"p": 0.5, "scope": "global"}, "incop_if": {"epsilon": 0.1, "metric": "l2"}},
    }
    content = sweep.flat(content)
    return content | {key.replace("__", "."): value for key, value in changes.items()}


def experiment(name, accuracies, epochs=4, **changes):
    return sweep.Experiment(name, params(**changes), comparison(accuracies, epochs))


@pytest.fixture
def epsilons():
    return [
        experiment("workspace", {"sap": [0.9, 0.8], "incop_if": [0.8, 0.7]}),
        experiment("big", {"incop_if": [0.6, 0.5]}, 1, methods__incop_if__epsilon=0.5, study__methods=["incop_if"]),
        experiment("small", {"sap": [0.1, 0.1], "incop_if": [0.9, 0.9]}, 9, methods__incop_if__epsilon=0.01),
    ]


def test_only_settings_vary_not_which_methods_ran(epsilons):
    assert sweep.varied(epsilons) == ["methods.incop_if.epsilon"]


def test_settings_of_methods_that_did_not_run_and_of_other_code_do_not_vary(epsilons):
    first, second = epsilons[0], epsilons[1]
    second.params["methods.lth.fraction"], second.params["methods.sap.new"] = 0.5, 1
    first.params["methods.lth.fraction"] = 0.2
    assert sweep.varied([first, second]) == ["methods.incop_if.epsilon"]


def test_a_method_counts_once_for_every_setting_of_its_own(epsilons):
    variants = sweep.variants(epsilons)
    assert [(variant.name, variant.experiment) for variant in variants] == [
        ("SAP", "workspace"),
        ("InCoP-IF, ε 0.1", "workspace"),
        ("InCoP-IF, ε 0.5", "big"),
        ("InCoP-IF, ε 0.01", "small"),
    ]


def test_the_table_is_in_the_order_of_the_setting_and_measures_against_sap(epsilons):
    table = sweep.table(sweep.variants(epsilons)).set_index("variant")
    assert list(table.index) == ["InCoP-IF, ε 0.01", "InCoP-IF, ε 0.1", "InCoP-IF, ε 0.5", "SAP"]
    assert table["test_accuracy_mean"].tolist() == pytest.approx([0.9, 0.75, 0.55, 0.85])
    assert table["epochs_mean"].tolist() == [18, 8, 2, 8]
    assert table["difference_to_sap"].tolist()[:3] == pytest.approx([0.05, -0.1, -0.3])
    assert np.isnan(table.loc["SAP", "difference_to_sap"])
    assert table["reference"].tolist() == [False, False, False, True]
    assert table["series"].tolist() == ["InCoP-IF"] * 3 + ["SAP"]


def test_where_one_number_varies_words_make_the_series_and_the_number_the_mark():
    variants = sweep.variants(
        [
            experiment("workspace", {"sap": [0.9, 0.8]}),
            experiment("p", {"sap": [0.9, 0.8]}, methods__sap__p=0.2),
            experiment("scope", {"sap": [0.9, 0.8]}, methods__sap__scope="layer"),
        ]
    )
    assert [(variant.name, variant.mark, variant.series) for variant in variants] == [
        ("SAP, global, p 0.5", "p 0.5", "SAP, global"),
        ("SAP, global, p 0.2", "p 0.2", "SAP, global"),
        ("SAP, layer, p 0.5", "p 0.5", "SAP, layer"),
    ]


def test_one_setting_at_a_time_has_a_series_each_and_a_place_for_the_rest():
    def one(name, **changes):
        return experiment(name, {"sap": [0.9, 0.8]}, **({"methods__sap__q": 1.0} | changes))

    variants = sweep.variants(
        [
            one("workspace"),
            one("p", methods__sap__p=0.2),
            one("q", methods__sap__q=2.0),
            one("scope", methods__sap__scope="layer"),
            one("both", methods__sap__p=0.3, methods__sap__q=2.0),
        ]
    )
    assert [(variant.label, variant.mark, variant.series) for variant in variants] == [
        ("as in params.yaml", "as in params.yaml", "SAP"),
        ("p 0.2", "p 0.2", "SAP, p"),
        ("q 2", "q 2", "SAP, q"),
        ("layer", "layer", "SAP, layer"),
        ("p 0.3, q 2", "p 0.3, q 2", "SAP, p, q"),
    ]


def test_a_list_is_labelled_by_its_entries():
    shares, chains = ([0.01], [0.05, 0.3], []), (3, 5)
    flat = [sweep.flat({"methods": {"mipp": {"regularisation": share}}}) for share in shares]
    variants = sweep.variants(
        [sweep.Experiment(str(n), content, comparison({"mipp": [0.9]})) for n, content in enumerate(flat)]
    )
    assert [variant.label for variant in variants] == [
        "regularisation 0.01",
        "regularisation 0.05 0.3",
        "regularisation none",
    ]
    both = sweep.variants(
        [
            sweep.Experiment(
                str(n), sweep.flat({"study": {"iterations": [{"t": t} for t in range(n)]}}), comparison({"sap": [0.9]})
            )
            for n in chains
        ]
    )
    assert [variant.label for variant in both] == ["3 iterations", "5 iterations"]


def test_a_setting_of_no_method_concerns_all():
    variants = sweep.variants(
        [
            experiment("workspace", {"sap": [0.9, 0.8]}),
            experiment("other", {"sap": [0.9, 0.8]}, study__seeds=(0, 1, 2)),
        ]
    )
    assert [variant.experiment for variant in variants] == ["workspace", "other"]


def test_all_rows_of_all_variants_stand_in_one_comparison(epsilons):
    combined = sweep.combined(sweep.variants(epsilons))
    assert combined["method"].nunique() == 4 and len(combined) == 16


@pytest.fixture
def gathering(build, run, tmp_path):
    """Revisions as `dvc exp show` tells them: a finished study, and an experiment whose table lies in a cache."""
    build(methods=("sap", "incop_if"))
    run(compare)
    table = pd.read_csv(layout.TABLES / "comparison.csv")
    other = table[table["method"] == "incop_if"].assign(epochs=1)
    other.to_csv(tmp_path / "cached.csv", index=False)
    content = yaml.safe_load((tmp_path / "params.yaml").read_text())
    changed = yaml.safe_load((tmp_path / "params.yaml").read_text())
    changed["methods"]["incop_if"]["epsilon"] = 0.9

    def data(content):
        outs = {"reports/tables/comparison.csv": {"hash": "abc"}}
        return {"params": {"params.yaml": {"data": content}}, "outs": outs}

    done = {"executor": None, "revs": [{"name": "big-aunt", "rev": "1" * 40, "data": data(changed)}]}
    failed = {"executor": {"state": "failed"}, "revs": [{"name": "bad-egg", "rev": "2" * 40, "data": None}]}
    return [{"data": data(content)}, {"data": data(content), "experiments": [done, failed]}]


def test_experiments_are_read_from_the_cache_and_drawn(gathering, tmp_path):
    experiments = sweep_report.gathered(gathering, [], lambda digest: tmp_path / "cached.csv")
    assert [experiment.name for experiment in experiments] == ["workspace", "big-aunt"]
    variants = sweep.variants(experiments)
    rows = sweep.table(variants)
    assert list(rows["variant"]) == ["InCoP-IF, ε 0.1", "InCoP-IF, ε 0.9", "SAP"]
    charts = sweep_page.charts(variants, rows)
    assert set(charts) == {"sweep", "sweep_density"} and all(charts.values())
    page = sweep_page.render(experiments, variants, rows, charts)
    for text in ("InCoP-IF, ε 0.9", "methods.incop_if.epsilon", "big-aunt", 'data-chart="sweep"'):
        assert text in page


def test_findings_say_what_the_numbers_say():
    variants = sweep.variants(
        [
            experiment("workspace", {"sap": [0.90, 0.91, 0.92], "incop_if": [0.901, 0.909, 0.919]}, 8),
            experiment("big", {"incop_if": [0.70, 0.72, 0.71]}, 1, methods__incop_if__epsilon=0.9),
        ]
    )
    best, significant, extremes = sweep_page.findings(variants, sweep.table(variants))
    assert best.startswith("Highest final accuracy: SAP with 91.00") and "16.0 epochs" in best
    assert significant.startswith("Final accuracy differs significantly from SAP's: InCoP-IF, ε 0.9 by −20.00 points")
    assert extremes.startswith("InCoP-IF: from ε 0.1 to ε 0.9 retraining goes from 16.0 to 2.0 epochs")
    same = sweep.variants([experiment("workspace", {"sap": [0.90, 0.91], "incop_if": [0.91, 0.90]})])
    assert "No variant's final accuracy differs significantly" in sweep_page.findings(same, sweep.table(same))[1]
    single = sweep.variants([experiment("workspace", {"sap": [0.9]})])
    assert sweep_page.findings(single, sweep.table(single))[-1].startswith("With one seed nothing can be tested")


def test_an_unknown_experiment_and_one_without_results_are_told(gathering, tmp_path):
    with pytest.raises(StageError, match="nobody: no such experiment; there are: big-aunt"):
        sweep_report.gathered(gathering, ["nobody"], lambda digest: tmp_path / "cached.csv")
    with pytest.raises(StageError, match="big-aunt: has no reports/tables/comparison.csv"):
        sweep_report.gathered(gathering, ["big-aunt"], lambda digest: tmp_path / "absent.csv")
