"""Channel groups of every kind of network, and the masks that go with them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from example_networks import BUILDERS, SHAPE, SMALL, assert_compacts, build, half_dead, size
from prunus import channels, networks
from prunus import masks as masking


def described(name: str, shape: tuple[int, int, int] = SHAPE) -> dict[str, tuple[int, dict]]:
    return {
        group.name: (group.size, {(part.parameter, part.dim): part.index.shape[1] for part in group.slices})
        for group in channels.groups(BUILDERS[name](), shape)
    }


def test_groups_of_lenet5():
    network = networks.build("lenet5", 1, 28, 10)
    found = channels.groups(network, (1, 28, 28))
    assert [(group.name, group.size) for group in found] == [("conv1", 6), ("conv2", 16), ("fc1", 120), ("fc2", 84)]
    parts = [(part.parameter, part.dim, tuple(part.index.shape)) for part in found[1].slices]
    assert parts == [("conv2.weight", 0, (16, 1)), ("conv2.bias", 0, (16, 1)), ("fc1.weight", 1, (16, 25))]
    assert found[1].reads[0].index.tolist() == [list(range(25 * c, 25 * c + 25)) for c in range(16)]
    assert found[1].writes[0].index.tolist() == [[c] for c in range(16)]


def test_groups_of_resnet18_are_its_streams_and_block_internals():
    network = networks.build("resnet18", 3, 8, 10)
    found = channels.groups(network, (3, 8, 8))
    assert [(group.name, group.size) for group in found] == [
        ("conv1", 64),
        ("layer1.0.conv1", 64),
        ("layer1.1.conv1", 64),
        ("layer2.0.conv1", 128),
        ("layer2.0.conv2", 128),
        ("layer2.1.conv1", 128),
        ("layer3.0.conv1", 256),
        ("layer3.0.conv2", 256),
        ("layer3.1.conv1", 256),
        ("layer4.0.conv1", 512),
        ("layer4.0.conv2", 512),
        ("layer4.1.conv1", 512),
    ]
    stream = found[4]
    prunable = masking.prunable(network)
    assert {part.parameter for part in stream.writes if part.parameter in prunable} == {
        "layer2.0.conv2.weight",
        "layer2.0.downsample.0.weight",
        "layer2.1.conv2.weight",
    }
    assert {part.parameter for part in stream.writes if part.parameter not in prunable} == {
        f"layer2.{norm}.{kind}" for norm in ("0.bn2", "0.downsample.1", "1.bn2") for kind in ("weight", "bias")
    }
    assert {part.parameter for part in stream.reads} == {
        "layer2.1.conv1.weight",
        "layer3.0.conv1.weight",
        "layer3.0.downsample.0.weight",
    }


def test_groups_of_a_pre_activation_network():
    found = described("wide_resnet")
    assert {name: size for name, (size, _) in found.items()} == {
        "conv1": 16,  # the first block keeps the width: its stream is the stem's
        "stage1.0.conv1": 16,
        "stage2.0.conv1": 32,
        "stage2.0.conv2": 32,
        "stage3.0.conv1": 64,
        "stage3.0.conv2": 64,
    }
    norms = {(f"stage3.0.bn1.{kind}", 0): 1 for kind in ("weight", "bias")}
    assert found["stage2.0.conv2"][1] == norms | {
        ("stage2.0.conv2.weight", 0): 1,
        ("stage2.0.shortcut.weight", 0): 1,
        ("stage3.0.conv1.weight", 1): 1,
        ("stage3.0.shortcut.weight", 1): 1,
    }


def test_groups_of_vit_are_heads_and_hidden_units_only():
    found = described("vit")
    heads = {(f"blocks.0.attention.{w}.{kind}", 0): 6 for w in ("query", "key", "value") for kind in ("weight", "bias")}
    assert list(found) == [f"blocks.{b}.{part}" for b in (0, 1) for part in ("attention.query", "hidden")]
    assert found["blocks.0.attention.query"] == (4, heads | {("blocks.0.attention.projection.weight", 1): 6})
    assert found["blocks.1.hidden"] == (
        48,
        {("blocks.1.hidden.weight", 0): 1, ("blocks.1.hidden.bias", 0): 1, ("blocks.1.output.weight", 1): 1},
    )


def test_groups_of_a_depthwise_separable_network():
    found = described("separable")
    norms = {(f"{layer}.{kind}", 0): 1 for layer in ("expand", "depthwise", "bn") for kind in ("weight", "bias")}
    stream = {(f"{layer}.{kind}", 0): 1 for layer in ("stem", "project") for kind in ("weight", "bias")}
    assert found == {
        "stem": (6, stream | {("expand.weight", 1): 1, ("classifier.weight", 1): 16}),
        "expand": (10, norms | {("project.weight", 1): 1}),
    }


@pytest.mark.parametrize("name", BUILDERS)
def test_logits_are_never_in_a_group(name):
    last = [n for n, m in BUILDERS[name]().named_modules() if isinstance(m, nn.Linear)][-1]
    assert all(part.parameter != f"{last}.weight" for g in channels.groups(build(name), SHAPE) for part in g.writes)


def test_a_network_without_hidden_channels_has_no_groups():
    network = networks.build("linear", *SHAPE[:2], 10)
    assert channels.groups(network, SHAPE) == []
    assert size(channels.compact(network, channels.groups(network, SHAPE), masking.ones(network))) == size(network)


@pytest.mark.parametrize("name", SMALL)
def test_expand_is_nested_idempotent_and_undone_by_alive(name):
    network = build(name)
    found = channels.groups(network, SHAPE)
    given = {n: torch.rand(mask.shape) < 0.9 for n, mask in masking.ones(network).items()}
    untouched = {n: mask.clone() for n, mask in given.items()}
    alive = half_dead(found)
    expanded = channels.expand(found, alive, given)
    assert all((expanded[n] <= given[n]).all() for n in given)
    assert all(torch.equal(given[n], untouched[n]) for n in given)
    again = channels.expand(found, alive, expanded)
    assert all(torch.equal(again[n], expanded[n]) for n in given)
    found_alive = channels.alive(found, channels.expand(found, alive, masking.ones(network)))
    assert all(torch.equal(found_alive[n], alive[n]) for n in alive)


def test_expand_turns_off_rows_and_columns_and_nothing_else():
    network = build("separable")
    found = channels.groups(network, SHAPE)
    alive = {"stem": torch.arange(6) != 2, "expand": torch.arange(10) != 7}
    masks = channels.expand(found, alive, masking.ones(network))
    expected = masking.ones(network)
    expected["stem.weight"][2] = expected["project.weight"][2] = expected["expand.weight"][:, 2] = False
    expected["classifier.weight"][:, 32:48] = False
    expected["expand.weight"][7] = expected["depthwise.weight"][7] = expected["project.weight"][:, 7] = False
    assert all(torch.equal(masks[n], expected[n]) for n in expected)


def test_weights_without_a_mask_stay_and_keep_what_they_read():
    network = build("lenet5")
    found = channels.groups(network, SHAPE)
    masks = {"conv2.weight": torch.zeros(16, 6, 5, 5, dtype=torch.bool)}
    alive = channels.alive(found, masks)
    assert {n: int(mask.sum()) for n, mask in alive.items()} == {"conv1": 0, "conv2": 16, "fc1": 120, "fc2": 84}
    assert list(channels.expand(found, alive, masks)) == ["conv2.weight"]
    assert channels.compact(network, channels.groups(network, SHAPE), masks).conv1.out_channels == 1


@pytest.mark.parametrize("name", SMALL)
def test_sums_equal_a_loop_over_channels(name):
    network = build(name)
    found = channels.groups(network, SHAPE)
    scores = {n: torch.rand(weight.shape) for n, weight in masking.prunable(network).items()}
    totals = channels.sums(found, scores)
    for group in found:
        expected = [
            sum(
                scores[part.parameter][row].sum().item()
                for part in group.writes
                if part.parameter in scores
                for row in part.index[channel].tolist()
            )
            for channel in range(group.size)
        ]
        assert totals[group.name].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["separable", "vit"])
def test_the_network_is_left_as_it_was(name):
    network = build(name).train()
    network.classifier.eval().requires_grad_(False)
    network(torch.randn(4, *SHAPE)).sum().backward()
    modes = [module.training for module in network.modules()]
    state = {n: value.clone() for n, value in network.state_dict().items()}
    gradients = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    random_state = torch.get_rng_state()
    found = channels.groups(network, SHAPE)
    masks = channels.expand(found, half_dead(found), masking.ones(network))
    torch.set_rng_state(random_state)
    channels.compact(network, channels.groups(network, SHAPE), masks)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[n]) for n, value in network.state_dict().items())
    assert not network.classifier.weight.requires_grad
    assert not any(module._forward_hooks for module in network.modules())
    for before, parameter in zip(gradients, network.parameters(), strict=True):
        assert before is None if parameter.grad is None else torch.equal(before, parameter.grad)


class Custom(nn.Module):
    """Two convolutions, with whatever a test puts between them."""

    def __init__(self, between, width: int = 8, **first) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1, **first)
        self.second = nn.Conv2d(width, 4, 3, padding=1)
        self.classifier = nn.Linear(4, 3)
        self.between = between

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.second(self.between(self.first(images))).mean((2, 3)))


def test_concatenated_readers_split_between_groups():
    network = Custom(lambda x: torch.cat([x, x.relu()], 1), width=16)
    first = channels.groups(network, SHAPE)[0]
    assert sorted(first.reads[0].index[3].tolist()) == [3, 11]
    masks = masking.ones(network)
    masks["second.weight"][:, [3, 11, 5]] = False  # 13 still reads channel 5
    assert assert_compacts(network.eval(), masks).first.out_channels == 7


@pytest.mark.parametrize(
    "between",
    [
        lambda x: x.softmax(1),
        lambda x: x - x.mean(1, keepdim=True),
        lambda x: x.flip(1),
        lambda x: F.layer_norm(x, x.shape[1:]),
        lambda x: F.pixel_shuffle(F.interpolate(x.repeat(1, 4, 1, 1), scale_factor=0.5), 2),
    ],
)
def test_couplings_the_graph_cannot_see_are_errors(between):
    with pytest.raises(ValueError, match="depend on each other"):
        channels.groups(Custom(between), SHAPE)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Conv2d(8, 8, 3, padding=1, groups=2), "between: the channels of this Conv2d"),
        (nn.BatchNorm2d(8, affine=False), "between: the channels of this BatchNorm2d"),
        (nn.ConvTranspose2d(8, 8, 1), "between: the channels of this ConvTranspose2d"),
    ],
)
def test_layers_that_cannot_be_mapped_are_errors(layer, message):
    with pytest.raises(ValueError, match=message):
        channels.groups(Custom(layer), SHAPE)


def test_channels_that_must_stay_are_in_no_group():
    assert [g.name for g in channels.groups(Custom(nn.GroupNorm(2, 8)), SHAPE)] == ["second"]

    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.ones(1, 8, 1, 1))

        def forward(self, x):
            return x + self.shift

    assert [g.name for g in channels.groups(Custom(Shift()), SHAPE)] == ["second"]


def test_channels_added_to_the_image_stay():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.classifier = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 5, 1), nn.Linear(5, 2)

        def forward(self, x):
            return self.classifier(self.second(x + self.first(x)).mean((2, 3)))

    assert [g.name for g in channels.groups(Skip(), (3, 8, 8))] == ["second"]


def test_a_diverged_network_still_has_groups():
    network = build("lenet5")
    network.fc1.weight.data.fill_(float("nan"))
    assert len(channels.groups(network, SHAPE)) == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_the_gpu_indices_and_copies_live_there():
    network = build("vit").cuda()
    found = channels.groups(network, SHAPE)
    assert {part.index.device.type for group in found for part in group.slices} == {"cuda"}
    alive = {name: mask.cuda() for name, mask in half_dead(found).items()}
    small = channels.compact(
        network, channels.groups(network, SHAPE), channels.expand(found, alive, masking.ones(network))
    )
    assert {parameter.device.type for parameter in small.parameters()} == {"cuda"}
