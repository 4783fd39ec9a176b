"""Gather a study's evaluations and run records into tables. Only what it lists is read: folders hold leftovers.

What is listed but missing has no rows; ``missing`` lists it.
"""

from itertools import product
from math import nan
from pathlib import Path
from typing import Protocol

import pandas as pd

from prunus.comparing import files
from prunus.run.errors import StageError
from prunus.run.files import read_json
from prunus.study import layout

ACTIVITIES = ("prune", "train", "flow", "evaluation")
FIRST_COLUMNS = ["dataset", "network", "seed", "method", "iteration", "density", "test_accuracy", "epochs"]
SECONDS = files.SECONDS
BATCHES = (1, 256)  # images at a time that evaluate measures latency with
TRANSFER_COLUMNS = files.COLUMNS["transfer"]
INFORMATION_COLUMNS = files.COLUMNS["information"]
INTEGERS = ("seed", "iteration", "threads")


class Study(Protocol):
    """The ``study`` block of params.yaml, its methods with the chains of imposed ratio; iterations are only counted."""

    dataset: str
    network: str
    seeds: list[int]
    methods: list[str]
    iterations: list


def read_chain(path: Path, made_by: str, columns: list[str], seed: int, method: str, **options) -> pd.DataFrame:
    """A table of one chain, read with ``files.read_table``; raises ``StageError`` too if it is of another chain."""
    table = files.read_table(path, made_by, columns, **options)
    for name, value in ("seed", seed), ("method", method):
        if not table.empty and (foreign := set(table[name]) - {value}):
            raise StageError(f"{path} has rows of {name} {foreign.pop()}, not of {value}; `{made_by}` makes it anew")
    return table


def _read_iterations(study: Study, seed: int, method: str) -> pd.DataFrame | None:
    """The evaluated iterations of one chain that the study lists, None if there are none."""
    path = layout.evaluation(seed, method) / "iterations.csv"
    if not path.exists():
        return None
    chain = read_chain(path, layout.evaluate_command(seed, method), files.COLUMNS["iterations"], seed, method)
    chain = chain[chain["iteration"] <= len(study.iterations)]
    return None if chain.empty else chain


def _gather(study: Study, name: str, first_iteration: int, may_be_empty: bool = False) -> pd.DataFrame:
    """The table ``name`` of every chain, one below the other, from ``first_iteration`` to the last that is evaluated.

    ``may_be_empty``: a chain's table may have no rows. Raises ``StageError`` if no chain is evaluated, or a chain's
    table lacks one of its evaluated iterations.
    """
    chains = []
    for seed, method in product(study.seeds, study.methods):
        if (iterations := _read_iterations(study, seed, method)) is None:
            continue
        path = layout.evaluation(seed, method) / f"{name}.csv"
        made_by = layout.evaluate_command(seed, method)
        if name == "iterations":
            chain = iterations
        else:  # compare adds a column to histories, so theirs must be known
            columns = files.COLUMNS["channels_alive" if name == "channels" else name]
            chain = read_chain(path, made_by, columns, seed, method, others=name != "history")
        wanted = range(first_iteration, int(iterations["iteration"].max()) + 1)
        absent = sorted(set(wanted) - set(chain["iteration"]))
        if absent and not (may_be_empty and chain.empty):
            raise StageError(f"{path} has no iteration {absent[0]}; `{made_by}` makes it")
        chains.append(chain[chain["iteration"].isin(wanted)])
    if not chains:
        first = layout.evaluate_command(study.seeds[0], study.methods[0])
        raise StageError(
            f"no chain of the study is evaluated: nothing to compare; `dvc repro` evaluates all, `{first}` one"
        )
    filled = [chain for chain in chains if not chain.empty]
    return pd.concat(filled, ignore_index=True) if filled else chains[0]


def layers(study: Study) -> pd.DataFrame:
    """One row per seed, method, iteration (0: dense) and layer: prunable, alive, density, indices, macs."""
    return _gather(study, "layers", 0)


