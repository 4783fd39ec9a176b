"""What is wrong with params.yaml ends each command in its line, before any training. `make fuzz` tries more files."""

import pytest

import commands
import mutations
from prunus import params
from prunus.plain_yaml import ParamsError

BAD = {
    "a method's setting": (mutations.written(mutations.put(("methods", "sap", "p"), -1)), "Prunus"),
    "no YAML": (mutations.REAL + b"[", "DVC"),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return commands.project(tmp_path_factory.mktemp("bad") / "project")


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("command", commands.COMMANDS)
def test_a_bad_file_starts_nothing(project, command, what):
    content, by_dvc = BAD[what]
    (project / "params.yaml").write_bytes(content)
    with pytest.raises(ParamsError) as error:
        params.read(project / "params.yaml")
    assert commands.refused(project, command, content, error.value) == (by_dvc if command == "dvc repro" else "Prunus")
