"""The datasets, networks and methods that a study can name, and which fit together. This file does not import torch."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

METHOD_FILES = Path(__file__).parents[1] / "methods"


@dataclass(frozen=True)
class ImageShape:
    """Channels, side in pixels (images are square) and classes; ``classes`` is None if it depends on the files."""

    channels: int
    side: int
    classes: int | None


DATASETS = {
    "digits": ImageShape(1, 8, 10),
    "mnist": ImageShape(1, 28, 10),
    "fashion_mnist": ImageShape(1, 28, 10),
    "cifar10": ImageShape(3, 32, 10),
    "cifar100": ImageShape(3, 32, 100),
    "image_folder": ImageShape(3, 0, None),  # the side is data.image_folder.side
}

# The smallest image side of each network: at least one pixel must be left after the last pooling.
SMALLEST_SIDE = {
    "linear": 1,
    "mlp": 1,
    "cnn": 8,
    "lenet5": 8,
    "vgg11": 8,
    "vgg11_bn": 8,
    "vgg16": 8,
    "vgg16_bn": 8,
    "vgg19": 8,
    "vgg19_bn": 8,
    "resnet18": 8,
    "resnet34": 8,
    "resnet50": 8,
    "preact_resnet18": 8,
    "wide_resnet28_8": 8,
    "vit": 8,
}

# Networks that cut images into patches need a side that is a multiple of the patch's.
SIDE_MULTIPLE = {"vit": 4}

SINGLE_LAYER = ("linear",)

# Networks that are faster with channels-last feature maps (measured by benchmarks/training_epoch.py).
CHANNELS_LAST = tuple(name for name in SMALLEST_SIDE if name not in ("linear", "mlp", "vit"))

# torchvision publishes ImageNet weights for these. They need the ImageNet stem, at least 32 pixels and RGB; a grey
# channel is repeated.
PRETRAINED = tuple(name for name in SMALLEST_SIDE if name.startswith(("vgg", "resnet")))
PRETRAINED_SIDE = 32

# Up to this side networks have the small-image form (3x3 stem, no early pooling), above it torchvision's ImageNet form.
SMALL_IMAGE_SIDE = 64


@cache
def method_names() -> list[str]:
    """The methods that exist: one file each under ``stages/prunus/methods/``, with a name that Python can import."""
    names = (path.stem for path in METHOD_FILES.glob("*.py"))
    return sorted(name for name in names if name.isidentifier() and name != "__init__")


def misfit(dataset: str, network: str, side: int, pretrained: bool, resize: int | str = "native") -> str | None:
    """Why ``network`` cannot take images of ``side`` pixels from ``dataset``, or None when it can.

    ``resize``: the side to which they are resized first, unless native.
    """
    if resize == "native":
        reason = f"{dataset} has {side}"
    else:
        side, reason = resize, f"network.side is {resize}"
    if side < SMALLEST_SIDE[network]:
        return f"needs images of at least {SMALLEST_SIDE[network]} pixels, {reason}"
    if side % SIDE_MULTIPLE.get(network, 1):
        return f"needs an image side that is a multiple of {SIDE_MULTIPLE[network]}, {reason}"
    if pretrained and network not in PRETRAINED:
        return f"has no pretrained weights; these have: {', '.join(PRETRAINED)}"
    if pretrained and side < PRETRAINED_SIDE:
        return f"pretrained needs images of at least {PRETRAINED_SIDE} pixels, {reason}; raise network.side"
    return None
