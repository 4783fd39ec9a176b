"""Networks and masks to and from safetensors (never pickle)."""

import os
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prunus.masks import Masks
from prunus.runtime import StageError, write_atomically

MASK = "mask."


def save(path: Path, state: dict[str, Tensor], masks: Masks | None = None) -> None:
    """Write a ``state_dict`` (zeros where pruned) and, as ``mask.<parameter>``, the masks; whole or not at all."""
    tensors = dict(state) | {MASK + name: mask for name, mask in (masks or {}).items()}
    with write_atomically(path) as partial:
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial)
        except SafetensorError as error:
            if (code := re.search(r"os error (\d+)", str(error))) is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from None


def load(path: Path, device: torch.device, made_by: str) -> tuple[dict[str, Tensor], Masks]:
    """The ``state_dict`` and the masks (bool) of a file that ``save`` wrote, on ``device``.

    A missing or damaged file raises ``StageError`` naming ``made_by``, the command that makes it.
    """
    try:
        tensors = load_file(path, device=str(device))
    except FileNotFoundError:
        raise StageError(f"{path} is missing; `{made_by}` makes it") from None
    except SafetensorError as error:
        raise StageError(f"{path} is damaged ({error}); delete it, `{made_by}` makes it again") from None
    state = {name: tensor for name, tensor in tensors.items() if not name.startswith(MASK)}
    masks = {name.removeprefix(MASK): tensors[name].bool() for name in tensors if name.startswith(MASK)}
    return state, masks


def load_into(network: nn.Module, path: Path, device: torch.device, made_by: str) -> Masks:
    """Load a network's tensors in place and return its masks in the network's order (empty if none are stored)."""
    state, masks = load(path, device, made_by)
    network.load_state_dict(state)
    return {name: masks[name] for name, _ in network.named_parameters() if name in masks}
