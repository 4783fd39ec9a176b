"""How sparse weights are, and how many can go: PQ, Gini and Hoyer index, the PQ bound and SAP's count.

Diao et al., "Pruning Deep Neural Networks from a Sparsity Perspective" (ICLR 2023): Definition 1, Theorem 2 and
Algorithm 1; the Gini index after Hurley and Rickard, "Comparing Measures of Sparsity" (2009), eq. 5; Hoyer's after
"Non-negative Matrix Factorization with Sparseness Constraints" (JMLR 2004).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

# Alive values of one group -> how many of them to prune. An amount that can answer for many groups at once also has
# ``per_row(values, masks) -> list[int]``, for groups that are the rows of matrices [n, d_i] side by side; one that
# depends on the iteration has ``at(iteration) -> Amount``.
Amount = Callable[[Tensor], int]

UNDEFINED = "the sparsity of an empty or all-zero vector is undefined"
PIECE = 2**18  # entries in float64 at a time: few enough to stay in a processor's cache
TINY = torch.finfo(torch.float64).tiny


def alive_per_row(masks: Sequence[Tensor]) -> list[int]:
    """How many entries of each row are alive; ``masks`` are bool matrices [n, d_i] side by side.

    A single row on a CPU is counted by numpy, in a tenth of torch's time.
    """
    if masks[0].device.type == "cpu" and len(masks[0]) == 1:
        return [sum(np.count_nonzero(mask.numpy()) for mask in masks)]
    return sum(mask.count_nonzero(1) for mask in masks).tolist()


def all_alive(mask: Tensor) -> bool:
    """Whether no entry is pruned; on a CPU by numpy, which is faster there."""
    return bool(mask.numpy().all() if mask.device.type == "cpu" else mask.all())


def _power(magnitudes: Tensor, r: float) -> Tensor:
    """``magnitudes ** r``, on a CPU by numpy: torch's square root of zeros takes some seven times as long."""
    if r == 1:
        return magnitudes
    if magnitudes.device.type != "cpu":
        return magnitudes.pow(r)
    return torch.from_numpy(magnitudes.numpy() ** r)


def _index(d: int, largest: float, sum_p: float, sum_q: float, p: float, q: float) -> float | None:
    """The PQ index of d values from their sums of (|w| / largest)^r, None where it is undefined."""
    if math.isnan(largest):
        raise ValueError("the sparsity of a vector with nan is undefined")
    if largest == 0:
        return None
    return min(max(-math.expm1(math.log(sum_p / d) / p - math.log(sum_q / d) / q), 0.0), 1.0)


def _indices(values: Sequence[Tensor], masks: Sequence[Tensor], p: float, q: float) -> list[tuple[int, float | None]]:
    """For each row how many values are alive and their PQ index.

    The sums are float64, taken piece by piece; scaled to a maximum of 1, no power overflows.
    """
    if not 0 < p < q:
        raise ValueError(f"the PQ index needs 0 < p < q, got p={p}, q={q}")
    pieces = []
    for matrix, mask in zip(values, masks, strict=True):
        magnitudes = matrix.detach().abs()
        if not all_alive(mask):
            magnitudes.mul_(mask)
        largest = magnitudes.amax(1).to(torch.float64)
        magnitudes = magnitudes.to(torch.float64).div_(largest.clamp(min=TINY)[:, None])
        pieces.append(torch.stack([largest, *(_power(magnitudes, r).sum(1) for r in (p, q))]))
    tops, *sums = torch.stack(pieces, 1)  # each [pieces, n]
    largest = tops.amax(0)
    scale = tops / largest.clamp(min=TINY)
    sums = [(scale.pow(r) * of_r).sum(0) for r, of_r in zip((p, q), sums, strict=True)]
    rows = torch.stack([largest, *sums], 1).tolist()
    return [(d, _index(d, *row, p, q)) for d, row in zip(alive_per_row(masks), rows, strict=True)]


