"""Methods at equal density or share of channels, by hand."""

import numpy as np
import pandas as pd
import pytest

from prunus.comparing import matched


def test_a_value_is_linear_in_log_density():
    # 0.5 is halfway between 1 and 0.25 in log density; 0.2 lies beyond the sparsest network
    values = matched.value_at([1.0, 0.25], [0.9, 0.8], [1.0, 0.5, 0.25, 0.2])
    assert values == pytest.approx([0.9, 0.85, 0.8, np.nan], nan_ok=True)


def test_grid_density_counts_as_reached_up_to_its_rounding():
    densities = [1.0, 0.8**9]  # 0.13422, in the grid as 0.134
    assert matched.value_at(densities, [0.9, 0.7], [0.134])[0] == pytest.approx(0.7)
    assert np.isnan(matched.value_at(densities, [0.9, 0.7], [0.133])[0])


def test_last_iteration_counts_where_a_density_repeats():
    assert matched.value_at([1.0, 1.0, 0.5, 0.5], [0.9, 0.8, 0.6, 0.7], [1.0, 0.5]) == pytest.approx([0.8, 0.7])


def test_matched_density_lists_what_was_reached_and_counts_seeds():
    chains = [(0, 1, 0.64, 0.9), (0, 2, 0.41, 0.9), (1, 1, 0.64, 0.8), (1, 2, 0.6, 0.8)]  # seed 1 stays above 0.512
    comparison = pd.DataFrame(chains, columns=["seed", "iteration", "density", "test_accuracy"])
    comparison = comparison.assign(method="a", dense_test_accuracy=1.0)
    table = matched.matched_density(comparison, ["a"]).set_index("density")
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
    table = matched.matched_channels(pd.concat(chains), "mipp", ["other_at_mipp"])
    assert set(table["seed"]) == {0}
    by_method = table.set_index(["method", "iteration"])
    assert by_method["channels_removed"]["other"].tolist() == [0.1, 0.4, 0.7]
    # 0.1 is halfway from the dense network's 0.9 to 0.86 at 0.2; 0.4 is its own iteration; nothing reaches 0.7
    assert by_method["test_accuracy"]["other"].tolist() == pytest.approx([0.88, 0.7, np.nan], nan_ok=True)
    assert by_method["interpolated"]["other"].tolist() == [1, 0, 1]
    assert by_method["test_accuracy"]["mipp"].tolist() == [0.88, 0.8, 0.6]
    assert by_method["test_accuracy"]["other_at_mipp"].tolist() == [0.87, 0.75, 0.5]
    assert not by_method["interpolated"][["mipp", "other_at_mipp"]].any()
    assert by_method["test_accuracy"]["sap"].isna().all()


def test_matched_channels_of_a_ratio_that_repeats_takes_the_last_iteration():
    chains = [_chain("mipp", [0.2, 0.3], [0.9, 0.9]), _chain("other", [0.2, 0.2, 0.4], [0.5, 0.7, 0.3])]
    accuracy = matched.matched_channels(pd.concat(chains), "mipp").set_index(["method", "iteration"])["test_accuracy"]
    assert accuracy["other"].tolist() == pytest.approx([0.7, 0.5])


@pytest.mark.parametrize("method", ["other", "mipp"])
def test_matched_channels_without_a_reference_that_removes_any_is_empty(method):
    table = matched.matched_channels(_chain(method, [0.0, 0.0], [0.9, 0.9]), "mipp")
    assert table.empty
    columns = ["seed", "iteration", "channels_removed", "method", "test_accuracy", "interpolated"]
    assert list(table.columns) == columns


def _runs(**seconds):
    rows = [("reference_flow", int(seed.removeprefix("seed")), total) for seed, total in seconds.items()]
    return pd.DataFrame([*rows, ("pretrain", 0, 99.0)], columns=["stage", "seed", "seconds_flow"])


def _halving(method, density, epochs, seed=0, epsilon=np.nan):
    """Iterations that each leave ``density`` of the weights, last about as many seconds as epochs and lose 1 %."""
    rows = []
    for t, spent in enumerate(epochs, start=1):
        row = {"seed": seed, "method": method, "iteration": t, "density": density**t, "epochs": spent}
        row |= {"dense_test_accuracy": 1.0, "test_accuracy": 1.0 - 0.01 * t, "epsilon": epsilon}
        row |= {"prune_seconds": 0.25, "train_seconds": spent - 1.0, "flow_seconds": 0.5, "evaluation_seconds": 0.25}
        rows.append(row)
    return pd.DataFrame(rows)


def test_equal_density_by_hand():
    # a ends at 1/4 after two halvings; b quarters, so it is there after one iteration, and at 1/16 after two
    chains = pd.concat([_halving("a", 0.5, [4, 6]), _halving("b", 0.25, [3, 5], epsilon=0.1)])
    table = matched.equal_density(matched.from_dense(chains, _runs(seed0=0.75))).set_index("method")
    assert table["density"].tolist() == [0.25, 0.25]
    assert table["last_density"].tolist() == [0.25, 0.0625]
    assert table["epochs"].tolist() == pytest.approx([10, 3])
    assert table["seconds"].tolist() == pytest.approx([10, 3.75])  # b looks at flow, so Phi* is its own cost
    assert table["test_accuracy"].tolist() == pytest.approx([0.98, 0.99])


def test_equal_density_between_iterations_and_seed_by_seed():
    chains = pd.concat(
        [
            _halving("a", 0.5, [4]),
            _halving("b", 0.25, [3, 5]),
            _halving("a", 0.25, [4], seed=1),
            _halving("b", 0.5, [3, 5], seed=1),
        ]
    )
    table = matched.equal_density(matched.from_dense(chains, _runs(seed0=1.0, seed1=1.0))).set_index(["seed", "method"])
    # 1/2 is half of the way to 1/4 in log density: half of b's first iteration
    assert table.loc[(0, "b"), ["density", "epochs", "test_accuracy"]].tolist() == pytest.approx([0.5, 1.5, 0.995])
    assert table.loc[(1, "a"), ["density", "epochs", "seconds"]].tolist() == pytest.approx([0.25, 4, 4])
    assert table.loc[(1, "b"), "epochs"] == pytest.approx(8)


def test_an_unknown_time_is_unknown_at_equal_density_only_where_it_counts():
    chains = pd.concat([_halving("a", 0.5, [4]), _halving("b", 0.5, [3, 5])]).reset_index(drop=True)
    chains.loc[2, "train_seconds"] = np.nan  # b's second iteration, past the density that a reaches
    table = matched.equal_density(matched.from_dense(chains, _runs(seed0=1.0)))
    assert table["seconds"].tolist() == pytest.approx([4, 3])
    chains.loc[1, "train_seconds"] = np.nan
    table = matched.equal_density(matched.from_dense(chains, _runs(seed0=1.0)))
    assert table["seconds"].tolist() == pytest.approx([4, np.nan], nan_ok=True)
    assert table["epochs"].tolist() == [4, 3]
