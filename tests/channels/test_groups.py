"""Channel groups, channel masks and compaction: names and sizes, brute force, and equal outputs."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.init import normal_, uniform_

from prunus import channels, networks
from prunus import masks as masking
from prunus.networks.vit import VisionTransformer
from prunus.networks.wide_resnet import WideResNet


class Separable(nn.Module):
    """A stem, a depthwise and pointwise convolution with a skip connection over both, and flattened maps."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 6, 3, padding=1)
        self.expand = nn.Conv2d(6, 10, 1)
        self.depthwise = nn.Conv2d(10, 10, 3, padding=1, groups=10)
        self.bn = nn.BatchNorm2d(10)
        self.project = nn.Conv2d(10, 6, 1)
        self.classifier = nn.Linear(6 * 16, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(images))
        x = x + self.project(F.relu(self.bn(self.depthwise(F.relu(self.expand(x))))))
        return self.classifier(F.avg_pool2d(x, 2).flatten(1))


SHAPE = (1, 8, 8)
BUILDERS = {
    **{name: lambda name=name: networks.build(name, *SHAPE[:2], 10) for name in ("mlp", "lenet5", "vgg11", "vgg11_bn")},
    **{name: lambda name=name: networks.build(name, *SHAPE[:2], 10) for name in ("resnet18", "resnet50")},
    "preact_resnet18": lambda: networks.build("preact_resnet18", *SHAPE[:2], 10),
    "wide_resnet": lambda: WideResNet(1, 10, depth=10, widen=1),
    "vit": lambda: VisionTransformer(1, 8, 10, width=24, depth=2, heads=4),
    "separable": Separable,
}
SMALL = ("lenet5", "wide_resnet", "vit", "separable")


def build(name: str) -> nn.Module:
    """A network in eval mode in which no bias, norm or statistic is trivial."""
    network = BUILDERS[name]().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            uniform_(module.weight, 0.5, 1.5)
            normal_(module.bias, std=0.3)
        if isinstance(module, nn.BatchNorm2d):
            normal_(module.running_mean, std=0.3)
            uniform_(module.running_var, 0.5, 1.5)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            normal_(module.bias, std=0.3)
    if isinstance(network, VisionTransformer):
        for module in network.modules():
            if isinstance(module, nn.Linear):
                normal_(module.weight, std=module.in_features**-0.5)
    return network


def half_dead(groups: list[channels.Group], share: float = 0.4) -> masking.Masks:
    """A random mask per group with about that share dead and at least one channel alive."""
    alive = {group.name: torch.rand(group.size) >= share for group in groups}
    for mask in alive.values():
        mask[-1] = True
    return alive