def histories(study: Study) -> pd.DataFrame:
    """One row per seed, method, iteration and retraining epoch: train loss, validation accuracy, distance to Phi*."""
    return _gather(study, "history", 1)


def channels(study: Study) -> pd.DataFrame:
    """One row per seed, method, iteration and coupled channel group: channels, alive, removed and relative.

    ``removed`` is the fraction of the group's channels that nothing reads any more. ``relative`` is ``removed`` over
    its mean over the groups of the same network, MIPP's view of how a method spreads pruning over the layers; NaN where
    no channel is removed. No rows for a network that has no such groups.
    """
    table = _gather(study, "channels", 1, may_be_empty=True)
    removed = 1 - table["alive"] / table["channels"]
    mean = removed.groupby([table[key] for key in ("seed", "method", "iteration")]).transform("mean")
    return table.assign(removed=removed, relative=removed / mean.where(mean > 0))


def information(study: Study, methods: list[str]) -> pd.DataFrame:
    """One row per seed, chain of ``methods``, iteration, pair of layers and quantity, from measure_information.

    No rows if nothing is measured.
    """
    chains = []
    for seed, method in product(study.seeds, methods):
        path = layout.evaluation(seed, method) / "information.csv"
        if path.exists():
            table = read_chain(path, layout.information_command(seed, method), INFORMATION_COLUMNS, seed, method)
            chains.append(table[table["iteration"] <= len(study.iterations)])
    return pd.concat(chains, ignore_index=True) if chains else pd.DataFrame(columns=INFORMATION_COLUMNS)


def _read_record(path: Path) -> dict:
    """The run record at ``path``, empty if it is missing: a stage's results are valid without it."""
    return read_json(path, "dvc repro", {"seconds": dict[str, float]}) if path.exists() else {}


def _seconds(record: dict, activity: str) -> float:
    """Seconds of one activity; 0 if the stage had no such activity, NaN if there is no record."""
    return float(record["seconds"].get(activity, 0.0)) if "seconds" in record else float("nan")


def _latencies(study: Study) -> pd.DataFrame:
    """Measured seconds of the compacted network per batch size, and its speed-up: dense over compact seconds.

    Indexed by seed, method and iteration; only what a record holds.
    """
    keys = ["seed", "method", "iteration"]
    rows = {}
    for seed, method in ((seed, method) for seed in study.seeds for method in study.methods):
        for entry in _read_record(layout.evaluation_record(seed, method)).get("latency") or []:
            row = rows.setdefault((seed, method, entry["iteration"]), {})
            batch = entry["batch"]
            row[f"latency_{batch}_seconds"] = entry["compact_seconds"]
            row[f"speedup_{batch}"] = entry["dense_seconds"] / entry["compact_seconds"]
    columns = [column.format(batch) for column in ("latency_{}_seconds", "speedup_{}") for batch in BATCHES]
    index = pd.MultiIndex.from_tuples(rows, names=keys) if rows else pd.MultiIndex.from_arrays([[], [], []], names=keys)
    return pd.DataFrame(list(rows.values()), index, columns, dtype=float)


def comparison(study: Study) -> pd.DataFrame:
    """One row per seed, method and iteration: accuracy, density, channels, epochs, seconds and measured latency.

    Seconds are those of the iteration's own stage: choosing the masks, training, flow and evaluation; the dense
    training and Phi* are shared by the methods of a seed. NaN if a record is missing, or a latency not measured.
    Raises ``StageError`` if no chain is evaluated, or one was evaluated for another dataset or network.
    """
    table = _gather(study, "iterations", 1)
    for _, row in table.iterrows():
        if (row["dataset"], row["network"]) != (study.dataset, study.network):
            path = layout.evaluation(row["seed"], row["method"]) / "iterations.csv"
            raise StageError(
                f"{path} is of {row['network']} on {row['dataset']}, the study is {study.network} on {study.dataset}; "
                f"`{layout.evaluate_command(row['seed'], row['method'])}` makes it anew"
            )
    keys = zip(table["seed"], table["method"], table["iteration"], strict=True)
    records = [_read_record(layout.iteration_record(*key)) for key in keys]
    for column in SECONDS:
        table[column] = [_seconds(record, column.removesuffix("_seconds")) for record in records]
    latencies = _latencies(study).reindex(pd.MultiIndex.from_frame(table[["seed", "method", "iteration"]]))
    table[latencies.columns] = latencies.to_numpy()
    first = FIRST_COLUMNS + SECONDS
    return table[first + [column for column in table.columns if column not in first]]


