"""ImageNet weights for torchvision's networks, and the error if they cannot be loaded."""

import hashlib
import pickle
from http.client import HTTPException
from pathlib import Path

import torch
from torch import nn

from prunus.run.errors import StageError


class NetworkError(StageError):
    """A network cannot be built; the message is one line for the user."""


def is_published(file: Path) -> bool:
    """Whether the SHA-256 of ``file`` begins with the digits in its name, e.g. resnet18-f37072fd.pth."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest().startswith(file.stem.rpartition("-")[2])


def load_imagenet(network: nn.Module, name: str) -> None:
    """Fill ``network``, torchvision's 1000-class ``name``, with its IMAGENET1K_V1 weights, in place.

    They are read from torch's hub folder or downloaded into it; NetworkError if neither works. V1, because
    torchvision's DEFAULT changes between releases and would silently change a study.
    """
    from torchvision.models import get_model_weights

    weights = get_model_weights(name)["IMAGENET1K_V1"]
    file, folder = Path(weights.url).name, Path(torch.hub.get_dir()) / "checkpoints"
    try:
        if (folder / file).exists() and not is_published(folder / file):
            raise OSError("the file is not the published one")  # torch checks downloads, not existing files
        state = weights.get_state_dict(check_hash=True, weights_only=True, map_location="cpu")
        network.load_state_dict(state)
    except (OSError, HTTPException, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise NetworkError(
            f"no pretrained weights for {name}: could not load {file} or download it from {weights.url} ({reason}); "
            f"set network.pretrained: false or put a good {file} into {folder}"
        ) from error
