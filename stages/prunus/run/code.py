"""Which of the project's files a stage runs: what its script imports, directly or through other modules.

Found in the sources, without running or parsing them, which would take longer than many an epoch. The one answer for
dvc.yaml (a test compares), the run record and the checkpoint's fingerprint: what a process happens to have loaded
besides, another method's file for one, is not asked.
"""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

STAGES = Path(__file__).resolve().parents[2]
PACKAGE = STAGES / "prunus"
METHODS = PACKAGE / "methods"
# `from prunus.a import b, c`, also in parentheses, and `import prunus.a`
IMPORT = re.compile(r"^[ \t]*(?:from (prunus[\w.]*) import (\([^)]*\)|[^\n#]*)|import (prunus[\w.]*))", re.MULTILINE)
NAME = re.compile(r"(?:^|[,(])\s*(\w+)")


@cache
def _file_of(module: str) -> Path | None:
    path = STAGES.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.exists():
            return candidate
    return None


def _packages(module: str) -> list[str]:
    """``a.b.c`` and the packages whose ``__init__`` runs before it."""
    parts = module.split(".")
    return [".".join(parts[: n + 1]) for n in range(len(parts))]


@cache
def imported(path: Path) -> frozenset[Path]:
    """Project files that the file at ``path`` imports itself, wherever in the file the import stands."""
    files = set()
    for package, names, module in IMPORT.findall(path.read_text(encoding="utf-8")):
        modules = [module or package, *(f"{package}.{name}" for name in NAME.findall(names))]
        files |= {found for module in modules for name in _packages(module) if (found := _file_of(name))}
    return frozenset(files)


def closure(script: Path, methods: Iterable[str] = ()) -> set[Path]:
    """The stage's ``script``, the files of the ``methods`` whose settings it obeys, and all they come to import."""
    seen, waiting = set(), {script, *(METHODS / f"{name}.py" for name in methods)}
    while waiting:
        path = waiting.pop()
        seen.add(path)
        waiting |= imported(path) - seen
    return seen


def room(path: Path) -> Path:
    """What stands for a file of the package in dvc.yaml: the folder right under ``prunus`` that holds it, or the file
    itself where there is none, and where it is a method's, of which a stage runs its own alone."""
    if PACKAGE not in path.parents or path.parent in (PACKAGE, METHODS):
        return path
    return PACKAGE / path.relative_to(PACKAGE).parts[0]


def rooms(script: Path, methods: Iterable[str] = ()) -> set[Path]:
    """The code that a stage depends on: its script, and the rooms of what it imports."""
    return {room(path) for path in closure(script, methods)}
