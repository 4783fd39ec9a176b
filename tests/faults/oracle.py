"""What "the same final bytes" means: every output that holds no times, and DVC's own books, checked without DVC.

Left out because they hold times: run records, report pages, columns of seconds, latencies and speed-ups, and the
figures drawn from them. Their bytes still must be what dvc.lock says they are.
"""

import hashlib
import json
import re
from pathlib import Path

import pandas as pd
import yaml

TIMES = re.compile(r"seconds|latency|speedup|^git$|^dirty$")
TIMED_FIGURES = {"headline.png", "time_split.png", "trade_off.png"}
OUTPUTS = ("data/prepared/**/*", "runs/seed*/**/*", "runs/evaluations/**/*", "reports/tables/*", "reports/figures/*")


def timeless(path: Path) -> bytes:
    """The content of an output without what differs between equal runs."""
    if path.suffix == ".csv":
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        return table[[name for name in table if not TIMES.search(name)]].to_csv(index=False).encode()
    if path.name == "metrics.json" and path.parent.name == "reports":
        content = json.loads(path.read_text())
        kept = {name: {key: own[key] for key in own if not TIMES.search(key)} for name, own in content.items()}
        return json.dumps(kept, sort_keys=True).encode()
    return path.read_bytes()


def is_of_dvc(path: Path) -> bool:
    """DVC's name for a copy it has not finished."""
    return path.name.startswith(".") and path.suffix == ".tmp"


def final(root: Path) -> dict[str, str]:
    """Path of every output that holds results -> digest of its timeless content, or what is wrong with it."""
    files = {path for pattern in OUTPUTS for path in root.glob(pattern) if path.is_file()} | {
        root / "reports/metrics.json"
    }
    digests = {}
    for path in sorted(files):
        if path.name not in TIMED_FIGURES and path.suffix != ".partial" and not is_of_dvc(path):
            try:
                digests[str(path.relative_to(root))] = hashlib.sha256(timeless(path)).hexdigest()
            except (OSError, ValueError) as error:
                digests[str(path.relative_to(root))] = f"{type(error).__name__}: {error}"
    return digests


def differences(root: Path, reference: dict[str, str]) -> list[str]:
    """What is missing, left over or different against the undisturbed study."""
    found = final(root)
    return [
        f"{path} {'is missing' if path not in found else 'is left over' if path not in reference else 'differs'}"
        for path in sorted(found.keys() | reference.keys())
        if found.get(path) != reference.get(path)
    ]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def books(root: Path, stages: set[str]) -> list[str]:
    """Where dvc.lock, the files and DVC's cache contradict each other; ``stages`` is every stage there must be."""
    try:
        lock = yaml.load((root / "dvc.lock").read_bytes(), yaml.CSafeLoader)["stages"]
    except (OSError, TypeError, KeyError, ValueError, yaml.YAMLError) as error:
        return [f"dvc.lock cannot be read: {type(error).__name__}"]
    wrong = [f"{name} is not in dvc.lock" for name in sorted(stages - lock.keys())]
    for name, entry in ((name, lock[name]) for name in stages & lock.keys()):
        for use in ("deps", "outs"):
            for item in entry.get(use, []):
                path = root / item["path"]
                if path.is_dir():
                    continue
                if not path.exists() or md5(path) != item.get("md5"):
                    wrong.append(f"{item['path']} is not what dvc.lock says of the {use} of {name}")
        for item in entry.get("outs", []):
            name = item.get("md5", "")
            if not (root / ".dvc/cache/files/md5" / name[:2] / name[2:]).is_file():
                wrong.append(f"{item['path']} is not in the cache")
    for path in (root / ".dvc/cache/files/md5").glob("??/*"):
        if path.suffix != ".dir" and not is_of_dvc(path) and md5(path) != path.parent.name + path.name:
            wrong.append(f"{path.relative_to(root)} is not what it is named after")
    return wrong + [f"{path} is left over" for path in root.glob("runs/unfinished/**/*") if path.is_file()]


def litter(root: Path) -> list[Path]:
    """Files that killed processes left beside outputs: in nobody's way, and no part of any result."""
    found = [
        path
        for pattern in ("*.partial", ".*.tmp")
        for top in ("runs", "reports", "data", ".dvc/cache")
        for path in (root / top).rglob(pattern)
    ]
    return found + list(root.glob("dvc.lock.partial"))


def unsettled(project) -> list[str]:
    """What the launchers still find to do: what is up to date for DVC is so for Snakemake."""
    status = project.run("dvc", "status", status=None)
    if "Data and pipelines are up to date." not in status:
        return ["`dvc status`: " + " ".join(status.split())[:300]]
    plan = project.run("snakemake", "-n", "--cores", "2", status=None)
    return [] if "Nothing to be done" in plan else ["`snakemake -n`: " + " ".join(plan.split())[-300:]]
