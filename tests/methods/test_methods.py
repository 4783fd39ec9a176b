"""Each method's recipe: what it prunes, where it stops, and what `reference_quirks` does instead."""

import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prune_iteration import as_accurate_as, at_ratio
from prunus import channels, methods
from prunus import masks as masking
from prunus.data.dataset import Dataset, Split
from prunus.flow import gradient_flow, information_flow
from prunus.pruning.candidates import Retraining
from prunus.pruning.recipe import Pruned, Rewind
from prunus.run.code import METHODS, closure
from prunus.study import params
from prunus.training.accuracy import logits

PROJECT = params.read()
SCOPES = ("neuron", "layer", "global")


def settings(name, **changes):
    return PROJECT.methods[name].model_copy(update=changes)


SMALL_GROUPS = {
    **{f"{name}-{scope}": (name, {"scope": scope}) for name in ("lth", "one_shot") for scope in SCOPES},
    "imp_channels-layer": ("imp_channels", {"scope": "layer"}),
    "sosp_h": ("sosp_h", {"samples": 12}),
    "synflow": ("synflow", {"structure": "weight", "steps": 3}),
    "thinet": ("thinet", {"images_per_class": 2, "locations": 2}),
}


def left_by_group(masks, scope):
    """Alive entries and size of every group of a scope."""
    groups = list(masks.values())
    if scope == "global":
        groups = [torch.cat([mask.flatten() for mask in groups])]
    if scope == "neuron":
        groups = [row for mask in groups for row in mask]
    return [(int(mask.sum()), mask.numel()) for mask in groups]


@pytest.mark.parametrize("case", SMALL_GROUPS)
def test_a_fraction_leaves_its_share_of_every_group_after_every_iteration(case, candidates_of):
    """Groups of 1 to 6: what floor(fraction d) cannot take of them one iteration, a later one does."""
    method, changes = SMALL_GROUPS[case]
    chosen = settings(method, fraction=0.2, **changes)
    recipe = methods.recipe(method, chosen)
    widths = (4, 2, 6, 3, 3)
    layers = [nn.AvgPool2d(4), nn.Flatten()]
    for read, written in itertools.pairwise(widths):
        layers += [nn.Linear(read, written), nn.ReLU()]
    network = nn.Sequential(*layers[:-1])
    candidates = candidates_of(network)
    scope = getattr(chosen, "scope", "global")
    for t in range(1, 31):
        candidates = replace(candidates, iteration=t)
        candidates = candidates.at(Pruned.of(recipe.prune(candidates)).masks)
        masks = candidates.masks
        if chosen.prunes_channels:
            masks = channels.alive(candidates.groups, masks)
            assert all(mask.any() for mask in masks.values())
        floor = len(masks) if chosen.prunes_channels and scope == "global" else 1
        for left, size in left_by_group(masks, scope):
            exact = size * 0.8**t
            assert left >= exact - 1e-9
            assert left < exact + 1 or left == floor


@pytest.mark.parametrize("method", ["imp_channels", "synflow", "sosp_h"])
def test_an_imposed_ratio_is_met_at_every_iteration_whatever_the_fraction(method, candidates_of):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3))
    candidates = candidates_of(network)
    for t, gone in ((1, 0), (2, 5), (3, 5), (4, 6), (5, 14), (6, 15)):
        candidates = replace(candidates, iteration=t)
        imposed = at_ratio(settings(method, **({"samples": 12} if method == "sosp_h" else {})), t, gone / 17)
        candidates = candidates.at(methods.recipe(method, imposed).prune(candidates))
        assert channels.share_removed(candidates.groups, candidates.masks) == pytest.approx(gone / 17)


@pytest.fixture
def retraining(small_network):
    """A stop rule's surroundings, with ``small_network`` as the dense network."""
    images, labels = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8), torch.arange(40) % 3
    data = Dataset({"test": Split(images, labels)}, torch.tensor([0.5]), torch.tensor([0.25]), ("a", "b", "c"))
    floats = data.normalise(images)
    reference = {
        "information": information_flow(small_network, floats, "absolute").tolist(),
        "information_signed": information_flow(small_network, floats, "signed").tolist(),
        "gradient": gradient_flow(small_network, floats, labels).tolist(),
        "quirks": {"gradient_mean": [0.001, 0.002, 0.003]},
    }
    masks = masking.ones(small_network)
    return Retraining(masks, 4, reference, floats, labels, lambda: lambda network: False)


