"""Mask algebra: exact counts, nesting, every kept score above every pruned one, scopes (T8, T9, T10)."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.utils.prune
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prunus import masks as masking
from prunus.masks import density, magnitude_masks
from prunus.recipe import dense_magnitude
from prunus.sparsity import floor_count, prune_count

SCOPES = ("neuron", "layer", "global")


def weights_and_masks(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weights = {f"{i}.weight": torch.randn(shape, generator=generator) for i, shape in enumerate(shapes)}
    return weights, {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}


def a_fifth(alive):
    return floor_count(alive.numel(), 0.2)


@given(st.integers(0, 1000), st.sampled_from(SCOPES), st.integers(1, 4))
def test_masks_are_nested_and_counts_exact(seed, scope, rounds):
    weights, masks = weights_and_masks((6, 3, 3, 3), (5, 24), seed=seed)
    for _ in range(rounds):
        new = magnitude_masks(weights, masks, scope, a_fifth)
        groups = masking._groups(masks, scope)
        expected = sum(a_fifth(group[group]) for group in groups)
        assert masking.alive_count(masks) - masking.alive_count(new) == expected
        assert all(not (new[name] & ~masks[name]).any() for name in masks)
        masks = new


@pytest.mark.parametrize("scope", SCOPES)
def test_every_kept_magnitude_is_at_least_every_pruned_one(scope):
    weights, masks = weights_and_masks((6, 3, 3, 3), (5, 24))
    new = magnitude_masks(weights, masks, scope, a_fifth)
    for weight, mask in zip(masking._groups(weights, scope), masking._groups(new, scope), strict=True):
        assert weight[mask].abs().min() >= weight[~mask].abs().max()


def test_sap_count_is_met_exactly():
    weights, masks = weights_and_masks((20, 50))
    new = magnitude_masks(weights, masks, "global", lambda alive: prune_count(alive, 1.0, 2.0))
    assert (~new["0.weight"]).sum() == prune_count(weights["0.weight"].flatten(), 1.0, 2.0) > 0


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
