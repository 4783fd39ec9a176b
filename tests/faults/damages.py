"""Files of a finished study, of DVC's cache and of the launchers' own books, damaged at seeded places."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from project import Project
from study import DVC, SNAKEMAKE, Result, Study

# One of each kind: data, networks, tables, JSON, what holds times, a picture, the page.
OUTPUTS = (
    "data/prepared/dataset.safetensors",
    "runs/seed0/dense/warmup.safetensors",
    "runs/seed0/dense/network.safetensors",
    "runs/seed0/sap/iteration-1/network.safetensors",
    "runs/seed0/incop_if/iteration-2/history.csv",
    "runs/seed0/sap/iteration-2/metrics.json",
    "runs/seed0/reference_flow.json",
    "runs/evaluations/seed0/sap/iterations.csv",
    "runs/records/seed0/incop_if/iteration-1/record.json",
    "reports/tables/comparison.csv",
    "reports/metrics.json",
    "reports/figures/headline.png",
    "reports/report.html",
)


def flip(path: Path, rng: random.Random, keep_age: bool = False) -> str:
    content, before = bytearray(path.read_bytes()), path.stat()
    place, bit = rng.randrange(len(content)), rng.randrange(8)
    content[place] ^= 1 << bit
    rewrite(path, bytes(content))
    if keep_age:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return f"{path.name}: bit {bit} of byte {place} of {len(content)}"


def truncate(path: Path, rng: random.Random) -> str:
    content = path.read_bytes()
    length = rng.randrange(len(content))
    rewrite(path, content[:length])
    return f"{path.name}: {length} of {len(content)} bytes left"


def empty(path: Path, rng: random.Random) -> str:
    rewrite(path, b"")
    return f"{path.name}: emptied"


def delete(path: Path, rng: random.Random) -> str:
    path.unlink()
    return f"{path.name}: deleted"


def flip_keeping_age(path: Path, rng: random.Random) -> str:
    return flip(path, rng, keep_age=True) + ", its age kept"


def rewrite(path: Path, content: bytes) -> None:
    """In place, as a failing disk would, also where DVC has taken the right to write away."""
    mode = path.stat().st_mode
    path.chmod(mode | 0o200)
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()
    path.chmod(mode)


def some_output(change: Callable) -> Callable:
    return lambda study, project, rng: change(project.root / rng.choice(OUTPUTS), rng)


def one_file(path: str, change: Callable) -> Callable:
    return lambda study, project, rng: change(project.root / path, rng)


def some_file(pattern: str, change: Callable) -> Callable:
    return lambda study, project, rng: change(rng.choice(sorted(project.root.glob(pattern))), rng)


def cached(study: Study, project: Project, output: str) -> Path:
    outs = [out for entry in study.entries(project).values() for out in entry["outs"]]
    name = next(out["md5"] for out in outs if out["path"] == output)
    return project.root / ".dvc/cache/files/md5" / name[:2] / name[2:]


def some_object(change: Callable, with_output: bool) -> Callable:
    """Damage a cached object; ``with_output``: the output is gone too, so that the object is needed."""

    def damage(study, project, rng):
        output = rng.choice(OUTPUTS)
        said = change(cached(study, project, output), rng)
        if with_output:
            (project.root / output).unlink()
        return f"cached {output}: {said}" + (", and the output is gone" if with_output else "")

    return damage


def database(change: Callable) -> Callable:
    """DVC's memory of which file had which hash at which age."""

    def damage(study, project, rng):
        files = sorted(Path(os.environ["DVC_SITE_CACHE_DIR"]).rglob("hashes/**/cache.db"))
        return change(max(files, key=lambda path: path.stat().st_mtime_ns), rng)

    return damage


def stale_partials(study: Study, project: Project, rng: random.Random) -> str:
    outputs = [*rng.sample(OUTPUTS, 3), "dvc.lock"]
    for output in outputs:
        (project.root / f"{output}.partial").write_bytes(rng.randbytes(1000))
    return f"stale {', '.join(outputs)}.partial"


def no_cache(study: Study, project: Project, rng: random.Random) -> str:
    shutil.rmtree(project.root / ".dvc/cache")
    return "the cache removed"


def no_cache_no_outputs(study: Study, project: Project, rng: random.Random) -> str:
    shutil.rmtree(project.root / ".dvc/cache")
    removed = rng.sample(OUTPUTS, 4)
    for output in removed:
        (project.root / output).unlink()
    return f"the cache removed, and {', '.join(removed)}"


LOCK, RUNS, METADATA = "dvc.lock", ".dvc/cache/runs/??/*/*", ".snakemake/metadata/*"

DAMAGES = {
    "output truncated": some_output(truncate),
    "output flipped": some_output(flip),
    "output flipped, age kept": some_output(flip_keeping_age),
    "output emptied": some_output(empty),
    "output deleted": some_output(delete),
    "cached object flipped": some_object(flip, with_output=False),
    "cached object flipped, output gone": some_object(flip, with_output=True),
    "cached object truncated, output gone": some_object(truncate, with_output=True),
    "cached object deleted": some_object(delete, with_output=False),
    "cached object deleted, output gone": some_object(delete, with_output=True),
    "run cache truncated": some_file(RUNS, truncate),
    "run cache flipped": some_file(RUNS, flip),
    "dvc.lock truncated": one_file(LOCK, truncate),
    "dvc.lock flipped": one_file(LOCK, flip),
    "dvc.lock emptied": one_file(LOCK, empty),
    "dvc.lock deleted": one_file(LOCK, delete),
    ".dvc/tmp truncated": one_file(".dvc/tmp/rwlock", truncate),
    ".dvc/tmp emptied": one_file(".dvc/tmp/rwlock", empty),
    "DVC's state truncated": database(truncate),
    "DVC's state flipped": database(flip),
    "Snakemake's metadata truncated": some_file(METADATA, truncate),
    "Snakemake's metadata flipped": some_file(METADATA, flip),
    "Snakemake's metadata deleted": some_file(METADATA, delete),
    "Snakemake's mark deleted": one_file(".snakemake/changed", delete),
    "stale .partial files": stale_partials,
    "cache removed": no_cache,
    "cache removed, outputs gone": no_cache_no_outputs,
}


def inflict(study: Study, project: Project, name: str, rng: random.Random, log, settled: bool = True) -> Result:
    """One damage to a finished project, which must be the finished study again afterwards."""
    launcher = rng.choice([SNAKEMAKE, DVC])
    done = f"{DAMAGES[name](study, project, rng)}; then {launcher[0]}"
    outcome, notes = study.mend(project, launcher, settled)
    log(f"{name}: {done}: {outcome}" + "".join(f"\n    {note}" for note in notes))
    return Result(name, outcome, notes=[f"{done}: {note}" for note in notes])
