"""Predictive mutual information, and the transfer entropy redundancy criterion (TERC) that chooses features by it.

The information in X about Y is what a learned predictor gains over the best constant: E[loss(constant, Y)] -
E[loss(f(X), Y)] (Covert, Lundberg and Lee 2020). For the Bayes-optimal f it is I(X; Y) with cross-entropy, and the
explained variance sum_j Var(E[Y_j | X]) with squared error. TERC (Westphal, Hailes and Musolesi) eliminates, one after
the other, the features without which the rest of them predict the target as well as all do.

What is preserved depends on the predictor. Linear: the best linear reconstruction of the target; a feature that the
others determine in a bent way looks indispensable, one that helps only together with another (XOR) useless. MLP: what
50 rectified units can make of the features, so both are seen for what they are, at tens of times the cost.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunus.predictors import MLP, Data, Linear, standardised

PREDICTORS = {"linear": Linear, "mlp": MLP}
ORDERS = ("mi", "plain", "reversed", "descending")
HELD_OUT = 0.25
MIN_SAMPLES = 20
SCREEN = 8
ALIKE = 0.01
PANEL = 32  # features whose tests by the linear predictor share a pass over its matrices


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
    overlap, so it covers less than its name says.
    """
    _check(predictor, repeats, confidence)
    fitted = _fitted(predictor, _data(features, target, repeats, seed, in_units=True), seed)
    gains = fitted.constant - fitted.full
    if share:
        usual = fitted.constant.mean()
        # A split whose held-out samples are all but alike has no scale of its own.
        loss = torch.where(fitted.constant > ALIKE * usual, fitted.constant, usual)
        gains = gains / torch.where(loss > 0, loss, 1)
    half = _half_width(gains, confidence)
    return Estimate(float(gains.mean()), float(gains.mean() - half), float(gains.mean() + half))


def terc(
    features,
    target,
    *,
    order: str | Sequence[int] = "mi",
    predictor: str = "mlp",
    confidence: float = 0.95,
    regularisation: float = 0.01,
    repeats: int = 5,
    keep_at_least: int = 0,
    seed: int = 0,
) -> list[int]:
    """The features that the prediction of the target needs, sorted.

    Arguments:
    ``features``: [N, F], or F arrays [N, d_i] whose columns stay or go together; arrays or tensors of numbers. They
    are standardised, constant columns become 0. ``target``: [N] or [N, T]; integers and bools are classes
    (cross-entropy), floats are standardised (squared error). The work is done on the device of the target.
    ``order``: who is examined first: "mi" ascending single-feature information, the least informative first; "plain"
    the first; "reversed" the last; "descending" the most informative; or the indices. The MIPP paper writes descending,
    but gives reasons for ascending, which its authors' public code has.
    ``predictor``: "mlp", or "linear" (features that help only together or in a bent way are invisible to it).
    ``confidence``: level of the intervals, in (0, 1). ``keep_at_least``: the elimination ends at so many features.

    The rule (MIPP algorithm 2 and the public PIDF code): R = ``repeats`` fits on independent splits give held-out
    losses of g, with all features, once, and of h, without feature i and all that went before. i is kept iff
    lower(h) > upper(g) + tau, the bounds being Student's t at ``confidence``: the higher, the wider the intervals, and
    the more goes (differences per split would tell smaller losses apart, and confidence would hardly matter).
    tau = ``regularisation`` * I * |S| / F, where I is the information in all features, |S| how many of the F are left
    if i goes: a bound on the share of the information that may be lost, tighter the less is left (ours: the paper's
    second version has a constraint on per-layer ratios, its formula unconfirmed; 0 switches it off).

    The baseline never moves, leaving out more cannot lower the loss, and tau only shrinks. So (1) "keep" found with
    more features present stands after further removals, (2) if a block of features can go at once, each of them could
    have gone in turn. The MLP tests many hypotheses in one batch this way and halves blocks that fail; as far as its
    losses are monotone, the result is that of one by one, which the linear predictor does literally.

    Raises ValueError for wrong shapes, non-finite values, too few samples and unknown or impossible options.
    """
    _check(predictor, repeats, confidence)
    if not (math.isfinite(regularisation) and regularisation >= 0):
        raise ValueError(f"regularisation: {regularisation!r}; must be 0 or positive")
    data = _data(features, target, repeats, seed, in_units=False)
    count = len(data.columns)
    if not 0 <= keep_at_least <= count:
        raise ValueError(f"keep_at_least: {keep_at_least!r}; there are {count} features")
    _check_order(order, count)
    return _eliminated(_fitted(predictor, data, seed), order, confidence, regularisation, keep_at_least)


