"""Methods at equal density or equal share of channels, read off their chains between iterations: accuracy and cost."""

from collections.abc import Collection

import numpy as np
import pandas as pd

from prunus.comparing.statistics import SECONDS, mean_std_interval

DENSITY_GRID = (0.8, 0.64, 0.512, 0.41, 0.328, 0.262, 0.21, 0.168, 0.134, 0.107, 0.05, 0.02, 0.01)
GRID_ROUNDING = 0.005  # the grid holds rounded powers of 0.8 (0.8^9 = 0.1342), and counts of weights are rounded too
SAME_RATIO = 1e-9  # fractions of channels that differ by less are equal


def value_at(densities, values, grid) -> np.ndarray:
    """``values`` of one chain interpolated at the densities of ``grid``, linear in log density, [len(grid)].

    ``densities`` and ``values`` run from the dense network to the last iteration; where a density repeats, the last
    iteration counts. NaN beyond the sparsest: nothing is extrapolated, except for the grid's own rounding (0.5 %).
    """
    points = sorted(dict(zip(np.log(densities), values, strict=True)).items())
    log_densities, known = np.array(points, dtype=float).T
    wanted = np.log(np.asarray(grid, dtype=float))
    reached = wanted >= log_densities[0] + np.log1p(-GRID_ROUNDING)
    return np.where(reached, np.interp(wanted, log_densities, known, right=np.nan), np.nan)


def matched_density(comparison: pd.DataFrame, methods: list[str]) -> pd.DataFrame:
    """One row per grid density and method: mean and std of test accuracy over the n seeds that reached it.

    Only densities that some chain reached are listed.
    """
    chains = {}
    for (method, seed), chain in comparison.groupby(["method", "seed"], sort=False):
        chain = chain.sort_values("iteration")
        densities = [1.0, *chain["density"]]
        accuracies = [chain["dense_test_accuracy"].iloc[0], *chain["test_accuracy"]]
        chains[method, seed] = value_at(densities, accuracies, DENSITY_GRID)
    rows = []
    for position, density in enumerate(DENSITY_GRID):
        accuracies = {method: [c[position] for (name, _), c in chains.items() if name == method] for method in methods}
        for method, values in accuracies.items():
            reached = [value for value in values if not np.isnan(value)]
            mean, std, _ = mean_std_interval(reached)
            rows.append(
                {
                    "density": density,
                    "method": method,
                    "test_accuracy_mean": mean,
                    "test_accuracy_std": std,
                    "n": len(reached),
                }
            )
    table = pd.DataFrame(rows)
    return table[table.groupby("density")["n"].transform("max") > 0].reset_index(drop=True)


def _accuracy_at_ratio(chain: pd.DataFrame, ratio: float) -> tuple[float, bool]:
    """Accuracy of one chain with ``ratio`` of the channels removed, and whether it is interpolated.

    Linear between iterations, from the dense network at 0; where a ratio repeats, the last iteration counts. NaN beyond
    the last: nothing is extrapolated.
    """
    removed = np.r_[0.0, chain["channels_removed"]]
    accuracy = np.r_[chain["dense_test_accuracy"].iloc[0], chain["test_accuracy"]]
    if len(same_ratio := np.flatnonzero(abs(removed - ratio) <= SAME_RATIO)):
        return float(accuracy[same_ratio[-1]]), False
    ratios, accuracies = np.array(sorted(dict(zip(removed, accuracy, strict=True)).items())).T
    return float(np.interp(ratio, ratios, accuracies, right=np.nan)), True


def matched_channels(comparison: pd.DataFrame, reference: str, imposed: Collection[str] = ()) -> pd.DataFrame:
    """Every method's accuracy with as many channels removed as each iteration of ``reference``, seed by seed.

    This is MIPP's protocol (Westphal et al., section 5): its realised ratio is imposed on methods that cannot find one.
    The chains called ``imposed`` were pruned to that ratio, iteration by iteration, up to rounding to whole channels:
    the accuracy of the same iteration is taken. The others are read off their curves, and ``interpolated`` is 1 unless
    an iteration has exactly that ratio; NaN beyond the last one. Empty if ``reference`` removes no channels.
    """
    columns = ["seed", "iteration", "channels_removed", "method", "test_accuracy", "interpolated"]
    chains = {key: rows.sort_values("iteration") for key, rows in comparison.groupby(["seed", "method"], sort=False)}
    rows = []
    if not (comparison.loc[comparison["method"] == reference, "channels_removed"] > 0).any():
        return pd.DataFrame(rows, columns=columns)
    for (seed, name), chain in chains.items():
        if name != reference:
            continue
        others = {method: other for (other_seed, method), other in chains.items() if other_seed == seed}
        for t, ratio in zip(chain["iteration"], chain["channels_removed"], strict=True):
            for method, other in others.items():
                if method == reference or method in imposed:
                    accuracies = other.loc[other["iteration"] == t, "test_accuracy"]
                    accuracy, interpolated = (accuracies.item() if len(accuracies) else np.nan), False
                else:
                    accuracy, interpolated = _accuracy_at_ratio(other, ratio)
                rows.append((seed, t, ratio, method, accuracy, int(interpolated)))
    return pd.DataFrame(rows, columns=columns)


def from_dense(comparison: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """One row per seed, method and iteration from the dense network (0) on: density, accuracy, its epochs and seconds.

    Training the dense network is common to all methods and not counted. A method with a flow rule (an epsilon) starts
    with the seconds of measuring Phi*: ``seconds_flow`` of that stage in ``runs``.
    """
    measured = runs[runs["stage"] == "reference_flow"].set_index("seed")["seconds_flow"]
    table = comparison.assign(seconds=comparison[list(SECONDS)].sum(axis=1, skipna=False))
    rows = []
    for (seed, method), chain in table.groupby(["seed", "method"], sort=False):
        seconds = measured[seed] if chain["epsilon"].notna().any() else 0.0
        dense = {"seed": seed, "method": method, "iteration": 0, "density": 1.0, "epochs": 0.0, "seconds": seconds}
        dense["test_accuracy"] = chain["dense_test_accuracy"].iloc[0]
        rows += [dense, *chain.sort_values("iteration").to_dict("records")]
    return pd.DataFrame(rows, columns=["seed", "method", "iteration", "density", "test_accuracy", "epochs", "seconds"])


def equal_density(chains: pd.DataFrame, costs: Collection[str] = ("epochs", "seconds")) -> pd.DataFrame:
    """One row per seed and method at the smallest density that all methods of the seed reach.

    ``chains``: the table of ``from_dense``, of complete chains only, with a column per cost; an incomplete chain would
    move the comparison of its seed to the density where it stopped. ``costs`` are summed from the dense network on and
    read off, like test accuracy, linearly in log density between iterations; ``last_density`` is where a chain ends.
    """
    rows = []
    for seed, of_seed in chains.groupby("seed", sort=False):
        by_method = dict(list(of_seed.groupby("method", sort=False)))
        density = max(chain["density"].iloc[-1] for chain in by_method.values())
        for method, chain in by_method.items():
            row = {"seed": seed, "method": method, "density": density, "last_density": chain["density"].iloc[-1]}
            spent = {cost: chain[cost].cumsum(skipna=False) for cost in costs}
            for name, values in {"test_accuracy": chain["test_accuracy"], **spent}.items():
                row[name] = float(value_at(chain["density"], values, [density])[0])
            rows.append(row)
    return pd.DataFrame(rows, columns=["seed", "method", "density", "last_density", "test_accuracy", *costs])
