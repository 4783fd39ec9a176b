"""The JSON schema that editors read takes what Prunus takes, and refuses what one key or block shows to be wrong."""

import copy

import pytest

import overlay
import reference
from prunus.study import layout
from prunus.study.reading import read_file

jsonschema = pytest.importorskip("jsonschema")
VALIDATOR = jsonschema.Draft202012Validator(reference.schema())
SHIPPED = read_file(layout.ROOT / layout.PARAMS)
SCALES = [(path.parent.name, path.stem) for path in sorted(overlay.STUDIES.glob("*/*.yaml"))]
DELETED = object()


def mistakes(content):
    return [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(content)]


def test_editors_find_the_schema():
    first = (layout.ROOT / layout.PARAMS).read_text().splitlines()[0]
    assert first == f"# yaml-language-server: $schema={reference.SCHEMA.relative_to(layout.ROOT)}"


def test_the_shipped_study_fits():
    jsonschema.Draft202012Validator.check_schema(VALIDATOR.schema)
    assert mistakes(SHIPPED) == []


@pytest.mark.parametrize(("name", "scale"), SCALES)
def test_every_study_fits(name, scale):
    assert mistakes(overlay.of_study(name, scale)) == []


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({"training.epoch": 3}, False),
        ({"training.epochs": DELETED}, False),
        ({"training.sgd.momentum": 1.0}, False),
        ({"study.dataset": "imagenet"}, False),
        ({"data.classes": [3, 5]}, True),
        ({"data.classes": [3]}, False),
        ({"network.side": 224}, True),
        ({"network.side": "large"}, False),
        ({"study.iterations": [{"t": 1}]}, False),
        ({"methods.lottery": {}}, False),
        ({"methods.oto": DELETED}, True),
        ({"methods.sap.patience": 2}, False),
        ({"methods.sap.stop": "plateau"}, False),
        ({"methods.sap.stop": "plateau", "methods.sap.patience": 2}, True),
        ({"methods.incop_if.metric": "cosine"}, False),
        ({"methods.incop_if.metric": "cosine", "methods.incop_if.relative": DELETED}, True),
        ({"methods.sap.p": DELETED}, False),
    ],
)
def test_what_fits_and_what_does_not(changes, fits):
    content = copy.deepcopy(SHIPPED)
    for key, value in changes.items():
        *parents, last = key.split(".")
        block = content
        for name in parents:
            block = block[name]
        if value is DELETED:
            del block[last]
        else:
            block[last] = value
    assert (mistakes(content) == []) is fits
