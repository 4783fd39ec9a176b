"""Networks: shapes, published sizes, order and use of layers, and images that are resized."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from example_networks import on_meta
from prunus import channels, masks, networks
from prunus.evaluation.macs import multiply_accumulates
from prunus.flow import gradient_flow, information_flow
from prunus.study import catalogue

NAMES = list(catalogue.SMALLEST_SIDE)


def prunable_count(network: nn.Module) -> int:
    return sum(p.numel() for name, p in network.named_parameters() if "weight" in name.split(".")[-1] and p.dim() > 1)


def test_registry_and_catalogue_name_the_same_networks():
    assert set(networks.BUILDERS) == set(catalogue.SMALLEST_SIDE)


@pytest.mark.parametrize("name", NAMES)
def test_smallest_image_trains(name):
    side = catalogue.SMALLEST_SIDE[name]
    network = networks.build(name, 1, side, 10)
    logits = network(torch.randn(2, 1, side, side))
    assert network.training
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("channels", "side", "classes"), [(1, 28, 10), (3, 32, 100), (3, 64, 7), (4, 65, 5), (3, 96, 2)]
)
def test_output_shape(name, channels, side, classes):
    if side % catalogue.SIDE_MULTIPLE.get(name, 1):
        side = 68
    network = on_meta(name, channels, side, classes)
    assert network(torch.empty(2, channels, side, side, device="meta")).shape == (2, classes)


@pytest.mark.parametrize("name", NAMES)
def test_every_side_leaves_a_pixel(name):
    for side in range(catalogue.SMALLEST_SIDE[name], 18, catalogue.SIDE_MULTIPLE.get(name, 1)):
        network = on_meta(name, 1, side, 10)
        assert network(torch.empty(2, 1, side, side, device="meta")).shape == (2, 10), side


def test_large_image_with_numbers():
    logits = networks.build("resnet18", 1, 96, 5)(torch.randn(2, 1, 96, 96))
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("linear", (1, 28, 10), 7_840),
        ("linear", (3, 32, 10), 30_720),
        ("mlp", (1, 28, 10), 135_680),
        ("cnn", (3, 32, 10), 1_555_136),
        ("resnet18", (3, 32, 10), 11_164_352),
        ("preact_resnet18", (3, 32, 10), 11_164_352),
    ],
)
def test_prunable_weights_match_sap(name, shape, expected):
    assert prunable_count(on_meta(name, *shape)) == expected


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        # LeNet-5 with every pair of maps connected; torchvision's documented sizes; the WRN paper's 23.4M.
        ("lenet5", (1, 28, 10), 61_706),
        ("vgg11", (3, 224, 1000), 132_863_336),
        ("vgg16_bn", (3, 224, 1000), 138_365_992),
        ("vgg19", (3, 224, 1000), 143_667_240),
        ("resnet34", (3, 224, 1000), 21_797_672),
        ("resnet50", (3, 224, 1000), 25_557_032),
        ("wide_resnet28_8", (3, 32, 10), 23_354_842),
    ],
)
def test_parameter_count_matches_the_published(name, shape, expected):
    assert sum(p.numel() for p in on_meta(name, *shape).parameters()) == expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", [32, 96])
def test_layers_run_once_in_the_order_of_their_names(name, side):
    network = on_meta(name, 3, side, 10)
    called = []
    for layer_name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda *_, layer_name=layer_name: called.append(layer_name))
    network(torch.empty(2, 3, side, side, device="meta"))
    listed = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert sorted(called) == sorted(listed)
    assert [n for n in called if not is_side_branch(n)] == [n for n in listed if not is_side_branch(n)]
    assert not any(getattr(module, "inplace", False) for module in network.modules() if isinstance(module, nn.ReLU))


def is_side_branch(layer_name: str) -> bool:
    return "downsample" in layer_name or "shortcut" in layer_name


@pytest.mark.parametrize("name", ["mlp", "cnn", "lenet5", "vgg11", "resnet18"])
def test_seed_decides_the_weights(name):
    def weights(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return networks.build(name, 1, 8, 10).state_dict()

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", ["cnn", "vgg11", "resnet18", "preact_resnet18", "wide_resnet28_8"])
def test_convolutions_are_drawn_kaiming_normal(name):
    torch.manual_seed(0)
    network = networks.build(name, 3, 32, 10)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.15)
            assert module.bias is None or not module.bias.any()


def test_sap_s_resnet18_activates_before_it_convolves():
    """Written out from the description of SAP's code (arXiv 2302.05601), in eval mode."""
    network = networks.build("preact_resnet18", 3, 16, 10).eval()
    assert not network.classifier.bias.any()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.3)
    images = torch.randn(2, 3, 16, 16)
    x = network.conv1(images)
    for stage, stride in (network.stage1, 1), (network.stage2, 2), (network.stage3, 2), (network.stage4, 2):
        for block, step in zip(stage, (stride, 1), strict=True):
            read = F.relu(block.bn1(x))
            written = F.conv2d(read, block.conv1.weight, stride=step, padding=1)
            written = F.conv2d(F.relu(block.bn2(written)), block.conv2.weight, padding=1)
            x = written + (F.conv2d(read, block.shortcut.weight, stride=2) if step == 2 else x)
    expected = network.classifier(F.relu(network.bn(x)).mean((2, 3)))
    torch.testing.assert_close(network(images), expected)


