"""The linear classifier and the multilayer perceptron of SAP (Diao et al. 2023, arXiv 2302.05601)."""

from collections import OrderedDict

from torch import nn

from prunus.networks.initialise import conv_kaiming


def linear(channels: int, side: int, classes: int) -> nn.Sequential:
    """One linear layer on the flattened image."""
    network = nn.Sequential(
        OrderedDict(flatten=nn.Flatten(), classifier=nn.Linear(channels * side**2, classes)),
    )
    conv_kaiming(network)
    return network


def mlp(channels: int, side: int, classes: int) -> nn.Sequential:
    """The flattened image through ReLU layers of 128 and 256 units and a linear one."""
    network = nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            hidden1=nn.Linear(channels * side**2, 128),
            relu1=nn.ReLU(),
            hidden2=nn.Linear(128, 256),
            relu2=nn.ReLU(),
            classifier=nn.Linear(256, classes),
        )
    )
    conv_kaiming(network)
    return network
