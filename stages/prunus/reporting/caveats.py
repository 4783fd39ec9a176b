"""What to keep in mind when reading the findings."""

import json

import pandas as pd

from prunus.comparing.files import settings_of
from prunus.reporting.names import counted, density, listed, method_name, percent

ENOUGH_SEEDS = 3
# The settings that decide which weights are pruned and how many; the last three are of the PQ index alone.
PRUNING = ("score", "index", "scope", "gamma", "beta", "p", "q", "eta")
OF_PQ = ("p", "q", "eta")
SAME_DENSITY = 0.005
CHAINS = ("prune_iteration", "evaluate")
MADE_BY = {
    "device": "device",
    "processor": "processor",
    "threads": "threads",
    "torch": "torch version",
    "python": "Python version",
    "git": "git commit",
}


def _matched(matched: pd.DataFrame, methods: list[str], seeds: int) -> str | None:
    everywhere = matched.groupby("density")["n"].agg(["min", "count"])
    shared = everywhere[(everywhere["min"] == seeds) & (everywhere["count"] == len(methods))]
    if shared.empty or len(methods) < 2:
        return None
    accuracies = matched[matched["density"] == shared.index.min()].set_index("method")["test_accuracy_mean"]
    best, worst = accuracies.idxmax(), accuracies.idxmin()
    return (
        f"At density {density(shared.index.min())}, the sparsest of the grid that every chain reached, mean accuracy "
        f"lies between {percent(accuracies[worst])} ({method_name(worst)}) and {percent(accuracies[best])} "
        f"({method_name(best)})."
    )


def _pruned_differently(settings: dict[str, dict]) -> list[str]:
    """The settings of ``PRUNING`` that differ between the methods that are compared for their stop rule.

    Those are the methods with a setting ``index``, SAP's amount: they should prune alike and stop by different rules.
    ``settings``: by method. A phrase per key, such as "`gamma` 1.0 in SAP, 0.5 in InCoP-IF".
    """
    compared = {method: block for method, block in settings.items() if "index" in block}
    of_pq = {method: block for method, block in compared.items() if block["index"] == "pq"}
    phrases = []
    for key in PRUNING:
        names_by_value = {}
        for method, block in (of_pq if key in OF_PQ else compared).items():
            names_by_value.setdefault(json.dumps(block.get(key)), []).append(method_name(method))
        if len(names_by_value) > 1:
            parts = [f"{value.strip(chr(34))} in {listed(names)}" for value, names in names_by_value.items()]
            phrases.append(f"`{key}` {', '.join(parts)}")
    return phrases


def _unlike(comparison: pd.DataFrame, methods: list[str]) -> list[str]:
    """Differences between the methods other than those that they are compared for."""
    methods = [method for method in methods if method in set(comparison["method"])]
    settings = {method: settings_of(comparison, method) for method in methods}
    first = comparison.groupby("method")[["rewind"]].first().loc[methods]
    notes = []
    if first["rewind"].nunique() > 1:
        points = [
            ("not rewound, they keep their values" if point == "none" else f"to the {point} weights")
            + f": {listed([method_name(method) for method in rows.index])}"
            for point, rows in first.groupby("rewind", sort=False)
        ]
        notes.append(
            f"Survivors are rewound differently ({'; '.join(points)}). Retraining from trained weights needs fewer "
            "epochs whatever stops it; to see what the stop rule does, give all methods one `rewind` and add "
            "`fixed_epochs`."
        )
    if differences := _pruned_differently(settings):
        notes.append(
            f"Methods that differ in when they stop also prune differently ({'; '.join(differences)}): to see what the "
            "stop rule does, give their blocks the same values."
        )
    if quirky := [method_name(method) for method in methods if settings[method].get("reference_quirks")]:
        notes.append(
            f"{listed(quirky)} ran with reference_quirks: the published code's stop rule, which looks at the test set."
        )
    return notes


def _idle(comparison: pd.DataFrame, methods: list[str]) -> list[str]:
    """Iterations that pruned nothing and trained the same network once more."""
    rows = comparison.sort_values(["seed", "method", "iteration"])
    before = rows.groupby(["seed", "method"])["density"].shift(fill_value=1.0)
    idle = rows[rows["density"] >= before]["method"].value_counts()
    counts = rows["method"].value_counts()
    parts = [f"{method_name(method)} ({idle[method]} of {counts[method]})" for method in methods if method in idle]
    if not parts:
        return []
    return [
        f"Iterations that pruned nothing and trained the same network once more: {listed(parts)}. The amount was less "
        "than one weight or channel, or nothing more could be pruned; the stages' logs say which."
    ]


def _incomplete(missing: pd.DataFrame, methods: list[str]) -> list[str]:
    """Which chains the numbers are of, if some are missing or incomplete."""
    chains = missing[missing["stage"].isin(CHAINS)]
    if chains.empty:
        return []
    lacking = {method: sorted(chains.loc[chains["method"] == method, "seed"].unique()) for method in methods}
    parts = [
        f"{method_name(method)} without {'seeds' if len(seeds) > 1 else 'seed'} {listed([str(seed) for seed in seeds])}"
        for method, seeds in lacking.items()
        if seeds
    ]
    return [
        f"Runs are missing (see the top of the page): {'; '.join(parts)}. Final accuracies, totals and savings are of "
        "complete chains only, so they flatter a method whose missing runs collapsed or diverged. Tests and savings "
        "pair the seeds that both methods have; curves of means end where the first seed ends."
    ]


def caveats(tables: dict[str, pd.DataFrame], methods: list[str], tested: float = 1.0) -> list[str]:
    """What to keep in mind when reading the findings, as far as the tables show it.

    ``tested``: the share of the test images that the networks were evaluated on.
    """
    summary, runs = tables["summary"], tables["runs"]
    densities = summary.set_index("method")["density_mean"].dropna()
    seeds = int(summary["seeds"].max())
    notes = _incomplete(tables["missing"], methods)
    if tested < 1:
        notes.append(
            f"Test accuracies are of {percent(tested, 2)} of the test images, drawn class by class, the same for "
            "every network (evaluation.fraction); accuracy on the others is not known."
        )
    if 0 < seeds < ENOUGH_SEEDS:
        notes.append(
            f"{counted(seeds, 'seed').capitalize()}: too few seeds to tell methods apart. Read differences of accuracy "
            "as descriptions of these runs; add seeds under study.seeds for a test that can decide."
        )
    if densities.max() - densities.min() > SAME_DENSITY:
        notes.append(
            f"Final densities differ, from {density(densities.min())} ({method_name(densities.idxmin())}) to "
            f"{density(densities.max())} ({method_name(densities.idxmax())}): these are not "
            "accuracies of equally sparse networks."
        )
    notes += _unlike(tables["comparison"], methods)
    notes += _idle(tables["comparison"], methods)
    if sentence := _matched(tables["matched_density"], methods, seeds):
        notes.append(sentence)
    for column, name in MADE_BY.items():
        values = runs[column].dropna().unique()
        if len(values) > 1:
            shown = listed([str(value)[:12] if column == "git" else str(value) for value in values])
            notes.append(f"The runs were made with more than one {name}: {shown}. Their times may not be comparable.")
    if tables["missing"].empty and (unrecorded := int(runs["seconds_total"].isna().sum())):
        notes.append(f"{counted(unrecorded, 'stage run')} left no record; the times that need it are not known.")
    notes.append(
        "Seconds are wall-clock times of the iterations' own stages, some of which may have shared the machine; they "
        "include choosing what to prune. The dense training and the measurement of Φ* are common to the methods of a "
        "seed and not counted."
    )
    return notes
