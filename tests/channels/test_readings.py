"""What readers of channels see: against layers run by hand, and pooled by hand."""

import pytest
import torch
from torch import nn

from prunus import networks
from prunus.channels.groups import Slice
from prunus.channels.readings import capture, cells, reader_name


def test_inputs_and_outputs_are_those_of_the_layers_in_eval_mode(small_network):
    images = torch.randn(10, 1, 8, 8)
    with torch.no_grad():
        small_network[1].running_mean.fill_(0.3)
        flat = nn.Sequential(*small_network[:5]).eval()(images)
        written = small_network[5](flat)
    small_network.train()
    small_network[1].eval()
    state = {name: tensor.clone() for name, tensor in small_network.state_dict().items()}
    found = capture(small_network, images, ["0", "5"], batch_size=4)
    assert list(found) == ["0", "5"]
    assert torch.equal(found["0"][0], images)
    torch.testing.assert_close(found["5"], (flat, written))
    assert not found["5"][1].requires_grad
    assert small_network.training and not small_network[1].training and small_network[0].training
    assert all(torch.equal(tensor, state[name]) for name, tensor in small_network.state_dict().items())
    assert not any(module._forward_hooks for module in small_network.modules())


def test_each_batch_is_reduced_before_it_is_kept(small_network):
    images, sizes = torch.randn(10, 1, 8, 8), []

    def reduce(read, written):
        sizes.append(len(read))
        return read.mean((1, 2, 3)), None

    found = capture(small_network, images, {"0": reduce, "7": lambda read, written: written.sum(1)}, batch_size=4)
    assert sizes == [4, 4, 2]
    torch.testing.assert_close(found["0"][0], images.mean((1, 2, 3)))
    assert found["0"][1] is None
    torch.testing.assert_close(found["7"], small_network.eval()(images).detach().sum(1))


def test_a_layer_the_forward_pass_does_not_call_is_an_error_and_leaves_no_hook(small_network):
    small_network.spare = nn.Linear(2, 2)
    small_network.forward = lambda x: nn.Sequential(*list(small_network)[:-1])(x)
    with pytest.raises(ValueError, match="spare: called 0 times in 1 forward passes"):
        capture(small_network, torch.randn(2, 1, 8, 8), ["spare", "7"])
    assert not any(module._forward_hooks for module in small_network.modules())


def test_cells_of_maps():
    maps = torch.randn(3, 5, 4, 6)
    index = torch.tensor([[4], [0]])
    quarters = cells(maps, index, 2)
    assert quarters.shape == (3, 2, 4)
    torch.testing.assert_close(quarters[1, 0, 3], maps[1, 4, 2:, 3:].mean())
    torch.testing.assert_close(quarters[2, 1, 1], maps[2, 0, :2, 3:].mean())
    torch.testing.assert_close(
        cells(maps, index, 5), torch.nn.functional.adaptive_avg_pool2d(maps, (4, 5))[:, [4, 0]].flatten(2)
    )


def test_cells_of_flattened_maps_are_those_of_the_maps():
    maps = torch.randn(3, 5, 4, 4)
    flat = torch.arange(5 * 16).view(5, 16)
    for side in (1, 2, 4, 9):
        expected = cells(maps, torch.arange(5)[:, None], side)
        torch.testing.assert_close(cells(maps.flatten(1), flat, side), expected)


def test_cells_of_units_runs_and_tokens():
    units = torch.randn(3, 6)
    assert torch.equal(cells(units, torch.arange(6)[:, None], 2), units[:, :, None])
    runs = cells(torch.arange(12.0).view(1, 12), torch.arange(12).view(2, 6), 1)
    assert runs.tolist() == [[[2.5], [8.5]]]
    tokens = torch.randn(3, 7, 6)
    heads = torch.tensor([[0, 1, 2], [3, 4, 5]])
    torch.testing.assert_close(cells(tokens, heads, 1), tokens.mean(1).view(3, 2, 3))


def test_readings_of_every_kind_of_network_have_the_shapes_of_their_layers():
    for name in ("lenet5", "vit"):
        network = networks.build(name, 1, 8, 3)
        layers = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
        for layer, (read, written) in capture(network, torch.randn(3, 1, 8, 8), list(layers)).items():
            channel = 1 if isinstance(layers[layer], nn.Conv2d) else -1
            assert (read.shape[channel], written.shape[channel]) == layers[layer].weight.shape[1::-1]


def test_the_name_of_a_reader():
    assert reader_name(Slice("layer1.0.conv2.weight", 1, torch.zeros(1, 1))) == "layer1.0.conv2"
