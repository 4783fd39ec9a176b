"""Wide residual networks (Zagoruyko and Komodakis 2016, arXiv 1605.07146): pre-activation blocks, no dropout."""

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


class WideResNet(nn.Module):
    """A 16-channel stem and three stages of ``widen`` times 16, 32 and 64 channels; the last two halve the side."""

    def __init__(self, channels: int, classes: int, depth: int, widen: int) -> None:
        super().__init__()
        # The paper's depth counts convolutions: two per block, the stem, and the shortcut of each of the three stages.
        blocks = (depth - 4) // 6
        widths = (16, 16 * widen, 32 * widen, 64 * widen)
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.stage1 = _stage(widths[0], widths[1], blocks, stride=1)
        self.stage2 = _stage(widths[1], widths[2], blocks, stride=2)
        self.stage3 = _stage(widths[2], widths[3], blocks, stride=2)
        self.bn = nn.BatchNorm2d(widths[3])
        self.classifier = nn.Linear(widths[3], classes)
        conv_kaiming(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stage3(self.stage2(self.stage1(self.conv1(images))))
        return self.classifier(F.adaptive_avg_pool2d(F.relu(self.bn(x)), 1).flatten(1))


def wide_resnet28_8(channels: int, side: int, classes: int) -> WideResNet:
    """WRN-28-8; SAP's initialisation, which is also the paper's: Kaiming-normal over the fan-out."""
    return WideResNet(channels, classes, depth=28, widen=8)


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(Block(inputs, outputs, stride), *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))
