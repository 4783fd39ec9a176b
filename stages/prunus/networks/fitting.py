"""Images on their way into a network that wants others than the dataset has: resized, and grey made RGB."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Fit:
    """A forward pre-hook: images [N, C, H, W] of any side become [N, ``channels``, ``side``, ``side``].

    Bilinear; what is made smaller is smoothed first (antialias), as PIL and with it torchvision's Resize do; that makes
    no difference where images are enlarged. A grey channel is repeated. Normalised images stay normalised: resizing
    takes weighted means.
    """

    channels: int
    side: int

    def __call__(self, network: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (images,) = inputs
        if images.shape[2:] != (self.side, self.side):
            images = F.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True)
        return (images.expand(-1, self.channels, -1, -1),)
