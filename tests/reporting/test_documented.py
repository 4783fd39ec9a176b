"""docs/how-to/read-the-tables.md explains every column of every table, and none that does not exist."""

import re
from pathlib import Path

import pandas as pd

import compare
from prunus.reporting import sweep
from prunus.study import layout

PAGE = Path(__file__).resolve().parents[2] / "docs/how-to/read-the-tables.md"


def documented():
    """Table -> the columns that the first cells of its section name."""
    columns = {}
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        cells = " ".join(re.findall(r"^\| (`.+?) \|", section, re.MULTILINE))
        columns[re.match(r"`(\w+)\.csv`", section)[1]] = sorted(re.findall(r"`(\w+)`", cells))
    return columns


def test_every_column_is_explained(build, run):
    build(methods=("sap", "mipp"), imposed=("thinet",))
    run(compare)
    written = {path.stem: sorted(pd.read_csv(path).columns) for path in Path(layout.TABLES).glob("*.csv")}
    comparison = pd.read_csv(layout.TABLES / "comparison.csv")
    variants = sweep.variants([sweep.Experiment(sweep.WORKSPACE, {}, comparison)])
    assert sorted(sweep.combined(variants).columns) == written["comparison"]
    assert documented() == written | {"sweep": sorted(sweep.table(variants).columns)}
