"""Imports between the rooms of ``stages/prunus`` go one way, so that one can be read without those that build on it."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from prunus.run.code import METHODS, PACKAGE, ROOT, STAGES

# What a room may import, besides itself. A room of one file is a file; ``prunus/__init__.py`` is everyone's.
MAY_IMPORT = {
    "study": "",
    "run": "study",
    "data": "study run",
    "sources": "study run data",
    "sparsity": "",
    "masks": "run sparsity",
    "networks": "study run masks",
    "flow": "run sparsity masks networks",
    "training": "study run data sparsity masks networks flow",
    "channels": "sparsity masks networks",
    "information": "",
    "pruning": "study run data sparsity masks networks flow training channels information",
    "methods": "study run data sparsity masks networks flow training channels information pruning",
    "evaluation": "study run data sparsity masks networks channels information",
    "comparing": "study run",
    "reporting": "study run comparing",
}
SCRIPTS = {path.stem for path in STAGES.glob("*.py")}
# A stage runs where torch and the like are installed, and neither of these.
LAUNCHERS = {"dvc", "snakemake", *(path.stem for path in (ROOT / "tools").glob("*.py"))}
# Where a method is imported by the name that stands in params.yaml.
BY_NAME = {"study/checks.py", "methods/__init__.py"}


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of all that ``source`` imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: a relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def against_the_order(room: str, source: str, name: str) -> list[str]:
    """The imports of a file of ``room`` that the table does not allow, as ``file:line: arrow``."""
    allowed = {room, *MAY_IMPORT[room].split()}
    arrows = [(line, module.split(".")[1]) for line, module in imports(source) if module.startswith("prunus.")]
    return [f"{name}:{line}: {room} -> {to}" for line, to in arrows if to in MAY_IMPORT and to not in allowed]


def files_of(room: str) -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if room_of(path) == room)


def test_the_table_has_every_room_and_no_way_back():
    rooms = {room_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert rooms == set(MAY_IMPORT)
    assert all(set(others.split()) <= rooms for others in MAY_IMPORT.values())
    TopologicalSorter({room: others.split() for room, others in MAY_IMPORT.items()}).prepare()  # CycleError


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_rooms_before_it(room):
    said = [against_the_order(room, path.read_text(), str(path.relative_to(ROOT))) for path in files_of(room)]
    assert not (found := sum(said, [])), "\n".join(found)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from prunus.training import loop", ["a.py:1: channels -> training"]),
        ("\ndef f():\n    from prunus import masks, flow as flowing", ["a.py:3: channels -> flow"]),
        ("import prunus.run.files", ["a.py:1: channels -> run"]),
        ("from prunus import STARTED\nfrom prunus.masks import ones\nimport torch", []),
    ],
)
def test_an_arrow_that_runs_back_is_found(source, found):
    assert against_the_order("channels", source, "a.py") == found


@pytest.mark.parametrize("path", sorted(METHODS.glob("[!_]*.py")), ids=lambda path: path.stem)
def test_no_method_imports_another(path):
    assert not [module for _, module in imports(path.read_text()) if module.startswith("prunus.methods")]


def test_nothing_imports_a_method_but_by_the_name_of_params_yaml():
    named = {path.stem for path in METHODS.glob("[!_]*.py")}
    for path in STAGES.rglob("*.py"):
        modules = [module.split(".") for _, module in imports(path.read_text())]
        assert not [
            parts for parts in modules if parts[:2] == ["prunus", "methods"] and parts[2:3] and parts[2] in named
        ]
        by_name = path.is_relative_to(PACKAGE) and str(path.relative_to(PACKAGE)) in BY_NAME
        assert by_name or "import_module" not in path.read_text(), f"{path}: what it imports cannot be seen"


@pytest.mark.parametrize("path", sorted(STAGES.rglob("*.py")), ids=lambda path: str(path.relative_to(STAGES)))
def test_a_stage_runs_alone(path):
    """Without the other scripts, without DVC and Snakemake, and without what is for them."""
    for line, module in imports(path.read_text()):
        assert module.split(".")[0] not in SCRIPTS | LAUNCHERS, f"{path.relative_to(ROOT)}:{line}: {module}"
