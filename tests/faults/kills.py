"""SIGKILL at seeded random moments: by the clock from outside, or in a process as it changes the study's files."""

import random
import shutil
import tempfile
import time
from pathlib import Path

import yaml

import oracle
from processes import POLL, Hung, Launch, end_all, kill, of_study, role, wait_for_orphans, warm
from project import Project
from study import LAUNCHERS, Result, Study, last_lines

HOOK = Path(__file__).parent / "hook"
# How many changes to the study's files the processes of a role make, on average, before one of them is killed.
CHANGES = {"stage": 25, "dvc": 80, "snakemake": 40}
REFUSALS = 3


def plan(rng: random.Random, roles: list[str], seconds: float) -> dict:
    """One kill: whom, when, and whether the processes around it die too."""
    chosen = {"role": rng.choice(roles), "everything": rng.random() < 0.4}
    if chosen["role"] not in CHANGES or rng.random() < 0.4:
        return chosen | {"after": rng.uniform(0.05, seconds)}
    delay = rng.choice([0.0, rng.uniform(0, 0.01), rng.uniform(0, 0.3)])
    return chosen | {"nth": 1 + int(rng.expovariate(1 / CHANGES[chosen["role"]])), "delay": delay}


def state(root: Path) -> str:
    """What the files were like when the kill had happened."""
    try:
        lock = f"{len(yaml.load((root / 'dvc.lock').read_bytes(), yaml.CSafeLoader)['stages'])} stages in dvc.lock"
    except FileNotFoundError:
        lock = "no dvc.lock"
    except (yaml.YAMLError, TypeError, KeyError, ValueError):
        lock = "dvc.lock torn"
    partial = [path.name for path in root.glob("**/*.partial")]
    unfinished = [path for path in root.glob("runs/unfinished/**/*") if path.is_file()]
    objects = len(list(root.glob(".dvc/cache/files/md5/??/*")))
    return f"{lock}, {objects} objects, partial {partial}, unfinished {len(unfinished)}, alive {len(of_study(root))}"


def disturbed(project: Project, command: list[str], order: dict, limit: float) -> tuple[str | None, int, str]:
    """Run ``command`` and kill as ``order`` says: what was killed (None: it ended first), its status and output."""
    with tempfile.TemporaryDirectory() as folder:
        variables = {}
        if "nth" in order:
            fault = f"{order['role']} {order['nth']} {order['delay']} {order['everything']} {folder}"
            variables = {"PRUNUS_FAULT": fault, "PYTHONPATH": str(HOOK)}
        start, killed = time.monotonic(), None
        launch = Launch(project, command, **variables)
        while not launch.ended() and time.monotonic() - start < limit:
            if "after" in order and killed is None and time.monotonic() - start > order["after"]:
                wanted = [pid for pid in of_study(project.root) if role(pid) == order["role"]]
                if victims := warm() if order["role"] == "warm" else wanted:
                    one = random.Random(str(order)).choice(victims)
                    killed = f"{order['role']} after {time.monotonic() - start:.2f} s"
                    kill([one, *(of_study(project.root) if order["everything"] else [])])
            time.sleep(POLL)
        status = launch.wait(1)
        hit = Path(folder, "hit")
        if hit.exists():
            killed = f"{order['role']} at change {order['nth']} + {order['delay']:.3f} s: {hit.read_text()}"
        if killed and order["everything"]:
            end_all(project.root)
            killed += ", with all others"
    return killed, status, launch.output


def ends_with_damage(study: Study, project: Project, result: Result, log) -> bool:
    """Whether ``make verify``, which the documents name for what a launcher stumbles over, found something to mend."""
    status, text = study.run(project, ["python", "tools/verify.py"])
    log(f"{result.fault}: verify: status {status}; {last_lines(text)}")
    result.outcome = "said" if status == 1 else result.outcome
    return status == 1


def until_done(study: Study, project: Project, command: list[str], next_order, log, fault: str) -> Result:
    """Run the same command again and again, each time killed as ``next_order()`` says, until it ends by itself."""
    result, refused = Result(fault, "recovered"), 0
    try:
        while True:
            order = next_order()
            survivors = len(of_study(project.root))
            if order is None:
                launch = Launch(project, command)
                killed, status, text = None, launch.wait(study.limit), launch.output
            else:
                killed, status, text = disturbed(project, command, order, study.limit)
            if killed:
                result.kills, refused = result.kills + 1, 0
                log(f"{fault}: kill {result.kills}: {killed}; {state(project.root)}")
            elif not status:
                wait_for_orphans(project.root, study.limit)
                return result
            else:
                refused += 1
                note = f"failed, not killed ({survivors} survivors of a kill at its start): {last_lines(text)}"
                log(f"{fault}: {note}")
                result.notes.append(note)
                if not survivors and refused == 1 and ends_with_damage(study, project, result, log):
                    continue
                if not survivors or refused > REFUSALS:
                    result.outcome = "manual"
                    end_all(project.root)
                    return result
                wait_for_orphans(project.root, study.limit)
    except Hung as error:
        result.outcome = "manual"
        result.notes.append(f"hung: {error}")
        return result


def round_of(
    study: Study, project: Project, launcher: str, rng: random.Random, budget: int, seconds: float, log
) -> Result:
    """``project`` brought to its end under kills, at most ``budget`` of them, and held against the undisturbed one."""
    left = [budget]
    roles = {"snakemake": ["stage", "dvc", "snakemake"], "dvc": ["stage", "dvc"], "scripts": ["stage"]}[launcher] + [
        "warm"
    ]

    def next_order():
        left[0] -= 1
        return plan(rng, [*roles, "warm"], seconds) if left[0] >= 0 else None

    commands = study.scripts() if launcher == "scripts" else [LAUNCHERS[launcher]]
    result = Result(f"kill ({launcher})", "recovered")
    for command in commands:
        done = until_done(study, project, command, next_order, log, result.fault)
        result.kills += done.kills
        result.notes += done.notes
        result.outcome = done.outcome if done.outcome != "recovered" else result.outcome
        if done.outcome == "manual":
            return result
    if litter := oracle.litter(project.root):
        log(f"{result.fault}: left beside the outputs: {', '.join(path.name for path in litter)}")
    # Bare scripts leave no dvc.lock: only results are compared.
    bare = launcher == "scripts"
    wrong = oracle.differences(project.root, study.final) if bare else study.wrong(project)
    if wrong:
        result.outcome = "wrong"
        result.notes += wrong[:10]
    else:
        shutil.rmtree(project.root)
    return result
