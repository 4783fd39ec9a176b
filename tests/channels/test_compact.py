"""A compacted network is smaller and computes what the masked one computes."""

import copy

import pytest
import torch
import torch.nn.functional as F

from example_networks import BUILDERS, SHAPE, SMALL, assert_compacts, build, half_dead, size
from prunus import channels
from prunus import masks as masking


@pytest.mark.parametrize("name", BUILDERS)
def test_compacted_and_masked_network_agree(name):
    network = build(name)
    found = channels.groups(network, SHAPE)
    alive = half_dead(found)
    small = assert_compacts(network, channels.expand(found, alive, masking.ones(network)))
    left = {group.name: group.size for group in channels.groups(small, SHAPE)}
    assert left == {name: int(mask.sum()) for name, mask in alive.items()}
    assert size(small) < 0.8 * size(network)

    before = [parameter.detach().clone() for parameter in small.train().parameters()]
    F.cross_entropy(small(torch.randn(4, *SHAPE)), torch.arange(4)).backward()
    torch.optim.SGD(small.parameters(), lr=1.0).step()
    assert all(parameter.requires_grad for parameter in small.parameters())
    changed = [not torch.equal(old, new) for old, new in zip(before, small.parameters(), strict=True)]
    assert sum(changed) > 0.8 * len(changed)


def test_compacted_lenet5_has_the_size_of_its_formula():
    network = build("lenet5")
    found = channels.groups(network, SHAPE)
    keep = {"conv1": 4, "conv2": 9, "fc1": 50, "fc2": 33}
    alive = {group.name: torch.randperm(group.size) < keep[group.name] for group in found}
    small = assert_compacts(network, channels.expand(found, alive, masking.ones(network)))
    sizes = [4 * 25 + 4, 9 * 4 * 25 + 9, 50 * 9 * 4 + 50, 33 * 50 + 33, 10 * 33 + 10]
    assert size(small) == sum(sizes)
    assert (small.conv2.in_channels, small.conv2.out_channels, small.fc1.in_features) == (4, 9, 36)


def test_compaction_reduces_heads_and_depthwise_groups():
    network = build("vit")
    masks = masking.ones(network)
    masks["blocks.1.attention.projection.weight"][:, 6:18] = False
    small = assert_compacts(network, masks)
    assert [block.attention.heads for block in small.blocks] == [4, 2]
    assert small.blocks[1].attention.key.weight.shape == (12, 24)

    network = build("separable")
    masks = masking.ones(network)
    masks["project.weight"][:, 1:] = False
    small = assert_compacts(network, masks)
    assert (small.depthwise.groups, small.depthwise.in_channels, small.bn.num_features) == (1, 1, 1)
    masks["project.weight"][:, 3] = True
    assert assert_compacts(network, masks).depthwise.groups == 2


@pytest.mark.parametrize("name", SMALL)
def test_ones_compact_to_an_equal_copy(name):
    network = build(name).requires_grad_(False)
    small = assert_compacts(network, masking.ones(network))
    assert {n: p.shape for n, p in small.state_dict().items()} == {n: p.shape for n, p in network.state_dict().items()}
    theirs = {parameter.data_ptr() for parameter in network.parameters()}
    assert all(p.requires_grad and p.data_ptr() not in theirs for p in small.parameters())


def test_an_unstructured_mask_that_silences_a_channel():
    network = build("lenet5")
    masks = {name: torch.rand(mask.shape) < 0.5 for name, mask in masking.ones(network).items()}
    masks["conv2.weight"][:, 2] = False
    masks["fc1.weight"][:, 4 * 7 : 4 * 8] = False
    masks["fc2.weight"][5] = False  # its bias is still passed on: the unit stays, whatever its own weights
    found = channels.groups(network, SHAPE)
    alive = channels.alive(found, masks)
    assert {name: (~mask).nonzero().flatten().tolist() for name, mask in alive.items()} == {
        "conv1": [2],
        "conv2": [7],
        "fc1": [],
        "fc2": [],
    }
    small = assert_compacts(network, masks)
    assert (small.conv1.out_channels, small.conv2.out_channels) == (5, 15)


def test_what_only_dead_channels_read_goes_too():
    network = build("lenet5")
    masks = masking.ones(network)
    masks["classifier.weight"][:, 10:] = False
    masks["fc2.weight"][:10, 20:] = False
    small = assert_compacts(network, masks)
    assert (small.fc2.out_features, small.fc1.out_features) == (10, 20)


@pytest.mark.parametrize("name", SMALL)
def test_a_dead_group_keeps_one_channel(name):
    network = build(name)
    found = channels.groups(network, SHAPE)
    for group in found[-1:] if name == "lenet5" else found:
        alive = {g.name: torch.full((g.size,), g.name != group.name) for g in found}
        masks = channels.expand(found, alive, masking.ones(network))
        small = channels.compact(network, channels.groups(network, SHAPE), masks)
        masking.apply(masked := copy.deepcopy(network), masks)
        images = torch.randn(4, *SHAPE)
        torch.testing.assert_close(small(images), masked(images), atol=1e-5, rtol=1e-5)
        assert {g.name: g.size for g in channels.groups(small, SHAPE)}[group.name] == 1
