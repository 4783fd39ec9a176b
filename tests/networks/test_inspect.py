"""The reason why a network cannot be used is measured, and the network does not change."""

import torch
from torch import nn

from prunus import networks
from prunus.networks.inspect import norm_of_one_value, why_not_finite


def test_running_statistics_that_lag_are_told_from_weights_that_are_too_large(lagging):
    images, labels = torch.randn(20, 1, 8, 8), torch.arange(20) % 3
    state = {name: tensor.clone() for name, tensor in lagging.state_dict().items()}
    reason = why_not_finite(lagging, images, labels)
    assert reason.startswith(
        "with the running statistics of batch norm its activations are not finite from 5 on, with those"
    )
    assert "train it for more steps" in reason
    lagging.train()
    assert "running" not in why_not_finite(lagging, images, labels)
    assert all(torch.equal(tensor, state[name]) for name, tensor in lagging.state_dict().items())
    assert lagging.training and not any(module._forward_hooks for module in lagging.modules())
    lagging.eval()
    with torch.no_grad():
        lagging[5].weight.mul_(1e20)  # now they overflow whatever normalises what they read
    assert why_not_finite(lagging, images, labels) == "its activations are not finite from 5 on"


def test_a_gradient_that_overflows_is_told_from_what_is_computed_from_it():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 3)).eval()
    images, labels = torch.full((4, 1, 8, 8), 1e5), torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        network[1].weight.zero_(), network[1].bias.zero_(), network[2].weight.fill_(3e38), network[2].bias.zero_()
        network[2].weight[0].neg_()
    assert (
        why_not_finite(network, images, labels)
        == "its largest answer is 0 and the gradient of the loss is not finite in 1.weight"
    )
    assert "the gradient" not in why_not_finite(network, images)
    with torch.no_grad():
        network[2].weight.fill_(1.0)
    assert why_not_finite(network, images, labels).endswith(
        "the gradient of the loss is finite: what is computed from the answers overflows"
    )


def test_which_norm_has_one_value_depends_on_network_and_image(small_network):
    image = torch.randn(1, 1, 8, 8)
    assert norm_of_one_value(small_network, image) is None  # its maps have 8 x 8 entries
    single = nn.Sequential(nn.Conv2d(1, 4, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3))
    assert norm_of_one_value(single, image) == "1"
    assert single.training and not any(module._forward_pre_hooks for module in single.modules())
    assert norm_of_one_value(networks.build("resnet18", 1, 8, 3), image).startswith("layer4.")
    assert norm_of_one_value(networks.build("resnet18", 1, 32, 3), torch.randn(1, 1, 32, 32)) is None