WEIGHT_METHODS = ["one_shot", "lth", "sap", "incop_if", "incop_gf", "fixed_epochs", "early_stopping"]


@pytest.mark.parametrize("name", WEIGHT_METHODS)
def test_masks_are_nested_and_lose_something(name, small_network, candidates_of):
    recipe = methods.recipe(name, PROJECT.methods[name])
    candidates = candidates_of(small_network)
    for t in (1, 2):
        candidates = replace(candidates, iteration=t)
        new = recipe.prune(candidates)
        assert 0 < masking.alive_count(new) < masking.alive_count(candidates.masks)
        assert all(not (new[key] & ~candidates.masks[key]).any() for key in new)
        candidates = candidates.at(new)


def test_one_shot_looks_at_the_dense_weights_and_lth_at_the_current_ones(small_network, candidates_of):
    candidates = candidates_of(small_network)
    for name, scored in (("lth", candidates.current), ("one_shot", candidates.dense)):
        kept = methods.recipe(name, settings(name)).prune(candidates)
        expected = masking.magnitude_masks(scored, candidates.masks, "global", settings(name).amount)
        assert all(torch.equal(kept[key], expected[key]) for key in kept)


def test_networks_at_a_point_are_copies_with_pruned_weights_at_zero(small_network, candidates_of):
    masks = {name: torch.rand(mask.shape) < 0.5 for name, mask in masking.ones(small_network).items()}
    candidates = candidates_of(small_network, masks)
    for point, weights in (("initial", candidates.dense), ("current", candidates.current)):
        network = candidates.networks(point)
        assert not network.training
        for name, weight in masking.prunable(network).items():
            assert torch.equal(weight, weights[name] * masks[name])
    assert small_network[0].weight.count_nonzero() == small_network[0].weight.numel()


def test_samples_are_training_images_the_same_every_time_and_per_class_balanced(small_network, candidates_of):
    candidates = candidates_of(small_network)
    (images, labels), (again, _) = candidates.sample_per_class(4), candidates.sample_per_class(4)
    assert labels.bincount().tolist() == [4, 4, 4] and torch.equal(images, again)
    train = candidates.dataset.splits["train"]
    known = {
        row.numpy().tobytes(): int(label)
        for row, label in zip(candidates.dataset.normalise(train.images), train.labels, strict=True)
    }
    assert [known[image.numpy().tobytes()] for image in images] == labels.tolist()
    assert len(candidates.sample(7)[1]) == 7


@pytest.mark.parametrize("name", ["one_shot", "lth", "sap", "fixed_epochs"])
def test_fixed_rules_stop_at_their_epochs(name, retraining):
    stop = methods.recipe(name, settings(name, epochs=3)).retrain(retraining)
    assert [stop.after_epoch(epoch, None, [0.5] * epoch).reason for epoch in (1, 2, 3)] == [None, None, "fixed"]


@pytest.mark.parametrize(
    ("name", "changes"),
    [(name, {"stop": "plateau", "epochs": 9}) for name in ("one_shot", "lth", "sap")]
    + [("early_stopping", {"max_epochs": 9})],
)
def test_plateau_stops_by_patience_and_at_the_latest_at_the_cap(name, changes, retraining):
    recipe = methods.recipe(name, settings(name, patience=3, **changes))
    stop = recipe.retrain(retraining)
    assert stop.max_epochs == 9
    reasons = [stop.after_epoch(epoch, None, [0.5] * epoch).reason for epoch in range(1, 5)]
    assert reasons == [None, None, None, "plateau"]
    better = recipe.retrain(retraining)
    reasons = [better.after_epoch(epoch, None, list(range(epoch))).reason for epoch in range(1, 10)]
    assert reasons == [None] * 8 + ["cap"]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("incop_if", {}),
        ("incop_if", {"correlation": "signed"}),
        ("incop_gf", {}),
        ("incop_gf", {"metric": "cosine", "relative": None}),
    ],
)
def test_the_dense_network_is_at_distance_zero_of_its_own_flow(name, changes, retraining, small_network):
    stop = methods.recipe(name, settings(name, epsilon=1e-5, **changes)).retrain(retraining)
    look = stop.after_epoch(1, small_network, [0.5])
    assert (look.reason, look.distance) == ("flow", pytest.approx(0, abs=1e-6))


