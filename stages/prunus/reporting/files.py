"""Reading tables, with an error that says which command makes a missing one, and what pictures and words both ask."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from prunus.runtime import StageError


def read_table(path: Path, made_by: str, columns: Sequence[str] = ()) -> pd.DataFrame:
    """The CSV file at ``path``; ``StageError`` where it is missing, no table, or one without some of ``columns``."""
    try:
        table = pd.read_csv(path)
        if absent := [name for name in columns if name not in table]:
            raise ValueError(f"no column {absent[0]}")
        return table
    except FileNotFoundError:
        raise StageError(f"{path} is missing; `{made_by}` makes it") from None
    except ValueError as error:
        why = str(error).strip().splitlines()[0]
        raise StageError(f"{path} is not a table ({why}); `{made_by}` makes it anew") from None


def removers(summary: pd.DataFrame) -> list[str]:
    """The methods of ``summary`` whose last networks have lost more than a hundredth of the channels, in its order.

    Pruning single weights leaves a channel unread now and then, which is no way of removing channels.
    """
    return list(summary.loc[summary["channels_removed_mean"] > 0.01, "method"])


def finished(summary: pd.DataFrame) -> list[str]:
    """The methods of ``summary`` with a complete chain, in its order."""
    return list(summary.loc[summary["seeds"] > 0, "method"])


def of_all_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the iterations that every seed of the method has: further on, a mean would be of other seeds."""
    seeds = table.groupby("method")["seed"].transform("nunique")
    return table[table.groupby(["method", "iteration"])["seed"].transform("nunique") == seeds]
