"""Save and load networks and masks as safetensors (never pickle)."""

import os
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prunus.masks import Masks, apply, prunable
from prunus.run.errors import StageError
from prunus.run.files import write_atomically

MASK = "mask."


def save(path: Path, state: dict[str, Tensor], masks: Masks | None = None) -> None:
    """Write a ``state_dict`` (zeros where pruned) and, as ``mask.<parameter>``, the masks; completely or not at all."""
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
        raise _damaged(path, error, made_by) from None
    state = {name: tensor for name, tensor in tensors.items() if not name.startswith(MASK)}
    masks = {name.removeprefix(MASK): tensors[name] for name in tensors if name.startswith(MASK)}
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise _damaged(path, f"{name} holds values that are not finite", made_by)
    for name, mask in masks.items():
        if name not in state or mask.shape != state[name].shape or mask.dtype not in (torch.bool, torch.uint8):
            raise _damaged(path, f"{MASK}{name} is not a mask of {name}", made_by)
        if (mask > 1).any() or state[name][mask == 0].any():
            raise _damaged(
                path, f"{MASK}{name} holds values other than 0 and 1, or {name} is not 0 where it is 0", made_by
            )
    return state, {name: mask.bool() for name, mask in masks.items()}


def _damaged(path: Path, why: object, made_by: str) -> StageError:
    return StageError(f"{path} is damaged ({why}); delete it, `{made_by}` makes it again")


def _other_network(path: Path, why: str, made_by: str) -> StageError:
    why = why if len(why) <= 100 else why[:97] + "..."
    return StageError(f"{path} holds another network than params.yaml asks for ({why}); `{made_by}` makes it again")


def load_into(network: nn.Module, path: Path, device: torch.device, made_by: str) -> Masks:
    """Load a network's tensors in place and return its masks in the network's order (empty if none are stored).

    A damaged file, or one of another network, raises ``StageError`` naming ``made_by``, the command that makes it.
    """
    state, masks = load(path, device, made_by)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1:2] or [str(error)]
        raise _other_network(path, first[0].strip(), made_by) from None
    if masks and (mismatched := sorted(set(masks) ^ set(prunable(network)))):
        raise _other_network(path, f"{MASK}{mismatched[0]}", made_by)
    return {name: masks[name] for name, _ in network.named_parameters() if name in masks}


def load_pruned(network: nn.Module, path: Path, masks: Masks, device: torch.device, made_by: str) -> None:
    """Turn the network before an iteration, in place, into the one just pruned: before rewinding and retraining.

    ``path``: the iteration's file with the weights that its method changed as it pruned, as ThiNet does; all other
    weights stay as they were, under ``masks``. Raises as ``load`` does.
    """
    network.load_state_dict(load(path, device, made_by)[0], strict=False)
    apply(network, masks)
