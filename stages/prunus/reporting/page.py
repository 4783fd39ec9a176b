"""The HTML report of one study: the strings and tables that its template shows."""

import json
from typing import NamedTuple

import pandas as pd
import yaml

from prunus.comparing.files import removers, settings_of
from prunus.comparing.statistics import BASELINES
from prunus.reporting import frame
from prunus.reporting.caveats import CHAINS, caveats
from prunus.reporting.charts.drawing import Chart
from prunus.reporting.findings import findings
from prunus.reporting.names import (
    IMPOSED,
    UNKNOWN,
    counted,
    dataset_name,
    density,
    listed,
    method_name,
    method_names,
    milliseconds,
    network_name,
    number,
    percent,
    probability,
)

Table = dict[str, list]
MOST_COLUMNS = 6  # of methods; more become rows


class Cell(NamedTuple):
    """A cell of a table whose text does not begin with the number that its column is sorted by."""

    text: str
    value: float


def _with_std(mean: float, std: float) -> str:
    return percent(mean, 2) if std != std else f"{number(100 * mean, 2)} ± {percent(std, 2)}"


def _missing(missing: pd.DataFrame) -> list[dict]:
    """What is missing, once per cause: ``what``, ``why``, and the ``command`` that makes it unless it waits for an
    iteration."""
    stopped = []
    for row in missing.astype({"seed": "Int64", "iteration": "Int64"}).to_dict("records"):
        last = stopped[-1] if stopped else row
        same = stopped and all(last[key] == row[key] for key in ("stage", "seed", "method"))
        if (
            same
            and row["stage"] in CHAINS
            and (row["why"] == last["why"] or row["why"].startswith("waits for iteration"))
        ):
            stopped[-1]["last"] = row["iteration"]
        else:
            stopped.append(row | {"last": row["iteration"]})
    groups = {}
    for row in stopped:
        command = None if row["stage"] in CHAINS else row["command"]
        key = row["stage"], row["seed"], row["iteration"], row["last"], row["why"], command
        group = groups.setdefault(key, row)
        group.setdefault("methods", []).append(row["method"])
        group["shown"] = "" if row["why"].startswith("waits for") else row["command"]
    return [{"what": _missing_runs(row), "why": row["why"], "command": row["shown"]} for row in groups.values()]


def _missing_runs(row: dict) -> str:
    """A cause's runs in words: ``SAP and LTH, seed 1: iterations 2 to 5``."""
    shared = {
        "pretrain": "dense network",
        "reference_flow": "Φ* (reference flow)",
        "evaluate_dense": "evaluation of the dense network",
    }
    if row["stage"] in shared:
        return f"seed {row['seed']}: {shared[row['stage']]}"
    parts = {"transfer": "networks on another task", "measure_information": "information between layers"}
    first, last = row["iteration"], row["last"]
    what = parts.get(row["stage"], f"iteration {first}" if first == last else f"iterations {first} to {last}")
    made = " (made, not evaluated)" if row["stage"] == "evaluate" else ""
    return f"{listed(method_names(row['methods']))}, seed {row['seed']}: {what}{made}"


def _summary(summary: pd.DataFrame, missing: bool) -> Table:
    counts = ["seeds"] if missing else []
    head = ["method", *counts, "test accuracy", "95 % CI", "density", "multiply-accumulates", "epochs", "seconds"]
    present = [base for base in BASELINES if base in set(summary["method"])]
    saved = [(what, base) for what in ("epochs", "seconds") for base in present]
    head += [f"{what} saved against {method_name(base)}" for what, base in saved]
    rows = []
    for row in summary.to_dict("records"):
        half = row["test_accuracy_ci95"]
        rows.append(
            [
                method_name(row["method"]),
                *([str(row["seeds"])] if missing else []),
                _with_std(row["test_accuracy_mean"], row["test_accuracy_std"]),
                UNKNOWN if half != half else f"± {number(100 * half, 2)}",
                density(row["density_mean"]),
                percent(row["macs_fraction_mean"]),
                number(row["epochs_mean"]),
                number(row["seconds_mean"]),
                *(percent(row[f"{what}_saved_against_{base}"], 0) for what, base in saved),
            ]
        )
    return {"head": head, "rows": rows}


