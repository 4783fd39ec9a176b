"""`ADDRESS GPUS`: `dvc --wait-for-lock repro --single-item ADDRESS`; where GPUS is 1, on a GPU chosen for the stage.

It reads and writes in dvc.lock only what is that stage's.
DVC parses all of dvc.lock twice per stage and writes it whole, in pure Python: seconds per stage, and the repository is
locked meanwhile. What stands here leaves the same bytes and falls back on DVC where dvc.lock is not as DVC writes it.
Where another process uses what the stage reads or writes, it is waited for (owners.py).
"""

import os
import re
import sys
import time
from pathlib import Path

from dvc import dvcfile, rwlock
from dvc.cli import main
from dvc.exceptions import DvcException
from dvc.stage import cache as run_cache
from dvc.stage import run as running
from dvc.stage.serialize import to_lockfile
from dvc.utils.serialize import dumps_yaml, loads_yaml
from dvc_data.hashfile.db import HashFileDB
from dvc_data.hashfile.db.local import LocalHashFileDB

import owners

POLL_SECONDS = 2
HEAD = "schema: '2.0'\nstages:\n"
MEND = "python tools/verify.py"


def entry(text: str, name: str) -> re.Match | None:
    """The lines of one stage: its name indented by two, all else by more."""
    return re.search(rf"^  {re.escape(name)}:\n(?:    .*\n|\n)*", text, re.MULTILINE)


class Lockfile(dvcfile.Lockfile):
    def _text(self) -> str | None:
        """What stands in the file; None when it holds more than stages, or a stranger (a merge) wrote it."""
        path = Path(self.path)
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else HEAD
        return text if re.findall(r"^\S.*\n?", text, re.MULTILINE) == HEAD.splitlines(keepends=True) else None

    def _load_yaml(self, **kwargs):
        text = self._text()
        try:
            if text is None or kwargs:
                return super()._load_yaml(**kwargs)
            found = entry(text, NAME)
            data = loads_yaml(HEAD + (found[0] if found else "  {}\n"))
            return self.validate(data, self.relpath), text
        except (DvcException, UnicodeDecodeError):
            raise DvcException(f"{self.relpath} is damaged; `{MEND}` removes it, then run the same again") from None

    def dump_stages(self, stages, **kwargs):
        text = self._text()
        if text is None or [stage.name for stage in stages] != [NAME]:
            return super().dump_stages(stages, **kwargs)
        new = dumps_yaml({"stages": to_lockfile(stages[0], **kwargs)}).removeprefix("stages:\n")
        old = entry(text, NAME)
        if old and old[0] == new:
            return
        changed = text[: old.start()] + new + text[old.end() :] if old else text + new
        partial = Path(f"{self.path}.partial")
        partial.write_text(changed, encoding="utf-8")
        os.replace(partial, self.path)
        self.repo.scm_context.track_file(self.relpath)


class RunCache(run_cache.StageCache):
    def _load_cache(self, key, value):
        """None too where a DVC that was killed left a folder without an entry, over which DVC stumbles."""
        return super()._load_cache(key, value) if value else None


def as_started(cmd_run):
    """``cmd_run`` that first puts down what the stage depends on. DVC looks when the stage has ended, and would take
    params.yaml or code that was edited meanwhile for what it ran with.

    Those are read once, at the start, and a script that finds one younger than what was put down ends. Data are read
    all the while: where they have changed in the end, nobody knows what the stage read, and it fails.
    """

    def run(stage, *arguments, **options):
        os.environ["PRUNUS_AS_STARTED"] = str(time.time_ns())
        stage.save_deps()
        stage.save_deps = lambda allow_missing=False: None
        cmd_run(stage, *arguments, **options)
        data = [dep for dep in stage.deps if dep not in stage.params and not dep.def_path.startswith("stages/")]
        if changed := [dep.def_path for dep in data if not dep.exists or dep.changed_checksum()]:
            raise DvcException(f"{changed[0]} has changed while {stage.addressing} ran; run it again")

    return run


if __name__ == "__main__":
    NAME = sys.argv[1]
    if "1" in sys.argv[2:]:
        sys.path.insert(0, "stages")
        from prunus.run import gpus

        gpus.place()
    dvcfile.Lockfile, rwlock.rwlock, run_cache.StageCache = Lockfile, owners.rwlock, RunCache
    # DVC believes a cached object that is read-only; what it restores had better be what its name says.
    LocalHashFileDB.check = HashFileDB.check
    running.cmd_run = as_started(running.cmd_run)
    held = owners.hold(NAME)
    while True:
        try:
            sys.exit(main(["--wait-for-lock", "repro", "--single-item", NAME]))
        except owners.Busy as busy:
            print(f"waiting: {busy}", flush=True)
            time.sleep(POLL_SECONDS)
