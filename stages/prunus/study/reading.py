"""YAML read with care: plain values as YAML 1.2 (and so DVC) reads them, of a bounded size; one line per mistake."""

import re
from collections import Counter
from pathlib import Path

import yaml

from prunus.study.mistakes import ParamsError, shortened

# params.yaml has 12,000 bytes, 500 values and 5 levels.
LARGEST_FILE = 100_000  # bytes
MOST_VALUES = 5_000
DEEPEST = 20
LARGEST = 10**9  # of an integer: beyond, counts and sizes stop to mean anything and start to overflow

# YAML 1.1 ends a line at these characters and 1.2 does not, so that a comment would hide keys from one reader only.
OTHER_LINE_ENDS = re.compile("[\x85\u2028\u2029]")


class _Refused(yaml.MarkedYAMLError):
    """YAML that is none of params.yaml's business."""


class Loader(yaml.SafeLoader):
    """Plain values only: no tags, no directives; aliases count as what they stand for. Keys are written once.

    ``no`` and ``1:30`` are text, as in YAML 1.2.
    """

    yaml_implicit_resolvers = {}

    def __init__(self, text: str):
        super().__init__(text)
        self._values, self._depth, self._sizes = 0, 0, {}

    def compose_document(self):
        start = self.peek_event()
        if start.version or start.tags:
            raise _Refused(None, None, "directives (%YAML, %TAG) are not read; remove them", start.start_mark)
        return super().compose_document()

    def compose_node(self, parent, index):
        event = self.peek_event()
        mark, before = event.start_mark, self._values
        alias = isinstance(event, yaml.AliasEvent)
        if not alias and event.tag is not None:
            raise _Refused(None, None, f"tags ({event.tag}) are not read; write a plain value", mark)
        self._values += 1
        self._depth += 1
        if self._depth > DEEPEST:
            raise _Refused(None, None, f"is nested more than {DEEPEST} deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if alias:
            if node not in self._sizes:
                raise _Refused(None, None, f"*{event.anchor} stands inside of what it names", mark)
            self._values += self._sizes[node]
        if self._values > MOST_VALUES:
            raise _Refused(None, None, f"holds more than {MOST_VALUES:,} values", mark)
        self._sizes.setdefault(node, self._values - before)
        return node

    def _refuse_unclear(self, node):
        said = f"{shortened(node.value, 40)} is not read alike by all; write a plain decimal number, or text in quotes"
        raise _Refused(None, None, said, node.start_mark)

    def construct_mapping(self, node, deep=False):
        times = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        twice = [key for key, count in times.items() if count > 1]
        if twice:
            raise ParamsError(*(f"{key}: the key is written twice in one block" for key in twice))
        return super().construct_mapping(node, deep)


INTEGER = r"[-+]?(0|[1-9][0-9]{0,299})"  # no leading zero: octal to some; Python reads no integer of 5,000 digits
FLOAT = r"[-+]?[0-9]+(\.[0-9]*([eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)|[-+]?\.[0-9]+([eE][-+][0-9]+)?"
# What is a number or a date to YAML 1.1, to 1.2 or to DVC, but not to all of them: 017, 0x1F, 1_000, .5e3, 2020-01-01.
UNCLEAR = (
    r"[-+]?0(o?[0-7_]+|b[01_]+|x[0-9a-fA-F_]+)|[-+]?\.?[0-9][0-9_]*\.?[0-9_]*([eE][-+]?[0-9_]+)?|[0-9]{4}-[0-9]+-.*"
)
SPECIAL = r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"

for tag, pattern, first in (
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", INTEGER, "-+0123456789"),
    ("float", f"{FLOAT}|{SPECIAL}", "-+.0123456789"),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("unclear", UNCLEAR, "-+.0123456789"),  # after the others: the first that fits counts
):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"(?:{pattern})\Z"), list(first))


Loader.add_constructor("tag:yaml.org,2002:unclear", Loader._refuse_unclear)


def parse(text: str, name: object) -> object:
    """What YAML ``text`` of the file called ``name`` says. Raises ``ParamsError`` with the line and the column."""
    if len(text) > LARGEST_FILE:
        raise ParamsError(f"{name}: has {len(text):,} characters; at most {LARGEST_FILE:,} are read")
    if found := OTHER_LINE_ENDS.search(text):
        place = _place(text, found.start())
        raise ParamsError(f"{name}{place}: holds {ascii(found[0])}, where some YAML readers end the line; remove it")
    try:
        loader = Loader(text)
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark, said = error.problem_mark, "" if isinstance(error, _Refused) else "is not YAML: "
        raise ParamsError(f"{name}, line {mark.line + 1}, column {mark.column + 1}: {said}{error.problem}") from None
    except yaml.reader.ReaderError as error:
        place = _place(text, error.position)
        raise ParamsError(f"{name}{place}: is not YAML: {chr(error.character)!a} may not stand there") from None
    except (ValueError, OverflowError) as error:  # of chr(), for "\\U00110000"
        if isinstance(error, ParamsError):
            raise
        place = _place(text, loader.index)
        raise ParamsError(f"{name}{place}: is not YAML: the escape names no character") from None


def read_file(path: Path) -> object:
    """What the YAML file at ``path`` says. Raises ``ParamsError`` also where it cannot be read."""
    try:
        if path.exists() and not path.is_file():
            raise ParamsError(f"{path}: is not a file")  # reading a pipe would wait for ever
        if (size := path.stat().st_size) > LARGEST_FILE:
            raise ParamsError(f"{path.name}: has {size:,} bytes; at most {LARGEST_FILE:,} are read")
        return parse(path.read_text(encoding="utf-8"), path.name)
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; it describes the study") from None
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path.name}: is not UTF-8 text ({error.reason} at byte {error.start})") from None


def _place(text: str, position: int) -> str:
    line = text.count("\n", 0, position)
    return f", line {line + 1}, column {position - text.rfind(chr(10), 0, position)}"
