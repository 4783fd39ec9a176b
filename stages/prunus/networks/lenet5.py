"""LeNet-5 (LeCun et al. 1998) in its usual ReLU and max-pooling form."""

from collections import OrderedDict

from torch import nn

UNPADDED_SIDE = 28


def build(channels: int, side: int, classes: int) -> nn.Sequential:
    """Two 5x5 convolutions of 6 and 16 channels, then linear layers of 120, 84 and ``classes`` units.

    The weights are torch's defaults. For images below 28 pixels the second convolution is padded, since an 8-pixel
    image would otherwise have no pixel left. ReLU follows max-pooling: it gives the same numbers, from a quarter of the
    values.
    """
    padding = 0 if side >= UNPADDED_SIDE else 2
    last_side = (side // 2 - 4 + 2 * padding) // 2
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 6, 5, padding=2),
            pool1=nn.MaxPool2d(2),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(6, 16, 5, padding=padding),
            pool2=nn.MaxPool2d(2),
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
            fc1=nn.Linear(16 * last_side**2, 120),
            relu3=nn.ReLU(),
            fc2=nn.Linear(120, 84),
            relu4=nn.ReLU(),
            classifier=nn.Linear(84, classes),
        )
    )
