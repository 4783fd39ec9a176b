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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from numbers import Integral
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
ROUNDING = 1e-9  # of the constant's loss: where a budget is spent to the last
ESTIMATE_RIDGE = 1e-8  # where no feature is taken out afterwards
ALIKE = 0.01


class TooFewSamples(ValueError):
    """There are too few samples: of any kind or, with ``by_columns``, for what the linear predictor reads of each."""

    def __init__(self, message: str, by_columns: bool = False):
        super().__init__(message)
        self.by_columns = by_columns

    def relief(self, block: str, images: int, samples: int, cells: int) -> str:
        """Which keys of a ``block`` of params.yaml to change; ``images`` were to be had of its ``samples``."""
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
    overlap, so it covers less than its name says.
    """
    _check(predictor, repeats, confidence)
    data = replace(_data(features, target, repeats, seed, in_units=True), ridge=ESTIMATE_RIDGE)
    fitted = _fitted(predictor, data, seed)
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
    ``confidence``: how sure the test must be that a feature is needed, in (0, 1): from one half up, the higher, the
    more goes (below it a feature must be shown to cost nothing, and which goes first changes what others cost).
    ``keep_at_least``: the elimination ends at so many features.

    The rule, with S the features present and R = ``repeats`` splits, on each of which a predictor is fitted and its
    held-out loss taken:

    1. The cost of i is loss(S without i) - loss(S), split by split, both estimated anew for the S of the moment. i
       costs nothing, and goes, unless the mean cost less t(``confidence``) times its standard error is above a floor:
       one-sided Student's t, the overlap of the splits accounted for (Nadeau and Bengio 2003). The floor is 1e-5
       (linear) or 1e-3 (mlp) of the constant's loss, for linear also what the dearest of as many irrelevant features
       would cost by chance, at ``confidence``. The cheapest goes first, ties by ``order``.
    2. ``regularisation`` * I, I the information in all features, is a budget for what does cost something: the
       cheapest goes, ties by ``order``, and what costs nothing by then, as long as the mean loss exceeds neither that
       of all features nor that after step 1 by more than the budget. A larger one keeps a part of what a smaller keeps.

    "linear" does so literally, with the costs of all features in closed form. To "mlp" all that costs nothing is a tie,
    examined in ``order``; it tests many hypotheses in one batch, halves blocks that fail, tests what was found needed
    again only when the budget has paid for others, and looks anew at the cheapest costs first. Training is noisy: what
    is exact for "linear" holds for it as far as its losses are monotone.

    Step 1 is algorithm 2 of MIPP, which leaves open how the losses are paired and the interval is made; step 2 is ours
    (the paper's second version has a constraint on per-layer ratios, its formula unconfirmed). 0 switches it off.

    Raises ValueError for wrong shapes, non-finite values, too few samples and unknown or impossible options.
    """
    _check(predictor, repeats, confidence)
    if not isinstance(regularisation, int | float) or not 0 <= regularisation < math.inf:
        raise ValueError(f"regularisation: {regularisation!r}; must be 0 or positive")
    data = _data(features, target, repeats, seed, in_units=False)
    count = len(data.columns)
    if not isinstance(keep_at_least, Integral) or not 0 <= keep_at_least <= count:
        raise ValueError(f"keep_at_least: {keep_at_least!r}; there are {count} features")
    _check_order(order, count)
    order = order if isinstance(order, str) else [int(i) for i in order]
    if data.classes is None and not data.y.any():  # of a constant target there is nothing to lose
        last = _visits("plain" if order in ("mi", "descending") else order, count)[count - keep_at_least :]
        return sorted(last)
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
    nothing = fitted.tells_apart * float(fitted.constant.mean())
    quantile = _student(len(fitted.full) - 1, confidence)
    test = _Test(quantile, fitted.widening, nothing, fitted.chance((1 - confidence) / len(fitted.columns)))
    eliminate = _by_costs if isinstance(fitted, Linear) else _by_blocks
    visits = _visits(order, len(fitted.columns), fitted.single)
    return eliminate(fitted, visits, test, regularisation, keep_at_least)


def _ceiling(fitted: Linear | MLP, regularisation: float) -> float:
    """The mean loss up to which the budget may go, asked when the test alone has done."""
    base, constant = min(float(fitted.full.mean()), float(fitted.now.mean())), float(fitted.constant.mean())
    return base + regularisation * max(0.0, constant - base) + ROUNDING * constant


