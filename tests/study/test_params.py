"""Every mistake in params.yaml gets its line: the key, the value and what is allowed."""

import copy
import errno
import math
import os
import subprocess
import sys

import pytest

from prunus.study import checks, layout, mistakes, params
from prunus.study.reading import parse
from prunus.study.schema import takes

PROJECT = params.read()


@pytest.fixture
def raw():
    return parse((layout.ROOT / "params.yaml").read_text(), "params.yaml")


def put(raw, key, value):
    *parents, last = key.split(".")
    for name in parents:
        raw = raw[name]
    raw[last] = value


DELETED = object()


def changed(raw, changes):
    """Change the keys of methods' blocks in place."""
    for key, value in changes.items():
        method, name = key.split(".")
        if value is DELETED:
            del raw["methods"][method][name]
        else:
            raw["methods"][method][name] = value


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("training.epoch", 3, "training.epoch: 3 is an unknown key"),
        ("training.epochs", "ten", "training.epochs: 'ten' should be a valid integer"),
        ("training.epochs", 0, "training.epochs: 0 should be greater than or equal to 1"),
        ("training.epochs", True, "training.epochs: True should be a valid integer"),
        ("training.sgd.schedule", "step", "training.sgd.schedule: 'step' should be 'constant' or 'cosine'"),
        ("methods.sap.p", 1.0, "p < q, got p: 1.0, q: 1.0"),
        ("methods.sap.q", 0.2, "methods.sap: "),
        ("methods.incop_if.epsilon", -0.1, "methods.incop_if.epsilon: -0.1 should be greater than or equal to 0"),
        ("methods.incop_if.epsilon", "small", "methods.incop_if.epsilon: 'small' should be a valid number"),
        ("methods.lth.fraction", 1.0, "methods.lth.fraction: 1.0 should be less than 1"),
        ("methods.lth.scope", "filter", "methods.lth.scope: 'filter' should be 'neuron', 'layer' or 'global'"),
        ("methods.sap.score", "random", "methods.sap.score: 'random' should be 'magnitude', 'synaptic', 'layerwise', "),
        ("methods.sap.index", "l0", "methods.sap.index: 'l0' should be 'pq', 'gini' or 'hoyer'"),
        ("methods.lth.stop", "flow", "methods.lth.stop: 'flow' should be 'fixed' or 'plateau'"),
        ("methods.early_stopping.patience", 0, "methods.early_stopping.patience: 0 should be greater than or equal to"),
        ("methods.lottery", {}, "methods.lottery: no such method; allowed: early_stopping, fixed_epochs, imp_channels"),
        (
            "study.methods",
            ["sap", "random_pruning"],
            "study.methods: 'random_pruning' has no block under methods; blocks: one_shot, lth",
        ),
        ("study.methods", ["sap", "sap"], "study.methods: 'sap' is listed twice"),
        ("study.methods", [], "study.methods: [] "),
        ("study.seeds", [0, 0], "study.seeds: 0 is listed twice"),
        ("data.image_folder.path", "~/pets", "data.image_folder.path: '~/pets' must name a folder of this machine"),
        ("data.image_folder.path", "s3://a", "data.image_folder.path: 's3://a' must name a folder of this machine"),
        ("study.seeds", [-1], "study.seeds[0]: -1 should be greater than or equal to 0"),
        ("study.dataset", "imagenet", "study.dataset: 'imagenet' unknown dataset; allowed: digits, mnist"),
        ("study.network", "resnet101", "study.network: 'resnet101' unknown network; allowed: linear, mlp"),
        ("study.iterations", [{"t": 1, "after": "../dense"}, {"t": 3, "after": "iteration-2"}], "must be {t: 2, after"),
        ("study.iterations", [{"t": 1, "after": "iteration-0"}], "must be {t: 1, after: ../dense}"),
        ("evaluation.fraction", 0.0, "evaluation.fraction: 0.0 should be greater than 0"),
        ("evaluation.fraction", 1.5, "evaluation.fraction: 1.5 should be less than or equal to 1"),
        ("evaluation.fraction", "all", "evaluation.fraction: 'all' should be a valid number"),
        ("evaluation.latency_seconds", -1, "evaluation.latency_seconds: -1 should be greater than or equal to 0"),
        ("evaluation.latency_seconds", math.inf, "evaluation.latency_seconds: inf should be less than or equal to "),
        ("evaluation.latency_seconds", math.nan, "evaluation.latency_seconds: nan should be "),
        ("network.side", 0, "network.side: 0 must be native or a number of pixels from 1 to 1024"),
        ("network.side", 1025, "network.side: 1025 must be native or a number of pixels from 1 to 1024"),
        ("network.side", True, "network.side: True must be native or a number of pixels from 1 to 1024"),
        ("network.side", 224.0, "network.side: 224.0 must be native or a number of pixels from 1 to 1024"),
        ("network.side", "small", "network.side: 'small' must be native or a number of pixels from 1 to 1024"),
        ("network.side", 7, "study.network: lenet5 needs images of at least 8 pixels, network.side is 7"),
        ("network.pretrained", True, "study.network: lenet5 has no pretrained weights; these have: vgg11"),
        ("training.sgd.nesterov", "yes", "training.sgd.nesterov: 'yes' should be a valid boolean"),
        ("device.precision", "half", "device.precision: 'half' should be 'float32' or 'bfloat16'"),
        (
            "device.memory_format",
            "nhwc",
            "device.memory_format: 'nhwc' should be 'auto', 'contiguous' or 'channels_last'",
        ),
        ("data.validation_fraction", 1.5, "data.validation_fraction: 1.5 should be less than 1"),
        ("data.classes", [3], "data.classes: [3] must be all or a list of at least two class numbers"),
        ("data.classes", "some", "data.classes: 'some' must be all or a list of at least two class numbers"),
        ("data.classes", [0, 1.0], "data.classes: [0, 1.0] must be all or a list of at least two class numbers"),
        ("data.classes", [-1, 1], "data.classes: [-1, 1] must be all or a list of at least two class numbers"),
        ("data.classes", [4, 2, 4], "data.classes: 4 is listed twice"),
        ("data.classes", [0, 10], "data.classes: 10 is not a class of digits; allowed: 0 to 9"),
        ("data.fraction", 0.0, "data.fraction: 0.0 should be greater than 0"),
        ("data.fraction", 1.1, "data.fraction: 1.1 should be less than or equal to 1"),
        ("data.imbalance", 0.5, "data.imbalance: 0.5 should be greater than or equal to 1"),
    ],
)
def test_one_line_names_key_value_and_what_is_allowed(raw, key, value, message):
    put(raw, key, value)
    with pytest.raises(mistakes.ParamsError) as error:
        checks.validate(raw)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sap.patience": 2}, "methods.sap.patience: 2 does nothing with stop: fixed; remove it"),
        ({"sap.patience": None}, "methods.sap.patience: None does nothing with stop: fixed; remove it"),
        ({"sap.stop": "plateau"}, "methods.sap.patience: is missing; stop: plateau needs it"),
        ({"lth.stop": "plateau", "lth.patience": None}, "methods.lth.patience: None should be a valid integer"),
        ({"lth.stop": "plateau", "lth.patience": 0}, "methods.lth.patience: 0 should be greater than or equal to 1"),
        ({"lth.stop": "never", "lth.patience": 2}, "methods.lth.stop: 'never' should be 'fixed' or 'plateau'"),
        ({"sap.eta": DELETED}, "methods.sap.eta: is missing; index: pq needs it"),
        ({"sap.p": DELETED}, "methods.sap.p: is missing; index: pq needs it"),
        (
            {"incop_if.index": "gini", "incop_if.p": DELETED, "incop_if.q": DELETED},
            "methods.incop_if.eta: 0.0 does nothing with index: gini; remove it",
        ),
        ({"incop_gf.metric": "cosine"}, "methods.incop_gf.relative: True does nothing with metric: cosine; remove it"),
        ({"incop_if.relative": DELETED}, "methods.incop_if.relative: is missing; metric: l2 needs it"),
    ],
)
def test_a_key_that_does_nothing_is_refused_and_one_that_is_needed_is_asked_for(raw, changes, message):
    changed(raw, changes)
    with pytest.raises(mistakes.ParamsError) as error:
        checks.validate(raw)
    assert str(error.value) == message


