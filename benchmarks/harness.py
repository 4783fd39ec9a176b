"""What the benchmarks share: repeated runs side by side, peak memory, the table and the file of results.

Every number is the median of repeated runs after a warm-up; the variants of a case take turns, so that what else the
machine does falls on all of them alike. Conclusions are ratios of medians from one run on one machine.
"""

import argparse
import csv
import ctypes
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in ("stages", "studies")]

from prunus.run.device import keep_freed_memory  # noqa: E402
from prunus.run.record import processor  # noqa: E402
from prunus.study import layout  # noqa: E402

RESULTS = layout.ROOT / "benchmarks" / "results"
PACKAGES = ("torch", "torchvision", "torch-pruning", "scikit-learn", "dvc", "snakemake")


@dataclass(frozen=True)
class Measurement:
    """``median`` and quartiles ``low``, ``high`` of ``runs`` values of one variant of one case.

    ``target`` and ``met`` are given for ratios and shares that somebody promised, else None.
    """

    benchmark: str
    case: str
    variant: str
    unit: str
    median: float
    low: float
    high: float
    runs: int
    threads: int | None
    target: str | None = None
    met: bool | None = None


@dataclass
class Bench:
    """Where a benchmark writes down what it measures. ``quick``: a short form that only shows that it works."""

    name: str
    quick: bool = False
    threads: int = 1
    rows: list[Measurement] = field(default_factory=list)

    def record(self, case: str, variant: str, values: Sequence[float], unit: str = "s") -> Measurement:
        """Write down values that were measured already."""
        low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        return self._add(case, variant, unit, statistics.median(values), low, high, len(values))

    def compare(
        self,
        case: str,
        variants: dict[str, Callable[[], object]],
        runs: int,
        warmup: int = 1,
        scale: float = 1.0,
        unit: str = "s",
    ) -> dict[str, object]:
        """Time the variants in turn, ``runs`` times each after ``warmup`` rounds.

        Seconds times ``scale`` are written down as ``unit``. Returns what each of the variants returned last.
        """
        runs, warmup = (min(runs, 2), min(warmup, 1)) if self.quick else (runs, warmup)
        seconds, returned = {name: [] for name in variants}, {}
        for turn in range(warmup + runs):
            for name, work in variants.items():
                self._say(f"{case}: {name}, run {turn + 1} of {warmup + runs}")
                start = time.perf_counter()
                returned[name] = work()
                if turn >= warmup:
                    seconds[name].append((time.perf_counter() - start) * scale)
        for name, values in seconds.items():
            self.record(case, name, values, unit)
        return returned

    def median(self, case: str, variant: str) -> float:
        return next(row.median for row in self.rows if (row.case, row.variant) == (case, variant))

    def ratio(self, case: str, larger: str, smaller: str, at_least: float | None = None, at_most: float | None = None):
        """Write down how many times the median of ``larger`` is that of ``smaller``, both of this case."""
        quotient = self.median(case, larger) / self.median(case, smaller)
        self.judge(case, f"{larger} / {smaller}", quotient, "x", at_least, at_most)

    def judge(
        self,
        case: str,
        variant: str,
        value: float,
        unit: str,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> None:
        """Write down a number that follows from measured ones, and whether it is what was promised."""
        target = f">= {at_least:g}" if at_least is not None else f"<= {at_most:g}" if at_most is not None else None
        met = None if target is None else value >= at_least if at_least is not None else value <= at_most
        self._add(case, variant, unit, value, value, value, 1, target, met)

    def _add(self, case, variant, unit, median, low, high, runs, target=None, met=None) -> Measurement:
        row = Measurement(self.name, case, variant, unit, median, low, high, runs, self.threads, target, met)
        self._say("")
        if not self.rows or self.rows[-1].case != case:
            print(f"  {case}")
        print(_line(row), flush=True)
        self.rows.append(row)
        return row

    def _say(self, text: str) -> None:
        """Progress, on a terminal only."""
        if sys.stderr.isatty():
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _line(row: Measurement) -> str:
    spread = f"({row.low:.4g} to {row.high:.4g}, {row.runs} runs)" if row.runs > 1 else ""
    target = f"target {row.target}: {'met' if row.met else 'missed'}" if row.target else ""
    return f"    {row.variant:<60} {row.median:>10.4g} {row.unit:<5} {spread}{target}".rstrip()


def peak_bytes(work: Callable[[], object]) -> int:
    """Most resident memory while ``work`` runs, less what was resident before: Linux, bytes, to about a megabyte."""
    ctypes.CDLL(None).malloc_trim(0)  # memory that was freed and kept for reuse would hide what is needed
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _status("VmRSS")
    work()
    return max(0, _status("VmHWM") - before)


def _status(key: str) -> int:
    return int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def machine() -> dict[str, object]:
    """Processor, cores, GPU and versions: what a number depends on besides the code."""
    import torch

    revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=layout.ROOT)
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "commit": revision.stdout.strip() or "unknown",
        "date": date.today().isoformat(),
    }


def save(benches: list[Bench]) -> Path:
    """Write benchmarks/results/<machine>-<date>.csv; today's rows of cases that were not run again stay."""
    about = machine()
    label = about["gpu"] if about["gpu"] != "none" else f"{about['processor']} {about['cores']} cores"
    path = RESULTS / f"{re.sub(r'[^a-z0-9]+', '-', label.lower()).strip('-')}-{about['date']}.csv"
    rerun, kept = {(row.benchmark, row.case) for bench in benches for row in bench.rows}, []
    if path.exists():
        with path.open(newline="") as file:
            kept = [row for row in csv.DictReader(file) if (row["benchmark"], row["case"]) not in rerun]
    rows = kept + [asdict(row) | about for bench in benches for row in bench.rows]
    RESULTS.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def measure(name: str, work: Callable[[Bench], None], quick: bool, threads: int) -> Bench:
    """Run one benchmark."""
    import torch

    keep_freed_memory()  # as the stages do
    torch.set_num_threads(threads)
    bench = Bench(name, quick, threads)
    about = [processor(), f"{threads} {'threads' if threads > 1 else 'thread'}"]
    if quick:
        about.append("quick")
    print(f"\n{name} ({', '.join(about)})", flush=True)
    work(bench)
    return bench


def arguments(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small and few: shows that it works, measures nothing")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of Prunus and of its peers (1)")
    return parser


def main(name: str, work: Callable[[Bench], None], description: str) -> None:
    """Run one benchmark as a script. The quick form writes no file."""
    os.chdir(layout.ROOT)
    options = arguments(description).parse_args()
    bench = measure(name, work, options.quick, options.threads)
    if not options.quick:
        print(save([bench]).relative_to(layout.ROOT))
