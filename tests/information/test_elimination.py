import math

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.datasets import load_digits
from torch import nn

from prunus import information
from prunus.information import linear, mlp
from prunus.information.elimination import by_blocks, terc
from prunus.information.estimate import predictive_information, prepared
from prunus.information.samples import RIDGE
from prunus.information.significance import RiseTest
from prunus.study import layout

BOTH = ("linear", "mlp")


def draw(seed):
    return torch.Generator().manual_seed(seed)


def bits(n, count, seed):
    return torch.randint(0, 2, (n, count), generator=draw(seed))


def normal(n, count, seed):
    return torch.randn(n, count, generator=draw(seed), dtype=torch.float64)


def data_of(features, target, repeats=5, seed=0):
    return prepared(features, target, repeats, seed, in_units=False)


# --- synthetic tasks of the TERC paper -------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["mi", "plain"])
@pytest.mark.parametrize("seed", range(20))
def test_four_redundant_variables_keep_one(seed, order):
    x = bits(2000, 3, seed)
    target = ((x[:, 0] == x[:, 1]) & (x[:, 1] == x[:, 2])).long()
    kept = terc(torch.cat([x, x[:, :1].expand(-1, 3)], 1), target, order=order, seed=seed)
    assert len(kept) == 3
    assert {1, 2} < set(kept)


@pytest.mark.parametrize("order", ["mi", "plain"])
@pytest.mark.parametrize("seed", range(20))
def test_two_redundant_triplets_keep_one_of_each_pair(seed, order):
    x = bits(2000, 3, seed)
    target = ((x[:, 0] == x[:, 1]) & (x[:, 1] == x[:, 2])).long()
    kept = terc(torch.cat([x, x], 1), target, order=order, seed=seed)
    assert sorted(i % 3 for i in kept) == [0, 1, 2]


@pytest.mark.parametrize("order", ["mi", "plain", "reversed", "descending", [4, 1, 3, 0, 2, 5]])
def test_xor_pair_is_kept_and_noise_goes(order):
    x = bits(2000, 6, 1)
    assert terc(x, x[:, 1] ^ x[:, 4], order=order) == [1, 4]


def test_a_linear_predictor_sees_nothing_in_xor():
    x = bits(4000, 6, 1)
    assert terc(x, x[:, 1] ^ x[:, 4], predictor="linear") == []
    assert len(terc(x, x[:, 1] ^ x[:, 4], predictor="linear", keep_at_least=2)) == 2


@pytest.mark.parametrize("predictor", BOTH)
def test_noise_columns_go(predictor):
    x = normal(2000, 8, 2)
    target = x[:, [1, 5]] @ torch.tensor([[1.0, 0.5], [-0.5, 1.0]], dtype=torch.float64) + 0.1 * normal(2000, 2, 3)
    assert terc(x, target, predictor=predictor) == [1, 5]


@pytest.mark.parametrize("predictor", BOTH)
@pytest.mark.parametrize("regularisation", [0.0, 0.01])
def test_exactly_one_copy_survives_the_last_examined(predictor, regularisation):
    x = normal(2000, 3, 4)
    features = torch.cat([x, 2 * x[:, :2] - 1, -x[:, :2], torch.full((2000, 1), 7.0)], 1)
    target = x @ normal(3, 4, 5) + 0.1 * normal(2000, 4, 6)
    options = {"predictor": predictor, "regularisation": regularisation}
    assert terc(features, target, order="plain", **options) == [2, 5, 6]
    assert terc(features, target, order="reversed", **options) == [0, 1, 2]
    kept = terc(features, target, **options)
    assert sorted(i % 5 if i > 4 else i % 3 for i in kept) == [0, 1, 2]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("joint", ["pair", "xor"])
def test_order_decides_between_one_rich_and_two_poor_variables(seed, joint):
    x = bits(2000, 2, seed)
    features = torch.cat([x[:, :1] + 2 * x[:, 1:], x], 1)
    target = x if joint == "pair" else x[:, 0] ^ x[:, 1]
    assert terc(features, target, order="mi", seed=seed) == [0]
    assert terc(features, target, order="plain", seed=seed) == [1, 2]
    assert terc(features, target, order="descending", seed=seed) == [1, 2]


