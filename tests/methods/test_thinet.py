"""ThiNet: samples against the layers' outputs, the greedy choice against brute force, least squares against numpy, and
what a study says of its network just pruned."""

import copy
import itertools
import math
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn

import chain_reference
import evaluate
import evaluate_dense
import measure_information
import prepare_data
import pretrain
import prune_iteration
import reference_flow
from example_networks import slim
from prunus import channels, networks
from prunus import masks as masking
from prunus.channels.groups import Group, Slice
from prunus.channels.readings import Readings, capture
from prunus.data.dataset import Dataset, Split
from prunus.data.dataset import load as load_dataset
from prunus.evaluation import preservation
from prunus.evaluation.layers import layer_table
from prunus.evaluation.macs import multiply_accumulates
from prunus.methods.thinet import Settings, least_missed, prune, recipe, sampler, scales
from prunus.networks import checkpoint
from prunus.pruning.candidates import Candidates
from prunus.run import seeds
from prunus.study import layout
from prunus.training.accuracy import accuracy

SETTINGS = Settings(fraction=0.4, scope="layer", rewind="none", epochs=1, images_per_class=3, locations=5)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def samples_of(layer, read, index, locations=7):
    return capture(layer, read, {"": sampler(layer, index, locations, generator())}, batch_size=3)[""]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, 3, padding=1), (4, 5, 7)),
        (nn.Conv2d(4, 6, 3, stride=2, padding=2, bias=False), (4, 7, 6)),
        (nn.Conv2d(4, 6, (1, 3), padding=(0, 2), dilation=2), (4, 7, 6)),
        (nn.Conv2d(4, 6, 1, stride=2), (4, 5, 5)),
        (nn.Linear(4, 6), (4,)),
        (nn.Linear(12, 6), (12,)),
        (nn.Linear(8, 6), (9, 8)),
    ],
)
def test_the_contributions_add_up_to_the_output_less_the_bias(layer, shape):
    width = layer.weight.shape[1]
    index = torch.arange(width).view(4, -1)
    nn.init.normal_(layer.weight)
    if layer.bias is not None:
        nn.init.constant_(layer.bias, 0.75)
    contributions, outputs = samples_of(layer, torch.randn(5, *shape), index)
    assert contributions.shape == (35, 4)
    bias = 0 if layer.bias is None else 0.75
    torch.testing.assert_close(contributions.sum(1), outputs - bias, atol=1e-5, rtol=1e-5)
    assert len(outputs.unique()) > 15  # other units, places and images


def test_a_contribution_is_what_the_output_is_without_the_other_channels():
    layer = nn.Conv2d(4, 3, 3, padding=1, bias=False)
    read = torch.randn(6, 4, 5, 5)
    contributions, _ = samples_of(layer, read, torch.arange(4)[:, None])
    alone = torch.zeros_like(read)
    alone[:, 2] = read[:, 2]
    torch.testing.assert_close(contributions[:, 2], samples_of(layer, alone, torch.arange(4)[:, None])[1])


def missed(samples, removed):
    return samples[:, list(removed)].sum(1).square().sum()


@pytest.mark.parametrize("seed", range(8))
def test_every_choice_is_the_explicit_minimum(seed):
    samples = torch.randn(30, 9, dtype=torch.float64, generator=generator(seed))
    removed = least_missed(samples.T @ samples, 6).tolist()
    for step, chosen in enumerate(removed):
        options = [c for c in range(9) if c not in removed[:step]]
        assert chosen == min(options, key=lambda c: missed(samples, [*removed[:step], c]))


def test_finds_the_best_subset_where_greed_can_reach_it():
    """Two channels cancel each other and a third is weak: the weak one, then the pair, is the best that can go."""
    samples = torch.randn(40, 6, dtype=torch.float64)
    samples[:, 3] = 0.01 * samples[:, 3]
    samples[:, 1] *= 0.5
    samples[:, 4] = 0.001 * samples[:, 0] - samples[:, 1]
    removed = set(least_missed(samples.T @ samples, 3).tolist())
    best = min(itertools.combinations(range(6), 3), key=lambda subset: missed(samples, subset))
    assert removed == set(best) == {1, 3, 4}


