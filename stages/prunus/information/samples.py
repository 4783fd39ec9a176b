"""What the predictors learn from: standardised features and targets, and the splits on each of which one is fitted."""

from dataclasses import dataclass

import torch
from torch import Tensor

# Relative to the unit variance of a column. It bounds the inverse, whose largest entries are those of copies, so that
# one copy can go and the others stay exact to a share of RIDGE; smaller differences between columns are not seen.
RIDGE = 1e-5


def standardised(values: Tensor) -> tuple[Tensor, Tensor]:
    """[N, D] float64 -> columns of mean 0 and variance 1 (0 where constant), and their standard deviations [D]."""
    deviation = values.std(0, correction=0)
    constant = deviation <= 1e-12 * values.abs().amax(0)
    centred = (values - values.mean(0)) / torch.where(constant, 1, deviation)
    return torch.where(constant, 0, centred), torch.where(constant, 0, deviation)


@dataclass(frozen=True)
class Data:
    """``x`` float64 [N, D] with mean 0 and variance 1 (or 0); ``columns`` the columns of ``x`` by feature; ``y``
    float64 [N, O]: standardised targets, or one-hot codes in blocks of ``classes``; ``scale`` [O]: what a unit of an
    output is worth; ``fit`` and ``held`` int64 [R, n]: the splits; ``ridge``: the linear predictor's.
    """

    x: Tensor
    columns: list[Tensor]
    y: Tensor
    scale: Tensor
    classes: tuple[int, ...] | None
    fit: Tensor
    held: Tensor
    ridge: float = RIDGE

    @property
    def widening(self) -> float:
        """Held-out images per fitted image."""
        return self.held.shape[1] / self.fit.shape[1]
