"""The messages for mistakes in params.yaml: one line each."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prunus.study import layout

MOST_LINES = 40
LONGEST_LINE = 240


class ParamsError(ValueError):
    """The mistakes in params.yaml: ``lines``, one per mistake, each shortened, at most the first 40."""

    def __init__(self, *lines: str):
        shown = [shortened(printable(line), LONGEST_LINE) for line in lines[:MOST_LINES]]
        if len(lines) > MOST_LINES:
            shown.append(f"params.yaml: {len(lines) - MOST_LINES:,} more mistakes")
        super().__init__("\n".join(shown))


class MethodFileError(ParamsError):
    """The file of ``method`` cannot be imported; ``error`` says why."""

    def __init__(self, method: str, path: Path, error: Exception):
        self.certain = isinstance(error, SyntaxError)  # other errors may come from a stand-in for torch
        reason = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).splitlines()[:1])
        super().__init__(f"methods.{method}: {_place_of(error, path)}: {type(error).__name__}: {reason}")


def _place_of(error: Exception, path: Path) -> str:
    """The file and line of the project where the import of ``path`` failed."""
    if isinstance(error, SyntaxError) and error.filename:
        path, line = Path(error.filename), error.lineno
    else:
        frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
        # The first frame is the one that imports.
        in_project = [(file, line) for file, line in frames[1:] if layout.ROOT in file.parents]
        path, line = in_project[-1] if in_project else (path, None)
    name = path.relative_to(layout.ROOT) if layout.ROOT in path.parents else path
    return f"{name}, line {line}" if line else str(name)


@contextmanager
def refused_in_words() -> Iterator[None]:
    """Inside the block a ``ParamsError`` becomes one line per mistake on stderr and exit status 2."""
    try:
        yield
    except ParamsError as error:
        for line in str(error).splitlines():
            print(line if line.startswith("params.yaml") else f"params.yaml: {line}", file=sys.stderr)
        raise SystemExit(2) from None


def printable(text: str) -> str:
    """``text`` with escapes for all characters that would break or disguise a line."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
