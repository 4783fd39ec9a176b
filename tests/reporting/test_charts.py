"""What charts are made of; how they look in a browser is for test_page_in_browser.py."""

import json
import re

import numpy as np
import pandas as pd
import pytest

import compare
import report
from prunus.comparing.files import read_table
from prunus.reporting.charts import drawing, figures, theme
from prunus.reporting.charts.accuracy import accuracy_against_channels
from prunus.reporting.charts.sparsity import layer_ratios, pq_dynamics
from prunus.reporting.charts.trade_off import trade_off
from prunus.study import layout


def _tables(run):
    run(compare)
    return {name: read_table(layout.TABLES / f"{name}.csv", report.COMPARE) for name in report.TABLES}


def _parts(spec, key):
    """Everything that stands under ``key`` anywhere in a chart."""
    if isinstance(spec, dict):
        yield from ([spec[key]] if key in spec else [])
        spec = list(spec.values())
    for part in spec if isinstance(spec, list) else []:
        yield from _parts(part, key)


def _drawn(run, study):
    """The charts of a study that has something for each of them, by name."""
    tables = _tables(run)
    tables["transfer"] = pd.DataFrame(
        [(seed, name, t, "mnist", 0.5**t, 0.8, 8) for seed in (0, 1) for name, t in (("dense", 0), ("sap", 1))],
        columns=["seed", "method", "iteration", "dataset", "density", "test_accuracy", "epochs"],
    )
    tables["information"] = pd.DataFrame(
        [(0, "sap", 1, quantity, 0.5) for quantity in ("before", "kept", "pruned", "retrained")],
        columns=["seed", "method", "iteration", "quantity", "mean"],
    )
    return figures.draw(tables, study.methods)


def test_a_method_has_one_colour_in_all_charts(build, run):
    study = build(methods=["sap", "mipp", "incop_if", "thinet"], iterations=2)
    names = ["SAP", "MIPP", "InCoP-IF", "ThiNet"]
    for name, chart in _drawn(run, study).items():
        colors = [c for c in _parts([*chart.panels, chart.key], "color") if isinstance(c, dict)]
        domains = [c["scale"]["domain"] for c in colors if c.get("field") == "method"]
        assert all(domain == names for domain in domains), name
        assert bool(domains) == (name not in ("time_split", "layer_density", "layer_ratios"))


def test_the_columns_of_the_numbers_are_in_the_rows(build, run):
    study = build(methods=["sap", "mipp", "incop_if"], iterations=2)
    for name, chart in _drawn(run, study).items():
        names_in_rows = set().union(*chart.datasets["rows"])
        assert set(chart.columns) <= names_in_rows, name
        tooltips = {part["field"] for tips in _parts(chart.panels, "tooltip") for part in tips}
        assert tooltips <= names_in_rows | set().union(*(row for rows in chart.datasets.values() for row in rows)), name
        assert "NaN" not in json.dumps(chart.for_page(), allow_nan=False)


def test_fourteen_methods_can_be_told_apart():
    names = [f"method {position}" for position in range(14)]
    looks = drawing.identity(names)
    assert looks["color"]["scale"]["domain"] == looks["shape"]["scale"]["domain"] == names
    colors, shapes = len(theme.SERIES), len(theme.SHAPES)
    assert len({(position % colors, position % shapes) for position in range(14)}) == 14
    layers = drawing.lines(names, {})
    assert [len(re.findall("method ", part["transform"][0]["filter"])) for part in layers] == [7, 7]
    assert layers[0]["mark"]["strokeDash"] != layers[1]["mark"]["strokeDash"]


def test_colours_of_the_page_are_variables_that_both_modes_define():
    config = json.dumps(theme.page_config())
    assert not re.search(r"#[0-9a-fA-F]{3,6}\b", config)
    assert set(re.findall(r"var\(--([\w-]+)\)", config)) <= set(theme.LIGHT) == set(theme.DARK)


@pytest.mark.parametrize("sparsest", [0.9999, 0.7, 0.3, 0.05, 0.002])
def test_ticks_of_densities_leave_room_for_their_labels(sparsest):
    ticks = drawing.density_ticks(sparsest)
    assert ticks[0] == 1.0 and ticks[-1] >= sparsest
    span = np.log(1 / sparsest)
    gaps = np.diff(np.log(1 / np.array(ticks)))
    assert (gaps >= drawing.TICK_DISTANCE * span).all()


def test_nothing_removed_makes_no_charts_of_channels():
    tables = {"summary": pd.DataFrame({"method": ["sap"], "channels_removed_mean": [0.0]})}
    tables |= {"comparison": None, "channels": None}
    for name in ("accuracy_against_channels", "layer_ratios"):
        assert figures.CHARTS[name](tables, ["sap"]) is None
        assert figures.png(name, None).startswith(b"\x89PNG")


