"""What is said of methods that differ in more than what they are compared for."""

import json

import pandas as pd
import pytest

from prunus.comparing.files import settings_of
from prunus.reporting.caveats import _unlike
from prunus.reporting.names import method_name
from prunus.run.errors import StageError


def comparison_of(settings, **changes):
    """A comparison with one row for each method of ``settings``, which is by method."""
    rows = [{"method": method, "rewind": "trained", "recipe": json.dumps(block)} for method, block in settings.items()]
    return pd.DataFrame(rows).assign(**changes)


def test_different_rewinding_and_quirks_are_said_among_the_caveats():
    settings = {"sap": {"p": 0.5, "q": 1.0}, "incop_if": {"epsilon": 0.1, "reference_quirks": True}}
    rewinding, quirks = _unlike(comparison_of(settings, rewind=["initial", "trained"]), list(settings))
    assert "to the initial weights: SAP; to the trained weights: InCoP-IF" in rewinding
    assert quirks.startswith("InCoP-IF ran with reference_quirks")
    kept = _unlike(comparison_of(settings, rewind=["none", "trained"]), list(settings))[0]
    assert "(not rewound, they keep their values: SAP; to the trained weights: InCoP-IF)" in kept
    assert _unlike(comparison_of({"sap": {}, "incop_if": {"reference_quirks": False}}), list(settings)) == []


PRUNING = {"score": "magnitude", "index": "pq", "scope": "global", "gamma": 1.0, "beta": 0.9, "p": 0.5, "q": 1.0}
PRUNING |= {"eta": 0.0}
OTHERS = {
    "score": "synaptic",
    "index": "gini",
    "scope": "layer",
    "gamma": 0.5,
    "beta": 0.8,
    "p": 0.4,
    "q": 0.9,
    "eta": 1.0,
}


@pytest.mark.parametrize("key", PRUNING)
def test_stop_rules_that_are_compared_on_different_pruning_are_said(key):
    settings = {"sap": PRUNING, "incop_if": PRUNING | {"epsilon": 0.1}, "fixed_epochs": PRUNING | {key: OTHERS[key]}}
    settings["lth"] = {"score": "magnitude", "fraction": 0.2, "scope": "layer"}  # is compared for its amount
    (note,) = _unlike(comparison_of(settings), list(settings))
    assert note.startswith("Methods that differ in when they stop also prune differently (")
    assert f"(`{key}` {PRUNING[key]} in SAP and InCoP-IF, {OTHERS[key]} in {method_name('fixed_epochs')}): " in note
    assert _unlike(comparison_of(settings | {"fixed_epochs": PRUNING | {"epochs": 3}}), list(settings)) == []


def test_what_does_nothing_under_an_index_is_not_compared():
    gini = PRUNING | {"index": "gini"}
    settings = {
        "sap": gini,
        "incop_if": gini | {"p": 0.1},
        "early_stopping": {k: gini[k] for k in gini if k not in "pq"},
    }
    assert _unlike(comparison_of(settings), list(settings)) == []
    settings = {"sap": PRUNING, "incop_if": PRUNING | {"p": 0.1}, "early_stopping": gini}
    (note,) = _unlike(comparison_of(settings), list(settings))
    assert "`index`" in note and "`p` 0.5 in SAP, 0.1 in InCoP-IF" in note


@pytest.mark.parametrize("recipe", ["p 0.5, q 1.0", "[1]", 3])
def test_settings_that_are_not_json_are_refused_in_one_line(recipe):
    with pytest.raises(StageError, match="the settings of sap cannot be read .* is not a JSON object"):
        settings_of(comparison_of({"sap": {}}, recipe=recipe), "sap")