def assert_compacts(network: nn.Module, masks: masking.Masks) -> nn.Module:
    small = channels.compact(network, channels.groups(network, SHAPE), masks)
    masked = copy.deepcopy(network)
    masking.apply(masked, masks)
    images = torch.randn(4, *SHAPE)
    with torch.no_grad():
        expected = masked(images)
        torch.testing.assert_close(small(images), expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 1e-4
    return small


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


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


@pytest.mark.parametrize("name", BUILDERS)
def test_compacted_and_masked_network_agree(name):
    network = build(name)
    found = channels.groups(network, SHAPE)
    alive = half_dead(found)
    small = assert_compacts(network, channels.expand(found, alive, masking.ones(network)))
    left = {group.name: group.size for group in channels.groups(small, SHAPE)}
    assert left == {name: int(mask.sum()) for name, mask in alive.items()}
    assert size(small) < 0.8 * size(network)

    before = [parameter.detach().clone() for parameter in small.train().parameters()]
    F.cross_entropy(small(torch.randn(4, *SHAPE)), torch.arange(4)).backward()
    torch.optim.SGD(small.parameters(), lr=1.0).step()
    assert all(parameter.requires_grad for parameter in small.parameters())
    changed = [not torch.equal(old, new) for old, new in zip(before, small.parameters(), strict=True)]
    assert sum(changed) > 0.8 * len(changed)


def test_compacted_lenet5_has_the_size_of_its_formula():
    network = build("lenet5")
    found = channels.groups(network, SHAPE)
    keep = {"conv1": 4, "conv2": 9, "fc1": 50, "fc2": 33}
    alive = {group.name: torch.randperm(group.size) < keep[group.name] for group in found}
    small = assert_compacts(network, channels.expand(found, alive, masking.ones(network)))
    sizes = [4 * 25 + 4, 9 * 4 * 25 + 9, 50 * 9 * 4 + 50, 33 * 50 + 33, 10 * 33 + 10]
    assert size(small) == sum(sizes)
    assert (small.conv2.in_channels, small.conv2.out_channels, small.fc1.in_features) == (4, 9, 36)


def test_compaction_reduces_heads_and_depthwise_groups():
    network = build("vit")
    masks = masking.ones(network)
    masks["blocks.1.attention.projection.weight"][:, 6:18] = False
    small = assert_compacts(network, masks)
    assert [block.attention.heads for block in small.blocks] == [4, 2]
    assert small.blocks[1].attention.key.weight.shape == (12, 24)

    network = build("separable")
    masks = masking.ones(network)
    masks["project.weight"][:, 1:] = False
    small = assert_compacts(network, masks)
    assert (small.depthwise.groups, small.depthwise.in_channels, small.bn.num_features) == (1, 1, 1)
    masks["project.weight"][:, 3] = True
    assert assert_compacts(network, masks).depthwise.groups == 2


@pytest.mark.parametrize("name", SMALL)
def test_ones_compact_to_an_equal_copy(name):
    network = build(name).requires_grad_(False)
    small = assert_compacts(network, masking.ones(network))
    assert {n: p.shape for n, p in small.state_dict().items()} == {n: p.shape for n, p in network.state_dict().items()}
    theirs = {parameter.data_ptr() for parameter in network.parameters()}
    assert all(p.requires_grad and p.data_ptr() not in theirs for p in small.parameters())


def test_an_unstructured_mask_that_silences_a_channel():
    network = build("lenet5")
    masks = {name: torch.rand(mask.shape) < 0.5 for name, mask in masking.ones(network).items()}
    masks["conv2.weight"][:, 2] = False
    masks["fc1.weight"][:, 4 * 7 : 4 * 8] = False
    masks["fc2.weight"][5] = False  # its bias is still passed on: the unit stays, whatever its own weights
    found = channels.groups(network, SHAPE)
    alive = channels.alive(found, masks)
    assert {name: (~mask).nonzero().flatten().tolist() for name, mask in alive.items()} == {
        "conv1": [2],
        "conv2": [7],
        "fc1": [],
        "fc2": [],
    }
    small = assert_compacts(network, masks)
    assert (small.conv1.out_channels, small.conv2.out_channels) == (5, 15)


def test_what_only_dead_channels_read_goes_too():
    network = build("lenet5")
    masks = masking.ones(network)
    masks["classifier.weight"][:, 10:] = False
    masks["fc2.weight"][:10, 20:] = False
    small = assert_compacts(network, masks)
    assert (small.fc2.out_features, small.fc1.out_features) == (10, 20)


@pytest.mark.parametrize("name", SMALL)
def test_a_dead_group_keeps_one_channel(name):
    network = build(name)
    found = channels.groups(network, SHAPE)
    for group in found[-1:] if name == "lenet5" else found:
        alive = {g.name: torch.full((g.size,), g.name != group.name) for g in found}
        masks = channels.expand(found, alive, masking.ones(network))
        small = channels.compact(network, channels.groups(network, SHAPE), masks)
        masking.apply(masked := copy.deepcopy(network), masks)
        images = torch.randn(4, *SHAPE)
        torch.testing.assert_close(small(images), masked(images), atol=1e-5, rtol=1e-5)
        assert {g.name: g.size for g in channels.groups(small, SHAPE)}[group.name] == 1


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