@pytest.mark.parametrize("name", ["vgg16", "vgg19_bn"])
def test_vgg_drops_only_the_pools_without_pixels(name):
    def pools(side: int) -> int:
        return sum(isinstance(module, nn.MaxPool2d) for module in on_meta(name, 3, side, 10).modules())

    assert [pools(side) for side in (8, 28, 32, 64, 65)] == [3, 4, 5, 5, 5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("alexnet", 3, 32, 10), "unknown network 'alexnet'"),
        (("cnn", 3, 7, 10), "at least 8 pixels, got 7"),
        (("cnn", 3, 32, 10, True), "cnn has no pretrained weights"),
        (("vgg16", 1, 28, 10, True), "needs grey or RGB images of at least 32 pixels, got 1x28x28"),
        (("resnet50", 3, 224, 10, True, False, 28), "needs grey or RGB images of at least 32 pixels, got 3x28x28"),
        (("resnet18", 2, 32, 10, True), "needs grey or RGB images of at least 32 pixels, got 2x32x32"),
        (("cnn", 3, 32, 10, False, False, 7), "at least 8 pixels, got 7"),
        (("vit", 3, 32, 10, False, False, 30), "a multiple of 4, got 30"),
    ],
)
def test_impossible_networks_are_refused(arguments, message):
    with pytest.raises(networks.NetworkError, match=message):
        networks.build(*arguments)


def resized_and_plain(name="resnet18", channels=1, side=8, pretrained=True, resize=32):
    """A network that resizes its images, the same without that, images, and the images as the second takes them."""
    resized = networks.build(name, channels, side, 5, pretrained, download=False, resize=resize)
    read = 3 if pretrained else channels
    plain = networks.build(name, read, resize, 5, pretrained, download=False)
    plain.load_state_dict(resized.state_dict())
    images = torch.randn(6, channels, side, side)
    larger = F.interpolate(images, (resize, resize), mode="bilinear", antialias=True).repeat(1, read // channels, 1, 1)
    return resized, plain, images, larger


@pytest.mark.parametrize(
    ("name", "channels", "side", "pretrained", "resize"),
    [
        ("resnet18", 1, 8, True, 32),
        ("resnet50", 3, 32, True, 64),
        ("lenet5", 1, 8, False, 28),
        ("vit", 3, 30, False, 16),
    ],
)
def test_resized_images_are_answered_as_images_of_that_side(name, channels, side, pretrained, resize):
    resized, plain, images, larger = resized_and_plain(name, channels, side, pretrained, resize)
    torch.testing.assert_close(resized.eval()(images), plain.eval()(larger))
    assert multiply_accumulates(resized, images.shape[1:]) == multiply_accumulates(plain, larger.shape[1:])


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "resnet50"])
@pytest.mark.parametrize("shape", [(1, 28), (3, 32)])
def test_incop_s_networks_take_its_images(name, shape):
    with torch.device("meta"):
        network = networks.build(name, *shape, 10, pretrained=True, download=False, resize=224)
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    read = []
    first.register_forward_hook(lambda module, inputs, output: read.append(tuple(inputs[0].shape)))
    images = torch.empty(2, shape[0], shape[1], shape[1], device="meta")
    assert network(images).shape == (2, 10)
    assert read == [(2, 3, 224, 224)]


def test_what_is_made_smaller_is_smoothed_first():
    resized, _, _, _ = resized_and_plain("linear", 1, 16, False, 4)
    first = []
    resized.classifier.register_forward_hook(lambda module, inputs, output: first.append(inputs[0]))
    stripes = (torch.arange(16) % 2).float().expand(1, 1, 16, 16)
    resized(stripes)
    assert (first[0] - 0.5).abs().max() < 0.1  # without antialias a stripe would be met or missed


def test_flow_and_channels_are_those_of_the_resized_images():
    resized, plain, images, larger = resized_and_plain()
    labels = torch.arange(6) % 5
    torch.testing.assert_close(information_flow(resized, images), information_flow(plain, larger))
    torch.testing.assert_close(gradient_flow(resized, images, labels), gradient_flow(plain, larger, labels))
    groups, expected = channels.groups(resized, (1, 8, 8)), channels.groups(plain, (3, 32, 32))
    assert [(group.name, group.size) for group in groups] == [(group.name, group.size) for group in expected]
    alive = {group.name: torch.arange(group.size) % 4 != 0 for group in groups}
    kept = channels.expand(groups, alive, masks.ones(resized))
    small = channels.compact(resized, groups, kept)
    masks.apply(resized, kept)
    torch.testing.assert_close(small.eval()(images), resized.eval()(images), rtol=1e-4, atol=1e-5)


def test_a_network_for_native_images_leaves_them_as_they_are():
    for arguments in (
        ("resnet18", 3, 32, 5, True, False, 32),
        ("lenet5", 1, 8, 5),
        ("lenet5", 1, 8, 5, False, True, 8),
    ):
        assert not networks.build(*arguments)._forward_pre_hooks