def terc_each(
    features: list, targets: list[Tensor], among: list[list[int]], *, predictor: str, repeats: int, seed: int, **test
) -> list[list[int]]:
    """``terc`` for each of several targets (floats [N, T_j]), which chooses among the features ``among[j]`` (ascending,
    at least one). ``test``: order, confidence, regularisation and keep_at_least, all given; else as for ``terc``.

    With the linear predictor the targets share the Gram matrices, and those that choose among all features their
    inverse; the result is that of ``terc`` one by one, up to rounding.
    """
    _check(predictor, repeats, test["confidence"])
    shared = predictor == "linear"
    if shared:
        whole = _fitted(predictor, _data(features, torch.cat(targets, 1), repeats, seed, in_units=False), seed)
    kept, end = [], 0
    for target, own in zip(targets, among, strict=True):
        start, end = end, end + target.shape[1]
        if shared:
            chosen = _eliminated(whole.part(own, slice(start, end)), **test)
        else:
            given = [features[i] for i in own]
            chosen = terc(given, target, predictor=predictor, repeats=repeats, seed=seed, **test)
        kept.append([own[k] for k in chosen])
    return kept


def _eliminated(
    fitted: Linear | MLP, order: str | Sequence[int], confidence: float, regularisation: float, keep_at_least: int
) -> list[int]:
    count = len(fitted.columns)
    upper = float(fitted.full.mean() + _half_width(fitted.full, confidence))
    information = max(0.0, float((fitted.constant - fitted.full).mean()))
    limits = [upper + regularisation * information * (count - gone) / count for gone in range(count + 1)]

    def lower(losses: Tensor) -> Tensor:
        return losses.mean(0) - _half_width(losses, confidence)

    visits = _visits(order, fitted)
    if isinstance(fitted, Linear):
        return _one_by_one(fitted, visits, limits, lower, keep_at_least)
    return _by_blocks(fitted, visits, limits, lower, keep_at_least)


def _fitted(predictor: str, data: Data, seed: int) -> Linear | MLP:
    samples, width = data.fit.shape[1], data.x.shape[1]
    if predictor == "linear" and samples <= width:
        raise ValueError(f"too few samples: {samples} to fit, and the linear predictor reads {width} columns")
    return PREDICTORS[predictor](data, seed)


def _one_by_one(fitted: Linear, visits: list[int], limits: list[float], lower, keep_at_least: int) -> list[int]:
    kept, left = [], len(visits)
    for place, feature in enumerate(visits):
        if place % PANEL == 0:
            fitted.expect(visits[place : place + PANEL])
        if left > keep_at_least and lower(fitted.without(feature)) <= limits[len(visits) - left + 1]:
            fitted.remove(feature)
            left -= 1
        else:
            kept.append(feature)
    return sorted(kept)


