import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunus.reporting import statistics

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


def test_accuracy_is_linear_in_log_density():
    # 0.5 is halfway between 1 and 0.25 in log density; 0.2 lies beyond the sparsest network
    found = statistics.accuracy_at([1.0, 0.25], [0.9, 0.8], [1.0, 0.5, 0.25, 0.2])
    assert found == pytest.approx([0.9, 0.85, 0.8, np.nan], nan_ok=True)


def test_grid_density_counts_as_reached_up_to_its_rounding():
    densities = [1.0, 0.8**9]  # 0.13422, in the grid as 0.134
    assert statistics.accuracy_at(densities, [0.9, 0.7], [0.134])[0] == pytest.approx(0.7)
    assert np.isnan(statistics.accuracy_at(densities, [0.9, 0.7], [0.133])[0])


def test_last_iteration_counts_where_a_density_repeats():
    assert statistics.accuracy_at([1.0, 1.0, 0.5, 0.5], [0.9, 0.8, 0.6, 0.7], [1.0, 0.5]) == pytest.approx([0.8, 0.7])


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
                row |= {"collapsed": 0, "untrainable": 0, "prune_seconds": 4.0}
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
    assert statistics.metrics(summary) == {
        "sap": {
            "final_test_accuracy": 0.85,
            "final_density": 0.41,
            "total_epochs": 10.0,
            "prune_seconds": 8.0,
            "final_channels_removed": 0.5,
            "final_compact_parameters": 0.25,
            "speedup_1": 1.5,
            "speedup_256": 3.5,
            "epochs_saved_against_sap": 0.0,
        }
    }


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


def test_matched_density_lists_what_was_reached_and_counts_seeds():
    comparison = _comparison(a=[0.9, 0.8])
    late = (comparison["seed"] == 1) & (comparison["iteration"] == 2)
    comparison.loc[late, "density"] = 0.6  # this seed stays above 0.512
    table = statistics.matched_density(comparison, ["a"]).set_index("density")
    assert list(table.index) == [0.8, 0.64, 0.512, 0.41]
    assert table.loc[0.64, "test_accuracy_mean"] == pytest.approx(0.85)
    assert list(table["n"]) == [2, 2, 1, 1]
    assert table.loc[0.41, "test_accuracy_mean"] == pytest.approx(0.9)
    assert np.isnan(table.loc[0.41, "test_accuracy_std"])


def _chain(method, removed, accuracies, seed=0):
    return pd.DataFrame(
        {
            "method": method,
            "seed": seed,
            "iteration": range(1, len(removed) + 1),
            "channels_removed": removed,
            "test_accuracy": accuracies,
            "dense_test_accuracy": 0.9,
        }
    )


def test_matched_channels_by_hand():
    chains = [
        _chain("mipp", [0.1, 0.4, 0.7], [0.88, 0.8, 0.6]),
        _chain("other", [0.2, 0.4], [0.86, 0.7]),
        _chain("other_at_mipp", [0.09, 0.4, 0.69], [0.87, 0.75, 0.5]),  # rounded to whole channels
        _chain("sap", [0.0, 0.0, 0.0], [0.9, 0.8, 0.7]),
        _chain("other", [0.9], [0.0], seed=1),  # MIPP has no such seed
    ]
    table = statistics.matched_channels(pd.concat(chains), "mipp", ["other_at_mipp"])
    assert set(table["seed"]) == {0}
    found = table.set_index(["method", "iteration"])
    assert found["channels_removed"]["other"].tolist() == [0.1, 0.4, 0.7]
    # 0.1 is halfway from the dense network's 0.9 to 0.86 at 0.2; 0.4 is its own iteration; nothing reaches 0.7
    assert found["test_accuracy"]["other"].tolist() == pytest.approx([0.88, 0.7, np.nan], nan_ok=True)
    assert found["interpolated"]["other"].tolist() == [1, 0, 1]
    assert found["test_accuracy"]["mipp"].tolist() == [0.88, 0.8, 0.6]
    assert found["test_accuracy"]["other_at_mipp"].tolist() == [0.87, 0.75, 0.5]
    assert not found["interpolated"][["mipp", "other_at_mipp"]].any()
    assert found["test_accuracy"]["sap"].isna().all()


def test_matched_channels_of_a_ratio_that_repeats_takes_the_last_iteration():
    chains = [_chain("mipp", [0.2, 0.3], [0.9, 0.9]), _chain("other", [0.2, 0.2, 0.4], [0.5, 0.7, 0.3])]
    found = statistics.matched_channels(pd.concat(chains), "mipp").set_index(["method", "iteration"])["test_accuracy"]
    assert found["other"].tolist() == pytest.approx([0.7, 0.5])


@pytest.mark.parametrize("method", ["other", "mipp"])
def test_matched_channels_without_a_reference_that_removes_any_is_empty(method):
    table = statistics.matched_channels(_chain(method, [0.0, 0.0], [0.9, 0.9]), "mipp")
    assert table.empty
    columns = ["seed", "iteration", "channels_removed", "method", "test_accuracy", "interpolated"]
    assert list(table.columns) == columns


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
    rows = [
        ("b", 1.0, 0, 0),
        ("b", 0.95, 0, 0),
        ("b", 0.07, 1, 0),
        ("b", 0.06, 2, 1),
        ("b", 0.03, 1, 1),
        ("b", 0.0, 4, 1),
    ]
    rows.append(("a", 0.5, 0, 0))
    table = pd.DataFrame(rows, columns=["method", "density", "collapsed", "untrainable"])
    found = statistics.collapse(table, ["b", "a"])
    assert found.values.tolist() == [
        ["b", 0.0, 0.05, 1, 0, 0, 0.0],
        ["b", 0.05, 0.1, 1, 0, 0, 0.0],
        ["b", 0.9, 0.95, 2, 2, 1, 0.5],
        ["b", 0.95, 1.0, 2, 2, 2, 1.0],
        ["a", 0.5, 0.55, 1, 0, 0, 0.0],
    ]
    columns = ["method", "sparsity_from", "sparsity_to", "runs", "collapsed", "untrainable", "untrainable_share"]
    assert list(found.columns) == columns
