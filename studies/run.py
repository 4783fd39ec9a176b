"""Run a ready-made study: put its settings over params.yaml, run the pipeline, keep its results, restore params.yaml.

python studies/run.py epsilon_sweep                # at laptop scale
python studies/run.py epsilon_sweep --scale paper  # with the study's paper.yaml on top

A study is a folder here: `params.yaml` holds only what differs from the project's, which must be as committed
(--keep: need not), `grid`, if there is one, a line of `dvc exp run --queue` options per grid; its experiments then run
too, and `tools/sweep_report.py` gathers them.
Results are copied to `tables/`, `figures/` and `report.html` of the folder. What ran once comes from DVC's cache.
A stage or an experiment that fails does not end a study: the rest is gathered, and the script names what is missing.
"""

import argparse
import csv
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import check_checkout
import overlay
from prunus.run.files import write_atomically
from prunus.study import layout
from prunus.study.checks import of_content, used_methods, validate
from prunus.study.mistakes import ParamsError, shortened

KEPT = layout.ROOT / "params.yaml.before-study"
POLL_SECONDS = 5
POLLS_UNATTENDED = 8  # without a worker; starting one takes some seconds
SECONDS_TO_END = 4  # for what this script runs, when it is stopped


def started(*command: str, output: int | None = None) -> subprocess.CompletedProcess:
    """Run ``command`` in the project, with this interpreter's tools. It ends with this script when that is stopped."""
    tools = os.path.dirname(sys.executable)
    environment = os.environ | {"PATH": os.pathsep.join([tools, os.environ["PATH"]]), "PRUNUS_GOES_ON": ""}
    process = subprocess.Popen(command, cwd=layout.ROOT, env=environment, stdout=output, text=True)
    try:
        text, _ = process.communicate()
    except SystemExit:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_TO_END)
        process.kill()
        raise
    return subprocess.CompletedProcess(command, process.returncode, text)


def run(*command: str, output: int | None = None) -> str:
    """The output of ``command``; ends the script with its status if it fails."""
    done = started(*command, output=output)
    if done.returncode:
        sys.exit(f"{Path(__file__).name}: `{shlex.join(command)}` ended with status {done.returncode}")
    return done.stdout or ""


def alone() -> None:
    """End the script where another one runs a study here; the lock goes with the process, however that ends."""
    lock = layout.ROOT / ".snakemake/study"
    lock.parent.mkdir(exist_ok=True)
    _held.append(lock.open("w"))
    try:
        fcntl.flock(_held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(f"{Path(__file__).name}: another study is running here; wait until it has ended, or stop it")


_held = []
STOPS = (signal.SIGINT, signal.SIGTERM)


def restore() -> None:
    """Put back the params.yaml that was kept aside, by this run or one that was killed, unless edited since."""
    path = layout.ROOT / layout.PARAMS
    if not KEPT.exists():
        return
    mark, _, text = path.read_text(encoding="utf-8").partition("\n")
    if mark != marked(text) and path.read_bytes() != KEPT.read_bytes():
        sys.exit(
            f"{KEPT.name}: is not put back, because {path.name} was edited while it held a study's settings; "
            f"`mv {KEPT.name} {path.name}` restores it, `rm {KEPT.name}` keeps the edited one"
        )
    os.replace(KEPT, path)


def marked(text: str) -> str:
    """The first line of a params.yaml that holds a study's ``text``."""
    return f"# Put here by studies/run.py, which restores yours ({hashlib.sha256(text.encode()).hexdigest()[:16]})."


def put(text: str) -> None:
    """Keep params.yaml aside and write ``text`` in its place."""
    path = layout.ROOT / layout.PARAMS
    with write_atomically(KEPT) as partial:
        shutil.copy2(path, partial)
    with write_atomically(path) as partial:
        partial.write_text(f"{marked(text)}\n{text}", encoding="utf-8")


def left_behind(name: str, scale: str) -> list[str]:
    """What the study would inherit from a params.yaml that is not as committed: a line for each key."""
    committed = run("git", "show", f"HEAD:./{layout.PARAMS}", output=PIPE)
    changed = overlay.differences(overlay.of_study(name, scale), overlay.of_study(name, scale, committed))
    return [f"{key}: {shown(value)} instead of {shown(other)}" for key, value, other in changed]


def shown(value: object) -> str:
    return "nothing" if value is None else shortened(json.dumps(value), 60)


def run_study() -> list[str]:
    """Run the study of params.yaml; returns a line for each missing part. Ends the script if nothing was compared."""
    start = time.time()
    table = layout.ROOT / layout.TABLES / "missing.csv"
    if not (status := started("snakemake").returncode):
        return []
    if not table.exists() or table.stat().st_mtime < start:
        sys.exit(f"{Path(__file__).name}: `snakemake` ended with status {status}, and there is nothing to compare")
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row["why"].startswith("waits for")]
    return [row["why"] if row["kind"] != "not_made" else f"not made: `{row['command']}`" for row in rows]


def why(name: str) -> str:
    """The last message of the stage that ended an experiment."""
    log = started("dvc", "queue", "logs", name, output=PIPE).stdout
    messages = re.findall(r"^\w+\.py: .*", log, re.MULTILINE)
    return messages[-1] if messages else f"`dvc queue logs {name}` says why"


