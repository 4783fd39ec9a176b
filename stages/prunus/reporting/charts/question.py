"""Charts of a study's further questions: networks on another task, information between layers."""

import pandas as pd

from prunus.comparing.files import of_all_seeds
from prunus.reporting.charts.accuracy import accuracy_against_density
from prunus.reporting.charts.drawing import (
    PERCENT,
    POINTS,
    Chart,
    axis,
    identity,
    if_picked,
    layer,
    legend,
    picking,
    records,
    tooltip,
)
from prunus.reporting.names import dataset_name, listed, method_name, method_names

Tables = dict[str, pd.DataFrame]
QUANTITIES = {"kept": "as the units left know it", "pruned": "just pruned", "retrained": "retrained"}


def transfer(tables: Tables, methods: list[str]) -> Chart | None:
    """Accuracy on another dataset against density; the dashed line is the dense network's there."""
    table = tables["transfer"]
    if table.empty:
        return None
    dense = table[table["method"] == "dense"].set_index(["dataset", "seed"])["test_accuracy"]
    pruned = table[table["method"] != "dense"]
    keys = pd.MultiIndex.from_frame(pruned[["dataset", "seed"]])
    pruned = pruned.assign(dense_test_accuracy=dense.reindex(keys).to_numpy(), untrainable=0)
    if pruned["dataset"].nunique() > 1:
        pruned["method"] = pruned["method"].map(method_name) + " on " + pruned["dataset"].map(dataset_name)
        methods = list(dict.fromkeys(pruned["method"]))
    drawn = [name for name in methods if name in set(pruned["method"])]
    return accuracy_against_density({"comparison": pruned}, methods, drawn) if drawn else None


def information(tables: Tables, methods: list[str]) -> Chart | None:
    """The share of the next layer's variance that a layer explains, mean over the pairs of layers: after the choice of
    units, in the network just pruned, and retrained. Iteration 0 is the dense network."""
    table = of_all_seeds(tables["information"])
    drawn = [method for method in methods if method in set(table["method"])]
    if not drawn:
        return None
    over_layers = table.groupby(["method", "seed", "iteration", "quantity"])["mean"].mean().reset_index()
    dense = over_layers[(over_layers["quantity"] == "before") & (over_layers["iteration"] == 1)].assign(iteration=0)
    rows = [over_layers[over_layers["quantity"] == name] for name in QUANTITIES]
    rows += [dense.assign(quantity=name) for name in QUANTITIES]
    means = pd.concat(rows).groupby(["quantity", "method", "iteration"])["mean"].agg(["mean", "std"]).reset_index()
    means["method"] = means["method"].map(method_name)
    looks = identity(method_names(methods))
    columns = {
        "method": ("method", None),
        "iteration": ("iteration", "d"),
        "mean": ("share explained", POINTS),
        "std": ("standard deviation", POINTS),
    }
    ticks = sorted(int(t) for t in means["iteration"].unique())
    x = {"field": "iteration", "type": "quantitative", "axis": axis("iteration (0: dense)", "d", None, values=ticks)}
    low, high = means["mean"].min(), means["mean"].max()
    panels = []
    for name, title in QUANTITIES.items():
        where = f"datum.quantity == '{name}'"
        scale = {"domain": [low - 0.05 * (high - low), high + 0.05 * (high - low)], "nice": False}
        y = {"field": "mean", "type": "quantitative", "scale": scale, "axis": axis(None, PERCENT, 5)}
        at = {"x": x, "y": y, "color": looks["color"], "opacity": if_picked(1.0)}
        points = at | {"shape": looks["shape"], "tooltip": tooltip(columns)}
        layers = [
            layer("line", at, where=where, strokeWidth=2),
            layer("point", points, where=where, filled=True, size=50) | {"params": picking()},
        ]
        panels.append({"title": title[0].upper() + title[1:], "layer": layers, "height": 240})
    alt = f"Lines of the share of the next layer's variance that a layer explains, for {listed(method_names(drawn))}."
    return Chart(
        panels,
        {"rows": records(means)},
        alt,
        columns,
        across=3,
        key=legend(method_names(methods), method_names(drawn)),
        margins=(48,),
    )
