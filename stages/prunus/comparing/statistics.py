"""Statistics over seeds: means with intervals, paired tests, savings, collapsed runs, and DVC's metrics."""

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from prunus.comparing.files import removers

BASELINES = ("sap", "lth")
CONFIDENCE = 0.95
SIGNIFICANT = 0.05
SMALLEST_WILCOXON = 6  # below six pairs no outcome of the signed-rank test reaches p = 0.05
NO_SPREAD = 1e-12  # accuracies are fractions; differences of differences below this are rounding
SECONDS = ("prune_seconds", "train_seconds", "flow_seconds", "evaluation_seconds")
TOTALS = ("epochs", *SECONDS, "seconds")
SPEEDUPS = ("speedup_1", "speedup_256")
BINS = 20  # of sparsity: 5 % wide
COLLAPSE = ["runs", "collapsed", "untrainable", "untrainable_share"]


def mean_std_interval(values) -> tuple[float, float, float]:
    """Mean, standard deviation (n - 1) and half-width of the 95 % Student-t interval of the mean, of [n] values.

    With one value the last two are NaN, with none all three are; a NaN among the values makes all three NaN.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return (float(values[0]) if len(values) else np.nan), np.nan, np.nan
    std = float(values.std(ddof=1))
    return (
        float(values.mean()),
        std,
        float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * std / len(values) ** 0.5),
    )


def paired_t(differences) -> float:
    """p of the two-sided paired t-test of [n] per-seed differences.

    NaN for fewer than two. Where all differences agree there is no spread to test against: 1 if they are 0, else NaN.
    """
    differences = np.asarray(differences, dtype=float)
    if len(differences) < 2 or np.isnan(differences).any():
        return np.nan
    if np.ptp(differences) <= NO_SPREAD:
        return 1.0 if abs(differences[0]) <= NO_SPREAD else np.nan
    return float(stats.ttest_rel(differences, np.zeros_like(differences)).pvalue)


def wilcoxon(differences) -> float:
    """p of the two-sided Wilcoxon signed-rank test of [n] per-seed differences; NaN for fewer than six, 1 if all 0.

    Differences that agree but for rounding count as ties.
    """
    differences = np.round(np.asarray(differences, dtype=float), 12)
    if len(differences) < SMALLEST_WILCOXON or np.isnan(differences).any():
        return np.nan
    return float(stats.wilcoxon(differences).pvalue) if differences.any() else 1.0


def holm(p_values) -> np.ndarray:
    """Holm's (1979) adjusted p-values, [m] in the order given; NaN stays NaN and is not counted as a test."""
    p_values = np.asarray(p_values, dtype=float)
    adjusted = np.full(p_values.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    steps = p_values[order] * (len(order) - np.arange(len(order)))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds, its 95 % interval (NaN for one seed) and the p of a test that it is 0."""

    mean: float
    low: float
    high: float
    p: float
    n: int

    @classmethod
    def of(cls, values) -> "Estimate":
        mean, _, half = mean_std_interval(values)
        return cls(mean, mean - half, mean + half, paired_t(values), len(values))

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    @property
    def significant(self) -> bool:
        """By p; if all seeds differ by the same there is no test, and the interval, a point, decides."""
        return self.excludes_zero if np.isnan(self.p) else self.p < SIGNIFICANT


def adjusted(estimates: dict[str, Estimate]) -> dict[str, Estimate]:
    """``estimates`` with Holm's adjusted p."""
    p_values = holm([estimate.p for estimate in estimates.values()])
    return {key: replace(old, p=float(p)) for (key, old), p in zip(estimates.items(), p_values, strict=True)}


def savings(totals: pd.Series, baseline: pd.Series) -> pd.Series:
    """Per-seed fraction saved, 1 - total / baseline total, over the seeds (index) of both; NaN for a baseline of 0."""
    seeds = totals.index.intersection(baseline.index)
    reference = baseline[seeds].astype(float)
    return 1 - totals[seeds] / reference.where(reference > 0)


def complete(comparison: pd.DataFrame, iterations: int) -> pd.DataFrame:
    """The rows of the chains that have all ``iterations``.

    Final values and totals are of these only: a chain that a failure cut short would look cheap.
    """
    reached = comparison.groupby(["seed", "method"])["iteration"].transform("max")
    return comparison[reached == iterations].reset_index(drop=True)


def final(comparison: pd.DataFrame) -> pd.DataFrame:
    """The rows of the last iteration."""
    return comparison[comparison["iteration"] == comparison["iteration"].max()]


def totals(comparison: pd.DataFrame) -> pd.DataFrame:
    """Epochs and seconds summed over the iterations, indexed by method and seed; NaN where a time is missing."""
    seconds = comparison[list(SECONDS)].sum(axis=1, skipna=False)
    table = comparison.assign(seconds=seconds)
    return table.groupby(["method", "seed"], sort=False)[list(TOTALS)].sum(skipna=False)


def summary(comparison: pd.DataFrame, methods: list[str]) -> pd.DataFrame:
    """One row per method: final accuracy and density with their spread, size, speed, epochs and seconds, savings.

    ``comparison`` holds ``complete`` chains only; ``seeds`` counts them, and a method without any has NaN elsewhere.
    Accuracies, densities, channels removed and savings are fractions; a column called fraction is a share of the dense
    network's value. Epochs and seconds are totals per seed. A speed-up is NaN unless it was measured for every seed.
    Savings are means of the per-seed savings against SAP and LTH, NaN if the study has no such method.
    """
    last = final(comparison)
    rows = []
    sums = {method: totals(comparison[comparison["method"] == method]).droplevel("method") for method in methods}
    for method in methods:
        ends = last[last["method"] == method]
        row = {"method": method, "seeds": len(ends), "iterations": comparison["iteration"].max()}
        for column in ("test_accuracy", "density"):
            values = mean_std_interval(ends[column])
            row |= {f"{column}_{name}": value for name, value in zip(("mean", "std", "ci95"), values, strict=True)}
        row["dense_test_accuracy_mean"] = ends["dense_test_accuracy"].mean()
        row["macs_fraction_mean"] = (ends["macs"] / ends["dense_macs"]).mean()
        row["bytes_mean"] = ends["bytes"].mean()
        row["channels_removed_mean"] = ends["channels_removed"].mean()
        row["compact_parameters_fraction_mean"] = (ends["compact_parameters"] / ends["parameters"]).mean()
        row["compact_macs_fraction_mean"] = (ends["compact_macs"] / ends["dense_macs"]).mean()
        for column in SPEEDUPS:
            row[f"{column}_mean"] = ends[column].mean(skipna=False)
        for column in TOTALS:
            row[f"{column}_mean"], row[f"{column}_std"], _ = mean_std_interval(sums[method][column])
        for baseline in BASELINES:
            for column in ("epochs", "seconds"):
                present = baseline in methods
                saved = savings(sums[method][column], sums[baseline][column]) if present else [np.nan]
                row[f"{column}_saved_against_{baseline}"] = mean_std_interval(saved)[0]
        rows.append(row)
    return pd.DataFrame(rows)


def paired_tests(comparison: pd.DataFrame, methods: list[str]) -> pd.DataFrame:
    """One row per pair of methods: final test accuracy of a minus that of b, paired by seed, and its tests.

    ``density_difference`` says how far from equal densities the comparison is. The interval is Student's t, 95 %.
    """
    columns = [
        "method_a",
        "method_b",
        "n",
        "mean_difference",
        "ci95_low",
        "ci95_high",
        "t_p",
        "holm_p",
        "wilcoxon_p",
        "density_difference",
    ]
    last = final(comparison)
    ends = {method: last[last["method"] == method].set_index("seed") for method in methods}
    rows = []
    for a, b in combinations(methods, 2):
        seeds = ends[a].index.intersection(ends[b].index)
        differences = ends[a]["test_accuracy"][seeds] - ends[b]["test_accuracy"][seeds]
        density = ends[a]["density"][seeds] - ends[b]["density"][seeds]
        mean, _, half = mean_std_interval(differences)
        rows.append(
            {
                "method_a": a,
                "method_b": b,
                "n": len(seeds),
                "mean_difference": mean,
                "ci95_low": mean - half,
                "ci95_high": mean + half,
                "t_p": paired_t(differences),
                "wilcoxon_p": wilcoxon(differences),
                "density_difference": density.mean(),
            }
        )
    table = pd.DataFrame(rows, columns=columns)
    table["holm_p"] = holm(table["t_p"])
    return table


def collapse(comparison: pd.DataFrame, missing: pd.DataFrame, methods: list[str]) -> pd.DataFrame:
    """One row per method and 5 %-wide bin of sparsity that holds any run; a run is one iteration of one seed.

    ``collapsed`` counts the runs of ``missing`` that ended because a layer had no weight left, ``untrainable`` those
    whose network gives every test image the same answer after retraining; ``untrainable_share`` is their share of the
    runs that were retrained. A bin includes its lower end, the last one both ends.
    """
    ended = missing.loc[missing["kind"] == "collapsed", ["method", "density"]].assign(collapsed=True, untrainable=0)
    runs = comparison[["method", "density", "untrainable"]].assign(collapsed=False)
    runs = pd.concat([runs, ended], ignore_index=True) if len(ended) else runs
    runs["bin"] = np.minimum(np.floor(BINS * (1 - runs["density"]) + 1e-9), BINS - 1)
    counts = runs.assign(untrainable=runs["untrainable"] > 0).groupby(["method", "bin"])
    table = counts.agg(runs=("collapsed", "size"), collapsed=("collapsed", "sum"), untrainable=("untrainable", "sum"))
    table = table.loc[[method for method in methods if method in table.index]].reset_index()
    table["sparsity_from"] = np.round(table["bin"] / BINS, 2)
    table["sparsity_to"] = np.round((table["bin"] + 1) / BINS, 2)
    retrained = table["runs"] - table["collapsed"]
    table["untrainable_share"] = table["untrainable"] / retrained.where(retrained > 0)
    return table[["method", "sparsity_from", "sparsity_to", *COLLAPSE]]


def transfer_summary(transfer: pd.DataFrame) -> pd.DataFrame:
    """One row per other dataset, method and iteration, over the seeds: density, accuracy on it and on the study's."""
    keys = ["dataset", "start", "method", "iteration"]
    means = ["density", "source_test_accuracy"]
    accuracy = ["test_accuracy_mean", "test_accuracy_std", "test_accuracy_ci95"]
    rows = []
    for values, runs in transfer.groupby(keys, sort=False):
        rows.append(
            (*values, len(runs), *(runs[column].mean() for column in means), *mean_std_interval(runs["test_accuracy"]))
        )
    return pd.DataFrame(rows, columns=[*keys, "seeds", *(f"{column}_mean" for column in means), *accuracy])


def metrics(summary: pd.DataFrame, seeds: int) -> dict[str, dict[str, float]]:
    """Per method the few numbers that DVC compares studies by, rounded to six digits; unknown ones are left out.

    The share of channels removed is given only if some method of the study removes channels; the number of seeds only
    if some are missing (``seeds``: how many the study has). Savings are of epochs, which are the same in every run; the
    tables have those of seconds, and the rest.
    """
    names = {
        "final_test_accuracy": "test_accuracy_mean",
        "final_density": "density_mean",
        "total_epochs": "epochs_mean",
        "total_seconds": "seconds_mean",
    }
    if removers(summary):
        names["final_channels_removed"] = "channels_removed_mean"
    names |= {key: key for key in summary.columns if key.startswith("epochs_saved_against_")}
    if (summary["seeds"] < seeds).any():
        names["seeds"] = "seeds"
    rows = summary.set_index("method")
    return {
        method: {key: round(float(row[name]), 6) for key, name in names.items() if not np.isnan(row[name])}
        for method, row in rows.iterrows()
    }