def _fitted(predictor: str, data: Data, seed: int) -> Linear | MLP:
    samples, width = data.fit.shape[1], data.x.shape[1]
    if predictor == "linear" and samples <= width:
        raise TooFewSamples(f"too few samples: {samples} to fit, and the linear predictor reads {width} columns", True)
    return PREDICTORS[predictor](data, seed)


@dataclass(frozen=True)
class _Test:
    """Whether a rise of the losses is nothing: its lower bound, at ``quantile`` of Student's t, is not above a floor.

    The splits overlap, so the variance of the mean rise over R of them is that of one times 1 / R + held / fit
    (``widening``), not 1 / R: the corrected resampled t-test of Nadeau and Bengio (2003). The floor is ``nothing`` or,
    where that is more, ``chance`` of the present loss.
    """

    quantile: float
    widening: float
    nothing: float
    chance: Tensor | float = 0.0

    def lower(self, rises: Tensor) -> Tensor:
        """Lower bound of the mean over dimension 0."""
        mean, share = rises.mean(0), (1 / len(rises) + self.widening) / (len(rises) - 1)
        return mean - self.quantile * ((rises - mean).square().sum(0) * share).sqrt()

    def free(self, rises: Tensor, now: Tensor) -> Tensor:
        """``rises`` [R, C] of the losses ``now`` [R] -> bool [C]."""
        return self.lower(rises) <= (now.mean() * self.chance).clamp(min=self.nothing)


def _by_costs(fitted: Linear, visits: list[int], test: _Test, regularisation: float, keep_at_least: int) -> list[int]:
    """With the costs of all features at hand: the cheapest goes if it costs nothing, or is within the budget."""
    count, ceiling = len(visits), None
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


def _by_blocks(fitted: MLP, visits: list[int], test: _Test, regularisation: float, keep_at_least: int) -> list[int]:
    """The same where every cost is a training: many of them side by side, and features that go in blocks."""
    search = _Blocks(fitted, visits, test, keep_at_least)
    search.drop_free(visits)
    start, ceiling = float(fitted.now.mean()), _ceiling(fitted, regularisation)
    if regularisation:
        search.spend(ceiling)
    spent = float(fitted.now.mean()) - start
    # What costs nothing by now cost no more before than all that has been paid for since (I(S) - I(S - i) is at most
    # what S has lost): the others need no second look.
    search.drop_free([feature for feature in visits if search.costs.get(feature, torch.inf) <= spent], ceiling)
    return sorted(search.costs)


