"""What must hold for any bytes as params.yaml: valid settings, or short lines that name the keys."""

import math
import re
import time
from pathlib import Path

from dvc.utils.serialize import parse_yaml

import mutations
from prunus.study import checks, params, reading
from prunus.study.mistakes import LONGEST_LINE, MOST_LINES, ParamsError

# "study.seeds[0]: ...", "params.yaml, line 3, column 1: ..."; a key that is not the study's may be anything.
PLACE = re.compile(r"params\.yaml(, line \d+, column \d+)?: |.{1,200}?: ")
SECTIONS = set(mutations.CONTENT)
OF_ANY_NAME = ("is an unknown key", "keys should be strings", "no such method")


def lines_of(error: ParamsError) -> list[str]:
    lines = str(error).splitlines()
    assert 1 <= len(lines) <= MOST_LINES + 1, f"{len(lines)} lines"
    for line in lines:
        assert len(line) <= LONGEST_LINE, f"a line of {len(line)} characters: {line}"
        assert line.isprintable(), f"unprintable: {line!a}"
        assert PLACE.match(line), f"names no key: {line!a}"
        section = re.split(r"[.:\[,]", line)[0]
        known = section in SECTIONS or line.startswith("params.yaml")
        assert known or any(phrase in line for phrase in OF_ANY_NAME), f"names no key: {line!a}"
    return lines


def harmless(value: object) -> None:
    """Numbers are finite and of a size that counts and memory can take, texts can be printed."""
    if isinstance(value, dict | list):
        for part in [*value, *value.values()] if isinstance(value, dict) else value:
            harmless(part)
    elif isinstance(value, str):
        assert value.isprintable(), ascii(value)
    elif isinstance(value, int | float):
        assert math.isfinite(value), value
        assert isinstance(value, float) or abs(value) <= reading.LARGEST, value
    else:
        assert False, f"{type(value)} is no plain value"  # noqa: B011 - pytest explains it


def settings_of(params_read) -> dict:
    return {
        name: {method: settings.model_dump() for method, settings in section.items()}
        if name == "methods"
        else section.model_dump()
        for name, section in vars(params_read).items()
    }


def alike(ours: object, theirs: object) -> bool:
    """Whether DVC's values are ours; where a real number is wanted, ours is its nearest."""
    if isinstance(ours, dict):
        same_keys = isinstance(theirs, dict) and set(ours) == set(theirs)
        return same_keys and all(alike(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list):
        return isinstance(theirs, list) and len(ours) == len(theirs) and all(map(alike, ours, theirs))
    if isinstance(ours, float):
        return isinstance(theirs, int | float) and ours == float(theirs)
    return isinstance(ours, bool) == isinstance(theirs, bool) and ours == theirs


def verdict(content: bytes, folder: Path) -> tuple[list[str], float]:
    """The lines that a params.yaml of ``content`` gets, none where it is valid, and the processor's seconds for reading
    it; AssertionError where it must not be so.

    What is accepted DVC reads in the same way, or a stage would be run with another value than it checked.
    """
    path = folder / "params.yaml"
    path.write_bytes(content)
    start = time.process_time()
    try:
        params_read = params.read(path)
    except ParamsError as error:
        return lines_of(error), time.process_time() - start
    seconds = time.process_time() - start
    settings = settings_of(params_read)
    harmless(settings)
    assert alike(settings, parse_yaml(content.decode("utf-8"), path)), "DVC reads something else"
    assert checks.validate(settings) == params_read
    return [], seconds
