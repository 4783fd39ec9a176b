"""A study whose networks go to another task, run for real: pruned on the digits 0 to 4, retrained on 5 to 9."""

import pandas as pd
import pytest

from project import chain

STUDY = {
    "study.methods": ["sap"],
    "study.iterations": [{"t": 1, "after": "../dense"}],
    "data.classes": [0, 1, 2, 3, 4],
    "transfer.datasets": ["digits"],
    "transfer.methods": ["dense", "sap"],
    "transfer.classes": [5, 6, 7, 8, 9],
    "transfer.epochs": 2,
}
TRANSFERS = {"transfer@digits-0-dense", "transfer@digits-0-sap"}
GATHER = {"compare", "report"}


@pytest.fixture(scope="module")
def project(fresh):
    project = fresh("transfer")
    project.edit(**{key.replace(".", "__"): value for key, value in STUDY.items()})
    ran = project.snakemake()
    assert ran >= TRANSFERS | GATHER | {"prepare_transfer@digits"} | chain("sap", [0])
    assert not project.repro()
    return project


def test_every_network_is_measured_on_both_tasks(project):
    tables = project.root / "reports/tables"
    table, comparison = pd.read_csv(tables / "transfer.csv"), pd.read_csv(tables / "comparison.csv")
    assert list(zip(table.method, table.iteration, strict=True)) == [("dense", 0), ("sap", 1)]
    assert table.density.tolist() == [1.0, *comparison.density]
    assert table.source_test_accuracy.tolist() == [*comparison.dense_test_accuracy, *comparison.test_accuracy]
    assert table.test_accuracy.gt(0.5).all()  # of five classes; two epochs from weights that know digits
    summary = pd.read_csv(tables / "transfer_summary.csv")
    assert summary.test_accuracy_mean.tolist() == table.test_accuracy.tolist()


def test_other_epochs_retrain_there_and_nowhere_else(project):
    project.edit(transfer__epochs=1)
    assert project.repro() - GATHER == TRANSFERS
    project.edit(transfer__datasets=[], transfer__methods=[])
    assert project.repro() - GATHER == set()
    assert pd.read_csv(project.root / "reports/tables/transfer.csv").empty
