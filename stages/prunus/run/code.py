"""The project's files that a stage runs: those that its script imports, directly or through other modules.

They are found in the source text, without running or parsing it, which would take longer than some epochs. dvc.yaml (a
test compares), the run record and the checkpoint's fingerprint all use this one answer, not the modules that a process
has loaded, which may include other methods' files.
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
    """The project files that the file at ``path`` imports itself, anywhere in the file."""
    files = set()
    for package, names, module in IMPORT.findall(path.read_text(encoding="utf-8")):
        modules = [module or package, *(f"{package}.{name}" for name in NAME.findall(names))]
        files |= {file for module in modules for name in _packages(module) if (file := _file_of(name))}
    return frozenset(files)


def closure(script: Path, methods: Iterable[str] = ()) -> set[Path]:
    """The stage's ``script``, the files of the ``methods`` whose settings it uses, and all that these import."""
    files, waiting = set(), {script, *(METHODS / f"{name}.py" for name in methods)}
    while waiting:
        path = waiting.pop()
        files.add(path)
        waiting |= imported(path) - files
    return files


def room(path: Path) -> Path:
    """The entry in dvc.yaml for a file: the folder right under ``prunus`` that holds it; or the file itself if it is
    outside of the package or right under ``prunus``, or a method's, because a stage runs only its own method."""
    if PACKAGE not in path.parents or path.parent in (PACKAGE, METHODS):
        return path
    return PACKAGE / path.relative_to(PACKAGE).parts[0]


def rooms(script: Path, methods: Iterable[str] = ()) -> set[Path]:
    """The code that a stage depends on: its script and the rooms of all that it imports."""
    return {room(path) for path in closure(script, methods)}
