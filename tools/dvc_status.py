"""The project as DVC sees it: its stages, which of them `dvc status` calls changed, and by what. Snakemake plans those
and what follows from them, nothing else. All that the Snakefile and the tools ask of DVC they ask here.

One thing that `dvc status` names is no change here: an output that is there as dvc.lock says, but not in DVC's cache.

DVC looks at every path and at params.yaml anew for each stage, and locks the repository meanwhile: 14 s at 300 stages.
Here each is looked at once, with DVC's hashes and its memory of them, and nothing is locked or written but that memory.
"""

import os
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from unittest.mock import patch

import networkx
from dvc.dependency.param import ParamsDependency, read_param_file
from dvc.dirs import site_cache_dir
from dvc.dvcfile import Lockfile
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.rwlock import rwlock
from dvc.stage import PipelineStage
from dvc.utils.serialize import loads_yaml
from dvc_data.hashfile.hash import hash_file
from ruamel.yaml import YAMLError

from lockfile import CURE

MISSING = object()  # a key that is not in params.yaml


class ProjectError(Exception):
    """DVC cannot work here; the message is one line with the cure."""


def entries(lock: Path) -> dict[str, dict]:
    """What dvc.lock says of each stage, by its name; nothing where there is no file. Raises ``ProjectError``."""
    try:
        text = lock.read_text(encoding="utf-8")
        found = loads_yaml(text)["stages"] or {} if text.strip() else {}
        if not cut_short(text) and all(map(_is_entry, found.values())):
            return found
    except FileNotFoundError:
        return {}
    except (YAMLError, ValueError, TypeError, KeyError, AttributeError):  # in whose words is no cure
        pass
    raise ProjectError(f"{lock.name} is damaged; `{CURE}` removes it, then run the same command again")


def cut_short(text: str) -> bool:
    """Whether dvc.lock ends within an entry: plain DVC, killed while it wrote the file anew, leaves it so."""
    last = re.split(r"(?m)^  (?=\S)", text)[-1]
    return "stages:" in text and last.strip() != "stages: {}" and not ("\n    outs:\n" in last and text.endswith("\n"))


def _is_entry(entry: dict) -> bool:
    items = [item for use in ("deps", "outs") for item in entry.get(use) or []]
    params = [*(entry.get("params") or {}).values()]
    return all("path" in item for item in items) and all(isinstance(item, dict) for item in items + params)


def databases() -> list[Path]:
    """DVC's memory of which file had which hash, of all of this machine's projects."""
    return list(Path(site_cache_dir()).rglob("cache.db"))


def outputs(stage) -> list[str]:
    """Paths of what a stage of DVC's makes."""
    return [os.path.relpath(out.fs_path) for out in stage.outs]


