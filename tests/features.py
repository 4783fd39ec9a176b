"""Features and targets whose information is known, for the tests of ``prunus.information``."""

import torch
from torch import Tensor

from prunus.information.estimate import prepared
from prunus.information.samples import RIDGE, Data

BOTH = ("linear", "mlp")


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bits(n: int, count: int, seed: int) -> Tensor:
    return torch.randint(0, 2, (n, count), generator=draw(seed))


def normal(n: int, count: int, seed: int) -> Tensor:
    return torch.randn(n, count, generator=draw(seed), dtype=torch.float64)


def data_of(features, target, repeats: int = 5, seed: int = 0) -> Data:
    return prepared(features, target, repeats, seed, in_units=False)


def refitted(data: Data, columns: list[int]) -> Tensor:
    """Held-out losses [R] by explicit ridge regression with an intercept."""
    losses = []
    for fit, held in zip(data.fit, data.held, strict=True):
        x, y = data.x[:, columns], data.y
        centred = x[fit] - x[fit].mean(0)
        gram = centred.T @ centred / len(fit) + RIDGE * torch.eye(len(columns), dtype=torch.float64)
        weights = torch.linalg.solve(gram, centred.T @ (y[fit] - y[fit].mean(0)) / len(fit))
        predicted = y[fit].mean(0) + (x[held] - x[fit].mean(0)) @ weights
        losses.append((y[held] - predicted).square().sum(1).mean())
    return torch.stack(losses)
