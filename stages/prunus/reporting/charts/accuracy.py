"""Charts of accuracy: against density, against the channels removed, and the headline with the cost beside it.

Densities run from dense (left) to sparse (right) on a log axis. A method has one colour in all charts.
"""

import pandas as pd

from prunus.comparing.files import finished, of_all_seeds, removers
from prunus.reporting.charts.drawing import (
    PERCENT,
    POINTS,
    SHORT,
    TENTHS,
    Chart,
    axis,
    density_encoding,
    identity,
    if_picked,
    layer,
    legend,
    lines,
    methods_axis,
    names_width,
    picking,
    records,
    room_for,
    time_unit,
    tooltip,
)
from prunus.reporting.names import NARROW, listed, method_name, method_names, number

Tables = dict[str, pd.DataFrame]
MOST_BANDS = 7  # of one standard deviation in a plot; with more methods only picked ones show theirs
FEWEST = 1e-3  # share of channels drawn for a network without any: a log axis has no zero
HEIGHT = 340
MEAN = {
    "method": ("method", None),
    "iteration": ("iteration", "d"),
    "density": ("density", PERCENT),
    "accuracy": ("test accuracy", POINTS),
    "std": ("standard deviation", POINTS),
    "epochs": ("epochs", TENTHS),
}
SEED = {
    "method": ("method", None),
    "seed": ("seed", "d"),
    "iteration": ("iteration", "d"),
    "accuracy": ("test accuracy", POINTS),
}
REMOVED = {"channels_removed": ("channels removed", PERCENT)}


def _datasets(comparison: pd.DataFrame, methods: list[str], dense_at: dict[str, float]) -> dict[str, list[dict]]:
    """``rows``: mean and spread of accuracy over seeds, by method and iteration; ``seeds``: the single networks.

    Iteration 0 is the dense network, with the values of ``dense_at`` in the other columns.
    """
    seeds = comparison[comparison["method"].isin(methods)]
    seeds = seeds.assign(accuracy=seeds["test_accuracy"], method=seeds["method"].map(method_name))
    groups = of_all_seeds(seeds).groupby(["method", "iteration"], sort=False)
    table = groups[[*dense_at, "epochs", "accuracy"]].mean().assign(std=groups["accuracy"].std()).reset_index()
    spread = table["std"].fillna(0.0)
    table = table.assign(low=table["accuracy"] - spread, high=table["accuracy"] + spread)
    start = {"iteration": 0, "accuracy": _dense(comparison)} | dense_at
    dense = pd.DataFrame([{"method": method_name(method)} | start for method in methods])
    table = pd.concat([dense, table]).sort_values("iteration", kind="stable")
    return {"rows": records(table), "seeds": records(seeds[["method", "seed", "iteration", "accuracy", *dense_at]])}


def _dense(comparison: pd.DataFrame) -> float:
    return float(comparison.groupby("seed")["dense_test_accuracy"].first().mean())


def _curves(comparison: pd.DataFrame, count: int, looks: dict, x: dict, columns: dict, dots: bool) -> dict:
    """A view of the accuracy of ``count`` methods, distinguished by ``looks``, over the encoding ``x``.

    Curves start thin at the dense network. ``columns`` are those of a point's tooltip; ``dots`` shows single seeds too.
    """
    dense = _dense(comparison)
    y = {"type": "quantitative", "scale": {"zero": False}, "axis": axis("test accuracy", PERCENT)}
    notes = []
    if comparison["untrainable"].any():  # with one at chance level in the frame, the others would look alike
        inside = [dense, *comparison.loc[comparison["untrainable"] == 0, "test_accuracy"]]
        margin = max(0.06 * (max(inside) - min(inside)), 0.001)
        y["scale"] |= {"domain": [min(inside) - margin, max(inside) + margin], "nice": False}
        corner = {"x": {"value": 6}, "y": {"value": HEIGHT - 9}}
        note = "below the frame: untrainable collapse"
        notes = [layer("text", corner, None, text=note, style="note", align="left")]
    at = {"x": x, "y": y | {"field": "accuracy"}}
    color = {"color": looks["color"]}
    band = {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}}
    strength = if_picked(0.12, 0.0)
    strength["condition"]["empty"] = count <= MOST_BANDS
    measured, start = "datum.iteration > 0", "datum.iteration < 2"
    singles = at | color | {"opacity": if_picked(0.4), "tooltip": tooltip(SEED)}
    bright = {"opacity": if_picked(1.0)}
    means = at | looks | bright | {"tooltip": tooltip(columns)}
    layers = [
        layer("rule", {"y": y | {"datum": dense}}, None, style="reference"),
        layer("area", band | color | {"fillOpacity": strength}, where=measured, clip=True),
        layer("line", at | color | {"opacity": if_picked(0.5)}, where=start, strokeWidth=1, clip=True),
        *lines(looks["color"]["scale"]["domain"], at | color | bright, measured, strokeWidth=2, clip=True),
        *([layer("circle", singles, "seeds", size=16, clip=True)] if dots else []),
        layer("point", means, where=measured, filled=True, size=64, clip=True) | {"params": picking()},
    ]
    return {"layer": layers + notes, "height": HEIGHT}


