"""Wide residual networks (Zagoruyko and Komodakis 2016, arXiv 1605.07146): pre-activation blocks, no dropout."""

from prunus.networks.preact_resnet import PreActResNet


class WideResNet(PreActResNet):
    """A 16-channel stem and three stages of ``widen`` times 16, 32 and 64 channels; the last two halve the side."""

    def __init__(self, channels: int, classes: int, depth: int, widen: int) -> None:
        # The paper's depth counts convolutions: two per block, the stem, and the shortcut of each of the three stages.
        super().__init__(channels, classes, 16, (16 * widen, 32 * widen, 64 * widen), blocks=(depth - 4) // 6)


def wide_resnet28_8(channels: int, side: int, classes: int) -> WideResNet:
    """WRN-28-8; SAP's initialisation, which is also the paper's: Kaiming-normal over the fan-out."""
    return WideResNet(channels, classes, depth=28, widen=8)