def test_a_key_that_does_nothing_is_in_no_record(raw):
    changed(raw, {f"sap.{name}": DELETED for name in ("p", "q", "eta")} | {"sap.index": "hoyer"})
    changed(raw, {"incop_if.metric": "cosine", "incop_if.relative": DELETED, "lth.stop": "plateau", "lth.patience": 3})
    methods = checks.validate(raw).methods
    assert methods["sap"].model_dump().keys() == raw["methods"]["sap"].keys()
    assert methods["sap"].p is None and methods["incop_if"].relative is None and methods["sap"].patience is None
    assert methods["lth"].model_dump() == raw["methods"]["lth"]
    assert takes(methods["sap"], beta=0.1) and not takes(methods["sap"], p=0.5)
    assert PROJECT.methods["sap"].model_dump().keys() == params.read(methods=[]).methods["sap"].keys()


def test_an_empty_file_and_a_block_that_is_none_are_said_in_words(raw):
    with pytest.raises(mistakes.ParamsError) as error:
        checks.validate(None)
    assert str(error.value).startswith("params.yaml: is empty; it holds the blocks study, imposed, transfer, data, ")
    for key, value, message in (
        ("study", None, "study: None should be a block of keys"),
        ("training.sgd", 3, "training.sgd: 3 should be a block of keys"),
        ("methods", [], "methods: [] should be a block of keys"),
        ("methods.sap", "lth", "methods.sap: 'lth' should be a block of keys"),
        ("study.iterations", [3], "study.iterations[0]: 3 should be a block of keys"),
    ):
        changed = copy.deepcopy(raw)
        put(changed, key, value)
        with pytest.raises(mistakes.ParamsError) as error:
            checks.validate(changed)
        assert str(error.value) == message


