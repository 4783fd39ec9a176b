"""Stages run by hand, and what DVC is told of them: docs/how-to/run-on-a-gpu.md."""

import shutil
import sys

import pytest

pytestmark = pytest.mark.timeout(600)
STAGE = "prune_iteration@0-sap-iteration1"


def test_a_stage_run_by_hand_does_not_run_again_once_it_is_committed(finished):
    folder = finished.root / "runs/seed0/sap/iteration-2"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    finished.run(sys.executable, *["stages/prune_iteration.py", "--seed", "0", "--method", "sap", "--iteration", "2"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before  # the same bytes, but for the record
    assert STAGE in finished.run("dvc", "status")
    finished.run("dvc", "commit", "--force", STAGE)
    assert STAGE not in finished.run("dvc", "status")
    assert finished.repro() == {"compare", "report"}  # which read seconds
    assert finished.snakemake() == set()


def test_results_made_without_dvc_are_taken_over_by_a_commit(finished):
    (finished.root / "dvc.lock").unlink()
    shutil.rmtree(finished.root / ".dvc/cache")
    finished.run("dvc", "commit", "--force")
    assert "Data and pipelines are up to date." in finished.run("dvc", "status")
    assert finished.repro() == set()
