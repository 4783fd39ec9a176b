"""Every launcher's stages are forked from a warm process, with the same bytes as started cold."""

import re

import pytest

import oracle

SAY = """

    import os

    print("started by", open(f"/proc/{os.getppid()}/cmdline").read().replace("\\0", " "), "TAG")
"""
LAUNCHERS = {
    "snakemake": ["snakemake", "--cores", "1", "--until", "chain_reference_0_sap"],
    "dvc repro": ["dvc", "repro", "chain_reference@0-sap"],
    "dvc exp run": ["dvc", "exp", "run", "chain_reference@0-sap"],
    "in a copy": ["dvc", "exp", "run", "--temp", "chain_reference@0-sap"],
}
# As Snakemake calls itself on a node, for one job.
ON_A_NODE = ["snakemake", "--cores", "1", "--mode", "remote", "--no-hooks", "--force", "--target-jobs"]
ON_A_NODE += ["chain_reference_0_sap:", "--allowed-rules", "chain_reference_0_sap"]


@pytest.fixture(scope="module")
def telling(by_snakemake, tmp_path_factory):
    """The finished study, in which the stage that prepares SAP's reference says who started it."""
    return by_snakemake.copy(tmp_path_factory.mktemp("telling") / "project")


def started_by(project, launcher: str, command: list[str]) -> str:
    script = project.root / "stages/chain_reference.py"
    script.write_text(script.read_text().split("\n\n    import os\n")[0].rstrip() + SAY.replace("TAG", launcher))
    output = project.run(*command)
    log = project.root / "logs/chain_reference@0-sap.log"
    found = re.search(rf"started by (.*) {launcher}", output + (log.read_text() if log.exists() else ""))
    return found[1]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_launchers_stages_are_copies(telling, launcher):
    assert "tools/warm.py" in started_by(telling, launcher, LAUNCHERS[launcher])


@pytest.mark.parametrize("asked", [False, True])
def test_on_a_node_of_a_cluster_only_if_asked(telling, monkeypatch, asked):
    if asked:
        monkeypatch.setenv("PRUNUS_WARM", "1")
    assert ("tools/warm.py" in started_by(telling, f"node {asked}", ON_A_NODE)) == asked


def test_a_study_has_the_bytes_of_cold_starts(by_snakemake, fresh, monkeypatch):
    cold = fresh("cold")
    monkeypatch.setenv("PRUNUS_WARM", "0")
    cold.snakemake()
    assert oracle.differences(cold.root, oracle.final(by_snakemake.root)) == []
