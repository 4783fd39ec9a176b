"""Fit images to a network that needs another side or RGB: resize them and repeat a grey channel."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Fit:
    """A forward pre-hook: images [N, C, H, W] of any side become [N, ``channels``, ``side``, ``side``].

    Bilinear; images are smoothed before they are shrunk (antialias), as in PIL and torchvision's Resize; enlarging is
    not affected. A grey channel is repeated. Normalised images stay normalised: resizing takes weighted means.
    """

    channels: int
    side: int

    def __call__(self, network: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (images,) = inputs
        if images.shape[2:] != (self.side, self.side):
            images = F.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True)
        return (images.expand(-1, self.channels, -1, -1),)
