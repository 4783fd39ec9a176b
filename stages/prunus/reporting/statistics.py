"""Statistics over seeds: means with intervals, paired tests, accuracy at matched density or channels, savings."""

from collections.abc import Collection
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

BASELINES = ("sap", "lth")
CONFIDENCE = 0.95
SMALLEST_WILCOXON = 6  # below six pairs no outcome of the signed-rank test reaches p = 0.05
DENSITY_GRID = (0.8, 0.64, 0.512, 0.41, 0.328, 0.262, 0.21, 0.168, 0.134, 0.107, 0.05, 0.02, 0.01)
GRID_ROUNDING = 0.005  # the grid holds rounded powers of 0.8 (0.8^9 = 0.1342), and counts of weights are rounded too
NO_SPREAD = 1e-12  # accuracies are fractions; differences of differences below this are rounding
SECONDS = ("prune_seconds", "train_seconds", "flow_seconds", "evaluation_seconds")
TOTALS = ("epochs", *SECONDS, "seconds")
SPEEDUPS = ("speedup_1", "speedup_256")
BINS = 20  # of sparsity: 5 % wide
SAME_RATIO = 1e-9  # fractions of channels nearer than this are one


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


def savings(totals: pd.Series, baseline: pd.Series) -> pd.Series:
    """Per-seed fraction saved, 1 - total / baseline total, over the seeds (index) of both; NaN for a baseline of 0."""
    seeds = totals.index.intersection(baseline.index)
    reference = baseline[seeds].astype(float)
    return 1 - totals[seeds] / reference.where(reference > 0)


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

    Accuracies, densities, channels removed and savings are fractions; what is called fraction is a share of the dense
    network's. Epochs and seconds are totals a seed. A speed-up is NaN unless it was measured for every seed. Savings
    are means of the per-seed savings against SAP and LTH, NaN where the study has no such method.
    """
    last, sums, rows = final(comparison), totals(comparison), []
    for method in methods:
        ends = last[last["method"] == method]
        row = {"method": method, "seeds": len(ends), "iterations": int(ends["iteration"].max())}
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
            row[f"{column}_mean"], row[f"{column}_std"], _ = mean_std_interval(sums.loc[method, column])
        for baseline in BASELINES:
            for column in ("epochs", "seconds"):
                present = baseline in methods
                saved = savings(sums.loc[method, column], sums.loc[baseline, column]) if present else [np.nan]
                row[f"{column}_saved_against_{baseline}"] = mean_std_interval(saved)[0]
        rows.append(row)
    return pd.DataFrame(rows)


def paired_tests(comparison: pd.DataFrame, methods: list[str]) -> pd.DataFrame:
    """One row per pair of methods: final test accuracy of a minus that of b, paired by seed, and its tests.

    ``density_difference`` says how far from equal densities the comparison is. The interval is Student's t, 95 %.
    """
    columns = ["method_a", "method_b", "n", "mean_difference", "ci95_low", "ci95_high", "t_p", "holm_p", "wilcoxon_p"]
    columns.append("density_difference")
    last = final(comparison).set_index(["method", "seed"])
    rows = []
    for a, b in combinations(methods, 2):
        seeds = last.loc[a].index.intersection(last.loc[b].index)
        differences = last.loc[a, "test_accuracy"][seeds] - last.loc[b, "test_accuracy"][seeds]
        density = last.loc[a, "density"][seeds] - last.loc[b, "density"][seeds]
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


def accuracy_at(densities, accuracies, grid) -> np.ndarray:
    """Accuracy of one chain at the densities of ``grid``, linear in log density between iterations, [len(grid)].

    ``densities`` and ``accuracies`` run from the dense network to the last iteration; of iterations with one density
    the last counts. NaN beyond the sparsest: nothing is extrapolated, but for the grid's own rounding (0.5 %).
    """
    points = sorted(dict(zip(np.log(densities), accuracies, strict=True)).items())
    at, accuracy = np.array(points, dtype=float).T
    wanted = np.log(np.asarray(grid, dtype=float))
    return np.where(wanted >= at[0] + np.log1p(-GRID_ROUNDING), np.interp(wanted, at, accuracy, right=np.nan), np.nan)


def matched_density(comparison: pd.DataFrame, methods: list[str]) -> pd.DataFrame:
    """One row per grid density and method: mean and std of test accuracy over the n seeds that reached it.

    Only densities that some chain reached are listed.
    """
    chains = {}
    for (method, seed), chain in comparison.groupby(["method", "seed"], sort=False):
        chain = chain.sort_values("iteration")
        densities = [1.0, *chain["density"]]
        accuracies = [chain["dense_test_accuracy"].iloc[0], *chain["test_accuracy"]]
        chains[method, seed] = accuracy_at(densities, accuracies, DENSITY_GRID)
    rows = []
    for position, density in enumerate(DENSITY_GRID):
        at = {method: [c[position] for (name, _), c in chains.items() if name == method] for method in methods}
        for method, values in at.items():
            reached = [value for value in values if not np.isnan(value)]
            mean, std, _ = mean_std_interval(reached)
            rows.append(
                {
                    "density": density,
                    "method": method,
                    "test_accuracy_mean": mean,
                    "test_accuracy_std": std,
                    "n": len(reached),
                }
            )
    table = pd.DataFrame(rows)
    return table[table.groupby("density")["n"].transform("max") > 0].reset_index(drop=True)


def _accuracy_at_ratio(chain: pd.DataFrame, ratio: float) -> tuple[float, bool]:
    """Accuracy of one chain with ``ratio`` of the channels removed, and whether it is read off between two iterations.

    Linear between iterations, from the dense network at 0; of iterations with one ratio the last counts. NaN beyond
    the last: nothing is extrapolated.
    """
    removed = np.r_[0.0, chain["channels_removed"]]
    accuracy = np.r_[chain["dense_test_accuracy"].iloc[0], chain["test_accuracy"]]
    if len(there := np.flatnonzero(abs(removed - ratio) <= SAME_RATIO)):
        return float(accuracy[there[-1]]), False
    at, accuracies = np.array(sorted(dict(zip(removed, accuracy, strict=True)).items())).T
    return float(np.interp(ratio, at, accuracies, right=np.nan)), True


def matched_channels(comparison: pd.DataFrame, reference: str, imposed: Collection[str] = ()) -> pd.DataFrame:
    """Every method's accuracy with as many channels removed as each iteration of ``reference``, seed by seed.

    This is MIPP's protocol (Westphal et al., section 5): its realised ratio is imposed on methods that cannot find one.
    The chains called ``imposed`` were pruned to that ratio, iteration by iteration, up to rounding to whole channels:
    theirs is the accuracy of the same iteration. For the others it is read off their curves, and ``interpolated`` is 1
    unless an iteration has that very ratio; NaN beyond the last one. Empty where ``reference`` removes no channels.
    """
    columns = ["seed", "iteration", "channels_removed", "method", "test_accuracy", "interpolated"]
    chains = {key: rows.sort_values("iteration") for key, rows in comparison.groupby(["seed", "method"], sort=False)}
    rows = []
    if not (comparison.loc[comparison["method"] == reference, "channels_removed"] > 0).any():
        return pd.DataFrame(rows, columns=columns)
    for (seed, name), chain in chains.items():
        if name != reference:
            continue
        others = {method: other for (own, method), other in chains.items() if own == seed}
        for t, ratio in zip(chain["iteration"], chain["channels_removed"], strict=True):
            for method, other in others.items():
                if method == reference or method in imposed:
                    accuracy, between = other.loc[other["iteration"] == t, "test_accuracy"].item(), False
                else:
                    accuracy, between = _accuracy_at_ratio(other, ratio)
                rows.append((seed, t, ratio, method, accuracy, int(between)))
    return pd.DataFrame(rows, columns=columns)


def collapse(comparison: pd.DataFrame, methods: list[str]) -> pd.DataFrame:
    """One row per method and 5 %-wide bin of sparsity that holds any run, a run being one iteration of one seed.

    ``collapsed`` counts the runs with a layer without weights, ``untrainable`` those whose network gives every test
    image the same answer after retraining; ``untrainable_share`` is their share of the runs. A bin holds its lower end,
    the last one both.
    """
    table = comparison.assign(
        bin=np.minimum(np.floor(BINS * (1 - comparison["density"]) + 1e-9), BINS - 1),
        collapsed=comparison["collapsed"] > 0,
        untrainable=comparison["untrainable"] > 0,
    )
    sums = table.groupby(["method", "bin"])[["collapsed", "untrainable"]].agg(["size", "sum"]).loc[methods]
    lower = sums.index.get_level_values("bin")
    return pd.DataFrame(
        {
            "method": sums.index.get_level_values("method"),
            "sparsity_from": np.round(lower / BINS, 2),
            "sparsity_to": np.round((lower + 1) / BINS, 2),
            "runs": sums["collapsed", "size"].to_numpy(),
            "collapsed": sums["collapsed", "sum"].to_numpy(),
            "untrainable": sums["untrainable", "sum"].to_numpy(),
            "untrainable_share": (sums["untrainable", "sum"] / sums["untrainable", "size"]).to_numpy(),
        }
    )


def transfer_summary(transfer: pd.DataFrame) -> pd.DataFrame:
    """One row per other dataset, method and iteration: density and accuracies there and at home, over the seeds."""
    columns = ["dataset", "start", "method", "iteration", "seeds", "density_mean", "source_test_accuracy_mean"]
    columns += ["test_accuracy_mean", "test_accuracy_std", "test_accuracy_ci95"]
    rows = []
    for keys, runs in transfer.groupby(columns[:4], sort=False):
        means = [runs[column].mean() for column in ("density", "source_test_accuracy")]
        rows.append((*keys, len(runs), *means, *mean_std_interval(runs["test_accuracy"])))
    return pd.DataFrame(rows, columns=columns)


def metrics(summary: pd.DataFrame) -> dict[str, dict[str, float]]:
    """The numbers DVC shows, by method, rounded to six digits; what is not known is left out."""
    names = {
        "final_test_accuracy": "test_accuracy_mean",
        "final_density": "density_mean",
        "total_epochs": "epochs_mean",
        "total_seconds": "seconds_mean",
        "prune_seconds": "prune_seconds_mean",
        "final_channels_removed": "channels_removed_mean",
        "final_compact_parameters": "compact_parameters_fraction_mean",
    }
    names |= {column: f"{column}_mean" for column in SPEEDUPS}
    names |= {key: key for key in summary.columns if "_saved_against_" in key}
    rows = summary.set_index("method")
    return {
        method: {key: round(float(row[name]), 6) for key, name in names.items() if not np.isnan(row[name])}
        for method, row in rows.iterrows()
    }
