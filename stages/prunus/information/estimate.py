"""Predictive mutual information: how much a learned predictor knows about a target, on held-out samples.

The information in X about Y is what a learned predictor gains over the best constant: E[loss(constant, Y)] -
E[loss(f(X), Y)] (Covert, Lundberg and Lee 2020). For the Bayes-optimal f it is I(X; Y) with cross-entropy, and the
explained variance sum_j Var(E[Y_j | X]) with squared error.
"""

from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunus.information.linear import Linear
from prunus.information.mlp import MLP
from prunus.information.samples import Data, standardised
from prunus.information.significance import half_width

PREDICTORS = {"linear": Linear, "mlp": MLP}
HELD_OUT = 0.25
MIN_SAMPLES = 20
ESTIMATE_RIDGE = 1e-8  # where no feature is taken out afterwards
ALIKE = 0.01


class TooFewSamples(ValueError):
    """Too few samples: in general or, with ``by_columns``, for the columns that the linear predictor reads."""

    def __init__(self, message: str, by_columns: bool = False):
        super().__init__(message)
        self.by_columns = by_columns

    def relief(self, block: str, images: int, samples: int, cells: int) -> str:
        """Which keys of a ``block`` of params.yaml to change; of its ``samples``, ``images`` were available."""
        ways = [f"raise {block}.samples"] if images >= samples else []
        if self.by_columns:
            ways += [f"lower {block}.cells"] if cells > 1 else []
            ways += [f"set {block}.predictor: mlp"]
        return " or ".join(ways) or f"the training split has {images} images"


@dataclass(frozen=True)
class Estimate:
    """Mean over the repeats and its confidence interval."""

    mean: float
    low: float
    high: float


def predictive_information(
    features,
    target,
    *,
    predictor: str = "mlp",
    repeats: int = 5,
    confidence: float = 0.95,
    seed: int = 0,
    share: bool = False,
) -> Estimate:
    """What ``predictor`` learns from the features about the target, on held-out samples.

    Arguments as for ``terc``. Units: nats, summed over the columns, for a discrete target (int or bool); explained
    variance in the target's own units, summed over the columns, for floats. ``linear`` sees linear dependence only and
    takes a discrete target as its one-hot code, whose explained variance it returns. ``share``: instead as a share of
    the loss of the best constant on the same split, for floats the variance: at most 1. The estimate is low where the
    predictor is not the best one; it may fall below 0. The interval is Student's t over the repeats, whose splits
    overlap, so it covers less than ``confidence``.
    """
    check_options(predictor, repeats, confidence)
    data = replace(prepared(features, target, repeats, seed, in_units=True), ridge=ESTIMATE_RIDGE)
    fitted = fitted_to(predictor, data, seed)
    gains = fitted.constant - fitted.full
    if share:
        mean_loss = fitted.constant.mean()
        # A split whose held-out samples are nearly equal has no scale of its own.
        loss = torch.where(fitted.constant > ALIKE * mean_loss, fitted.constant, mean_loss)
        gains = gains / torch.where(loss > 0, loss, 1)
    half = half_width(gains, confidence)
    return Estimate(float(gains.mean()), float(gains.mean() - half), float(gains.mean() + half))


def fitted_to(predictor: str, data: Data, seed: int) -> Linear | MLP:
    samples, width = data.fit.shape[1], data.x.shape[1]
    if predictor == "linear" and samples <= width:
        raise TooFewSamples(f"too few samples: {samples} to fit, and the linear predictor reads {width} columns", True)
    return PREDICTORS[predictor](data, seed)


def check_options(predictor: str, repeats: int, confidence: float) -> None:
    if predictor not in PREDICTORS:
        raise ValueError(f"predictor: {predictor!r}; allowed: {', '.join(PREDICTORS)}")
    if not isinstance(repeats, Integral) or repeats < 2:
        raise ValueError(f"repeats: {repeats!r}; must be a whole number, and an interval needs at least 2")
    if not isinstance(confidence, float) or not 0 < confidence < 1:
        raise ValueError(f"confidence: {confidence!r}; must lie between 0 and 1")


def _matrix(values: Any, name: str, device: torch.device | None = None) -> Tensor:
    """[N] or [N, D] as [N, D], of its own type."""
    tensor = (values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))).detach().to(device)
    if tensor.dim() == 1:
        tensor = tensor[:, None]
    if tensor.dim() != 2 or 0 in tensor.shape or tensor.is_complex():
        raise ValueError(f"{name}: must be real and of shape [N, D], got {tuple(tensor.shape)}")
    if not tensor.isfinite().all():
        raise ValueError(f"{name}: holds NaN or infinite values")
    return tensor


def prepared(features: Any, target: Any, repeats: int, seed: int, in_units: bool) -> Data:
    target = _matrix(target, "target")
    n, device = len(target), target.device
    if isinstance(features, list | tuple):
        groups = [_matrix(group, f"features[{i}]", device).double() for i, group in enumerate(features)]
    else:
        groups = list(_matrix(features, "features", device).double().split(1, 1))
    if not groups:
        raise ValueError("features: none given")
    for i, group in enumerate(groups):
        if len(group) != n:
            raise ValueError(f"features: {len(group)} samples (feature {i}), target: {n}")
    if n < MIN_SAMPLES:
        raise TooFewSamples(f"too few samples: {n}, at least {MIN_SAMPLES}")
    x, _ = standardised(torch.cat(groups, 1))
    columns = list(torch.arange(x.shape[1], device=device).split([group.shape[1] for group in groups]))
    if target.is_floating_point():
        y, deviation = standardised(target.double())
        scale, classes = deviation if in_units else torch.ones_like(deviation), None
    else:
        labels = [column.unique(return_inverse=True) for column in target.T]
        classes = tuple(len(values) for values, _ in labels)
        if max(classes) > n / 2:
            raise ValueError(f"target: {max(classes)} classes in {n} samples; numbers to regress on must be floats")
        y = torch.cat([torch.nn.functional.one_hot(index, len(values)) for values, index in labels], 1).double()
        scale = torch.ones(y.shape[1], dtype=torch.float64, device=device)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.stack([torch.randperm(n, generator=generator) for _ in range(repeats)]).to(device)
    held = round(HELD_OUT * n)
    return Data(x, columns, y, scale, classes, rows[:, held:], rows[:, :held])
