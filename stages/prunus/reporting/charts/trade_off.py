"""What accuracy costs: final test accuracy against the epochs, and the time, that retraining took."""

import numpy as np
import pandas as pd

from prunus.comparing.files import finished
from prunus.reporting.charts import theme
from prunus.reporting.charts.drawing import (
    LETTER,
    PERCENT,
    POINTS,
    SHORT,
    TENTHS,
    Chart,
    axis,
    identity,
    if_picked,
    layer,
    legend,
    lines,
    picking,
    records,
    time_unit,
    tooltip,
)
from prunus.reporting.names import listed, method_name, method_names

REFERENCES = ("sap", "lth")
NOMINAL = 300, 260  # pixels of a plot in a narrow window: labels that do not overlap there overlap nowhere
LINE = 13  # pixels
MOST_ON_LINEAR = 4  # times the least cost
# Places for a label, clear of the error bars: the alignment of its text, and its distance from its point.
PLACES = ("left", 8, -10), ("left", 8, 11), ("right", -8, -10), ("right", -8, 11)


def of_methods(tables: dict[str, pd.DataFrame], methods: list[str]) -> Chart | None:
    """The trade-off of a study: one point per method, those that stop on flow labelled with their epsilon."""
    series = method_names(methods)
    methods = [name for name in methods if name in finished(tables["summary"])]
    if not methods:
        return None
    summary = tables["summary"].set_index("method").loc[methods].reset_index()
    comparison = tables["comparison"]
    epsilons = comparison.dropna(subset="epsilon").groupby("method")["epsilon"].unique()
    labels = []
    for method in methods:
        limits = ", ".join(f"{value:g}" for value in epsilons.get(method, []))
        labels.append(f"ε = {limits}" if limits else method_name(method) if method in REFERENCES else "")
    names = summary["method"].map(method_name)
    table = summary.drop(columns="method").assign(
        series=names, label=labels, reference=summary["method"].isin(REFERENCES)
    )
    return trade_off(table, series)


def trade_off(table: pd.DataFrame, series: list[str]) -> Chart:
    """Final test accuracy against total epochs, and against time if all rows of ``table`` have it.

    ``table``: one row per point, with the columns series, label (written beside the point, may be empty),
    test_accuracy_mean, test_accuracy_std, epochs_mean, epochs_std, reference (drawn hollow, its accuracy as a line)
    and perhaps seconds_mean, seconds_std. Points of a series are joined by a line, in the order of their epochs.
    ``series``: all names of the column ``series`` in the order that gives them their colours.
    """
    table = table.rename(columns={"series": "method", "test_accuracy_mean": "accuracy", "test_accuracy_std": "std"})
    table = table.sort_values("epochs_mean", kind="stable")
    timed = "seconds_mean" in table and table["seconds_mean"].notna().all()
    size, unit, _ = time_unit(table["seconds_mean"].max()) if timed else (1.0, "", "")
    costs = {"epochs": (1.0, "retraining epochs in all")} | ({"seconds": (size, f"{unit} in all")} if timed else {})
    spread = table["std"].fillna(0.0)
    table = table.assign(
        low=(table["accuracy"] - spread).clip(lower=0), high=(table["accuracy"] + spread).clip(upper=1)
    )
    columns = {
        "method": ("method", None),
        "label": ("label", None),
        "accuracy": ("test accuracy", POINTS),
        "std": ("standard deviation", POINTS),
    }
    log = {}
    for cost, (divisor, title) in costs.items():
        mean, std = table[f"{cost}_mean"] / divisor, table[f"{cost}_std"].fillna(0.0) / divisor
        log[cost] = _needs_log_axis(mean)
        least = 0.5 * mean.min() if log[cost] else 0.0
        table = table.assign(**{cost: mean, f"{cost}_from": (mean - std).clip(lower=least), f"{cost}_to": mean + std})
        x = _pixels(np.log(mean), np.log(mean.min()), NOMINAL[0]) if log[cost] else _pixels(mean, 0.0, NOMINAL[0])
        placed = _places(x.to_numpy(), table["accuracy"].to_numpy(), list(table["label"]))
        table = table.assign(**{f"{cost}_{what}": values for what, values in placed.items()})
        columns |= {cost: (title.removesuffix(" in all"), TENTHS)}
    panels = [_panel(table, series, cost, title, columns, log[cost]) for cost, (_, title) in costs.items()]
    kept = ["method", "label", "reference", "accuracy", "std", "low", "high"]
    kept += [name for name in table if name.split("_")[0] in costs and not name.endswith(("_mean", "_std"))]
    alt = (
        f"Points of final test accuracy against {listed([title for _, title in costs.values()])}, for {listed(series)}."
    )
    return Chart(panels, {"rows": records(table[kept])}, alt, columns, across=2, key=legend(series))


