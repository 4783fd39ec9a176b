"""A study that removes channels, run for real: MIPP, its ratio imposed on another method, what compaction leaves."""

import pandas as pd
import pytest

STUDY = {
    "study.methods": ["mipp"],
    "imposed.methods": ["imp_channels"],
    "methods.mipp.samples": 600,
    "methods.mipp.cells": 1,
    "methods.mipp.epochs": 1,
    "methods.mipp.regularisation": [0.05, 0.3],
    "methods.imp_channels.epochs": 1,
}


@pytest.fixture(scope="module")
def comparison(fresh):
    project = fresh("channels")
    project.edit(**{key.replace(".", "__"): value for key, value in STUDY.items()})
    ran = project.snakemake()
    assert {"prune_at_ratio@0-imp_channels-iteration1", "evaluate_at_ratio@0-imp_channels", "report"} <= ran
    assert not project.repro()
    return pd.read_csv(project.root / "reports/tables/comparison.csv").set_index(["method", "iteration"])


def test_the_imposed_ratio_is_the_realised_one(comparison):
    for t in (1, 2):
        mipp, imposed = comparison.loc[("mipp", t)], comparison.loc[("imp_channels_at_mipp", t)]
        assert 0 < mipp.channels_removed < 1
        assert imposed.channels_removed == pytest.approx(mipp.channels_removed, abs=1e-9)
    removed = comparison.channels_removed.unstack()
    assert (removed[2] >= removed[1]).all()


def test_compacted_networks_are_smaller_and_timed(comparison):
    assert comparison.channels.eq(128 + 256).all()
    for _, row in comparison.iterrows():
        inputs, hidden, outputs = 64, 128, 256
        assert row.parameters == inputs * hidden + hidden + hidden * outputs + outputs + outputs * 10 + 10
        assert row.compact_parameters < row.parameters
        assert row.compact_macs < row.dense_macs
        # Nothing but the masked weights went: what is alive is what the smaller network has, biases aside.
        left = row.channels * (1 - row.channels_removed)
        assert row.compact_parameters == pytest.approx(row.alive + left + 10)
        assert row.speedup_1 > 0 and row.speedup_256 > 0 and row.prune_seconds > 0


def test_nothing_has_collapsed(comparison):
    assert not comparison.untrainable.any()
