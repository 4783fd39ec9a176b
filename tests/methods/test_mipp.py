"""MIPP: exactly the duplicated units go (T18), targets are those of the pruned next layer, coupled and input groups."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from prunus import channels, methods, networks
from prunus import masks as masking
from prunus.channels.readings import capture
from prunus.data.dataset import Dataset, Split
from prunus.methods import mipp
from prunus.networks.vit import VisionTransformer
from prunus.networks.wide_resnet import WideResNet
from prunus.pruning.candidates import Candidates
from prunus.study import params

DEFAULTS = params.read().methods["mipp"]
UNIQUE = {"hidden1": 6, "hidden2": 4}


def settings(**changes):
    return DEFAULTS.model_copy(update={"samples": 1500, "regularisation": [1e-3], "predictor": "linear"} | changes)


def duplicated():
    """A network in which every hidden unit of two layers stands twice, the second time scaled."""
    network = nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            hidden1=nn.Linear(16, 12),
            relu1=nn.ReLU(),
            hidden2=nn.Linear(12, 8),
            relu2=nn.ReLU(),
            classifier=nn.Linear(8, 3),
        )
    )
    with torch.no_grad():
        for name, unique in UNIQUE.items():
            layer = network.get_submodule(name)
            layer.weight[:unique] = nn.init.orthogonal_(torch.empty(unique, layer.in_features)) * 2
            layer.bias[:unique] = torch.linspace(-0.5, 0.5, unique)
            layer.weight[unique:], layer.bias[unique:] = 3 * layer.weight[:unique], 3 * layer.bias[:unique]
    return network.eval()


def eliminate(network, images, **changes):
    groups = channels.groups(network, tuple(images.shape[1:]))
    everything = channels.alive(groups, masking.ones(network))
    return mipp.eliminate(network, groups, everything, images, settings(**changes), 0)


@pytest.mark.parametrize("predictor", ["linear", "mlp"])
def test_exactly_the_duplicates_go_and_a_refit_restores_the_output(predictor):
    network, images = duplicated(), torch.randn(1500, 1, 4, 4)
    alive = eliminate(network, images, predictor=predictor)
    for name, unique in UNIQUE.items():
        first, second = alive[name][:unique], alive[name][unique:]
        assert (first ^ second).all(), f"{name}: one of each pair must stay"
    read, written = capture(network, images, ["classifier"])["classifier"]
    kept = torch.cat([read[:, alive["hidden2"]], torch.ones(len(read), 1)], 1).double()
    refit = kept @ torch.linalg.lstsq(kept, written.double()).solution
    torch.testing.assert_close(refit, written.double(), rtol=1e-4, atol=1e-4)


def test_units_that_only_feed_what_is_pruned_are_not_needed():
    """Backwards: once a unit of the second layer is gone, what of the first layer served it alone goes as well."""
    network, images = duplicated(), torch.randn(1500, 1, 4, 4)
    with torch.no_grad():
        network.hidden2.weight.zero_()
        for unit in range(4):  # second-layer unit u reads first-layer unit u alone, its copy unit u + 6
            network.hidden2.weight[unit, unit] = network.hidden2.weight[unit + 4, unit + 6] = 1.0
        network.classifier.weight[:, [3, 7]] = 0  # nothing reads the fourth unit
    alive = eliminate(network, images)
    served = alive["hidden2"].nonzero().flatten() % 4
    assert sorted(served.tolist()) == [0, 1, 2]
    assert sorted((alive["hidden1"].nonzero().flatten() % 6).tolist()) == [0, 1, 2]


def test_a_group_is_never_emptied():
    network, images = duplicated(), torch.randn(500, 1, 4, 4)
    with torch.no_grad():
        network.classifier.weight.zero_()  # no unit tells anything about constant logits
    assert int(eliminate(network, images)["hidden2"].sum()) == 1


def dataset(n=600, side=8):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 1, side, side), dtype=torch.uint8, generator=generator)
    images[:, :, :, -1] = 7  # a border that says nothing
    images[:, :, :, 1] = images[:, :, :, 0]  # a column that stands twice
    split = Split(images, torch.arange(n) % 3)
    return Dataset({"train": split}, torch.tensor([0.5]), torch.tensor([0.25]), ("a", "b", "c"))


def candidates(network, data, dense=None, masks=None):
    dense = dense or {key: tensor.clone() for key, tensor in network.state_dict().items()}
    return Candidates(network, masks or masking.ones(network), 1, data, 0, lambda point: dense)


NETWORKS = {
    "lenet5": lambda: networks.build("lenet5", 1, 8, 3),
    "residual": lambda: WideResNet(1, 3, depth=10, widen=1),
    "vit": lambda: networks.build("vit", 1, 8, 3),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_masks_cover_whole_groups_and_nest(name):
    data = dataset(400)
    network = NETWORKS[name]()
    recipe = methods.recipe("mipp", settings(samples=400, cells=1, regularisation=[0.2]))
    before = candidates(network, data)
    for _ in range(2):
        masks = recipe.prune(before)
        assert all(not (masks[key] & ~before.masks[key]).any() for key in masks)
        alive = channels.alive(before.groups, masks)
        whole = channels.expand(before.groups, alive, before.masks)
        assert all(torch.equal(masks[key], whole[key]) for key in masks)
        assert all(mask.any() for mask in alive.values())
        before = before.at(masks)
    assert channels.share_removed(before.groups, masks) > 0


def test_pixels_that_say_nothing_go_with_include_input():
    data = dataset(1500)
    network = networks.build("mlp", *data.form)
    masks = methods.recipe("mipp", settings(include_input=True, regularisation=[1e-4])).prune(candidates(network, data))
    read = masks["hidden1.weight"].any(0).view(8, 8)
    assert not read[:, -1].any()
    assert (read[:, 0] ^ read[:, 1]).all()
    assert read[:, 2:-1].all()


def test_before_training_the_initial_weights_decide():
    data = dataset()
    network, other = (networks.build("mlp", *data.form) for _ in range(2))
    dense = other.state_dict()
    by = {
        when: methods.recipe("mipp", settings(when=when, samples=600)).prune(candidates(network, data, dense))
        for when in ("initial", "trained")
    }
    alone = methods.recipe("mipp", settings(when="trained", samples=600)).prune(candidates(other, data))
    assert all(torch.equal(by["initial"][key], alone[key]) for key in alone)
    assert any(not torch.equal(by["initial"][key], by["trained"][key]) for key in alone)


def test_each_iteration_has_its_regularisation_and_the_last_one_holds():
    data = dataset(600)
    network = networks.build("mlp", *data.form)
    own = settings(samples=600, regularisation=[0.0, 0.5])
    counts = []
    for iteration in (1, 2, 5):
        given = Candidates(network, masking.ones(network), iteration, data, 0, None)
        counts.append(masking.alive_count(methods.recipe("mipp", own).prune(given)))
    assert counts[0] > counts[1] == counts[2]


# --- structure: weight -----------------------------------------------------------------------------------------------


def eliminate_weights(network, images, masks=None, **changes):
    groups = channels.groups(network, tuple(images.shape[1:]))
    own = settings(structure="weight", **changes)
    return mipp.eliminate_weights(network, groups, masks or masking.ones(network), images, own, 0)


def test_a_unit_keeps_the_inputs_it_needs():
    """Of hidden1, units 0-5 are unique and 6-11 their copies; what a unit reads with weight zero tells it nothing."""
    network, images = duplicated(), torch.randn(1500, 1, 4, 4)
    with torch.no_grad():
        network.hidden1.bias[:6], network.hidden1.bias[6:] = 3.0, 9.0  # nearly always active: sums are exact
        network.hidden2.weight.zero_()
        network.hidden2.weight[0, [0, 1]] = torch.tensor([1.0, -1.0])  # needs 0 and 1, or their copies
        network.hidden2.weight[1, [2, 8]] = 1.0  # reads 2 and its copy: needs one of them
        network.hidden2.weight[2:, 5] = 1.0
    kept = eliminate_weights(network, images)["hidden2.weight"]
    assert sorted((kept[0].nonzero().flatten() % 6).tolist()) == [0, 1]
    assert (kept[1].nonzero().flatten() % 6).tolist() == [2]
    others = kept[2:][kept[2:].any(1)]  # they say the same: of most of them nothing is needed
    assert len(others) and (others.sum(1) == 1).all() and others[:, [5, 11]].any(1).all()


def test_weights_into_units_that_nothing_reads_go():
    network, images = duplicated(), torch.randn(1500, 1, 4, 4)
    with torch.no_grad():
        network.classifier.weight[:, [1, 5]] = 0
        network.hidden2.weight[:, 3] = 0
    kept = eliminate_weights(network, images)
    for row in kept["classifier.weight"]:
        assert (row[:4] ^ row[4:]).tolist() == [True, False, True, True] and not row[[1, 5]].any()
    read = kept["classifier.weight"].any(0)
    assert not kept["hidden2.weight"][~read].any()
    assert kept["hidden2.weight"][read].any(1).all()
    assert torch.equal(kept["hidden1.weight"].all(1), kept["hidden2.weight"].any(0))
    assert torch.equal(kept["hidden1.weight"].any(1), kept["hidden2.weight"].any(0))


def test_a_convolution_loses_whole_kernel_slices():
    network, images = networks.build("lenet5", 1, 8, 3).eval(), torch.randn(600, 1, 8, 8)
    with torch.no_grad():
        network.conv2.weight[4, 3:] = 0
    groups = channels.groups(network, (1, 8, 8))
    few = {group.name: torch.arange(group.size) < (4 if group.name.startswith("fc") else 16) for group in groups}
    given = channels.expand(groups, few, masking.ones(network))  # a unit takes as long as a channel
    kept = eliminate_weights(network, images, given, cells=1, regularisation=[0.05])["conv2.weight"]
    slices = kept.flatten(2)
    assert torch.equal(slices.any(2), slices.all(2))
    assert not kept[4, 3:].any() and not kept.all()


@pytest.mark.parametrize("name", NETWORKS)
def test_weight_masks_nest_and_every_unit_that_is_read_reads(name):
    data = dataset(300)
    network = VisionTransformer(1, 8, 3, width=16, depth=2) if name == "vit" else NETWORKS[name]()  # to be quick
    recipe = methods.recipe("mipp", settings(structure="weight", samples=300, cells=1, repeats=2, regularisation=[0.2]))
    groups = candidates(network, data).groups
    few = {group.name: torch.arange(group.size) < 4 for group in groups}
    before = candidates(network, data, masks=channels.expand(groups, few, masking.ones(network)))
    masks = recipe.prune(before)
    again = recipe.prune(candidates(network, data, masks=before.masks))
    assert all(torch.equal(masks[key], again[key]) for key in masks)
    assert all(not (masks[key] & ~before.masks[key]).any() for key in masks)
    assert masking.alive_count(masks) < masking.alive_count(before.masks)
    assert all(mask.any() for mask in masks.values())
    alive = channels.alive(groups, masks)
    for part, living in ((part, alive[group.name]) for group in groups for part in group.writes):
        if part.parameter in masks:
            rows = masks[part.parameter].flatten(1).any(1)[part.index]
            assert torch.equal(rows.all(1), living) and torch.equal(rows.any(1), living)
    pruned = candidates(network, data, masks=masks).networks("current")
    images = data.normalise(data.splits["train"].images[:32])
    with torch.no_grad():
        small = channels.compact(pruned, groups, masks)
        torch.testing.assert_close(small(images), pruned(images), rtol=1e-5, atol=1e-5)


def test_include_input_asks_every_unit_for_its_pixels():
    data = dataset(1500)
    network = networks.build("mlp", *data.form)
    with torch.no_grad():
        network.hidden1.weight.add_(0.05 * network.hidden1.weight.sign())  # no pixel means next to nothing to a unit
    groups = candidates(network, data).groups
    few = {group.name: torch.arange(group.size) < 4 for group in groups}
    given = candidates(network, data, masks=channels.expand(groups, few, masking.ones(network)))
    own = settings(structure="weight", include_input=True, regularisation=[1e-8])
    read = methods.recipe("mipp", own).prune(given)["hidden1.weight"][:4].view(4, 8, 8)
    assert not read[:, :, -1].any()
    assert (read[:, :, 0] ^ read[:, :, 1]).all()
    assert read[:, :, 2:-1].all()
    left = methods.recipe("mipp", own.model_copy(update={"include_input": False})).prune(given)
    assert torch.equal(left["hidden1.weight"], given.masks["hidden1.weight"])


def test_the_structure_says_whether_channels_go():
    assert settings().prunes_channels and not settings(structure="weight").prunes_channels
    assert "one layer" in settings(structure="weight").misfit("linear", 1)
    assert settings(structure="weight", include_input=True).misfit("linear", 1) is None
