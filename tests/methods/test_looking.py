"""Nothing that a method looks at changes as it prunes: network, masks, data and the dense network's weights."""

from dataclasses import replace

import pytest
import torch

from prunus import masks as masking
from prunus import methods, networks
from prunus.data.dataset import Dataset, Split
from prunus.pruning.candidates import Candidates
from prunus.pruning.recipe import Pruned
from prunus.pruning.scores import SCORES
from prunus.study import params

PROJECT = params.read()
QUICK = {"steps": 2, "samples": 24, "samples_per_class": 2, "repeats": 2, "cells": 1, "fraction": 0.3}
CASES = [(name, {}) for name in PROJECT.methods]
CASES += [("lth", {"score": score}) for score in SCORES]
CASES += [
    (name, {"structure": structure})
    for name in ("synflow", "iter_snip", "iter_grasp", "prospr", "mipp")
    for structure in ("weight", "channel")
]
CASES += [("mipp", {"when": "initial"}), ("mipp", {"structure": "weight", "include_input": True})]


def case(name, changes):
    return pytest.param(name, changes, id="-".join([name, *(f"{key}_{value}" for key, value in changes.items())]))


def settings_of(name, changes):
    settings = PROJECT.methods[name]
    quick = {key: value for key, value in QUICK.items() if key in type(settings).model_fields}
    if name == "mipp":
        quick |= {"samples": 1200, "predictor": "linear"}
    return settings.model_copy(update=quick | changes)


def content(candidates, state):
    """All that a method is given, as bytes, and what it could have left on the network."""
    network, data = candidates.network, candidates.dataset
    tensors = {f"network {name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"mask {name}": mask for name, mask in candidates.masks.items()}
    tensors |= {f"dense {name}": tensor for name, tensor in state.items()}
    tensors |= {"images": data.splits["train"].images, "labels": data.splits["train"].labels}
    tensors |= {"mean": data.mean, "std": data.std}
    tensors |= dict(zip(("flow images", "flow labels"), candidates.flow_sample, strict=True))
    modules = {
        name: (module.training, len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in network.named_modules()
    }
    parameters = {name: (p.requires_grad, p.grad is None, p.data_ptr()) for name, p in network.named_parameters()}
    return {name: tensor.numpy(force=True).tobytes() for name, tensor in tensors.items()}, modules, parameters


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize(("name", "changes"), [case(*each) for each in CASES])
def test_pruning_changes_nothing_it_looks_at(name, changes, training, small_network):
    generator = torch.Generator().manual_seed(0)
    n = 1200 if name == "mipp" else 48
    images, labels = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=generator), torch.arange(n) % 3
    data = Dataset({"train": Split(images, labels)}, torch.tensor([0.5]), torch.tensor([0.25]), ("a", "b", "c"))
    network = small_network.train(training)
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    masks = {key: torch.rand(mask.shape, generator=generator) < 0.9 for key, mask in masking.ones(network).items()}
    sample = data.normalise(images[:40]), labels[:40]
    candidates = Candidates(network, masks, 2, data, 0, lambda point: state, sample)
    recipe = methods.recipe(name, settings_of(name, changes))
    before = content(candidates, state)

    pruned = Pruned.of(recipe.prune(candidates))
    assert content(candidates, state) == before
    if recipe.while_training:
        recipe.while_training(replace(candidates, masks=pruned.masks))
        assert content(candidates, state) == before
    else:
        assert masking.alive_count(pruned.masks) < masking.alive_count(masks)
    for tensor in pruned.weights.values():
        tensor.zero_()  # what is returned is nobody else's
    assert content(candidates, state) == before


def test_thinet_is_the_one_that_returns_weights():
    """Otherwise the test above would not see where they lie."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (48, 1, 8, 8), dtype=torch.uint8, generator=generator)
    data = Dataset(
        {"train": Split(images, torch.arange(48) % 3)}, torch.tensor([0.5]), torch.tensor([0.25]), list("abc")
    )
    network = networks.build("lenet5", *data.form)
    candidates = Candidates(network, masking.ones(network), 1, data, 0, lambda point: {})
    pruned = methods.recipe("thinet", settings_of("thinet", {})).prune(candidates)
    assert pruned.weights
    for name, weight in pruned.weights.items():
        mask = pruned.masks[name]
        assert not weight[~mask].any() and not torch.equal(weight, network.get_parameter(name) * mask)
