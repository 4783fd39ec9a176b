"""How mistakes in params.yaml are said: one line each."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

MOST_LINES = 40
LONGEST_LINE = 240


class ParamsError(ValueError):
    """What is wrong with params.yaml, one line per mistake: ``lines``, each shortened, and of many the first."""

    def __init__(self, *lines: str):
        shown = [shortened(printable(line), LONGEST_LINE) for line in lines[:MOST_LINES]]
        if len(lines) > MOST_LINES:
            shown.append(f"params.yaml: {len(lines) - MOST_LINES:,} more mistakes")
        super().__init__("\n".join(shown))


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
