"""Pre-activation residual networks (He et al. 2016, arXiv 1603.05027) for small images, in the form of SAP's code.

Diao et al. 2023, arXiv 2302.05601: the ResNet18 of its experiments; torchvision's `resnet18` is a different network.
"""

import torch
import torch.nn.functional as F
from torch import nn

from prunus.networks.initialise import conv_kaiming


class Block(nn.Module):
    """Batch norm, ReLU and 3x3 convolution, twice, added to the input.

    Where the shape changes, the input passes through a 1x1 ``shortcut`` convolution, after the first ReLU.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same_shape = inputs == outputs and stride == 1
        self.shortcut = None if same_shape else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated = F.relu(self.bn1(x))
        residual = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return residual + (x if self.shortcut is None else self.shortcut(activated))


class PreActResNet(nn.Module):
    """A 3x3 stem of ``stem`` channels, then ``stage1``, ``stage2``, ... of ``blocks`` blocks and ``widths`` channels.

    Every stage after the first halves the side. Batch norm and ReLU come last, then the mean over space and a linear
    layer. Kaiming-normal convolutions over the fan-out, linear bias 0.
    """

    def __init__(self, channels: int, classes: int, stem: int, widths: tuple[int, ...], blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, stem, 3, padding=1, bias=False)
        self.stages = len(widths)
        for number, (inputs, outputs) in enumerate(zip((stem, *widths), widths, strict=False), start=1):
            rest = (Block(outputs, outputs, 1) for _ in range(blocks - 1))
            stage = nn.Sequential(Block(inputs, outputs, stride=1 if number == 1 else 2), *rest)
            self.add_module(f"stage{number}", stage)
        self.bn = nn.BatchNorm2d(widths[-1])
        self.classifier = nn.Linear(widths[-1], classes)
        conv_kaiming(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.conv1(images)
        for number in range(1, self.stages + 1):
            x = self.get_submodule(f"stage{number}")(x)
        return self.classifier(F.adaptive_avg_pool2d(F.relu(self.bn(x)), 1).flatten(1))


def preact_resnet18(channels: int, side: int, classes: int) -> PreActResNet:
    """Two blocks each of 64, 128, 256 and 512 channels; no norm and no max-pooling in the stem."""
    return PreActResNet(channels, classes, 64, (64, 128, 256, 512), blocks=2)
