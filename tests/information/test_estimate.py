"""Predictive information where it is known, and the options that are refused."""

import math

import numpy as np
import pytest
import torch

from features import BOTH, bits, draw, normal
from prunus.information.elimination import terc
from prunus.information.estimate import predictive_information

X, Y = torch.zeros(40, 3) + torch.arange(40.0)[:, None], torch.arange(40.0)


@pytest.mark.parametrize("predictor", BOTH)
def test_linear_gaussian_information_is_the_explained_variance(predictor):
    mixing = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, -1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    x = normal(8000, 3, 0)
    estimate = predictive_information(x, x @ mixing + 5 + normal(8000, 3, 1), predictor=predictor)
    exact = float(mixing.square().sum())  # Var(E[Y_j | X]) = sum_i a_ij^2
    assert estimate.mean == pytest.approx(exact, rel=0.04)
    assert estimate.low < estimate.mean < estimate.high
    assert estimate.high - estimate.low < 0.2 * exact


def test_the_share_is_one_where_all_is_explained_and_none_where_nothing_is():
    x = normal(400, 3, 0)
    whole = predictive_information(x, x @ normal(3, 2, 1), predictor="linear", share=True)
    assert (whole.low, whole.mean, whole.high) == pytest.approx((1, 1, 1), abs=1e-9)
    half = predictive_information(normal(8000, 2, 2)[:, :1], normal(8000, 2, 2), predictor="linear", share=True)
    assert half.mean == pytest.approx(0.5, abs=0.03)
    rare = torch.zeros(400, 1)
    rare[0] = 1  # the held-out images of some splits are all alike
    assert predictive_information(x, rare, predictor="linear", share=True).mean == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("predictor", BOTH)
def test_without_an_irrelevant_input_the_loss_returns_to_the_baseline(predictor):
    x = normal(4000, 3, 0)
    target = x[:, :2] @ normal(2, 2, 1) + 0.5 * normal(4000, 2, 2)
    whole, relevant, half, nothing = (
        predictive_information(x[:, columns], target, predictor=predictor).mean
        for columns in ([0, 1, 2], [0, 1], [0], [2])
    )
    assert relevant == pytest.approx(whole, rel=0.01)
    assert half < 0.9 * whole
    assert abs(nothing) < 0.02 * whole


@pytest.mark.parametrize("seed", range(3))
def test_discrete_information_in_nats(seed):
    joint = np.array([[0.30, 0.02, 0.08], [0.05, 0.25, 0.05], [0.01, 0.04, 0.20]])
    exact = float((joint * np.log(joint / joint.sum(1, keepdims=True) / joint.sum(0))).sum())
    drawn = np.random.default_rng(seed).choice(9, 8000, p=joint.ravel())
    codes = np.eye(3)[drawn // 3]
    estimate = predictive_information(codes, drawn % 3, seed=seed)
    assert estimate.mean == pytest.approx(exact, abs=0.03)
    both = predictive_information(codes, np.stack([drawn % 3, drawn % 3], 1), seed=seed)
    assert both.mean == pytest.approx(2 * exact, abs=0.06)


def test_linear_information_about_classes_is_that_of_the_one_hot_code():
    x = bits(8000, 1, 0)
    flipped = torch.rand(8000, generator=draw(1)) < 0.1
    target = x[:, 0].bool() ^ flipped
    estimate = predictive_information(x, target, predictor="linear")
    assert estimate.mean == pytest.approx(2 * 0.4**2, rel=0.05)  # E[Y | X] is 0.1 or 0.9, for both classes


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((X, Y[:-1]), {}, "features: 40 samples .* target: 39"),
        ((X[None], Y), {}, r"features: .* got \(1, 40, 3\)"),
        ((X, Y[None, :, None]), {}, "target: .* shape"),
        ((X[:, :0], Y), {}, "features: .* shape"),
        (([], Y), {}, "features: none"),
        (([X, X[:-1]], Y), {}, "39 samples"),
        ((X * math.nan, Y), {}, "features: holds NaN"),
        ((X, Y / 0), {}, "target: holds NaN or inf"),
        ((X[:19], Y[:19]), {}, "too few samples: 19"),
        ((X, Y.long()), {}, "40 classes in 40 samples"),
        ((torch.rand(40, 30), Y), {"predictor": "linear"}, "too few samples: 30 to fit"),
        ((X, Y), {"predictor": "forest"}, "predictor: 'forest'; allowed: linear, mlp"),
        ((X, Y), {"confidence": 1.0}, "confidence"),
        ((X, Y), {"repeats": 1}, "repeats"),
    ],
)
def test_bad_input_is_refused(arguments, options, message):
    for function in (terc, predictive_information):
        with pytest.raises(ValueError, match=message):
            function(*arguments, **options)
