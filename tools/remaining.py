"""How long a study that Snakemake runs will still take: a line beside its own "N of M steps".

A stage is expected to take as long as similar ones did: in this run, else in earlier ones (logs/benchmarks). The time
left is their sum divided by how many run at a time or, where longer, the time of stages that wait for each other.
"""

import csv
import logging
import math
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean

QUIET_SECONDS = 10  # between two lines


def alike(stage: str) -> list[str]:
    """The kinds that a stage (`prune_iteration@0-sap-iteration2`) belongs to, the closest first: any seed and iteration
    of its method, any method."""
    return [re.sub(r"\d+", "*", stage), stage.split("@")[0]]


def earlier_seconds(folder: Path) -> dict[str, float]:
    """Stage -> seconds, from the benchmark files of earlier runs; what cannot be read is left out."""
    seconds = {}
    for path in folder.glob("*.tsv"):
        try:
            with path.open(newline="", encoding="utf-8") as file:
                seconds[path.stem] = float(next(csv.DictReader(file, delimiter="\t"))["s"])
        except (OSError, ValueError, KeyError, TypeError, StopIteration):
            continue
    return seconds


class Times:
    """Seconds that stages took, the mean where several are alike."""

    def __init__(self, seconds: Mapping[str, float] = {}):  # noqa: B006 - only read
        self._of: dict[str, list[float]] = {}
        for stage, value in seconds.items():
            self.add(stage, value)

    def add(self, stage: str, seconds: float) -> None:
        for name in (stage, *alike(stage)):
            self._of.setdefault(name, []).append(seconds)

    def get(self, name: str) -> float | None:
        return mean(self._of[name]) if name in self._of else None


class Remaining(logging.Handler):
    """Follows Snakemake's log, and reports the time left when a run starts and as its stages end.

    Arguments: ``before`` every stage -> the stages it waits for; ``at_once`` says how many run at a time, once
    the run has begun; ``say`` takes the line; ``folder`` holds the benchmark files of earlier runs.
    """

    def __init__(
        self,
        before: Mapping[str, list[str]],
        at_once: Callable[[], int],
        say: Callable[[str], None],
        folder: Path = Path("logs/benchmarks"),
    ):
        super().__init__()
        self.before, self.at_once, self.say = before, at_once, say
        self.rules = {re.sub(r"\W", "_", stage): stage for stage in before}
        self.earlier, self.now = Times(earlier_seconds(folder)), Times()
        self.left: set[str] = set()
        self.started: dict[str, float] = {}
        self.running: dict[int, str] = {}
        self.failed = False
        self.last_report = -math.inf

    def emit(self, record: logging.LogRecord) -> None:
        event, stage = getattr(record, "event", None), self.rules.get(getattr(record, "rule_name", ""))
        if event == "run_info":
            self.left = {self.rules[name] for name in record.stats if name in self.rules}
            self._report()
        elif event == "job_info" and stage:
            self.running[record.jobid], self.started[stage] = stage, time.monotonic()
        elif event == "job_error" and stage:
            self.failed = True
            self._give_up(stage)
        elif event == "job_finished" and (ended := self.running.pop(record.job_id, None)):
            self.now.add(ended, time.monotonic() - self.started.pop(ended))
            self.left.discard(ended)
        elif event == "progress" and self.left:
            self._report()

    def _give_up(self, stage: str) -> None:
        """Forget a stage that failed, and what waits for it."""
        self.left.discard(stage)
        for later in [name for name in self.left if stage in self.before[name]]:
            if later in self.left:
                self._give_up(later)

    def _expected(self, stage: str) -> float | None:
        """Seconds that a stage is still going to take; None where nothing like it has run."""
        closest, wider = alike(stage)
        known = (
            self.now.get(closest),
            self.earlier.get(stage),
            self.earlier.get(closest),
            self.now.get(wider),
            self.earlier.get(wider),
        )
        total = next((seconds for seconds in known if seconds is not None), None)
        if total is None or stage not in self.started:
            return total
        return max(total - (time.monotonic() - self.started[stage]), 0.0)

    def line(self) -> str | None:
        """The line for what is left now; None where most of it is of kinds that have not run yet."""
        expected = {stage: self._expected(stage) for stage in self.left}
        known = {stage: seconds for stage, seconds in expected.items() if seconds is not None}
        if 2 * len(known) < len(expected) or not known:
            return None
        ends: dict[str, float] = {}

        def end(stage: str) -> float:
            """Seconds until a stage has ended, if whatever can start does."""
            if stage not in ends:
                waits = max((end(name) for name in self.before[stage] if name in self.left), default=0.0)
                ends[stage] = waits + known.get(stage, 0.0)
            return ends[stage]

        seconds = max(sum(known.values()) / max(self.at_once(), 1), *map(end, expected))
        unknown = sorted({stage.split("@")[0] for stage in expected} - {stage.split("@")[0] for stage in known})
        without = f", not counting {', '.join(unknown)}: none has run here yet" if unknown else ""
        return f"about {spelled(seconds)} left{without}"

    def _report(self) -> None:
        if time.monotonic() - self.last_report >= QUIET_SECONDS and (line := self.line()):
            self.last_report = time.monotonic()
            self.say(line)


def spelled(seconds: float) -> str:
    """Seconds in words, rounded as coarsely as an estimate deserves."""
    if seconds < 90:
        return f"{max(math.ceil(seconds / 10), 1) * 10} s"
    if seconds < 90 * 60:
        return f"{math.ceil(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
