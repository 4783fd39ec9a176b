"""What a study lists but does not have, the note that a failed stage left, and the command that makes it.

Every note is trusted: tools/gather.py removes those of stages that the last run did not reach.
"""

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pandas as pd

from prunus.comparing.tables import Study
from prunus.run.errors import StageError
from prunus.study import layout

COLUMNS = ["stage", "seed", "method", "iteration", "kind", "density", "why", "command"]
NOT_MADE = "not_made"


def _row(stage: str, keys: tuple, command: str, record: Path) -> dict:
    """``record``: that of the stage; a failure leaves its note beside it."""
    row = dict(zip(COLUMNS, (stage, *keys, NOT_MADE, None, "not made", command), strict=True))
    note = layout.failure(record)
    try:
        content = json.loads(note.read_text())
        return row | {"kind": content["kind"], "density": content["density"], "why": content["message"]}
    except FileNotFoundError:
        return row
    except (ValueError, KeyError, TypeError):
        raise StageError(f"{note} is damaged; remove it (it only says why a run failed)") from None


def _of_seed(seed: int) -> Iterator[dict]:
    """A row for each of the dense network, Phi* and the dense network's evaluation that is missing."""
    stages = {
        "pretrain": (0, layout.pretrain_command(seed), layout.iteration_record(seed, "dense", 0)),
        "reference_flow": (None, layout.reference_command(seed), layout.record(f"seed{seed}", "reference_flow")),
        "evaluate_dense": (None, layout.evaluate_command(seed, "dense"), layout.evaluation_record(seed, "dense")),
    }
    for stage, (t, command, record) in stages.items():
        if not record.exists():
            yield _row(stage, (seed, None, t), command, record)


def _of_chain(seed: int, chain: str, absent: list[int]) -> Iterator[dict]:
    """Iterations without an evaluation; the first that is not made says why, the others wait for it."""
    method, ratio_of = layout.of_chain(chain)
    first = None
    for t in absent:
        keys = (seed, chain, t)
        record = layout.iteration_record(*keys)
        if record.exists():
            yield _row("evaluate", keys, layout.evaluate_command(seed, chain), layout.evaluation_record(seed, chain))
            continue
        row = _row("prune_iteration", keys, layout.prune_command(seed, method, t, ratio_of), record)
        waits = {"kind": NOT_MADE, "density": None, "why": f"waits for iteration {first}"}
        yield row | waits if first else row
        first = first or t


def missing(
    study: Study,
    comparison: pd.DataFrame,
    transfer: pd.DataFrame,
    information: pd.DataFrame,
    transfers: list[tuple[str, str]],
    measured: list[str],
) -> pd.DataFrame:
    """One row per iteration, transfer and measurement that the study lists and the tables lack; a seed that lacks
    iterations also has a row for its dense network, the evaluation of that, and Phi*, where missing.

    A complete study has no rows. ``transfers``: pairs of another dataset and a chain; ``measured``: the chains whose
    information is measured. ``kind`` is that of the failure note, else ``not_made``; ``density`` that of the masks that
    left a layer empty.
    """
    evaluated = set(zip(comparison["seed"], comparison["method"], comparison["iteration"], strict=True))
    moved = set(zip(transfer["dataset"], transfer["seed"], transfer["method"], transfer["iteration"], strict=True))
    known = set(zip(information["seed"], information["method"], information["iteration"], strict=True))
    iterations = range(1, len(study.iterations) + 1)
    rows = []
    for seed in study.seeds:
        absent = {chain: [t for t in iterations if (seed, chain, t) not in evaluated] for chain in study.methods}
        if any(absent.values()):
            rows += _of_seed(seed)
        for chain, lacking in absent.items():
            rows += _of_chain(seed, chain, lacking)
    for (dataset, chain), seed in product(transfers, study.seeds):
        if {(dataset, seed, chain, t) for t in ([0] if chain == "dense" else iterations)} - moved:
            record = layout.record("transfers", dataset, f"seed{seed}", chain)
            rows.append(_row("transfer", (seed, chain, None), layout.transfer_command(dataset, seed, chain), record))
    for seed, chain in product(study.seeds, measured):
        if set(product([seed], [chain], iterations)) - known:
            record = layout.record(f"seed{seed}", f"{chain}/information")
            command = layout.information_command(seed, chain)
            rows.append(_row("measure_information", (seed, chain, None), command, record))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"seed": "Int64", "iteration": "Int64", "density": float})


def one_line(table: pd.DataFrame) -> str:
    """One line: how much is missing, and the first reason."""
    counts = table["stage"].value_counts(sort=False)
    first = table.loc[(table["kind"] != NOT_MADE).idxmax()]  # the first row, if no stage left a note
    parts = ", ".join(f"{count} {stage}" for stage, count in counts.items())
    return f"missing: {parts}; first: {first['why']} (`{first['command']}`); all in {layout.TABLES / 'missing.csv'}"
