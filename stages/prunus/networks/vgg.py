"""VGG networks (Simonyan and Zisserman 2015): torchvision's, with a light classifier for small images."""

from functools import partial

import torch
from torch import nn

from prunus.networks.initialise import conv_kaiming
from prunus.networks.pretrained import load_imagenet
from prunus.study import catalogue

# Each network's letter in the paper's table 1, which is torchvision's key for its layer list.
CONFIGURATIONS = {"vgg11": "A", "vgg16": "D", "vgg19": "E"}
LAST_WIDTH = 512


class SmallImageVgg(nn.Module):
    """VGG convolutions, global average pooling and one linear layer instead of three, as usual on CIFAR."""

    def __init__(self, features: nn.Sequential, classes: int) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(LAST_WIDTH, classes)
        conv_kaiming(self)
        _draw_linear(self.classifier)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.avgpool(self.features(images)).flatten(1))


def build(
    name: str, channels: int, side: int, classes: int, pretrained: bool = False, download: bool = True
) -> nn.Module:
    """torchvision's ``name``; up to 64 pixels without max-pools for which the image is too small, see SmallImageVgg.

    torchvision's initialisation; with ``pretrained`` its ImageNet form at any side, and its weights if ``download``.
    """
    from torchvision import models

    if pretrained:
        network = models.get_model(name, weights=None, init_weights=False)
        if download:
            load_imagenet(network, name)
        network.classifier[-1] = nn.Linear(network.classifier[-1].in_features, classes)
        _draw_linear(network.classifier[-1])
    elif side <= catalogue.SMALL_IMAGE_SIDE:
        layers = _without_idle_pools(models.vgg.cfgs[CONFIGURATIONS[name.removesuffix("_bn")]], side)
        features = models.vgg.make_layers(layers, batch_norm=name.endswith("_bn"))
        features[0] = nn.Conv2d(channels, features[0].out_channels, 3, padding=1)
        network = SmallImageVgg(features, classes)
    else:
        network = models.get_model(name, weights=None, num_classes=classes)
        if channels != 3:
            network.features[0] = nn.Conv2d(channels, network.features[0].out_channels, 3, padding=1)
            conv_kaiming(network.features[0])
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # otherwise the output that a hook keeps is overwritten
    return network


def _without_idle_pools(layers: list[int | str], side: int) -> list[int | str]:
    """The layer list without the max-pools ("M") that would get a 1-pixel image."""
    kept = []
    for layer in layers:
        if layer == "M":
            if side < 2:
                continue
            side //= 2
        kept.append(layer)
    return kept


def _draw_linear(layer: nn.Linear) -> None:
    nn.init.normal_(layer.weight, 0, 0.01)
    nn.init.zeros_(layer.bias)


BUILDERS = {name + suffix: partial(build, name + suffix) for name in CONFIGURATIONS for suffix in ("", "_bn")}