def _one_row(values: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """A 1-D tensor of alive values as matrices and masks."""
    alive = torch.ones(1, 1, dtype=torch.bool, device=values.device)
    pieces = values.reshape(1, -1).split(PIECE, 1)
    return pieces, [alive.expand(1, piece.shape[1]) for piece in pieces]


def pq_index(values: Tensor, p: float, q: float) -> float:
    """PQ index I_{p,q}(w) = 1 - d^(1/q - 1/p) ||w||_p / ||w||_q, computed in float64.

    Arguments: ``values`` 1-D tensor of alive weights, not all zero; ``0 < p < q``.
    Returns a float in [0, 1]; 0 when all magnitudes are equal, larger for sparser vectors.
    Raises ``ValueError`` for an empty or all-zero vector, where the index is undefined.

    The authors' float32 norms lose up to 1 % on 10 million weights; power means in float64 do not.
    """
    if values.numel() == 0:
        raise ValueError(UNDEFINED)
    [(_, index)] = _indices(*_one_row(values), p, q)
    if index is None:
        raise ValueError(UNDEFINED)
    return index


def _ascending(values: Tensor) -> Tensor:
    """``values`` sorted; on a CPU by numpy, which is faster there."""
    return values.sort().values if values.is_cuda else torch.from_numpy(np.sort(values.numpy()))


def gini_index(values: Tensor) -> float:
    """Gini index of the magnitudes: sum_k (2k - d - 1) c_(k) / (d sum c) over c sorted ascending, in [0, 1 - 1/d].

    Raises ``ValueError`` for an empty or all-zero vector.
    """
    magnitudes = _ascending(values.detach().to(torch.float64).abs().flatten())
    if magnitudes.numel() == 0 or not bool(magnitudes[-1] > 0):
        raise ValueError(UNDEFINED)
    d = magnitudes.numel()
    ranks = torch.arange(1, d + 1, dtype=torch.float64, device=magnitudes.device)
    return ((2 * ranks - d - 1) @ magnitudes / (d * magnitudes.sum())).item()


def _hoyer(d: int, one_two: float) -> float:
    """The Hoyer index of d values from their PQ index at (1, 2), which is 1 - d^(-1/2) ||w||_1 / ||w||_2."""
    return min(one_two / (1 - d**-0.5), 1.0) if d > 1 else 0.0


def hoyer_index(values: Tensor) -> float:
    """Hoyer index (sqrt(d) - ||w||_1 / ||w||_2) / (sqrt(d) - 1), computed in float64.

    In [0, 1]: 0 when all magnitudes are equal (so for a single value), 1 when all but one are 0. Raises ``ValueError``
    for an empty or all-zero vector.
    """
    return _hoyer(values.numel(), pq_index(values, 1.0, 2.0))


def _retained(d: int, index: float, p: float, q: float, eta: float) -> float:
    return d * (1 + eta) ** (-q / (q - p)) * (1 - index) ** (p * q / (q - p))


def retained_lower_bound(values: Tensor, p: float, q: float, eta: float = 0.0) -> float:
    """Theorem 2: at least r = d (1 + eta)^(-q/(q-p)) (1 - I_{p,q}(w))^(pq/(q-p)) of the d values must stay.

    ``eta`` is the share (of the sum of |w|^p) of what may be lost relative to what is kept. Returns r, a float.
    """
    return _retained(values.numel(), pq_index(values, p, q), p, q, eta)


def floor_count(d: int, share: float) -> int:
    """floor(d * share), not one less where d * share is a whole number that floating point just misses."""
    return min(d, math.floor(d * share + 1e-12 * d))


def fraction_count(total: int, alive: int, fraction: float, iteration: int) -> int:
    """How many of the ``alive`` of a group of ``total`` go at ``iteration`` (from 1) when ``fraction`` of what is left
    goes every iteration.

    ceil(total (1 - fraction)^iteration) stay, or all where fewer are left. The share is one of the whole group, so
    that parts of a weight add up over iterations: floor(fraction d) of the d left would stay 0 in small groups. One
    always stays.
    """
    stay = total - floor_count(total, 1 - (1 - fraction) ** iteration)
    return max(0, alive - max(1, stay))


class _ByPQIndex:
    """An amount that follows from a group's PQ index at ``p`` and ``q``, None where that is undefined."""

    def __call__(self, alive: Tensor) -> int:
        [count] = self.per_row(*_one_row(alive)) if alive.numel() else [0]
        return count

    def per_row(self, values: Sequence[Tensor], masks: Sequence[Tensor]) -> list[int]:
        return [self._count(d, index) for d, index in _indices(values, masks, self.p, self.q)]


@dataclass(frozen=True)
class PQAmount(_ByPQIndex):
    """SAP's c_t = floor(d min(gamma (1 - r/d), beta)), Algorithm 1: how many of the d alive values to prune.

    All-zero values have no scale to judge by: none is pruned. The authors' code rounds r up first, which prunes up
    to one value less (1..20 at p=1, q=2: formula 4, their code 3); the formula is what is computed here.
    """

    p: float
    q: float
    eta: float = 0.0
    gamma: float = 1.0
    beta: float = 0.9

    def _count(self, d: int, index: float | None) -> int:
        if index is None:
            return 0
        share = self.gamma * (1 - _retained(d, index, self.p, self.q, self.eta) / d)
        return floor_count(d, min(max(share, 0.0), self.beta))


@dataclass(frozen=True)
class GiniAmount:
    """floor(d min(gamma G, beta)) with G the Gini index, the analogue of SAP's count at (p, q) = (0.5, 1) and eta = 0,
    where the share that can go is the PQ index itself. All-zero values are not pruned."""

    gamma: float = 1.0
    beta: float = 0.9

    def __call__(self, alive: Tensor) -> int:
        if not alive.any():
            return 0
        return floor_count(alive.numel(), min(self.gamma * gini_index(alive), self.beta))


@dataclass(frozen=True)
class HoyerAmount(_ByPQIndex):
    """``GiniAmount`` with the Hoyer index, which the PQ index at (1, 2) determines."""

    gamma: float = 1.0
    beta: float = 0.9
    p: ClassVar[float] = 1.0
    q: ClassVar[float] = 2.0

    def _count(self, d: int, index: float | None) -> int:
        return 0 if index is None else floor_count(d, min(self.gamma * _hoyer(d, index), self.beta))


@dataclass(frozen=True)
class FractionAmount:
    """A fixed share of what is left goes every iteration: ``fraction_count`` of each group."""

    fraction: float
    iteration: int = 1

    def at(self, iteration: int) -> "FractionAmount":
        return replace(self, iteration=iteration)

    def __call__(self, alive: Tensor) -> int:
        """For a group that has lost nothing yet."""
        return fraction_count(alive.numel(), alive.numel(), self.fraction, self.iteration)

    def per_row(self, values: Sequence[Tensor], masks: Sequence[Tensor]) -> list[int]:
        total = sum(mask.shape[1] for mask in masks)
        return [fraction_count(total, alive, self.fraction, self.iteration) for alive in alive_per_row(masks)]


def prune_count(values: Tensor, p: float, q: float, eta: float = 0.0, gamma: float = 1.0, beta: float = 0.9) -> int:
    """``PQAmount`` of one group: how many of its alive ``values`` (1-D) to prune."""
    return PQAmount(p, q, eta, gamma, beta)(values)
