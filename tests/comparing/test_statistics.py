import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunus.comparing import statistics
from prunus.comparing.statistics import Estimate, adjusted

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def test_interval_by_hand():
    # mean 3, std sqrt(2.5), t(0.975, 4) = 2.776445
    mean, std, half = statistics.mean_std_interval([1, 2, 3, 4, 5])
    assert (mean, std) == (3.0, pytest.approx(1.5811388))
    assert half == pytest.approx(2.776445 * 1.5811388 / 5**0.5, rel=1e-6)


def test_interval_of_two_values_uses_the_heavy_tail_of_one_degree_of_freedom():
    # std = 0.02 / sqrt(2), half-width = 12.7062 * std / sqrt(2) = 12.7062 * 0.01
    assert statistics.mean_std_interval([0.96, 0.98])[2] == pytest.approx(0.127062, rel=1e-5)


def test_spread_of_fewer_than_two_values_is_unknown():
    assert statistics.mean_std_interval([0.5])[0] == 0.5
    assert np.isnan(statistics.mean_std_interval([0.5])[1:]).all()
    assert np.isnan(statistics.mean_std_interval([])).all()


def test_paired_t_by_hand():
    # differences 1, 2, 3: t = 2 / (1 / sqrt(3)) = 3.4641, two-sided p at 2 degrees of freedom
    assert statistics.paired_t([1, 2, 3]) == pytest.approx(0.0741799, rel=1e-5)


def test_paired_t_without_spread():
    assert statistics.paired_t([0.0, 0.0]) == 1.0
    assert np.isnan(statistics.paired_t([0.98 - 0.97, 0.95 - 0.94]))  # equal but for rounding
    assert np.isnan(statistics.paired_t([0.1]))
    assert np.isnan(statistics.paired_t([]))


def test_wilcoxon():
    assert np.isnan(statistics.wilcoxon([1, 2, 3, 4, 5]))
    assert statistics.wilcoxon([1, 2, 3, 4, 5, 6]) == pytest.approx(2 / 2**6)  # exact: all of one sign
    assert statistics.wilcoxon([0.0] * 6) == 1.0
    assert 0 < statistics.wilcoxon([0.01, 0.01, -0.01, 0.0, 0.02, 0.02]) <= 1  # ties and a zero, without a warning


def test_holm_by_hand():
    # sorted 0.01, 0.03, 0.04 times 3, 2, 1 = 0.03, 0.06, 0.04, made monotone
    assert statistics.holm([0.04, np.nan, 0.01, 0.03]) == pytest.approx([0.06, np.nan, 0.03, 0.06], nan_ok=True)
    assert statistics.holm([]).size == 0


@given(P_VALUES)
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values):
    adjusted = statistics.holm(p_values)
    assert (adjusted >= np.array(p_values)).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p_values, kind="stable")]) >= 0).all()


def test_savings_are_paired_by_seed():
    saved = statistics.savings(pd.Series({0: 10, 1: 40, 7: 1}), pd.Series({1: 50, 0: 40, 8: 1}))
    assert saved.to_dict() == pytest.approx({0: 0.75, 1: 0.2})


def test_saving_against_nothing_is_unknown():
    assert statistics.savings(pd.Series({0: 3}), pd.Series({0: 0})).isna().all()


def _comparison(**accuracies):
    """Two iterations per seed and method, at densities 0.64 and 0.41; ``accuracies``: final ones by method and seed."""
    rows = []
    for method, finals in accuracies.items():
        for seed, accuracy in enumerate(finals):
            for t, density in ((1, 0.64), (2, 0.41)):
                row = {"method": method, "seed": seed, "iteration": t, "density": density, "dense_test_accuracy": 1.0}
                row |= {"test_accuracy": accuracy, "epochs": 5, "macs": 1, "dense_macs": 2, "bytes": 9}
                row |= {"channels_removed": 0.25 * t, "parameters": 40, "compact_parameters": 30 - 10 * t}
                row |= {"compact_macs": 1, "speedup_1": 1.5, "speedup_256": 1.0 + t + seed}
                row |= {"untrainable": 0, "prune_seconds": 4.0}
                rows.append(row | {"train_seconds": 2.0, "flow_seconds": 0.5, "evaluation_seconds": 0.25})
    return pd.DataFrame(rows)


