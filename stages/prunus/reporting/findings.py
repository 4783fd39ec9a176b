"""What the numbers say, in sentences: each with its uncertainty, and with what it does not show."""

import math

import pandas as pd

from prunus.reporting.files import removers
from prunus.reporting.names import counted, density, duration, listed, method_name, number, percent, probability

ENOUGH_SEEDS = 3
SIGNIFICANT = 0.05
SAME_SAVING = 0.005
SAME_DENSITY = 0.005
MADE_BY = {"device": "device", "processor": "processor", "threads": "threads", "torch": "torch version"}
MADE_BY |= {"python": "Python version", "git": "git commit"}


def _plus_minus(mean: float, std: float, digits: int = 1) -> str:
    if math.isnan(std) or std == 0:
        return number(mean, 0 if mean == round(mean) else digits)
    return f"{number(mean, digits)}\u202f±\u202f{number(std, digits)}"


def _saved(fraction: float | None, more: str, less: str, same: str) -> str | None:
    if fraction is None:
        return None
    if abs(fraction) < SAME_SAVING:
        return same
    return f"{abs(fraction):.0%} ".replace("%", "\u202f%") + (less if fraction > 0 else more)


def _difference(tests: pd.DataFrame, method: str, baseline: str) -> dict:
    """The paired test of ``method`` against ``baseline``, signed as method minus baseline."""
    for row in tests.to_dict("records"):
        if (row["method_a"], row["method_b"]) == (method, baseline):
            return row
        if (row["method_a"], row["method_b"]) == (baseline, method):
            return row | {
                "mean_difference": -row["mean_difference"],
                "ci95_low": -row["ci95_high"],
                "ci95_high": -row["ci95_low"],
            }
    raise KeyError(f"no paired test of {method} and {baseline}")


def _verdict(test: dict) -> str:
    n, p = test["n"], test["holm_p"]
    if n < 2:
        return f"with n = {counted(n, 'seed')} there is no interval and no test: too few seeds to tell"
    if math.isnan(p):
        said = f"the same difference in all n = {n} seeds, so no test is possible"
    else:
        said = (
            f"95\u202f% CI {number(100 * test['ci95_low'], 2)} to {number(100 * test['ci95_high'], 2)}, "
            f"paired t-test p = {probability(test['t_p'])}, Holm-adjusted {probability(p)}, n = {n} seeds"
        ).replace("= <", "<")
    if n < ENOUGH_SEEDS:
        return f"{said}: too few seeds to tell"
    if math.isnan(p):
        return said
    return f"{said}: " + ("a significant difference" if p < SIGNIFICANT else "no significant difference")


def _against(method: str, baseline: str, rows: pd.DataFrame, tests: pd.DataFrame, metrics: dict) -> str:
    """One paragraph: what ``method`` saved against ``baseline`` and what that did to accuracy and density."""
    mine, other = rows.loc[method], rows.loc[baseline]
    name, reference = method_name(method), method_name(baseline)
    sentences = []
    epochs = _saved(
        metrics[method].get(f"epochs_saved_against_{baseline}"),
        f"more retraining epochs than {reference}",
        f"fewer retraining epochs than {reference}",
        f"as many retraining epochs as {reference}",
    )
    spent = [_plus_minus(row["epochs_mean"], row["epochs_std"]) for row in (mine, other)]
    if epochs:
        sentences.append(f"{name} used {epochs} ({spent[0]} against {spent[1]} a seed)")
    else:
        sentences.append(f"{name} used {spent[0]} retraining epochs a seed, {reference} {spent[1]}")
    seconds = _saved(
        metrics[method].get(f"seconds_saved_against_{baseline}"), "more time", "less time", "the same time"
    )
    if seconds:
        times = f"{duration(mine['seconds_mean'])} against {duration(other['seconds_mean'])}"
        sentences[-1] += f" and took {seconds} ({times})"
    test = _difference(tests, method, baseline)
    change = number(100 * test["mean_difference"], 2)
    sign = "+" if not change.startswith("\u2212") and float(change) > 0 else ""
    sentences.append(f"Its final test accuracy differs by {sign}{change} points ({_verdict(test)})")
    ends = [density(row["density_mean"]) for row in (mine, other)]
    apart = f"It ended at density {ends[0]}, {reference} at {ends[1]}"
    sentences.append(f"Both ended at density {ends[0]}" if ends[0] == ends[1] else apart)
    return ". ".join(sentences) + "."


def _speed(method: str, row: pd.Series) -> str:
    """What removing whole channels made of the network once they are cut out, as measured."""
    cut = f"{method_name(method)} removed {percent(row['channels_removed_mean'])} of the channels: cut out, they leave "
    cut += f"{percent(row['compact_parameters_fraction_mean'])} of the parameters"
    many, one = row["speedup_256_mean"], row["speedup_1_mean"]
    if math.isnan(many) or math.isnan(one):
        return f"{cut}; how fast that network answers was not measured for every seed."
    return (
        f"{cut} and a network that was measured to be {number(many, 2)} times as fast as the dense one in batches "
        f"of 256 images, {number(one, 2)} times for single images."
    )


