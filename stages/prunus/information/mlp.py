"""The MLP predictor: stacks of small networks, many hypotheses trained side by side, and their held-out losses."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from prunus.information.linear import Linear
from prunus.information.samples import Data, standardised

SUBSTITUTION_RIDGE = 1e-4  # a warm start need not be exact, but must not blow up where columns outnumber samples
HIDDEN, SINGLE_HIDDEN = 50, 32
BATCH = 256
CHECK = 10  # steps between two looks at the held-out loss
FIT_RATES, FIT_STEPS, FIT_PATIENCE = (1e-2, 2e-3), 2000, 8  # Adam's rates one after the other; patience in looks
REFIT_RATES, REFIT_STEPS, REFIT_PATIENCE = (1e-2,), 1000, 4
WARM_UP = 100  # steps in which a rate rises from a fifth: a good start is not thrown away, a bad one is left quickly
GAIN = 1e-3  # share of the constant's loss that must be gained within the patience
MEMORY = {"cpu": 2**25, "cuda": 2**28}  # bytes that a chunk of hypotheses may take; more only misses the cache of a CPU


class MLP:
    """Linear-ReLU-Linear networks with 50 hidden units (as in the public PIDF code), many hypotheses at once.

    A hypothesis is a set of removed features. Its R networks, one per split, start from those of the set accepted
    last, with the inputs it removes replaced by their least-squares prediction from the rest (the whole answer for
    copies), and are re-trained until the hypothesis passes or stops improving. All of them see the same minibatches.
    What a hypothesis gains by mere re-training must not count for it, so an accepted set is re-trained too, unless it
    is already better than the one before: ``now`` are its losses [R]. ``networks`` are the parameters of C
    hypotheses as one tensor [R, C, P].
    """

    resolution = GAIN  # of the constant's loss: training ends when it gains less

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
        """0: the gain of an irrelevant column by chance is below what training resolves."""
        return 0.0

    def single(self) -> Tensor:
        """[F]: the information in each feature alone, mean over the repeats.

        A cheaper predictor is enough for an order: a hidden layer left as drawn, and a least-squares readout (of the
        one-hot code if the target is discrete).
        """
        data = self._data
        gains = []
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
        and says which of them pass at once, and which if training ends there, bool [c] each. A passing set decides
        for its subsets, a failing one for its supersets. The losses of a set that fails itself are those of a finished
        training; those of one that passes itself could have fallen further; a set decided by another has infinite ones.
        """
        removed = torch.zeros(len(removals), len(self._data.columns))
        for row, removal in zip(removed, removals, strict=True):
            row[list(removal)] = 1
        inside = ((removed @ (1 - removed).T) == 0).to(self._x.device)  # [a, b]: a is a subset of b
        verdict = torch.full((len(removals),), -1, device=self._x.device)
        passed_itself = torch.zeros(len(removals), dtype=torch.bool, device=self._x.device)
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
                passes = at_once | (stalled & at_the_end)
                verdict[members[ids[passes]]] = 1
                verdict[(verdict == -1) & inside[:, verdict == 1].any(1)] = 1
                verdict[members[ids[stalled & ~passes]]] = 0
                verdict[(verdict == -1) & inside[verdict == 0].any(0)] = 0
                passed_itself[members[ids[passes]]] = True
                losses[:, members[ids[passes | stalled]]] = best[:, passes | stalled]
                return verdict[members[ids]] != -1

            starts = [self._start(removals[m]) for m in members.tolist()]
            networks = torch.cat([network for network, _ in starts], 1)
            alive = torch.stack([kept for _, kept in starts])[:, None]
            networks, least = self._train(networks, alive, finished, REFIT_RATES, REFIT_STEPS, REFIT_PATIENCE)
            for k in passed_itself[members].nonzero().flatten().tolist():
                if len(removals[members[k]]) > len(self._longest[0]):
                    self._longest = removals[members[k]], networks[:, k : k + 1].clone(), least[:, k]
        return (verdict == 1).tolist(), losses

    def accept(self, removal: tuple[int, ...]) -> None:
        """Later hypotheses start from here: these features are gone."""
        alive = self._alive(removal)
        trained, networks, losses = self._longest
        if trained != removal or losses.mean() > self.now.mean():
            start = networks if trained == removal else self._start(removal)[0]
            options = _stalled, REFIT_RATES, REFIT_STEPS, REFIT_PATIENCE
            networks, losses = self._train(start, alive[None, None], *options)
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
                least = best_losses[:, ids]
                better = losses < least
                best_losses[:, ids] = torch.where(better, losses, least)
                best[:, ids] = torch.where(better[..., None], networks, best[:, ids])
                now = best_losses[:, ids].mean(0)
                gained = mark - now > gain
                mark, waited = torch.where(gained, now, mark), torch.where(gained, 0, waited + 1)
                slower = (waited > patience) & (phase < len(rates) - 1)
                end = finished(ids, best_losses[:, ids], ((waited > patience) & ~slower) | (step >= steps))
                phase, waited = phase + slower.long(), torch.where(slower, 0, waited)
                networks = torch.where(slower[:, None], best[:, ids], networks)  # the next rate, from the best so far
                if end.any():
                    running = (~end).nonzero().flatten()
                    if not len(running):
                        return best, best_losses
                    ids, phase, mark, waited = (values[running] for values in (ids, phase, mark, waited))
                    networks, mean, square = (values[:, running] for values in (networks, mean, square))
                    alive = alive[running]
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