def _by_blocks(fitted: MLP, visits: list[int], limits: list[float], lower, keep_at_least: int) -> list[int]:
    """Screen the next features one by one in a batch, then remove the longest prefix of what is left that passes."""
    pending, kept, gone = visits, [], ()

    def test(removals: list[tuple[int, ...]]) -> list[bool]:
        open_ = [removal for removal in removals if not any(failure <= set(removal) for failure in failures)]
        bounds = torch.tensor([limits[len(removal)] for removal in open_], device=fitted.full.device)
        verdict = dict(zip(open_, fitted.passes(open_, bounds, lower), strict=True))
        failures.extend(set(removal) for removal, passed in verdict.items() if not passed)
        return [verdict.get(removal, False) for removal in removals]

    failures, screen = [], SCREEN
    while pending and (room := len(visits) - len(gone) - keep_at_least) > 0:
        first, later = pending[:screen], pending[screen:]
        dispensable = test([(*gone, feature) for feature in first])
        survivors = [feature for feature, passed in zip(first, dispensable, strict=True) if passed]
        kept += [feature for feature, passed in zip(first, dispensable, strict=True) if not passed]
        screen = 2 * screen if 2 * len(survivors) < len(first) else max(SCREEN, screen // 2)
        pending = survivors + later
        if survivors:
            sizes = _halvings(min(len(pending), room))
            passed = test([(*gone, *pending[:size]) for size in sizes]) if sizes else []
            size = max([size for size, good in zip(sizes, passed, strict=True) if good], default=1)
            gone = (*gone, *pending[:size])
            pending = pending[size:]
            fitted.accept(gone)
    return sorted(kept + pending)


def _halvings(size: int) -> list[int]:
    """size, size / 2, ... down to 2."""
    return [] if size < 2 else [size, *_halvings(size // 2)]


def _visits(order: str | Sequence[int], fitted: Linear | MLP) -> list[int]:
    """All features in the order in which they are examined; ties from first to last."""
    count = len(fitted.columns)
    if order == "plain":
        return list(range(count))
    if order == "reversed":
        return list(range(count))[::-1]
    if order in ("mi", "descending"):
        return torch.sort(fitted.single(), descending=order == "descending", stable=True).indices.tolist()
    return [int(i) for i in order]


def _check(predictor: str, repeats: int, confidence: float) -> None:
    if predictor not in PREDICTORS:
        raise ValueError(f"predictor: {predictor!r}; allowed: {', '.join(PREDICTORS)}")
    if repeats < 2:
        raise ValueError(f"repeats: {repeats!r}; an interval needs at least 2")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: {confidence!r}; must lie between 0 and 1")


def _check_order(order: str | Sequence[int], count: int) -> None:
    if isinstance(order, str):
        if order not in ORDERS:
            raise ValueError(f"order: {order!r}; allowed: {', '.join(ORDERS)} or the feature indices")
    elif sorted(int(i) for i in order) != list(range(count)):
        raise ValueError(f"order: must hold each of the indices 0 to {count - 1} once")


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


def _data(features: Any, target: Any, repeats: int, seed: int, in_units: bool) -> Data:
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
        raise ValueError(f"too few samples: {n}, at least {MIN_SAMPLES}")
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


def _half_width(losses: Tensor, confidence: float) -> Tensor:
    """Half the Student-t interval of the mean over dimension 0."""
    repeats = len(losses)
    return _student(confidence, repeats - 1) * losses.std(0) / repeats**0.5


def _student(confidence: float, freedom: int) -> float:
    """t such that a Student variable lies in [-t, t] with probability ``confidence`` (Abramowitz and Stegun 26.7.3-4).

    By bisection of the closed form for whole degrees of freedom: not worth a dependency on scipy.
    """

    def probability(angle: float) -> float:
        sine, cosine = math.sin(angle), math.cos(angle)
        if freedom % 2:
            term, total = cosine, 0.0
            for k in range(3, freedom + 1, 2):
                total += term
                term *= cosine**2 * (k - 1) / k
            return 2 / math.pi * (angle + sine * total)
        term, total = 1.0, 0.0
        for k in range(2, freedom + 1, 2):
            total += term
            term *= cosine**2 * (k - 1) / k
        return sine * total

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if probability(middle) < confidence else (low, middle)
    return freedom**0.5 * math.tan(low)
