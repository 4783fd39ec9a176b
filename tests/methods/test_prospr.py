"""ProsPr against finite differences through training steps by torch's optimiser."""

import copy

import pytest
import torch
import torch.nn.functional as F

from prunus import masks as masking
from prunus import methods
from prunus.methods import iter_snip, prospr
from scoring import (
    BATCH,
    LABELS,
    candidates,
    compare_some,
    dataset,
    mean_loss,
    prune_of,
    random_masks,
    settings,
    slope,
    unit,
)


def after_training(network, factors, masks, batches, rate):
    """The loss on the last batch after plain SGD on the others, with torch's optimiser; masked weights stay at zero."""
    replica = copy.deepcopy(network)
    for name, weight in masking.prunable(replica).items():
        weight.data.mul_(factors[name])
    optimiser = torch.optim.SGD(replica.parameters(), lr=rate)
    for images, labels in batches[:-1]:
        optimiser.zero_grad()
        F.cross_entropy(replica(images), labels).backward()
        for name, weight in masking.prunable(replica).items():
            weight.grad.mul_(masks[name])
        optimiser.step()
    return mean_loss(replica, *batches[-1])


def batches(n):
    return [(BATCH.roll(3 * i, 0)[:6] + 0.1 * i, LABELS.roll(3 * i)[:6]) for i in range(n)]


def test_prospr_without_inner_steps_is_snip(network):
    masks = random_masks(network)
    masking.apply(network, masks)
    scores = prospr.meta_gradients(network, masks, [(BATCH, LABELS)], 0.1)
    for name, expected in iter_snip.sensitivity(network, BATCH, LABELS).items():
        torch.testing.assert_close(scores[name].abs(), expected)


@pytest.mark.parametrize("inner", [1, 2])
def test_prospr_is_the_slope_through_the_training_steps(network, inner):
    masks = random_masks(network)
    masking.apply(network, masks)
    sample = batches(inner + 1)
    scores = prospr.meta_gradients(copy.deepcopy(network), masks, sample, 0.5)
    factors = {name: torch.ones_like(weight) for name, weight in masking.prunable(network).items()}

    def expected(name, weight, entry):
        loss = lambda: after_training(network, factors, masks, sample, 0.5)  # noqa: E731
        return slope(loss, factors[name], unit(weight, entry))

    compare_some(scores, expected, network)
    snip = prospr.meta_gradients(network, masks, sample[-1:], 0.5)
    assert any((scores[name] - snip[name]).abs().max() > 1e-3 for name in scores), "the inner steps changed nothing"


def test_prospr_of_a_channel_is_the_slope_of_one_factor_on_its_incoming_weights(network):
    sample = candidates(network)
    chosen = settings("prospr", structure="channel")
    scores = methods.recipe("prospr", chosen).prune.score(sample)
    images, labels = sample.sample(18)
    parts = [(images[start : start + 6], labels[start : start + 6]) for start in (0, 6, 12)]
    reference = sample.networks("initial").train()
    factors = {name: torch.ones_like(weight) for name, weight in masking.prunable(network).items()}
    assert {name: len(score) for name, score in scores.items()} == {"0": 4, "5": 8}
    for name, score in scores.items():
        for channel, value in enumerate(score):
            rows = torch.zeros_like(factors[f"{name}.weight"])
            rows[channel] = 1
            loss = lambda: after_training(reference, factors, sample.masks, parts, 0.1)  # noqa: E731
            assert float(value) == pytest.approx(abs(slope(loss, factors[f"{name}.weight"], rows)), rel=1e-4, abs=1e-9)


def test_prospr_takes_all_its_steps_on_a_small_dataset(network, monkeypatch):
    taken = []
    original = prospr.meta_gradients
    monkeypatch.setattr(
        prospr,
        "meta_gradients",
        lambda network, masks, batches, rate: taken.extend(batches) or original(network, masks, batches, rate),
    )
    prune_of("prospr", samples=100).score(candidates(network, dataset(24)))
    assert [len(labels) for _, labels in taken] == [8, 8, 8]
