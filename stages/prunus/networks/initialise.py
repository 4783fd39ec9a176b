"""Weight initialisations that several networks share."""

from torch import nn


def conv_kaiming(network: nn.Module) -> None:
    """Convolutions Kaiming-normal over the fan-out, all conv and linear biases 0, in place.

    Linear weights and batch norm (scale 1, shift 0) keep torch's defaults, as in the code of SAP (Diao et al. 2023).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
