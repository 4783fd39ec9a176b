"""Charts of what retraining cost: epochs, time, the distance to Phi* that ends it, and what accuracy it bought."""

import numpy as np
import pandas as pd

from prunus.comparing.files import finished
from prunus.comparing.statistics import complete
from prunus.reporting.charts import theme
from prunus.reporting.charts.drawing import (
    SHORT,
    Chart,
    axis,
    identity,
    if_picked,
    layer,
    legend_columns,
    methods_axis,
    names_width,
    picking,
    quoted,
    records,
    room_for,
    time_unit,
    tooltip,
)
from prunus.reporting.names import NARROW, listed, method_name, method_names, number

Tables = dict[str, pd.DataFrame]
PARTS = {
    "prune": "choosing what to prune",
    "train": "training",
    "flow": "measuring flow",
    "evaluation": "validation accuracy",
}
BAR, MARGIN = 30, 40  # pixels that a method takes, and the rest of such a plot


def epochs_per_iteration(tables: Tables, methods: list[str]) -> Chart | None:
    """One bar per method, one segment per iteration: retraining epochs, mean over the seeds with a complete chain."""
    looks = identity(method_names(methods))
    methods = [name for name in methods if name in finished(tables["summary"])]
    if not methods:
        return None
    ended = complete(tables["comparison"], int(tables["summary"]["iterations"].max()))
    table = ended.groupby(["method", "iteration"])["epochs"].mean().loc[methods].reset_index()
    ends = table.groupby("method")["epochs"].cumsum()
    table = table.assign(start=ends - table["epochs"], end=ends)
    deep = {method: position % len(theme.SERIES) in theme.DEEP for position, method in enumerate(methods)}
    table["deep"] = table["method"].map(deep)
    table["middle"] = (table["start"] + table["end"]) / 2
    table["label"] = [f"{value:.3g}" for value in table["epochs"]]
    table["method"] = table["method"].map(method_name)
    totals = ends.groupby(table["method"], sort=False).max().rename("end").reset_index()
    totals["label"] = [f"{value:.4g} in all" for value in totals["end"]]
    y = {"y": methods_axis(method_names(methods))}
    longest = max(totals["end"].max(), 1)
    room = room_for(totals["label"])
    x = {"type": "quantitative", "axis": axis("retraining epochs, mean of the seeds")}
    x["scale"] = {"domain": [0, longest], "nice": False} | room
    columns = {"method": ("method", None), "iteration": ("iteration", "d"), "epochs": ("epochs", SHORT)}
    bar = {"x": x | {"field": "start"}, "x2": {"field": "end"}, "color": looks["color"], "opacity": if_picked(1.0)}
    inside = {"x": x | {"field": "middle"}, "text": {"field": "label"}, "opacity": if_picked(1.0)}
    after = {"x": x | {"field": "end"}, "text": {"field": "label"}}
    fits = f"datum.epochs / {longest} * ({room['rangeMax']['expr']}) > 7 * length(datum.label) + 5"
    layers = [
        layer("bar", y | bar | {"tooltip": tooltip(columns)}, style="cell") | {"params": picking()},
        layer("text", y | inside, where=f"datum.deep && {fits}", style="on-deep"),
        layer("text", y | inside, where=f"!datum.deep && {fits}", style="on-bright"),
        layer("text", y | after, "totals", style="label", align="left", dx=6),
    ]
    return Chart(
        [{"layer": layers, "height": BAR * len(methods) + MARGIN}],
        {"rows": records(table), "totals": records(totals)},
        f"Bars of the retraining epochs of {listed(method_names(methods))}, one segment for each iteration.",
        columns,
        margins=(names_width(method_names(methods)),),
    )