# --- the estimate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("predictor", BOTH)
def test_linear_gaussian_information_is_the_explained_variance(predictor):
    mixing = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, -1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    x = normal(8000, 3, 0)
    estimate = predictive_information(x, x @ mixing + 5 + normal(8000, 3, 1), predictor=predictor)
    exact = float(mixing.square().sum())  # Var(E[Y_j | X]) = sum_i a_ij^2
    assert estimate.mean == pytest.approx(exact, rel=0.04)
    assert estimate.low < estimate.mean < estimate.high
    assert estimate.high - estimate.low < 0.2 * exact


def test_the_share_is_one_where_all_is_explained_and_none_where_nothing_is():
    x = normal(400, 3, 0)
    whole = predictive_information(x, x @ normal(3, 2, 1), predictor="linear", share=True)
    assert (whole.low, whole.mean, whole.high) == pytest.approx((1, 1, 1), abs=1e-9)
    half = predictive_information(normal(8000, 2, 2)[:, :1], normal(8000, 2, 2), predictor="linear", share=True)
    assert half.mean == pytest.approx(0.5, abs=0.03)
    rare = torch.zeros(400, 1)
    rare[0] = 1  # the held-out images of some splits are all alike
    assert predictive_information(x, rare, predictor="linear", share=True).mean == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("predictor", BOTH)
def test_without_an_irrelevant_input_the_loss_returns_to_the_baseline(predictor):
    x = normal(4000, 3, 0)
    target = x[:, :2] @ normal(2, 2, 1) + 0.5 * normal(4000, 2, 2)
    whole, relevant, half, nothing = (
        predictive_information(x[:, columns], target, predictor=predictor).mean
        for columns in ([0, 1, 2], [0, 1], [0], [2])
    )
    assert relevant == pytest.approx(whole, rel=0.01)
    assert half < 0.9 * whole
    assert abs(nothing) < 0.02 * whole


