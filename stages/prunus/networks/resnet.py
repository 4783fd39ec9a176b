"""Residual networks (He et al. 2016): torchvision's, with the CIFAR stem for small images."""

from functools import partial

from torch import nn

from prunus.networks.pretrained import load_imagenet
from prunus.study import catalogue


def build(
    name: str, channels: int, side: int, classes: int, pretrained: bool = False, download: bool = True
) -> nn.Module:
    """torchvision's ``name``; up to 64 pixels its stem is a 3x3 convolution of stride 1 without max-pooling.

    torchvision's initialisation; with ``pretrained`` its ImageNet stem at any side, and its weights if ``download``.
    """
    from torchvision import models

    if pretrained:
        network = models.get_model(name, weights=None)
        if download:
            load_imagenet(network, name)
        network.fc = nn.Linear(network.fc.in_features, classes)
    else:
        network = models.get_model(name, weights=None, num_classes=classes)
        small = side <= catalogue.SMALL_IMAGE_SIDE
        if small:
            network.conv1 = _stem(channels, kernel_size=3, stride=1)
            network.maxpool = nn.Identity()
        elif channels != 3:
            network.conv1 = _stem(channels, kernel_size=7, stride=2)
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # otherwise the output that a hook keeps is overwritten
    return network


def _stem(channels: int, kernel_size: int, stride: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, 64, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


BUILDERS = {name: partial(build, name) for name in ("resnet18", "resnet34", "resnet50")}
