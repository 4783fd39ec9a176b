"""Experiments side by side: which settings vary between them, and one table of the results of every variant.

A variant is a method with the settings that vary. An experiment repeats the methods whose settings it does not change;
those count once.
"""

from dataclasses import dataclass

import pandas as pd

from prunus.comparing import statistics
from prunus.reporting.names import method_name

WORKSPACE = "workspace"
UNVARIED = ("study.methods",)  # which methods ran is not a setting of theirs
REFERENCES = ("sap", "lth", "one_shot", "fixed_epochs", "early_stopping")


@dataclass(frozen=True)
class Experiment:
    """``params``: the content of params.yaml by dotted key; ``comparison``: the table that compare wrote."""

    name: str
    params: dict[str, object]
    comparison: pd.DataFrame


@dataclass(frozen=True)
class Variant:
    """A method under ``settings``, the dotted keys that vary and concern it; ``changed`` are those whose values differ
    from the first experiment's."""

    method: str
    settings: tuple[tuple[str, object], ...]
    changed: tuple[tuple[str, object], ...]
    experiment: str

    @property
    def _one_number(self) -> bool:
        """Whether at most one number varies, perhaps with words; else settings were varied one at a time."""
        return sum(_is_number(value) for _, value in self.settings) <= 1

    @property
    def _naming(self) -> list[tuple[str, object]]:
        """The settings that name this variant, words before numbers: all of them if one number varies, else those that
        changed."""
        return sorted(self.settings if self._one_number else self.changed, key=lambda item: _is_number(item[1]))

    @property
    def label(self) -> str:
        if not self.settings:
            return ""
        return ", ".join(_shown(key, value) for key, value in self._naming) or "as in params.yaml"

    @property
    def name(self) -> str:
        """The variant as tables and legends call it."""
        return f"{method_name(self.method)}, {self.label}" if self.label else method_name(self.method)

    @property
    def mark(self) -> str:
        """The label of its point on the line of its series."""
        numbers = [_shown(key, value) for key, value in self._naming if _is_number(value)]
        return ", ".join(numbers) or self.label

    @property
    def series(self) -> str:
        """The name of its line, which joins the variants of a method that differ in one number only."""
        words = [_shown(key, value) for key, value in self._naming if not _is_number(value)]
        numbers = [] if self._one_number else [_short(key) for key, value in self._naming if _is_number(value)]
        return ", ".join([method_name(self.method), *words, *numbers])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(key: str) -> str:
    return {"epsilon": "ε"}.get(last := key.rpartition(".")[2], last)


def _shown(key: str, value: object) -> str:
    """A setting in a few letters: a word (l2, cosine) alone, a list by its entries, iterations by their number."""
    if _is_number(value):
        return f"{_short(key)} {value:g}"
    if key == "study.iterations":
        return f"{len(value)} iterations"
    if isinstance(value, tuple):
        return f"{_short(key)} {' '.join(map(str, value)) or 'none'}"
    return value if isinstance(value, str) else f"{_short(key)} {str(value).lower()}"


def flat(params: dict, prefix: str = "") -> dict[str, object]:
    """Dotted key -> value; a list becomes a tuple of words."""
    result = {}
    for key, value in params.items():
        plain = tuple(map(str, value)) if isinstance(value, list) else value
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": plain}
    return result


def varied(experiments: list[Experiment]) -> list[str]:
    """The keys whose values differ between experiments, in params.yaml's order.

    Without the blocks of methods that no experiment ran, and without keys that an experiment lacks: its code differs.
    """
    ran = {method for experiment in experiments for method in experiment.comparison["method"]}
    return [
        key
        for key in experiments[0].params
        if key not in UNVARIED
        and (not key.startswith("methods.") or key.split(".")[1] in ran)
        and all(key in experiment.params for experiment in experiments)
        and len({repr(experiment.params[key]) for experiment in experiments}) > 1
    ]


def variants(experiments: list[Experiment]) -> dict[Variant, pd.DataFrame]:
    """Every variant, from the first experiment that has it, with its rows of that experiment's comparison."""
    keys = varied(experiments)
    rows_by_variant, known = {}, set()
    first = experiments[0].params
    for experiment in experiments:
        for method, rows in experiment.comparison.groupby("method", sort=False):
            concerning = [key for key in keys if not key.startswith("methods.") or key.startswith(f"methods.{method}.")]
            settings = tuple((key, experiment.params.get(key)) for key in concerning)
            if (method, repr(settings)) in known:
                continue
            known.add((method, repr(settings)))
            changed = tuple((key, value) for key, value in settings if value != first.get(key))
            rows_by_variant[Variant(method, settings, changed, experiment.name)] = rows
    return rows_by_variant


def _order(variant: Variant) -> tuple:
    numbers = [value for _, value in variant._naming if _is_number(value)]
    return not variant.settings, variant.method, variant.series, numbers


def combined(rows_by_variant: dict[Variant, pd.DataFrame]) -> pd.DataFrame:
    """The comparison of all variants, with the variant's name as ``method``, as a study's tables and charts take it."""
    named = [rows.assign(method=variant.name) for variant, rows in rows_by_variant.items()]
    return pd.concat(named, ignore_index=True)


def table(rows_by_variant: dict[Variant, pd.DataFrame]) -> pd.DataFrame:
    """One row per variant: its settings, the columns of ``statistics.summary``, and its accuracy against SAP's.

    ``difference_to_sap`` is the mean over seeds of the final test accuracy minus SAP's (of the first variant of SAP),
    ``_ci95`` the half-width of its 95 % interval, ``_holm_p`` its paired t-test after Holm's correction over the rows;
    NaN without SAP. ``reference``: whether none of the method's settings varies.
    """
    ordered = sorted(rows_by_variant, key=_order)
    comparison = combined(rows_by_variant)
    rows = statistics.summary(comparison, [variant.name for variant in ordered]).rename(columns={"method": "variant"})
    about = pd.DataFrame(
        {
            "variant": [variant.name for variant in ordered],
            "method": [variant.method for variant in ordered],
            "series": [variant.series for variant in ordered],
            "label": [variant.mark for variant in ordered],
            "reference": [not variant.settings for variant in ordered],
            "experiment": [variant.experiment for variant in ordered],
        }
    )
    rows = about.merge(rows.drop(columns=[c for c in rows if "_saved_against_" in c]), on="variant")
    baseline = next((rows_by_variant[variant] for variant in ordered if variant.method == "sap"), None)
    differences = [_difference(rows_by_variant[variant], baseline) for variant in ordered]
    for name, values in zip(("", "_ci95", "_p"), zip(*differences, strict=True), strict=True):
        rows[f"difference_to_sap{name}"] = values
    rows["difference_to_sap_holm_p"] = statistics.holm(rows.pop("difference_to_sap_p"))
    return rows


def _difference(rows: pd.DataFrame, baseline: pd.DataFrame | None) -> tuple[float, float, float]:
    if baseline is None or rows is baseline:
        return float("nan"), float("nan"), float("nan")
    ends = [statistics.final(part).set_index("seed")["test_accuracy"] for part in (rows, baseline)]
    differences = (ends[0] - ends[1]).dropna()
    mean, _, half = statistics.mean_std_interval(differences)
    return mean, half, statistics.paired_t(differences)
