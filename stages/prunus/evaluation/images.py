"""The test images on which the networks of a study are evaluated."""

import torch

from prunus.data.dataset import Dataset, load
from prunus.run.seeds import derive_seed
from prunus.study import layout


def load_test(device: torch.device, fraction: float, split_seed: int) -> Dataset:
    """The prepared dataset with the test images that the networks of a study are evaluated on, the same for all.

    ``fraction`` of every class, in the order of the test split, drawn by the seed of the splits.
    """
    return load(layout.DATASET, device, splits=("test",)).part("test", fraction, derive_seed(split_seed, "evaluation"))