def _untrainable(collapse: pd.DataFrame, methods: list[str]) -> list[str]:
    """One sentence per method of which some network could not be trained any more."""
    sentences, collapse = [], collapse[collapse["runs"] > 0]
    for method in methods:
        bins = collapse[collapse["method"] == method]
        dead = bins[bins["untrainable"] > 0]
        if dead.empty:
            continue
        runs, count, since = bins["runs"].sum(), dead["untrainable"].sum(), dead["sparsity_from"].min()
        sentences.append(
            f"{method_name(method)} ended in an untrainable collapse in {count} of {counted(runs, 'run')}, from "
            f"{percent(since, 0)} sparsity on: even retrained, such a network gives every test image the same answer."
        )
    return sentences


def baseline_of(methods: list[str]) -> str:
    """What the findings compare with: SAP where the study has it, else LTH, else its first method."""
    return next((name for name in ("sap", "lth") if name in methods), methods[0])


def findings(tables: dict[str, pd.DataFrame], metrics: dict, methods: list[str]) -> list[str]:
    """One paragraph per method other than the baseline, of which only the speed is told, then the collapses.

    For a study of one method, what it reached.
    """
    rows, baseline = tables["summary"].set_index("method"), baseline_of(methods)
    speeds = {method: _speed(method, rows.loc[method]) for method in removers(tables["summary"])}
    collapses = _untrainable(tables["collapse"], methods)
    if len(methods) == 1:
        row = rows.loc[methods[0]]
        accuracy, spent = percent(row["test_accuracy_mean"]), _plus_minus(row["epochs_mean"], row["epochs_std"])
        reached = f"test accuracy {accuracy} at density {density(row['density_mean'])}"
        said = {methods[0]: f"{method_name(methods[0])} reached {reached} with {spent} retraining epochs a seed."}
    else:
        others = [method for method in methods if method != baseline]
        said = {method: _against(method, baseline, rows, tables["paired_tests"], metrics) for method in others}
    paragraphs = [" ".join(filter(None, (said.get(method), speeds.get(method)))) for method in methods]
    return list(filter(None, paragraphs)) + collapses


def _matched(matched: pd.DataFrame, methods: list[str], seeds: int) -> str | None:
    everywhere = matched.groupby("density")["n"].agg(["min", "count"])
    shared = everywhere[(everywhere["min"] == seeds) & (everywhere["count"] == len(methods))]
    if shared.empty or len(methods) < 2:
        return None
    at = matched[matched["density"] == shared.index.min()].set_index("method")["test_accuracy_mean"]
    best, worst = at.idxmax(), at.idxmin()
    return (
        f"At density {density(shared.index.min())}, the sparsest of the grid that every chain reached, mean accuracy "
        f"lies between {percent(at[worst])} ({method_name(worst)}) and {percent(at[best])} ({method_name(best)})."
    )


def _unlike(comparison: pd.DataFrame, methods: list[str]) -> list[str]:
    """Differences between the methods that are not what they are compared for."""
    first, notes = comparison.groupby("method")[["rewind", "recipe"]].first().loc[methods], []
    if first["rewind"].nunique() > 1:
        points = [
            ("not rewound, they keep their values" if point == "none" else f"to the {point} weights")
            + f": {listed([method_name(method) for method in rows.index])}"
            for point, rows in first.groupby("rewind", sort=False)
        ]
        notes.append(
            f"Survivors are rewound differently ({'; '.join(points)}). Retraining from trained weights needs fewer "
            "epochs whatever stops it; give the methods one `rewind`, and add `fixed_epochs`, to see the stop rule."
        )
    if quirky := [method_name(method) for method in methods if "reference_quirks True" in first.loc[method, "recipe"]]:
        notes.append(
            f"{listed(quirky)} ran with reference_quirks: the published code's stop rule, which looks at the test set."
        )
    return notes


def caveats(tables: dict[str, pd.DataFrame], methods: list[str]) -> list[str]:
    """What has to be kept in mind when reading the findings, as far as the tables show it."""
    summary, runs = tables["summary"], tables["runs"]
    rows = summary.set_index("method")["density_mean"]
    seeds, notes = int(summary["seeds"].max()), []
    if seeds < ENOUGH_SEEDS:
        notes.append(
            f"{counted(seeds, 'seed').capitalize()}: too few seeds to tell methods apart. Read differences of accuracy "
            "as descriptions of these runs; add seeds under study.seeds for a test that can decide."
        )
    if rows.max() - rows.min() > SAME_DENSITY:
        notes.append(
            f"Final densities differ, from {density(rows.min())} ({method_name(rows.idxmin())}) to "
            f"{density(rows.max())} ({method_name(rows.idxmax())}): these are not "
            "accuracies of equally sparse networks."
        )
    notes += _unlike(tables["comparison"], methods)
    if said := _matched(tables["matched_density"], methods, seeds):
        notes.append(said)
    for column, name in MADE_BY.items():
        values = runs[column].dropna().unique()
        if len(values) > 1:
            shown = listed([str(value)[:12] if column == "git" else str(value) for value in values])
            notes.append(f"The runs were made with more than one {name}: {shown}. Their times may not be comparable.")
    if missing := int(runs["seconds_total"].isna().sum()):
        notes.append(f"{counted(missing, 'stage run')} left no record; the times that need it are not known.")
    notes.append(
        "Seconds are wall-clock times of the iterations' own stages, some of which may have shared the machine; they "
        "include choosing what to prune. The "
        "dense training and the measurement of Φ* are common to the methods of a seed and not counted."
    )
    return notes
