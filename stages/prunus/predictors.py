"""Held-out losses of learned predictors, many at once: ridge regression from Gram matrices and stacks of small MLPs.

``information`` builds its estimates and tests on them. Both predictors are fitted R times, each time on another split.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

PANEL = 32  # removed columns that are carried over to all of the linear predictor's matrices together
# Relative to the unit variance of a column. It bounds the inverse, whose entries of copies are the largest, so that one
# of them can go and leave the others exact to a share of RIDGE; a smaller difference between columns is not seen.
RIDGE = 1e-5
SUBSTITUTION_RIDGE = 1e-4  # a warm start need not be exact, but must not blow up where columns outnumber samples
HIDDEN, SINGLE_HIDDEN = 50, 32
BATCH = 256
CHECK = 10  # steps between two looks at the held-out loss
FIT_RATES, FIT_STEPS, FIT_PATIENCE = (1e-2, 2e-3), 2000, 8  # Adam's rates one after the other; patience in looks
REFIT_RATES, REFIT_STEPS, REFIT_PATIENCE = (1e-2,), 1000, 4
WARM_UP = 100  # steps in which a rate rises from a fifth: a good start is not thrown away, a bad one is left quickly
GAIN = 1e-3  # share of the constant's loss to be gained within the patience
MEMORY = {"cpu": 2**25, "cuda": 2**28}  # bytes that a chunk of hypotheses may take; more only misses the cache of a CPU


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
        """How many images are held out for each that is fitted to."""
        return self.held.shape[1] / self.fit.shape[1]


@dataclass
class _Block:
    """Features of one ``width`` that lie side by side: their ``columns``, and the diagonal blocks [R, n, width, width]
    of the inverse (``near``) and of P H P (``middle``)."""

    features: Tensor
    columns: slice
    width: int
    near: Tensor
    middle: Tensor


class Linear:
    """Least squares on the fitting split of each repeat, and its squared error on the held-out one.

    Every number comes from the Gram matrices of the two splits, so that leaving features out needs no pass over the
    samples. With P the inverse Gram matrix of the columns that are left, H the held-out Gram matrix, Q = P H P, B the
    coefficients and U = P (held-out covariance with the targets - H B), the fit without the columns g has

        coefficients  B - s B[g],  s = P[:, g] P[g, g]^-1,
        loss          higher by 2 <v, U[g]> + <v, Q[g, g] v>,  v = P[g, g]^-1 B[g] ,

    so the diagonal blocks of P and Q with B and U carry the cost of every feature at once. These follow each removal;
    the rest of P and Q, of which a removal reads the columns g alone, follows PANEL columns at a time in one product.
    A discrete target counts as its one-hot code.
    """

    tells_apart = RIDGE  # of the constant's loss

    def __init__(self, data: Data, seed: int):
        x, y = data.x, data.y * data.scale
        self.columns, self.widening, self._samples = data.columns, data.widening, len(x)
        both = torch.cat([x, y], 1)
        width, total, total_sum = x.shape[1], x.T @ both, both.sum(0)
        fits, helds, constants, spreads = [], [], [], []
        for rows in data.held:
            part, n = both[rows], len(rows)
            held, held_sum = part[:, :width].T @ part, part.sum(0)
            mean = (total_sum - held_sum) / (len(x) - n)
            fits.append((total - held) / (len(x) - n) - mean[:width, None] * mean)
            held_mean = held_sum / n
            cross = held_mean[:width, None] * mean + mean[:width, None] * held_mean
            helds.append(held / n - cross + mean[:width, None] * mean)
            squares = (part[:, width:] - mean[width:]).square()
            constants.append(squares.sum(1).mean())
            spreads.append(squares.mean(0))
        fit, held = torch.stack(fits), torch.stack(helds)
        self._fit, self._fit_xy = fit[..., :width], fit[..., width:]
        self._held, self._held_xy = held[..., :width], held[..., width:]
        self._fit.diagonal(dim1=1, dim2=2).add_(data.ridge)
        self.constant, self._spread = torch.stack(constants), torch.stack(spreads)
        self._invert()
        self._solve()

    def _invert(self) -> None:
        self._whole = torch.cholesky_inverse(torch.linalg.cholesky(self._fit))
        self._whole_middle = self._whole @ self._held @ self._whole

    def _solve(self) -> None:
        """Everything with all features present."""
        weights = self._whole @ self._fit_xy
        residual = self._held_xy - self._held @ weights
        self.full = self.now = self.constant - ((self._held_xy + residual) * weights).sum((1, 2))
        self._left = sorted(range(len(self.columns)), key=lambda feature: len(self.columns[feature]))
        self._inverse, self._middle = self._whole, self._whole_middle
        self._readings = weights, self._whole @ residual
        self._lay_out(torch.cat([self.columns[feature] for feature in self._left]))

    def _lay_out(self, kept: Tensor) -> None:
        """Cut everything down to the columns ``kept``, those of the features that are left, one after the other."""
        whole = self._inverse.shape[1]
        if len(kept) != whole or not torch.equal(kept, torch.arange(whole, device=kept.device)):
            self._inverse, self._middle = (m[:, kept[:, None], kept] for m in (self._inverse, self._middle))
            self._readings = tuple(values[:, kept] for values in self._readings)
        else:
            self._readings = tuple(values.clone() for values in self._readings)
        self._places, self._block_of, self._blocks, start = {}, {}, [], 0
        for width, members in groupby(self._left, key=lambda feature: len(self.columns[feature])):
            features = list(members)
            columns = slice(start, start + width * len(features))
            self._block_of |= dict.fromkeys(features, len(self._blocks))
            self._places |= {f: slice(start + width * k, start + width * (k + 1)) for k, f in enumerate(features)}
            index = torch.arange(start, columns.stop, device=kept.device).view(-1, width)
            near, middle = (m[:, index[:, :, None], index[:, None]] for m in (self._inverse, self._middle))
            self._blocks.append(_Block(torch.tensor(features, device=kept.device), columns, width, near, middle))
            start = columns.stop
        widest = max((block.width for block in self._blocks), default=1)
        self._factors = [self._inverse.new_empty(len(self.now), start, max(PANEL, widest)) for _ in range(4)]
        self._taken = 0

    def part(self, features: list[int], outputs: slice) -> "Linear":
        """The fit of some outputs by some features (ascending), from the same Gram matrices, nothing removed yet."""
        other = copy.copy(self)
        whole = self.columns
        columns = torch.cat([whole[feature] for feature in features])
        other.columns = list(torch.arange(len(columns), device=columns.device).split([len(whole[f]) for f in features]))
        other.constant = self._spread[:, outputs].sum(1)
        other._fit_xy, other._held_xy = (xy[:, columns, outputs] for xy in (self._fit_xy, self._held_xy))
        if len(features) < len(whole):
            rows = columns[:, None]
            other._fit, other._held = self._fit[:, rows, columns], self._held[:, rows, columns]
            other._invert()
        other._solve()
        return other

    def single(self) -> Tensor:
        """[F]: the information in each feature alone, mean over the repeats."""
        gains = []
        for g in self.columns:
            weights = torch.linalg.solve(self._fit[:, g[:, None], g], self._fit_xy[:, g])
            gain = (2 * self._held_xy[:, g] - self._held[:, g[:, None], g] @ weights) * weights
            gains.append(gain.sum((1, 2)).mean())
        return torch.stack(gains)

    def chance(self, level: float) -> Tensor:
        """[F]: the cost, as a share of the present loss, that each feature would exceed with probability ``level`` were
        it irrelevant.

        With T targets and k columns, N times the cost over the loss of one target is chi-squared with T k degrees of
        freedom, less T k, which is no more than what fitting to noise costs on average.
        """
        from scipy.special import chdtri  # every stage imports the methods, and scipy takes a tenth of its start

        targets = self._fit_xy.shape[2]
        freedom = [targets * len(columns) for columns in self.columns]
        cost = (chdtri(freedom, level) - freedom) / (targets * self._samples)
        return torch.from_numpy(cost).to(self.now.device)

    def costs(self) -> Tensor:
        """[R, F]: how much higher the held-out losses are without each feature; means nothing for those removed."""
        result = self.now.new_zeros(len(self.now), len(self.columns))
        for block in self._blocks:
            weights, slopes = (values[:, block.columns].unflatten(1, (-1, block.width)) for values in self._readings)
            if block.width == 1:
                weights, slopes, near = weights[:, :, 0], slopes[:, :, 0], block.near[:, :, 0, 0]
                first, second = (weights * slopes).sum(2) / near, weights.square().sum(2) / near.square()
                values = 2 * first + second * block.middle[:, :, 0, 0]
            else:
                v = torch.linalg.solve(block.near, weights)
                values = ((2 * slopes + block.middle @ v) * v).sum((2, 3))
            result.index_copy_(1, block.features, values)
        return result

    def remove(self, feature: int) -> None:
        """Leave the feature out of every fit from here on."""
        if self._taken + len(self.columns[feature]) > self._factors[0].shape[2]:
            self._settle()
        at, (weights, slopes) = self._places[feature], self._readings
        shifts, nears, rights, lefts = (factor[..., : self._taken] for factor in self._factors)
        near = torch.baddbmm(self._inverse[..., at], shifts, nears[:, at].mT, alpha=-1)
        middle = torch.baddbmm(self._middle[..., at], shifts, rights[:, at].mT, alpha=-1)
        middle.baddbmm_(lefts, shifts[:, at].mT, alpha=-1)
        within = torch.linalg.inv(near[:, at])
        shift, v = near @ within, within @ weights[:, at]
        self.now = self.now + ((2 * slopes[:, at] + middle[:, at] @ v) * v).sum((1, 2))
        slopes.baddbmm_(middle, v)
        for values in self._readings:
            values.baddbmm_(shift, values[:, at].clone(), alpha=-1)
            values[:, at] = 0
        left = torch.baddbmm(middle, shift, middle[:, at], alpha=-1)
        for block in self._blocks:
            s, p, q, r = (f[:, block.columns].unflatten(1, (-1, block.width)) for f in (shift, near, middle, left))
            for values, pairs in (block.near, ((s, p),)), (block.middle, ((s, q), (r, s))):
                for a, b in pairs:
                    values.sub_(a @ b.mT if block.width > 1 or a.shape[3] > 1 else a * b)
        own = self._blocks[self._block_of[feature]]
        own.near[:, (at.start - own.columns.start) // own.width] = torch.eye(own.width, dtype=s.dtype, device=s.device)
        for factor, values in zip(self._factors, (shift, near, middle, left), strict=True):
            factor[..., self._taken : self._taken + values.shape[2]] = values
        self._taken += shift.shape[2]
        self._left.remove(feature)

    def _settle(self) -> None:
        """Carry what was removed since the last time over to what is left of the matrices."""
        places = [self._places[feature] for feature in self._left]
        here = torch.arange(self._inverse.shape[1], device=self._inverse.device)
        kept = torch.cat([here[place] for place in places]) if places else here[:0]
        shifts, nears, rights, lefts = (factor[:, kept, : self._taken] for factor in self._factors)
        inverse, middle = (m[:, kept[:, None], kept] for m in (self._inverse, self._middle))
        self._inverse = inverse.baddbmm_(shifts, nears.mT, alpha=-1)
        self._middle = middle.baddbmm_(shifts, rights.mT, alpha=-1).baddbmm_(lefts, shifts.mT, alpha=-1)
        self._readings = tuple(values[:, kept] for values in self._readings)
        self._lay_out(here[: len(kept)])


class MLP:
    """Linear-ReLU-Linear networks with 50 hidden units (as in the public PIDF code), many hypotheses at once.

    A hypothesis is a set of removed features. Its R networks, one per split, start from those of the set accepted
    last, with the inputs it removes replaced by their least-squares prediction from the rest (the whole answer for
    copies), and are re-trained until the hypothesis passes or stops improving. All of them see the same minibatches.
    What a hypothesis gains by mere re-training must not count for it, so a set that is accepted is re-trained, too,
    unless it is better than the one before as it is: ``now`` are its losses [R]. ``networks`` are the parameters of C
    hypotheses as one tensor [R, C, P].
    """

    tells_apart = GAIN  # of the constant's loss: less than that ends a training

    def __init__(self, data: Data, seed: int, memory: int | None = None):
        self._data, self._seed, self.columns, self.widening = data, seed, data.columns, data.widening
        self._memory = memory or MEMORY.get(data.x.device.type, MEMORY["cpu"])
        self._x, self._y = data.x.float(), data.y.float()
        self._x_held, self._y_held = self._x[data.held], self._y[data.held]
        self._worth = data.scale.float().square()
        width, outputs = data.x.shape[1], data.y.shape[1]
        self._shapes = (HIDDEN, width), (1, HIDDEN), (HIDDEN, outputs), (1, outputs)
        self.constant = self._constant()
        self.hypotheses = 0

        generator = torch.Generator().manual_seed(seed)
        parts = [
            (torch.rand(len(data.fit), 1, a * b, generator=generator) * 2 - 1) / fan_in**0.5
            for (a, b), fan_in in zip(self._shapes, (width, width, HIDDEN, HIDDEN), strict=True)
        ]
        networks, everything = torch.cat(parts, 2).to(data.x.device), torch.ones(1, 1, width, device=data.x.device)
        networks, _ = self._train(networks, everything, _stalled, FIT_RATES, FIT_STEPS, FIT_PATIENCE)
        self._covariance = data.x.T @ data.x / len(data.x)
        self._covariance.diagonal().add_(SUBSTITUTION_RIDGE)
        self._base, self._longest = networks, ((), networks, self.constant)
        self.now = self.constant * 0
        self.accept(())
        self.full = self.now

    def chance(self, level: float) -> float:
        """0: what chance makes of an irrelevant column is below what training tells apart."""
        return 0.0

    def single(self) -> Tensor:
        """[F]: the information in each feature alone, mean over the repeats.

        A cheaper predictor does for an order: a hidden layer left as drawn, and a least-squares readout (of the
        one-hot code if the target is discrete).
        """
        gains, data = [], self._data
        units = min(SINGLE_HIDDEN, data.fit.shape[1] // 4)
        for g in data.columns:
            generator = torch.Generator().manual_seed(self._seed)
            slopes = torch.randn(len(g), units, generator=generator, dtype=torch.float64) / len(g) ** 0.5
            kinks = torch.rand(units, generator=generator, dtype=torch.float64) * 4 - 2
            hidden = torch.relu(data.x[:, g] @ slopes.to(data.x.device) + kinks.to(data.x.device))
            columns = [torch.arange(units, device=data.x.device)]
            fit = Linear(replace(data, x=standardised(hidden)[0], columns=columns), self._seed)
            gains.append((fit.constant - fit.full).mean())
        return torch.stack(gains)

    def passes(self, removals: list[tuple[int, ...]], passed: Callable) -> tuple[list[bool], Tensor]:
        """Which of the removals (supersets of the base's) ``passed`` lets pass, and their losses [R, C].

        ``passed`` is given the positions [c] of some removals and the least held-out losses [R, c] of their networks,
        and says which of them pass at once, and which if training ends there, bool [c] each. A passing set answers for
        its subsets, a failing one for its supersets. The losses are those of a training that has come to its end
        where a set fails in its own right; where it passes it could have gone on, and infinite where another answered.
        """
        gone = torch.zeros(len(removals), len(self._data.columns))
        for row, removal in zip(gone, removals, strict=True):
            row[list(removal)] = 1
        inside = ((gone @ (1 - gone).T) == 0).to(self._x.device)  # [a, b]: a is a subset of b
        verdict = torch.full((len(removals),), -1, device=self._x.device)
        own = torch.zeros(len(removals), dtype=torch.bool, device=self._x.device)  # passed in its own right
        losses = torch.full((len(self.constant), len(removals)), torch.inf, device=self._x.device)
        columns, outputs = self._x.shape[1], self._y.shape[1]
        bytes_each = 4 * len(self._data.fit) * (BATCH * (3 * HIDDEN + 3 * outputs) + 7 * HIDDEN * (columns + outputs))
        for members in torch.arange(len(removals), device=verdict.device).split(max(1, self._memory // bytes_each)):
            members = members[verdict[members] == -1]
            if not len(members):
                continue
            self.hypotheses += len(members)

            def finished(ids: Tensor, best: Tensor, stalled: Tensor, members: Tensor = members) -> Tensor:
                at_once, at_the_end = passed(members[ids], best)
                good = at_once | (stalled & at_the_end)
                verdict[members[ids[good]]] = 1
                verdict[(verdict == -1) & inside[:, verdict == 1].any(1)] = 1
                verdict[members[ids[stalled & ~good]]] = 0
                verdict[(verdict == -1) & inside[verdict == 0].any(0)] = 0
                own[members[ids[good]]] = True
                losses[:, members[ids[good | stalled]]] = best[:, good | stalled]
                return verdict[members[ids]] != -1

            starts = [self._start(removals[m]) for m in members.tolist()]
            networks = torch.cat([network for network, _ in starts], 1)
            alive = torch.stack([kept for _, kept in starts])[:, None]
            networks, least = self._train(networks, alive, finished, REFIT_RATES, REFIT_STEPS, REFIT_PATIENCE)
            for k in own[members].nonzero().flatten().tolist():
                if len(removals[members[k]]) > len(self._longest[0]):
                    self._longest = removals[members[k]], networks[:, k : k + 1].clone(), least[:, k]
        return (verdict == 1).tolist(), losses

    def accept(self, removal: tuple[int, ...]) -> None:
        """Later hypotheses start from here: these features are gone."""
        alive, (known, networks, losses) = self._alive(removal), self._longest
        if known != removal or losses.mean() > self.now.mean():
            start = networks if known == removal else self._start(removal)[0]
            how = _stalled, REFIT_RATES, REFIT_STEPS, REFIT_PATIENCE
            networks, losses = self._train(start, alive[None, None], *how)
            losses = losses[:, 0]
        self._base, self.now, self._longest = networks, losses, (removal, networks, losses)
        left = alive.nonzero().flatten()
        self._inverse = torch.zeros_like(self._covariance)
        self._inverse[left[:, None], left] = torch.linalg.inv(self._covariance[left[:, None], left])

    def _alive(self, removal: tuple[int, ...]) -> Tensor:
        """[D], 1 for the columns that are left."""
        alive = torch.ones(self._x.shape[1], device=self._x.device)
        for feature in removal:
            alive[self._data.columns[feature]] = 0
        return alive

    def _start(self, removal: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """The base's networks [R, 1, P] with the removed inputs expressed through the rest, and which are left [D]."""
        alive = self._alive(removal)
        gone = ((alive == 0) & (self._inverse.diagonal() > 0)).nonzero().flatten()
        networks = self._base.clone()
        first = self._parts(networks)[0].double()
        if len(gone):
            prediction = -torch.linalg.solve(self._inverse[gone[:, None], gone], self._inverse[gone])  # [q, D]
            first = first + first[..., gone] @ prediction
        networks[..., : first[0, 0].numel()] = (first * alive).flatten(2).float()
        return networks, alive

    def _parts(self, networks: Tensor) -> list[Tensor]:
        """[R, C, H, D], [R, C, 1, H], [R, C, H, O], [R, C, 1, O]"""
        parts = networks.split([a * b for a, b in self._shapes], 2)
        return [part.unflatten(2, shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _constant(self) -> Tensor:
        """Held-out losses [R] of the best constant of each fitting split."""
        mean = self._y[self._data.fit].mean(1, keepdim=True)
        if self._data.classes is not None:
            mean = mean.clamp_min(0.5 / self._data.fit.shape[1]).log()  # a class may be missing from a fitting split
        y = self._y_held[:, None]
        return self._losses(mean[:, None].repeat(1, 1, y.shape[2], 1), y)[:, 0]

    def _losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Mean over the samples, overwriting the outputs: outputs [R, C, n, O], targets [R, 1, n, O] -> [R, C]."""
        if self._data.classes is None:
            return outputs.sub_(y).square_().mean(2) @ self._worth
        blocks = zip(outputs.split(self._data.classes, 3), y.split(self._data.classes, 3), strict=True)
        return -sum((block.log_softmax(3) * code).sum(3).mean(2) for block, code in blocks)

    def _errors(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Gradient of the mean loss with respect to the outputs, overwriting them."""
        if self._data.classes is None:
            return outputs.sub_(y).mul_(2 / y.shape[2])
        blocks = [block.softmax(3) for block in outputs.split(self._data.classes, 3)]
        return (torch.cat(blocks, 3) - y).div_(y.shape[2])

    def _forward(self, parts: list[Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs [R, n, D] -> hidden activations [R, C, n, H] and outputs [R, C, n, O]."""
        first, bias, second, last = parts
        hidden = (x @ first.flatten(1, 2).mT).unflatten(2, first.shape[1:3]).transpose(1, 2)
        hidden = hidden.add_(bias).relu_()
        return hidden, (hidden @ second).add_(last)

    def _gradient(self, networks: Tensor, x: Tensor, y: Tensor, alive: Tensor) -> Tensor:
        """[R, C, P]"""
        parts = self._parts(networks)
        hidden, outputs = self._forward(parts, x)
        errors = self._errors(outputs, y)
        back = (errors @ parts[2].mT).mul_(hidden > 0)
        first = (back.transpose(1, 2).flatten(2).mT @ x).view_as(parts[0]).mul_(alive)
        slopes = first, back.sum(2), hidden.mT @ errors, errors.sum(2)
        return torch.cat([slope.flatten(2) for slope in slopes], 2)

    def _held_out(self, networks: Tensor) -> Tensor:
        """[R, C]"""
        parts, size = self._parts(networks), self._x_held.shape[1]
        pairs = zip(self._x_held.split(BATCH, 1), self._y_held.split(BATCH, 1), strict=True)
        return sum(self._losses(self._forward(parts, x)[1], y[:, None]) * (x.shape[1] / size) for x, y in pairs)

    def _minibatches(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self._seed + 1)
        while True:
            order = torch.randperm(self._data.fit.shape[1], generator=generator).to(self._x.device)
            for batch in order.split(BATCH)[: max(1, len(order) // BATCH)]:
                rows = self._data.fit[:, batch]
                x, y = (
                    values.index_select(0, rows.flatten()).unflatten(0, rows.shape) for values in (self._x, self._y)
                )
                yield x, y[:, None]

    def _train(
        self, networks: Tensor, alive: Tensor, finished: Callable, rates: tuple, steps: int, patience: int
    ) -> tuple[Tensor, Tensor]:
        """Adam, at one rate after the other, on the inputs of ``alive`` [C, 1, D], C hypotheses side by side.

        Every few steps ``finished(ids [c], best losses [R, c], stalled [c])`` says which hypotheses end. Returns the
        best networks and their held-out losses [R, C].
        """
        count, device, gain = networks.shape[1], networks.device, GAIN * self.constant.mean()
        networks, best = networks.clone(), networks.clone()
        best_losses = torch.full(networks.shape[:2], torch.inf, device=device)
        mean, square = torch.zeros_like(networks), torch.zeros_like(networks)
        ids, phase = torch.arange(count, device=device), torch.zeros(count, dtype=torch.long, device=device)
        mark, waited = torch.full((count,), torch.inf, device=device), torch.zeros_like(phase)
        rate = torch.tensor(rates, device=device)
        for step, (x, y) in enumerate(self._minibatches()):
            if step % CHECK == 0:
                losses = self._held_out(networks)
                known = best_losses[:, ids]
                better = losses < known
                best_losses[:, ids] = torch.where(better, losses, known)
                best[:, ids] = torch.where(better[..., None], networks, best[:, ids])
                now = best_losses[:, ids].mean(0)
                gained = mark - now > gain
                mark, waited = torch.where(gained, now, mark), torch.where(gained, 0, waited + 1)
                slower = (waited > patience) & (phase < len(rates) - 1)
                end = finished(ids, best_losses[:, ids], ((waited > patience) & ~slower) | (step >= steps))
                phase, waited = phase + slower.long(), torch.where(slower, 0, waited)
                networks = torch.where(slower[:, None], best[:, ids], networks)  # the next rate, from the best so far
                if end.any():
                    on = (~end).nonzero().flatten()
                    if not len(on):
                        return best, best_losses
                    ids, phase, mark, waited = ids[on], phase[on], mark[on], waited[on]
                    networks, mean, square, alive = networks[:, on], mean[:, on], square[:, on], alive[on]
            slope = self._gradient(networks, x, y, alive)
            mean.lerp_(slope, 0.1)
            square.mul_(0.999).addcmul_(slope, slope, value=0.001)
            scale = (1 - 0.999 ** (step + 1)) ** 0.5 / (1 - 0.9 ** (step + 1)) * min(1, 0.2 + 0.8 * step / WARM_UP)
            change = square.sqrt().add_(1e-8)
            torch.div(mean, change, out=change).mul_((rate[phase] * scale)[:, None])
            networks.sub_(change)
        raise AssertionError("minibatches never end")


def _stalled(ids: Tensor, best: Tensor, stalled: Tensor) -> Tensor:
    return stalled