@pytest.mark.parametrize("name", ["incop_if", "incop_gf"])
def test_relative_is_absolute_over_the_norm_of_the_reference(name, retraining, small_network):
    with torch.no_grad():
        for parameter in small_network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    relative, absolute = (
        methods.recipe(name, settings(name, relative=flag))
        .retrain(retraining)
        .after_epoch(1, small_network, [0.5])
        .distance
        for flag in (True, False)
    )
    norm = math.hypot(*retraining.reference["information" if name == "incop_if" else "gradient"])
    assert absolute > 0
    assert relative == pytest.approx(absolute / norm)


def test_quirks_of_gradient_flow_are_the_published_code(retraining, small_network):
    """Norms of the last batch's gradient times B/(B-1) against means of the dense network's: methods.incop_gf."""
    loss = F.cross_entropy(small_network(retraining.flow_images), retraining.flow_labels)
    loss.backward()
    rule = methods.recipe("incop_gf", settings("incop_gf", reference_quirks=True, relative=False, epsilon=0.0))
    norms = torch.stack([w.grad.double().norm() for w in masking.prunable(small_network).values()])
    expected = (4 / 3 * norms - torch.tensor([0.001, 0.002, 0.003])).norm().item()
    look = rule.retrain(retraining).after_epoch(1, small_network, [0.5])
    assert (look.reason, look.distance) == (None, pytest.approx(expected, rel=1e-6))


@pytest.mark.parametrize("name", ["incop_if", "incop_gf"])
@pytest.mark.parametrize("quirks", [True, False])
def test_test_accuracy_stops_only_with_quirks(name, quirks, retraining, small_network):
    with torch.no_grad():
        small_network[-1].weight += torch.randn(3, 8)
    recipe = methods.recipe(name, settings(name, reference_quirks=quirks, epsilon=0.0))
    for as_accurate, reason in ((False, None), (True, "accuracy" if quirks else None)):
        rule = recipe.retrain(replace(retraining, as_dense=lambda answer=as_accurate: lambda network: answer))
        assert rule.after_epoch(1, small_network, [0.5]).reason == reason


def test_a_network_is_as_accurate_as_one_that_answers_what_it_does_and_not_once_it_is_constant():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    images = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8)
    data = Dataset({"test": Split(images, torch.zeros(60))}, torch.tensor([0.5]), torch.tensor([0.25]), ("a", "b", "c"))
    data = replace(data, splits={"test": Split(images, logits(network, data, "test").argmax(1))})
    reached = as_accurate_as(copy.deepcopy(network), data)
    assert reached(network)
    with torch.no_grad():
        network[1].weight.zero_()
    assert not reached(network)


@pytest.mark.parametrize("name", ["incop_if", "incop_gf"])
@pytest.mark.parametrize("quirks", [True, False])
def test_a_rewind_leaves_norms_alone_only_with_quirks(name, quirks, small_network):
    dense = {key: tensor.clone() for key, tensor in small_network.state_dict().items()}
    with torch.no_grad():
        for parameter in small_network.parameters():
            parameter += 1
    small_network(torch.randn(8, 1, 8, 8))  # moves the statistics
    methods.recipe(name, settings(name, reference_quirks=quirks)).rewind.restart(small_network, lambda point: dense)
    moved = [key for key, tensor in small_network.state_dict().items() if not torch.equal(tensor, dense[key])]
    scale_and_statistics = ["1.weight", "1.running_mean", "1.running_var", "1.num_batches_tracked"]
    assert moved == (scale_and_statistics if quirks else [])


def test_a_rewind_to_none_asks_for_no_state_and_leaves_the_network(small_network):
    before = {key: tensor.clone() for key, tensor in small_network.state_dict().items()}
    Rewind("none").restart(small_network, lambda point: pytest.fail(f"asked for {point}"))
    assert all(torch.equal(tensor, before[key]) for key, tensor in small_network.state_dict().items())


@pytest.mark.parametrize("name", PROJECT.methods)
def test_a_method_runs_no_other_methods_file(name):
    """An edit of one method reruns that method only."""
    own = METHODS / f"{name}.py"
    assert {path for path in closure(own) if METHODS in path.parents} == {own}
