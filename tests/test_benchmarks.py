"""The benchmarks' harness: medians of runs that take turns, verdicts, one file a day; and that benchmarks still run."""

import csv
import json
import resource
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import harness
import scale
import sequential_terc
import table
import trivial
from harness import Bench
from prunus.study import layout

BENCHMARKS = Path(harness.__file__).parent


def test_variants_take_turns_and_the_first_rounds_do_not_count(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(harness.time, "perf_counter", lambda: now[0])

    def work(name, seconds):
        durations = iter(seconds)

        def call():
            calls.append(name)
            now[0] += next(durations)
            return f"{name} {len(calls)}"

        return call

    bench = Bench("b")
    variants = {"slow": work("slow", [99, 9, 4, 8]), "fast": work("fast", [99, 1, 2, 3])}
    returned = bench.compare("case", variants, runs=3, scale=10, unit="ms")
    assert calls == ["slow", "fast"] * 4
    assert returned == {"slow": "slow 7", "fast": "fast 8"}
    slow, fast = bench.rows
    assert (slow.variant, slow.median, slow.low, slow.high, slow.runs, slow.unit) == ("slow", 80, 60, 85, 3, "ms")
    assert bench.median("case", "fast") == fast.median == 20
    bench.ratio("case", "slow", "fast", at_least=5)
    bench.ratio("case", "slow", "fast", at_most=5)
    assert [(row.variant, row.median, row.target, row.met) for row in bench.rows[2:]] == [
        ("slow / fast", 4, ">= 5", False),
        ("slow / fast", 4, "<= 5", True),
    ]


def test_a_file_a_day_in_which_other_cases_stay(monkeypatch, tmp_path):
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(harness, "machine", lambda: {"processor": "A (b) C", "cores": 2, "gpu": "none", "date": "d"})

    def saved(name, value, case="case"):
        bench = Bench(name)
        bench.record(case, "ours", [value])
        bench.record(case, "theirs", [3 * value])
        bench.ratio(case, "theirs", "ours", at_least=2)
        return harness.save([bench])

    saved("one", 1.0), saved("two", 2.0), saved("one", 3.0, "other case")
    path = saved("one", 5.0)
    assert path.name == "a-b-c-2-cores-d.csv"
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["benchmark"], float(row["median"])) for row in rows if row["variant"] == "ours"] == [
        ("two", 2.0),
        ("one", 3.0),
        ("one", 5.0),
    ]
    assert table.lines(rows)[2:] == [
        "| case | theirs 6 s; ours 2 s | 3 | >= 2: met |",
        "| other case | theirs 9 s; ours 3 s | 3 | >= 2: met |",
        "| case | theirs 15 s; ours 5 s | 3 | >= 2: met |",
    ]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak_bytes reads Linux's /proc")
def test_peak_memory_counts_what_was_freed_again():
    def work():
        block = bytearray(64 * 2**20)
        block[:: 2**12] = b"x" * len(block[:: 2**12])

    assert 60 * 2**20 < harness.peak_bytes(work) < 80 * 2**20


def test_a_study_is_grown_by_what_dvc_calls_another_seeds_stages(tmp_path):
    project = trivial.Project(tmp_path / "project", 2, ["sap"], 1)
    outputs = json.loads((project.root / "outputs.json").read_text())
    of_first = [command for command in outputs if "--seed 0" in command]
    assert len(of_first) == 6
    for command in of_first:
        assert outputs[scale.of_seed(command, 1)] == [scale.of_seed(name, 1) for name in outputs[command]]
    assert scale.of_seed("  evaluate@0-sap:", 12) == "  evaluate@12-sap:"
    assert scale.one_stage(project, "evaluate@0-sap")[:3] == ("python", "tools/one_stage.py", "evaluate@0-sap")


def test_the_quick_form_runs_and_writes_no_file():
    before = sorted(BENCHMARKS.glob("results/*"))
    command = [sys.executable, BENCHMARKS / "prune_step.py", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert " / " in done.stdout
    assert sorted(BENCHMARKS.glob("results/*")) == before


def quick(name, monkeypatch):
    """Run the quick form of a benchmark in this process."""
    before = sorted(BENCHMARKS.glob("results/*"))
    monkeypatch.chdir(layout.ROOT)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--quick"])
    runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")
    assert sorted(BENCHMARKS.glob("results/*")) == before


def test_the_quick_form_of_evaluation_runs_its_scripts(monkeypatch, capsys):
    """In this process: the benchmark starts Python and torch anew for each, which costs seconds every time."""
    ran, elsewhere = [], subprocess.run

    def run(command, **options):
        if command[0] != sys.executable:
            return elsewhere(command, **options)
        (_, script, *arguments), cwd = command, options["cwd"]
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            patch.setattr(layout, "ROOT", cwd)
            patch.setattr(sys, "argv", [script, *arguments])
            runpy.run_path(str(cwd / script), run_name="__main__")
        ran.append(Path(script).stem)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(resource, "RUSAGE_CHILDREN", resource.RUSAGE_SELF)
    quick("evaluation", monkeypatch)
    assert len(ran) == 2 * 12 and {"evaluate", "evaluate_dense", "prune_iteration"} < set(ran)
    assert " / " in capsys.readouterr().out


def test_the_quick_form_of_terc_runs(monkeypatch, capsys):
    """With two splits in place of five, of which the sequential peer trains a network each for every unit."""
    monkeypatch.setattr(sequential_terc, "REPEATS", 2)
    quick("terc", monkeypatch)
    assert " / " in capsys.readouterr().out


def test_an_unknown_name_is_refused():
    done = subprocess.run([sys.executable, BENCHMARKS / "run.py", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "prune_step" in done.stderr
