"""SynFlow against path sums and finite differences."""

import copy
import math

import pytest
import torch
from torch import nn

from prunus import masks as masking
from prunus import networks
from prunus.methods import synflow
from prunus.pruning.ranked import Ranked
from scoring import candidates, compare_some, dataset, prune_of, settings, slope, unit


def rectifiers(*widths):
    layers = [nn.Flatten()]
    for read, written in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(read, written, bias=False), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_synflow_is_the_sum_over_all_paths_through_a_weight():
    network = rectifiers(4, 5, 6, 3)
    first, second, third = (weight.detach().double().abs() for weight in network.parameters())
    scores = list(synflow.synaptic_flow(network, (1, 2, 2)).values())
    torch.testing.assert_close(scores[0], first * (third @ second).sum(0)[:, None])
    torch.testing.assert_close(scores[1], second * third.sum(0)[:, None] * first.sum(1))
    torch.testing.assert_close(scores[2], third * (second @ first).sum(1))


def test_synflow_is_conserved_by_layer_and_by_unit():
    """T19: what enters a hidden unit leaves it, and every layer's total is R."""
    network = rectifiers(16, 30, 7, 40, 3)
    through = torch.ones(16, dtype=torch.float64)
    for weight in network.parameters():
        through = weight.detach().double().abs() @ through
    scores = list(synflow.synaptic_flow(network, (1, 4, 4)).values())
    for score in scores:
        assert float(score.sum()) == pytest.approx(float(through.sum()), rel=1e-12)
    for entering, leaving in zip(scores, scores[1:], strict=False):
        torch.testing.assert_close(entering.sum(1), leaving.sum(0))


def test_synflow_takes_absolute_values_of_parameters_and_statistics_in_eval_mode(network):
    assert (network[1].running_mean < 0).any() and (network[1].bias < 0).any()
    reference = copy.deepcopy(network).eval()
    for tensor in [*reference.parameters(), *reference.buffers()]:
        tensor.data = tensor.data.abs()
    ones = torch.ones(1, 1, 8, 8, dtype=torch.float64)

    def outputs():
        with torch.no_grad():
            return reference(ones).sum()

    def expected(name, _, entry):
        weight = reference.get_parameter(name)
        return float(weight.detach().flatten()[entry]) * slope(outputs, weight, unit(weight, entry))

    compare_some(synflow.synaptic_flow(network, (1, 8, 8)), expected, reference)


def test_synflow_of_a_deep_network_is_finite_where_single_precision_is_not():
    scores = synflow.synaptic_flow(networks.build("resnet50", 3, 32, 10), (3, 32, 32))
    assert all(score.isfinite().all() and (score >= 0).all() and (score > 0).any() for score in scores.values())
    assert max(float(score.sum()) for score in scores.values()) > torch.finfo(torch.float32).max


def test_synflow_does_not_look_at_the_data():
    network = rectifiers(64, 20, 10, 3)
    masks = [prune_of("synflow", steps=5)(candidates(network, dataset(n, seed=seed))) for n, seed in ((24, 0), (5, 9))]
    for name, mask in masks[0].items():
        assert torch.equal(mask, masks[1][name])


def test_iterated_synflow_leaves_no_layer_empty_where_one_shot_and_magnitude_do():
    """T19: 1 weight in 1,000 of a network whose layers hold 60 to 40,000."""
    network = rectifiers(64, 200, 200, 20, 3)
    sample = candidates(network)

    def one_shot_magnitude(candidates):
        return {name: weight.abs() for name, weight in candidates.current.items()}

    def pruned(score, steps):
        amount = settings("synflow", fraction=0.999).amount
        return Ranked(score=score, amount=amount, scope="global", steps=steps)(sample)

    score = prune_of("synflow").score
    assert masking.collapsed(pruned(score, steps=1))
    assert masking.collapsed(pruned(one_shot_magnitude, steps=1))
    masks = prune_of("synflow", fraction=0.999, steps=100)(sample)
    assert masking.alive_count(masks) == 56860 - math.floor(0.999 * 56860)
    assert not masking.collapsed(masks)
    masking.apply(network, masks)
    through = torch.ones(64)
    for weight in network.parameters():
        through = weight.abs() @ through
    assert through.sum() > 0, "no path is left from the inputs to the outputs"


def test_the_size_of_the_weights_means_nothing_where_layer_norm_follows():
    """Why SynFlow and a vision transformer do not fit: R does not see how large the weights are."""
    network = networks.build("vit", 1, 8, 3).double().eval()

    def flow():
        with torch.no_grad():
            return float(network(torch.ones(1, 1, 8, 8, dtype=torch.float64)).sum())

    def enlarge(factor):
        with torch.no_grad():
            for name, tensor in network.named_parameters():
                if name.startswith(("patches", "position")) or ".projection" in name or ".output" in name:
                    tensor.mul_(factor)

    enlarge(1e4)  # past the epsilon of layer norm
    before = flow()
    enlarge(10)
    assert flow() == pytest.approx(before, rel=1e-6)
    assert synflow.Settings.misfit(settings("synflow"), "vit", 1)
    assert not synflow.Settings.misfit(settings("synflow"), "lenet5", 1)