@contextmanager
def applied(text: str):
    """params.yaml holds ``text`` within the block, and what it held before afterwards, however the block ends."""
    try:
        put(text)
        yield
    finally:
        for number in STOPS:  # nothing may interrupt this
            signal.signal(number, signal.SIG_IGN)
        restore()
        for number in STOPS:
            signal.signal(number, stop)


def grid(folder: Path) -> list[list[str]]:
    """The options of each `dvc exp run --queue` of the study."""
    path = folder / "grid"
    lines = path.read_text().splitlines() if path.exists() else []
    return [options for line in lines if (options := shlex.split(line, comments=True))]


def queued(options: list[list[str]]) -> list[str]:
    """Queue a grid; returns the names of its experiments."""
    output = "".join(run("dvc", "exp", "run", "--queue", *line, output=PIPE) for line in options)
    return re.findall(r"Queued experiment '([^']+)'", output)


def states(status: str, names: list[str]) -> dict[str, str]:
    """The state of each of the experiments ``names`` in `dvc queue status`: Queued, Running, Success or Failed."""
    rows = [line.split() for line in status.splitlines()]
    return {row[1]: row[-1] for row in rows if len(row) > 2 and row[1] in names}


def start_workers(jobs: int) -> None:
    run("dvc", "queue", "start", "-j", str(jobs), output=DEVNULL)  # they would keep a pipe open till they end


def run_queue(names: list[str], jobs: int) -> list[str]:
    """Run the queued experiments, ``jobs`` at a time, and wait for them; the names of those that failed."""
    start_workers(jobs)
    start = time.monotonic()
    left, unattended = len(names), 0
    state_of = {}
    try:
        while left:
            time.sleep(POLL_SECONDS)
            status = run("dvc", "queue", "status", output=PIPE)
            state_of = states(status, names)
            if (still := sum(state in ("Queued", "Running") for state in state_of.values())) != left:
                left, minutes = still, (time.monotonic() - start) / 60
                print(f"{len(names) - left} of {len(names)} experiments have ended ({minutes:.1f} min)", flush=True)
            unattended = unattended + 1 if "0 active, 0 idle" in status and "Queued" in state_of.values() else 0
            if unattended == POLLS_UNATTENDED:  # workers that were told to stop also obey that in the next queue
                start_workers(jobs)
                unattended = 0
    finally:
        if left:
            with suppress(SystemExit):
                run("dvc", "queue", "stop", "--kill", output=DEVNULL)
    return [name for name, state in state_of.items() if state == "Failed"]


def keep_results(folder: Path, swept: bool) -> None:
    """Copy tables, figures and pages to ``folder``, those of a sweep where this study is one."""
    for source, pattern in ((layout.TABLES, "*.csv"), (layout.FIGURES, "*.png"), (layout.REPORT.parent, "*.html")):
        target = folder / source.name if source != layout.REPORT.parent else folder
        target.mkdir(parents=True, exist_ok=True)
        for path in (layout.ROOT / source).glob(pattern):
            if swept or not path.name.startswith("sweep"):
                shutil.copy2(path, target)


def stop(number: int, frame: object) -> None:
    """End the script, with one line and params.yaml restored, when Ctrl-C or SIGTERM asks for it."""
    for other in STOPS:
        signal.signal(other, signal.SIG_IGN)
    again = f"`{shlex.join(['python', *sys.argv])}` goes on from there"
    print(f"{Path(__file__).name}: stopped; params.yaml is being put back, and {again}", file=sys.stderr)
    sys.exit(128 + number)


def main() -> None:
    for number in STOPS:
        signal.signal(number, stop)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=overlay.names())
    parser.add_argument("--scale", default=overlay.LAPTOP, help="another parameter set of the study's folder: paper")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="experiments of a grid at a time")
    parser.add_argument("--keep", action="store_true", help="inherit what you changed in params.yaml")
    arguments = parser.parse_args()
    folder = overlay.STUDIES / arguments.study
    options = grid(folder)
    check_checkout.end_where_useless(to_git=True, experiments=bool(options))
    alone()
    restore()
    try:
        content = overlay.of_study(arguments.study, arguments.scale)
        inherited = [] if arguments.keep else left_behind(arguments.study, arguments.scale)
        validate(content, used_methods(of_content(content)))
    except ParamsError as error:
        sys.exit(f"studies/{arguments.study}: " + "\n".join(str(error).splitlines()))
    if inherited:
        cure = f"`git restore {layout.PARAMS}` puts back what is committed, KEEP=1 (--keep) runs the study with yours"
        sys.exit("\n".join([f"{layout.PARAMS} is not as committed, and the study would inherit:", *inherited, cure]))
    with applied(overlay.text(content)):
        missing = run_study()
        if options:
            names = queued(options)
            failed = run_queue(names, arguments.jobs)
            missing += [f"experiment {name}: {why(name)}" for name in failed]
            if made := [name for name in names if name not in failed]:
                run("python", "tools/sweep_report.py", *made)
        keep_results(folder if arguments.scale == overlay.LAPTOP else folder / arguments.scale, bool(options))
    print(f"the results are in {folder.relative_to(layout.ROOT)}, params.yaml is as it was")
    if missing:
        sys.exit("\n".join(["missing from them:", *missing]))


if __name__ == "__main__":
    main()
