"""How sparse weights are, and how many can go: PQ index, Gini index, the PQ bound and SAP's count.

Diao et al., "Pruning Deep Neural Networks from a Sparsity Perspective" (ICLR 2023): Definition 1, Theorem 2 and
Algorithm 1; the Gini index after Hurley and Rickard, "Comparing Measures of Sparsity" (2009), eq. 5.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Amount = Callable[[Tensor], int]  # alive values of one group -> how many of them to prune


def _magnitudes(values: Tensor) -> Tensor:
    magnitudes = values.detach().to(torch.float64).abs().flatten()
    if magnitudes.numel() == 0 or not bool(magnitudes.max() > 0):
        raise ValueError("the sparsity of an empty or all-zero vector is undefined")
    return magnitudes


def _log_power_mean(magnitudes: Tensor, r: float) -> float:
    """log of (mean |w|^r)^(1/r), for magnitudes scaled to a maximum of 1: no overflow at small r."""
    return math.log(magnitudes.pow(r).mean().item()) / r


def pq_index(values: Tensor, p: float, q: float) -> float:
    """PQ index I_{p,q}(w) = 1 - d^(1/q - 1/p) ||w||_p / ||w||_q, computed in float64.

    Arguments: ``values`` 1-D tensor of alive weights, not all zero; ``0 < p < q``.
    Returns a float in [0, 1]; 0 when all magnitudes are equal, larger for sparser vectors.
    Raises ``ValueError`` for an empty or all-zero vector, where the index is undefined.

    The authors' float32 norms lose up to 1 % on 10 million weights; power means in float64 do not.
    """
    if not 0 < p < q:
        raise ValueError(f"the PQ index needs 0 < p < q, got p={p}, q={q}")
    magnitudes = _magnitudes(values)
    magnitudes = magnitudes / magnitudes.max()
    index = -math.expm1(_log_power_mean(magnitudes, p) - _log_power_mean(magnitudes, q))
    return min(max(index, 0.0), 1.0)


def gini_index(values: Tensor) -> float:
    """Gini index of the magnitudes: sum_k (2k - d - 1) c_(k) / (d sum c) over c sorted ascending, in [0, 1 - 1/d].

    Raises ``ValueError`` for an empty or all-zero vector.
    """
    magnitudes = _magnitudes(values).sort().values
    d = magnitudes.numel()
    ranks = torch.arange(1, d + 1, dtype=torch.float64, device=magnitudes.device)
    return ((2 * ranks - d - 1) @ magnitudes / (d * magnitudes.sum())).item()


def retained_lower_bound(values: Tensor, p: float, q: float, eta: float = 0.0) -> float:
    """Theorem 2: at least r = d (1 + eta)^(-q/(q-p)) (1 - I_{p,q}(w))^(pq/(q-p)) of the d values must stay.

    ``eta`` is the share (of the sum of |w|^p) of what may be lost relative to what is kept. Returns r, a float.
    """
    index = pq_index(values, p, q)
    return values.numel() * (1 + eta) ** (-q / (q - p)) * (1 - index) ** (p * q / (q - p))


def floor_count(d: int, share: float) -> int:
    """floor(d * share), not one less where d * share is a whole number that floating point just misses."""
    return min(d, math.floor(d * share + 1e-12 * d))


def prune_count(values: Tensor, p: float, q: float, eta: float = 0.0, gamma: float = 1.0, beta: float = 0.9) -> int:
    """SAP's c_t = floor(d min(gamma (1 - r/d), beta)), Algorithm 1: how many of the d alive values to prune.

    All-zero values carry no scale to judge by: none is pruned. The authors' code rounds r up first, which prunes up
    to one value less (1..20 at p=1, q=2: formula 4, their code 3); the formula is what is computed here.
    """
    d = values.numel()
    if d == 0 or not bool(values.any()):
        return 0
    share = gamma * (1 - retained_lower_bound(values, p, q, eta) / d)
    return floor_count(d, min(max(share, 0.0), beta))
