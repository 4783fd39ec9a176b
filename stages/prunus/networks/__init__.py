"""The networks a study can name, by the names in ``prunus.catalogue``.

Each takes any number of channels and classes and any image side from ``catalogue.SMALLEST_SIDE`` up (a multiple of
``catalogue.SIDE_MULTIPLE`` where the network is listed there), and maps images [N, channels, side, side] to logits
[N, classes]. In all of them conv and linear layers stand in ``named_modules`` in
the order the forward pass meets them (``downsample`` and ``shortcut`` layers aside), each is called once per pass, and
no activation is in place, so that what a forward hook keeps of a layer's output stays as it was.
"""

from collections.abc import Callable

from torch import nn

from prunus import catalogue
from prunus.networks import cnn, lenet5, perceptron, resnet, vgg, vit, wide_resnet
from prunus.networks.pretrained import NetworkError

__all__ = ["BUILDERS", "NetworkError", "build"]

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "linear": perceptron.linear,
    "mlp": perceptron.mlp,
    "cnn": cnn.build,
    "lenet5": lenet5.build,
    **vgg.BUILDERS,
    **resnet.BUILDERS,
    "wide_resnet28_8": wide_resnet.wide_resnet28_8,
    "vit": vit.vit,
}


def build(
    name: str, channels: int, side: int, classes: int, pretrained: bool = False, download: bool = True
) -> nn.Module:
    """A network in training mode on the default device, its weights drawn from torch's current random state.

    With ``pretrained`` the network has torchvision's ImageNet form and weights at any side, and only its last layer is
    drawn anew; without ``download`` it has that form and no weights, for a checkpoint to be loaded into. Raises
    NetworkError for an unknown name, for images the network cannot take and for pretrained weights that do not exist
    or cannot be had.
    """
    if name not in BUILDERS:
        raise NetworkError(f"unknown network {name!r}; there are: {', '.join(BUILDERS)}")
    if side < catalogue.SMALLEST_SIDE[name]:
        raise NetworkError(f"{name} needs images of at least {catalogue.SMALLEST_SIDE[name]} pixels, got {side}")
    if side % catalogue.SIDE_MULTIPLE.get(name, 1):
        raise NetworkError(
            f"{name} needs an image side that is a multiple of {catalogue.SIDE_MULTIPLE[name]}, got {side}"
        )
    if not pretrained:
        return BUILDERS[name](channels, side, classes)
    if name not in catalogue.PRETRAINED:
        raise NetworkError(f"{name} has no pretrained weights; these have: {', '.join(catalogue.PRETRAINED)}")
    if channels != 3 or side < catalogue.PRETRAINED_SIDE:
        raise NetworkError(
            f"pretrained {name} needs RGB images of at least {catalogue.PRETRAINED_SIDE} pixels, "
            f"got {channels}x{side}x{side}"
        )
    return BUILDERS[name](channels, side, classes, pretrained=True, download=download)
