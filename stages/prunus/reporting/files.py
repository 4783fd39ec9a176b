"""Reading tables, with an error that says which command makes a missing one."""

from pathlib import Path

import pandas as pd

from prunus.runtime import StageError


def read_table(path: Path, made_by: str) -> pd.DataFrame:
    """The CSV file at ``path``; ``StageError`` where it is missing or no table."""
    try:
        return pd.read_csv(path)
    except FileNotFoundError:
        raise StageError(f"{path} is missing; `{made_by}` makes it") from None
    except ValueError as error:
        why = str(error).strip().splitlines()[0]
        raise StageError(f"{path} is not a table ({why}); `{made_by}` makes it anew") from None
