"""The files that a stage runs: all that it imports, and only its own method."""

import ast
from pathlib import Path

import pytest

from prunus.run import code

FILES = sorted(code.STAGES.rglob("*.py"))


def imported_as_python_reads(path: Path) -> set[Path]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    parts = [module.split(".") for module in modules if module.split(".")[0] == "prunus"]
    paths = {code.STAGES.joinpath(*part[:n]) for part in parts for n in range(1, len(part) + 1)}
    candidates = {path.with_suffix(".py") for path in paths} | {path / "__init__.py" for path in paths}
    return {path for path in candidates if path.exists()}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(code.STAGES)))
def test_imports_are_those_that_python_finds(path):
    assert code.imported(path) == imported_as_python_reads(path)


def test_a_stage_runs_its_own_method_and_no_other():
    files = code.closure(code.STAGES / "prune_iteration.py", ["sap"])
    methods = {path.stem for path in files if path.parent == code.METHODS}
    assert methods == {"__init__", "sap"}
    assert {code.STAGES / "prune_iteration.py", code.PACKAGE / "masks.py", code.PACKAGE / "training/loop.py"} <= files
    assert not {path for path in files if "reporting" in path.parts}


def test_a_room_stands_for_its_files_and_a_method_for_itself():
    assert code.room(code.PACKAGE / "training/loop.py") == code.PACKAGE / "training"
    assert code.room(code.PACKAGE / "reporting/charts/theme.py") == code.PACKAGE / "reporting"
    assert code.room(code.PACKAGE / "flow.py") == code.PACKAGE / "flow.py"
    assert code.room(code.METHODS / "sap.py") == code.METHODS / "sap.py"
    assert code.room(code.STAGES / "pretrain.py") == code.STAGES / "pretrain.py"
