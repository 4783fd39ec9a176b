"""TERC keeps what its rule keeps when that is followed by refits, also of copies, which are hardest to tell apart."""

from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.datasets import load_digits
from torch import nn

from features import BOTH, data_of, draw, normal, refitted
from prunus.information.elimination import terc
from prunus.study import layout

# --- the rule, written down and by refits ----------------------------------------------------------------------------

STUDIED = sorted(
    {0.0}
    | {
        share
        for path in [layout.ROOT / layout.PARAMS, *(layout.ROOT / "studies").glob("*/params.yaml")]
        for share in (yaml.safe_load(path.read_text()).get("methods", {}).get("mipp") or {}).get("regularisation", [])
    }
)


def losses_of(data, features):
    return refitted(data, [column for i in features for column in data.columns[i].tolist()])


def by_refits(data, visits, confidence, regularisation, keep_at_least=0):
    """Backward elimination with one refit for every feature, split and step.

    The cheapest goes while it costs nothing; then the cheapest, as long as no more than the budget is lost in all, and
    what costs nothing by then goes with it. Ties by ``visits``.
    """
    everything = list(range(len(data.columns)))
    full, constant = losses_of(data, everything), float(losses_of(data, []).mean())
    quantile, splits = stats.t.ppf(confidence, len(full) - 1), len(full)
    nothing, ratio = 1e-5 * constant, data.held.shape[1] / data.fit.shape[1]
    samples, targets = data.y.shape
    freedom = targets * np.array([len(columns) for columns in data.columns])
    chance = (stats.chi2.isf((1 - confidence) / len(visits), freedom) - freedom) / targets / samples
    left, ceiling, paid = everything, None, everything
    while len(left) > keep_at_least:
        now = losses_of(data, left)
        rises = {i: losses_of(data, [j for j in left if j != i]) - now for i in left}
        mean = {i: float(rise.mean()) for i, rise in rises.items()}
        spread = {i: quantile * float(rise.std()) * (1 / splits + ratio) ** 0.5 for i, rise in rises.items()}
        free = [i for i in left if mean[i] - spread[i] <= max(nothing, chance[i] * float(now.mean()))]
        among = free or left
        lowest = min(mean[i] for i in among)
        goes = next(i for i in visits if i in among and mean[i] <= lowest + nothing)
        if not free:
            loss = float(now.mean())
            if ceiling is None:
                base = min(float(full.mean()), loss)
                ceiling = base + regularisation * max(0.0, constant - base)
            elif loss > ceiling:
                return sorted(paid)
            paid = left
            if loss + mean[goes] > ceiling:
                return sorted(paid)
        left = [i for i in left if i != goes]
    return sorted(left if ceiling is None or float(losses_of(data, left).mean()) <= ceiling else paid)


def tangled(seed, n=240):
    """Ten features, some of two columns, of which some are noise, some mixtures of others and one a blurred copy."""
    x, mixing = normal(n, 6, seed), normal(6, 3, seed + 1)
    features = [*x[:, :4].split([1, 2, 1], 1), normal(n, 1, seed + 2), x[:, :1] + x[:, 3:4]]
    features += [x[:, 4:5], x[:, 4:5] + 0.1 * normal(n, 1, seed + 3), normal(n, 2, seed + 4), x[:, 5:], 2 * x[:, 5:]]
    return features, x @ mixing + normal(n, 3, seed + 5)


@pytest.mark.parametrize("regularisation", STUDIED)
@pytest.mark.parametrize("seed", range(0, 60, 10))
def test_the_closed_form_keeps_what_backward_elimination_by_refits_keeps(seed, regularisation):
    features, target = tangled(seed)
    data = data_of(features, target, repeats=4)
    visits = torch.randperm(10, generator=draw(seed)).tolist()
    for confidence, least in ((0.95, 0), (0.6, 0), (0.95, 4)):
        options = {"confidence": confidence, "regularisation": regularisation, "keep_at_least": least}
        kept = terc(features, target, order=visits, predictor="linear", repeats=4, **options)
        assert kept == by_refits(data, visits, confidence, regularisation, least)


