"""The transfer entropy redundancy criterion (TERC; Westphal, Hailes and Musolesi), by which MIPP chooses channels: it
eliminates, one after the other, the features without which the rest of them predict the target as well as all do."""

import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral

import torch
from torch import Tensor

from prunus.information.blocks import Blocks
from prunus.information.estimate import check_options, fitted_to, prepared
from prunus.information.linear import Linear
from prunus.information.mlp import MLP
from prunus.information.significance import RiseTest, student

ORDERS = ("mi", "plain", "reversed", "descending")
ROUNDING = 1e-9  # of the constant's loss: for a budget that is spent completely


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
    ``order``: which features are examined first: "mi" ascending single-feature information, the least informative
    first; "plain" the first; "reversed" the last; "descending" the most informative; or the indices. The MIPP paper
    writes descending, but gives reasons for ascending, which its authors' public code has.
    ``predictor``: "mlp", or "linear" (features that help only together or nonlinearly are invisible to it).
    ``confidence``: how sure the test must be that a feature is needed, in (0, 1): from 0.5 up, a higher value
    removes more (below, a feature must be shown to cost nothing, and which goes first changes what others cost).
    ``keep_at_least``: the elimination ends at this many features.

    The rule, with S the features present and R = ``repeats`` splits, on each of which a predictor is fitted and its
    held-out loss taken:

    1. The cost of i is loss(S without i) - loss(S), split by split, both estimated anew for the S of the moment. i
       costs nothing, and goes, unless the mean cost less t(``confidence``) times its standard error is above a floor:
       one-sided Student's t, the overlap of the splits accounted for (Nadeau and Bengio 2003). The floor is 1e-5
       (linear) or 1e-3 (mlp) of the constant's loss, for linear also what the most expensive of as many irrelevant
       features would cost by chance, at ``confidence``. The cheapest goes first, ties by ``order``.
    2. ``regularisation`` * I, I the information in all features, is a budget for what does cost something: the
       cheapest goes, ties by ``order``, and with it what costs nothing by then, as long as the mean loss exceeds
       neither that of all features nor that after step 1 by more than the budget. A larger budget keeps a part of what
       a smaller one keeps.

    "linear" does exactly this, with the costs of all features in closed form. "mlp" treats all that costs nothing as a
    tie, examined in ``order``; it tests many hypotheses in one batch, halves blocks that fail, tests needed features
    again only when the budget has paid for others, and measures the cheapest costs again first. Training is noisy: what
    is exact for "linear" holds for "mlp" as far as its losses are monotone.

    Step 1 is algorithm 2 of MIPP, which leaves open how the losses are paired and the interval is made; step 2 is ours
    (the paper's second version has a constraint on per-layer ratios, its formula unconfirmed). 0 switches it off.

    Raises ValueError for wrong shapes, non-finite values, too few samples and unknown or impossible options.
    """
    check_options(predictor, repeats, confidence)
    if not isinstance(regularisation, int | float) or not 0 <= regularisation < math.inf:
        raise ValueError(f"regularisation: {regularisation!r}; must be 0 or positive")
    data = prepared(features, target, repeats, seed, in_units=False)
    count = len(data.columns)
    if not isinstance(keep_at_least, Integral) or not 0 <= keep_at_least <= count:
        raise ValueError(f"keep_at_least: {keep_at_least!r}; there are {count} features")
    _check_order(order, count)
    order = order if isinstance(order, str) else [int(i) for i in order]
    if data.classes is None and not data.y.any():  # a constant target: nothing can be lost
        last = visiting_order("plain" if order in ("mi", "descending") else order, count)[count - keep_at_least :]
        return sorted(last)
    return _eliminated(fitted_to(predictor, data, seed), order, confidence, regularisation, keep_at_least)


def terc_each(
    features: list, targets: list[Tensor], among: list[list[int]], *, predictor: str, repeats: int, seed: int, **test
) -> list[list[int]]:
    """``terc`` for each of several targets (floats [N, T_j]), which chooses among the features ``among[j]`` (ascending,
    at least one). ``test``: order, confidence, regularisation and keep_at_least, all given; else as for ``terc``.

    With the linear predictor the targets share the Gram matrices, and those that choose among all features their
    inverse; the result is that of ``terc`` one by one, up to rounding.
    """
    check_options(predictor, repeats, test["confidence"])
    shared = predictor == "linear"
    if shared:
        fitted = fitted_to(predictor, prepared(features, torch.cat(targets, 1), repeats, seed, in_units=False), seed)
    kept = []
    end = 0
    for target, candidates in zip(targets, among, strict=True):
        start, end = end, end + target.shape[1]
        if shared:
            chosen = _eliminated(fitted.part(candidates, slice(start, end)), **test)
        else:
            inputs = [features[i] for i in candidates]
            chosen = terc(inputs, target, predictor=predictor, repeats=repeats, seed=seed, **test)
        kept.append([candidates[k] for k in chosen])
    return kept


def _eliminated(
    fitted: Linear | MLP, order: str | Sequence[int], confidence: float, regularisation: float, keep_at_least: int
) -> list[int]:
    nothing = fitted.resolution * float(fitted.constant.mean())
    quantile = student(len(fitted.full) - 1, confidence)
    test = RiseTest(quantile, fitted.widening, nothing, fitted.chance((1 - confidence) / len(fitted.columns)))
    eliminate = by_costs if isinstance(fitted, Linear) else by_blocks
    visits = visiting_order(order, len(fitted.columns), fitted.single)
    return eliminate(fitted, visits, test, regularisation, keep_at_least)


def _ceiling(fitted: Linear | MLP, regularisation: float) -> float:
    """The highest mean loss that the budget allows; called when the test alone removes no more."""
    base, constant = min(float(fitted.full.mean()), float(fitted.now.mean())), float(fitted.constant.mean())
    return base + regularisation * max(0.0, constant - base) + ROUNDING * constant


def by_costs(fitted: Linear, visits: list[int], test: RiseTest, regularisation: float, keep_at_least: int) -> list[int]:
    """With the costs of all features known: the cheapest goes if it costs nothing, or is within the budget."""
    count = len(visits)
    ceiling = None
    place = torch.empty(count, dtype=torch.long, device=fitted.full.device)
    place[visits] = torch.arange(count, device=place.device)
    left = torch.ones_like(place, dtype=torch.bool)
    paid = left  # what is left when no more was free
    for _ in range(count - keep_at_least):
        costs = fitted.costs()
        mean, free = costs.mean(0), test.free(costs, fitted.now) & left
        among = free if (some_free := bool(free.any())) else left
        lowest = mean[among].min()
        chosen = int(torch.where(among & (mean <= lowest + test.nothing), place, count).argmin())
        if not some_free:
            loss = float(fitted.now.mean())
            if ceiling is None:
                ceiling = _ceiling(fitted, regularisation)
            elif loss > ceiling:
                break
            paid = left.clone()
            if loss + float(mean[chosen]) > ceiling:
                break
        fitted.remove(chosen)
        left[chosen] = False
    within = ceiling is None or float(fitted.now.mean()) <= ceiling
    return (left if within else paid).nonzero().flatten().tolist()


def by_blocks(fitted: MLP, visits: list[int], test: RiseTest, regularisation: float, keep_at_least: int) -> list[int]:
    """The same where every cost is a training: many of them side by side, and features that go in blocks."""
    search = Blocks(fitted, visits, test, keep_at_least)
    search.drop_free(visits)
    start, ceiling = float(fitted.now.mean()), _ceiling(fitted, regularisation)
    if regularisation:
        search.spend(ceiling)
    spent = float(fitted.now.mean()) - start
    # What costs nothing now cost no more before than what has been spent since (I(S) - I(S - i) is at most what S has
    # lost): the others need no second test.
    search.drop_free([feature for feature in visits if search.costs.get(feature, torch.inf) <= spent], ceiling)
    return sorted(search.costs)


def visiting_order(order: str | Sequence[int], count: int, single: Callable[[], Tensor] | None = None) -> list[int]:
    """All features in the order in which they are examined; ties from first to last. ``single``: the information in
    each, for mi and descending."""
    if order == "plain":
        return list(range(count))
    if order == "reversed":
        return list(range(count))[::-1]
    if order in ("mi", "descending"):
        return torch.sort(single(), descending=order == "descending", stable=True).indices.tolist()
    return list(order)


def _check_order(order: str | Sequence[int], count: int) -> None:
    if isinstance(order, str):
        if order not in ORDERS:
            raise ValueError(f"order: {order!r}; allowed: {', '.join(ORDERS)} or the feature indices")
    elif not isinstance(order, Iterable) or sorted(order) != list(range(count)):
        raise ValueError(f"order: must hold each of the indices 0 to {count - 1} once")