class _Blocks:
    """Elimination with ``fitted``: ``costs``, of all features that are left, are what they were last found to be."""

    def __init__(self, fitted: MLP, visits: list[int], test: _Test, keep_at_least: int):
        self._fitted, self._test, self._keep_at_least, self._gone = fitted, test, keep_at_least, ()
        self.costs = dict.fromkeys(visits, -math.inf)

    @property
    def _room(self) -> int:
        return len(self.costs) - self._keep_at_least

    def _remove(self, features: list[int]) -> None:
        self._gone = (*self._gone, *features)
        for feature in features:
            del self.costs[feature]
        self._fitted.accept(self._gone)

    def _tried(self, groups: list[list[int]], passed: Callable) -> tuple[list[bool], list[float]]:
        """Which of the groups of features may go, and the mean rise of the losses where that is known."""
        verdicts, losses = self._fitted.passes([(*self._gone, *group) for group in groups], passed)
        return verdicts, (losses - self._fitted.now[:, None]).mean(0).tolist()

    def drop_free(self, pending: list[int], ceiling: float = math.inf) -> None:
        """Remove, of ``pending`` in this order, what costs nothing, while the mean loss is at most ``ceiling``.

        The next features are screened one by one in a batch; of those that pass the longest prefix goes that costs
        nothing together. What is found to be needed stays needed: leaving out others for nothing makes it no cheaper.
        """

        def free(ids: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
            rises = losses - self._fitted.now[:, None]
            at_the_end = self._test.free(rises, self._fitted.now) & (losses.mean(0) <= ceiling)
            return at_the_end & (rises.mean(0) <= self._test.nothing), at_the_end

        screen, failures = SCREEN, []
        while pending and self._room > 0:
            first, later = pending[:screen], pending[screen:]
            verdicts, rises = self._tried([[feature] for feature in first], free)
            survivors = [feature for feature, passed in zip(first, verdicts, strict=True) if passed]
            self.costs |= {f: rise for f, passed, rise in zip(first, verdicts, rises, strict=True) if not passed}
            screen = 2 * screen if 2 * len(survivors) < len(first) else max(SCREEN, screen // 2)
            pending = survivors + later
            if survivors:
                blocks = [pending[:size] for size in _halvings(min(len(pending), self._room))]
                blocks = [block for block in blocks if not any(needed <= {*self._gone, *block} for needed in failures)]
                passed = self._tried(blocks, free)[0]
                failures += [{*self._gone, *block} for block, good in zip(blocks, passed, strict=True) if not good]
                size = max([len(block) for block, good in zip(blocks, passed, strict=True) if good], default=1)
                self._remove(pending[:size])
                pending = pending[size:]

    def spend(self, ceiling: float) -> None:
        """Remove the cheapest, one after the other, while the mean loss stays at or below ``ceiling``.

        A cost is taken for what it was until the feature is among the cheapest, for without others, those that went for
        nothing included, a feature is worth more (Minoux's lazy greedy algorithm, 1978). A block goes at once if
        together it costs no more than its costs.
        """
        place, fresh = {feature: k for k, feature in enumerate(self.costs)}, set()

        def cheap(limits: list[float]) -> Callable:
            bounds = torch.tensor(limits, device=self._fitted.now.device)

            def passed(ids: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
                low = losses.mean(0) <= bounds[ids]
                return low, low

            return passed

        while self._room > 0:
            queue = sorted(self.costs, key=lambda feature: (self.costs[feature], place[feature]))
            if queue[0] not in fresh:
                stale = [feature for feature in queue[:SCREEN] if feature not in fresh]
                _, rises = self._tried([[feature] for feature in stale], cheap([-math.inf] * len(stale)))
                self.costs |= zip(stale, rises, strict=True)
                fresh |= set(stale)
                continue
            now = float(self._fitted.now.mean())
            totals = list(accumulate(max(self.costs[feature], 0) for feature in queue[: self._room]))
            sizes = [*_halvings(len(totals)), 1]
            limits = [now + totals[size - 1] + self._test.nothing for size in sizes]
            passed, rises = self._tried([queue[:size] for size in sizes], cheap(limits))
            rise = {size: rise for size, good, rise in zip(sizes, passed, rises, strict=True) if good}
            size, left = max(rise, default=0), ceiling - now
            if size and max(totals[size - 1], rise[size]) > left:  # as much of the block as the budget allows
                sizes = [size for size in range(1, size + 1) if totals[size - 1] <= left]
                sizes = [*_halvings(len(sizes)), *sizes[:1]]
                passed, _ = self._tried([queue[:size] for size in sizes], cheap([ceiling] * len(sizes)))
                size = max([size for size, good in zip(sizes, passed, strict=True) if good], default=0)
            if not size:
                return
            self._remove(queue[:size])
            fresh = set()


def _halvings(size: int) -> list[int]:
    """size, size / 2, ... down to 2."""
    return [] if size < 2 else [size, *_halvings(size // 2)]


def _visits(order: str | Sequence[int], count: int, single: Callable[[], Tensor] | None = None) -> list[int]:
    """All features in the order in which they are examined; ties from first to last. ``single``: the information in
    each, for mi and descending."""
    if order == "plain":
        return list(range(count))
    if order == "reversed":
        return list(range(count))[::-1]
    if order in ("mi", "descending"):
        return torch.sort(single(), descending=order == "descending", stable=True).indices.tolist()
    return list(order)


def _check(predictor: str, repeats: int, confidence: float) -> None:
    if predictor not in PREDICTORS:
        raise ValueError(f"predictor: {predictor!r}; allowed: {', '.join(PREDICTORS)}")
    if not isinstance(repeats, Integral) or repeats < 2:
        raise ValueError(f"repeats: {repeats!r}; must be a whole number, and an interval needs at least 2")
    if not isinstance(confidence, float) or not 0 < confidence < 1:
        raise ValueError(f"confidence: {confidence!r}; must lie between 0 and 1")


def _check_order(order: str | Sequence[int], count: int) -> None:
    if isinstance(order, str):
        if order not in ORDERS:
            raise ValueError(f"order: {order!r}; allowed: {', '.join(ORDERS)} or the feature indices")
    elif not isinstance(order, Iterable) or sorted(order) != list(range(count)):
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


def _half_width(losses: Tensor, confidence: float) -> Tensor:
    """Half the Student-t interval of the mean over dimension 0."""
    repeats = len(losses)
    return _student(repeats - 1, (1 + confidence) / 2) * losses.std(0) / repeats**0.5


def _student(freedom: int, level: float) -> float:
    """What a Student variable falls below with probability ``level``."""
    from scipy.special import stdtrit  # every stage imports the methods, and scipy takes a tenth of its start

    return float(stdtrit(freedom, level))