def _by_method(table: Table) -> Table:
    """``table``, turned so that methods are rows if they are too many for columns."""
    if len(table["head"]) <= MOST_COLUMNS + 1:
        return table
    turned = list(zip(table["head"], *table["rows"], strict=True))
    return {"head": [f"method, by {turned[0][0]}", *turned[0][1:]], "rows": turned[1:]}


def _matched(matched: pd.DataFrame, methods: list[str]) -> Table:
    rows = []
    for grid_density, rows_at_density in matched.groupby("density", sort=False):
        by_method = rows_at_density.set_index("method")
        cells = []
        for method in methods:
            row = by_method.loc[method]
            cell = _with_std(row["test_accuracy_mean"], row["test_accuracy_std"])
            cells.append(cell if row["n"] in (0, matched["n"].max()) else f"{cell} (n = {row['n']:.0f})")
        rows.append([density(grid_density), *cells])
    return _by_method({"head": ["density", *map(method_name, methods)], "rows": rows})


def _compact(comparison: pd.DataFrame, methods: list[str], last: int) -> Table:
    """What the networks of the ``last`` iteration cost with their channels cut out, against the dense one."""
    head = ["method", "channels removed", "parameters", "multiply-accumulates", "one image, ms", "256 images, ms"]
    rows = []
    for method in methods:
        ends = comparison[(comparison["method"] == method) & (comparison["iteration"] == last)]
        cells = [method_name(method), percent(ends["channels_removed"].mean())]
        for dense, compact in (("parameters", "compact_parameters"), ("dense_macs", "compact_macs")):
            left = ends[compact].mean()
            cells.append(Cell(f"{number(ends[dense].mean(), 0)} → {number(left, 0)}", left))
        for batch in (1, 256):
            seconds, speedup = ends[f"latency_{batch}_seconds"], ends[f"speedup_{batch}"]
            spent = [milliseconds(values.mean(skipna=False)) for values in (seconds * speedup, seconds)]
            times = f"{' → '.join(spent)} ({number(speedup.mean(skipna=False), 2)}×)"
            cells.append(UNKNOWN if UNKNOWN in spent else Cell(times, float(seconds.mean())))
        rows.append(cells)
    return {"head": head, "rows": rows}


def _matched_channels(matched: pd.DataFrame, methods: list[str]) -> Table:
    """Mean accuracy at the reference's share of channels after each iteration, of the methods that reached any."""
    seeds = matched["seed"].nunique()
    reached = [method for method in methods if matched.loc[matched["method"] == method, "test_accuracy"].notna().any()]
    rows = []
    for t, iteration in matched.groupby("iteration"):
        cells = [f"{percent(iteration['channels_removed'].mean())} (iteration {t})"]
        for method in reached:
            values = iteration.loc[iteration["method"] == method, "test_accuracy"]
            known = values.notna().sum()
            note = f" (n = {known})" if 0 < known < seeds else ""
            cells.append(_with_std(values.mean(), values.std()) + note)
        rows.append(cells)
    return _by_method({"head": ["channels removed", *map(method_name, reached)], "rows": rows})


def _collapse(collapse: pd.DataFrame) -> Table:
    """The bins of sparsity in which any run collapsed."""
    head = ["method", "sparsity", "runs", "with an empty layer", "untrainable", "share untrainable"]
    rows = []
    for row in collapse[(collapse["collapsed"] > 0) | (collapse["untrainable"] > 0)].to_dict("records"):
        span = f"{number(100 * row['sparsity_from'], 0)} to {percent(row['sparsity_to'], 0)}"
        counts = [str(row[key]) for key in ("runs", "collapsed", "untrainable")]
        rows.append([method_name(row["method"]), span, *counts, percent(row["untrainable_share"], 0)])
    return {"head": head, "rows": rows}


def _tests(tests: pd.DataFrame) -> Table:
    head = ["pair", "n", "difference, points", "95 % CI", "p (paired t)", "p (Holm)", "p (Wilcoxon)", "density, points"]
    rows = []
    for row in tests.to_dict("records"):
        low, high = number(100 * row["ci95_low"], 2), number(100 * row["ci95_high"], 2)
        rows.append(
            [
                f"{method_name(row['method_a'])} − {method_name(row['method_b'])}",
                str(row["n"]),
                number(100 * row["mean_difference"], 2),
                UNKNOWN if low == UNKNOWN else f"{low} to {high}",
                *(probability(row[key]) for key in ("t_p", "holm_p", "wilcoxon_p")),
                number(100 * row["density_difference"], 1),
            ]
        )
    return {"head": head, "rows": rows}


