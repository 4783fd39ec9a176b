"""YAML is read as DVC reads it; input that would exhaust memory or time or end the process is refused in one line."""

import time

import pytest
from dvc.utils.serialize import parse_yaml

from prunus.study.mistakes import ParamsError
from prunus.study.reading import DEEPEST, LARGEST_FILE, MOST_VALUES, parse

LAUGHS = "a0: &a0 {x: 1}\n"


@pytest.mark.parametrize(
    "text",
    [
        "a: no\nb: 1:30\nc: 5e-4\nd: 0o17\ne: 1_000\nf: .inf",
        "a: &a [1, 2]\nb: *a\nc: [*a, *a]",
        "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}",
        "# of two lines\r\na: 1\r\n\r\nb: 2\r\n",
        "a: " + "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1),
    ],
)
def test_plain_values_are_those_that_dvc_reads(text):
    assert parse(text, "a.yaml") == parse_yaml(text, "a.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [2", "a.yaml, line 3, column 1: is not YAML: while parsing a flow sequence, did not find expected"),
        (
            "a: 1\nb: 2\na: 3",
            'a.yaml, line 3, column 1: is not YAML: while constructing a mapping, found duplicate key "a"',
        ),
        ("a: 1\nb: !!python/name:os.system x", "a.yaml, line 2, column 4: tags are not read; write a plain value"),
        ("a: 1\nb: !local {c: 1}", "a.yaml, line 2, column 4: tags are not read; write a plain value"),
        ("%YAML 1.1\n---\na: no", "a.yaml, line 1, column 1: directives (%YAML, %TAG) are not read"),
        ("a: 1\nb: x\x07", "a.yaml, line 2, column 5: is not YAML: '\\x07' is not allowed here"),
        ("a: 1 # b\x85b: 2", "a.yaml, line 1, column 9: holds '\\x85', where some YAML readers end the line"),
        ("a: 1 # b\u2028b: 2", "a.yaml, line 1, column 9: holds '\\u2028', where some YAML readers end the line"),
        ("a: &a [*a]", "a.yaml, line 1, column 8: *a names nothing before it"),
        ("a: *b", "a.yaml, line 1, column 4: *b names nothing before it"),
        ("a: " + "1" * 5001, "a.yaml: holds a number or a date that cannot be read: Exceeds the limit"),
        ("a: 2020-13-45", "a.yaml: holds a number or a date that cannot be read: month must be in 1..12"),
        ("a: " + "[" * DEEPEST + "]" * DEEPEST, f"a.yaml, line 1, column {DEEPEST + 3}: is nested over {DEEPEST} deep"),
        ("[" * 45_000 + "]" * 45_000, f"a.yaml, line 1, column {DEEPEST + 1}: is nested over {DEEPEST} deep"),
        ("- " * 40_000, f"a.yaml, line 1, column {2 * DEEPEST + 1}: is nested over {DEEPEST} deep"),
        ("[" + "0, " * MOST_VALUES + "]", "a.yaml, line 1, column 14999: holds more than 5,000 values"),
        ("x" * (LARGEST_FILE + 1), "a.yaml: has 100,001 characters; at most 100,000 are read"),
        (
            LAUGHS + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40)),
            "a.yaml, line 5, column ",
        ),
        (
            LAUGHS + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 40)),
            "a.yaml, line 5, column ",
        ),
    ],
)
def test_all_else_is_one_line_that_says_where_and_takes_no_time(text, message):
    start = time.process_time()
    with pytest.raises(ParamsError) as error:
        parse(text, "a.yaml")
    assert time.process_time() - start < 2
    (line,) = str(error.value).splitlines()
    assert line.startswith(message)
