"""PQ index, Gini index, the PQ bound and SAP's count: published vectors, six properties, closed forms (T1-T7, T14)."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from prunus import masks as masking
from prunus.sparsity import (
    PIECE,
    GiniAmount,
    HoyerAmount,
    PQAmount,
    floor_count,
    fraction_count,
    gini_index,
    hoyer_index,
    pq_index,
    prune_count,
    retained_lower_bound,
)

ANY_PQ = [(0.5, 1.0), (1.0, 2.0), (0.2, 1.0), (0.3, 0.7), (2.0, 3.0), (1.0, 1.2)]
PQ_AROUND_ONE = [(p, q) for p, q in ANY_PQ if p <= 1 <= q]
WORKED = [
    ([1.0, 0.0, 0.0, 0.0], 0.75, 0.5),
    ([1, 2, 3, 4], 0.055586, 0.087129),
    ([0.1, 0.2, 0.4, 3], 0.338915, 0.390404),
    (range(1, 21), 0.094597, 0.123477),
]

values = st.lists(st.floats(0.01, 100), min_size=3, max_size=30)
pq_pairs = st.sampled_from(ANY_PQ)


def vector(numbers) -> torch.Tensor:
    return torch.tensor(list(numbers), dtype=torch.float64)


@pytest.mark.parametrize(("numbers", "half_one", "one_two"), WORKED)
def test_worked_values(numbers, half_one, one_two):
    assert pq_index(vector(numbers), 0.5, 1.0) == pytest.approx(half_one, abs=1e-6)
    assert pq_index(vector(numbers), 1.0, 2.0) == pytest.approx(one_two, abs=1e-6)


@given(values, pq_pairs)
def test_equals_the_norm_form(numbers, pq):
    (p, q), w = pq, vector(numbers)
    norm_p, norm_q = (w.pow(r).sum().item() ** (1 / r) for r in (p, q))
    assert pq_index(w, p, q) == pytest.approx(1 - len(w) ** (1 / q - 1 / p) * norm_p / norm_q, abs=1e-9)


@given(values, st.sampled_from(PQ_AROUND_ONE), st.floats(0.01, 0.99))
def test_robin_hood(numbers, pq, share):
    w = vector(numbers)
    high, low = int(w.argmax()), int(w.argmin())
    gap = (w[high] - w[low]).item()
    assume(gap > 1e-3 * w.max().item())
    given_away = w.clone()
    given_away[high] -= share * gap / 2
    given_away[low] += share * gap / 2
    assert pq_index(given_away, *pq) < pq_index(w, *pq)


def test_robin_hood_fails_outside_its_domain():
    before, after = vector([100, 2, 1]), vector([100, 1.6, 1.4])
    assert pq_index(after, 2, 3) > pq_index(before, 2, 3)


@given(values, pq_pairs, st.floats(1e-6, 1e6))
def test_scaling(numbers, pq, factor):
    assert pq_index(factor * vector(numbers), *pq) == pytest.approx(pq_index(vector(numbers), *pq), abs=1e-9)


@given(values, pq_pairs, st.floats(0.1, 10))
def test_rising_tide(numbers, pq, tide):
    w = vector(numbers)
    assume(w.max() - w.min() > 1e-2 * w.max())
    assert pq_index(w + tide, *pq) < pq_index(w, *pq)


@given(values, pq_pairs, st.integers(2, 5))
def test_cloning(numbers, pq, copies):
    assert pq_index(vector(numbers * copies), *pq) == pytest.approx(pq_index(vector(numbers), *pq), abs=1e-9)


@given(values, pq_pairs, st.floats(0.1, 10), st.data())
def test_bill_gates(numbers, pq, more, data):
    w = vector(numbers)
    richest = data.draw(st.integers(0, len(w) - 1))
    w[richest] = 2 * w.max()
    richer = w.clone()
    richer[richest] *= 1 + more
    assert pq_index(richer, *pq) > pq_index(w, *pq)


@given(values, pq_pairs)
def test_babies(numbers, pq):
    assert pq_index(vector([*numbers, 0.0]), *pq) > pq_index(vector(numbers), *pq)


@given(values, pq_pairs, st.randoms(use_true_random=False))
def test_range_sign_and_order(numbers, pq, random):
    p, q = pq
    shuffled = [random.choice((-1, 1)) * number for number in random.sample(numbers, len(numbers))]
    index = pq_index(vector(numbers), p, q)
    assert 0 <= index <= 1 - len(numbers) ** (1 / q - 1 / p) + 1e-12
    assert pq_index(vector(shuffled), p, q) == pytest.approx(index, abs=1e-12)


def test_small_p_does_not_overflow():
    assert 0 < pq_index(torch.rand(1_000_000), 0.1, 1.0) < 1


@pytest.mark.parametrize("measure", [lambda w: pq_index(w, 0.5, 1.0), gini_index, hoyer_index])
@pytest.mark.parametrize("numbers", [[], [0.0, 0.0]])
def test_undefined_is_an_error(measure, numbers):
    with pytest.raises(ValueError, match="undefined"):
        measure(vector(numbers))


@pytest.mark.parametrize("pq", ANY_PQ)
def test_long_float32_vectors_are_summed_in_float64(pq):
    (p, q), w = pq, torch.randn(2 * PIECE + 77)
    w[:PIECE] = 0
    w[-1] = 100
    norm_p, norm_q = (w.double().abs().pow(r).sum().item() ** (1 / r) for r in (p, q))
    assert pq_index(w, p, q) == pytest.approx(1 - len(w) ** (1 / q - 1 / p) * norm_p / norm_q, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_no_overflow_at_any_scale(scale):
    w = vector(range(1, 21))
    assert pq_index(scale * w, 2.0, 30.0) == pytest.approx(pq_index(w, 2.0, 30.0), rel=1e-12)


@pytest.mark.parametrize(
    "measure",
    [
        lambda w: pq_index(w, 0.5, 1.0),
        lambda w: prune_count(w, 0.5, 1.0),
        gini_index,
        hoyer_index,
        GiniAmount(),
        HoyerAmount(),
    ],
)
def test_nan_is_an_error(measure):
    with pytest.raises(ValueError, match="undefined"):
        measure(vector([1.0, math.nan, 2.0]))


def test_p_must_be_below_q():
    with pytest.raises(ValueError, match="0 < p < q"):
        pq_index(torch.ones(3), 1.0, 1.0)


@given(values, pq_pairs, st.data())
def test_theorem_2_bound(numbers, pq, data):
    """r entries that hold all but eta of the sum of |w|^p are at least as many as the bound says."""
    (p, q), w = pq, vector(sorted(numbers, reverse=True))
    r = data.draw(st.integers(1, len(w)))
    powers = w.pow(p)
    eta = (powers[r:].sum() / powers[:r].sum()).item()
    assert r >= retained_lower_bound(w, p, q, eta) - 1e-9


@given(values)
def test_bound_is_a_hill_number(numbers):
    w = vector(numbers)
    participation = (w.sum() ** 2 / w.square().sum()).item()
    assert retained_lower_bound(w, 1, 2) == pytest.approx(participation)
    assert retained_lower_bound(w, 0.5, 1) == pytest.approx((w.sqrt().sum() ** 2 / w.sum()).item())
    assert retained_lower_bound(w, 1, 2) <= retained_lower_bound(w, 0.5, 1) + 1e-9


@pytest.mark.parametrize(
    ("draw", "half_one", "one_two"),
    [
        (torch.randn, 0.84721, 2 / math.pi),
        (lambda n: torch.distributions.Laplace(0.0, 1.0).sample((n,)), math.pi / 4, 0.5),
        (lambda n: 2 * torch.rand(n) - 1, 8 / 9, 3 / 4),
    ],
    ids=["gaussian", "laplace", "uniform"],
)
def test_closed_form_retention(draw, half_one, one_two):
    w = draw(1_000_000)
    assert retained_lower_bound(w, 0.5, 1.0) / len(w) == pytest.approx(half_one, abs=2e-3)
    assert retained_lower_bound(w, 1.0, 2.0) / len(w) == pytest.approx(one_two, abs=2e-3)


@pytest.mark.parametrize(
    ("numbers", "half_one", "one_two"),
    [
        ([0.1, 0.2, 0.4, 3], 1, 2),
        ([5, *(n / 100 for n in range(1, 10))], 6, 8),
        (range(1, 21), 1, 4),
    ],
)
def test_count_to_prune(numbers, half_one, one_two):
    assert prune_count(vector(numbers), 0.5, 1.0) == half_one
    assert prune_count(vector(numbers), 1.0, 2.0) == one_two


def test_count_with_eta_and_gamma():
    w = vector(range(1, 21))
    assert retained_lower_bound(w, 0.5, 1.0, eta=1.0) == pytest.approx(4.527, abs=1e-3)
    assert prune_count(w, 0.5, 1.0, eta=1.0) == 15
    assert prune_count(w, 0.5, 1.0, gamma=9.0) == 17


@pytest.mark.parametrize(("eta", "factor"), [(0.001, 0.998), (0.01, 0.980), (0.1, 0.826), (1, 0.25)])
@pytest.mark.parametrize("pq", [(0.5, 1.0), (1.0, 2.0)])
def test_eta_factor(pq, eta, factor):
    w = torch.rand(100)
    ratio = retained_lower_bound(w, *pq, eta=eta) / retained_lower_bound(w, *pq)
    assert ratio == pytest.approx(factor, abs=5e-4)


def test_large_gamma_saturates_at_beta():
    w = torch.randn(1000)
    count = prune_count(w, 0.5, 1.0, gamma=100.0, beta=0.9)
    assert count == 900
    kept = w.abs().sort().values[count:]
    assert len(kept) - prune_count(kept, 0.5, 1.0, gamma=1000.0, beta=0.9) == 10


def test_count_of_equal_or_zero_values_is_zero():
    assert prune_count(torch.full((50,), 0.3), 0.5, 1.0) == 0
    assert prune_count(torch.zeros(5), 0.5, 1.0) == 0


@pytest.mark.parametrize(("d", "share", "count"), [(100, 0.29, 29), (10, 0.7, 7), (1000, 0.2, 200), (3, 0.2, 0)])
def test_floor_is_not_off_by_one(d, share, count):
    assert floor_count(d, share) == count


@pytest.mark.parametrize(
    ("total", "alive", "fraction", "iteration", "count"),
    [
        (10, 10, 0.3, 1, 3),
        (3, 3, 0.2, 1, 0),
        (3, 3, 0.2, 2, 1),  # 1.92 stay: what the first iteration could not take
        (3, 2, 0.2, 3, 0),
        (1000, 800, 0.2, 2, 160),
        (10**7, 8 * 10**6, 0.2, 2, 16 * 10**5),
        (10, 4, 0.3, 1, 0),  # fewer than the share are left
        (10, 10, 0.9999, 9, 9),
        (10, 1, 0.9999, 9, 0),
        (10, 0, 0.5, 3, 0),
        (0, 0, 0.5, 3, 0),
        (10, 10, 0.0, 5, 0),
    ],
)
def test_a_fraction_of_what_is_left_is_a_share_of_the_whole_group(total, alive, fraction, iteration, count):
    assert fraction_count(total, alive, fraction, iteration) == count


@pytest.mark.parametrize(
    ("numbers", "gini"), [([1, 2, 3, 4], 0.25), ([0.1, 0.2, 0.4, 3], 0.601351), (range(1, 21), 0.316667)]
)
def test_gini(numbers, gini):
    assert gini_index(vector(numbers)) == pytest.approx(gini, abs=1e-6)


@given(values)
def test_gini_closed_forms_agree(numbers):
    c = vector(sorted(numbers))
    n, k = len(c), torch.arange(1, len(c) + 1, dtype=torch.float64)
    other = 1 - 2 * (c / c.sum() * (n - k + 0.5) / n).sum().item()
    assert gini_index(-c) == pytest.approx(other, abs=1e-9)


@pytest.mark.parametrize(
    ("numbers", "hoyer"),
    [
        ([5.0], 0.0),
        ([2.0, -2.0, 2.0], 0.0),
        ([0.0, -3.0, 0.0], 1.0),
        ([1, 1, 0, 0], 2 - 2**0.5),
        ([1, 2, 3, 4], 2 - 10 / 30**0.5),
        ([1] * 9 + [0] * 16, 0.5),
    ],
)
def test_hoyer(numbers, hoyer):
    assert hoyer_index(vector(numbers)) == pytest.approx(hoyer, abs=1e-12)


@given(values)
def test_hoyer_is_its_definition(numbers):
    w, root = vector(numbers), len(numbers) ** 0.5
    assert hoyer_index(-w) == pytest.approx(((root - w.norm(1) / w.norm()) / (root - 1)).item(), abs=1e-9)


@given(values, st.floats(1e-6, 1e6), st.randoms(use_true_random=False))
def test_hoyer_range_scale_sign_and_order(numbers, factor, random):
    signed = [number * random.choice((-factor, factor)) for number in numbers]
    random.shuffle(signed)
    assert 0 <= hoyer_index(vector(numbers)) <= 1
    assert hoyer_index(vector(signed)) == pytest.approx(hoyer_index(vector(numbers)), abs=1e-9)


@given(values, st.floats(0.01, 0.99))
def test_hoyer_robin_hood(numbers, share):
    w = vector(numbers)
    high, low = int(w.argmax()), int(w.argmin())
    gap = (w[high] - w[low]).item()
    assume(gap > 1e-3)
    given_away = w.clone()
    given_away[high] -= share * gap / 2
    given_away[low] += share * gap / 2
    assert hoyer_index(given_away) < hoyer_index(w)


@given(values, st.floats(0.1, 10))
def test_hoyer_rising_tide_and_babies(numbers, tide):
    w = vector(numbers)
    assume((w.max() - w.min()).item() > 1e-3)
    assert hoyer_index(w + tide) < hoyer_index(w)
    assert hoyer_index(torch.cat([w, torch.zeros(1, dtype=w.dtype)])) > hoyer_index(w)


INDEX_AMOUNTS = [(GiniAmount, gini_index), (HoyerAmount, hoyer_index)]


@pytest.mark.parametrize(("amount", "index"), INDEX_AMOUNTS)
@pytest.mark.parametrize(("gamma", "beta"), [(1.0, 0.9), (0.5, 0.9), (3.0, 0.4), (0.0, 0.9)])
def test_amount_is_the_share_of_the_index(amount, index, gamma, beta):
    w = torch.randn(1000)
    assert amount(gamma, beta)(w) == int(1000 * min(gamma * index(w), beta))


@pytest.mark.parametrize(("amount", "index"), INDEX_AMOUNTS)
@pytest.mark.parametrize("numbers", [[], [0.0], [0.0, 0.0], [7.0], [3.0, -3.0, 3.0]])
def test_of_nothing_zeros_and_equals_nothing_goes(amount, index, numbers):
    assert amount()(vector(numbers)) == 0


@pytest.mark.parametrize("amount", [PQAmount(0.5, 1.0), GiniAmount(), HoyerAmount()])
@pytest.mark.parametrize("scope", ["neuron", "layer", "global"])
def test_every_group_of_a_scope_loses_its_own_count(amount, scope):
    weights = {"a": torch.randn(5, 40), "b": torch.randn(7, 4, 3, 3) ** 3}
    weights["a"][1] = 0
    alive = {name: torch.rand(weight.shape) < 0.6 for name, weight in weights.items()}
    alive["a"][2] = False
    kept = masking.magnitude_masks(weights, alive, scope, amount)

    def groups(tensors):
        if scope == "global":
            return [torch.cat([tensor.flatten() for tensor in tensors.values()])]
        return [row for t in tensors.values() for row in (t.flatten(1) if scope == "neuron" else [t.flatten()])]

    for weight, before, after in zip(groups(weights), groups(alive), groups(kept), strict=True):
        assert int(before.sum() - after.sum()) == amount(weight[before])
