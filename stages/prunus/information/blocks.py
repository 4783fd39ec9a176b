"""Elimination where every cost is a training: many trainings side by side, and features that go in blocks."""

import math
from collections.abc import Callable
from itertools import accumulate

import torch
from torch import Tensor

from prunus.information.mlp import MLP
from prunus.information.significance import RiseTest

SCREEN = 8


class Blocks:
    """Elimination with ``fitted``. ``costs``: of every feature that is left, its cost as last measured."""

    def __init__(self, fitted: MLP, visits: list[int], test: RiseTest, keep_at_least: int):
        self._fitted, self._test, self._keep_at_least = fitted, test, keep_at_least
        self._removed: tuple[int, ...] = ()
        self.costs = dict.fromkeys(visits, -math.inf)

    @property
    def _room(self) -> int:
        return len(self.costs) - self._keep_at_least

    def _remove(self, features: list[int]) -> None:
        self._removed = (*self._removed, *features)
        for feature in features:
            del self.costs[feature]
        self._fitted.accept(self._removed)

    def _tried(self, groups: list[list[int]], passed: Callable) -> tuple[list[bool], list[float]]:
        """Which of the groups of features may go, and the mean rise of the losses where that is known."""
        verdicts, losses = self._fitted.passes([(*self._removed, *group) for group in groups], passed)
        return verdicts, (losses - self._fitted.now[:, None]).mean(0).tolist()

    def drop_free(self, pending: list[int], ceiling: float = math.inf) -> None:
        """Remove from ``pending``, in this order, what costs nothing, while the mean loss is at most ``ceiling``.

        The next features are screened one by one in a batch; of those that pass, the longest prefix that costs nothing
        together is removed. A feature found to be needed stays needed: removing free ones does not make it cheaper.
        """

        def free(ids: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
            rises = losses - self._fitted.now[:, None]
            at_the_end = self._test.free(rises, self._fitted.now) & (losses.mean(0) <= ceiling)
            return at_the_end & (rises.mean(0) <= self._test.nothing), at_the_end

        screen = SCREEN
        failures = []
        while pending and self._room > 0:
            first, later = pending[:screen], pending[screen:]
            verdicts, rises = self._tried([[feature] for feature in first], free)
            survivors = [feature for feature, passed in zip(first, verdicts, strict=True) if passed]
            self.costs |= {f: rise for f, passed, rise in zip(first, verdicts, rises, strict=True) if not passed}
            screen = 2 * screen if 2 * len(survivors) < len(first) else max(SCREEN, screen // 2)
            pending = survivors + later
            if survivors:
                blocks = [pending[:size] for size in halvings(min(len(pending), self._room))]
                blocks = [
                    block for block in blocks if not any(needed <= {*self._removed, *block} for needed in failures)
                ]
                passed = self._tried(blocks, free)[0]
                failures += [
                    {*self._removed, *block} for block, passes in zip(blocks, passed, strict=True) if not passes
                ]
                size = max([len(block) for block, passes in zip(blocks, passed, strict=True) if passes], default=1)
                self._remove(pending[:size])
                pending = pending[size:]

    def spend(self, ceiling: float) -> None:
        """Remove the cheapest, one after the other, while the mean loss stays at or below ``ceiling``.

        A cost is measured again only when the feature is among the cheapest, because the removal of others, free ones
        included, makes a feature worth more (Minoux's lazy greedy algorithm, 1978). A block is removed at once if
        together it costs no more than the sum of its costs.
        """
        place = {feature: k for k, feature in enumerate(self.costs)}
        fresh = set()

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
            sizes = [*halvings(len(totals)), 1]
            limits = [now + totals[size - 1] + self._test.nothing for size in sizes]
            passed, rises = self._tried([queue[:size] for size in sizes], cheap(limits))
            rise = {size: rise for size, passes, rise in zip(sizes, passed, rises, strict=True) if passes}
            size, left = max(rise, default=0), ceiling - now
            if size and max(totals[size - 1], rise[size]) > left:  # as much of the block as the budget allows
                sizes = [size for size in range(1, size + 1) if totals[size - 1] <= left]
                sizes = [*halvings(len(sizes)), *sizes[:1]]
                passed, _ = self._tried([queue[:size] for size in sizes], cheap([ceiling] * len(sizes)))
                size = max([size for size, passes in zip(sizes, passed, strict=True) if passes], default=0)
            if not size:
                return
            self._remove(queue[:size])
            fresh = set()


def halvings(size: int) -> list[int]:
    """size, size / 2, ... down to 2."""
    return [] if size < 2 else [size, *halvings(size // 2)]
