"""How good a network is on a split, on which test images that is asked, and how sparse its layers are."""

import torch
from torch import Tensor, nn

from prunus import layout
from prunus.datasets import Dataset, load
from prunus.masks import Masks, prunable
from prunus.runtime import derive_seed
from prunus.sparsity import gini_index, pq_index

BATCH = 64  # images at a time: on a CPU their feature maps stay in the cache (a resnet18's of 1,000 do not)
# of ``layer_table``, and what is in them
LAYER_COLUMNS = {"layer": str, "prunable": int, "alive": int, "density": float}
LAYER_COLUMNS |= {"pq_index": float | None, "gini_index": float | None, "macs": int}


def load_test(device: torch.device, fraction: float, split_seed: int) -> Dataset:
    """The prepared dataset with the test images that the networks of a study are evaluated on, the same for all.

    ``fraction`` of every class, in the order of the test split, drawn by the seed of the splits.
    """
    return load(layout.DATASET, device, splits=("test",)).part("test", fraction, derive_seed(split_seed, "evaluation"))


def logits(
    network: nn.Module, dataset: Dataset, split: str, batch_size: int = 1000, first: int | None = None
) -> Tensor:
    """What ``network`` answers to the images of ``split``, or the ``first`` of them, in eval mode, [N, classes]."""
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            images = dataset.splits[split].images[:first].split(batch_size)
            return torch.cat([network(dataset.normalise(batch)) for batch in images])
    finally:
        network.train(was_training)


def answered(answers: Tensor) -> Tensor:
    """Which of the ``answers`` [N, classes] are numbers throughout, bool [N]."""
    return answers.isfinite().all(1)


def share_correct(answers: Tensor, labels: Tensor) -> float:
    """Fraction of the ``answers`` [N, classes] that are largest at ``labels`` [N]. One that is not finite is wrong: of
    several NaN the largest is nothing but the first."""
    return int(((answers.argmax(1) == labels) & answered(answers)).sum()) / len(labels)


def accuracy(network: nn.Module, dataset: Dataset, split: str, batch_size: int = 1000) -> float:
    """Fraction of the images of ``split`` that ``network`` classifies correctly, in eval mode."""
    return share_correct(logits(network, dataset, split, batch_size), dataset.splits[split].labels)


def is_constant(answers: Tensor) -> bool:
    """Whether a network answers the same to every image: no path is left from its input to its output."""
    return bool((answers.amax(0) - answers.amin(0)).max() <= 1e-6 * answers.abs().max())


def layer_table(network: nn.Module, masks: Masks, macs: dict[str, int]) -> list[dict]:
    """One row (keys: LAYER_COLUMNS) per prunable parameter.

    The indices are those of the alive weights, the PQ index at p = 0.5, q = 1, the setting in which it equals one
    minus SAP's kept share; None where all alive weights are zero. ``macs`` as ``multiply_accumulates`` returns it.
    """
    weights, rows = prunable(network), []
    for name, mask in masks.items():
        alive = weights[name].detach()[mask]
        defined = bool(alive.any())
        rows.append(
            {
                "layer": name.removesuffix(".weight"),
                "prunable": mask.numel(),
                "alive": alive.numel(),
                "density": alive.numel() / mask.numel(),
                "pq_index": pq_index(alive, 0.5, 1.0) if defined else None,
                "gini_index": gini_index(alive) if defined else None,
                "macs": macs[name.removesuffix(".weight")],
            }
        )
    return rows
