"""A mistake in params.yaml ends each command with its line, before any training. `make fuzz` tries more files."""

import pytest

import commands
import mutations

SETTING = mutations.written(mutations.put(("methods", "sap", "p"), -1))
NO_YAML = mutations.REAL + b"["


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return commands.project(tmp_path_factory.mktemp("bad") / "project")


@pytest.mark.parametrize(
    ("command", "content", "by"),
    [("snakemake", SETTING, "Prunus"), ("dvc repro", SETTING, "Prunus"), ("dvc repro", NO_YAML, "DVC")],
)
def test_a_bad_file_starts_nothing(project, command, content, by):
    (project / "params.yaml").write_bytes(content)
    error = commands.mistake(project / "params.yaml", command)
    assert commands.refused(project, command, content, error) == by