def test_a_file_that_may_not_be_looked_at_is_one_line(tmp_path, monkeypatch, capsys):
    def refused(path, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(type(tmp_path), "stat", refused)  # root may look everywhere
    with pytest.raises(SystemExit) as ended:
        params.for_stage([])
    message = capsys.readouterr().err
    assert ended.value.code == 2 and message.count("\n") == 1
    assert message.endswith("params.yaml: cannot be read (Permission denied)\n")


@pytest.mark.skipif(os.getuid() != 0, reason="becoming another user needs root")
def test_a_folder_that_may_not_be_read_is_one_line(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "params.yaml").write_text((layout.ROOT / "params.yaml").read_text())
    code = "import sys, os; from pathlib import Path; from prunus.study import params, mistakes; os.setuid(65534)\n"
    code += "try: params.read(Path(sys.argv[1]))\nexcept mistakes.ParamsError as error: print(error)"
    folder.chmod(0o700)
    options = {"capture_output": True, "text": True, "env": {"PYTHONPATH": str(layout.ROOT / "stages")}}
    done = subprocess.run([sys.executable, "-c", code, str(folder / "params.yaml")], **options)
    assert done.stdout == f"{folder}/params.yaml: cannot be read (Permission denied)\n", done.stderr


def test_a_missing_key_is_named(raw):
    del raw["methods"]["sap"]["gamma"], raw["flow"]["samples"]
    with pytest.raises(mistakes.ParamsError, match="flow.samples: is missing"):
        checks.validate(raw)
    raw["flow"]["samples"] = 10
    with pytest.raises(mistakes.ParamsError, match="methods.sap.gamma: is missing"):
        checks.validate(raw)


def test_a_network_must_take_the_dataset(raw):
    raw["study"]["dataset"], raw["data"]["image_folder"]["side"] = "image_folder", 4
    with pytest.raises(mistakes.ParamsError, match="lenet5 needs images of at least 8 pixels, image_folder has 4"):
        checks.validate(raw)


def test_classes_of_an_image_folder_are_known_when_it_is_read(raw):
    raw["study"]["dataset"], raw["data"]["classes"] = "image_folder", [0, 900]
    assert checks.validate(raw).data.classes == [0, 900]


@pytest.mark.parametrize("path", ["nowhere", "/nowhere/at/all", "params.yaml"])
def test_an_absent_folder_of_own_images_is_named_with_its_key(raw, path):
    assert checks.absent_folder(checks.validate(raw, methods=[])) is None
    put(raw, "data.image_folder.path", path)
    line = checks.absent_folder(checks.validate(raw, methods=[]))
    assert line.startswith(f"data.image_folder.path: '{path}' is not a folder; DVC watches it with every study.dataset")


def test_an_image_folder_that_dvc_was_told_of_and_that_is_not_here_is_pulled(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "ROOT", tmp_path)
    (tmp_path / "pets.dvc").touch()
    put(raw, "data.image_folder.path", "pets")
    assert "`dvc pull pets.dvc` brings it" in checks.absent_folder(checks.validate(raw, methods=[]))


def test_the_method_whose_ratio_is_imposed_exists_even_where_nothing_is_imposed(raw):
    put(raw, "imposed", {"ratio_of": "none", "methods": []})
    with pytest.raises(mistakes.ParamsError, match="imposed.ratio_of: 'none' unknown method; allowed: "):
        checks.validate(raw)


def test_information_flow_needs_two_layers(raw):
    raw["study"]["network"] = "linear"
    with pytest.raises(mistakes.ParamsError, match="incop_if.*two layers.*linear"):
        checks.validate(raw)
    raw["study"]["methods"] = ["sap", "incop_gf"]
    assert checks.validate(raw).study.network == "linear"


def test_an_imposed_ratio_needs_a_study_that_has_it_and_methods_that_take_it(raw):
    raw["imposed"] = {"ratio_of": "mipp", "methods": ["thinet", "sap", "thinet"]}
    with pytest.raises(mistakes.ParamsError) as error:
        checks.validate(raw)
    lines = str(error.value).splitlines()
    assert lines[0] == "imposed.methods: 'thinet' is listed twice"
    assert lines[1] == "imposed.ratio_of: 'mipp' is not in study.methods; allowed: none of this study"
    assert lines[2].startswith("imposed.methods: 'sap' cannot be given a ratio of channels; allowed: imp_channels,")
    raw["study"]["methods"] = ["sap", "mipp"]
    raw["imposed"] = {"ratio_of": "sap", "methods": ["thinet"]}
    with pytest.raises(mistakes.ParamsError, match="imposed.ratio_of: 'sap' removes single weights, not channels"):
        checks.validate(raw)
    raw["imposed"]["ratio_of"] = "mipp"
    assert checks.validate(raw).imposed.chains == ["thinet_at_mipp"]


def transfer(raw, **changes):
    """The lines that ``changes`` of a good transfer to digits of other classes get."""
    raw["transfer"] |= {"datasets": ["digits"], "methods": ["dense", "sap"], "classes": [5, 6, 7]} | changes
    try:
        checks.validate(raw)
    except mistakes.ParamsError as error:
        return str(error).splitlines()
    return []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": ["imagenet"]}, "transfer.datasets[0]: 'imagenet' unknown dataset; allowed: digits, mnist"),
        ({"datasets": ["digits", "digits"]}, "transfer.datasets: 'digits' is listed twice"),
        ({"datasets": ["mnist"]}, "transfer.datasets: 'mnist' has images of 1x28x28, digits has 1x8x8"),
        ({"datasets": ["image_folder"]}, "transfer.datasets: 'image_folder' has images of 3x64x64, digits has 1x8x8"),
        ({"datasets": []}, "transfer.datasets: [] goes with an empty transfer.methods only; list both or neither"),
        ({"methods": []}, "transfer.methods: [] goes with an empty transfer.datasets only; list both or neither"),
        ({"methods": ["sap", "sap"]}, "transfer.methods: 'sap' is listed twice"),
        ({"methods": ["mipp"]}, "transfer.methods: 'mipp' is not in this study; allowed: dense, one_shot, lth, sap,"),
        ({"classes": "all"}, "transfer.datasets: 'digits' is study.dataset, and transfer.classes is data.classes"),
        ({"classes": [5, 10]}, "transfer.classes: 10 is not a class of digits; allowed: 0 to 9"),
        ({"classes": [5]}, "transfer.classes: [5] must be all or a list of at least two class numbers"),
        ({"fraction": 0}, "transfer.fraction: 0 should be greater than 0"),
        ({"start": "trained"}, "transfer.start: 'trained' should be 'retrained' or 'initial'"),
        ({"epochs": 0}, "transfer.epochs: 0 should be greater than or equal to 1"),
    ],
)
def test_a_transfer_names_datasets_of_one_shape_and_methods_of_the_study(raw, changes, message):
    (line,) = transfer(raw, **changes)
    assert line.startswith(message)


