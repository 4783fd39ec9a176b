"""Check outputs against dvc.lock and DVC's cached objects against their names; remove and name what differs.

python tools/verify.py      # also `make verify`; reads every byte, while nothing else runs

DVC trusts a read-only cached object and judges a file by its age, so it would restore a damaged object as it is. The
next `snakemake` or `dvc repro` restores what is removed here from what is left, or makes it again. Notes of DVC and
Snakemake that a kill or a disk has damaged are removed too.
"""

import hashlib
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import dvc_status
import session

LOCK, PATHS_LOCK, METADATA = Path("dvc.lock"), Path(".dvc/tmp/rwlock"), Path(".snakemake/metadata")


def md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def readable(read: Callable[[], object]) -> bool:
    try:
        read()
    except sqlite3.OperationalError:  # in use
        return True
    except (ValueError, sqlite3.DatabaseError, dvc_status.ProjectError):
        return False
    return True


def quick_check(database: Path) -> None:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as opened:
        if (answer := opened.execute("PRAGMA quick_check").fetchone()) != ("ok",):
            raise ValueError(answer)


def unreadable_notes() -> Iterator[Path]:
    """Unreadable ones of: DVC's databases of file hashes, Snakemake's records, DVC's lock of paths, dvc.lock."""
    for database in dvc_status.databases():
        if not readable(lambda: quick_check(database)):  # noqa: B023 - called at once
            yield from database.parent.glob("cache.db*")
    yield from (path for path in METADATA.rglob("*") if path.is_file() and not readable(path.read_text))
    if PATHS_LOCK.exists() and not readable(lambda: json.loads(PATHS_LOCK.read_bytes())):
        yield PATHS_LOCK
    if not readable(lambda: dvc_status.entries(LOCK)):
        yield LOCK


def damaged(project: dvc_status.Workspace) -> Iterator[Path]:
    """Cached objects, outputs, and empty folders in the run cache, which a killed DVC leaves."""
    yield from (path for path in project.objects() if md5(path) != path.parent.name + path.name.removesuffix(".dir"))
    yield from (path for path, expected in project.recorded().items() if path.is_file() and md5(path) != expected)
    yield from (folder for folder in (project.cache / "runs").glob("??/*") if not any(folder.iterdir()))


def main() -> int:
    os.chdir(Path(__file__).resolve().parents[1])
    removed = []

    def remove(paths: Iterator[Path], why: str) -> None:
        for path in paths:
            removed.append(path)
            print(f"{os.path.relpath(path)} {why}: removed", flush=True)
            path.unlink() if path.is_file() else path.rmdir()

    with session.only_one():
        remove(unreadable_notes(), "cannot be read")
        project = dvc_status.Workspace()
        with project.claim("python tools/verify.py"):
            remove(damaged(project), "is damaged")
    print(f"{len(project.recorded())} outputs checked, {len(removed)} things damaged")
    if removed:
        print("`dvc repro` brings back what is missing: from the cache where it can, else by running the stage")
    return 1 if removed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except dvc_status.ProjectError as error:
        sys.exit(f"verify.py: {error}")