class Workspace:
    """The project in the current folder as DVC sees it. Raises ``ProjectError`` where DVC cannot start.

    ``stages``: address -> DVC's stage, one that others read before those; ``before``: address -> the stages that it
    reads in DVC's graph, data that are tracked as such among them; ``cache``: the folder of DVC's cache.
    """

    def __init__(self):
        try:
            self._repo = Repo()
        except (OSError, sqlite3.OperationalError) as error:
            raise ProjectError(f"DVC cannot start: {error}; fix it and run the same command again") from error
        except sqlite3.DatabaseError as error:
            raise ProjectError(f"DVC's database of files: {error}; `{CURE}`, then the same command again") from error
        with patch.object(Lockfile, "load", lambda lockfile: {}):  # read below; DVC takes 1.4 s for 300 stages
            graph = self._repo.index.graph
        in_order = [stage for stage in networkx.dfs_postorder_nodes(graph) if isinstance(stage, PipelineStage)]
        self.stages = {stage.addressing: stage for stage in in_order}
        self.before = {stage.addressing: list(graph.successors(stage)) for stage in in_order}
        self.cache = Path(self._repo.cache.legacy.path)
        self._hashes, self._params = {}, {}

    @cached_property
    def _lock(self) -> dict[str, dict]:
        return entries(Path("dvc.lock"))

    @contextmanager
    def claim(self, command: str) -> Iterator[None]:
        """Within the block `dvc` runs no stage here and changes no output, but may look. Raises ``ProjectError`` where
        one is at work.

        DVC is told, in its own lock of paths, that ``command`` reads all of the project. A process that died holds
        nothing; on another machine DVC takes every process for dead.
        """
        stack = ExitStack()
        try:
            stack.enter_context(rwlock(self._repo.tmp_dir, self._repo.fs, command, [self._repo.root_dir], [], False))
        except DvcException as error:
            at_work = re.search(r"\(PID (\d+)\): (.*)", str(error))
            if at_work is None:
                line = str(error).splitlines()[0]
                raise ProjectError(f"{line}; `{CURE}`, then the same command again") from None
            number, other = at_work.groups()
            raise ProjectError(
                f"`{other}` (process {number}) is at work on this study; wait until it has ended, or stop it: "
                f"`kill {number}`"
            ) from None
        try:
            yield
        finally:
            with suppress(DvcException, AssertionError, KeyError):  # a DVC elsewhere has taken the claim away
                stack.close()

    def following(self, addresses: Iterable[str], same: Iterable[str] = ()) -> list[str]:
        """``addresses`` and the stages that read what they make, directly or not, each after those it reads.

        ``same``: stages whose outputs are always the same, so that nothing follows from them.
        """
        found, start, same = {}, set(addresses), set(same)
        for address, earlier in self.before.items():
            if address in start or any(stage.addressing in found for stage in earlier if stage.addressing not in same):
                found[address] = True
        return list(found)

    @cached_property
    def changed(self) -> dict[str, str]:
        """Address -> what has changed, in words, for the stages whose outputs are not as dvc.lock says or were not made
        from what is there now. Raises ``ProjectError`` where dvc.lock is damaged."""
        found = {address: self._why(stage) for address, stage in self.stages.items()}
        return {address: why for address, why in found.items() if why}

    def uncached(self) -> list[str]:
        """Outputs of unchanged stages that DVC's cache does not hold."""
        return [
            item["path"]
            for address, stage in self.stages.items()
            if address not in self.changed
            for out, item in zip(stage.outs, self._recorded(stage, "outs"), strict=True)
            if item and not self._cached(out, item.get("md5"))
        ]

    def recorded(self) -> dict[Path, str]:
        """Every output in dvc.lock -> its MD5."""
        outs = [item for entry in self._lock.values() for item in entry.get("outs") or []]
        return {Path(item["path"]): item["md5"] for item in outs if "md5" in item}

    def objects(self) -> list[Path]:
        """What DVC's cache holds, each named after its MD5."""
        return [path for path in (self.cache / "files/md5").glob("??/*") if len(path.parent.name + path.stem) == 32]

    def unsaved(self, stage) -> list[str]:
        """Outputs of ``stage`` that are there and whose content DVC's cache does not hold: a script run by hand."""
        hashes = {out.def_path: (out, self._hash(out)) for out in stage.outs}
        return [path for path, (out, md5) in hashes.items() if md5 is not None and not self._cached(out, md5)]

    def restores(self, stage) -> bool:
        """Whether DVC takes the outputs of ``stage`` from its cache as dvc.lock says, if they are not so now."""
        items = self._recorded(stage, "outs")
        held = all(item and self._cached(out, item.get("md5")) for out, item in zip(stage.outs, items, strict=True))
        return held and not self._why_run(stage)

    @staticmethod
    def _cached(out, md5: str | None) -> bool:
        return bool(md5) and os.path.exists(out.cache.oid_to_path(md5))

    def _recorded(self, stage, use: str) -> list[dict | None]:
        """The items of the stage's entry for its deps (parameters apart) or outs, in the order of dvc.yaml."""
        by_path = {item["path"]: item for item in self._lock.get(stage.name, {}).get(use) or []}
        return [by_path.get(item.def_path) for item in getattr(stage, use) if not isinstance(item, ParamsDependency)]

    def _why(self, stage) -> str | None:
        return self._why_run(stage) or self._differs(stage.outs, self._recorded(stage, "outs"))

    def _why_run(self, stage) -> str | None:
        """Why the stage's outputs are not those of its command, parameters and dependencies."""
        entry = self._lock.get(stage.name)
        if entry is None:
            return "it has not run"
        if entry.get("cmd") != stage.cmd:
            return "its command has changed"
        for dep in stage.params:
            recorded = (entry.get("params") or {}).get(dep.def_path, {})
            for key in dep.params:
                if key not in recorded or recorded[key] != self._value(dep, key):
                    return f"{key} has changed"
        deps = [dep for dep in stage.deps if not isinstance(dep, ParamsDependency)]
        return self._differs(deps, self._recorded(stage, "deps"))

    def _differs(self, items: list, recorded: list[dict | None]) -> str | None:
        for item, entry in zip(items, recorded, strict=True):
            present = self._hash(item)
            if present is None:
                return f"{item.def_path} is missing"
            if entry is None or present != entry.get("md5"):
                return f"{item.def_path} has changed"
        return None

    def _value(self, dep, key: str):
        if dep.fs_path not in self._params:
            self._params[dep.fs_path] = read_param_file(self._repo.fs, dep.fs_path)
        block = self._params[dep.fs_path]
        for name in key.split("."):
            block = block.get(name, MISSING) if isinstance(block, dict) else MISSING
        return block

    def _hash(self, item) -> str | None:
        """The hash that DVC gives to what lies at the path of ``item``, a dependency or output; None for nothing."""
        path = item.fs_path
        if path not in self._hashes:
            try:
                if os.path.isfile(path):
                    self._hashes[path] = hash_file(path, self._repo.fs, "md5", self._repo.state)[1].value
                else:
                    self._hashes[path] = item.get_hash().value if os.path.isdir(path) else None
            except (OSError, DvcException):  # its stage says why
                self._hashes[path] = ""
        return self._hashes[path]
