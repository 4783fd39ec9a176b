"""Break the study in every way, many times, and tell what came of it: one row per fault, and every kill in a log.

python tests/faults/run.py --kills 100 --seed 0       # also `make faults`
python tests/faults/run.py --kills 20 --only kill     # only faults whose name holds "kill"
python tests/faults/run.py --only dvc.lock --seed 7

recovered: the same command again brought the same final bytes. said: one line named what is damaged and the command
that repairs it, and that command did. wrong: other bytes. manual: something else was needed, or a command hung.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "stages"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pipeline"))

import damages
import kills
from processes import end_all, kill, warm
from project import ROOT
from study import Result, Study
from together import TOGETHER

LAUNCHERS = ("snakemake", "dvc", "snakemake", "scripts")
KILLS_A_ROUND = {"snakemake": 12, "dvc": 12, "scripts": 14}
SECONDS = {"snakemake": 9.0, "dvc": 9.0, "scripts": 1.0}  # within which a kill by the clock falls
OUTCOMES = ("recovered", "said", "wrong", "manual", "skipped")


def table(results: list[Result]) -> str:
    rows = [f"| fault | tried | kills | {' | '.join(OUTCOMES)} |", "|---|" + "---:|" * (2 + len(OUTCOMES))]
    for fault in [*dict.fromkeys(result.fault for result in results), "all"]:
        own = [result for result in results if fault in (result.fault, "all")]
        counts = [sum(result.outcome == outcome for result in own) for outcome in OUTCOMES]
        numbers = [len(own), sum(result.kills for result in own), *counts]
        rows.append(f"| {fault} | {' | '.join(str(number) if number else '' for number in numbers)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="SIGKILLs in all (default 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="faults whose name holds this")
    parser.add_argument("--keep", type=Path, help="an empty folder for the studies, kept where something went wrong")
    arguments = parser.parse_args()
    folder = (arguments.keep or Path(tempfile.mkdtemp(prefix="prunus-faults-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ |= {"DVC_SITE_CACHE_DIR": str(folder / "site"), "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    logs = ROOT / "logs/faults"
    logs.mkdir(parents=True, exist_ok=True)
    start, results = time.monotonic(), []

    def log(line: str) -> None:
        line = f"{(time.monotonic() - start) / 60:5.1f} min  {line}"
        print(line, flush=True)
        with (logs / "log.txt").open("a") as file:
            file.write(line + "\n")

    def note(result: Result) -> None:
        results.append(result)
        if result.outcome in ("wrong", "manual"):
            log(f"{result.outcome.upper()}: {result.fault}" + "".join(f"\n    {line}" for line in result.notes))
        report = f"{table(results)}\n\nseed {arguments.seed}, {(time.monotonic() - start) / 60:.1f} minutes\n"
        (logs / "report.md").write_text(report)

    def rng(*purpose: object) -> random.Random:
        return random.Random(f"{arguments.seed} {purpose}")

    try:
        (logs / "log.txt").unlink(missing_ok=True)
        log(f"an undisturbed study, in {folder}")
        study = Study.make(folder)
        faults = [name for name in (*damages.DAMAGES, *TOGETHER) if arguments.only in name]
        project = None
        for name in (name for name in faults if name in damages.DAMAGES):
            project = project or study.finished()
            note(damages.inflict(study, project, name, rng(name), log, settled=False))
            if results[-1].outcome in ("wrong", "manual"):
                project = None
        if project and (unsettled := study.wrong(project)):
            note(Result("all damages, one after the other", "wrong", notes=unsettled))
        for name in (name for name in faults if name in TOGETHER):
            note(TOGETHER[name](study, name, rng(name), log))
        left, rounds = arguments.kills - sum(result.kills for result in results), 0
        while left > 0 and arguments.only in "kill":
            launcher = LAUNCHERS[rounds % len(LAUNCHERS)]
            budget = min(left, KILLS_A_ROUND[launcher])
            project = study.copy(study.base)
            done = kills.round_of(study, project, launcher, rng("kill", rounds), budget, SECONDS[launcher], log)
            note(done)
            left, rounds = left - max(1, done.kills), rounds + 1
    finally:
        end_all(folder)
        kill(warm())
        bad = any(result.outcome in ("wrong", "manual") for result in results)
        if not (bad and arguments.keep):
            shutil.rmtree(folder, ignore_errors=True)
    print((logs / "report.md").read_text())
    sys.exit(bad)


if __name__ == "__main__":
    main()