def time_split(tables: Tables, methods: list[str]) -> Chart | None:
    """Time of all iterations: choosing the masks, training, measuring flow, evaluating on the validation split."""
    methods = [method for method in methods if method in finished(tables["summary"])]
    summary = tables["summary"].set_index("method").loc[methods]
    known = summary["seconds_mean"]
    if known.isna().all():
        return None
    size, unit, short = time_unit(known.max())
    parts = pd.concat(
        [
            pd.DataFrame(
                {
                    "method": summary.index.map(method_name),
                    "part": words,
                    "order": order,
                    "time": summary[f"{part}_seconds_mean"].where(known.notna()).to_numpy() / size,
                    "share": (summary[f"{part}_seconds_mean"] / known).to_numpy(),
                }
            )
            for order, (part, words) in enumerate(PARTS.items())
        ]
    )
    labels = ["times not recorded" if np.isnan(time) else f"{number(time / size)}{NARROW}{short}" for time in known]
    totals = {"method": summary.index.map(method_name), "time": known.fillna(0.0).to_numpy() / size, "label": labels}
    totals = pd.DataFrame(totals)
    y = {"y": methods_axis(method_names(methods))}
    x = {"type": "quantitative", "axis": axis(f"{unit} in all, mean of the seeds")}
    x["scale"] = {"domain": [0, totals["time"].max()], "nice": False} | room_for(totals["label"])
    columns = {
        "method": ("method", None),
        "part": ("time went into", None),
        "time": (unit, ",.2f"),
        "share": ("share", ".1%"),
    }
    color = {"field": "part", "type": "ordinal", "sort": None, "scale": {"domain": list(PARTS.values())}}
    margin = names_width(method_names(methods))
    color["legend"] = {"columns": legend_columns(list(PARTS.values()), margin)}
    bar = {"x": x | {"field": "time", "stack": "zero"}, "color": color, "order": {"field": "order"}}
    layers = [
        layer("bar", y | bar | {"tooltip": tooltip(columns)}),
        layer(
            "text",
            y | {"x": x | {"field": "time"}, "text": {"field": "label"}},
            "totals",
            style="label",
            align="left",
            dx=6,
        ),
    ]
    return Chart(
        [{"layer": layers, "height": BAR * len(methods) + MARGIN}],
        {"rows": records(parts), "totals": records(totals)},
        f"Stacked bars of the time that {listed(method_names(methods))} took: {listed(list(PARTS.values()))}.",
        columns,
        margins=(margin,),
    )


def distance_to_reference(tables: Tables, methods: list[str]) -> Chart | None:
    """Distance to Phi* after each retraining epoch, one panel per method that measures it, one line per seed."""
    histories = tables["histories"].dropna(subset="distance")
    measured = [method for method in methods if (histories["method"] == method).any()]
    if not measured:
        return None
    panels = []
    table = []
    for method in measured:
        panel, places = _distance_panel(tables, method, methods)
        panels.append(panel)
        table.append(places)
    return Chart(
        panels,
        {"rows": records(pd.concat(table))},
        f"Lines of the distance between the flow of the pruned and of the dense network after each retraining epoch of "
        f"{listed(method_names(measured))}, with the threshold at which retraining stops.",
        DISTANCE,
        across=2,
        margins=(50,),
    )


DISTANCE = {
    "method": ("method", None),
    "seed": ("seed", "d"),
    "iteration": ("iteration", "d"),
    "epoch": ("epoch", "d"),
    "distance": ("distance to Φ*", ".4f"),
}


def _distance_panel(tables: Tables, method: str, methods: list[str]) -> tuple[dict, pd.DataFrame]:
    """The view of one method, iterations as wide as their longest retraining, and its rows."""
    history, comparison = (tables[name][tables[name]["method"] == method] for name in ("histories", "comparison"))
    widths = history.groupby("iteration")["epoch"].max()
    starts = widths.cumsum() - widths
    places = history.dropna(subset="distance")
    places = places.assign(method=method_name(method), at=places["iteration"].map(starts) + places["epoch"] - 0.5)
    epsilons = comparison["epsilon"].dropna().unique()
    limits = [float(value) for value in epsilons if np.isfinite(value)]
    centres = [float(value) for value in starts + widths / 2]
    label = f"indexof({centres}, datum.value) + {int(widths.index[0])}"
    x = {"type": "quantitative", "scale": {"domain": [0, int(widths.sum())], "nice": False}}
    x["axis"] = {"title": "iteration (as wide as its epochs)", "values": centres, "labelExpr": label}
    x["axis"] |= {"grid": False, "ticks": False}
    y = {"type": "quantitative", "axis": axis("distance to Φ*", SHORT, 5)}
    y["scale"] = {"domain": [0, 1.1 * max([places["distance"].max(), *limits])], "nice": False}
    color = identity(method_names(methods))["color"]
    at = {
        "x": x | {"field": "at"},
        "y": y | {"field": "distance"},
        "detail": [{"field": "seed"}, {"field": "iteration"}],
    }
    only = f"datum.method == {quoted(method_name(method))}"
    layers = [
        *(layer("rule", {"x": x | {"datum": int(start)}}, None, style="border") for start in starts.iloc[1:]),
        *(layer("rule", {"y": y | {"datum": limit}}, None, style="limit") for limit in limits),
        layer("line", at | {"color": color}, where=only, strokeWidth=1.4, opacity=0.75),
        layer("point", at | {"color": color, "tooltip": tooltip(DISTANCE)}, where=only, filled=True, size=34),
    ]
    thresholds = ", ".join(f"{value:g}" for value in epsilons)
    return {"title": f"{method_name(method)} (dashed: ε = {thresholds})", "layer": layers, "height": 220}, places