def _over_density(comparison: pd.DataFrame, methods: list[str], looks: dict, dots: bool) -> dict:
    x = density_encoding("density", comparison["density"].min(), "density (fraction of weights alive)")
    return _curves(comparison, len(methods), looks, x, MEAN, dots)


def accuracy_against_density(tables: Tables, methods: list[str], drawn: list[str] | None = None) -> Chart:
    """Mean test accuracy of each iteration at its mean density, single seeds beside it; ``drawn``: only of these."""
    comparison = tables["comparison"]
    shown = methods if drawn is None else drawn
    return Chart(
        [_over_density(comparison, shown, identity(method_names(methods)), dots=True)],
        _datasets(comparison, shown, {"density": 1.0}),
        f"Lines of mean test accuracy against density, from dense to sparse, for {listed(method_names(shown))}.",
        MEAN,
        key=legend(method_names(methods), method_names(shown)),
    )


def accuracy_against_channels(tables: Tables, methods: list[str]) -> Chart | None:
    """Mean test accuracy against the fraction of channels removed, of the methods that removed any."""
    comparison = tables["comparison"]
    drawn = [method for method in methods if method in removers(tables["summary"])]
    if not drawn:
        return None
    left = comparison.assign(left=1 - comparison["channels_removed"].clip(upper=1 - FEWEST))
    # The axis shows the share left, like that of densities; its labels say the share removed.
    title = "channels removed"
    sparsest = left.loc[left["method"].isin(drawn), "left"].min()
    x = density_encoding("left", sparsest, title, label="100 - 100 * datum.value")
    return Chart(
        [_curves(left, len(drawn), identity(method_names(methods)), x, MEAN | REMOVED, dots=True)],
        _datasets(left, drawn, {"density": 1.0, "left": 1.0, "channels_removed": 0.0}),
        f"Lines of mean test accuracy against the fraction of channels removed, for {listed(method_names(drawn))}.",
        MEAN | REMOVED,
        key=legend(method_names(methods), method_names(drawn)),
    )


def _costs(summary: pd.DataFrame, methods: list[str]) -> tuple[pd.DataFrame, str]:
    """The cost of each method with a label, and its unit: of time if all times are known, else epochs."""
    table = summary.set_index("method").loc[methods].reset_index()
    known = table["seconds_mean"].notna().all()
    cost, std = (table[f"{'seconds' if known else 'epochs'}_{what}"] for what in ("mean", "std"))
    spread = std.fillna(0.0)
    size, unit, short = time_unit((cost + spread).max()) if known else (1.0, "retraining epochs", "")
    epochs = [f"{number(value, 0 if value.is_integer() else 1)} epochs" for value in table["epochs_mean"].astype(float)]
    times = [f"{number(value / size)}{NARROW}{short}, {spent}" for value, spent in zip(cost, epochs, strict=True)]
    ends = {"cost": cost / size, "from": (cost - spread).clip(lower=0) / size, "to": (cost + spread) / size}
    names = table["method"].map(method_name)
    return pd.DataFrame({"method": names, "label": times if known else epochs} | ends), unit


def _cost_view(summary: pd.DataFrame, methods: list[str], looks: dict) -> tuple[dict, pd.DataFrame]:
    """A view of bars of what ``methods`` cost, and its rows."""
    costs, unit = _costs(summary, methods)
    x = {"type": "quantitative", "axis": axis(f"{unit} in all, mean of the seeds", SHORT, 4)}
    x["scale"] = {"domainMin": 0} | room_for(costs["label"])
    y = {"y": methods_axis(method_names(methods))}
    bar = {"x": x | {"field": "cost"}, "color": looks["color"], "opacity": if_picked(1.0)}
    whisker = {"x": x | {"field": "from"}, "x2": {"field": "to"}}
    words = {"x": x | {"field": "to"}, "text": {"field": "label"}}
    layers = [
        layer("bar", y | bar, "costs") | {"params": picking()},
        layer("rule", y | whisker, "costs", style="whisker"),
        layer("text", y | words, "costs", style="label", align="left", dx=7),
    ]
    return {"title": "Cost", "layer": layers, "height": HEIGHT}, costs


def headline(tables: Tables, methods: list[str]) -> Chart:
    """The picture for a talk: accuracy against density, and the cost of each method with a complete chain."""
    looks = identity(method_names(methods))
    names = listed(method_names(methods))
    views = [{"title": "Accuracy"} | _over_density(tables["comparison"], methods, looks, dots=False)]
    datasets = _datasets(tables["comparison"], methods, {"density": 1.0})
    del datasets["seeds"]
    if ended := [method for method in methods if method in finished(tables["summary"])]:
        view, costs = _cost_view(tables["summary"], ended, looks)
        views, datasets = [*views, view], datasets | {"costs": records(costs)}
    alt = f"Left: lines of test accuracy against density for {names}. Right: bars of what each method cost."
    margins = (62, names_width(method_names(methods)))
    return Chart(views, datasets, alt, across=2, key=legend(method_names(methods)), margins=margins)