@given(st.integers(0, 10_000), st.sampled_from(["mi", "plain", "descending"]), st.integers(0, 3))
def test_a_budget_is_never_exceeded_and_more_of_it_keeps_a_part_of_what_less_keeps(seed, order, least):
    features, target = tangled(seed)
    data = data_of(features, target)
    full, constant = float(losses_of(data, range(10)).mean()), float(losses_of(data, []).mean())
    before = None
    for share in STUDIED:
        kept = terc(features, target, order=order, predictor="linear", regularisation=share, keep_at_least=least)
        lost = float(losses_of(data, kept).mean()) - full
        if before is None:
            free, before = max(lost, 0.0), set(kept)
        assert lost <= max(free, share * (constant - full)) + 1e-9 * constant
        assert set(kept) <= before and len(kept) >= least
        before = set(kept)


# --- copies ----------------------------------------------------------------------------------------------------------


def graded_copies(count=6, n=600):
    """``count`` variables of falling weight, each of which stands twice, and two columns of noise."""
    x = normal(n, count, 70)
    weights = torch.linspace(1.0, 0.3, count, dtype=torch.float64)
    target = (x * weights) @ torch.linalg.qr(normal(count, count, 71)).Q + 0.1 * normal(n, count, 72)
    return torch.cat([x, 3 * x - 1, normal(n, 2, 73)], 1), target, [(k, k + count) for k in range(count)]


def trained_copies():
    """What the last layer of a network trained on digits reads, five units of which are copies of five others."""
    digits = load_digits()
    images, labels = torch.tensor(digits.data[:700] / 16, dtype=torch.float32), torch.tensor(digits.target[:700])
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 15), nn.ReLU(), nn.Linear(15, 10))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.9)
    for _ in range(150):
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimiser.step()
    with torch.no_grad():
        assert (network(images).argmax(1) == labels).float().mean() > 0.9
        network[2].weight[10:], network[2].bias[10:] = network[2].weight[:5], network[2].bias[:5]
        return network[:4](images).double(), network(images).double(), [(k, k + 10) for k in range(5)]


COPIES = {"data": cache(graded_copies), "network": cache(trained_copies)}


def copies_cases():
    """All combinations for the linear predictor; of the MLP, which takes seconds each, every two of the three."""
    found = []
    for (a, made), (b, share), predictor in product(enumerate(COPIES), enumerate(STUDIED), BOTH):
        orders = ["mi", "plain"] if predictor == "linear" else [("mi", "plain")[(a + b) % 2]]
        found += [(made, predictor, order, share) for order in orders]
    return found


@pytest.mark.parametrize(("made", "predictor", "order", "regularisation"), copies_cases())
def test_of_copies_one_goes_and_one_stays_where_it_is_needed(made, predictor, order, regularisation):
    features, target, pairs = COPIES[made]()
    options = {"predictor": predictor, "repeats": 5 if predictor == "linear" else 3}
    kept = set(terc(features, target, order=order, regularisation=regularisation, **options))
    assert not [pair for pair in pairs if set(pair) <= kept], "both of a pair"
    data = data_of(features, target)
    everything = range(features.shape[1])
    full, constant = float(losses_of(data, everything).mean()), float(losses_of(data, []).mean())
    for pair in pairs:
        if not set(pair) & kept:
            rise = losses_of(data, [i for i in everything if i not in pair]) - losses_of(data, everything)
            shown = float(rise.mean()) - 2.13 * float(rise.std()) * (1 / 5 + 1 / 3) ** 0.5
            allowed = regularisation * (constant - full)
            if predictor == "mlp":  # which makes more of the others than the linear refits here
                allowed += 0.01 * constant
            assert shown <= 1e-5 * constant or float(rise.mean()) <= allowed, f"neither of {pair}"
