"""The closed form of the linear predictor against refits, and the test of irrelevant columns it carries."""

import pytest
import torch

from features import data_of, normal, refitted
from prunus.information import linear
from prunus.information.elimination import terc


@pytest.mark.parametrize("targets", [1, 4])
def test_irrelevant_columns_are_kept_by_chance_no_more_often_than_confidence_says(targets):
    """At 0.95 in one run of twenty at most a column of noise, however many there are."""
    runs = [terc(normal(500, 25, 2 * s), normal(500, targets, 2 * s + 1), predictor="linear") for s in range(100, 160)]
    assert sum(bool(kept) for kept in runs) <= 6


@pytest.mark.parametrize("panel", [1, 3, 32])
def test_costs_equal_refits(panel, monkeypatch):
    """Of features of unequal width, before and after removals that are carried over one by one or many at a time."""
    monkeypatch.setattr(linear, "PANEL", panel)
    base = normal(300, 7, 0)
    mixed = base @ normal(7, 12, 1) + 0.3 * normal(300, 12, 2)
    groups = [mixed[:, :1], mixed[:, 1:4], mixed[:, 4:5], mixed[:, 5:7], mixed[:, 7:9], mixed[:, 9:]]
    data = data_of(groups, mixed @ normal(12, 5, 3) + normal(300, 5, 4), repeats=3)
    fitted = linear.Linear(data, 0)
    left = list(range(6))

    def columns(features):
        return [column for i in features for column in data.columns[i].tolist()]

    assert torch.allclose(fitted.constant, refitted(data, []), rtol=1e-9)
    single = torch.stack([(refitted(data, []) - refitted(data, columns([i]))).mean() for i in left])
    assert torch.allclose(fitted.single(), single, rtol=1e-6)
    for removed in (3, 0, 1, 5, 2, 4):
        assert torch.allclose(fitted.now, refitted(data, columns(left)), rtol=1e-6)
        for i in left:
            expected = refitted(data, columns(set(left) - {i}))
            assert torch.allclose(fitted.now + fitted.costs()[:, i], expected, rtol=1e-6)
        fitted.remove(removed)
        left.remove(removed)
    assert torch.allclose(fitted.now, fitted.constant)
    assert torch.allclose(fitted.full, refitted(data, columns(range(6))), rtol=1e-6)


def test_a_part_of_a_fit_is_the_fit_of_the_part():
    x, target = normal(600, 6, 50), normal(600, 5, 51)
    target[:, :3] += x[:, :3]
    whole = linear.Linear(data_of(list(x.split([1, 2, 1, 2], 1)), target), 0)
    for features, columns in ([0, 2, 3], [0, 3, 4, 5]), ([0, 1, 2, 3], range(6)):
        part = whole.part(features, slice(1, 4))
        widths = [len(whole.columns[feature]) for feature in features]
        alone = linear.Linear(data_of(list(x[:, list(columns)].split(widths, 1)), target[:, 1:4]), 0)
        for left in range(len(features)):
            for i in range(left, len(features)):
                assert part.costs()[:, i].tolist() == pytest.approx(alone.costs()[:, i].tolist(), rel=1e-6, abs=1e-9)
            part.remove(left)
            alone.remove(left)
        for name in ("constant", "full"):
            assert getattr(part, name).tolist() == pytest.approx(getattr(alone, name).tolist(), rel=1e-9)
        assert part.single().tolist() == pytest.approx(alone.single().tolist(), rel=1e-9, abs=1e-12)
    whole.remove(0)
    assert whole.full.isfinite().all()
