"""The precision of training steps and the order of feature maps in memory.

``auto`` rests on what benchmarks/training_epoch.py measures: channels last for convolutions, and bfloat16 where the
processor multiplies in it and the network is large enough to gain much. Weights, gradients, optimiser, flow and
evaluation are float32 always.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from prunus.catalogue import CHANNELS_LAST, TOO_SMALL_FOR_BFLOAT16

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PROCESSOR = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


@dataclass(frozen=True)
class Arithmetic:
    """``precision`` float32 or bfloat16, ``memory_format`` contiguous or channels_last."""

    precision: str
    memory_format: str

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]

    def place(self, network: nn.Module, device: torch.device) -> nn.Module:
        """``network`` on ``device``, its convolutions' weights in the memory format: what they compute follows suit."""
        network = network.to(device)
        return network.to(memory_format=torch.channels_last) if self.memory_format == "channels_last" else network


def choose(precision: str, memory_format: str, network: str, device: torch.device) -> Arithmetic:
    """What is asked for, ``auto`` decided for a network of that catalogue name on ``device``."""
    if precision == "auto":
        pays = network not in TOO_SMALL_FOR_BFLOAT16 and multiplies_bfloat16(device)
        precision = "bfloat16" if pays else "float32"
    if memory_format == "auto":
        memory_format = "channels_last" if network in CHANNELS_LAST else "contiguous"
    return Arithmetic(precision, memory_format)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` has instructions for it; without them bfloat16 works too, but slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        return not BFLOAT16_FLAGS.isdisjoint(PROCESSOR.read_text().split())
    except OSError:
        return False
