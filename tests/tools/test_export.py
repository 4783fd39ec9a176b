"""Exported networks: what is in the files, who can read them, and that a wrong file never appears."""

import copy
import gzip
import importlib.util
import json
import shutil
import sys

import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import export
import exporting
from prunus import channels, networks
from prunus import masks as masking
from prunus.data import dataset
from prunus.networks import checkpoint
from prunus.networks.vit import Attention
from prunus.run.errors import StageError
from prunus.study import layout

ROOT = layout.ROOT
SHAPE, CLASSES = (1, 8, 8), tuple("abcdefghij")
FORMATS = tuple(exporting.SUFFIXES)
MEAN, STD = torch.tensor([0.3]), torch.tensor([0.2])
IMAGES = torch.randint(0, 256, (40, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def lively(name, pretrained=False, shape=SHAPE):
    """A network of the catalogue with statistics, scales and shifts of its norms that are not trivial."""
    network = networks.build(name, *shape[:2], len(CLASSES), pretrained, download=False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def without_channels(network):
    """Masks without half the channels of every group."""
    groups = channels.groups(network, SHAPE)
    alive = {group.name: torch.arange(group.size) % 2 == 0 for group in groups}
    return groups, channels.expand(groups, alive, masking.ones(network))


def masked(name):
    network = lively(name)
    masking.apply(network, {key: torch.rand_like(weight) < 0.4 for key, weight in masking.prunable(network).items()})
    return network


def compacted(name):
    network = lively(name)
    return channels.compact(network, *without_channels(network))


MADE = {
    "lenet5 masked": lambda: masked("lenet5"),
    "cnn compacted": lambda: compacted("cnn"),
    "vit compacted": lambda: compacted("vit"),
}


def deployed(case):
    """A network behind its normalisation, what its file says of it, and its logits for ``IMAGES``."""
    torch.manual_seed(0)
    network = MADE[case]()
    image = exporting.Deployed(network, MEAN, STD)
    about = exporting.describe(image, case.split()[0], False, "native", SHAPE, CLASSES) | {"test_accuracy": 0.5}
    with torch.no_grad():
        return image, about, network((IMAGES / 255 - 0.3) / 0.2)


def metadata(path, form):
    """What a file says of itself, read as its format's own tools do."""
    if form == "safetensors":
        with safe_open(path, framework="np") as file:
            return json.loads(file.metadata()["prunus"])
    if form == "onnx":
        return json.loads(onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map["prunus"])
    extra = {"prunus.json": ""}
    torch.export.load(path, extra_files=extra)
    return json.loads(extra["prunus.json"])


@pytest.mark.parametrize("case", MADE)
@pytest.mark.parametrize("form", FORMATS)
def test_a_file_answers_what_the_network_does_for_any_number_of_images(form, case, tmp_path):
    network, about, expected = deployed(case)
    path = tmp_path / f"folder/network{exporting.SUFFIXES[form]}"
    reloaded, found = exporting.save(path, form, network, about, IMAGES, expected, threads=1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert expected.std(0).min() > 1e-4
    with torch.no_grad():
        for number in (1, 3, 40):
            answer = reloaded.eval()(IMAGES[:number] / 255)
            torch.testing.assert_close(answer, expected[:number], atol=1e-5, rtol=1e-5)
    assert metadata(path, form) == about
    assert about["input"] == "images: float32 [N, 1, 8, 8] on the 0..1 scale, not normalised"
    assert about["classes"] == list(CLASSES)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("form", ["onnx", "torch_export"])
def test_a_file_does_not_say_where_it_was_made(form, tmp_path):
    network, about, expected = deployed("lenet5 masked")
    exporting.save(tmp_path / "file", form, network, about, IMAGES, expected, threads=1)
    content = (tmp_path / "file").read_bytes()
    for words in (str(layout.ROOT), "site-packages", "exporting.py", "in forward"):
        assert words.encode() not in content


def test_the_tensors_of_a_masked_network_are_its_state_dict(tmp_path):
    network, about, expected = deployed("lenet5 masked")
    exporting.save(tmp_path / "file", "safetensors", network, about, IMAGES, expected, threads=1)
    plain = networks.build("lenet5", 1, 8, 10)
    plain.load_state_dict(load_file(tmp_path / "file"))
    torch.testing.assert_close(plain((IMAGES / 255 - 0.3) / 0.2), expected)


@pytest.mark.parametrize("case", ["cnn compacted", "vit compacted"])
def test_a_compacted_network_comes_back_with_the_sizes_it_has(case, tmp_path):
    network, about, expected = deployed(case)
    exporting.save(tmp_path / "file", "safetensors", network, about, IMAGES, expected, threads=1)
    again = exporting.load_exported(tmp_path / "file").network
    assert str(again) == str(network.network)
    assert str(again) != str(networks.build(about["network"], 1, 8, 10))
    heads = [module.heads for module in again.modules() if isinstance(module, Attention)]
    assert heads == ([2] * 4 if case.startswith("vit") else [])


def test_a_pretrained_form_comes_back(tmp_path):
    network = exporting.Deployed(lively("resnet18", True, (3, 32)), MEAN.repeat(3), STD.repeat(3))
    about = exporting.describe(network, "resnet18", True, "native", (3, 32, 32), CLASSES)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    expected = network(images / 255).detach()
    exporting.save(tmp_path / "file", "safetensors", network, about, images, expected, threads=1)
    assert exporting.load_exported(tmp_path / "file").network.conv1.kernel_size == (7, 7)


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_resizes_the_images_itself(form, tmp_path):
    resized = networks.build("resnet18", *SHAPE[:2], len(CLASSES), True, download=False, resize=32).eval()
    network = exporting.Deployed(resized, MEAN, STD)
    about = exporting.describe(network, "resnet18", True, 32, SHAPE, CLASSES)
    expected = network(IMAGES / 255).detach()
    _, found = exporting.save(tmp_path / "file", form, network, about, IMAGES, expected, threads=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_equal_networks_are_equal_safetensors(tmp_path):
    network, about, expected = deployed("cnn compacted")
    for name in "ab":
        exporting.save(tmp_path / name, "safetensors", copy.deepcopy(network), about, IMAGES, expected, threads=1)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_answers_differently_is_not_kept(form, tmp_path):
    network, about, expected = deployed("lenet5 masked")
    for wrong in (expected + 0.001, expected * float("nan")):
        with pytest.raises(StageError, match=f"the {form} file answers differently .* was not kept"):
            exporting.save(tmp_path / "file", form, network, about, IMAGES, wrong, threads=1)
        assert not list(tmp_path.iterdir())


def test_a_failed_export_leaves_the_old_file(tmp_path, monkeypatch):
    network, about, expected = deployed("lenet5 masked")
    (tmp_path / "file").write_text("old")

    def half(deployed, about, path):
        path.write_text("half")
        raise OSError("the disk is full")

    monkeypatch.setitem(exporting._WRITERS, "safetensors", half)
    with pytest.raises(StageError, match="file: cannot be written .the disk is full"):
        exporting.save(tmp_path / "file", "safetensors", network, about, IMAGES, expected, threads=1)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "old")]


def test_a_damaged_file_is_not_kept(tmp_path, monkeypatch):
    network, about, expected = deployed("lenet5 masked")
    write = exporting._WRITERS["safetensors"]

    def damaged(deployed, about, path):
        write(deployed, about, path)
        path.write_bytes(path.read_bytes()[:-100])

    monkeypatch.setitem(exporting._WRITERS, "safetensors", damaged)
    with pytest.raises(StageError, match="cannot be written"):
        exporting.save(tmp_path / "file", "safetensors", network, about, IMAGES, expected, threads=1)
    assert not list(tmp_path.iterdir())


def test_packages_that_are_missing_are_named(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name.startswith("onnx") else found(name))
    with pytest.raises(StageError, match="`pip install onnx onnxscript onnxruntime` installs it"):
        exporting.check_installed("onnx")
    exporting.check_installed("safetensors")
    exporting.check_installed("torch_export")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A project of which two iterations have run: a LeNet-5 loses weights in the first, channels in the second."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(layout, "ROOT", tmp_path)
    monkeypatch.setattr(export, "BATCHES", (1,))
    shutil.copy(ROOT / "params.yaml", tmp_path)
    splits = {name: dataset.Split(IMAGES.clone(), torch.arange(40) % 10) for name in ("train", "test")}
    dataset.save(layout.DATASET, "digits", splits, CLASSES)
    network = lively("lenet5")
    checkpoint.save(layout.rewind_point(0, "trained"), network.state_dict(), masking.ones(network))
    weights = {name: torch.rand_like(weight) < 0.5 for name, weight in masking.prunable(network).items()}
    for t, kept in ((1, weights), (2, without_channels(network)[1])):
        masking.apply(network, kept)
        checkpoint.save(layout.iteration(0, "sap", t) / layout.NETWORK, network.state_dict(), kept)
    return tmp_path


def run(monkeypatch, *options, method="sap", iteration=1, form="safetensors", seed=0):
    arguments = {"seed": seed, "method": method, "iteration": iteration, "format": form}
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["export.py", *words, *options])
    export.main()


@pytest.mark.parametrize(
    ("t", "name", "said"),
    [
        (0, "digits-lenet5-seed0-dense", "density 100.00%, 0.0% of the channels removed"),
        (1, "digits-lenet5-seed0-sap-1", "of the weights in the file are zero"),
        (2, "digits-lenet5-seed0-sap-2", "50.0% of the channels removed"),
    ],
)
def test_the_script_exports_dense_masked_and_compacted_networks(study, monkeypatch, capsys, t, name, said):
    run(monkeypatch, iteration=t)
    path = study / f"exports/{name}.safetensors"
    printed = capsys.readouterr().out
    assert said in printed and f"{len(gzip.compress(path.read_bytes())):,} with gzip" in printed
    network = exporting.load_exported(path)
    dense, parameters = 21386, sum(parameter.numel() for parameter in network.parameters())
    assert [*map(int, printed.splitlines()[1].replace(",", "").split()[1:])] == [parameters, dense]
    assert (parameters < dense) == (t == 2)
    state, _ = checkpoint.load(layout.iteration(0, "sap", t) / layout.NETWORK, torch.device("cpu"), "")
    plain = networks.build("lenet5", 1, 8, 10)
    plain.load_state_dict(state)
    data = dataset.load(layout.DATASET, "cpu", splits=("test",))
    torch.testing.assert_close(network(IMAGES / 255), plain(data.normalise(IMAGES)), atol=1e-5, rtol=1e-5)
    about = metadata(path, "safetensors")
    assert (about["dataset"], about["seed"], about["iteration"]) == ("digits", 0, t)
    assert about["method"] == ("sap" if t else "dense")
    correct = (network(IMAGES / 255).argmax(1) == data.splits["test"].labels).double().mean().item()
    assert about["test_accuracy"] == pytest.approx(correct)


def test_the_script_writes_onnx_where_it_is_told_to(study, monkeypatch, capsys):
    (study / "elsewhere").mkdir()
    monkeypatch.chdir(study / "elsewhere")
    run(monkeypatch, "--output", "net.onnx", form="onnx")
    said = capsys.readouterr()
    assert (study / "elsewhere/net.onnx").exists() and "net.onnx: " in said.out and said.err == ""


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"iteration": 9}, "--iteration 9: the study has 0, 1, 2, 3, 4, 5"),
        ({"iteration": -1}, "--iteration -1: the study has 0, 1, 2, 3, 4, 5"),
        ({"method": "spa"}, "--method spa: the study has one_shot, lth, sap, incop_if, incop_gf; the dense network is"),
        ({"seed": 7}, "--seed 7: the study has 0, 1"),
        ({"iteration": 3}, "is missing; `python stages/prune_iteration.py --seed 0 --method sap --iteration 3` makes"),
        ({"seed": 1, "iteration": 0}, "is missing; `python stages/pretrain.py --seed 1` makes"),
    ],
)
def test_what_does_not_exist_is_one_clear_error(study, monkeypatch, wrong, message):
    with pytest.raises(StageError) as error:
        run(monkeypatch, **wrong)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (study / "exports").exists()


def test_an_unknown_format_names_the_ones_there_are(study, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, form="pickle")
    said = capsys.readouterr().err
    assert "invalid choice: 'pickle'" in said and all(form in said for form in FORMATS)


def test_a_run_of_another_network_than_the_studys_is_an_error(study, monkeypatch):
    text = (study / "params.yaml").read_text()
    (study / "params.yaml").write_text(text.replace("network: lenet5 ", "network: cnn "))
    with pytest.raises(StageError, match="holds another network than params.yaml asks for"):
        run(monkeypatch)