@pytest.mark.parametrize("seed", range(3))
def test_discrete_information_in_nats(seed):
    joint = np.array([[0.30, 0.02, 0.08], [0.05, 0.25, 0.05], [0.01, 0.04, 0.20]])
    exact = float((joint * np.log(joint / joint.sum(1, keepdims=True) / joint.sum(0))).sum())
    drawn = np.random.default_rng(seed).choice(9, 8000, p=joint.ravel())
    codes = np.eye(3)[drawn // 3]
    estimate = predictive_information(codes, drawn % 3, seed=seed)
    assert estimate.mean == pytest.approx(exact, abs=0.03)
    both = predictive_information(codes, np.stack([drawn % 3, drawn % 3], 1), seed=seed)
    assert both.mean == pytest.approx(2 * exact, abs=0.06)


def test_linear_information_about_classes_is_that_of_the_one_hot_code():
    x = bits(8000, 1, 0)
    flipped = torch.rand(8000, generator=draw(1)) < 0.1
    target = x[:, 0].bool() ^ flipped
    estimate = predictive_information(x, target, predictor="linear")
    assert estimate.mean == pytest.approx(2 * 0.4**2, rel=0.05)  # E[Y | X] is 0.1 or 0.9, for both classes


@pytest.mark.parametrize("targets", [1, 4])
def test_irrelevant_columns_are_kept_by_chance_no_more_often_than_confidence_says(targets):
    """At 0.95 in one run of twenty at most a column of noise, however many there are."""
    runs = [terc(normal(500, 25, 2 * s), normal(500, targets, 2 * s + 1), predictor="linear") for s in range(100, 160)]
    assert sum(bool(kept) for kept in runs) <= 6


# --- linear predictor ------------------------------------------------------------------------------------------------


def refitted(data, columns):
    """Held-out losses [R] by explicit ridge regression with an intercept."""
    losses = []
    for fit, held in zip(data.fit, data.held, strict=True):
        x, y = data.x[:, columns], data.y
        centred = x[fit] - x[fit].mean(0)
        gram = centred.T @ centred / len(fit) + RIDGE * torch.eye(len(columns), dtype=torch.float64)
        weights = torch.linalg.solve(gram, centred.T @ (y[fit] - y[fit].mean(0)) / len(fit))
        predicted = y[fit].mean(0) + (x[held] - x[fit].mean(0)) @ weights
        losses.append((y[held] - predicted).square().sum(1).mean())
    return torch.stack(losses)


@pytest.mark.parametrize("panel", [1, 3, 32])
def test_costs_equal_refits(panel, monkeypatch):
    """Of features of unequal width, before and after removals that are carried over one by one or many at a time."""
    monkeypatch.setattr(linear, "PANEL", panel)
    base = normal(300, 7, 0)
    mixed = base @ normal(7, 12, 1) + 0.3 * normal(300, 12, 2)
    groups = [mixed[:, :1], mixed[:, 1:4], mixed[:, 4:5], mixed[:, 5:7], mixed[:, 7:9], mixed[:, 9:]]
    data = data_of(groups, mixed @ normal(12, 5, 3) + normal(300, 5, 4), repeats=3)
    fitted = linear.Linear(data, 0)
    left = list(range(6))

    def columns(features):
        return [column for i in features for column in data.columns[i].tolist()]

    assert torch.allclose(fitted.constant, refitted(data, []), rtol=1e-9)
    single = torch.stack([(refitted(data, []) - refitted(data, columns([i]))).mean() for i in left])
    assert torch.allclose(fitted.single(), single, rtol=1e-6)
    for removed in (3, 0, 1, 5, 2, 4):
        assert torch.allclose(fitted.now, refitted(data, columns(left)), rtol=1e-6)
        for i in left:
            expected = refitted(data, columns(set(left) - {i}))
            assert torch.allclose(fitted.now + fitted.costs()[:, i], expected, rtol=1e-6)
        fitted.remove(removed)
        left.remove(removed)
    assert torch.allclose(fitted.now, fitted.constant)
    assert torch.allclose(fitted.full, refitted(data, columns(range(6))), rtol=1e-6)


# --- tasks of our own, each with its answer --------------------------------------------------------------------------


def sampled(n=2000, count=6, seed=60):
    return normal(n, count, seed), 0.1 * normal(n, 1, seed + 1)


def relay(x, noise):
    """x1 says what x0 says, blurred; x2 blurs x1: only x0 is needed."""
    first = x[:, :1] + 0.5 * x[:, 1:2]
    return torch.cat([x[:, :1], first, first + 0.5 * x[:, 2:3]], 1), x[:, :1] + noise


def sum_of_two(x, noise):
    """Of x0, x1 and their sum any two say everything."""
    return torch.cat([x[:, :2], x[:, :1] + x[:, 1:2]], 1), x[:, :2] @ normal(2, 3, 1) + noise


def weak_and_alone(x, noise):
    """x0 stands three times and carries nearly everything, x1 once and carries little that nobody else does."""
    return torch.cat([x[:, :1], x[:, 1:2], 2 * x[:, :1], -x[:, :1]], 1), x[:, :1] + 0.05 * x[:, 1:2] + 0.1 * noise


def shares_of_one(x, noise):
    """Three indicators of one variable add up to 1: the third is known from two."""
    code = torch.nn.functional.one_hot((x[:, :1] > -0.4).long() + (x[:, :1] > 0.4).long(), 3)[:, 0].double()
    return code, code @ normal(3, 2, 2) + noise


def bent(x, noise):
    """|x| beside x: what the target is made of."""
    return torch.cat([x[:, :1], x[:, :1].abs(), x[:, 1:3]], 1), x[:, :1].abs() + noise


def product(x, noise):
    """The product of two variables, whose sum is beside them and a copy of one."""
    return torch.cat([x[:, :2], x[:, :1], x[:, 2:4]], 1), x[:, :1] * x[:, 1:2] + noise


def parity(x, noise):
    """The parity of three bits, one of which stands twice."""
    bit = (x[:, :3] > 0).long()
    return torch.cat([bit, bit[:, 2:]], 1), bit.sum(1) % 2


def as_numbers(x, noise):
    """`4red_varbs` of the TERC paper with numbers for classes: the target is an exact function of the features."""
    bit = (x[:, :3] > 0).double()
    return torch.cat([bit, bit[:, :1].expand(-1, 3)], 1), (bit == bit[:, :1]).all(1).double()


def pair_of_columns(x, noise):
    """A feature of two columns, each of which stands alone as well."""
    return [x[:, :2], x[:, :1], x[:, 1:2], x[:, 2:3]], x[:, :2] @ normal(2, 2, 3) + noise


CASES = [
    (relay, BOTH, lambda kept: kept == [0]),
    (sum_of_two, BOTH, lambda kept: len(kept) == 2),
    (weak_and_alone, ("linear",), lambda kept: len(kept) == 2 and 1 in kept),
    (shares_of_one, BOTH, lambda kept: len(kept) == 2),
    (bent, ("linear",), lambda kept: kept == [1]),
    (bent, ("mlp",), lambda kept: kept in ([0], [1])),
    (product, ("mlp",), lambda kept: kept in ([0, 1], [1, 2])),
    (parity, ("mlp",), lambda kept: kept in ([0, 1, 2], [0, 1, 3])),
    (as_numbers, ("mlp",), lambda kept: len(kept) == 3 and {1, 2} < set(kept)),
    (pair_of_columns, BOTH, lambda kept: kept in ([0], [1, 2])),
]


@pytest.mark.parametrize("order", ["mi", "plain", "reversed"])
@pytest.mark.parametrize(
    ("make", "predictor", "right"),
    [pytest.param(make, p, right, id=f"{make.__name__}-{p}") for make, predictors, right in CASES for p in predictors],
)
def test_cases_with_a_known_answer(make, predictor, right, order):
    features, target = make(*sampled())
    kept = terc(features, target, order=order, predictor=predictor, regularisation=0.0)
    assert right(kept), kept


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


@pytest.fixture(scope="module", params=[graded_copies, trained_copies], ids=["data", "network"])
def copies(request):
    return request.param()


@pytest.mark.parametrize("regularisation", STUDIED)
@pytest.mark.parametrize("order", ["mi", "plain"])
@pytest.mark.parametrize("predictor", BOTH)
def test_of_copies_one_goes_and_one_stays_where_it_is_needed(copies, predictor, order, regularisation):
    features, target, pairs = copies
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


# --- many hypotheses at once -----------------------------------------------------------------------------------------


def test_batches_do_not_depend_on_the_chunk_size():
    x = bits(600, 3, 0).double()
    features = torch.cat([x, x[:, :1], normal(600, 2, 1)], 1)
    data = data_of(features, (x[:, 0].bool() ^ x[:, 1].bool()).double() + x[:, 2] + 0.1 * normal(600, 1, 2)[:, 0])
    removals = [(0,), (1,), (2,), (0, 3), (0, 4), (0, 4, 5), (4, 5)]
    verdicts, fulls = [], []
    for memory in (1, 2**21, 2**30):
        fitted = mlp.MLP(data, 0, memory=memory)
        limit = float(fitted.full.mean()) * 1.05

        def passed(ids, losses, limit=limit):
            return 2 * (losses.mean(0) <= limit,)

        found, losses = fitted.passes(removals, passed)
        assert all((float(losses[:, k].mean()) <= limit) == good for k, good in enumerate(found) if losses[0, k] < 1e9)
        verdicts.append(found)
        fulls.append(fitted.full)
    assert verdicts[0] == [True, False, False, False, True, True, True]
    assert verdicts[1] == verdicts[0] == verdicts[2]
    assert torch.equal(fulls[0], fulls[2])


class Cover:
    """Stands for a predictor: the loss is what no remaining feature covers, monotone by construction."""

    def __init__(self, covers, weights=None):
        self.covers, self.asked = covers, 0
        self.weights = torch.ones(covers.shape[1]) if weights is None else weights
        self.full = self.now = self.losses(())
        self.constant = self.weights.sum().expand(2)

    def losses(self, removed):
        left = self.covers[[i for i in range(len(self.covers)) if i not in removed]]
        return self.weights[~left.any(0)].sum().expand(2)

    def passes(self, removals, passed):
        if not removals:
            return [], torch.zeros(2, 0)
        self.asked += len(removals)
        losses = torch.stack([self.losses(removal) for removal in removals], 1)
        return passed(torch.arange(len(removals)), losses)[1].tolist(), losses

    def accept(self, removal):
        self.now = self.losses(removal)


def one_by_one(cover, visits, budget, keep_at_least):
    """The rule as it is written down: what is free goes in turn, then the cheapest while the budget lasts."""
    removed, start = [], None
    while len(visits) - len(removed) > keep_at_least:
        left = [i for i in visits if i not in removed]
        now = float(cover.losses(removed)[0])
        costs = {i: float(cover.losses([*removed, i])[0]) - now for i in left}
        free = [i for i in left if costs[i] <= 0]
        if free:
            removed.append(free[0])
            continue
        start = now if start is None else start
        cheapest = min(left, key=lambda i: (costs[i], visits.index(i)))
        if now + costs[cheapest] > start + budget:
            break
        removed.append(cheapest)
    return sorted(set(visits) - set(removed))


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("keep_at_least", [0, 9])
def test_blocks_end_where_one_by_one_ends(seed, keep_at_least):
    count = 40
    cover = Cover(torch.rand(count, 30, generator=draw(seed)) < (0.02, 0.1, 0.3)[seed % 3])
    visits = torch.randperm(count, generator=draw(seed)).tolist()
    test = RiseTest(2.0, 1 / 3, 0.0)
    expected = one_by_one(cover, visits, 0.0, keep_at_least)
    assert by_blocks(cover, visits, test, 0.0, keep_at_least) == expected


@pytest.mark.parametrize("seed", range(10))
def test_a_budget_takes_the_cheapest_first_and_is_not_exceeded(seed):
    """Each feature covers something of its own, so that costs do not change, and most stand twice."""
    own = torch.eye(40, dtype=torch.bool)
    cover = Cover(torch.cat([own, own[:25]]), torch.rand(40, generator=draw(seed)))
    visits, test = torch.randperm(65, generator=draw(seed)).tolist(), RiseTest(2.0, 1 / 3, 0.0)
    sizes = []
    for budget in (0.0, 0.3, 2.0, 8.0, 100.0):
        kept = by_blocks(cover, visits, test, budget / float(cover.constant.mean()), 1)
        assert kept == one_by_one(cover, visits, budget, 1)
        assert float(cover.losses(set(range(65)) - set(kept))[0]) <= budget
        assert not {i for i in kept if i < 25} & {i - 40 for i in kept if i >= 40}
        sizes.append(len(kept))
        cover.accept(())
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == 40 and sizes[-1] == 1


def test_blocks_need_few_tests_where_much_goes():
    cover, test = Cover(torch.eye(200, dtype=torch.bool)[:, :3]), RiseTest(2.0, 1 / 3, 0.0)
    assert by_blocks(cover, list(range(200))[::-1], test, 0.0, 0) == [0, 1, 2]
    assert cover.asked < 100  # one by one: 200


# --- options ---------------------------------------------------------------------------------------------------------


def graded(seed=0):
    """Ten features of falling weight, and noise."""
    x = normal(1500, 10, seed)
    return x, x @ (0.6 ** torch.arange(10.0, dtype=torch.float64)) + 0.5 * normal(1500, 1, seed + 1)[:, 0]


def test_higher_confidence_keeps_no_more():
    x, target = graded()
    options = {"predictor": "linear", "regularisation": 0.0}
    kept = [len(terc(x, target, confidence=confidence, **options)) for confidence in (0.5, 0.8, 0.95, 0.99)]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > kept[3] > 0
    sparingly, aggressively = (terc(x, target, confidence=level, regularisation=0.0) for level in (0.5, 0.99))
    assert set(aggressively) < set(sparingly)


@pytest.mark.parametrize("predictor", BOTH)
def test_regularisation_keeps_fewer_the_richest_last(predictor):
    x, target = graded()
    kept = [terc(x, target, predictor=predictor, regularisation=share) for share in (0.0, 0.1, 0.4, 20.0)]
    assert set(kept[0]) > set(kept[1]) > set(kept[2]) == {0}
    assert kept[3] == []  # all of the information may go
    assert terc(x, target, predictor=predictor, regularisation=20.0, keep_at_least=1) == [0]


@pytest.mark.parametrize("regularisation", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("predictor", BOTH)
def test_a_cost_that_grew_since_it_was_found_is_not_paid(predictor, regularisation):
    """The second feature costs little beside its blurred copy, and all when that has gone for nothing."""
    x = normal(2000, 4, 80)
    features = torch.stack([x[:, 0] + 0.15 * x[:, 1], x[:, 0], x[:, 2]], 1)
    target = x[:, 0] + x[:, 2] + 0.05 * x[:, 3]
    assert terc(features, target, predictor=predictor, regularisation=regularisation, repeats=3) == [1, 2]


@pytest.mark.parametrize("predictor", BOTH)
def test_groups_of_columns_go_together(predictor):
    x = normal(2000, 6, 0)
    first, second, noise = x[:, :3], x[:, 3:5], x[:, 5:]
    rotated = first @ torch.linalg.qr(normal(3, 3, 1)).Q  # the same information as first
    target = x[:, :5] @ normal(5, 4, 2) + 0.1 * normal(2000, 4, 3)
    groups = [first, noise, second, rotated]
    assert terc(groups, target, predictor=predictor, order="plain") == [2, 3]
    assert terc(groups, target, predictor=predictor, order="reversed") == [0, 2]
    assert len(terc(groups, target, predictor=predictor)) == 2


@pytest.mark.parametrize("predictor", BOTH)
def test_same_seed_same_selection_in_any_container(predictor):
    x, target = graded(4)
    kept = terc(x, target, predictor=predictor, seed=3)
    assert kept == terc(x, target, predictor=predictor, seed=3)
    assert kept == terc(x.numpy(), target[:, None].numpy(), predictor=predictor, seed=3)
    assert kept == terc(list(x.T), target, predictor=predictor, seed=3)
    estimate = predictive_information(x, target, predictor=predictor, seed=3)
    assert estimate == predictive_information(x, target, predictor=predictor, seed=3)
    assert estimate != predictive_information(x, target, predictor=predictor, seed=4)


def test_units_of_the_features_do_not_matter():
    x, target = graded(5)
    scale = torch.logspace(-6, 6, 10, dtype=torch.float64)
    kept = terc(x, target, predictor="linear")
    assert terc(x * scale + 1000 * scale, target * 1e5, predictor="linear") == kept


@pytest.mark.parametrize("predictor", BOTH)
@pytest.mark.parametrize("keep_at_least", [0, 1, 3])
def test_no_fewer_than_asked_for_are_left(predictor, keep_at_least):
    x = normal(200, 4, 0)
    assert len(terc(x, normal(200, 2, 1), predictor=predictor, keep_at_least=keep_at_least)) == keep_at_least
    constant = torch.ones(200)
    assert len(terc(x, constant, predictor=predictor, keep_at_least=keep_at_least)) == keep_at_least
    assert len(terc(constant, x, predictor=predictor)) == 0


X, Y = torch.zeros(40, 3) + torch.arange(40.0)[:, None], torch.arange(40.0)


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((X, Y[:-1]), {}, "features: 40 samples .* target: 39"),
        ((X[None], Y), {}, r"features: .* got \(1, 40, 3\)"),
        ((X, Y[None, :, None]), {}, "target: .* shape"),
        ((X[:, :0], Y), {}, "features: .* shape"),
        (([], Y), {}, "features: none"),
        (([X, X[:-1]], Y), {}, "39 samples"),
        ((X * math.nan, Y), {}, "features: holds NaN"),
        ((X, Y / 0), {}, "target: holds NaN or inf"),
        ((X[:19], Y[:19]), {}, "too few samples: 19"),
        ((X, Y.long()), {}, "40 classes in 40 samples"),
        ((torch.rand(40, 30), Y), {"predictor": "linear"}, "too few samples: 30 to fit"),
        ((X, Y), {"predictor": "forest"}, "predictor: 'forest'; allowed: linear, mlp"),
        ((X, Y), {"confidence": 1.0}, "confidence"),
        ((X, Y), {"repeats": 1}, "repeats"),
    ],
)
def test_bad_input_is_refused(arguments, options, message):
    for function in (terc, predictive_information):
        with pytest.raises(ValueError, match=message):
            function(*arguments, **options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"order": "random"}, "order: 'random'; allowed: mi, plain, reversed, descending"),
        ({"order": [0, 1]}, "order: must hold each of the indices 0 to 2"),
        ({"order": [0, 1, 1]}, "order: must hold"),
        ({"regularisation": -0.1}, "regularisation"),
        ({"regularisation": math.nan}, "regularisation"),
        ({"keep_at_least": 4}, "keep_at_least: 4; there are 3"),
        ({"keep_at_least": -1}, "keep_at_least"),
        ({"keep_at_least": 1.5}, "keep_at_least: 1.5"),
        ({"order": 5}, "order: must hold"),
        ({"order": [0, 1, 1.5]}, "order: must hold"),
        ({"regularisation": [0.1]}, "regularisation: "),
    ],
)
def test_bad_options_of_terc_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        terc(X, Y, **options)