@pytest.mark.parametrize("seed", range(5))
def test_the_scales_are_least_squares(seed):
    samples = torch.randn(50, 8, dtype=torch.float64, generator=generator(seed)) + 0.5
    kept = torch.tensor([True, False, True, True, False, True, True, False])
    factors = scales(samples.T @ samples, kept)
    expected, *_ = np.linalg.lstsq(samples[:, kept].numpy(), samples.sum(1).numpy(), rcond=None)
    torch.testing.assert_close(factors[kept], torch.from_numpy(expected))
    assert (factors[~kept] == 0).all()
    error = lambda weights: (samples.sum(1) - samples @ weights).norm()  # noqa: E731
    assert error(factors) < error(kept.double())


def test_scales_that_the_samples_leave_open_stay_at_one():
    samples = torch.randn(50, 5, dtype=torch.float64)
    samples[:, 1] = 0
    samples[:, 4] = samples[:, 3]
    factors = scales(samples.T @ samples, torch.tensor([False, True, False, True, True]))
    assert factors[1] == pytest.approx(1)
    assert factors[3] == pytest.approx(factors[4])


def put(network, pruned):
    """Make of ``network``, in place, what a method pruned it to, as the stage does."""
    network.load_state_dict(pruned.weights, strict=False)
    masking.apply(network, pruned.masks)
    return pruned.masks


def hand_made(size, part):
    """A group that one conv writes and one layer reads."""
    rows = torch.arange(size)[:, None]
    return Group("0", size, (Slice("0.weight", 0, rows), Slice("0.bias", 0, rows), part))


def test_without_two_of_three_equal_channels_the_outputs_are_the_same():
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3, stride=2, padding=1),
        nn.Flatten(),
        nn.Linear(80, 3),
    )
    with torch.no_grad():
        for copied, original in ((4, 1), (5, 1)):
            network[0].weight[copied] = network[0].weight[original]
            network[0].bias[copied] = network[0].bias[original]
            network[2].weight[:, copied] = network[2].weight[:, original]
        network[2].weight[:, [0, 2, 3]] *= 10  # so that the equal ones go first
    images = torch.randn(12, 1, 8, 8)
    before = network(images).detach()
    group = hand_made(6, Slice("2.weight", 1, torch.arange(6)[:, None]))
    settings = SETTINGS.model_copy(update={"fraction": 0.34})
    masks = put(network, prune(network, [group], masking.ones(network), images, settings, 0))
    assert masks["0.weight"].flatten(1).any(1).sum() == 4
    torch.testing.assert_close(network(images).detach(), before, atol=1e-5, rtol=1e-5)
    assert (network[2].weight[~masks["2.weight"]] == 0).all()


def dataset():
    split = Split(torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8), torch.arange(60) % 3)
    return Dataset({"train": split}, torch.tensor([0.5]), torch.tensor([0.25]), ("a", "b", "c"))


def candidates_of(network, masks=None):
    return Candidates(network, masks or masking.ones(network), 1, dataset(), 0, lambda point: network.state_dict())


@pytest.mark.parametrize("name", ["mlp", "lenet5", "vgg11_bn", "resnet18", "vit"])
def test_every_group_loses_its_share_twice_and_only_readers_are_rescaled(name):
    network = slim(name, 1, 8, 3)
    candidates = candidates_of(network)
    for t in (1, 2):
        candidates = replace(candidates, iteration=t)
        before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
        new = put(network, recipe(SETTINGS).prune(candidates))
        sizes = [math.ceil(group.size * 0.6**t) for group in candidates.groups]
        alive = channels.alive(candidates.groups, new)
        assert [int(alive[group.name].sum()) for group in candidates.groups] == sizes
        assert all(not (new[key] & ~candidates.masks[key]).any() for key in new)
        rescaled = 0
        readers = {part.parameter for group in candidates.groups for part in group.reads}
        for key, tensor in network.state_dict().items():
            if key in readers:
                scaled = tensor[new[key]] / before[key][new[key]]
                assert scaled.isfinite().all()
                rescaled += bool((scaled != 1).any())
            else:
                kept = new.get(key, torch.ones_like(tensor, dtype=torch.bool))
                assert torch.equal(tensor[kept], before[key][kept])
        assert rescaled > len(readers) / 2  # the others lose channels that are silent on the sample
        candidates = candidates.at(new)


