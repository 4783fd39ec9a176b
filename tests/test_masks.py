"""Mask algebra: exact counts, nesting, every kept score above every pruned one, scopes (T8, T9, T10)."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.utils.prune
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prunus import masks as masking
from prunus.masks import density, magnitude_masks
from prunus.methods.one_shot import dense_magnitude
from prunus.sparsity import FractionAmount, PQAmount, floor_count, prune_count

SCOPES = ("neuron", "layer", "global")


def weights_and_masks(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weights = {f"{i}.weight": torch.randn(shape, generator=generator) for i, shape in enumerate(shapes)}
    return weights, {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}


def a_fifth(alive):
    return floor_count(alive.numel(), 0.2)


def groups(tensors, scope):
    """The 1-D vectors a scope looks at."""
    if scope == "global":
        return [torch.cat([tensor.flatten() for tensor in tensors.values()])]
    if scope == "layer":
        return [tensor.flatten() for tensor in tensors.values()]
    return [row.flatten() for tensor in tensors.values() for row in tensor]


def brute_force(scores, weights, masks, scope, amount):
    """Group by group: sort the alive entries by score, magnitude and place, drop the first ones."""
    kept = []
    for score, weight, mask in zip(*(groups(tensors, scope) for tensors in (scores, weights, masks)), strict=True):
        alive = sorted((score[i].item(), weight[i].abs().item(), i) for i in mask.nonzero().flatten().tolist())
        keep = mask.clone()
        for *_, i in alive[: amount(weight[mask])]:
            keep[i] = False
        kept.append(keep)
    flat = torch.cat(kept).split([mask.numel() for mask in masks.values()])
    return {name: part.view_as(masks[name]) for name, part in zip(masks, flat, strict=True)}


def equal(masks, others):
    return list(masks) == list(others) and all(torch.equal(masks[name], others[name]) for name in masks)


AMOUNTS = {
    "all": lambda alive: alive.numel(),
    "too many": lambda alive: alive.numel() + 3,
    "positive": lambda alive: int((alive > 0).sum()),
    "fraction": lambda alive: floor_count(alive.numel(), 0.3),
    "pq": PQAmount(0.5, 1.0, beta=0.5),
}
DRAWS = {
    "distinct": lambda weight: weight,
    "ties": lambda weight: weight.mul(2).round(),
    "equal": lambda weight: torch.full_like(weight, 0.3),
    "zero": torch.zeros_like,
    "zero rows": lambda weight: weight * torch.arange(len(weight)).remainder(2).view(-1, *[1] * (weight.dim() - 1)),
}


@pytest.mark.parametrize("amount", AMOUNTS.values(), ids=AMOUNTS)
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("scope", SCOPES)
def test_equals_brute_force(scope, draw, amount):
    weights, masks = weights_and_masks((6, 3, 3, 3), (5, 24), (1, 40))
    weights = {name: draw(weight) for name, weight in weights.items()}
    generator = torch.Generator().manual_seed(1)
    masks = {name: torch.rand(mask.shape, generator=generator) < 0.6 for name, mask in masks.items()}
    masks["0.weight"][2] = False  # a unit without weights
    masks["1.weight"][4] = torch.arange(24) == 7  # and one with a single weight left
    magnitudes = {name: weight.abs() for name, weight in weights.items()}
    expected = brute_force(magnitudes, weights, masks, scope, amount)
    assert equal(magnitude_masks(weights, masks, scope, amount), expected)
    signed = {name: weight.flip(0) - 0.5 for name, weight in weights.items()}
    expected = brute_force(signed, weights, masks, scope, amount)
    assert equal(masking.prune(signed, weights, masks, scope, amount), expected)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_layer_without_weights_stays_without(scope):
    weights, masks = weights_and_masks((4, 5), (3, 4))
    masks["0.weight"][:] = False
    magnitudes = {name: weight.abs() for name, weight in weights.items()}
    expected = brute_force(magnitudes, weights, masks, scope, PQAmount(1.0, 2.0))
    assert not expected["0.weight"].any()
    assert equal(magnitude_masks(weights, masks, scope, PQAmount(1.0, 2.0)), expected)


def test_answers_for_rows_are_those_for_each_row():
    weights, masks = weights_and_masks((7, 30), (7, 50))
    weights["0.weight"][1], weights["1.weight"][1], weights["0.weight"][2] = 0, 0, 1e-30
    masks["0.weight"][3:5], masks["1.weight"][4:6] = False, False
    for amount in (PQAmount(0.5, 1.0), PQAmount(1.0, 2.0, eta=0.1, gamma=1.5, beta=0.8)):
        sides = list(weights.values()), list(masks.values())
        alone = [amount(torch.cat([w[k][m[k]] for w, m in zip(*sides, strict=True)])) for k in range(7)]
        assert amount.per_row(*sides) == alone
        assert alone[4] == 0
        assert 0 < alone[0] < 80


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.7])
def test_a_fraction_leaves_its_share_of_every_group_after_every_iteration_but_never_nothing(fraction, scope):
    weights, masks = weights_and_masks((6, 3, 3, 3), (9, 1), (9, 2), (7, 3), (5, 4), (5, 24))
    for t in range(1, 31):
        new = magnitude_masks(weights, masks, scope, FractionAmount(fraction).at(t))
        assert all(not (new[name] & ~masks[name]).any() for name in masks)
        masks = new
        for group in groups(masks, scope):
            left, exact = int(group.sum()), len(group) * (1 - fraction) ** t
            assert left >= 1 and exact - 1e-9 <= left < exact + 1


ORDERS = {
    "random": lambda values: values,
    "ascending": lambda values: values.sort().values,
    "descending": lambda values: values.sort(descending=True).values,
    "few": lambda values: values.mul(2).round(),
}


@pytest.mark.parametrize("share", [0.0001, 0.2, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_long_vectors(order, share):
    values = order(torch.randn(40_000, generator=torch.Generator().manual_seed(0)))
    masks = {"weight": torch.rand(1, 40_000, generator=torch.Generator().manual_seed(1)) < 0.7}
    scores, count = {"weight": values[None]}, math.floor(share * int(masks["weight"].sum()))
    new = masking.prune(scores, scores, masks, "global", lambda alive: count)
    place = masks["weight"][0].nonzero().flatten()
    expected = masks["weight"].clone()
    expected[0, place[values[place].sort(stable=True).indices[:count]]] = False
    assert torch.equal(new["weight"], expected)


@pytest.mark.parametrize("scope", SCOPES)
def test_memory_format_does_not_matter(scope):
    weights, masks = weights_and_masks((6, 3, 3, 3), (5, 24))
    other = weights | {"0.weight": weights["0.weight"].to(memory_format=torch.channels_last)}
    assert equal(magnitude_masks(other, masks, scope, a_fifth), magnitude_masks(weights, masks, scope, a_fifth))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("draw", ["distinct", "ties", "zero rows"])
@pytest.mark.parametrize("scope", SCOPES)
def test_devices_agree(scope, draw):
    weights, masks = weights_and_masks((6, 3, 3, 3), (5, 24))
    weights = {name: DRAWS[draw](weight) for name, weight in weights.items()}
    masks["0.weight"][2] = False
    moved = [{name: tensor.cuda() for name, tensor in tensors.items()} for tensors in (weights, masks)]
    new = magnitude_masks(*moved, scope, FractionAmount(0.3))
    expected = magnitude_masks(weights, masks, scope, FractionAmount(0.3))
    assert equal({name: mask.cpu() for name, mask in new.items()}, expected)


@given(st.integers(0, 1000), st.sampled_from(SCOPES), st.integers(1, 4))
def test_masks_are_nested_and_counts_exact(seed, scope, rounds):
    weights, masks = weights_and_masks((6, 3, 3, 3), (5, 24), seed=seed)
    for _ in range(rounds):
        new = magnitude_masks(weights, masks, scope, a_fifth)
        expected = sum(a_fifth(group[group]) for group in groups(masks, scope))
        assert masking.alive_count(masks) - masking.alive_count(new) == expected
        assert all(not (new[name] & ~masks[name]).any() for name in masks)
        masks = new


@pytest.mark.parametrize("scope", SCOPES)
def test_every_kept_magnitude_is_at_least_every_pruned_one(scope):
    weights, masks = weights_and_masks((6, 3, 3, 3), (5, 24))
    new = magnitude_masks(weights, masks, scope, a_fifth)
    for weight, mask in zip(groups(weights, scope), groups(new, scope), strict=True):
        assert weight[mask].abs().min() >= weight[~mask].abs().max()


def test_sap_count_is_met_exactly():
    weights, masks = weights_and_masks((20, 50))
    new = magnitude_masks(weights, masks, "global", lambda alive: prune_count(alive, 1.0, 2.0))
    assert (~new["0.weight"]).sum() == prune_count(weights["0.weight"].flatten(), 1.0, 2.0) > 0


def test_scores_in_float64_are_not_rounded():
    scores = {"weight": 1 + torch.arange(40, dtype=torch.float64).view(4, 10) * 1e-12}
    masks = {"weight": torch.ones(4, 10, dtype=torch.bool)}
    for scope, left in (("global", 27), ("neuron", 28)):
        amount = lambda alive: math.ceil(0.3 * len(alive)) + (len(alive) > 10)  # noqa: E731
        new = masking.prune(scores, scores, masks, scope, amount)
        assert masking.alive_count(new) == left
        assert new["weight"][-1, -1] and not new["weight"][0, 0]


def test_ties_do_not_change_the_count():
    weights, masks = {"weight": torch.ones(4, 10)}, {"weight": torch.ones(4, 10, dtype=torch.bool)}
    assert masking.alive_count(magnitude_masks(weights, masks, "global", lambda alive: 13)) == 27


def test_scopes_agree_on_one_unit():
    weights, masks = weights_and_masks((1, 40))
    results = [magnitude_masks(weights, masks, scope, a_fifth)["0.weight"] for scope in SCOPES]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_amount_sees_only_alive_values():
    weights, masks = weights_and_masks((3, 10))
    masks["0.weight"][:, :4] = False
    seen = []
    magnitude_masks(weights, masks, "layer", lambda alive: seen.append(alive.clone()) or 0)
    assert torch.equal(seen[0], weights["0.weight"][masks["0.weight"]])


def test_unknown_scope_is_an_error():
    with pytest.raises(ValueError, match="neuron, layer, global"):
        magnitude_masks(*weights_and_masks((2, 2)), "channel", a_fifth)


def test_density_after_t_fifths_is_point_eight_to_the_t():
    weights, masks = weights_and_masks((100, 100))
    for t in range(1, 6):
        masks = magnitude_masks(weights, masks, "global", a_fifth)
        assert density(masks) == pytest.approx(0.8**t, abs=t / 10_000)


def test_one_shot_equals_a_single_cut_of_the_dense_weights():
    dense, masks = weights_and_masks((100, 100))
    for t in range(1, 4):
        retrained, _ = weights_and_masks((100, 100), seed=t)
        scores = dense_magnitude(SimpleNamespace(dense=dense))
        masks = masking.prune(scores, retrained, masks, "global", a_fifth)
    kept = masking.alive_count(masks)
    direct = dense["0.weight"].abs().flatten().topk(kept).indices
    assert torch.equal(masks["0.weight"].flatten().nonzero().flatten(), direct.sort().values)


def test_equals_torch_prune():
    weights, masks = weights_and_masks((30, 20), (10, 30))
    layers = [nn.Linear(20, 30), nn.Linear(30, 10)]
    for layer, weight in zip(layers, weights.values(), strict=True):
        layer.weight.data = weight.clone()
    torch.nn.utils.prune.global_unstructured(
        [(layer, "weight") for layer in layers], torch.nn.utils.prune.L1Unstructured, amount=0.2
    )
    new = magnitude_masks(weights, masks, "global", a_fifth)
    for layer, mask in zip(layers, new.values(), strict=True):
        assert torch.equal(layer.weight_mask.bool(), mask)


def test_prunable_leaves_out_biases_and_norms(small_network):
    assert list(masking.prunable(small_network)) == ["0.weight", "5.weight", "7.weight"]


def test_a_reset_restores_alive_weights_and_leaves_pruned_ones_at_zero(small_network):
    start = {name: tensor.clone() for name, tensor in small_network.state_dict().items()}
    masks = {name: torch.rand_like(weight) < 0.5 for name, weight in masking.prunable(small_network).items()}
    with torch.no_grad():
        for parameter in small_network.parameters():
            parameter.add_(1.0)
    small_network.load_state_dict(start)
    masking.apply(small_network, masks)
    for name, tensor in small_network.state_dict().items():
        expected = start[name] * masks[name] if name in masks else start[name]
        assert torch.equal(tensor, expected)