def test_transfers_that_make_sense(raw):
    assert transfer(raw) == []
    assert transfer(raw, datasets=[], methods=[], classes=[0, 900]) == []
    raw["study"]["dataset"] = "mnist"
    assert transfer(raw, datasets=["fashion_mnist"], classes="all") == []
    raw["study"]["dataset"], raw["data"]["image_folder"]["side"] = "cifar10", 32
    assert transfer(raw, datasets=["cifar100", "image_folder"], classes=[0, 60]) == []


def test_information_is_measured_between_the_layers_of_chains_of_the_study(raw):
    raw["study"]["methods"] = ["sap", "mipp"]
    raw["imposed"] = {"ratio_of": "mipp", "methods": ["thinet"]}
    raw["information"]["methods"] = ["mipp", "thinet_at_mipp"]
    assert checks.validate(raw).information.methods == ["mipp", "thinet_at_mipp"]
    raw["information"]["methods"] = ["thinet", "sap", "sap"]
    with pytest.raises(mistakes.ParamsError) as error:
        checks.validate(raw)
    assert str(error.value).splitlines() == [
        "information.methods: 'sap' is listed twice",
        "information.methods: 'thinet' is not a chain of this study; allowed: sap, mipp, thinet_at_mipp",
    ]
    raw["study"].update(network="linear", methods=["sap"])
    raw["imposed"]["methods"], raw["information"]["methods"] = [], ["sap"]
    with pytest.raises(mistakes.ParamsError, match="information.methods: measures between layers, and linear has one"):
        checks.validate(raw)
    raw["information"]["methods"] = []
    assert checks.validate(raw).study.network == "linear"


