"""How good a network is on a split, and how sparse its layers are."""

import torch
from torch import nn

from prunus.datasets import Dataset
from prunus.masks import Masks, prunable
from prunus.sparsity import gini_index, pq_index


def accuracy(network: nn.Module, dataset: Dataset, split: str, batch_size: int = 1000) -> float:
    """Fraction of the images of ``split`` that ``network`` classifies correctly, in eval mode."""
    images, labels = dataset.splits[split].images, dataset.splits[split].labels
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            correct = sum(
                (network(dataset.normalise(image)).argmax(1) == label).sum()
                for image, label in zip(images.split(batch_size), labels.split(batch_size), strict=True)
            )
    finally:
        network.train(was_training)
    return int(correct) / len(labels)


def layer_table(network: nn.Module, masks: Masks, macs: dict[str, int]) -> list[dict]:
    """One row per prunable parameter: layer, prunable, alive, density, pq_index, gini_index, macs.

    The indices are those of the alive weights, the PQ index at p = 0.5, q = 1, the setting in which it equals one
    minus SAP's kept share; NaN where all alive weights are zero. ``macs`` as ``multiply_accumulates`` returns it.
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
                "pq_index": pq_index(alive, 0.5, 1.0) if defined else float("nan"),
                "gini_index": gini_index(alive) if defined else float("nan"),
                "macs": macs[name.removesuffix(".weight")],
            }
        )
    return rows
