"""The short form of `make faults`: kills while one chain is made, and a finished study damaged in several ways."""

import random

import pytest

import damages
import kills
from processes import of_study
from study import DVC, SNAKEMAKE, Study
from together import half_done

pytestmark = pytest.mark.timeout(900)

KILLS = 5
TOGETHER = ("output truncated", "cached object deleted", "Snakemake's metadata flipped", ".dvc/tmp emptied")


@pytest.fixture(scope="module")
def study(by_snakemake, tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(folder / "site"))
        yield Study(by_snakemake, by_snakemake, folder, limit=250)


@pytest.mark.parametrize("launcher", ["snakemake", "dvc"])
def test_a_study_that_is_killed_again_and_again_ends_with_the_same_bytes(study, launcher):
    project, said = half_done(study), []
    result = kills.round_of(study, project, launcher, random.Random(launcher), KILLS, 6.0, said.append)
    assert (result.outcome, result.notes) == ("recovered", []), "\n".join(said)
    assert result.kills > 0, "\n".join(said)
    assert not of_study(project.root)


@pytest.mark.parametrize(
    ("launcher", "kinds"), [(SNAKEMAKE, TOGETHER), (DVC, ("dvc.lock truncated", "stale .partial"))]
)
def test_damage_is_mended_or_named(study, launcher, kinds):
    project, rng = study.copy(study.reference), random.Random(0)
    study.run(project, launcher)
    names = [name for name in damages.DAMAGES if name.startswith(kinds)]
    assert len(names) == len(kinds)
    done = [damages.DAMAGES[name](study, project, rng) for name in names]
    outcome, notes = study.mend(project, launcher, settled=False)
    assert outcome in ("recovered", "said"), "\n".join(done + notes)
