"""TERC: what it keeps of features with a known answer, and that its rule is followed to the letter."""

import math

import pytest
import torch

from features import BOTH, bits, normal
from prunus import information
from prunus.information.elimination import terc
from prunus.information.estimate import predictive_information

# --- synthetic tasks of the TERC paper -------------------------------------------------------------------------------


# Samples and the networks' first weights are the seed's; the order only decides between equals: each seed has one.
SEEDED_ORDERS = [(seed, ("mi", "plain")[seed % 2]) for seed in range(12)]


@pytest.mark.parametrize(("seed", "order"), SEEDED_ORDERS)
def test_four_redundant_variables_keep_one(seed, order):
    x = bits(2000, 3, seed)
    target = ((x[:, 0] == x[:, 1]) & (x[:, 1] == x[:, 2])).long()
    kept = terc(torch.cat([x, x[:, :1].expand(-1, 3)], 1), target, order=order, seed=seed)
    assert len(kept) == 3
    assert {1, 2} < set(kept)


@pytest.mark.parametrize(("seed", "order"), SEEDED_ORDERS)
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


@pytest.mark.parametrize(("joint", "seed"), [("pair", 0), ("xor", 1), ("pair", 2)])
def test_order_decides_between_one_rich_and_two_poor_variables(seed, joint):
    x = bits(2000, 2, seed)
    features = torch.cat([x[:, :1] + 2 * x[:, 1:], x], 1)
    target = x if joint == "pair" else x[:, 0] ^ x[:, 1]
    assert terc(features, target, order="mi", seed=seed) == [0]
    assert terc(features, target, order="plain", seed=seed) == [1, 2]
    assert terc(features, target, order="descending", seed=seed) == [1, 2]


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
