"""Are outputs what dvc.lock says, and DVC's cached objects what their names say? What is not is removed and named.

python tools/verify.py      # also `make verify`; reads every byte, while nothing else runs

DVC trusts a cached object that is read-only, and takes a file's age for its content: it would restore a damaged object
as it is. What is removed here, the next `snakemake` or `dvc repro` restores from what is left or makes again.
"""

import hashlib
import json
import os
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

LOCK, CACHE = Path("dvc.lock"), Path("files/md5")


def md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def recorded(text: str) -> dict[str, tuple[str, str]]:
    """Path of every output -> the stage that made it and its MD5, of a dvc.lock as DVC writes it.

    Not parsed as YAML: that takes seconds for a thousand stages, and lines that are no entries do not stop it.
    """
    found, stage, section, path = {}, "", "", ""
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip(" "))
        if indent == 2:
            stage = line.strip().removesuffix(":")
        elif indent == 4 and not line.startswith("    - "):
            section = line.strip()
        elif section == "outs:" and line.startswith("    - path: "):
            path = line.removeprefix("    - path: ")
        elif section == "outs:" and line.startswith("      md5: "):
            found[path] = stage, line.removeprefix("      md5: ")
    return found


def cut_short(text: str) -> bool:
    """Whether dvc.lock ends within an entry: plain DVC, killed while it wrote the file anew, leaves it so."""
    last = re.split(r"(?m)^  (?=\S)", text)[-1]
    return "stages:" in text and last.strip() != "stages: {}" and not ("\n    outs:\n" in last and text.endswith("\n"))


def unreadable_records(metadata: Path) -> Iterator[Path]:
    """Snakemake's records that are no text, over which it stumbles; those that are no JSON it passes over."""
    for path in metadata.rglob("*"):
        try:
            path.is_file() and path.read_bytes().decode()
        except UnicodeDecodeError:
            yield path


def damaged_objects(cache: Path) -> Iterator[Path]:
    """Cached objects under ``cache`` (DVC's) whose content is not what they are named after."""
    objects = sorted(path for path in (cache / CACHE).glob("??/*") if path.is_file())
    for path in tqdm(objects, "cached objects", unit="file", disable=not sys.stderr.isatty()):
        name = path.parent.name + path.name.removesuffix(".dir")
        if len(name) == 32 and md5(path) != name:
            yield path


def damaged_runs(cache: Path) -> Iterator[Path]:
    """Entries of DVC's run cache, which say what a stage once made, that are not what they are named after."""
    from dvc.exceptions import DvcException
    from dvc.utils import dict_sha256
    from dvc.utils.serialize import load_yaml

    for path in sorted((cache / "runs").glob("??/*/*")):
        try:
            name = dict_sha256(load_yaml(path), exclude=["size", "nfiles"])
        except (DvcException, AttributeError, ValueError):
            name = None
        if name != path.name:
            yield path


def unreadable(lock: Path, repo) -> bool:
    from dvc.dvcfile import Lockfile
    from dvc.exceptions import DvcException

    try:
        Lockfile(repo, str(lock)).load()
    except (DvcException, UnicodeDecodeError):
        return True
    return False


def torn(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return True
    return False


def damaged_databases() -> Iterator[Path]:
    """DVC's databases of file hashes that SQLite cannot read. (A ``Repo`` that opened them would stumble.)"""
    from dvc.repo import Repo
    from dvc_data.hashfile import state

    opening, state.State = state.State, lambda *_: state.StateNoop()
    try:
        folder = Path(Repo().site_cache_dir)
    finally:
        state.State = opening
    for path in folder.rglob("cache.db"):
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
                sound = database.execute("PRAGMA quick_check").fetchone() == ("ok",)
        except sqlite3.DatabaseError:
            sound = False
        if not sound:
            yield path


def main() -> int:
    os.chdir(Path(__file__).resolve().parents[1])
    damaged = []
    for path in damaged_databases():
        damaged.append(f"DVC's database {path} is damaged: removed")
        for part in path.parent.glob("cache.db*"):
            part.unlink()
    from dvc.repo import Repo

    repo = Repo()

    def remove(path: Path, why: str) -> None:
        damaged.append(f"{os.path.relpath(path)} {why}: removed")
        path.unlink() if path.is_file() else path.rmdir()

    with repo.lock:
        cache = Path(repo.cache.legacy.path)
        for path in damaged_objects(cache):
            remove(path, "is damaged")
        for path in damaged_runs(cache):
            remove(path, "is damaged")
        for folder in (cache / "runs").glob("??/*"):
            if not any(folder.iterdir()):  # of a DVC that was killed; the next one would stumble over it
                remove(folder, "is empty")
        outputs = recorded(LOCK.read_text(encoding="utf-8", errors="replace")) if LOCK.exists() else {}
        there = {Path(path): entry for path, entry in outputs.items() if Path(path).is_file()}
        for path, (stage, expected) in tqdm(there.items(), "outputs", unit="file", disable=not sys.stderr.isatty()):
            if md5(path) != expected:
                remove(path, f"is not what {stage} made")
        if LOCK.exists() and unreadable(LOCK, repo):
            remove(LOCK, "cannot be read")
        locks = Path(repo.tmp_dir, "rwlock")
        if locks.exists() and torn(locks):  # by a plain `dvc` that was killed; the next one would stumble over it
            remove(locks, "cannot be read")
    print("\n".join(damaged + [f"{len(there)} outputs checked, {len(damaged)} things damaged"]))
    if damaged:
        print("`dvc repro` brings back what is missing: from the cache where it can, else by running the stage")
    return 1 if damaged else 0


if __name__ == "__main__":
    sys.exit(main())
