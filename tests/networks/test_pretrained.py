"""Weights pretrained on ImageNet: used if they are the published ones, otherwise refused in one line."""

import hashlib
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import nn

from hostile import Touch
from prunus import networks
from prunus.networks import pretrained
from prunus.study import catalogue

# Weights from torchvision


def test_weights_that_are_not_the_published_ones_are_never_unpickled(tmp_path, marker, monkeypatch):
    from prunus import networks

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch, "load", lambda *args, **options: pytest.fail("was unpickled"))
    (tmp_path / "checkpoints").mkdir()
    file = tmp_path / "checkpoints" / "resnet18-f37072fd.pth"
    torch.save(Touch(marker), file)
    with pytest.raises(networks.NetworkError, match="resnet18-f37072fd.pth.*the file is not the published one"):
        networks.build("resnet18", 3, 32, 10, pretrained=True)
    assert not marker.exists()


def test_published_weights_are_known_by_their_hash(tmp_path):
    from prunus.networks.pretrained import is_published

    digest = hashlib.sha256(b"weights").hexdigest()
    for name, good in ((digest[:8], True), ("00000000", False)):
        (tmp_path / f"net-{name}.pth").write_bytes(b"weights")
        assert is_published(tmp_path / f"net-{name}.pth") == good


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
