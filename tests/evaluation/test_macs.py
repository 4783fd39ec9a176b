"""Multiply-accumulates against torch counts, formulas and masks."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from example_networks import on_meta
from prunus import networks
from prunus.evaluation.macs import multiply_accumulates
from prunus.study import catalogue


@pytest.mark.parametrize("name", catalogue.SMALLEST_SIDE)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 96, 96)])
def test_macs_match_torch(name, shape):
    network = on_meta(name, shape[0], shape[1], 10).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, *shape, device="meta"))
    counts = multiply_accumulates(network, shape)
    tokens = (shape[1] // 4) ** 2
    attention = 4 * 2 * tokens**2 * 96 if name == "vit" else 0  # query with key and weights with value, four blocks
    assert sum(counts.values()) + attention == counter.get_total_flops() / 2
    assert list(counts) == [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def test_macs_of_resnet18():
    assert sum(multiply_accumulates(on_meta("resnet18", 3, 32, 10), (3, 32, 32)).values()) == 555_422_720


def test_macs_scale_with_alive_weights():
    network = networks.build("lenet5", 1, 8, 10)
    dense = multiply_accumulates(network, (1, 8, 8))
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in network.named_parameters() if p.dim() > 1}
    assert multiply_accumulates(network, (1, 8, 8), masks) == dense
    masks["conv2.weight"][:, :3] = False
    masks["fc1.weight"][:] = False
    sparse = multiply_accumulates(network, (1, 8, 8), masks)
    assert sparse == {**dense, "conv2": dense["conv2"] // 2, "fc1": 0}
    assert multiply_accumulates(network, (1, 8, 8), {"fc1.weight": masks["fc1.weight"]}) == {**dense, "fc1": 0}


def test_macs_leave_the_network_as_it_was():
    network = networks.build("cnn", 1, 8, 10).train()
    network.bn1.eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    multiply_accumulates(network, (1, 8, 8))
    assert network.training
    assert network.bn2.training
    assert not network.bn1.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
    with pytest.raises(RuntimeError):
        multiply_accumulates(network, (3, 8, 8))
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())
