"""What the scores by gradients share: sensitivity, schedule, what they see and leave alone."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from example_networks import slim
from prunus import channels
from prunus import masks as masking
from prunus.data.dataset import Dataset
from prunus.methods import iter_snip
from scoring import (
    BATCH,
    ITERATIVE,
    LABELS,
    SETTINGS,
    candidates,
    compare_some,
    dataset,
    mean_loss,
    prune_of,
    random_masks,
    slope,
    unit,
)


@pytest.mark.parametrize("training", [True, False])
def test_sensitivity_is_the_weight_times_the_slope_of_the_loss(network, training):
    network.train(training)
    scores = iter_snip.sensitivity(network, BATCH, LABELS)

    def expected(_, weight, entry):
        return abs(
            float(weight.detach().flatten()[entry]) * slope(lambda: mean_loss(network), weight, unit(weight, entry))
        )

    compare_some(scores, expected, network)


def perturbed(network):
    other = copy.deepcopy(network)
    for parameter in other.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    return other


@pytest.mark.parametrize("structure", ["weight", "channel"])
@pytest.mark.parametrize("name", ITERATIVE)
def test_the_density_falls_exponentially_to_the_exact_count_and_masks_are_nested(name, structure, network):
    sample = candidates(network)
    of = lambda masks: channels.alive(sample.groups, masks) if structure == "channel" else masks  # noqa: E731
    chosen = prune_of(name, structure=structure, steps=4)
    before = sum(mask.numel() for mask in of(sample.masks).values())
    seen = []
    masks = sample.masks
    for t in (1, 2):
        spied = replace(chosen, score=lambda given: seen.append(given.masks) or chosen.score(given), looks_at="current")
        masks = spied(replace(sample.at(masks), iteration=t))
    seen.append(masks)
    counts = [masking.alive_count(of(step)) for step in seen]
    middle = before - math.floor(0.3 * before)
    assert counts[0] == before
    assert counts[4] == middle
    assert counts[8] == math.ceil(0.49 * before)
    # one long schedule: the same factor from step to step, but for rounding
    assert counts == pytest.approx([before * 0.7 ** (step / 4) for step in range(9)], abs=1.5)
    for earlier, later in zip(seen, seen[1:], strict=False):
        for key, mask in later.items():
            assert not (mask & ~earlier[key]).any()


@pytest.mark.parametrize("name", SETTINGS)
def test_scores_are_repeatable_and_detached_and_leave_the_network_alone(name, network):
    """Dropout, which ImageNet's VGG has, must not make them random."""
    network = nn.Sequential(*network[:-1], nn.Dropout(0.5), network[-1]).train()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    sample = candidates(network)
    first, second = prune_of(name).score(sample), prune_of(name).score(sample)
    for key, score in first.items():
        assert not score.requires_grad and score.isfinite().all()
        assert torch.equal(score, second[key])
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[key])
    assert network.training and all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("name", SETTINGS)
def test_scores_see_the_network_at_initialisation_or_as_retrained_last(name, network):
    score = prune_of(name).score
    as_drawn = score(candidates(network))
    retrained = score(candidates(network, current=perturbed(network)))
    same = all(torch.equal(as_drawn[key], retrained[key]) for key in as_drawn)
    assert same == (name in ITERATIVE)


@pytest.mark.parametrize("name", ITERATIVE)
def test_scores_see_the_masks(name, network):
    masks = random_masks(network)
    full, pruned = (prune_of(name).score(candidates(network, masks=masks)) for masks in (None, masks))
    for key, score in pruned.items():
        assert (score[~masks[key]] == 0).all()
        assert not torch.allclose(score[masks[key]], full[key][masks[key]])


def test_batch_norm_uses_the_batch_at_initialisation(network):
    """Statistics as drawn say nothing; with them as they are, scores would depend on them."""
    sample = candidates(network)
    before = prune_of("iter_snip").score(sample)
    sample.states("initial")["1.running_mean"] += 3
    after = prune_of("iter_snip").score(sample)
    for key, score in before.items():
        assert torch.equal(score, after[key])


@pytest.mark.parametrize("name", ["synflow", "iter_snip", "iter_grasp"])
def test_a_channel_scores_the_l1_norm_of_its_incoming_weights(name, network):
    sample = candidates(network)
    weights = {key: score.abs() for key, score in prune_of(name).score(sample).items()}
    per_channel = prune_of(name, structure="channel").score(sample)
    torch.testing.assert_close(per_channel["0"], weights["0.weight"].sum((1, 2, 3)))
    torch.testing.assert_close(per_channel["5"], weights["5.weight"].sum(1))
    assert set(per_channel) == {"0", "5"}


@pytest.mark.parametrize("network_name", ["lenet5", "vgg11_bn", "resnet18", "vit"])
@pytest.mark.parametrize("name", SETTINGS)
def test_every_kind_of_network_can_be_scored(name, network_name):
    if SETTINGS[name].misfit(network_name, 1):
        pytest.skip(SETTINGS[name].misfit(network_name, 1))
    network = slim(network_name, 1, 8, 3)
    data = dataset()
    data = Dataset(data.splits, data.mean.float(), data.std.float(), data.classes)
    sample = candidates(network, data)
    for key, score in prune_of(name).score(sample).items():
        assert score.isfinite().all(), key
        if name in ITERATIVE:
            assert score.shape == sample.masks[key].shape
            assert (score != 0).any(), key
