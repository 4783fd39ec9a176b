"""Networks: shapes, published sizes, order and use of layers, pretrained weights, and MACs against torch's counter."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from prunus import channels, masks, networks
from prunus.evaluation.macs import multiply_accumulates
from prunus.flow import gradient_flow, information_flow
from prunus.networks import pretrained, vit
from prunus.study import catalogue

NAMES = list(catalogue.SMALLEST_SIDE)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def on_meta(name: str, channels: int, side: int, classes: int) -> nn.Module:
    """A network with shapes but no numbers, which costs nothing however large it is."""
    with torch.device("meta"):
        return networks.build(name, channels, side, classes)


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


@pytest.fixture
def checkpoints(tmp_path, monkeypatch) -> Path:
    """An empty hub folder on a machine without a network."""

    def unreachable(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


# vgg's 1000-class form alone takes a second to allocate; every name shares the code that loads weights.
@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_missing_pretrained_weights_say_what_to_do(name, checkpoints):
    with pytest.raises(networks.NetworkError) as caught:
        networks.build(name, 3, 32, 10, pretrained=True)
    message = str(caught.value)
    assert "\n" not in message
    for part in (name, "no route to host", "network.pretrained: false", ".pth", str(checkpoints)):
        assert part in message


def test_broken_pretrained_weights_say_what_to_do(checkpoints):
    (checkpoints / "resnet18-f37072fd.pth").write_bytes(b"<html>not found</html>")
    with pytest.raises(networks.NetworkError, match=r"could not load resnet18-f37072fd\.pth"):
        networks.build("resnet18", 3, 32, 10, pretrained=True)


def test_pretrained_weights_are_taken_and_the_last_layer_replaced(checkpoints, monkeypatch):
    from torchvision.models import resnet18

    monkeypatch.setattr(pretrained, "is_published", lambda file: True)
    stored = resnet18().state_dict()
    torch.save(stored, checkpoints / "resnet18-f37072fd.pth")
    network = networks.build("resnet18", 3, 32, 7, pretrained=True)
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    assert all(torch.equal(p, stored[name]) for name, p in network.named_parameters() if not name.startswith("fc."))


@pytest.mark.parametrize("name", catalogue.PRETRAINED)
def test_every_pretrained_name_has_weights_and_its_imagenet_form(name, monkeypatch):
    from torchvision.models import get_model_weights

    def as_published(network: nn.Module, name: str) -> None:
        published = get_model_weights(name)["IMAGENET1K_V1"].meta["num_params"]
        assert sum(p.numel() for p in network.parameters()) == published

    monkeypatch.setattr("prunus.networks.vgg.load_imagenet", as_published)
    monkeypatch.setattr("prunus.networks.resnet.load_imagenet", as_published)
    with torch.device("meta"):
        network = networks.build(name, 3, 32, 7, pretrained=True)
    assert network(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 7)


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
    found, expected = channels.groups(resized, (1, 8, 8)), channels.groups(plain, (3, 32, 32))
    assert [(group.name, group.size) for group in found] == [(group.name, group.size) for group in expected]
    alive = {group.name: torch.arange(group.size) % 4 != 0 for group in found}
    kept = channels.expand(found, alive, masks.ones(resized))
    small = channels.compact(resized, found, kept)
    masks.apply(resized, kept)
    torch.testing.assert_close(small.eval()(images), resized.eval()(images), rtol=1e-4, atol=1e-5)


def test_a_network_for_native_images_leaves_them_as_they_are():
    for arguments in (
        ("resnet18", 3, 32, 5, True, False, 32),
        ("lenet5", 1, 8, 5),
        ("lenet5", 1, 8, 5, False, True, 8),
    ):
        assert not networks.build(*arguments)._forward_pre_hooks


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 96, 96)])
def test_macs_match_torch(name, shape):
    network = on_meta(name, shape[0], shape[1], 10).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, *shape, device="meta"))
    counts = multiply_accumulates(network, shape)
    tokens = (shape[1] // 4) ** 2
    attention = 4 * 2 * tokens**2 * 96 if name == "vit" else 0  # query with key and weights with value, four blocks
    assert sum(counts.values()) + attention == counter.get_total_flops() / 2
    assert list(counts) == [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def test_macs_of_resnet18():
    assert sum(multiply_accumulates(on_meta("resnet18", 3, 32, 10), (3, 32, 32)).values()) == 555_422_720


def test_macs_scale_with_alive_weights():
    network = networks.build("lenet5", 1, 8, 10)
    dense = multiply_accumulates(network, (1, 8, 8))
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in network.named_parameters() if p.dim() > 1}
    assert multiply_accumulates(network, (1, 8, 8), masks) == dense
    masks["conv2.weight"][:, :3] = False
    masks["fc1.weight"][:] = False
    sparse = multiply_accumulates(network, (1, 8, 8), masks)
    assert sparse == {**dense, "conv2": dense["conv2"] // 2, "fc1": 0}
    assert multiply_accumulates(network, (1, 8, 8), {"fc1.weight": masks["fc1.weight"]}) == {**dense, "fc1": 0}


def test_macs_leave_the_network_as_it_was():
    network = networks.build("cnn", 1, 8, 10).train()
    network.bn1.eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    multiply_accumulates(network, (1, 8, 8))
    assert network.training
    assert network.bn2.training
    assert not network.bn1.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
    with pytest.raises(RuntimeError):
        multiply_accumulates(network, (3, 8, 8))
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())


def test_vit_has_the_size_of_its_formula():
    tokens, width, hidden = 49, 96, 192
    block = 2 * 2 * width + 4 * (width**2 + width) + (2 * width * hidden + hidden + width)
    ends = (16 * width + width) + tokens * width + 2 * width + (10 * width + 10)
    assert sum(p.numel() for p in on_meta("vit", 1, 28, 10).parameters()) == 4 * block + ends


def test_vit_weights_are_drawn_truncated_normal():
    network = networks.build("vit", 3, 32, 10)
    for parameter in (network.position, *(m.weight for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear))):
        assert parameter.std().item() == pytest.approx(0.02, rel=0.1)
    assert not any(m.bias.any() for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear))


def test_attention_is_torchs_attention():
    attention = vit.Attention(12, heads=3)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    layers = attention.query, attention.key, attention.value
    theirs.in_proj_weight.data = torch.cat([layer.weight for layer in layers])
    theirs.in_proj_bias.data = torch.cat([layer.bias for layer in layers])
    theirs.out_proj = attention.projection
    tokens = torch.randn(2, 5, 12)
    torch.testing.assert_close(attention(tokens), theirs(tokens, tokens, tokens)[0])


def test_vit_is_twice_differentiable_and_runs_under_functional_transforms():
    network = vit.VisionTransformer(1, 8, 3, width=8, depth=1, heads=2).double()
    images = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}

    def outputs(query: torch.Tensor) -> torch.Tensor:
        return functional_call(network, weights | {"blocks.0.attention.query.weight": query}, images)

    query = (10 * weights["blocks.0.attention.query.weight"]).requires_grad_()
    assert torch.autograd.gradgradcheck(outputs, query)
    assert torch.func.jacrev(outputs)(query).shape == (2, 3, 8, 8)


def test_a_side_that_patches_do_not_cover_is_refused():
    with pytest.raises(networks.NetworkError, match=r"^vit needs an image side that is a multiple of 4, got 30$"):
        networks.build("vit", 1, 30, 10)
    assert catalogue.misfit("image_folder", "vit", 30, False) == (
        "needs an image side that is a multiple of 4, image_folder has 30"
    )
    assert catalogue.misfit("image_folder", "vit", 32, False) is None