def test_summary_sums_iterations_and_leaves_absent_baselines_unknown():
    table = statistics.summary(_comparison(sap=[0.9, 0.8], other=[0.7, 0.7]), ["sap", "other"]).set_index("method")
    assert table.loc["sap", "test_accuracy_mean"] == pytest.approx(0.85)
    assert table.loc["sap", "epochs_mean"] == 10
    assert table.loc["other", "seconds_mean"] == pytest.approx(2 * (4 + 2 + 0.5 + 0.25))
    assert table.loc["other", "prune_seconds_mean"] == 8.0
    assert table.loc["other", "epochs_saved_against_sap"] == 0
    assert table["epochs_saved_against_lth"].isna().all()
    assert table.loc["other", "macs_fraction_mean"] == 0.5
    assert table.loc["other", "channels_removed_mean"] == 0.5
    assert table.loc["other", "compact_parameters_fraction_mean"] == 0.25
    assert (table.loc["other", "speedup_1_mean"], table.loc["other", "speedup_256_mean"]) == (1.5, 3.5)


def test_savings_count_the_seconds_of_pruning():
    comparison = _comparison(sap=[0.9], mipp=[0.9])
    comparison.loc[comparison["method"] == "mipp", "prune_seconds"] = 17.5  # 20.25 s an iteration against 6.75
    saved = statistics.summary(comparison, ["sap", "mipp"])["seconds_saved_against_sap"]
    assert saved.tolist() == pytest.approx([0.0, -2.0])
    assert statistics.totals(comparison).loc[("mipp", 0), "seconds"] == pytest.approx(40.5)


def test_a_speedup_that_one_seed_lacks_is_unknown():
    comparison = _comparison(sap=[0.9, 0.8])
    comparison.loc[comparison["seed"] == 1, "speedup_1"] = np.nan
    row = statistics.summary(comparison, ["sap"]).iloc[0]
    assert np.isnan(row["speedup_1_mean"])
    assert row["speedup_256_mean"] == 3.5


def test_a_missing_time_makes_the_total_unknown_and_drops_its_metric():
    comparison = _comparison(sap=[0.9, 0.8])
    comparison.loc[0, "train_seconds"] = np.nan
    summary = statistics.summary(comparison, ["sap"])
    assert np.isnan(summary.loc[0, "seconds_mean"])
    assert statistics.metrics(summary, 2) == {
        "sap": {
            "final_test_accuracy": 0.85,
            "final_density": 0.41,
            "total_epochs": 10.0,
            "final_channels_removed": 0.5,
            "epochs_saved_against_sap": 0.0,
        }
    }


def test_metrics_of_a_study_that_removes_no_channels_do_not_mention_them():
    summary = statistics.summary(_comparison(sap=[0.9]).assign(channels_removed=0.004), ["sap"])
    keys = {"final_test_accuracy", "final_density", "total_epochs", "total_seconds"}
    assert set(statistics.metrics(summary, 1)["sap"]) == keys | {"epochs_saved_against_sap"}


def test_an_estimate_is_significant_by_its_adjusted_p():
    # t = 3.4641 at 2 degrees of freedom: p = 0.0742; doubled by Holm
    small, none = Estimate.of([1.0, 2.0, 3.0]), Estimate.of([-1.0, 0.0, 1.0])
    assert (small.mean, small.n, small.significant, small.excludes_zero) == (2.0, 3, False, False)
    assert adjusted({"a": small, "b": none})["a"].p == pytest.approx(2 * 0.0741799, rel=1e-5)
    clear = Estimate.of([1.0, 1.3, 0.7])  # t = 5.7735, p = 0.0287
    assert clear.significant and clear.excludes_zero
    assert not adjusted({"a": clear, "b": clear})["a"].significant
    same = Estimate.of([0.5, 0.5])
    assert np.isnan(same.p) and same.significant and same.low == same.high == 0.5
    alone = Estimate.of([0.5])
    assert np.isnan([alone.low, alone.high, alone.p]).all() and not alone.significant


