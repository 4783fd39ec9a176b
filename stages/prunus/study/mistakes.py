"""How mistakes in params.yaml are said: one line each."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prunus.study import layout

MOST_LINES = 40
LONGEST_LINE = 240


class ParamsError(ValueError):
    """What is wrong with params.yaml, one line per mistake: ``lines``, each shortened, and of many the first."""

    def __init__(self, *lines: str):
        shown = [shortened(printable(line), LONGEST_LINE) for line in lines[:MOST_LINES]]
        if len(lines) > MOST_LINES:
            shown.append(f"params.yaml: {len(lines) - MOST_LINES:,} more mistakes")
        super().__init__("\n".join(shown))


class MethodFileError(ParamsError):
    """The file of a ``method`` cannot be imported; ``error`` says why."""

    def __init__(self, method: str, path: Path, error: Exception):
        self.certain = isinstance(error, SyntaxError)  # other errors may come from a stand-in for torch
        said = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).splitlines()[:1])
        super().__init__(f"methods.{method}: {_place_of(error, path)}: {type(error).__name__}: {said}")


def _place_of(error: Exception, path: Path) -> str:
    """File and line of the project where importing ``path`` failed."""
    if isinstance(error, SyntaxError) and error.filename:
        path, line = Path(error.filename), error.lineno
    else:
        frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
        ours = [(file, line) for file, line in frames[1:] if layout.ROOT in file.parents]  # the first one imports
        path, line = ours[-1] if ours else (path, None)
    name = path.relative_to(layout.ROOT) if layout.ROOT in path.parents else path
    return f"{name}, line {line}" if line else str(name)


@contextmanager
def refused_in_words() -> Iterator[None]:
    """Within, a ``ParamsError`` is one line per mistake on stderr and exit status 2."""
    try:
        yield
    except ParamsError as error:
        for line in str(error).splitlines():
            print(line if line.startswith("params.yaml") else f"params.yaml: {line}", file=sys.stderr)
        raise SystemExit(2) from None


def printable(text: str) -> str:
    """``text`` with an escape in the place of every character that would break or disguise a line."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
