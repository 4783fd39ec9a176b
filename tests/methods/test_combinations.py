"""Every method on every kind of network: prunes to what was asked, compacts, and can be trained on."""

import pytest
import torch
import torch.nn.functional as F
import yaml

from example_networks import slim
from prunus import channels, methods, networks
from prunus import masks as masking
from prunus.data.dataset import Dataset, Split
from prunus.pruning.candidates import Candidates
from prunus.pruning.recipe import Pruned
from prunus.pruning.scores import SCORES
from prunus.run.device import Clock
from prunus.sparsity import floor_count, gini_index, hoyer_index, prune_count
from prunus.study import checks, layout, mistakes, params
from prunus.study.schema import Sgd
from prunus.training.loop import train
from prunus.training.stopping import FixedEpochs

PROJECT = params.read()
NEVER_EMPTY = tuple(name for name, settings in PROJECT.methods.items() if settings.prunes_channels)
NETWORKS = ("mlp", "lenet5", "vgg11", "resnet18", "vit", "lenet5 at 16")  # at: resized to so many pixels
AT_FULL_SIZE = "imp_channels"  # the method that has the large networks as published, for seconds; the others slim ones
SGD = Sgd(
    batch_size=8,
    learning_rate=1e-3,
    momentum=0.9,
    nesterov=False,
    weight_decay=5e-4,
    schedule="constant",
    clip_norm=0.0,
)
QUICK = {"steps": 2, "samples": 24, "samples_per_class": 2, "epochs": 2, "warmup_epochs": 1, "repeats": 2, "cells": 1}


def random_images(n):
    generator = torch.Generator().manual_seed(0)
    splits = {
        name: Split(torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=generator), torch.arange(n) % 3)
        for name, n in (("train", n), ("validation", 6))
    }
    return Dataset(splits, torch.tensor([0.5]), torch.tensor([0.25]), ("a", "b", "c"))


@pytest.fixture(scope="module")
def dataset():
    return random_images(24)


@pytest.fixture(scope="module")
def large():
    """Enough for the linear predictor to tell 1,024 columns apart."""
    return random_images(1600)


def quick(name, **changes):
    settings = PROJECT.methods[name]
    known = {key: value for key, value in QUICK.items() if key in type(settings).model_fields}
    if name == "mipp":
        known |= {"samples": 1600, "regularisation": [0.1]}
    return settings.model_copy(update=known | changes)


def asked(settings, candidates):
    """Alive weights or channels that the amount leaves of a whole network; None: the method decides."""
    if not hasattr(settings, "fraction"):
        if not hasattr(settings, "p"):
            return None
        values = torch.cat([weight.flatten() for weight in candidates.current.values()])
        if settings.index != "pq":
            share = {"gini": gini_index, "hoyer": hoyer_index}[settings.index](values)
            return values.numel() - floor_count(values.numel(), min(settings.gamma * share, settings.beta))
        return values.numel() - prune_count(values, settings.p, settings.q, settings.eta, settings.gamma, settings.beta)
    sizes = [group.size for group in candidates.groups]
    if not settings.prunes_channels:
        sizes = [mask.numel() for mask in candidates.masks.values()]
    if getattr(settings, "scope", "global") == "global":
        sizes = [sum(sizes)]
    return sum(size - floor_count(size, settings.fraction) for size in sizes)


def case(name, **changes):
    return pytest.param(name, changes, id="-".join([name, *map(str, changes.values())]))


CASES = [case(name) for name in PROJECT.methods] + [
    case(name, structure=other)
    for name in ("synflow", "iter_snip", "iter_grasp", "prospr")
    for other in ("weight", "channel")
    if PROJECT.methods[name].structure != other
]
CASES += [case("lth", score=score) for score in SCORES if score != PROJECT.methods["lth"].score]
CASES += [case("sap", index=index) for index in ("gini", "hoyer")]


@pytest.mark.parametrize("network_name", NETWORKS)
@pytest.mark.parametrize(("name", "changes"), CASES)
def test_prunes_compacts_and_trains(name, changes, network_name, dataset, large):
    settings, (network_name, _, side) = quick(name, **changes), network_name.partition(" at ")
    if settings.misfit(network_name, 1):
        pytest.skip(settings.misfit(network_name, 1))
    if side or name == AT_FULL_SIZE:
        network = networks.build(network_name, *dataset.form, resize=int(side) if side else "native")
    else:
        network = slim(network_name, *dataset.form)
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    seen = large if name == "mipp" else dataset
    sample = dataset.normalise(dataset.splits["train"].images), dataset.splits["train"].labels
    candidates = Candidates(network, masking.ones(network), 1, seen, 0, lambda point: state, sample)
    expected = asked(settings, candidates)
    recipe = methods.recipe(name, settings)
    pruned = Pruned.of(recipe.prune(candidates))
    masks = pruned.masks
    network.load_state_dict(pruned.weights, strict=False)
    sparsifier = recipe.while_training and recipe.while_training(candidates)
    train(
        network, masks, dataset, SGD, "none", FixedEpochs(2), seed=0, clock=Clock(), label=name, sparsifier=sparsifier
    )
    if sparsifier:
        masks = sparsifier.masks()
    masking.apply(network, masks)
    alive = channels.alive(candidates.groups, masks) if settings.prunes_channels else masks
    if expected is None:
        assert masking.alive_count(alive) < sum(mask.numel() for mask in alive.values())
    else:
        assert masking.alive_count(alive) == expected
    if name in NEVER_EMPTY:
        assert not masking.collapsed(masks)
    compact = channels.compact(network, candidates.groups, masks)
    images = dataset.normalise(dataset.splits["train"].images)
    with torch.no_grad():
        answers = network.eval()(images)
        torch.testing.assert_close(compact.eval()(images), answers, rtol=1e-5, atol=1e-5)
    if settings.prunes_channels:
        assert sum(p.numel() for p in compact.parameters()) < sum(p.numel() for p in network.parameters())
    F.cross_entropy(compact.train()(images), dataset.splits["train"].labels).backward()
    with torch.no_grad():
        for parameter in compact.parameters():
            parameter -= 1e-3 * parameter.grad
    assert compact.eval()(images).isfinite().all()


@pytest.mark.parametrize(
    ("name", "network_name", "changes", "line"),
    [
        ("synflow", "vit", {}, "study.methods: synflow .*layer norm"),
        ("thinet", "linear", {}, "study.methods: thinet prunes channels.*linear has one layer"),
        ("imp_channels", "linear", {}, "study.methods: imp_channels prunes channels"),
        ("mipp", "linear", {}, "study.methods: mipp prunes channels"),
        ("iter_snip", "linear", {"structure": "channel"}, "study.methods: iter_snip prunes channels"),
        ("mipp", "lenet5", {"include_input": True}, "study.methods: mipp has include_input"),
        ("lth", "linear", {"score": "information_flow"}, "study.methods: lth scores by the flow between two layers"),
        ("early_stopping", "linear", {"score": "information_flow"}, "early_stopping scores .*linear has one layer"),
        ("incop_gf", "linear", {"score": "information_flow"}, "incop_gf scores by the flow"),
    ],
)
def test_what_makes_no_sense_is_one_line_before_anything_starts(name, network_name, changes, line):
    raw = yaml.safe_load((layout.ROOT / layout.PARAMS).read_text())
    raw["study"].update(network=network_name, methods=[name])
    raw["methods"][name].update(changes)
    with pytest.raises(mistakes.ParamsError, match=line):
        checks.validate(raw)