def test_curves_of_channels_are_of_the_methods_that_removed_any(build, run):
    study = build(seeds=[0, 1], methods=["sap", "mipp", "iter_snip"])
    tables = _tables(run)
    chart = accuracy_against_channels(tables, study.methods)
    assert chart.key["encoding"]["color"]["legend"]["values"] == ["MIPP", "IterSNIP"]
    removed = [row["channels_removed"] for row in chart.datasets["rows"] if row["method"] == "MIPP"]
    assert removed == pytest.approx([0, 0.14, 0.28, 0.42, 0.56, 0.7])
    # The collapsed network at 10 % is out of the frame, and the chart says so.
    domains = [part["domain"] for part in _parts(chart.panels, "scale") if part.get("nice") is False]
    assert any(0.5 < domain[0] < domain[1] for domain in domains)
    assert "below the frame: untrainable collapse" in _parts(chart.panels, "text")
    cells = layer_ratios(tables, study.methods).datasets["rows"]
    # MIPP took none of conv1, 4 of 20 and 10 of 70 channels an iteration: 0, 0.2 and 1/7 with mean 0.1143
    assert {row["group"]: row["label"] for row in cells if row["method"] == "MIPP"} == {
        "conv1": "0",
        "conv2": "1.7",
        "fc1": "1.2",
    }


def test_means_and_spreads_are_over_the_seeds(build, run):
    study = build(seeds=[0, 1, 2], methods=["sap"], iterations=2)
    tables = _tables(run)
    rows = figures.draw(tables, study.methods)["accuracy_against_density"].datasets["rows"]
    last = tables["comparison"].query("iteration == 2")["test_accuracy"]
    assert [row["iteration"] for row in rows] == [0, 1, 2]
    assert rows[2]["accuracy"] == pytest.approx(last.mean()) and rows[2]["std"] == pytest.approx(last.std(), rel=1e-4)
    assert (rows[2]["low"], rows[2]["high"]) == pytest.approx((last.mean() - last.std(), last.mean() + last.std()))


def test_pruned_networks_are_drawn_where_they_were_measured(build, run):
    study = build(seeds=[0], methods=["sap"], iterations=2)
    tables = _tables(run)
    tables["layers"] = tables["layers"].drop(columns=["pruned_pq_index", "pruned_gini_index"], errors="ignore")
    tables["comparison"] = tables["comparison"].drop(columns="pruned_test_accuracy", errors="ignore")
    plain = pq_dynamics(tables, study.methods)
    assert [panel["title"] for panel in plain.panels] == ["PQ index", "Gini index"]
    assert {row["phase"] for row in plain.datasets["rows"]} == {"retrained"}
    layers = tables["layers"].assign(pruned_pq_index=0.5, pruned_gini_index=0.6)
    measured = {"layers": layers, "comparison": tables["comparison"].assign(pruned_test_accuracy=0.9)}
    both = pq_dynamics(tables | measured, study.methods)
    assert [panel["title"] for panel in both.panels] == ["PQ index", "Gini index", "Test accuracy"]
    rows = [row for row in both.datasets["rows"] if row["phase"].startswith("pruned")]
    assert [(row["iteration"], row["pq_index"], row["gini_index"]) for row in rows] == [
        (t, 0.5, 0.6) for t in (0, 1, 2)
    ]
    assert [row["test_accuracy"] for row in rows] == [0.98, 0.9, 0.9]
    unknown = tables["layers"].assign(pruned_pq_index=float("nan"), pruned_gini_index=float("nan"))
    assert len(pq_dynamics(tables | {"layers": unknown}, study.methods).panels) == 2


SWEEP = pd.DataFrame(
    [
        ("SAP", "SAP", 0.9, 0.01, 75.0, 0.0, True),
        ("InCoP-IF", "0.2", 0.88, 0.02, 5.0, 1.0, False),
        ("InCoP-IF", "0.05", 0.91, float("nan"), 40.0, float("nan"), False),
        ("InCoP-IF", "0.1", 0.89, 0.01, 12.0, 2.0, False),
    ],
    columns=["series", "label", "test_accuracy_mean", "test_accuracy_std", "epochs_mean", "epochs_std", "reference"],
)


def test_trade_off_of_a_sweep():
    chart = trade_off(SWEEP, ["SAP", "InCoP-IF"])
    assert len(chart.panels) == 1
    rows = chart.datasets["rows"]
    assert [row["label"] for row in rows] == ["0.2", "0.1", "0.05", "SAP"]
    assert rows[2]["std"] is None and rows[2]["low"] == rows[2]["high"] == 0.91
    assert rows[0]["epochs_from"] == 4 and rows[0]["epochs_to"] == 6
    timed = trade_off(SWEEP.assign(seconds_mean=300.0, seconds_std=60.0), ["SAP", "InCoP-IF"])
    assert len(timed.panels) == 2 and timed.columns["seconds"][0] == "minutes"
    assert [row["seconds"] for row in timed.datasets["rows"]] == [5.0] * 4
    assert timed.png().startswith(b"\x89PNG")


def test_labels_of_close_points_do_not_cover_each_other():
    close = SWEEP.assign(epochs_mean=[75.0, 40.0, 40.5, 41.0], test_accuracy_mean=[0.9, 0.91, 0.91, 0.91])
    rows = trade_off(close, ["SAP", "InCoP-IF"]).datasets["rows"]
    near = [(row["epochs_align"], row["epochs_dy"]) for row in rows if row["method"] != "SAP"]
    assert len(set(near)) == 3
