"""Elimination in blocks ends where one by one ends, with fewer trainings."""

import pytest
import torch

from features import draw
from prunus.information.elimination import by_blocks
from prunus.information.significance import RiseTest


class Cover:
    """Stands for a predictor: the loss is what no remaining feature covers, monotone by construction."""

    def __init__(self, covers, weights=None):
        self.covers, self.asked = covers, 0
        self.weights = torch.ones(covers.shape[1]) if weights is None else weights
        self.full = self.now = self.losses(())
        self.constant = self.weights.sum().expand(2)

    def losses(self, removed):
        left = self.covers[[i for i in range(len(self.covers)) if i not in removed]]
        return self.weights[~left.any(0)].sum().expand(2)

    def passes(self, removals, passed):
        if not removals:
            return [], torch.zeros(2, 0)
        self.asked += len(removals)
        losses = torch.stack([self.losses(removal) for removal in removals], 1)
        return passed(torch.arange(len(removals)), losses)[1].tolist(), losses

    def accept(self, removal):
        self.now = self.losses(removal)


def one_by_one(cover, visits, budget, keep_at_least):
    """The rule as it is written down: what is free goes in turn, then the cheapest while the budget lasts."""
    removed, start = [], None
    while len(visits) - len(removed) > keep_at_least:
        left = [i for i in visits if i not in removed]
        now = float(cover.losses(removed)[0])
        costs = {i: float(cover.losses([*removed, i])[0]) - now for i in left}
        free = [i for i in left if costs[i] <= 0]
        if free:
            removed.append(free[0])
            continue
        start = now if start is None else start
        cheapest = min(left, key=lambda i: (costs[i], visits.index(i)))
        if now + costs[cheapest] > start + budget:
            break
        removed.append(cheapest)
    return sorted(set(visits) - set(removed))


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("keep_at_least", [0, 9])
def test_blocks_end_where_one_by_one_ends(seed, keep_at_least):
    count = 40
    cover = Cover(torch.rand(count, 30, generator=draw(seed)) < (0.02, 0.1, 0.3)[seed % 3])
    visits = torch.randperm(count, generator=draw(seed)).tolist()
    test = RiseTest(2.0, 1 / 3, 0.0)
    expected = one_by_one(cover, visits, 0.0, keep_at_least)
    assert by_blocks(cover, visits, test, 0.0, keep_at_least) == expected


@pytest.mark.parametrize("seed", range(10))
def test_a_budget_takes_the_cheapest_first_and_is_not_exceeded(seed):
    """Each feature covers something of its own, so that costs do not change, and most stand twice."""
    own = torch.eye(40, dtype=torch.bool)
    cover = Cover(torch.cat([own, own[:25]]), torch.rand(40, generator=draw(seed)))
    visits, test = torch.randperm(65, generator=draw(seed)).tolist(), RiseTest(2.0, 1 / 3, 0.0)
    sizes = []
    for budget in (0.0, 0.3, 2.0, 8.0, 100.0):
        kept = by_blocks(cover, visits, test, budget / float(cover.constant.mean()), 1)
        assert kept == one_by_one(cover, visits, budget, 1)
        assert float(cover.losses(set(range(65)) - set(kept))[0]) <= budget
        assert not {i for i in kept if i < 25} & {i - 40 for i in kept if i >= 40}
        sizes.append(len(kept))
        cover.accept(())
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == 40 and sizes[-1] == 1


def test_blocks_need_few_tests_where_much_goes():
    cover, test = Cover(torch.eye(200, dtype=torch.bool)[:, :3]), RiseTest(2.0, 1 / 3, 0.0)
    assert by_blocks(cover, list(range(200))[::-1], test, 0.0, 0) == [0, 1, 2]
    assert cover.asked < 100  # one by one: 200
