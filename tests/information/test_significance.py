"""Student's t for held-out losses whose splits overlap, by hand."""

import pytest
import torch
from scipy import stats

from prunus.information.significance import RiseTest, half_width, student


@pytest.mark.parametrize(("freedom", "level"), [(1, 0.9), (4, 0.95), (4, 0.5), (30, 0.05)])
def test_the_quantile_is_students(freedom, level):
    assert student(freedom, level) == pytest.approx(stats.t.ppf(level, freedom), abs=1e-12)


def test_the_interval_is_that_of_the_mean():
    losses = torch.tensor([[1.0], [2.0], [4.0], [5.0]], dtype=torch.float64)
    low, high = stats.t.interval(0.9, 3, loc=3.0, scale=stats.sem([1, 2, 4, 5]))
    assert (high - low) / 2 == pytest.approx(float(half_width(losses, 0.9)))


def test_overlapping_splits_widen_the_bound_as_nadeau_and_bengio_say():
    rises = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)  # mean 2, variance 1
    assert float(RiseTest(2.0, 0.5, 0.0).lower(rises)) == pytest.approx(2 - 2 * (1 / 3 + 0.5) ** 0.5)
    assert float(RiseTest(2.0, 0.0, 0.0).lower(rises)) == pytest.approx(2 - 2 * (1 / 3) ** 0.5)


def test_a_rise_is_nothing_up_to_the_floor_or_to_what_chance_makes():
    rises = torch.tensor([[0.1, 0.3], [0.1, 0.3]], dtype=torch.float64)  # without spread: the bound is the mean
    now = torch.tensor([1.0, 3.0], dtype=torch.float64)
    assert RiseTest(1.0, 0.5, 0.2).free(rises, now).tolist() == [True, False]
    assert RiseTest(1.0, 0.5, 0.2, torch.tensor([0.0, 0.2])).free(rises, now).tolist() == [True, True]
