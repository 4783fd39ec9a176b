"""What a study lists and does not have: which stage did not end, why, and the command that makes it.

A failure note (``layout.failure``) speaks for a stage only where everything it reads is there: else it is of an earlier
run, with other settings.
"""

import json
from collections.abc import Iterator
from itertools import product

import pandas as pd

from prunus.comparing.tables import Study
from prunus.run.errors import StageError
from prunus.study import layout

COLUMNS = ["stage", "seed", "method", "iteration", "kind", "density", "why", "command"]
NOT_MADE = "not_made"


class _Missing:
    """Rows of the table, looked up in the run records: a stage that ended has left one."""

    def __init__(self, study: Study):
        self.study, self.last = study, len(study.iterations)

    def row(self, stage: str, keys: tuple, command: str, record, before: list[tuple]) -> dict:
        """``before``: records of what the stage reads, with what they are of."""
        row = dict(zip(COLUMNS, (stage, *keys, NOT_MADE, None, "not made", command), strict=True))
        waits = next((what for earlier, what in before if not earlier.exists()), None)
        if waits:
            return row | {"why": f"waits for {waits}"}
        try:
            note = json.loads(layout.failure(record).read_text())
            return row | {"kind": note["kind"], "density": note["density"], "why": note["message"]}
        except FileNotFoundError:
            return row
        except (ValueError, KeyError, TypeError):
            raise StageError(f"{layout.failure(record)} is damaged; remove it, it only says why a run failed") from None

    def _shared(self, seed: int) -> list[tuple]:
        dense, flow = layout.iteration_record(seed, "dense", 0), layout.record(f"seed{seed}", "reference_flow")
        return [(dense, f"the dense network of seed {seed}"), (flow, f"the reference flow of seed {seed}")]

    def seed(self, seed: int) -> Iterator[dict]:
        """The dense network, Phi* and the dense network's evaluation of a seed, as far as they are missing."""
        (dense, _), (flow, _) = before = self._shared(seed)
        if not dense.exists():
            command = layout.pretrain_command(seed)
            yield self.row("pretrain", (seed, None, 0), command, dense, [(layout.record("data"), "the dataset")])
        if not flow.exists():
            command = layout.reference_command(seed)
            yield self.row("reference_flow", (seed, None, None), command, flow, before[:1])
        if not (evaluated := layout.evaluation_record(seed, "dense")).exists():
            command = layout.evaluate_command(seed, "dense")
            yield self.row("evaluate_dense", (seed, None, None), command, evaluated, before[:1])

    def iteration(self, seed: int, chain: str, t: int) -> dict:
        """Iteration ``t`` of a chain, of which there is no evaluation."""
        record, (method, _, ratio_of) = layout.iteration_record(seed, chain, t), chain.partition("_at_")
        keys, before = (seed, chain, t), self._shared(seed)
        if record.exists():
            own, of_dense = (layout.evaluation_record(seed, which) for which in (chain, "dense"))
            before = [(of_dense, f"the evaluation of the dense network of seed {seed}")]
            return self.row("evaluate", keys, layout.evaluate_command(seed, chain), own, before)
        before += [(layout.iteration_record(seed, chain, own), f"iteration {own}") for own in range(1, t)]
        if ratio_of:
            before.append((layout.iteration_record(seed, ratio_of, t), f"iteration {t} of {ratio_of}"))
        command = layout.prune_command(seed, method, t, ratio_of or None)
        return self.row("prune_iteration", keys, command, record, before)

    def chain(self, seed: int, chain: str) -> list[tuple]:
        """The records of what a gathering of a chain reads."""
        if chain == "dense":
            return self._shared(seed)[:1]
        own = [(layout.iteration_record(seed, chain, t), f"iteration {t}") for t in range(1, self.last + 1)]
        return self._shared(seed) + own


def missing(
    study: Study,
    comparison: pd.DataFrame,
    transfer: pd.DataFrame,
    information: pd.DataFrame,
    transfers: list[tuple[str, str]],
    measured: list[str],
) -> pd.DataFrame:
    """One row per iteration, transfer and measurement that the study lists and the tables lack, and of such a seed per
    dense network, evaluation of it or Phi* that is not there; without any row for a complete study.

    ``transfers``: pairs of another dataset and a chain; ``measured``: the chains whose information is measured.
    ``kind`` is that of the failure note, else ``not_made``; ``density`` that of the masks that left a layer empty.
    """
    look, rows = _Missing(study), []
    made = set(zip(comparison["seed"], comparison["method"], comparison["iteration"], strict=True))
    iterations = range(1, look.last + 1)
    for seed in study.seeds:
        absent = [key for key in product([seed], study.methods, iterations) if key not in made]
        rows += [*look.seed(seed), *(look.iteration(*key) for key in absent)] if absent else []
    moved = set(zip(transfer["dataset"], transfer["seed"], transfer["method"], transfer["iteration"], strict=True))
    for (dataset, chain), seed in product(transfers, study.seeds):
        wanted = {(dataset, seed, chain, t) for t in ([0] if chain == "dense" else iterations)}
        if wanted - moved:
            record = layout.record("transfers", dataset, f"seed{seed}", chain)
            before = [(layout.record("transfers", dataset, "data"), f"the dataset {dataset}"), *look.chain(seed, chain)]
            command = layout.transfer_command(dataset, seed, chain)
            rows.append(look.row("transfer", (seed, chain, None), command, record, before))
    known = set(zip(information["seed"], information["method"], information["iteration"], strict=True))
    for seed, chain in product(study.seeds, measured):
        if set(product([seed], [chain], iterations)) - known:
            record = layout.record(f"seed{seed}", f"{chain}/information")
            command = layout.information_command(seed, chain)
            keys = (seed, chain, None)
            rows.append(look.row("measure_information", keys, command, record, look.chain(seed, chain)))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"seed": "Int64", "iteration": "Int64", "density": float})


def said(table: pd.DataFrame) -> str:
    """One line: how much is missing, and the first reason."""
    counts = table["stage"].value_counts(sort=False)
    first = table.loc[table["why"].str.startswith("waits for").idxmin()]
    parts = ", ".join(f"{count} {stage}" for stage, count in counts.items())
    return f"missing: {parts}; first: {first['why']} (`{first['command']}`); all in {layout.TABLES / 'missing.csv'}"
