"""Where a network lies in memory does not decide: units in another order have their masks in that order, also where
dead rectifiers make many scores 0; and a group of channels keeps its last."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from prunus import channels, methods
from prunus import masks as masking
from prunus.data.dataset import Dataset, Split
from prunus.pruning.candidates import Candidates
from prunus.pruning.scores import SCORES
from prunus.study import params

PROJECT = params.read()
LAYERS = ("0", "3", "6", "8")  # two convolutions and two linear layers
UNITS = (6, 5, 7)  # of all but the last
SCOPES = ("neuron", "layer", "global")
ITERATED = {
    "synflow": {},
    "iter_snip": {"samples": 12},
    "iter_grasp": {"samples_per_class": 4, "temperature": 2.0},
    "prospr": {"samples": 6, "inner_steps": 2},
}
CASES = {  # name: (method, settings)
    **{
        f"{name}-{structure}-{steps}": (name, changes | {"structure": structure, "steps": steps, "fraction": fraction})
        for name, changes in ITERATED.items()
        for structure in ("weight", "channel")
        # GraSP's scores have signs: the zeros of single weights lie in their middle.
        for steps, fraction in ((1, 0.15 if (name, structure) != ("iter_grasp", "weight") else 0.4), (4, 0.3))
    },
    **{
        f"lth-{score}-{scope}": ("lth", {"score": score, "scope": scope, "fraction": 0.15})
        for score in SCORES
        for scope in SCOPES
    },
    **{f"sap-{scope}": ("sap", {"score": "synaptic", "scope": scope, "beta": 0.15}) for scope in SCOPES},
    **{f"one_shot-{scope}": ("one_shot", {"scope": scope}) for scope in SCOPES},
    "sosp_h": ("sosp_h", {"samples": 12, "fraction": 0.15}),
    **{
        f"imp_channels-{scope}-{normalise}": ("imp_channels", {"scope": scope, "normalise": normalise})
        for scope in ("layer", "global")
        for normalise in ("none", "mean", "fan_in")
    },
}


def settings(method, **changes):
    return PROJECT.methods[method].model_copy(update=changes)


def network_with_dead_units():
    """Of every hidden layer about half of the units never fire, so that what they read and write scores exactly 0."""
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(6, 5, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(80, 7), nn.ReLU(), nn.Linear(7, 3),
    ).double()  # fmt: skip
    for layer, units in zip(LAYERS, UNITS, strict=False):
        with torch.no_grad():
            network.get_parameter(f"{layer}.bias").fill_(0.5)
            network.get_parameter(f"{layer}.bias")[1:units:2] = -100.0
    return network


def orders():
    generator = torch.Generator().manual_seed(5)
    return [torch.randperm(units, generator=generator) for units in UNITS]


def in_order(tensors, permutations):
    """Parameters or masks by name with the units of every hidden layer, and what reads them, in another order."""
    result = {}
    for position, layer in enumerate(LAYERS):
        for kind in ("weight", "bias"):
            if (tensor := tensors.get(f"{layer}.{kind}")) is None:
                continue
            if position < len(permutations):
                tensor = tensor[permutations[position]]
            if position and kind == "weight":
                read = permutations[position - 1]
                parts = tensor.reshape(len(tensor), len(read), -1)  # a flattened map: all places of a channel together
                tensor = parts[:, read].reshape(tensor.shape)
            result[f"{layer}.{kind}"] = tensor
    return result


def candidates_of(network, masks=None):
    generator = torch.Generator().manual_seed(3)
    images, labels = torch.randint(0, 256, (24, 1, 8, 8), dtype=torch.uint8, generator=generator), torch.arange(24) % 3
    mean, std = torch.full((2, 1), 0.25, dtype=torch.float64)
    data = Dataset({"train": Split(images, labels)}, mean, std, ("a", "b", "c"))
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    sample = data.normalise(images), labels
    return Candidates(network, masks or masking.ones(network), 1, data, 0, lambda point: state, sample)


def unread_units(network):
    """Masks by which nothing reads some units: what SynFlow, for which rectifiers are never dead, scores 0."""
    masks = masking.ones(network)
    masks["3.weight"][:, ::2] = False
    masks["8.weight"][:, ::2] = False
    return masks


@pytest.mark.parametrize("case", CASES)
def test_units_in_another_order_have_the_same_masks_in_that_order(case):
    method, changes = CASES[case]
    prune = methods.recipe(method, settings(method, **changes)).prune
    network = network_with_dead_units()
    unread = unread_units(network) if method == "synflow" and prune.structure == "weight" else masking.ones(network)
    other = copy.deepcopy(network)
    other.load_state_dict(in_order(network.state_dict(), orders()))
    one, two = candidates_of(network, unread), candidates_of(other, in_order(unread, orders()))
    for t in (4, 6) if method == "synflow" else (1, 2):
        one, two = replace(one, iteration=t), replace(two, iteration=t)
        kept = prune(one)
        assert masking.alive_count(kept) < masking.alive_count(one.masks)
        moved, expected = prune(two), in_order(kept, orders())
        assert all(torch.equal(moved[name], mask) for name, mask in expected.items())
        one, two = one.at(kept), two.at(moved)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.endswith(("-weight-1", "sap-global")) or "sosp" in case]
)
def test_some_of_the_equal_scores_go_and_some_stay(case):
    """Otherwise the test above would not see how ties are broken."""
    method, changes = CASES[case]
    prune = methods.recipe(method, settings(method, **changes)).prune
    network = network_with_dead_units()
    one = candidates_of(network, unread_units(network) if method == "synflow" else None)
    one = replace(one, iteration=4 if method == "synflow" else 1)
    scores, kept = prune.score(one), prune(one)
    alive, left = (channels.alive(one.groups, m) if prune.structure == "channel" else m for m in (one.masks, kept))
    equal = {name: alive[name] & (score == 0) for name, score in scores.items()}
    gone = {name: mask & ~left[name] for name, mask in equal.items()}
    assert 0 < masking.alive_count(gone) < masking.alive_count(equal)


def test_the_smallest_of_what_is_equal_goes_first_by_the_weights_the_score_looks_at():
    network = network_with_dead_units()
    for method, point in (("iter_snip", "initial"), ("lth", "current")):
        candidates = candidates_of(copy.deepcopy(network))
        with torch.no_grad():
            candidates.network.get_parameter("3.weight")[1].copy_(torch.rand(6, 3, 3))
        score = {"iter_snip": {"structure": "weight", "steps": 1, "samples": 12}, "lth": {"score": "synaptic"}}[method]
        prune = methods.recipe(method, settings(method, fraction=0.1, **score)).prune
        kept, scores = prune(candidates), prune.score(candidates)
        weights = torch.cat([w.abs()[scores[name] == 0] for name, w in candidates.weights(point).items()])
        left = torch.cat([mask[scores[name] == 0] for name, mask in kept.items()])
        assert 0 < left.sum() < len(left) and weights[~left].max() < weights[left].min()


# --- the last channel of a group -------------------------------------------------------------------------------------

REMOVERS = {
    "imp_channels": {"scope": "global", "norm": "l1", "normalise": "none"},
    "sosp_h": {"samples": 12},
    **{name: changes | {"structure": "channel"} for name, changes in ITERATED.items()},
}


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("fraction", [0.4, 0.8, 0.99])
@pytest.mark.parametrize("method", REMOVERS)
def test_no_group_loses_its_last_channel_and_the_count_is_met_with_the_next_in_rank(method, fraction, steps):
    network = network_with_dead_units()
    with torch.no_grad():
        network.get_parameter("3.weight").mul_(1e-3)  # so small that a global ranking takes all of it first
    changes = REMOVERS[method] | ({"steps": steps} if method in ITERATED else {})
    prune = methods.recipe(method, settings(method, fraction=fraction, **changes)).prune
    candidates = candidates_of(network)
    kept = prune(candidates)
    left = channels.alive(candidates.groups, kept)
    assert all(mask.any() for mask in left.values())
    assert masking.alive_count(left) == max(3, math.ceil(18 * (1 - fraction) - 1e-9))
    if steps == 1:
        scores = prune.score(candidates)
        for name, mask in left.items():
            assert scores[name][mask].min() >= max(scores[name][~mask].tolist(), default=0)
    again = prune(replace(candidates.at(kept), iteration=9))
    assert all(mask.sum() == 1 for mask in channels.alive(candidates.groups, again).values()) or fraction < 0.8


def test_a_group_that_is_empty_already_takes_nothing_from_the_others():
    network = network_with_dead_units()
    candidates = candidates_of(network)
    alive = channels.alive(candidates.groups, candidates.masks)
    alive["0"][:] = False
    candidates = candidates.at(channels.expand(candidates.groups, alive, candidates.masks))
    prune = methods.recipe("imp_channels", settings("imp_channels", fraction=0.5, normalise="none")).prune
    left = channels.alive(candidates.groups, prune(candidates))
    assert [int(mask.sum()) for mask in left.values()][0] == 0 and masking.alive_count(left) == 9
