"""Read and write tables, with errors that name the command that makes a missing one; questions that charts and
sentences both ask of them."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from prunus.run.errors import StageError
from prunus.run.files import write_atomically

# Columns of the tables that stages write for a chain, and of those that report reads.
COLUMNS = {
    name: columns.split()
    for name, columns in {
        "iterations": """dataset network seed method iteration density alive prunable channels channels_removed
            test_accuracy pruned_test_accuracy validation_accuracy dense_test_accuracy macs dense_macs compact_macs
            parameters compact_parameters bytes untrainable epochs stopped_by distance epsilon rewind recipe""",
        "layers": """seed method iteration layer prunable alive density pq_index gini_index macs pruned_pq_index
            pruned_gini_index""",
        "channels_alive": "seed method iteration group channels alive",
        "history": "seed method iteration epoch train_loss validation_accuracy distance",
        "information": "seed method iteration layer next_layer quantity units mean low high variance",
        "transfer": """seed method iteration source_dataset dataset start density source_test_accuracy test_accuracy
            epochs train_loss""",
        "summary": """method seeds iterations test_accuracy_mean test_accuracy_std test_accuracy_ci95 density_mean
            density_std density_ci95 dense_test_accuracy_mean macs_fraction_mean bytes_mean channels_removed_mean
            compact_parameters_fraction_mean compact_macs_fraction_mean speedup_1_mean speedup_256_mean epochs_mean
            epochs_std train_seconds_mean train_seconds_std flow_seconds_mean flow_seconds_std evaluation_seconds_mean
            evaluation_seconds_std prune_seconds_mean prune_seconds_std seconds_mean seconds_std
            epochs_saved_against_sap seconds_saved_against_sap epochs_saved_against_lth seconds_saved_against_lth""",
        "paired_tests": """method_a method_b n mean_difference ci95_low ci95_high t_p holm_p wilcoxon_p
            density_difference""",
        "equal_density": "seed method density last_density test_accuracy epochs seconds",
        "matched_density": "density method test_accuracy_mean test_accuracy_std n",
        "matched_channels": "seed iteration channels_removed method test_accuracy interpolated",
        "collapse": "method sparsity_from sparsity_to runs collapsed untrainable untrainable_share",
        "runs": """stage seed method iteration device processor threads git dirty torch python seconds_total
            seconds_prune seconds_train seconds_flow seconds_evaluation""",
        "missing": "stage seed method iteration kind density why command",
    }.items()
}
SECONDS = [f"{activity}_seconds" for activity in ("train", "flow", "evaluation", "prune")]
LATENCIES = ["latency_1_seconds", "latency_256_seconds", "speedup_1", "speedup_256"]
COLUMNS["comparison"] = [*COLUMNS["iterations"], *SECONDS, *LATENCIES]
COLUMNS["channels"] = [*COLUMNS["channels_alive"], "removed", "relative"]
COLUMNS["histories"] = [*COLUMNS["history"], "epsilon"]
COLUMNS["transferred"] = [name for name in COLUMNS["transfer"] if name != "source_test_accuracy"]

# Columns of words; all others hold numbers.
WORDS = """dataset network method method_a method_b stopped_by rewind recipe layer next_layer quantity group
    source_dataset start stage kind why command device processor git dirty torch python"""
TEXT = set(WORDS.split())


def read_table(path: Path, made_by: str, columns: Sequence[str] = (), others: bool = True) -> pd.DataFrame:
    """The CSV file at ``path``. ``others``: whether it may have more than ``columns``.

    Raises ``StageError`` if it is missing, is not a table, lacks some of ``columns``, or has words or infinite numbers
    in those that are not ``TEXT``.
    """
    try:
        table = pd.read_csv(path)
        if absent := [name for name in columns if name not in table]:
            raise ValueError(f"no column {absent[0]}")
        if not others and (unknown := [name for name in table if name not in columns]):
            raise ValueError(f"unknown column {unknown[0]}")
        for name in columns:
            if name not in TEXT and (entry := _not_a_number(table[name])) is not None:
                raise ValueError(f"column {name} holds {entry}, which is not a finite number")
        return table
    except FileNotFoundError:
        raise StageError(f"{path} is missing; `{made_by}` makes it") from None
    except ValueError as error:
        why = str(error).strip().splitlines()[0]
        raise StageError(f"{path} is not a table ({why}); `{made_by}` makes it anew") from None


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Unknown numbers (NaN) become empty fields; infinite ones raise ``StageError``."""
    numbers = table.select_dtypes("float")
    if infinite := [name for name in numbers if np.isinf(numbers[name]).any()]:
        raise StageError(f"{path} is not written: its column {infinite[0]} holds an infinite number", "not_finite")
    with write_atomically(path) as partial:
        table.to_csv(partial, index=False)


def _not_a_number(column: pd.Series) -> object:
    """The first entry that is neither empty nor a finite number, None if there is none."""
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    entries = column[column.notna() & ~np.isfinite(numbers)]
    return None if entries.empty else entries.iloc[0]


def settings_of(comparison: pd.DataFrame, method: str) -> dict:
    """The settings that ``method`` ran with, from the JSON of the column ``recipe``; empty if unknown.

    All rows of a chain have the same settings; the first row is read. Raises ``StageError`` if it is not a JSON object.
    """
    known = comparison.loc[comparison["method"] == method, "recipe"].dropna()
    if known.empty:
        return {}
    try:
        settings = json.loads(known.iloc[0])
    except (TypeError, ValueError):
        settings = None
    if not isinstance(settings, dict):
        why = f"column recipe holds {known.iloc[0]!r}, which is not a JSON object"
        raise StageError(f"the settings of {method} cannot be read ({why}); `dvc repro` evaluates it anew")
    return settings


def removers(summary: pd.DataFrame) -> list[str]:
    """The methods of ``summary`` whose last networks have lost more than a hundredth of the channels, in its order.

    Pruning single weights sometimes leaves a channel unread; that does not count as removing channels.
    """
    return list(summary.loc[summary["channels_removed_mean"] > 0.01, "method"])


def finished(summary: pd.DataFrame) -> list[str]:
    """The methods of ``summary`` with a complete chain, in its order."""
    return list(summary.loc[summary["seeds"] > 0, "method"])


def of_all_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the iterations that every seed of the method has; later means would be over fewer seeds."""
    seeds = table.groupby("method")["seed"].transform("nunique")
    return table[table.groupby(["method", "iteration"])["seed"].transform("nunique") == seeds]