def test_statistics_are_those_of_the_network_as_pruned_so_far():
    """The second group's choice changes with what became of the first."""
    network = networks.build("lenet5", 1, 8, 3)
    images = torch.randn(20, 1, 8, 8)
    groups = candidates_of(network).groups
    later = groups[1]
    alone, after = copy.deepcopy(network), copy.deepcopy(network)
    put(alone, prune(alone, [later], masking.ones(network), images, SETTINGS, 0))
    first = put(after, prune(after, groups[:1], masking.ones(network), images, SETTINGS, 0))
    stepwise = put(after, prune(after, [later], first, images, SETTINGS, 0))
    assert not torch.equal(alone.fc1.weight, after.fc1.weight)
    assert masking.alive_count(stepwise) < masking.alive_count(first)


def test_of_silent_channels_the_smallest_go_first():
    """Wherever they lie in memory: three of six never fire and are missed alike, two of them have to go."""
    for order in ([0, 1, 2, 3, 4, 5], [5, 1, 4, 2, 0, 3]):
        network = networks.build("mlp", 1, 8, 3)
        with torch.no_grad():
            network.hidden1.weight.abs_()
            for place, size in enumerate(order):
                network.hidden1.weight[place] *= 1 + size
                network.hidden1.bias[place] = -1e4 if size < 3 else 10.0
        group = next(g for g in candidates_of(network).groups if g.name == "hidden1")
        only = masking.ones(network)
        only["hidden2.weight"][:, 6:] = False
        settings = SETTINGS.model_copy(update={"fraction": 1 - 4 / group.size})
        masks = prune(network, [group], only, torch.rand(40, 1, 8, 8), settings, 0).masks
        alive = channels.alive([group], masks)["hidden1"]
        assert {order[place] for place in alive.nonzero().flatten().tolist()} == {2, 3, 4, 5}


def test_the_same_seed_prunes_the_same():
    network = networks.build("lenet5", 1, 8, 3)
    torch.manual_seed(3)
    first, second = candidates_of(copy.deepcopy(network)), candidates_of(copy.deepcopy(network))
    second = Candidates(second.network, second.masks, 1, first.dataset, 0, second.states)
    one, two = recipe(SETTINGS).prune(first), recipe(SETTINGS).prune(second)
    assert all(torch.equal(one.masks[key], two.masks[key]) for key in one.masks)
    assert one.weights.keys() == two.weights.keys() and "fc1.weight" in one.weights
    assert all(torch.equal(one.weights[key], two.weights[key]) for key in one.weights)


def test_the_last_channel_stays():
    network = networks.build("lenet5", 1, 8, 3)
    candidates = candidates_of(network)
    for t in range(1, 9):
        candidates = replace(candidates, iteration=t)
        pruned = recipe(SETTINGS.model_copy(update={"fraction": 0.9})).prune(candidates)
        candidates = candidates.at(put(network, pruned))
    alive = channels.alive(candidates.groups, candidates.masks)
    assert all(mask.any() for mask in alive.values())
    assert not masking.collapsed(candidates.masks)


