"""A network's answers to the images of a split, and the share of them that is right."""

import torch
from torch import Tensor, nn

from prunus.data.dataset import Dataset
from prunus.networks.inspect import evaluating

BATCH = 64  # images at a time: on a CPU their feature maps stay in the cache (a resnet18's of 1,000 do not)


def logits(
    network: nn.Module, dataset: Dataset, split: str, batch_size: int = 1000, first: int | None = None
) -> Tensor:
    """``network``'s answers to the images of ``split``, or to its ``first`` images, in eval mode, [N, classes]."""
    with evaluating(network), torch.no_grad():
        images = dataset.splits[split].images[:first].split(batch_size)
        return torch.cat([network(dataset.normalise(batch)) for batch in images])


def answered(answers: Tensor) -> Tensor:
    """True where all numbers of an answer are finite, bool [N]; ``answers`` [N, classes]."""
    return answers.isfinite().all(1)


def share_correct(answers: Tensor, labels: Tensor) -> float:
    """Fraction of the ``answers`` [N, classes] that are largest at ``labels`` [N]. An answer that is not finite is
    wrong: the largest of several NaN is only the first of them."""
    return int(((answers.argmax(1) == labels) & answered(answers)).sum()) / len(labels)


def accuracy(network: nn.Module, dataset: Dataset, split: str, batch_size: int = 1000) -> float:
    """Fraction of the images of ``split`` that ``network`` classifies correctly, in eval mode."""
    return share_correct(logits(network, dataset, split, batch_size), dataset.splits[split].labels)


def is_constant(answers: Tensor) -> bool:
    """Whether a network answers the same to every image: no path is left from its input to its output."""
    return bool((answers.amax(0) - answers.amin(0)).max() <= 1e-6 * answers.abs().max())
