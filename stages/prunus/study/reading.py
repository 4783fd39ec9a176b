"""Read YAML with the library that DVC uses: of limited size, and with one line per mistake."""

import re
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, DocumentStartEvent, NodeEvent
from ruamel.yaml.reader import ReaderError

from prunus.study.mistakes import ParamsError

# params.yaml has 12,000 bytes, 500 values and 5 levels.
LARGEST_FILE = 100_000  # bytes
MOST_VALUES = 5_000
DEEPEST = 20
LARGEST = 10**9  # integer: larger counts and sizes mean nothing and overflow

# The C library ends a line at these characters, YAML 1.2 does not: a comment would hide keys from one of the two.
OTHER_LINE_ENDS = re.compile("[\x85\u2028\u2029]")


class _Refused(MarkedYAMLError):
    """YAML that params.yaml does not need."""


def _refuse_excess(text: str) -> None:
    """Raise ``_Refused`` for YAML that takes too much memory, time or stack; an alias counts as what it names."""
    values, sizes, opened = 0, {}, []  # opened: anchor and values before it of every block that has begun
    for event in YAML(typ="safe").parse(text):
        if isinstance(event, DocumentStartEvent) and (event.version or event.tags):
            raise _Refused(problem="directives (%YAML, %TAG) are not read", problem_mark=event.start_mark)
        if isinstance(event, NodeEvent):
            if isinstance(event, AliasEvent) and event.anchor not in sizes:
                raise _Refused(problem=f"*{event.anchor} names nothing before it", problem_mark=event.start_mark)
            if getattr(event, "tag", None):
                raise _Refused(problem="tags are not read; write a plain value", problem_mark=event.start_mark)
            before, values = values, values + (sizes[event.anchor] if isinstance(event, AliasEvent) else 1)
            if isinstance(event, CollectionStartEvent):
                opened.append((event.anchor, before))
            elif event.anchor:
                sizes[event.anchor] = values - before
        elif isinstance(event, CollectionEndEvent):
            anchor, before = opened.pop()
            sizes[anchor] = values - before
        if values > MOST_VALUES or len(opened) > DEEPEST:
            too_many, too_deep = f"holds more than {MOST_VALUES:,} values", f"is nested over {DEEPEST} deep"
            problem = too_many if values > MOST_VALUES else too_deep
            raise _Refused(problem=problem, problem_mark=event.start_mark)


def parse(text: str, name: object) -> object:
    """The content of YAML ``text`` from the file ``name``. Raises ``ParamsError`` with the line and the column."""
    if len(text) > LARGEST_FILE:
        raise ParamsError(f"{name}: has {len(text):,} characters; at most {LARGEST_FILE:,} are read")
    if match := OTHER_LINE_ENDS.search(text):
        place = _place(name, text, match.start())
        raise ParamsError(f"{place}: holds {match[0]!a}, where some YAML readers end the line; remove it")
    try:
        _refuse_excess(text)
        return YAML(typ="safe").load(text)
    except MarkedYAMLError as error:
        problem = ", ".join(filter(None, (error.context, error.problem)))
        message = problem if isinstance(error, _Refused) else f"is not YAML: {problem}"
        mark = error.problem_mark or error.context_mark
        raise ParamsError(f"{name}, line {mark.line + 1}, column {mark.column + 1}: {message}") from None
    except ReaderError as error:
        character = error.character if isinstance(error.character, str) else chr(error.character)
        place = _place(name, text, text.find(character))
        raise ParamsError(f"{place}: is not YAML: {character!a} is not allowed here") from None
    except ValueError as error:  # e.g. 5,000 digits, or the 45th of a month
        raise ParamsError(f"{name}: holds a number or a date that cannot be read: {error}") from None


def _place(name: object, text: str, position: int) -> str:
    line, column = text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
    return f"{name}, line {line}, column {column}"


def read_file(path: Path) -> object:
    """The content of the YAML file at ``path``. Raises ``ParamsError``, also if it cannot be read."""
    try:
        if path.exists() and not path.is_file():
            raise ParamsError(f"{path}: is not a file")  # reading a pipe would wait forever
        if (size := path.stat().st_size) > LARGEST_FILE:
            raise ParamsError(f"{path.name}: has {size:,} bytes; at most {LARGEST_FILE:,} are read")
        return parse(path.read_text(encoding="utf-8"), path.name)
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; it describes the study") from None
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path.name}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
