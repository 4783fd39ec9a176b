"""The convolutional network of SAP (Diao et al. 2023, arXiv 2302.05601)."""

from collections import OrderedDict

from torch import nn

from prunus.networks.initialise import conv_kaiming

WIDTHS = (64, 128, 256, 512)


def build(channels: int, side: int, classes: int) -> nn.Sequential:
    """Four 3x3 convolutions, each with batch norm and ReLU, with max-pooling between them and averaging at the end."""
    layers = OrderedDict()
    for i, (inputs, outputs) in enumerate(zip((channels, *WIDTHS), WIDTHS, strict=False), start=1):
        layers[f"conv{i}"] = nn.Conv2d(inputs, outputs, 3, padding=1)
        layers[f"bn{i}"] = nn.BatchNorm2d(outputs)
        layers[f"relu{i}"] = nn.ReLU()
        layers[f"pool{i}"] = nn.MaxPool2d(2) if i < len(WIDTHS) else nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(WIDTHS[-1], classes)
    network = nn.Sequential(layers)
    conv_kaiming(network)
    return network
