"""The audit calls nothing sound that it could not look up."""

import json
import runpy
from pathlib import Path

import pytest

verdict = runpy.run_path(str(Path(__file__).parent / "run.py"))["verdict"]

SOUND = {"name": "a", "version": "1.0", "vulns": []}
ILL = {"name": "b", "version": "2.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1", "3.0"]}]}
OPEN = {"name": "c", "version": "3.0", "vulns": [{"id": "GHSA-2", "fix_versions": []}]}
SKIPPED = {"name": "d", "skip_reason": "not found on PyPI"}
TRACEBACK = "Traceback (most recent call last):\n  ...\nConnectionError: no route to host\n"


@pytest.mark.parametrize(
    ("packages", "lines", "status"),
    [
        ([SOUND], ["audit: 1 packages looked up, 0 known vulnerabilities"], 0),
        (
            [SOUND, ILL, OPEN],
            [
                "b 2.0: PYSEC-1, fixed in 2.1, 3.0",
                "c 3.0: GHSA-2, fixed in no version yet",
                "audit: 3 packages looked up, 2 known vulnerabilities",
            ],
            1,
        ),
        (
            [SOUND, SKIPPED],
            ["audit: not done, 1 of 2 packages could not be looked up (not found on PyPI)"],
            2,
        ),
    ],
)
def test_what_was_looked_up(packages, lines, status):
    assert verdict(json.dumps({"dependencies": packages, "fixes": []}), "") == (lines, status)


@pytest.mark.parametrize(("said", "reason"), [(TRACEBACK, "no route to host"), ("", "it said nothing")])
def test_without_a_network_one_line(said, reason):
    (line,), status = verdict("", said)
    assert (line.startswith("audit: not done, pip-audit reached no database: "), status) == (True, 2)
    assert line.endswith(reason)