def test_rewinding_would_undo_the_rescaling():
    with pytest.raises(ValidationError, match="rewind"):
        Settings(**SETTINGS.model_dump() | {"rewind": "trained"})


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two iterations of ThiNet and of IMP on digits, evaluated; half of the channels go each time."""
    root = tmp_path_factory.mktemp("thinet")
    content = yaml.safe_load((layout.ROOT / layout.PARAMS).read_text())
    content["study"] |= {"network": "lenet5", "iterations": content["study"]["iterations"][:2]}
    content["training"]["epochs"], content["device"]["accelerator"] = 8, "cpu"
    content["information"] |= {"samples": 512, "repeats": 2, "cells": 1}
    content["methods"]["thinet"] |= {"fraction": 0.5, "epochs": 1}
    content["methods"]["imp_channels"] |= {"fraction": 0.5, "epochs": 1}
    (root / layout.PARAMS).write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(layout, "ROOT", root)

        def run(script, *arguments):
            patch.setattr(sys, "argv", [script.__name__, *map(str, arguments)])
            script.main()

        run(prepare_data)
        run(pretrain, "--seed", 0)
        run(reference_flow, "--seed", 0)
        run(evaluate_dense, "--seed", 0)
        for method in ("thinet", "imp_channels"):
            run(chain_reference, "--seed", 0, "--method", method)
            for t in (1, 2):
                run(prune_iteration, "--seed", 0, "--method", method, "--iteration", t)
            run(evaluate, "--seed", 0, "--method", method)
        run(measure_information, "--seed", 0, "--method", "thinet")
        yield root


def before_and_after(t):
    """The network that iteration ``t`` of the study's ThiNet starts from, as it prunes it, and as masks alone would."""
    data = load_dataset(layout.DATASET, torch.device("cpu"), splits=("train", "test"))
    before = networks.build("lenet5", *data.form)
    alive = checkpoint.load_into(before, layout.iteration(0, "thinet", t - 1) / layout.NETWORK, torch.device("cpu"), "")
    settings = Settings(**yaml.safe_load(layout.PARAMS.read_text())["methods"]["thinet"])
    scaled, masked = copy.deepcopy(before), copy.deepcopy(before)
    seed = seeds.derive_seed(0, "thinet", "selection")
    kept = put(scaled, recipe(settings).prune(Candidates(scaled, alive, t, data, seed, lambda point: {})))
    masking.apply(masked, kept)
    return data, before, scaled, masked, kept


def evaluated(table, method="thinet"):
    return pd.read_csv(layout.evaluation(0, method) / f"{table}.csv")


def test_just_pruned_is_the_rescaled_network_and_rescaling_helps(study):
    for t in (1, 2):
        data, _, scaled, masked, kept = before_and_after(t)
        found = evaluated("iterations").set_index("iteration").loc[t]
        assert found.pruned_test_accuracy == accuracy(scaled, data, "test") > accuracy(masked, data, "test") + 0.05
        layers = evaluated("layers")
        macs = multiply_accumulates(scaled, data.shape, kept)
        ours, others = ([row["pq_index"] for row in layer_table(net, kept, macs)] for net in (scaled, masked))
        assert layers[layers.iteration == t].pruned_pq_index.tolist() == pytest.approx(ours)
        assert others != pytest.approx(ours)


def test_information_just_pruned_is_that_of_the_rescaled_network(study):
    data, before, scaled, masked, kept = before_and_after(1)
    seed = seeds.derive_seed(0, "information")
    images = data.normalise(data.sample("train", 512, seed).images)
    groups = channels.groups(before, data.shape)
    everything = channels.alive(groups, masking.ones(before))

    def shares(pruned):
        networks = [Readings(network.eval(), groups, images, 1) for network in (before, pruned)]
        after = networks[1], channels.alive(groups, kept)
        options = {"predictor": "linear", "repeats": 2, "seed": seed}
        rows = preservation.step(groups, (networks[0], everything), networks[1], after, **options)
        return [row["mean"] for row in rows if row["quantity"] == "pruned"]

    found = evaluated("information")
    found = found[(found.iteration == 1) & (found.quantity == "pruned")]["mean"].tolist()
    assert found == pytest.approx(shares(scaled)) and found != pytest.approx(shares(masked), abs=1e-4)


def test_of_a_method_that_changes_no_weight_nothing_is_kept(study):
    assert load_file(layout.iteration(0, "imp_channels", 1) / layout.PRUNED) == {}
    assert set(load_file(layout.iteration(0, "thinet", 1) / layout.PRUNED)) == {
        part.parameter for group in candidates_of(networks.build("lenet5", 1, 8, 10)).groups for part in group.reads
    }