def transfer(study: Study, comparison: pd.DataFrame, datasets: list[str], methods: list[str]) -> pd.DataFrame:
    """One row per other dataset, seed, method and iteration (0: dense): the network's accuracy on it.

    ``source_test_accuracy`` is its accuracy in ``comparison``, before the transfer. No rows if nothing is transferred.
    Raises ``StageError`` if a table is of networks from another dataset than the study's.
    """
    chains = [pd.DataFrame(columns=TRANSFER_COLUMNS)]
    source = comparison.set_index(["seed", "method", "iteration"])["test_accuracy"].to_dict()
    source |= {(seed, "dense", 0): rows["dense_test_accuracy"].iloc[0] for seed, rows in comparison.groupby("seed")}
    for dataset, seed, method in product(datasets, study.seeds, methods):
        path = layout.transfer(dataset, seed, method)
        if not path.exists():
            continue
        made_by = layout.transfer_command(dataset, seed, method)
        chain = read_chain(path, made_by, files.COLUMNS["transferred"], seed, method)
        wanted = [0] if method == "dense" else range(1, len(study.iterations) + 1)
        if set(chain["source_dataset"]) != {study.dataset}:
            raise StageError(f"{path} is not of networks from {study.dataset}; `{made_by}` makes it anew")
        chain = chain[chain["iteration"].isin(wanted)]
        chains.append(
            chain.assign(source_test_accuracy=[source.get((seed, method, t), nan) for t in chain["iteration"]])
        )
    filled = chains[1:] or chains
    return pd.concat(filled, ignore_index=True)[TRANSFER_COLUMNS]


def _stages(study: Study, measured: list[str]):
    """Every stage run of the study: its name, seed, method, iteration and the path of its record."""
    yield "prepare_data", None, None, None, layout.record("data")
    for seed in study.seeds:
        yield "pretrain", seed, None, 0, layout.iteration_record(seed, "dense", 0)
        yield "reference_flow", seed, None, None, layout.record(f"seed{seed}", "reference_flow")
        yield "evaluate_dense", seed, None, None, layout.evaluation_record(seed, "dense")
        for method in study.methods:
            for t in range(1, len(study.iterations) + 1):
                yield "prune_iteration", seed, method, t, layout.iteration_record(seed, method, t)
            yield "evaluate", seed, method, None, layout.evaluation_record(seed, method)
        for method in measured:
            yield "measure_information", seed, method, None, layout.record(f"seed{seed}", f"{method}/information")


def runs(study: Study, measured: list[str]) -> pd.DataFrame:
    """One row per stage run: what made it and how long it took; a run without a record has only its name and keys.

    ``measured``: the chains whose mutual information is measured.
    """
    rows = []
    for stage, seed, method, t, path in _stages(study, measured):
        record = _read_record(path)
        versions = record.get("versions", {})
        rows.append(
            {
                "stage": stage,
                "seed": seed,
                "method": method,
                "iteration": t,
                **{key: record.get(key) for key in ("device", "processor", "threads", "git", "dirty")},
                "torch": versions.get("torch"),
                "python": versions.get("python"),
                **{f"seconds_{activity}": _seconds(record, activity) for activity in ("total", *ACTIVITIES)},
            }
        )
    table = pd.DataFrame(rows)
    return table.astype({column: "Int64" for column in INTEGERS})
