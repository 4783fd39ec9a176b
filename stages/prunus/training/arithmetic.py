"""The precision of training steps and the order of feature maps in memory."""

from dataclasses import dataclass

import torch
from torch import nn

from prunus.study.catalogue import CHANNELS_LAST

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Arithmetic:
    """``precision`` float32 or bfloat16, of a training step's products; weights, gradients, optimiser, flow and
    evaluation are float32 always. ``memory_format`` contiguous or channels_last."""

    precision: str
    memory_format: str

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]

    def place(self, network: nn.Module, device: torch.device) -> nn.Module:
        """``network`` on ``device``, its convolutions' weights in the memory format: what they compute follows suit."""
        network = network.to(device)
        return network.to(memory_format=torch.channels_last) if self.memory_format == "channels_last" else network


def choose(precision: str, memory_format: str, network: str) -> Arithmetic:
    """What is asked for; a memory format ``auto`` is the faster one for a network of that catalogue name.

    There is no such choice of precision: bfloat16 is the faster one for most networks, but changes results.
    """
    if memory_format == "auto":
        memory_format = "channels_last" if network in CHANNELS_LAST else "contiguous"
    return Arithmetic(precision, memory_format)
