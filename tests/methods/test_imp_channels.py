"""Magnitudes of channels against sums by hand."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from prunus import channels, methods
from prunus import masks as masking
from prunus.channels.groups import Group, Slice
from prunus.methods import imp_channels
from scoring import candidates, prune_of


class Coupled(nn.Module):
    """Only parameters: two layers write three channels together, a third reads them."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 3), nn.Linear(4, 3), nn.Linear(3, 2)
        self.a.weight.data = torch.tensor([[1.0, -2.0], [0.0, 3.0], [4.0, 4.0]])
        self.b.weight.data = torch.tensor([[2.0, 0.0, 0.0, -2.0], [1.0, 1.0, 1.0, 1.0], [9.0, 9.0, 9.0, 9.0]])
        self.a.bias.data.fill_(100.0)  # biases do not count


@pytest.mark.parametrize(
    ("norm", "normalise", "expected"),
    [  # channel 1 has 5 living incoming weights, the others 6; channel 2 is dead
        ("l1", "none", [7, 6]),
        ("l1", "fan_in", [7 / 6, 6 / 5]),
        ("l1", "mean", [7 / 6.5, 6 / 6.5]),
        ("l2", "none", [13**0.5, 12**0.5]),
        ("l2", "fan_in", [(13 / 6) ** 0.5, (12 / 5) ** 0.5]),
        ("l2", "mean", [2 * 13**0.5 / (13**0.5 + 12**0.5), 2 * 12**0.5 / (13**0.5 + 12**0.5)]),
    ],
)
def test_channel_magnitudes_by_hand(norm, normalise, expected):
    network = Coupled()
    masks = masking.ones(network)
    masks["b.weight"][1, 3] = False
    masks["c.weight"][:, 2] = False
    rows = torch.arange(3)[:, None]
    writes = [Slice(name, 0, rows) for name in ("a.weight", "a.bias", "b.weight")]
    sample = candidates(network, masks=masks)
    vars(sample)["groups"] = [Group("a", 3, (*writes, Slice("c.weight", 1, rows)))]
    score = prune_of("imp_channels", norm=norm, normalise=normalise).score(sample)["a"]
    assert score[:2].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("scope", "kept"), [("layer", [2, 4]), ("global", [4, 2])])
def test_channels_of_small_magnitude_go_by_layer_or_globally(network, scope, kept):
    """Global: every channel of the first layer is larger than those of the second."""
    network[0].weight.data = torch.arange(1.0, 5.0, dtype=torch.float64)[:, None, None, None].expand(4, 1, 3, 3).clone()
    network[5].weight.data = torch.arange(1.0, 9.0, dtype=torch.float64)[:, None].expand(8, 16).clone() / 1000
    sample = candidates(network)
    masks = prune_of("imp_channels", scope=scope, fraction=0.5)(sample)
    alive = channels.alive(sample.groups, masks)
    assert [int(mask.sum()) for mask in alive.values()] == kept
    for mask in alive.values():
        assert mask.tolist() == sorted(mask.tolist()), "the largest stay"


def test_a_group_of_zero_weights_has_scores(candidates_of):
    """Of a layer whose inputs have all gone nothing is left to compare: its channels are the first to go, not NaN."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.ReLU(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))
    masks = masking.ones(network)
    masks["1.weight"][:], masks["3.weight"][:] = False, False
    settings = imp_channels.Settings(fraction=0.5, scope="global", norm="l1", normalise="mean", rewind="none", epochs=1)
    kept = methods.recipe("imp_channels", settings).prune(replace(candidates_of(network, masks), iteration=2))
    assert kept["5.weight"].any(0).sum() == 2
