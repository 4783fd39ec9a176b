"""Gather DVC experiments into one table and page: which setting varied, what each variant cost and reached.

python tools/sweep_report.py                 # the workspace and all experiments of the checked-out commit
python tools/sweep_report.py big-aunt ...    # the workspace and these, of any commit
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

import prunus  # noqa: F401 - first: what it sets up counts from here on

# isort: split
import pandas as pd

from prunus.comparing.files import COLUMNS, read_table, write_table
from prunus.comparing.statistics import complete
from prunus.reporting import sweep, sweep_page
from prunus.run.errors import StageError, one_line_errors
from prunus.run.files import write_atomically
from prunus.study import layout


def exp_show(all_commits: bool) -> list[dict]:
    """The answer of `dvc exp show`, for the checked-out commit or ``all_commits``."""
    command = ["dvc", "exp", "show", "--json", *(["--all-commits"] if all_commits else [])]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        raise StageError(f"`dvc exp show` ended with status {process.returncode}: {process.stderr.strip()}")
    return json.loads(process.stdout)


def gathered(revisions: list[dict], names: list[str], cached) -> list[sweep.Experiment]:
    """The workspace and the experiments ``names`` (if empty: all that succeeded), tables read from DVC's cache.

    ``cached``: content hash -> path. Raises ``StageError`` for an experiment that is unknown or has no results.
    """
    entries = {sweep.WORKSPACE: revisions[0]["data"]}
    for revision in revisions[1:]:
        for experiment in revision.get("experiments") or []:
            state = experiment.get("executor") or {}
            last = experiment["revs"][0]
            if last["data"] and state.get("state") != "failed":
                entries[last["name"] or last["rev"][:7]] = last["data"]
    if unknown := [name for name in names if name not in entries]:
        raise StageError(f"{unknown[0]}: no such experiment; there are: {', '.join(list(entries)[1:]) or 'none'}")
    return [
        as_experiment(name, sweep.flat(data["params"][str(layout.PARAMS)]["data"]), table(name, data, cached))
        for name, data in entries.items()
        if not names or name in names or name == sweep.WORKSPACE
    ]


def as_experiment(name: str, params: dict, comparison: pd.DataFrame) -> sweep.Experiment:
    """Incomplete chains are left out and named: the cost of a variant is the sum over all its iterations."""
    ended = complete(comparison, len(params["study.iterations"]))
    kept = set(zip(ended["seed"], ended["method"], strict=True))
    for seed, method in dict.fromkeys(zip(comparison["seed"], comparison["method"], strict=True)):
        if (seed, method) not in kept:
            print(f"{name}: seed {seed} {method} is left out: it lacks iterations")
    return sweep.Experiment(name, params, ended)


def table(name: str, data: dict, cached) -> pd.DataFrame:
    path = str(layout.TABLES / "comparison.csv")
    out = (data.get("outs") or {}).get(path)
    file = path if name == sweep.WORKSPACE else cached(out["hash"]) if out else None
    if file is None or not os.path.exists(file):
        raise StageError(f"{name}: has no {path}; `dvc repro` (workspace) or `dvc exp run` makes it")
    return read_table(Path(file), "dvc repro", COLUMNS["comparison"])


def main() -> None:
    os.chdir(layout.ROOT)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiments", nargs="*", help="names as `dvc exp show` gives them; default: all")
    arguments = parser.parse_args()
    from dvc.repo import Repo  # takes a second

    experiments = gathered(exp_show(bool(arguments.experiments)), arguments.experiments, Repo().cache.local.oid_to_path)
    variants = sweep.variants(experiments)
    rows = sweep.table(variants)
    for name, content in {"sweep": rows, "sweep_comparison": sweep.combined(variants)}.items():
        write_table(layout.TABLES / f"{name}.csv", content)
    charts = sweep_page.charts(variants, rows)
    for name, chart in charts.items():
        if chart:
            with write_atomically(layout.FIGURES / f"{name}.png") as partial:
                partial.write_bytes(chart.png())
    with write_atomically(layout.SWEEP_REPORT) as partial:
        partial.write_text(sweep_page.render(experiments, variants, rows, charts), encoding="utf-8")
    print(f"{len(variants)} variants of {len(experiments)} experiments, in {layout.SWEEP_REPORT} and {layout.TABLES}")


if __name__ == "__main__":
    with one_line_errors():
        main()
