import math

import numpy as np
import pytest
import torch
from scipy import stats

from prunus import information, predictors
from prunus.information import predictive_information, terc

BOTH = ("linear", "mlp")


def draw(seed):
    return torch.Generator().manual_seed(seed)


def bits(n, count, seed):
    return torch.randint(0, 2, (n, count), generator=draw(seed))


def normal(n, count, seed):
    return torch.randn(n, count, generator=draw(seed), dtype=torch.float64)


def prepared(features, target, repeats=5, seed=0):
    return information._data(features, target, repeats, seed, in_units=False)


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


@pytest.mark.parametrize("freedom", range(1, 12))
@pytest.mark.parametrize("confidence", [0.05, 0.5, 0.95, 0.99])
def test_student_quantile(freedom, confidence):
    expected = stats.t.ppf((1 + confidence) / 2, freedom)
    assert information._student(confidence, freedom) == pytest.approx(expected, rel=1e-9)


# --- linear predictor ------------------------------------------------------------------------------------------------


def refitted(data, columns):
    """Held-out losses [R] by explicit least squares with an intercept."""
    losses = []
    for fit, held in zip(data.fit, data.held, strict=True):
        design = torch.cat([data.x[:, columns], torch.ones(len(data.x), 1, dtype=torch.float64)], 1)
        weights = torch.linalg.lstsq(design[fit], data.y[fit]).solution
        losses.append((data.y[held] - design[held] @ weights).square().sum(1).mean())
    return torch.stack(losses)


@pytest.mark.parametrize("panels", [{}, {3: [3, 0, 5]}, {3: [0, 1, 2, 3, 4, 5], 1: [5, 4, 1]}])
def test_downdates_equal_refits(panels):
    base = normal(300, 7, 0)
    mixed = base @ normal(7, 12, 1) + 0.3 * normal(300, 12, 2)
    groups = [mixed[:, :1], mixed[:, 1:4], mixed[:, 4:5], mixed[:, 5:7], mixed[:, 7:9], mixed[:, 9:]]
    data = prepared(groups, mixed @ normal(12, 5, 3) + normal(300, 5, 4), repeats=3)
    fitted = predictors.Linear(data, 0)
    left = list(range(6))

    def columns(features):
        return [column for i in features for column in data.columns[i].tolist()]

    assert torch.allclose(fitted.constant, refitted(data, []), rtol=1e-9)
    assert torch.allclose(fitted.full, refitted(data, columns(left)), rtol=1e-6)
    single = torch.stack([(refitted(data, []) - refitted(data, columns([i]))).mean() for i in left])
    assert torch.allclose(fitted.single(), single, rtol=1e-6)
    for removed in (3, 0, 1, 5):
        if removed in panels:
            fitted.expect(panels[removed])
        for i in sorted(left, key=lambda i: i not in panels.get(3, [])):  # another feature's test ends a panel
            expected = refitted(data, columns(set(left) - {i}))
            assert torch.allclose(fitted.without(i), expected, rtol=1e-6)
        fitted.remove(removed)
        left.remove(removed)


# --- many hypotheses at once -----------------------------------------------------------------------------------------


def test_batches_do_not_depend_on_the_chunk_size():
    x = bits(600, 3, 0).double()
    features = torch.cat([x, x[:, :1], normal(600, 2, 1)], 1)
    data = prepared(features, (x[:, 0].bool() ^ x[:, 1].bool()).double() + x[:, 2] + 0.1 * normal(600, 1, 2)[:, 0])
    removals = [(0,), (1,), (2,), (0, 3), (0, 4), (0, 4, 5), (4, 5)]
    verdicts, fulls = [], []
    for memory in (1, 2**21, 2**30):
        fitted = predictors.MLP(data, 0, memory=memory)
        limits = torch.full((len(removals),), float(fitted.full.mean()) * 1.05)
        verdicts.append(fitted.passes(removals, limits, lambda losses: losses.mean(0)))
        fulls.append(fitted.full)
    assert verdicts[0] == [True, False, False, False, True, True, True]
    assert verdicts[1] == verdicts[0] == verdicts[2]
    assert torch.equal(fulls[0], fulls[2])


