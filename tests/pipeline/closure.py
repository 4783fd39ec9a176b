"""Which project files a stage script imports, directly or through other modules, found without running anything."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STAGES = ROOT / "stages"


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


def imported(path: Path) -> set[Path]:
    """Project files that the file at ``path`` imports itself, wherever in the file the import stands."""
    files = set()
    for node in ast.walk(ast.parse(path.read_text())):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for module in modules:
            files |= {found for name in _packages(module) if (found := _file_of(name))}
    return files


def closure(script: Path) -> set[Path]:
    """``script`` and every project file it comes to import."""
    seen, waiting = set(), {script}
    while waiting:
        path = waiting.pop()
        seen.add(path)
        waiting |= imported(path) - seen
    return seen
