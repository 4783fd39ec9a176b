"""The networks that a study can name, with the names in ``prunus.study.catalogue``.

Each takes any number of channels and classes and any image side from ``catalogue.SMALLEST_SIDE`` up (a multiple of
``catalogue.SIDE_MULTIPLE`` where the network is listed there), and maps images [N, channels, side, side] to logits
[N, classes]; with ``resize`` it resizes them itself, so that all callers and tracers see the same. In all networks the
conv and linear layers are in ``named_modules`` in the order of the forward pass (except ``downsample`` and ``shortcut``
layers), each is called once per pass, and no activation is in place, so that a layer's output kept by a forward hook
does not change.
"""

from collections.abc import Callable

from torch import nn

from prunus.networks import cnn, inspect, lenet5, perceptron, preact_resnet, resnet, vgg, vit, wide_resnet
from prunus.networks.fitting import Fit
from prunus.networks.pretrained import NetworkError
from prunus.study import catalogue
from prunus.study.schema import Network

__all__ = ["BUILDERS", "NetworkError", "build", "inspect", "of_study"]

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "linear": perceptron.linear,
    "mlp": perceptron.mlp,
    "cnn": cnn.build,
    "lenet5": lenet5.build,
    **vgg.BUILDERS,
    **resnet.BUILDERS,
    "preact_resnet18": preact_resnet.preact_resnet18,
    "wide_resnet28_8": wide_resnet.wide_resnet28_8,
    "vit": vit.vit,
}


def build(
    name: str,
    channels: int,
    side: int,
    classes: int,
    pretrained: bool = False,
    download: bool = True,
    resize: int | str = "native",
) -> nn.Module:
    """A network in training mode on the default device, its weights drawn from torch's current random state.

    It takes images [N, ``channels``, ``side``, ``side``]. With ``resize``, a number of pixels, it has the form for
    images of that side and resizes its input (``Fit``). With ``pretrained`` it has torchvision's ImageNet form and
    weights at any side, a grey channel is repeated to three, and only the last layer is drawn anew; without
    ``download`` it has that form with random weights, into which a checkpoint is loaded. Raises NetworkError for an
    unknown name, for images the network cannot take and for pretrained weights that do not exist or cannot be loaded.
    """
    if name not in BUILDERS:
        raise NetworkError(f"unknown network {name!r}; known: {', '.join(BUILDERS)}")
    pixels = side if resize == "native" else resize
    if pixels < catalogue.SMALLEST_SIDE[name]:
        raise NetworkError(f"{name} needs images of at least {catalogue.SMALLEST_SIDE[name]} pixels, got {pixels}")
    if pixels % catalogue.SIDE_MULTIPLE.get(name, 1):
        raise NetworkError(
            f"{name} needs an image side that is a multiple of {catalogue.SIDE_MULTIPLE[name]}, got {pixels}"
        )
    if not pretrained:
        input_channels = channels
        network = BUILDERS[name](channels, pixels, classes)
    else:
        if name not in catalogue.PRETRAINED:
            raise NetworkError(f"{name} has no pretrained weights; these have: {', '.join(catalogue.PRETRAINED)}")
        if channels not in (1, 3) or pixels < catalogue.PRETRAINED_SIDE:
            raise NetworkError(
                f"pretrained {name} needs grey or RGB images of at least {catalogue.PRETRAINED_SIDE} pixels, "
                f"got {channels}x{pixels}x{pixels}"
            )
        input_channels = 3
        network = BUILDERS[name](3, pixels, classes, pretrained=True, download=download)
    if (input_channels, pixels) != (channels, side):
        network.register_forward_pre_hook(Fit(input_channels, pixels))  # a hook, so that weights keep their names
    return network


def of_study(name: str, settings: Network, form: tuple[int, int, int], download: bool = False) -> nn.Module:
    """The network ``name`` with the ``settings`` of params.yaml (``network``), for images of ``Dataset.form``."""
    return build(name, *form, settings.pretrained, download, settings.side)
