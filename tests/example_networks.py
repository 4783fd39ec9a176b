"""Networks for tests: some whose channels are coupled in every way Prunus knows, and some without numbers."""

import copy
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.init import kaiming_normal_, normal_, uniform_

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


LARGE = ("vgg", "resnet", "preact", "wide")


@cache
def _outline(name: str, channels: int, side: int, classes: int) -> nn.Module:
    return on_meta(name, channels, side, classes)


def slim(name: str, channels: int, side: int, classes: int) -> nn.Module:
    """A VGG or residual network with an eighth of the published one's channels, drawn as the published one is, or two
    blocks of a vision transformer: it has every coupling of the whole one, and costs a test a fiftieth. The others are
    small as they are."""
    if name == "vit":
        return VisionTransformer(channels, side, classes, width=24, depth=2, heads=4)

    def fewer(width: int) -> int:
        return width // 8 if width >= 64 else width  # not the image's channels, and not the classes

    if not name.startswith(LARGE):
        return networks.build(name, channels, side, classes)
    network = copy.deepcopy(_outline(name, channels, side, classes))
    for path, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d):
            widths, form = (module.in_channels, module.out_channels), (module.kernel_size, module.stride)
            layer = nn.Conv2d(*map(fewer, widths), *form, module.padding, bias=module.bias is not None)
            kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            layer = nn.Linear(fewer(module.in_features), module.out_features)
        elif isinstance(module, nn.BatchNorm2d):
            layer = nn.BatchNorm2d(fewer(module.num_features))
        else:
            continue
        network.set_submodule(path, layer)
    return network


SHAPE = (1, 8, 8)
NAMES = ("mlp", "lenet5", "vgg11", "vgg11_bn", "resnet18", "resnet50", "preact_resnet18", "vit")
BUILDERS = {
    **{name: lambda name=name: slim(name, *SHAPE[:2], 10) for name in NAMES},
    "resnet18 at full width": lambda: networks.build("resnet18", *SHAPE[:2], 10),
    "wide_resnet": lambda: WideResNet(1, 10, depth=10, widen=1),
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
