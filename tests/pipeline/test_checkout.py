"""An experiment whose results DVC would lose computes nothing."""

from project import Project


def test_an_experiment_in_a_shallow_clone_ends_in_a_line_before_it_computes(fresh, tmp_path):
    project = fresh("whole")
    (project.root / "more").write_text("a second commit\n")
    project.git("add", "-A")
    project.git("commit", "-qm", "more")
    project.git("clone", "-q", "--depth", "1", f"file://{project.root}", str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone")
    for key in ("name", "email"):
        clone.run("git", "config", f"user.{key}", "test")
    output = clone.run("dvc", "exp", "run", "--temp", "-S", "methods.sap.eta=0.1", status=None)
    assert "a shallow clone: " in output and "`git fetch --unshallow`" in output
    assert "Running stage 'prepare_data'" not in output
    clone.run("git", "fetch", "--unshallow")
    output = clone.run("dvc", "exp", "run", "--temp", "-S", "methods.sap.eta=0.1", "prepare_data")
    assert "Running stage 'prepare_data'" in output
