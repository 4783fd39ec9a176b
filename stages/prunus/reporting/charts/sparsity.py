"""Charts of which layers lost weights and channels, and of how unequal the remaining weights are."""

import numpy as np
import pandas as pd

from prunus.comparing.files import of_all_seeds, removers
from prunus.reporting.charts import theme
from prunus.reporting.charts.drawing import (
    MOST_CELLS_LABELLED,
    PERCENT,
    POINTS,
    Chart,
    axis,
    density_ticks,
    identity,
    if_picked,
    layer,
    legend,
    names_width,
    picking,
    quoted,
    records,
    tooltip,
)
from prunus.reporting.names import NARROW, listed, method_name, method_names

MOST_COLUMNS_LABELLED = 9  # of a third of a page's width; more would touch each other
Tables = dict[str, pd.DataFrame]
LAYER = {
    "method": ("method", None),
    "layer": ("layer", None),
    "iteration": ("iteration", "d"),
    "density": ("density", PERCENT),
}
RATIO = {
    "method": ("method", None),
    "group": ("channel group", None),
    "removed": ("channels removed", ".1%"),
    "relative": ("relative to the mean", ".3~f"),
}
PHASES = {"retrained": "retrained", "pruned": "pruned, before retraining"}
STROKES = {"retrained": {"strokeWidth": 2}, "pruned": {"strokeWidth": 1.5, "strokeDash": theme.DASHED}}
DYNAMICS = {"pq_index": "PQ index", "gini_index": "Gini index", "test_accuracy": "Test accuracy"}
SCHEME = "viridis"
KEY_STEPS = 60


def layer_density(tables: Tables, methods: list[str]) -> Chart:
    """Heat map of the density of each layer (rows, input at the top) after each iteration (columns), per method."""
    layers = of_all_seeds(tables["layers"])
    names = list(dict.fromkeys(layers["layer"]))
    table = layers.groupby(["method", "layer", "iteration"])["density"].mean().reset_index()
    lowest = min(0.1, layers.loc[layers["density"] > 0, "density"].min())
    table["shown"] = table["density"].clip(lower=lowest)
    table["label"] = [f"{100 * value:.0f}" if value >= 0.0995 else f"{100 * value:.2g}" for value in table["density"]]
    table["method"] = table["method"].map(method_name)
    scale = {"type": "log", "domain": [lowest, 1], "scheme": SCHEME}
    color = {"field": "shown", "type": "quantitative", "scale": scale, "legend": None}
    crowded = len(names) > 24
    y = {"field": "layer", "type": "nominal", "sort": None, "scale": {"domain": names}}
    y["axis"] = {"title": None, "labelFontSize": 9 if crowded else 11, "labelLimit": 110}
    x = {"field": "iteration", "type": "ordinal", "axis": {"title": "iteration (0: dense)", "labelAngle": 0}}
    light = lowest**0.55  # on the colours above this density dark words are easier to read
    ink = {"condition": {"test": f"datum.shown > {light}", "value": "#16181a"}, "value": "#ffffff"}
    panels = []
    for method in methods:
        only = f"datum.method == {quoted(method_name(method))}"
        cell = {"x": x, "y": y, "color": color, "tooltip": tooltip(LAYER)}
        drawn = [layer("rect", cell, where=only, style="cell")]
        columns = table["iteration"].nunique()
        if columns <= MOST_COLUMNS_LABELLED and len(names) * columns <= MOST_CELLS_LABELLED:
            words = {"x": x, "y": y, "text": {"field": "label"}, "color": ink}
            drawn.append(layer("text", words, where=only, fontSize=10.5))
        height = len(names) * (12 if crowded else 22)
        panels.append({"title": method_name(method), "layer": drawn, "height": height})
    alt = f"Heat maps of the density of each layer after each iteration, one each for {listed(method_names(methods))}."
    longest = min(110, round(6 * max(map(len, names))))
    datasets = {"rows": records(table), "key": _steps(lowest)}
    return Chart(panels, datasets, alt, LAYER, across=3, key=_color_key(lowest, color), margins=(longest + 10,))


def _steps(lowest: float) -> list[dict]:
    """The densities that a key of colours shows, as steps from ``lowest`` to 1."""
    edges = np.geomspace(lowest, 1, KEY_STEPS + 1)
    return records(pd.DataFrame({"from": edges[:-1], "to": edges[1:], "shown": np.sqrt(edges[:-1] * edges[1:])}))


def _color_key(lowest: float, color: dict) -> dict:
    words = f"format(100 * datum.value, '.4~g') + '{NARROW}%'"
    axis = {"title": "density, mean of the seeds", "values": density_ticks(lowest), "labelExpr": words, "grid": False}
    x = {"type": "quantitative", "scale": {"type": "log", "domain": [lowest, 1], "nice": False}, "axis": axis}
    place = {"x": x | {"field": "from"}, "x2": {"field": "to"}, "color": color, "stroke": color}
    return layer("rect", place, "key") | {"height": 12}