def test_pretrained_takes_grey_images_large_enough(raw):
    raw["network"]["pretrained"], raw["study"]["network"], raw["study"]["dataset"] = True, "resnet18", "mnist"
    message = "resnet18 pretrained needs images of at least 32 pixels, mnist has 28; raise network.side"
    with pytest.raises(mistakes.ParamsError, match=message):
        checks.validate(raw)
    raw["network"]["side"] = 31
    with pytest.raises(mistakes.ParamsError, match="at least 32 pixels, network.side is 31"):
        checks.validate(raw)
    raw["network"]["side"] = 224
    assert checks.validate(raw).network.side == 224


def test_a_network_s_limits_are_those_of_the_resized_side(raw):
    raw["study"].update(network="vit", dataset="image_folder", methods=["sap"])
    raw["data"]["image_folder"]["side"], raw["network"]["side"] = 30, 32
    assert checks.validate(raw).study.network == "vit"
    raw["data"]["image_folder"]["side"], raw["network"]["side"] = 32, 30
    with pytest.raises(mistakes.ParamsError, match="a multiple of 4, network.side is 30"):
        checks.validate(raw)


def test_every_mistake_gets_its_line(raw):
    put(raw, "training.epochs", 0)
    put(raw, "flow.samples", 0)
    with pytest.raises(mistakes.ParamsError) as error:
        checks.validate(raw)
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize("content", ["", "just text", "[1, 2]", "study: 3"])
def test_content_that_is_no_study(tmp_path, content):
    (tmp_path / "params.yaml").write_text(content)
    with pytest.raises(mistakes.ParamsError):
        params.read(tmp_path / "params.yaml")


def test_text_that_is_no_yaml_says_where(tmp_path):
    (tmp_path / "params.yaml").write_text("study:\n  seeds: [0, 1\n")
    with pytest.raises(mistakes.ParamsError, match=r"params.yaml, line 3, column 1: is not YAML"):
        params.read(tmp_path / "params.yaml")


def test_a_key_written_twice_is_an_error(tmp_path):
    text = (layout.ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text + "\nflow:\n  samples: 3\n")
    with pytest.raises(mistakes.ParamsError, match=r'params.yaml, line \d+, column 1: .*found duplicate key "flow"'):
        params.read(tmp_path / "params.yaml")


def test_numbers_read_as_dvc_reads_them(tmp_path):
    text = (layout.ROOT / "params.yaml").read_text().replace("weight_decay: 0.0005", "weight_decay: 5e-4")
    (tmp_path / "params.yaml").write_text(text)
    assert params.read(tmp_path / "params.yaml").training.sgd.weight_decay == 0.0005
