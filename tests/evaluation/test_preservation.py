"""Information between layers, before and after pruning: closed forms, and what each quantity must and must not see."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from prunus import channels, masks, networks
from prunus.channels.readings import Readings
from prunus.evaluation.preservation import COLUMNS, QUANTITIES, explained, step

OPTIONS = {"predictor": "linear", "repeats": 4, "seed": 0}


def network():
    """Linear maps, so that a linear predictor sees all: hidden2 = hidden1 @ W, of which unit 3 stands for unit 2."""
    net = nn.Sequential(
        OrderedDict(flatten=nn.Flatten(), hidden1=nn.Linear(16, 4), hidden2=nn.Linear(4, 3), classifier=nn.Linear(3, 2))
    )
    with torch.no_grad():
        net.hidden1.weight.copy_(torch.eye(4, 16))
        net.hidden1.weight[3] = 2 * net.hidden1.weight[2]
        net.hidden2.weight.copy_(torch.tensor([[2.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]]))
        net.classifier.weight.copy_(torch.tensor([[1.0, 1, 1], [0, 1, -1]]))
    return net.eval()


@pytest.fixture
def images():
    return torch.randn(4000, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def measured(net, images, pruned, retrained=None, before=None):
    """The rows by layer and quantity, when ``pruned`` maps a parameter to (dim, entry) pairs that go."""
    groups = channels.groups(net, tuple(images.shape[1:]))
    everything = masks.ones(net)
    after = {name: mask.clone() for name, mask in everything.items()}
    for name, dim, entry in pruned:
        after[name].select(dim, entry).fill_(False)
    smaller = network()
    masks.apply(smaller, after)
    rows = step(
        groups,
        (Readings(net, groups, images, 2), channels.alive(groups, before or everything)),
        Readings(smaller, groups, images, 2),
        (Readings(retrained or smaller, groups, images, 2), channels.alive(groups, after)),
        **OPTIONS,
    )
    return {(row["layer"], row["quantity"]): row for row in rows}


def test_the_share_is_that_of_the_variance():
    x = torch.randn(6000, 3, 1, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(6000, 2, generator=torch.Generator().manual_seed(2))
    target = torch.cat([3 * x[:, 0], 10 + x[:, 1]], 1) + noise  # 9 + 1 of 10 + 2 can be explained
    found = explained(x, target, **OPTIONS)
    assert found["variance"] == pytest.approx(12, rel=0.05)
    assert found["mean"] == pytest.approx(10 / 12, abs=0.02)
    assert found["low"] < found["mean"] < found["high"]
    assert explained(x[:, 1:], target, **OPTIONS)["mean"] == pytest.approx(1 / 12, abs=0.02)


def test_what_has_no_share():
    x, constant = torch.randn(100, 2, 1), torch.full((100, 3), 2.5)
    nothing = {"mean": None, "low": None, "high": None}
    assert explained(x, constant, **OPTIONS) == nothing | {"variance": 0.0}
    assert explained(x, torch.randn(100, 0), **OPTIONS) == nothing | {"variance": 0.0}
    assert explained(x, torch.full((100, 1), float("nan")), **OPTIONS) == nothing | {"variance": None}
    assert explained(x * float("inf"), torch.randn(100, 1), **OPTIONS)["mean"] is None
    none_left = explained(x[:, :0], torch.randn(100, 1), **OPTIONS)
    assert (none_left["mean"], none_left["low"], none_left["high"]) == (0, 0, 0)


def test_a_redundant_unit_takes_nothing_along_a_needed_one_its_part(images):
    net = network()
    copy_gone = measured(net, images, [("hidden1.weight", 0, 3), ("hidden2.weight", 1, 3)])
    before, kept = copy_gone["hidden1", "before"], copy_gone["hidden1", "kept"]
    assert before["mean"] == pytest.approx(1, abs=1e-6)
    assert kept["mean"] == pytest.approx(1, abs=1e-6)
    assert (before["units"], kept["units"]) == (4, 3)
    assert before["next_layer"] == "hidden2"
    needed_gone = measured(net, images, [("hidden1.weight", 0, 0), ("hidden2.weight", 1, 0)])
    # of the target's variances 4, 1 and 3^2 (hidden2 reads unit 2 once and its double once) the first is lost
    assert needed_gone["hidden1", "kept"]["mean"] == pytest.approx(10 / 14, abs=0.02)
    assert needed_gone["hidden1", "before"] == before
    assert needed_gone["hidden2", "kept"] == needed_gone["hidden2", "before"] | {"quantity": "kept"}
    for row in needed_gone.values():
        assert list(row) == COLUMNS


def test_what_pruned_weights_feed_is_seen_by_pruned_alone(images):
    """Unit 1 of hidden1 loses its inputs, unit 0 of hidden2 what it reads: no unit is gone."""
    net = network()
    found = measured(net, images, [("hidden1.weight", 0, 1), ("hidden2.weight", 0, 0)])
    for layer, lost in ("hidden1", 1 / 14), ("hidden2", None):
        kept, before, pruned = (found[layer, quantity] for quantity in ("kept", "before", "pruned"))
        assert kept == before | {"quantity": "kept"} and pruned["units"] == before["units"]
        assert pruned["mean"] < before["mean"] - 0.05
        if lost:
            assert pruned["mean"] == pytest.approx(1 - lost, abs=0.02)
    # afterwards the network's own target: hidden2 still is a linear map of hidden1
    assert found["hidden1", "retrained"]["mean"] == pytest.approx(1, abs=1e-6)


def test_retraining_has_its_own_target_and_becomes_the_next_before(images):
    net, other = network(), network()
    with torch.no_grad():
        other.hidden2.weight[0] = 0
    pruned = [("hidden2.weight", 1, 3)]
    first = measured(net, images, pruned, retrained=other)
    assert first["hidden1", "retrained"]["variance"] == pytest.approx(10, rel=0.1)
    left = masks.ones(net)
    left["hidden2.weight"][:, 3] = False
    second = measured(other, images, [*pruned, ("hidden2.weight", 1, 1)], before=left)
    for layer in ("hidden1", "hidden2"):
        assert second[layer, "before"] == first[layer, "retrained"] | {"quantity": "before"}


@pytest.mark.parametrize("name", ["lenet5", "vit"])
def test_networks_with_maps_and_tokens(name):
    net, images = networks.build(name, 1, 8, 3).eval(), torch.randn(600, 1, 8, 8)
    groups, everything = channels.groups(net, (1, 8, 8)), masks.ones(net)
    readings = Readings(net, groups, images, 1)
    alive = channels.alive(groups, everything)
    rows = list(step(groups, (readings, alive), readings, (readings, alive), **OPTIONS))
    assert len(rows) == len(groups) * len(QUANTITIES)
    for start in range(0, len(rows), len(QUANTITIES)):
        same = [{**row, "quantity": None} for row in rows[start : start + len(QUANTITIES)]]
        assert all(row == same[0] for row in same)
        assert same[0]["mean"] <= 1
