"""Networks for tests: some whose channels are coupled in every way Prunus knows, and some without numbers."""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.init import normal_, uniform_

from prunus import channels, networks
from prunus import masks as masking
from prunus.networks.vit import VisionTransformer
from prunus.networks.wide_resnet import WideResNet


class Separable(nn.Module):
    """A stem, a depthwise and pointwise convolution with a skip connection over both, and flattened maps."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 6, 3, padding=1)
        self.expand = nn.Conv2d(6, 10, 1)
        self.depthwise = nn.Conv2d(10, 10, 3, padding=1, groups=10)
        self.bn = nn.BatchNorm2d(10)
        self.project = nn.Conv2d(10, 6, 1)
        self.classifier = nn.Linear(6 * 16, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(images))
        x = x + self.project(F.relu(self.bn(self.depthwise(F.relu(self.expand(x))))))
        return self.classifier(F.avg_pool2d(x, 2).flatten(1))


SHAPE = (1, 8, 8)
BUILDERS = {
    **{name: lambda name=name: networks.build(name, *SHAPE[:2], 10) for name in ("mlp", "lenet5", "vgg11", "vgg11_bn")},
    **{name: lambda name=name: networks.build(name, *SHAPE[:2], 10) for name in ("resnet18", "resnet50")},
    "preact_resnet18": lambda: networks.build("preact_resnet18", *SHAPE[:2], 10),
    "wide_resnet": lambda: WideResNet(1, 10, depth=10, widen=1),
    "vit": lambda: VisionTransformer(1, 8, 10, width=24, depth=2, heads=4),
    "separable": Separable,
}
SMALL = ("lenet5", "wide_resnet", "vit", "separable")


def build(name: str) -> nn.Module:
    """A network in eval mode in which no bias, norm or statistic is trivial."""
    network = BUILDERS[name]().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            uniform_(module.weight, 0.5, 1.5)
            normal_(module.bias, std=0.3)
        if isinstance(module, nn.BatchNorm2d):
            normal_(module.running_mean, std=0.3)
            uniform_(module.running_var, 0.5, 1.5)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            normal_(module.bias, std=0.3)
    if isinstance(network, VisionTransformer):
        for module in network.modules():
            if isinstance(module, nn.Linear):
                normal_(module.weight, std=module.in_features**-0.5)
    return network


def half_dead(groups: list[channels.Group], share: float = 0.4) -> masking.Masks:
    """A random mask per group with about that share dead and at least one channel alive."""
    alive = {group.name: torch.rand(group.size) >= share for group in groups}
    for mask in alive.values():
        mask[-1] = True
    return alive


def assert_compacts(network: nn.Module, masks: masking.Masks) -> nn.Module:
    """The compacted network, which answers as the masked one does."""
    small = channels.compact(network, channels.groups(network, SHAPE), masks)
    masked = copy.deepcopy(network)
    masking.apply(masked, masks)
    images = torch.randn(4, *SHAPE)
    with torch.no_grad():
        expected = masked(images)
        torch.testing.assert_close(small(images), expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 1e-4
    return small


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def on_meta(name: str, channels: int, side: int, classes: int) -> nn.Module:
    """A network with shapes but no numbers, which costs nothing however large it is."""
    with torch.device("meta"):
        return networks.build(name, channels, side, classes)
