"""params.yaml has the form in which DVC's `-S` writes it: `-S` changes the key it sets and keeps every comment."""

import difflib
import json

import pytest
import yaml
from dvc.utils.hydra import apply_overrides, get_hydra_sweeps

import overlay
from prunus.study import layout
from prunus.study.checks import validate
from prunus.study.reading import parse

TEXT = (layout.ROOT / layout.PARAMS).read_text()
SCALES = [(path.parent.name, path.stem) for path in sorted(overlay.STUDIES.glob("*/*.yaml"))]


def values(content, block=""):
    """Dotted key -> value; lists are values."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from values(value, f"{block}{key}.")
        else:
            yield f"{block}{key}", value


def option(key, value):
    """What stands behind `-S`."""
    spelled = json.dumps(value).replace('"', "") if isinstance(value, list | bool) else value
    return f"{key}={spelled}"


VALUES = dict(values(yaml.safe_load(TEXT)))
LISTS = {key: value for key, value in VALUES.items() if isinstance(value, list)}


@pytest.fixture
def set_keys(tmp_path):
    """A function: the text of params.yaml after `-S` with these options, one after the other."""
    path = tmp_path / "params.yaml"

    def change(*calls, text=TEXT):
        path.write_text(text)
        for options in calls:
            apply_overrides(path, options)
        return path.read_text()

    return change


def test_a_key_set_to_the_value_it_has_leaves_every_byte(set_keys):
    assert set_keys([option(key, value) for key, value in VALUES.items()]) == TEXT


@pytest.mark.parametrize(
    ("key", "value"),
    [("methods.incop_if.epsilon", 0.05), ("study.network", "mlp"), ("training.sgd.nesterov", True)],
)
def test_a_key_set_to_another_value_changes_its_line(set_keys, key, value):
    new = set_keys([option(key, value)])
    changed = [line for line in difflib.ndiff(TEXT.splitlines(), new.splitlines()) if line[0] in "+-"]
    assert len(changed) == 2 and f"{key.split('.')[-1]}: {str(value).lower()}" in changed[1]
    assert changed[0].partition("#")[2] == changed[1].partition("#")[2]


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        (
            ["methods.sap.stop=plateau", "+methods.sap.patience=3"],
            {"methods.sap.stop": "plateau", "methods.sap.patience": 3},
        ),
        (
            ["methods.incop_if.metric=cosine", "~methods.incop_if.relative"],
            {"methods.incop_if.metric": "cosine", "methods.incop_if.relative": None},
        ),
        (
            ["methods.sap.index=gini", "~methods.sap.p", "~methods.sap.q", "~methods.sap.eta"],
            {"methods.sap.index": "gini", "methods.sap.p": None, "methods.sap.q": None, "methods.sap.eta": None},
        ),
    ],
)
def test_keys_come_and_go_with_the_setting_that_reads_them(set_keys, options, changes):
    text = set_keys(options)
    assert validate(parse(text, "params.yaml")).methods
    wanted = {key: value for key, value in (VALUES | changes).items() if value is not None}
    assert dict(values(parse(text, "params.yaml"))) == wanted
    lines = [line for line in difflib.ndiff(TEXT.splitlines(), text.splitlines()) if line[0] in "+-"]
    assert len(lines) == len(changes) + 1  # the line that changed stands there twice
    assert set_keys(get_hydra_sweeps({"a": [*options, "device.threads=1,2"]})[0]["a"]) == text  # as of a queue


@pytest.mark.parametrize("key", LISTS)
def test_a_list_that_was_emptied_or_filled_comes_back_with_all_comments(set_keys, key):
    other = [] if LISTS[key] else ["sap", "lth"]
    changed, back = [option(key, other)], [option(key, LISTS[key])]
    assert yaml.safe_load(set_keys(changed)) != yaml.safe_load(TEXT)
    assert set_keys(changed, back) == TEXT


@pytest.mark.parametrize("key", ["data.classes", "transfer.classes"])
def test_a_word_that_became_a_list_comes_back(set_keys, key):
    assert set_keys([option(key, [3, 5])], [option(key, "all")]) == TEXT


@pytest.mark.parametrize(("name", "scale"), SCALES)
def test_a_study_is_put_there_in_the_same_form(set_keys, name, scale):
    content = overlay.of_study(name, scale)
    text = overlay.text(content)
    assert parse(text, name) == content
    assert set_keys(["device.threads=1"], text=text) == text
    comments = [line.partition("# ")[2] for line in text.splitlines()]
    assert [line for line in comments if line] == [
        line.partition("# ")[2] for line in TEXT.splitlines() if line.partition("# ")[2]
    ]