class Cover:
    """Stands for a predictor: the loss is what no remaining feature covers, monotone by construction."""

    def __init__(self, covers):
        self.covers, self.full, self.asked, self.columns = covers, torch.zeros(2), 0, covers

    def loss(self, removed):
        return int((~self.covers[[i for i in range(len(self.covers)) if i not in removed]].any(0)).sum())

    def passes(self, removals, limits, lower):
        self.asked += len(removals)
        return [self.loss(removal) <= float(limit) for removal, limit in zip(removals, limits, strict=True)]

    def accept(self, removal):
        assert self.loss(removal) <= 1


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("keep_at_least", [0, 9])
def test_blocks_end_where_one_by_one_ends(seed, keep_at_least):
    count = 40
    cover = Cover(torch.rand(count, 30, generator=draw(seed)) < (0.02, 0.1, 0.3)[seed % 3])
    limits = [1.0] * (count // 2) + [0.0] * (count + 1 - count // 2)
    gap = cover.loss(())
    cover.covers[0] |= ~cover.covers.any(0) if gap else False
    visits = torch.randperm(count, generator=draw(seed)).tolist()
    removed = set()
    for i in visits:
        if count - len(removed) > keep_at_least and cover.loss(removed | {i}) <= limits[len(removed) + 1]:
            removed.add(i)
    kept = information._by_blocks(cover, visits, limits, None, keep_at_least)
    assert kept == sorted(set(range(count)) - removed)


def test_blocks_need_few_tests_where_much_goes():
    cover = Cover(torch.eye(200, dtype=torch.bool)[:, :3])
    assert information._by_blocks(cover, list(range(200))[::-1], [0.0] * 201, None, 0) == [0, 1, 2]
    assert cover.asked < 100  # one by one: 200


# --- options ---------------------------------------------------------------------------------------------------------


def graded(seed=0):
    """Ten features of falling weight, and noise."""
    x = normal(1500, 10, seed)
    return x, x @ (0.6 ** torch.arange(10.0, dtype=torch.float64)) + 0.5 * normal(1500, 1, seed + 1)[:, 0]


def test_higher_confidence_keeps_no_more():
    x, target = graded()
    options = {"predictor": "linear", "regularisation": 0.0}
    kept = [len(terc(x, target, confidence=confidence, **options)) for confidence in (0.01, 0.5, 0.95, 0.99)]
    assert kept == sorted(kept, reverse=True)
    assert kept[1] > kept[3] > 0
    sparingly, aggressively = (terc(x, target, confidence=level, regularisation=0.0) for level in (0.5, 0.99))
    assert set(aggressively) < set(sparingly)


@pytest.mark.parametrize("predictor", BOTH)
def test_regularisation_keeps_fewer_but_never_none(predictor):
    x, target = graded()
    kept = [terc(x, target, predictor=predictor, regularisation=share) for share in (0.0, 0.1, 1.0, 20.0)]
    sizes = [len(selection) for selection in kept]
    assert sizes[0] > sizes[1] > sizes[2] > sizes[3] == 1  # without the last one nothing is left to lose
    assert kept[3] == [0]


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
    whole = predictors.Linear(prepared(list(x.split([1, 2, 1, 2], 1)), target), 0)
    for features, columns in ([0, 2, 3], [0, 3, 4, 5]), ([0, 1, 2, 3], range(6)):
        part = whole.part(features, slice(1, 4))
        widths = [len(whole.columns[feature]) for feature in features]
        alone = predictors.Linear(prepared(list(x[:, list(columns)].split(widths, 1)), target[:, 1:4]), 0)
        for left in range(len(features)):
            assert part.without(left).tolist() == pytest.approx(alone.without(left).tolist(), rel=1e-9)
            part.remove(left)
            alone.remove(left)
        for name in ("constant", "full"):
            assert getattr(part, name).tolist() == pytest.approx(getattr(alone, name).tolist(), rel=1e-9)
        assert part.single().tolist() == pytest.approx(alone.single().tolist(), rel=1e-9, abs=1e-12)
    whole.remove(0)
    assert whole.full.isfinite().all()
