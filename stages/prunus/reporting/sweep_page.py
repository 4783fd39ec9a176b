"""The page of a sweep: the effect of the settings that vary, in words, charts and a table."""

import pandas as pd

from prunus.comparing import statistics
from prunus.reporting import frame
from prunus.reporting.charts import accuracy, trade_off
from prunus.reporting.charts.drawing import Chart
from prunus.reporting.names import (
    UNKNOWN,
    counted,
    dataset_name,
    density,
    listed,
    network_name,
    number,
    percent,
    probability,
)
from prunus.reporting.sweep import WORKSPACE, Experiment, Variant, combined, varied

SIGNIFICANT = 0.05
RowsByVariant = dict[Variant, pd.DataFrame]


def _accuracy(row: pd.Series) -> str:
    half = row["test_accuracy_ci95"]
    return percent(row["test_accuracy_mean"], 2) + ("" if half != half else f" (± {number(100 * half, 2)})")


def _points(mean: float, half: float) -> str:
    """A difference of accuracies in points, with its 95 % interval if it is known."""
    text = f"{'+' if mean > 0 else ''}{number(100 * mean, 2)} points"
    if half != half:
        return text
    return f"{text} (95 % interval {number(100 * (mean - half), 2)} to {number(100 * (mean + half), 2)})"


def _extremes(rows: pd.DataFrame, finals: dict[str, pd.Series]) -> list[str]:
    """How each series changes from its first value to its last; ``finals``: final accuracy by variant and seed."""
    sentences = []
    for series, part in rows[~rows["reference"]].groupby("series", sort=False):
        if len(part) < 2:
            continue
        first, last = part.iloc[0], part.iloc[-1]
        mean, _, half = statistics.mean_std_interval(finals[last["variant"]] - finals[first["variant"]])
        epochs = f"retraining goes from {number(first['epochs_mean'])} to {number(last['epochs_mean'])} epochs, "
        densities = f"density goes from {density(first['density_mean'])} to {density(last['density_mean'])}"
        sentences.append(
            f"{series}: from {first['label']} to {last['label']} "
            f"{epochs if first['epochs_mean'] != last['epochs_mean'] else ''}"
            f"{densities}, and final accuracy changes by {_points(mean, half)}."
        )
    return sentences


def _against_sap(rows: pd.DataFrame) -> list[str]:
    tested = rows.dropna(subset="difference_to_sap_holm_p")
    if tested.empty:
        return []
    significant = tested[tested["difference_to_sap_holm_p"] < SIGNIFICANT]
    if significant.empty:
        lowest = probability(tested["difference_to_sap_holm_p"].min())
        return [f"No variant's final accuracy differs significantly from SAP's (smallest p after Holm: {lowest})."]
    parts = [
        f"{row['variant']} by {_points(row['difference_to_sap'], row['difference_to_sap_ci95'])}"
        for _, row in significant.iterrows()
    ]
    return [f"Final accuracy differs significantly from SAP's: {listed(parts)}."]


def findings(rows_by_variant: RowsByVariant, rows: pd.DataFrame) -> list[str]:
    """Sentences from the numbers of ``rows`` (``sweep.table``), the most useful first."""
    finals = {
        variant.name: statistics.final(part).set_index("seed")["test_accuracy"]
        for variant, part in rows_by_variant.items()
    }
    best = rows.loc[rows["test_accuracy_mean"].idxmax()]
    cost = f"density {density(best['density_mean'])}, {number(best['epochs_mean'])} epochs"
    sentences = [f"Highest final accuracy: {best['variant']} with {_accuracy(best)} at {cost}."]
    seeds = int(rows["seeds"].max())
    caveat = [] if seeds > 1 else ["With one seed nothing can be tested: differences may be chance."]
    return sentences + _against_sap(rows) + _extremes(rows, finals) + caveat


def charts(rows_by_variant: RowsByVariant, rows: pd.DataFrame) -> dict[str, Chart | None]:
    """``sweep``: accuracy against cost, where cost varies; ``sweep_density``: accuracy against density."""
    series = list(dict.fromkeys(rows["series"]))
    costs_vary = rows["epochs_mean"].nunique() > 1
    tables = {"comparison": combined(rows_by_variant)}
    return {
        "sweep": trade_off.trade_off(rows.drop(columns="method"), series) if costs_vary else None,
        "sweep_density": accuracy.accuracy_against_density(tables, list(rows["variant"])),
    }


def _table(rows: pd.DataFrame) -> dict[str, list]:
    head = [
        "variant",
        "final test accuracy",
        "95 % CI",
        "density",
        "epochs",
        "seconds",
        "minus SAP, points",
        "p (Holm)",
        "experiment",
    ]
    cells = []
    for row in rows.to_dict("records"):
        half = row["test_accuracy_ci95"]
        cells.append(
            [
                row["variant"],
                percent(row["test_accuracy_mean"], 2),
                UNKNOWN if half != half else f"± {number(100 * half, 2)}",
                density(row["density_mean"]),
                number(row["epochs_mean"]),
                number(row["seconds_mean"]),
                number(100 * row["difference_to_sap"], 2),
                probability(row["difference_to_sap_holm_p"]),
                row["experiment"],
            ]
        )
    return {"head": head, "rows": cells}


def render(
    experiments: list[Experiment], rows_by_variant: RowsByVariant, rows: pd.DataFrame, drawn: dict[str, Chart | None]
) -> str:
    """The whole page; ``rows`` as ``sweep.table`` makes them, ``drawn`` as ``charts`` does."""
    first = experiments[0].params
    keys = varied(experiments)
    names = [experiment.name for experiment in experiments if experiment.name != WORKSPACE]
    return frame.render(
        "sweep.html.j2",
        title=f"Sweep: {network_name(first['study.network'])} on {dataset_name(first['study.dataset'])}",
        charts=drawn,
        methods=list(rows["variant"]),
        scope=f"{counted(len(rows), 'variant')} from {counted(len(experiments), 'experiment')}, "
        f"{counted(int(rows['seeds'].max()), 'seed')}, {counted(int(rows['iterations'].max()), 'iteration')}",
        keys=keys,
        findings=findings(rows_by_variant, rows),
        table=_table(rows),
        experiments=[
            (experiment.name, "; ".join(f"{key} = {experiment.params.get(key)}" for key in keys))
            for experiment in experiments
        ],
        example=names[0] if names else "NAME",
    )
