"""Small networks and samples in float64 for tests of scores, and derivatives by finite differences."""

import pytest
import torch
import torch.nn.functional as F

from prunus import masks as masking
from prunus import methods
from prunus.data.dataset import Dataset, Split
from prunus.methods import imp_channels, iter_grasp, iter_snip, prospr, sosp_h, synflow
from prunus.pruning.candidates import Candidates

COMMON = {"fraction": 0.3, "scope": "global", "rewind": "initial", "epochs": 1}
ITERATED = COMMON | {"structure": "weight", "steps": 1}
SETTINGS = {
    "synflow": synflow.Settings(**ITERATED),
    "iter_snip": iter_snip.Settings(**ITERATED, samples=12, redraw=False),
    "iter_grasp": iter_grasp.Settings(**ITERATED, samples_per_class=4, temperature=2.0),
    "prospr": prospr.Settings(**ITERATED, samples=6, inner_steps=2, inner_rate=0.1),
    "sosp_h": sosp_h.Settings(**COMMON, samples=12),
    "imp_channels": imp_channels.Settings(**COMMON, norm="l1", normalise="none"),
}
ITERATIVE = ("synflow", "iter_snip", "iter_grasp", "prospr")
BATCH = torch.randn(12, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(12) % 3


def settings(name, **changes):
    return SETTINGS[name].model_copy(update=changes)


def prune_of(name, **changes):
    return methods.recipe(name, settings(name, **changes)).prune


def dataset(n=24, shape=(1, 8, 8), seed=0):
    """Random images; the network's input, like mean and std here, is float64."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=generator)
    mean, std = torch.full((2, shape[0]), 0.25, dtype=torch.float64)
    return Dataset({"train": Split(images, torch.arange(n) % 3)}, mean, std, ("a", "b", "c"))


def candidates(network, data=None, masks=None, current=None):
    """Of a network as drawn; ``current``: as retrained last, if it differs."""
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    masks = masks or masking.ones(network)
    return Candidates(current or network, masks, 1, data or dataset(), 0, lambda point: state)


def random_masks(network, share=0.7):
    return {name: torch.rand_like(weight) < share for name, weight in masking.prunable(network).items()}


def slope(function, tensor, direction, step=1e-5):
    """The derivative of ``function()`` as ``tensor`` moves in ``direction``, by central differences."""
    original = tensor.detach().clone()
    ends = []
    for sign in (1, -1):
        tensor.data.copy_(original + sign * step * direction)
        ends.append(float(function()))
    tensor.data.copy_(original)
    return (ends[0] - ends[1]) / (2 * step)


def unit(tensor, entry):
    direction = torch.zeros_like(tensor).flatten()
    direction[entry] = 1
    return direction.view_as(tensor)


def some_entries(tensor, n=6):
    return torch.linspace(0, tensor.numel() - 1, min(n, tensor.numel())).long().tolist()


def compare_some(scores, expected, network):
    """``scores[name]`` at some entries of every prunable weight with ``expected(weight, entry)``."""
    for name, weight in masking.prunable(network).items():
        for entry in some_entries(weight):
            assert float(scores[name].flatten()[entry]) == pytest.approx(
                expected(name, weight, entry), rel=1e-4, abs=1e-9
            )


def mean_loss(network, images=BATCH, labels=LABELS, temperature=1.0):
    with torch.no_grad():
        return F.cross_entropy(network(images) / temperature, labels)
