"""A study of seconds, finished once for all tests that look at one."""

import shutil

import pytest

from project import ROOT, make_project


@pytest.fixture(scope="session")
def fresh(tmp_path_factory):
    """A function that makes a committed project with a small study in which nothing has run yet."""
    template = make_project(tmp_path_factory.mktemp("template") / "project")
    return lambda name: template.copy(tmp_path_factory.mktemp(name, numbered=True) / "project")


@pytest.fixture(scope="session")
def by_snakemake(fresh):
    """The study as `snakemake` left it. Tests that change something take a ``copy``."""
    project = fresh("snakemake")
    project.first_run = project.snakemake()
    return project


@pytest.fixture(scope="session")
def reported(by_snakemake, tmp_path_factory):
    """The same with the real report."""
    project = by_snakemake.copy(tmp_path_factory.mktemp("reported") / "project")
    shutil.copy2(ROOT / "stages/report.py", project.root / "stages")
    assert project.snakemake() == {"report"}
    return project


@pytest.fixture
def finished(by_snakemake, tmp_path):
    """A copy of the finished study, free to be changed."""
    project = by_snakemake.copy(tmp_path / "project")
    return project
