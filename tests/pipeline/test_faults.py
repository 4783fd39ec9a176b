"""The short form of `make faults`: one kill while a chain is made, and a finished study damaged in several ways."""

import random

import pytest

import damages
import kills
from processes import kill, of_study, warm
from study import DVC, SNAKEMAKE, Study
from together import half_done

pytestmark = pytest.mark.timeout(900)

# DVC, in one of a stage's copies, as it makes its 12th change to the study's files, and all others with it.
KILL = {"role": "dvc", "nth": 12, "delay": 0.0, "everything": True}
TOGETHER = ("output truncated", "cached object deleted", "Snakemake's metadata flipped", ".dvc/tmp emptied")


@pytest.fixture(scope="module")
def study(by_snakemake, tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(folder / "site"))
        patch.setenv("TMPDIR", str(folder))  # its warm processes are its own
        yield Study(by_snakemake, by_snakemake, folder, limit=250)
        kill(warm())


def test_a_study_that_is_killed_ends_with_the_same_bytes(study):
    project, said = half_done(study), []
    coming = iter([KILL, None])
    result = kills.until_done(study, project, SNAKEMAKE, lambda: next(coming), said.append, "kills")
    assert (result.outcome, result.kills) == ("recovered", 1), "\n".join(said)
    assert study.wrong(project) == [], "\n".join(said)
    assert not of_study(project.root)


@pytest.mark.parametrize(
    ("launcher", "kinds"), [(SNAKEMAKE, TOGETHER), (DVC, ("dvc.lock truncated", "stale .partial files"))]
)
def test_damage_is_mended_or_named(study, launcher, kinds):
    project, rng = study.copy(study.reference), random.Random(0)
    study.run(project, launcher)
    done = [damages.DAMAGES[kind](study, project, rng) for kind in kinds]
    outcome, notes = study.mend(project, launcher, settled=False)
    assert outcome in ("recovered", "said"), "\n".join(done + notes)
