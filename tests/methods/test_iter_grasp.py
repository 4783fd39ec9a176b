"""GraSP, and SNIP beside it, against sums by hand and finite differences."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prunus import masks as masking
from prunus import networks
from prunus.methods import iter_grasp, iter_snip
from scoring import BATCH, LABELS, slope, unit


def test_snip_and_grasp_of_two_weights_by_hand():
    """T20. Logits (a x, b x) / T, label 0: with s = sigmoid((b - a) x / T) the gradient is (-s, s) x / T."""
    (a, b), x, temperature = (0.7, -0.4), 1.3, 2.0
    network = nn.Linear(1, 2, bias=False).double()
    network.weight.data = torch.tensor([[a], [b]], dtype=torch.float64)
    image, label = torch.tensor([[x]], dtype=torch.float64), torch.tensor([0])

    s = 1 / (1 + math.exp(-(b - a) * x))
    snip = iter_snip.sensitivity(network, image, label)["weight"].flatten().tolist()
    assert snip == pytest.approx([abs(a) * s * x, abs(b) * s * x])

    s = 1 / (1 + math.exp(-(b - a) * x / temperature))
    hg = 2 * s * s * (1 - s) * (x / temperature) ** 3
    grasp = iter_grasp.preserved_flow(network, image, label, temperature)["weight"].flatten().tolist()
    assert grasp == pytest.approx([-a * hg, b * hg])


def half_flow(network, temperature):
    """g^T g / 2 over the prunable weights."""
    loss = F.cross_entropy(network(BATCH) / temperature, LABELS)
    gradients = torch.autograd.grad(loss, list(masking.prunable(network).values()))
    return sum(gradient.square().sum() for gradient in gradients) / 2


@pytest.mark.parametrize("name", ["small", "small_eval", "vit"])
def test_grasp_is_what_a_step_away_from_the_weight_takes_from_the_gradient_flow(network, name):
    if name == "vit":
        network = networks.build("vit", 1, 8, 3).double()
        for parameter in network.parameters():  # as drawn its attention is flat and scores are next to nothing
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    network.train(name != "small_eval")
    scores = iter_grasp.preserved_flow(network, BATCH, LABELS, 2.0)
    weights = masking.prunable(network)
    for key, weight in weights.items():
        entry = int(scores[key].abs().argmax())
        towards_zero = -float(weight.detach().flatten()[entry]) * unit(weight, entry)
        change = slope(lambda: half_flow(network, 2.0), weight, towards_zero, step=1e-4)
        assert change != 0
        assert float(scores[key].flatten()[entry]) == pytest.approx(-change, rel=1e-3)
    overall = torch.cat([score.flatten() for score in scores.values()])
    assert (overall < 0).any() and (overall > 0).any()


def test_grasp_first_takes_the_weight_whose_removal_raises_the_gradient_flow_most(network):
    """The largest S of the paper goes, which is the lowest of what is returned."""
    for weight in masking.prunable(network).values():
        weight.data.mul_(0.05)  # so small that a removal is a small step
    network.eval()
    before, changes = float(half_flow(network, 1.0)), {}
    for name, weight in masking.prunable(network).items():
        for entry in range(weight.numel()):
            removed = copy.deepcopy(network)
            removed.get_parameter(name).data.view(-1)[entry] = 0
            changes[name, entry] = float(half_flow(removed, 1.0)) - before
    scores = iter_grasp.preserved_flow(network, BATCH, LABELS, 1.0)
    lowest = min(changes, key=lambda key: float(scores[key[0]].flatten()[key[1]]))
    assert lowest == max(changes, key=changes.get)


def test_grasp_does_not_depend_on_the_order_of_magnitude_of_its_temperature(network):
    """At the usual 200 the scores are tiny and must still tell weights apart in single precision."""
    small = network.float()
    scores = iter_grasp.preserved_flow(small, BATCH.float(), LABELS, 200.0)
    exact = iter_grasp.preserved_flow(small.double(), BATCH, LABELS, 200.0)
    for name, score in scores.items():
        torch.testing.assert_close(
            score.double() / exact[name].abs().max(), exact[name] / exact[name].abs().max(), atol=1e-3, rtol=1e-3
        )
