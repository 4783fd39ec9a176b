"""Held-out losses of learned predictors, many at once: ridge regression from Gram matrices and stacks of small MLPs.

``information`` builds its estimates and tests on them. Both predictors are fitted R times, each time on another split.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

RIDGE = 1e-8  # relative to the unit variance of a column: copies stay invertible in float64
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
    output is worth; ``fit`` and ``held`` int64 [R, n]: the splits.
    """

    x: Tensor
    columns: list[Tensor]
    y: Tensor
    scale: Tensor
    classes: tuple[int, ...] | None
    fit: Tensor
    held: Tensor


class Linear:
    """Least squares on the fitting split of each repeat, and its squared error on the held-out one.

    Every number comes from the Gram matrices of the two splits, so that leaving features out needs no pass over the
    samples: with P the inverse Gram matrix and B the coefficients, the exact fit without the columns g is
    B - P[:, g] P[g, g]^-1 B[g] and P - P[:, g] P[g, g]^-1 P[g, :]. A discrete target counts as its one-hot code.
    Tests read the panel of ``expect``, the columns of P and of (held-out Gram matrix) P that belong to its features,
    so a removal touches the panel alone; the whole of P follows when the next panel is cut.
    """

    def __init__(self, data: Data, seed: int):
        x, y = data.x, data.y * data.scale
        self.columns = data.columns
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
        self._fit.diagonal(dim1=1, dim2=2).add_(RIDGE)
        self.constant, self._spread = torch.stack(constants), torch.stack(spreads)
        self._inverse = torch.cholesky_inverse(torch.linalg.cholesky(self._fit))
        self._solve()

    def _solve(self) -> None:
        self._weights = self._inverse @ self._fit_xy
        self._residual = self._held_xy - self._held @ self._weights
        self.full = self.constant - ((self._held_xy + self._residual) * self._weights).sum((1, 2))
        self._now = self.full
        self._panel, self._places, self._removed = None, {}, []

    def part(self, features: list[int], outputs: slice) -> "Linear":
        """The fit of some outputs by some features (ascending), from the same Gram matrices, nothing removed yet."""
        other = copy.copy(self)
        whole = self.columns
        columns = torch.cat([whole[feature] for feature in features])
        other.columns = list(torch.arange(len(columns), device=columns.device).split([len(whole[f]) for f in features]))
        other.constant = self._spread[:, outputs].sum(1)
        other._fit_xy, other._held_xy = (xy[:, columns, outputs] for xy in (self._fit_xy, self._held_xy))
        if len(features) == len(whole):
            other._inverse = self._inverse.clone()
        else:
            rows = columns[:, None]
            other._fit, other._held = self._fit[:, rows, columns], self._held[:, rows, columns]
            other._inverse = torch.cholesky_inverse(torch.linalg.cholesky(other._fit))
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

    def expect(self, features: list[int]) -> None:
        """Prepare the tests of these features: one pass over the matrices for all of them, not one for each."""
        self._settle()
        ends = torch.tensor([len(self.columns[feature]) for feature in features]).cumsum(0).tolist()
        self._places = {f: slice(e - len(self.columns[f]), e) for f, e in zip(features, ends, strict=True)}
        near = self._inverse[:, :, torch.cat([self.columns[feature] for feature in features])]
        self._panel = torch.cat([near, self._held @ near], 1)

    def _settle(self) -> None:
        """Carry what was removed since the last pass over to the whole inverse."""
        if self._removed:
            gone, shifts, nears = (torch.cat(parts, -1) for parts in zip(*self._removed, strict=True))
            self._inverse.baddbmm_(shifts, nears.mT, alpha=-1)
            self._inverse[:, gone] = 0
            self._inverse[:, :, gone] = 0
            self._removed.clear()

    def _without(self, feature: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Losses [R] without this feature and all removed ones, and the factors of the downdate."""
        if feature not in self._places:
            self.expect([feature])
        g, near = self.columns[feature], self._panel[..., self._places[feature]]
        shift, moved = torch.linalg.solve(near[:, g], near, left=False).chunk(2, 1)  # [R, D, d]
        weights = self._weights[:, g]  # [R, d, O]
        rise = 2 * ((shift.mT @ self._residual) * weights).sum((1, 2))
        rise += ((shift.mT @ moved @ weights) * weights).sum((1, 2))
        return self._now + rise, shift, moved, weights

    def without(self, feature: int) -> Tensor:
        """Held-out losses [R] of the fit without this feature and all that were removed."""
        return self._without(feature)[0]

    def remove(self, feature: int) -> None:
        """Leave the feature out of every fit from here on."""
        self._now, shift, moved, weights = self._without(feature)
        g, near = self.columns[feature], self._panel[:, : shift.shape[1], self._places.pop(feature)].clone()
        self._removed.append((g, shift, near))
        self._residual += moved @ weights
        self._weights -= shift @ weights
        self._weights[:, g] = 0
        self._panel -= torch.cat([shift, moved], 1) @ self._panel[:, g]
        self._panel[:, g] = 0


class MLP:
    """Linear-ReLU-Linear networks with 50 hidden units (as in the public PIDF code), many hypotheses at once.

    A hypothesis is a set of removed features. Its R networks, one per split, start from those of the set accepted
    last, with the inputs it removes replaced by their least-squares prediction from the rest (the whole answer for
    copies), and are re-trained until the hypothesis passes or stops improving. All of them see the same minibatches.
    ``networks`` are the parameters of C hypotheses as one tensor [R, C, P].
    """

    def __init__(self, data: Data, seed: int, memory: int | None = None):
        self._data, self._seed, self.columns = data, seed, data.columns
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
        # what a hypothesis gains by mere re-training must not count for it, so the full set is re-trained as well
        networks, losses = self._train(networks, everything, _stalled, REFIT_RATES, REFIT_STEPS, REFIT_PATIENCE)
        self.full = losses[:, 0]
        self._covariance = data.x.T @ data.x / len(data.x)
        self._covariance.diagonal().add_(SUBSTITUTION_RIDGE)
        self._base, self._longest = networks, ((), networks)
        self.accept(())

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

    def passes(self, removals: list[tuple[int, ...]], limits: Tensor, lower: Callable[[Tensor], Tensor]) -> list[bool]:
        """Whether the loss returns to its limit [C] without the features of each removal (supersets of the base's).

        It does as soon as the mean over the repeats is there, or if the lower bound is (``lower`` [R, C] -> [C]) where
        re-training has come to an end. A passing set answers for its subsets, a failing one for its supersets.
        """
        gone = torch.zeros(len(removals), len(self._data.columns))
        for row, removal in zip(gone, removals, strict=True):
            row[list(removal)] = 1
        inside = ((gone @ (1 - gone).T) == 0).to(self._x.device)  # [a, b]: a is a subset of b
        verdict = torch.full((len(removals),), -1, device=self._x.device)
        own = torch.zeros(len(removals), dtype=torch.bool, device=self._x.device)  # passed in its own right
        columns, outputs = self._x.shape[1], self._y.shape[1]
        bytes_each = 4 * len(self._data.fit) * (BATCH * (3 * HIDDEN + 3 * outputs) + 7 * HIDDEN * (columns + outputs))
        for members in torch.arange(len(removals), device=verdict.device).split(max(1, self._memory // bytes_each)):
            members = members[verdict[members] == -1]
            if not len(members):
                continue
            self.hypotheses += len(members)

            def finished(ids: Tensor, best: Tensor, stalled: Tensor, members: Tensor = members) -> Tensor:
                limit = limits[members[ids]]
                good = (best.mean(0) <= limit) | (stalled & (lower(best) <= limit))
                verdict[members[ids[good]]] = 1
                verdict[(verdict == -1) & inside[:, verdict == 1].any(1)] = 1
                verdict[members[ids[stalled & ~good]]] = 0
                verdict[(verdict == -1) & inside[verdict == 0].any(0)] = 0
                own[members[ids[good]]] = True
                return verdict[members[ids]] != -1

            starts = [self._start(removals[m]) for m in members.tolist()]
            networks = torch.cat([network for network, _ in starts], 1)
            alive = torch.stack([kept for _, kept in starts])[:, None]
            networks, _ = self._train(networks, alive, finished, REFIT_RATES, REFIT_STEPS, REFIT_PATIENCE)
            for k in own[members].nonzero().flatten().tolist():
                if len(removals[members[k]]) > len(self._longest[0]):
                    self._longest = removals[members[k]], networks[:, k : k + 1].clone()
        return (verdict == 1).tolist()

    def accept(self, removal: tuple[int, ...]) -> None:
        """Later hypotheses start from here: these features are gone."""
        self._base = self._longest[1] if self._longest[0] == removal else self._start(removal)[0]
        self._longest = (removal, self._base)
        alive = self._alive(removal).nonzero().flatten()
        self._inverse = torch.zeros_like(self._covariance)
        self._inverse[alive[:, None], alive] = torch.linalg.inv(self._covariance[alive[:, None], alive])

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
