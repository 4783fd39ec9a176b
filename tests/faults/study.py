"""The small real study that is broken: made once, finished once undisturbed, and what every fault is held against."""

import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import yaml

import oracle
from processes import Hung, Launch, wait_for_orphans
from project import Project, make_project

SNAKEMAKE, DVC = ["snakemake", "--cores", "2"], ["dvc", "repro"]
LAUNCHERS = {"snakemake": SNAKEMAKE, "dvc": DVC}
LONGER = {"training__epochs": 20, "methods__sap__epochs": 20}  # so that training can be hit
ADVICE = re.compile(r"(?<!Use )`((?:dvc|snakemake|python|make|rm|mv) [^`]+)`")  # `dvc repro` ends: Use `dvc push`


@dataclass
class Result:
    """What came of one fault. ``outcome``: recovered, said, wrong or manual."""

    fault: str
    outcome: str
    kills: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass
class Study:
    """``base``: nothing has run; ``reference``: finished undisturbed; copies of both are what faults work on."""

    base: Project
    reference: Project
    folder: Path
    limit: float = 600.0

    def __post_init__(self):
        self.final = oracle.final(self.reference.root)
        self.stages = self.entries(self.reference)
        self._copies = 0

    @classmethod
    def make(cls, folder: Path) -> "Study":
        base = make_project(folder / "base", report=True, **LONGER)
        reference = base.copy(folder / "reference")
        start = time.monotonic()
        reference.snakemake()
        return cls(base, reference, folder, limit=60 + 8 * (time.monotonic() - start))

    @staticmethod
    def entries(project: Project) -> dict[str, dict]:
        return yaml.load((project.root / "dvc.lock").read_bytes(), yaml.CSafeLoader)["stages"]

    def copy(self, of: Project) -> Project:
        self._copies += 1
        return of.copy(self.folder / f"copy-{self._copies}")

    def finished(self) -> Project:
        """A copy of the finished study whose launchers have seen it, so that DVC knows its files by their age."""
        project = self.copy(self.reference)
        for command in LAUNCHERS.values():
            self.run(project, command)
        return project

    def scripts(self) -> list[list[str]]:
        """The stage scripts' own commands, in an order that works."""
        commands = (entry["cmd"] for entry in self.stages.values())
        return [(command if isinstance(command, str) else command[-1]).split() for command in commands]

    def wrong(self, project: Project, settled: bool = True) -> list[str]:
        """Why the project is not the finished study; nothing if it is. ``settled``: also ask the launchers."""
        found = oracle.differences(project.root, self.final) + oracle.books(project.root, set(self.stages))
        return found or (oracle.unsettled(project) if settled else [])

    def run(self, project: Project, command: list[str]) -> tuple[int, str]:
        """Status and output of a command that nothing disturbs."""
        launch = Launch(project, command)
        status = launch.wait(self.limit)
        wait_for_orphans(project.root, self.limit)
        return status, launch.output

    def forget(self, project: Project, names: list[str]) -> None:
        """As if these stages had never run: no output, no cached object, no entry in dvc.lock or in the run cache.

        An object of the same bytes that another stage made, too, stays: it is in the cache with or without these.
        """
        lock = self.entries(project)
        forgotten = [out for name in names for out in lock.pop(name)["outs"]]
        kept = {out["md5"] for entry in lock.values() for out in entry["outs"]}
        for out in forgotten:
            (project.root / out["path"]).unlink()
            if out["md5"] not in kept:
                (project.root / ".dvc/cache/files/md5" / out["md5"][:2] / out["md5"][2:]).unlink(missing_ok=True)
        (project.root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}, sort_keys=False))
        shutil.rmtree(project.root / ".dvc/cache/runs", ignore_errors=True)

    def mend(self, project: Project, launcher: list[str], settled: bool = True) -> tuple[str, list[str]]:
        """The outcome of a fault that has happened, and its notes: the documented commands are run, nothing else.

        The same command again; where that does not do, what its output advises in backticks; where nothing is
        advised, ``tools/verify.py`` (`make verify`), which names what is damaged and what brings it back.
        """
        try:
            status, text = self.run(project, launcher)
            wrong = self.wrong(project, settled)
            if not status and wrong and not oracle.differences(project.root, self.final):
                # All results are right, and DVC's own notes are not: `dvc repro` puts them right and runs no script.
                _, text = self.run(project, DVC)
                wrong = ["`dvc repro` ran a script"] if "Running stage" in text else self.wrong(project, settled)
            if not status and not wrong:
                return "recovered", []
            notes = [f"again: status {status}, {len(wrong)} wrong ({wrong[0] if wrong else ''}); {last_lines(text)}"]
            if not ADVICE.search(text):
                _, text = self.run(project, ["python", "tools/verify.py"])
                notes.append(f"verify: {last_lines(text)}")
            for command in dict.fromkeys(ADVICE.findall(text)):
                status, said = self.run(project, command.split())
                notes.append(f"`{command}`: status {status}; {last_lines(said, 1)}")
            status, said = self.run(project, launcher)
            wrong = self.wrong(project, settled)
        except Hung as error:
            return "manual", [f"hung: {error}"]
        if not status and not wrong:
            return "said", notes
        return ("manual" if status else "wrong"), [*notes, f"at last: status {status}; {wrong[:5]}; {last_lines(said)}"]


def last_lines(text: str, count: int = 4) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(line[:200] for line in lines[-count:])
