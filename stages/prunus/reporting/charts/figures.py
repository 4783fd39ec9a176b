"""The charts of the report by name; each is made from the tables alone, None if they hold nothing to show."""

from collections.abc import Callable

import pandas as pd

from prunus.reporting.charts import accuracy, cost, question, sparsity, trade_off
from prunus.reporting.charts.drawing import Chart, sentence

CHARTS: dict[str, Callable[[dict[str, pd.DataFrame], list[str]], Chart | None]] = {
    "headline": accuracy.headline,
    "accuracy_against_density": accuracy.accuracy_against_density,
    "accuracy_against_channels": accuracy.accuracy_against_channels,
    "trade_off": trade_off.of_methods,
    "epochs_per_iteration": cost.epochs_per_iteration,
    "time_split": cost.time_split,
    "distance_to_reference": cost.distance_to_reference,
    "layer_density": sparsity.layer_density,
    "layer_ratios": sparsity.layer_ratios,
    "pq_dynamics": sparsity.pq_dynamics,
    "transfer": question.transfer,
    "information": question.information,
}
NOTHING_ENDED = "No chain of this study is complete."
NO_CHANNELS = "No method of this study removed whole channels."
ABSENT = {
    "accuracy_against_channels": NO_CHANNELS,
    "layer_ratios": NO_CHANNELS,
    "distance_to_reference": "No method of this study measures its flow.",
    "trade_off": NOTHING_ENDED,
    "epochs_per_iteration": NOTHING_ENDED,
    "time_split": "No stage of this study left a record of its time.",
    "pq_dynamics": "No PQ index was measured in this study.",
    "transfer": "No network of this study was moved to another task.",
    "information": "No information between layers was measured in this study.",
}


def draw(tables: dict[str, pd.DataFrame], methods: list[str]) -> dict[str, Chart | None]:
    """All charts by name. ``methods``: those of the study, in its order; those without results have no mark."""
    evaluated = set(tables["comparison"]["method"])
    methods = [method for method in methods if method in evaluated]
    return {name: make(tables, methods) for name, make in CHARTS.items()}


def png(name: str, chart: Chart | None) -> bytes:
    """The PNG file of a chart, or of a sentence if it has nothing to show."""
    return (chart or sentence(ABSENT[name])).png()