def test_paired_tests_of_all_pairs():
    comparison = _comparison(a=[0.5, 0.6, 0.7], b=[0.4, 0.4, 0.4], c=[0.5, 0.6, 0.7])
    table = statistics.paired_tests(comparison, ["a", "b", "c"]).set_index(["method_a", "method_b"])
    assert list(table.index) == [("a", "b"), ("a", "c"), ("b", "c")]
    row = table.loc[("a", "b")]
    assert (row["mean_difference"], row["n"]) == (pytest.approx(0.2), 3)
    assert row["t_p"] == pytest.approx(0.0741799, rel=1e-5)
    assert row["holm_p"] == pytest.approx(3 * 0.0741799, rel=1e-5)
    assert row["ci95_low"] == pytest.approx(0.2 - 4.302653 * 0.1 / 3**0.5, rel=1e-5)
    assert table.loc[("a", "c"), "t_p"] == 1.0


def test_transfer_summary_is_over_the_seeds_of_a_network():
    columns = ["seed", "method", "iteration", "dataset", "start", "density", "source_test_accuracy", "test_accuracy"]
    rows = [
        (0, "dense", 0, "mnist", "initial", 1.0, 0.9, 0.8),
        (0, "sap", 1, "mnist", "initial", 0.5, 0.9, 0.7),
        (1, "dense", 0, "mnist", "initial", 1.0, 0.8, 0.6),
        (1, "sap", 1, "mnist", "initial", 0.4, 0.7, 0.7),
    ]
    table = statistics.transfer_summary(pd.DataFrame(rows, columns=columns)).set_index("method")
    assert table["seeds"].tolist() == [2, 2]
    assert table["density_mean"].tolist() == pytest.approx([1.0, 0.45])
    assert table["source_test_accuracy_mean"].tolist() == pytest.approx([0.85, 0.8])
    assert table["test_accuracy_mean"].tolist() == pytest.approx([0.7, 0.7])
    assert table["test_accuracy_std"].tolist() == pytest.approx([0.02**0.5, 0.0])
    assert table.loc["dense", "test_accuracy_ci95"] == pytest.approx(12.706205 * 0.1, rel=1e-6)
    empty = statistics.transfer_summary(pd.DataFrame(columns=columns))
    assert empty.empty and "test_accuracy_mean" in empty.columns


def test_collapse_by_bins_of_sparsity():
    # sparsities 0, 0.05 (an edge, as a float just below), 0.93, 0.94, 0.97 and 1
    rows = [("b", 1.0, 0), ("b", 0.95, 0), ("b", 0.07, 0), ("b", 0.06, 1), ("b", 0.03, 1), ("b", 0.0, 1), ("a", 0.5, 0)]
    table = pd.DataFrame(rows, columns=["method", "density", "untrainable"])
    columns = ["method", "density", "kind"]
    nothing = pd.DataFrame(columns=columns)
    collapsed = statistics.collapse(table, nothing, ["b", "a"])
    assert collapsed.values.tolist() == [
        ["b", 0.0, 0.05, 1, 0, 0, 0.0],
        ["b", 0.05, 0.1, 1, 0, 0, 0.0],
        ["b", 0.9, 0.95, 2, 0, 1, 0.5],
        ["b", 0.95, 1.0, 2, 0, 2, 1.0],
        ["a", 0.5, 0.55, 1, 0, 0, 0.0],
    ]
    ended = [("b", 0.061, "collapsed"), ("a", 0.001, "collapsed"), ("b", np.nan, "not_made"), ("b", 0.5, "diverged")]
    with_ended = statistics.collapse(table, pd.DataFrame(ended, columns=columns), ["b", "a"])
    assert with_ended.values[2].tolist() == ["b", 0.9, 0.95, 3, 1, 1, 0.5]  # the share is of the two retrained
    assert with_ended.values[5][:6].tolist() == ["a", 0.95, 1.0, 1, 1, 0] and np.isnan(with_ended.values[5][6])
    assert len(with_ended) == 6
    columns = ["method", "sparsity_from", "sparsity_to", "runs", "collapsed", "untrainable", "untrainable_share"]
    assert list(collapsed.columns) == columns