# --- many targets at once --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("predictor", BOTH)
def test_each_target_keeps_what_terc_keeps_for_it_alone(predictor):
    x = normal(1200, 7, 40)
    x[:, 5] = x[:, 0] - 2 * x[:, 3]
    features = [x[:, :1], x[:, 1:3], *x[:, 3:].split(1, 1)]
    mixing = normal(7, 4, 41) * torch.tensor([1, 1, 0, 1, 0, 0, 1])[:, None]
    targets = [*(x @ mixing + 0.1 * normal(1200, 4, 42)).split([1, 2, 1], 1)]
    among = [list(range(6)), [0, 1, 3, 4], [2]]
    test = {"order": "mi", "confidence": 0.95, "regularisation": 0.01, "keep_at_least": 1}
    options = {"predictor": predictor, "repeats": 3, "seed": 0} | test
    found = information.terc_each(features, targets, among, **options)
    alone = [
        [own[k] for k in terc([features[i] for i in own], target, **options)]
        for target, own in zip(targets, among, strict=True)
    ]
    assert found == alone
    assert found[2] == [2] and len(found[0]) < 6


def test_a_part_of_a_fit_is_the_fit_of_the_part():
    x, target = normal(600, 6, 50), normal(600, 5, 51)
    target[:, :3] += x[:, :3]
    whole = linear.Linear(data_of(list(x.split([1, 2, 1, 2], 1)), target), 0)
    for features, columns in ([0, 2, 3], [0, 3, 4, 5]), ([0, 1, 2, 3], range(6)):
        part = whole.part(features, slice(1, 4))
        widths = [len(whole.columns[feature]) for feature in features]
        alone = linear.Linear(data_of(list(x[:, list(columns)].split(widths, 1)), target[:, 1:4]), 0)
        for left in range(len(features)):
            for i in range(left, len(features)):
                assert part.costs()[:, i].tolist() == pytest.approx(alone.costs()[:, i].tolist(), rel=1e-6, abs=1e-9)
            part.remove(left)
            alone.remove(left)
        for name in ("constant", "full"):
            assert getattr(part, name).tolist() == pytest.approx(getattr(alone, name).tolist(), rel=1e-9)
        assert part.single().tolist() == pytest.approx(alone.single().tolist(), rel=1e-9, abs=1e-12)
    whole.remove(0)
    assert whole.full.isfinite().all()
