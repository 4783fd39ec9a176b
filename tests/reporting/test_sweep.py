"""Experiments side by side: what varies, who counts once, and what the table says."""

import numpy as np
import pandas as pd
import pytest

from prunus.reporting import sweep


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
    found = sweep.variants(epsilons)
    assert [(variant.name, variant.experiment) for variant in found] == [
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


def test_one_setting_at_a_time_has_a_series_each_and_a_place_for_the_rest():
    found = sweep.variants(
        [
            experiment("workspace", {"sap": [0.9, 0.8]}),
            experiment("p", {"sap": [0.9, 0.8]}, methods__sap__p=0.2),
            experiment("scope", {"sap": [0.9, 0.8]}, methods__sap__scope="layer"),
            experiment("both", {"sap": [0.9, 0.8]}, methods__sap__scope="layer", methods__sap__p=0.2),
        ]
    )
    assert [(variant.label, variant.series) for variant in found] == [
        ("as in params.yaml", "SAP"),
        ("p 0.2", "SAP, p"),
        ("scope layer", "SAP, layer"),
        ("p 0.2, scope layer", "SAP, layer, p"),
    ]


def test_a_setting_of_no_method_concerns_all():
    found = sweep.variants(
        [
            experiment("workspace", {"sap": [0.9, 0.8]}),
            experiment("other", {"sap": [0.9, 0.8]}, study__seeds=(0, 1, 2)),
        ]
    )
    assert [variant.experiment for variant in found] == ["workspace", "other"]


def test_all_rows_of_all_variants_stand_in_one_comparison(epsilons):
    combined = sweep.combined(sweep.variants(epsilons))
    assert combined["method"].nunique() == 4 and len(combined) == 16
