"""The project as DVC sees it: its stages, which of them `dvc status` calls changed, and why. Snakemake plans those and
what follows from them, nothing else. The Snakefile and the tools ask DVC only through this file.

One difference from `dvc status`: an output that is as dvc.lock says, but not in DVC's cache, is not a change here.

For each stage DVC reads every path and params.yaml again, with the repository locked: 14 s at 300 stages. Here each is
read once, with DVC's hashes and its database of them; nothing else is locked or written.
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
    """The entries of dvc.lock by stage name; empty where there is no file. Raises ``ProjectError``."""
    try:
        text = lock.read_text(encoding="utf-8")
        stages = loads_yaml(text)["stages"] or {} if text.strip() else {}
        if not cut_short(text) and all(map(_is_entry, stages.values())):
            return stages
    except FileNotFoundError:
        return {}
    except (YAMLError, ValueError, TypeError, KeyError, AttributeError):  # their messages name no cure
        pass
    raise ProjectError(f"{lock.name} is damaged; `{CURE}` removes it, then run the same command again")


def cut_short(text: str) -> bool:
    """Whether dvc.lock ends within an entry, as plain DVC leaves it when killed while writing the file."""
    last = re.split(r"(?m)^  (?=\S)", text)[-1]
    return "stages:" in text and last.strip() != "stages: {}" and not ("\n    outs:\n" in last and text.endswith("\n"))


def _is_entry(entry: dict) -> bool:
    items = [item for use in ("deps", "outs") for item in entry.get(use) or []]
    params = [*(entry.get("params") or {}).values()]
    return all("path" in item for item in items) and all(isinstance(item, dict) for item in items + params)


def databases() -> list[Path]:
    """DVC's databases of file hashes, of all projects on this machine."""
    return list(Path(site_cache_dir()).rglob("cache.db"))


def outputs(stage) -> list[str]:
    """Paths of a DVC stage's outputs."""
    return [os.path.relpath(out.fs_path) for out in stage.outs]


class Workspace:
    """The project in the current folder as DVC sees it. Raises ``ProjectError`` where DVC cannot start.

    ``stages``: address -> DVC's stage, each after those it reads; ``before``: address -> the stages that it reads in
    DVC's graph, tracked data included; ``cache``: the folder of DVC's cache.
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
        """Within the block `dvc` runs no stage here and changes no output, but may read. Raises ``ProjectError`` where
        one is at work.

        DVC's own lock of paths records that ``command`` reads the whole project. A dead process holds nothing; DVC
        takes every process on another machine for dead.
        """
        stack = ExitStack()
        try:
            stack.enter_context(rwlock(self._repo.tmp_dir, self._repo.fs, command, [self._repo.root_dir], [], False))
        except DvcException as error:
            at_work = re.search(r"\(PID (\d+)\): (.*)", str(error))
            if at_work is None:
                line = str(error).splitlines()[0]
                raise ProjectError(f"{line}; `{CURE}`, then the same command again") from None
            pid, other = at_work.groups()
            raise ProjectError(
                f"`{other}` (process {pid}) is at work on this study; wait until it has ended, or stop it: `kill {pid}`"
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
        addresses, same = set(addresses), set(same)
        result = {}
        for address, earlier in self.before.items():
            reads = {stage.addressing for stage in earlier} - same
            if address in addresses or not reads.isdisjoint(result):
                result[address] = True
        return list(result)

    @cached_property
    def changed(self) -> dict[str, str]:
        """Address -> what has changed, in words, for the stages whose outputs are not as dvc.lock says or were made
        from other inputs than now. Raises ``ProjectError`` where dvc.lock is damaged."""
        reasons = {address: self._why(stage) for address, stage in self.stages.items()}
        return {address: why for address, why in reasons.items() if why}

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
        """The files in DVC's cache, each named after its MD5."""
        return [path for path in (self.cache / "files/md5").glob("??/*") if len(path.parent.name + path.stem) == 32]

    def unsaved(self, stage) -> list[str]:
        """Outputs of ``stage`` that exist and are not in DVC's cache, such as those of a script run by hand."""
        hashes = {out.def_path: (out, self._hash(out)) for out in stage.outs}
        return [path for path, (out, md5) in hashes.items() if md5 is not None and not self._cached(out, md5)]

    def restores(self, stage) -> bool:
        """Whether DVC can restore the outputs of ``stage`` from its cache, as dvc.lock has them."""
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
            current = self._hash(item)
            if current is None:
                return f"{item.def_path} is missing"
            if entry is None or current != entry.get("md5"):
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
        """DVC's hash of what is at the path of ``item``, a dependency or output; None where there is nothing."""
        path = item.fs_path
        if path not in self._hashes:
            try:
                if os.path.isfile(path):
                    self._hashes[path] = hash_file(path, self._repo.fs, "md5", self._repo.state)[1].value
                else:
                    self._hashes[path] = item.get_hash().value if os.path.isdir(path) else None
            except (OSError, DvcException):  # the stage's own error says why
                self._hashes[path] = ""
        return self._hashes[path]
