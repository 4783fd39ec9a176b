"""The precision of training steps and the order of feature maps in memory."""

from dataclasses import dataclass

import torch
from torch import nn

from prunus.study.catalogue import CHANNELS_LAST

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Arithmetic:
    """``precision`` of a training step's products: float32 or bfloat16; weights, gradients, optimiser, flow and
    evaluation are always float32. ``memory_format`` contiguous or channels_last."""

    precision: str
    memory_format: str

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]

    def place(self, network: nn.Module, device: torch.device) -> nn.Module:
        """``network`` on ``device``, its convolutions' weights in the memory format; feature maps then have it too."""
        network = network.to(device)
        return network.to(memory_format=torch.channels_last) if self.memory_format == "channels_last" else network


def choose(precision: str, memory_format: str, network: str) -> Arithmetic:
    """The arithmetic of these settings; memory format ``auto`` is the faster one for the network of that catalogue
    name.

    Precision has no ``auto``: bfloat16 is faster for most networks, but changes results.
    """
    if memory_format == "auto":
        memory_format = "channels_last" if network in CHANNELS_LAST else "contiguous"
    return Arithmetic(precision, memory_format)