def _needs_log_axis(costs: pd.Series) -> bool:
    """Whether costs differ by such a factor that they would crowd at the left of a linear axis."""
    return bool(costs.min() > 0 and costs.max() > MOST_ON_LINEAR * costs.min())


def _panel(table: pd.DataFrame, series: list[str], cost: str, title: str, columns: dict, log: bool) -> dict:
    scale = {"type": "log", "nice": False} if log else {"domainMin": 0}
    x = {"type": "quantitative", "scale": scale | {"padding": 12}, "axis": axis(title, SHORT, 5)}
    y = {"type": "quantitative", "scale": {"zero": False, "padding": 18}, "axis": axis("final test accuracy", PERCENT)}
    looks = identity(series)
    shown = {"opacity": if_picked(1.0)}
    color = {"color": looks["color"]}
    at = {"x": x | {"field": cost}, "y": y | {"field": "accuracy"}}
    upright = {"x": x | {"field": cost}, "y": y | {"field": "low"}, "y2": {"field": "high"}}
    level = {"x": x | {"field": f"{cost}_from"}, "x2": {"field": f"{cost}_to"}, "y": y | {"field": "accuracy"}}
    faint = {"opacity": if_picked(0.55)}
    point = at | color | shown | {"shape": looks["shape"], "tooltip": tooltip(columns)}
    place = {what: {"expr": f"datum.{cost}_{what}"} for what in ("align", "dx", "dy")}
    layers = [
        layer(
            "rule", {"y": y | {"field": "accuracy"}} | color | faint, where="datum.reference", strokeDash=theme.DASHED
        ),
        *lines(series, at | color | shown, strokeWidth=1.6),
        layer("rule", upright | color | faint, strokeWidth=1.4),
        layer("rule", level | color | faint, strokeWidth=1.4),
        layer("point", point, where="!datum.reference", filled=True, size=80) | {"params": picking()},
        layer("point", point, where="datum.reference", filled=False, size=80, strokeWidth=2),
        layer("text", at | {"text": {"field": "label"}} | shown, style="label", baseline="middle", **place),
    ]
    return {"layer": layers, "height": 320}


def _places(x: np.ndarray, y: np.ndarray, labels: list[str]) -> dict[str, list]:
    """Alignment and offset of the label of each point [n], at the place about it that overlaps least; ``x`` is in
    pixels already."""
    points = np.column_stack([x, NOMINAL[1] - _pixels(y, y.min(), NOMINAL[1])])
    taken = [(px - 5, py - 5, px + 5, py + 5) for px, py in points]
    chosen = []
    for (px, py), label in zip(points, labels, strict=True):
        width = LETTER * len(label)
        boxes = []
        for align, dx, dy in PLACES:
            left = px + dx - width * (align == "right")
            boxes.append((left, py + dy - LINE / 2, left + width, py + dy + LINE / 2))
        crowding = [sum(_shared(box, other) for other in taken) + _outside(box) for box in boxes]
        best = int(np.argmin(crowding))
        taken += [boxes[best]] if label else []
        chosen.append(PLACES[best])
    return dict(zip(("align", "dx", "dy"), map(list, zip(*chosen, strict=True)), strict=True))


def _pixels(values: np.ndarray, start: float, length: float) -> np.ndarray:
    return (values - start) / max(values.max() - start, 1e-12) * length


def _shared(one: tuple, other: tuple) -> float:
    """Area that two boxes (left, top, right, bottom) have in common."""
    width, height = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def _outside(box: tuple) -> float:
    """Area of a box that lies left or right of the plot."""
    return (max(0.0, -box[0]) + max(0.0, box[2] - NOMINAL[0] - 12)) * LINE