def _recipes(comparison: pd.DataFrame, methods: list[str], last: int) -> list[dict[str, str]]:
    def shown(value: object) -> str:  # as params.yaml has it
        return value if isinstance(value, str) else json.dumps(value)

    recipes = []
    for method in methods:
        rows = comparison[comparison["method"] == method]
        stops = rows.loc[rows["iteration"] == last, "stopped_by"].value_counts()
        settings = settings_of(comparison, method)
        rewinds = sorted(rows["rewind"].replace("none", "their own values").dropna().unique())
        recipes.append(
            {
                "name": method_name(method),
                "key": method,
                "rewind": listed(rewinds or [UNKNOWN]),
                "settings": ", ".join(f"{key} {shown(value)}" for key, value in settings.items()) or UNKNOWN,
                "stopped": listed([f"{reason} ({count})" for reason, count in stops.items()] or [UNKNOWN]),
            }
        )
    return recipes


def _provenance(runs: pd.DataFrame) -> list[tuple[str, str]]:
    def values(column: str) -> str:
        return listed([str(value) for value in runs[column].dropna().unique()] or ["not recorded"])

    dirty = runs["dirty"].dropna().astype(bool)
    state = " (with uncommitted changes)" if dirty.any() else ""
    recorded = int(runs["seconds_total"].notna().sum())
    return [
        ("git commit", values("git") + state),
        ("Python", values("python")),
        ("torch", values("torch")),
        ("device", values("device")),
        ("processor", values("processor")),
        ("CPU threads of a stage", values("threads")),
        ("stage runs", f"{len(runs)}, of which {recorded} left a record"),
        ("seconds of all stages", number(runs["seconds_total"].sum())),
    ]


def _settings(blocks: dict, methods: list[str]) -> str:
    """The study's parameters as YAML; of the methods' blocks those of ``methods``."""
    names = dict.fromkeys(method.partition(IMPOSED)[0] for method in methods)
    blocks = blocks | {"methods": {name: blocks["methods"][name] for name in names}}
    return yaml.safe_dump(blocks, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)


def render(
    study,
    settings: dict,
    tables: dict[str, pd.DataFrame],
    metrics: dict,
    charts: dict[str, Chart | None],
    reference: str,
) -> str:
    """The whole page. ``study`` is that block of params.yaml with the imposed chains among its methods, ``settings``
    all blocks as plain values, ``tables`` and ``metrics`` what compare wrote, ``charts`` by name, ``reference`` the
    method of matched channels.
    """
    methods = study.methods
    summary = tables["summary"]
    missing = tables["missing"]
    last = len(study.iterations)
    evaluated = set(tables["comparison"]["method"])
    imposed = [method for method in methods if IMPOSED in method]
    at_ratio = f" ({len(imposed)} also at an imposed ratio)" if imposed else ""
    method_count = counted(len(methods) - len(imposed), "method") + at_ratio
    seeds = f"{counted(len(study.seeds), 'seed')} ({', '.join(map(str, study.seeds))})"
    cut = removers(summary)
    uncut = [method for method in methods if method not in cut]
    return frame.render(
        "report.html.j2",
        title=f"Pruning {network_name(study.network)} on {dataset_name(study.dataset)}",
        charts=charts,
        methods=method_names([method for method in methods if method in evaluated]),
        missing=_missing(missing),
        scope=f"{method_count}, {seeds}, {counted(len(study.iterations), 'iteration')}",
        dense=percent(tables["comparison"].groupby("seed")["dense_test_accuracy"].first().mean()),
        findings=findings(tables, metrics, methods),
        caveats=caveats(tables, methods, settings["evaluation"]["fraction"]),
        summary=_summary(summary, len(missing) > 0),
        matched=_matched(tables["matched_density"], methods),
        cut=bool(cut),
        uncut=listed(method_names(uncut)) if uncut else "",
        compact=_compact(tables["comparison"], methods, last),
        matched_channels=_matched_channels(tables["matched_channels"], methods),
        reference=method_name(reference),
        collapse=_collapse(tables["collapse"]),
        elsewhere=listed([dataset_name(name) for name in tables["transfer"]["dataset"].unique()]),
        tests=_tests(tables["paired_tests"]),
        recipes=_recipes(tables["comparison"], methods, last),
        settings=_settings(settings, methods),
        provenance=_provenance(tables["runs"]),
    )