def layer_ratios(tables: Tables, methods: list[str]) -> Chart | None:
    """Heat map of methods (rows) and channel groups (columns) after the last iteration: MIPP's relative ratios.

    A cell is the fraction of the group's channels removed, divided by its mean over the groups, mean of the seeds: 1
    if a method prunes evenly.
    """
    channels = tables["channels"]
    cut = set(removers(tables["summary"]))
    shown = [method for method in methods if method in cut]
    if not shown:
        return None
    last = channels[(channels["iteration"] == channels["iteration"].max()) & channels["method"].isin(shown)]
    groups = list(dict.fromkeys(channels["group"]))
    names = method_names(shown)
    table = last.groupby(["method", "group"])[["removed", "relative"]].mean().reset_index()
    table["label"] = [f"{value:.2g}" for value in table["relative"]]
    table["method"] = table["method"].map(method_name)
    most = max(2.0, table["relative"].max())
    color = {"field": "relative", "type": "quantitative", "scale": {"scheme": "purpleorange", "reverse": True}}
    color["scale"] |= {"domain": [0, most], "domainMid": 1}
    color["legend"] = {"title": "channels removed, relative to the mean", "gradientLength": 220, "titleLimit": 300}
    y = {"field": "method", "type": "nominal", "sort": None, "scale": {"domain": names}, "axis": {"title": None}}
    crowded = sum(map(len, groups)) > 70
    x = {"field": "group", "type": "nominal", "sort": None, "scale": {"domain": groups}}
    x["axis"] = {"title": "group of coupled channels", "labelAngle": -90 if crowded else 0}
    x["axis"] |= {"labelFontSize": 9 if len(groups) > 24 else 11}
    drawn = [layer("rect", {"x": x, "y": y, "color": color, "tooltip": tooltip(RATIO)}, style="cell")]
    if len(table) <= MOST_CELLS_LABELLED:
        extreme = f"datum.relative < 0.25 || datum.relative > {1 + 0.7 * (most - 1)}"
        ink = {"condition": {"test": extreme, "value": "#ffffff"}, "value": "#16181a"}
        words = {"x": x, "y": y, "text": {"field": "label"}, "color": ink}
        drawn.append(layer("text", words, fontSize=10.5))
    return Chart(
        [{"layer": drawn, "height": 26 * len(shown)}],
        {"rows": records(table)},
        "Heat map of the fraction of channels removed from each group of coupled channels, relative to the mean of the "
        f"groups, one row each for {listed(method_names(shown))}.",
        RATIO,
        margins=(names_width(method_names(shown)),),
    )


def _weighted(layers: pd.DataFrame, column: str) -> pd.Series:
    """Mean of ``column`` over layers, weighted by their alive weights, by seed, method and iteration."""
    known = layers.dropna(subset=column)
    keys = [known[key] for key in ("seed", "method", "iteration")]
    return (known[column] * known["alive"]).groupby(keys).sum() / known["alive"].groupby(keys).sum()


def _phase(tables: Tables, prefix: str) -> pd.DataFrame:
    """PQ and Gini index (layers weighted by alive weights) and accuracy by seed, method and iteration, 0: dense.

    ``prefix``: that of the columns of one phase; columns that the tables lack are left out.
    """
    layers, comparison = of_all_seeds(tables["layers"]), of_all_seeds(tables["comparison"])
    columns = {
        index: _weighted(layers, prefix + index) for index in ("pq_index", "gini_index") if prefix + index in layers
    }
    if prefix + "test_accuracy" in comparison:
        keys = ["seed", "method", "iteration"]
        dense = comparison.groupby(keys[:2])["dense_test_accuracy"].first().reset_index().assign(iteration=0)
        dense = dense.set_index(keys)["dense_test_accuracy"]
        columns["test_accuracy"] = pd.concat([dense, comparison.set_index(keys)[prefix + "test_accuracy"]])
    return pd.DataFrame(columns)


def pq_dynamics(tables: Tables, methods: list[str]) -> Chart | None:
    """PQ index, Gini index and accuracy over the iterations, of the retrained networks and of those just pruned."""
    phases = {"retrained": _phase(tables, ""), "pruned": _phase(tables, "pruned_")}
    phases = {name: phase for name, phase in phases.items() if phase.notna().any(axis=None)}
    table = pd.concat(phases, names=["phase"])
    if "pq_index" not in table or table["pq_index"].isna().all():
        return None
    table = table.groupby(["phase", "method", "iteration"]).mean().reset_index()
    table = table[table["method"].isin(methods)]
    table = table.assign(method=table["method"].map(method_name), phase=table["phase"].map(PHASES))
    drawn = {name: title for name, title in DYNAMICS.items() if name in table and table[name].notna().any()}
    if "pruned" not in phases:
        drawn.pop("test_accuracy", None)  # over iterations it adds nothing to accuracy against density
    looks = identity(method_names(methods))
    columns = {"method": ("method", None), "phase": ("network", None), "iteration": ("iteration", "d")}
    columns |= {
        name: (title.lower().replace("pq", "PQ").replace("gini", "Gini"), POINTS if name == "test_accuracy" else ".4f")
        for name, title in drawn.items()
    }
    x = {"field": "iteration", "type": "quantitative"}
    x["axis"] = axis("iteration (0: dense)", "d", None, values=sorted(int(t) for t in table["iteration"].unique()))
    where = {phase: f"datum.phase == {quoted(PHASES[phase])}" for phase in phases}
    panels = []
    for name, title in drawn.items():
        form = PERCENT if name == "test_accuracy" else ".3~f"
        y = {"field": name, "type": "quantitative", "scale": {"zero": False}, "axis": axis(None, form, 5)}
        at = {"x": x, "y": y, "color": looks["color"]}
        bright = {"opacity": if_picked(1.0)}
        lines = [layer("line", at | bright, where=where[phase], **STROKES[phase]) for phase in phases]
        points = at | bright | {"shape": looks["shape"], "tooltip": tooltip(columns)}
        points["size"] = {"condition": {"test": where["retrained"], "value": 50}, "value": 22}
        lines.append(layer("point", points, filled=True) | {"params": picking()})
        panels.append({"title": title, "layer": lines, "height": 260})
    alt = f"Lines of {listed(list(drawn.values()))} over the iterations, for {listed(method_names(methods))}."
    key = legend(method_names(methods))
    return Chart(panels, {"rows": records(table)}, alt, columns, across=len(panels), key=key, margins=(48,))
