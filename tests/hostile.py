"""What tests of bad input share: the one line that refuses it, bait that must not be executed, a stage that dies."""

from pathlib import Path

import pytest

from prunus.run.errors import StageError


class Touch:
    """Its pickle makes the file ``marker`` when it is loaded."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


class Killed(Exception):
    """What stands in for a SIGKILL within one process: nothing after it runs."""


def refusal(
    call, *args, error: type[StageError] = StageError, kind: str | None = None, longest: int = 700, **options
) -> str:
    """The message of the ``error`` that ``call`` ends with, which has to be one line; ``kind`` None: of any kind."""
    with pytest.raises(error) as raised:
        call(*args, **options)
    message = str(raised.value)
    assert message.isprintable() and len(message) < longest
    assert kind is None or raised.value.kind == kind
    return message
