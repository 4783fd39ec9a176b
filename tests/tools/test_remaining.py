"""The line that says how long a run of Snakemake will still take."""

import logging

import pytest

import remaining

BEFORE = {
    "pretrain@0": [],
    "prune_iteration@0-sap-iteration0": ["pretrain@0"],
    "prune_iteration@0-sap-iteration1": ["prune_iteration@0-sap-iteration0"],
    "prune_iteration@0-lth-iteration0": ["pretrain@0"],
    "compare": ["prune_iteration@0-sap-iteration1", "prune_iteration@0-lth-iteration0"],
}
RULES = {stage: stage.replace("@", "_").replace("-", "_") for stage in BEFORE}
JOBS = {stage: number for number, stage in enumerate(BEFORE)}


class Study:
    """What Snakemake logs of a study, with a clock of its own."""

    def __init__(self, folder, monkeypatch, at_once=2):
        self.now, self.said = 1000.0, []
        monkeypatch.setattr(remaining.time, "monotonic", lambda: self.now)
        self.logger = logging.Logger("snakemake.test")
        self.logger.addHandler(remaining.Remaining(BEFORE, lambda: at_once, self.said.append, folder))

    def log(self, event, **extra):
        self.logger.info(None, extra={"event": event, **extra})

    def begin(self, *stages):
        self.log("run_info", stats={RULES[stage]: 1 for stage in stages} | {"all": 1, "total": len(stages) + 1})

    def start(self, stage):
        self.log("job_info", jobid=JOBS[stage], rule_name=RULES[stage])

    def run(self, stage, seconds):
        self.start(stage)
        self.now += seconds
        self.log("job_finished", job_id=JOBS[stage])
        self.log("progress", done=1, total=9)


@pytest.fixture
def earlier(tmp_path):
    """A function that leaves the benchmark files of an earlier run."""

    def leave(**seconds):
        for name, value in seconds.items():
            stage = next(stage for stage in BEFORE if RULES[stage] == name)
            (tmp_path / f"{stage}.tsv").write_text(f"s\th:m:s\n{value}\t0:00:00\n")
        return tmp_path

    return leave


def test_a_first_run_says_nothing_before_most_of_what_is_left_is_of_a_known_kind(tmp_path, monkeypatch):
    study = Study(tmp_path / "none", monkeypatch)
    study.begin(*BEFORE)
    study.run("pretrain@0", 100)
    assert study.said == []
    study.run("prune_iteration@0-sap-iteration0", 40)
    # one more of sap and one of lth, 40 s each, of which both may run at once
    assert study.said == ["about 40 s left, not counting compare: none has run here yet"]


def test_what_earlier_runs_took_is_known_at_the_start(earlier, monkeypatch):
    folder = earlier(pretrain_0=300, prune_iteration_0_lth_iteration0=600, compare=5)
    (folder / "damaged.tsv").write_bytes(b"\xff")
    study = Study(folder, monkeypatch)
    study.begin(*BEFORE)
    # pretrain, sap twice as long as lth was, compare: one after the other, 1505 s; all of it on two cores is 1052.5 s
    assert study.said == ["about 26 min left"]


def test_the_cores_are_counted_where_they_are_what_is_waited_for(earlier, monkeypatch):
    folder = earlier(pretrain_0=300, prune_iteration_0_lth_iteration0=600, compare=5)
    study = Study(folder, monkeypatch, at_once=1)
    study.begin(*BEFORE)
    assert study.said == ["about 36 min left"]  # 300 + 3 * 600 + 5 = 2105 s


def test_this_run_knows_better_than_an_earlier_one(earlier, monkeypatch):
    folder = earlier(pretrain_0=300, prune_iteration_0_sap_iteration0=7200, compare=5)
    study = Study(folder, monkeypatch, at_once=1)
    study.begin("prune_iteration@0-sap-iteration0", "prune_iteration@0-sap-iteration1", "compare")
    study.run("prune_iteration@0-sap-iteration0", 60)
    assert study.said == ["about 4.0 h left", "about 70 s left"]


def test_what_a_running_stage_has_behind_it_is_not_left(earlier, monkeypatch):
    study = Study(earlier(prune_iteration_0_sap_iteration0=100, compare=10), monkeypatch)
    study.begin("prune_iteration@0-sap-iteration1", "prune_iteration@0-lth-iteration0", "compare")
    study.start("prune_iteration@0-sap-iteration1")
    study.run("prune_iteration@0-lth-iteration0", 50)
    assert study.said == ["about 2 min left", "about 60 s left"]


def test_what_a_failure_stops_is_not_waited_for(earlier, monkeypatch):
    study = Study(earlier(pretrain_0=100, prune_iteration_0_sap_iteration0=900, compare=900), monkeypatch)
    study.begin(*BEFORE)
    study.log("job_error", rule_name=RULES["prune_iteration@0-sap-iteration0"])
    study.now += 60
    study.log("progress", done=1, total=5)
    assert study.said[1:] == ["about 17 min left"]  # pretrain and lth


def test_it_is_not_said_with_every_step(earlier, monkeypatch):
    study = Study(earlier(pretrain_0=1, prune_iteration_0_sap_iteration0=1, compare=1), monkeypatch)
    study.begin(*BEFORE)
    for stage in BEFORE:
        study.run(stage, 1)
    assert len(study.said) == 1


def test_whether_a_stage_has_failed_is_known(tmp_path, monkeypatch):
    study = Study(tmp_path, monkeypatch)
    handler = study.logger.handlers[0]
    study.begin(*BEFORE)
    study.run("pretrain@0", 10)
    assert not handler.failed
    study.start("prune_iteration@0-sap-iteration0")
    study.log("job_error", rule_name=RULES["prune_iteration@0-sap-iteration0"])
    assert handler.failed
