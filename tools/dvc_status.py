"""The project as DVC sees it: its stages, which of them `dvc status` calls changed, and why. Snakemake plans those and
what follows from them, nothing else. The Snakefile and the tools ask DVC only through this file.

One difference from `dvc status`: an output that is as dvc.lock says, but not in DVC's cache, is not a change here.

For each stage DVC reads every path and params.yaml again, with the repository locked: 14 s at 300 stages. Here each is
read once, with DVC's hashes and its database of them; nothing else is locked or written.
"""

import hashlib
import json
import os
import re
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

from dvc.dependency.param import ParamsDependency, read_param_file
from dvc.dirs import site_cache_dir
from dvc.dvcfile import Lockfile
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.rwlock import rwlock
from dvc.stage import PipelineStage
from dvc.utils.serialize import loads_yaml
from dvc_data.hashfile.build import build
from dvc_data.hashfile.hash import hash_file
from dvc_data.hashfile.hash_info import HashInfo
from ruamel.yaml import YAMLError

from lockfile import CURE, ENTRY, HEAD, put_entries

MISSING = object()  # a key that is not in params.yaml
MEMORY = Path(".snakemake/dvc")  # what DVC made of files whose content is as before; may be deleted at any time
GRAPH_FILES = {"dvc.yaml", ".dvcignore", ".gitignore"}  # what DVC's graph depends on, with params.yaml and *.dvc
NOT_LOOKED_INTO = {".git", ".dvc", ".snakemake", ".venv", "logs", "runs", "__pycache__"}


class ProjectError(Exception):
    """DVC cannot work here; the message is one line with the cure."""


def entries(lock: Path) -> dict[str, dict]:
    """The entries of dvc.lock by stage name; empty where there is no file. Raises ``ProjectError``."""
    try:
        text = lock.read_text(encoding="utf-8")
        stages = _parsed(text) if text.strip() else {}
        if not cut_short(text) and all(map(_is_entry, stages.values())):
            return stages
    except FileNotFoundError:
        return {}
    except (YAMLError, ValueError, TypeError, KeyError, AttributeError):  # their messages name no cure
        pass
    raise ProjectError(f"{lock.name} is damaged; `{CURE}` removes it, then run the same command again")


def _parsed(text: str) -> dict[str, dict]:
    """The stages of dvc.lock. DVC's parser takes 2 s for 350: entries as before are not parsed again."""
    lines = {entry["name"]: entry[0] for entry in ENTRY.finditer(text)}
    if HEAD + "".join(lines.values()) != text:
        return loads_yaml(text)["stages"] or {}
    before = recall("lock") or {}
    known = {name: before[name][1] for name in lines if before.get(name, [None])[0] == lines[name]}
    if unknown := [lines[name] for name in lines if name not in known]:
        known |= loads_yaml(HEAD + "".join(unknown))["stages"]
        remember("lock", {name: [lines[name], known[name]] for name in lines})
    return {name: known[name] for name in lines}


def recall(what: str):
    """What ``remember`` was given for it; None where there is nothing, or nothing readable."""
    try:
        return json.loads((MEMORY / f"{what}.json").read_bytes())
    except (OSError, ValueError):
        return None


def remember(what: str, value) -> None:
    """Keep ``value`` for other processes, if JSON and the disk can."""
    with suppress(OSError, TypeError):
        text = json.dumps(value)
        if json.loads(text) == value:
            MEMORY.mkdir(parents=True, exist_ok=True)
            partial = MEMORY / f"{what}.{os.getpid()}.partial"
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, MEMORY / f"{what}.json")


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


@dataclass(frozen=True)
class Stage:
    """A stage of DVC's graph, or data that DVC tracks. Paths are relative to the project; ``params``: file -> keys."""

    addressing: str
    name: str
    cmd: str | list[str] | None
    deps: list[str]
    params: dict[str, list[str]]
    outs: list[str]

    @classmethod
    def of_dvc(cls, stage) -> "Stage":
        deps = [dep.def_path for dep in stage.deps if not isinstance(dep, ParamsDependency)]
        params = {dep.def_path: list(dep.params) for dep in stage.deps if isinstance(dep, ParamsDependency)}
        outs = [os.path.relpath(out.fs_path) for out in stage.outs]
        return cls(stage.addressing, getattr(stage, "name", None) or stage.addressing, stage.cmd, deps, params, outs)


def outputs(stage: Stage) -> list[str]:
    """Paths of a stage's outputs."""
    return stage.outs


class Workspace:
    """The project in the current folder as DVC sees it. Raises ``ProjectError`` where DVC cannot start.

    ``stages``: address -> stage, each after those it reads; ``before``: address -> the stages that it reads in DVC's
    graph, tracked data included; ``cache``: the folder of DVC's cache.
    """

    def __init__(self):
        try:
            self._repo = Repo()
        except (OSError, sqlite3.OperationalError) as error:
            raise ProjectError(f"DVC cannot start: {error}; fix it and run the same command again") from error
        except sqlite3.DatabaseError as error:
            raise ProjectError(f"DVC's database of files: {error}; `{CURE}`, then the same command again") from error
        self.stages, self.before = {}, {}
        known = {}
        for about, earlier in self._graph():
            stage = known[about["addressing"]] = Stage(**about)
            if stage.cmd:
                self.stages[stage.addressing] = stage
                self.before[stage.addressing] = [known[address] for address in earlier]
        self.cache = Path(self._repo.cache.legacy.path)
        self._hashes, self._params = {}, {}

    def _graph(self) -> list[list]:
        """Each stage of DVC's graph, after those it reads, with their addresses. DVC takes 7 ms a stage to build it."""
        made_from = self._graph_files()
        memory = recall("graph")
        if memory and memory["made_from"] == made_from:
            return memory["graph"]
        import networkx  # takes 0.1 s

        graph = self._dvc_graph
        in_order = list(networkx.dfs_postorder_nodes(graph))
        addresses = {stage: [earlier.addressing for earlier in graph.successors(stage)] for stage in in_order}
        value = [[asdict(Stage.of_dvc(stage)), addresses[stage]] for stage in in_order]
        if "vars:" not in Path("dvc.yaml").read_text(encoding="utf-8"):  # which may name other files
            remember("graph", {"made_from": made_from, "graph": value})
        return value

    @staticmethod
    def _graph_files() -> dict[str, str]:
        """The hashes of all files that DVC's graph depends on and of this one, and the version of DVC."""
        # Hashes, because .dvc/config.local may hold passwords.
        paths = [Path(__file__), Path("params.yaml"), *Path(".dvc").glob("config*")]
        for folder, inside, files in os.walk("."):
            inside[:] = [name for name in inside if name not in NOT_LOOKED_INTO]
            paths += [Path(folder, name) for name in files if name in GRAPH_FILES or name.endswith(".dvc")]
        hashes = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)}
        return {"dvc": version("dvc")} | hashes

    @cached_property
    def _dvc_graph(self):
        with patch.object(Lockfile, "load", lambda lockfile: {}):  # read below; DVC takes 1.4 s for 300 stages
            return self._repo.index.graph

    @cached_property
    def _dvc_stages(self) -> dict[str, PipelineStage]:
        return {stage.addressing: stage for stage in self._dvc_graph if isinstance(stage, PipelineStage)}

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

    def leading_to(self, addresses: Iterable[str]) -> set[str]:
        """``addresses`` and the stages that they read from, directly or not."""
        wanted = set(addresses)
        for address in reversed(self.before):
            if address in wanted:
                wanted.update(stage.addressing for stage in self.before[address] if stage.addressing in self.stages)
        return wanted

    def look_again(self) -> None:
        """Forget what was read of files, because others have changed them."""
        self._hashes.clear()
        self._params.clear()
        for name in ("_lock", "changed"):
            self.__dict__.pop(name, None)

    def bring_back(
        self, addresses: set[str], same: Iterable[str], set_aside: Callable[[list[str]], None]
    ) -> dict[str, list[str]]:
        """Restore what DVC's cache holds of the changed stages among ``addresses``, as `dvc repro` would, one by one;
        dvc.lock is written once. Returns address -> the outputs that were written.

        A stage that waits for one that must run is left alone, because its inputs are going to change. ``same``: as in
        ``following``; the others need their outputs, so these are restored even if the stage itself must run.
        ``set_aside`` gets the outputs that are in the way and nowhere else. The caller holds a ``claim``.
        """
        brought, found, unmade = {}, {}, set()
        for address, stage in self.stages.items():
            if address not in addresses:
                continue
            if any(earlier.addressing in unmade for earlier in self.before[address]):
                unmade.add(address)
                continue
            if not self._why(stage):
                continue
            why_run = self._why_run(stage)
            entry = self._earlier_run(stage) if why_run else self._lock[stage.name]
            if why_run and entry and self._holds(stage, entry):
                set_aside(self.unsaved(stage))
                found[stage.name] = entry
            elif address in same:
                entry = self._lock.get(stage.name)
            try:
                held = bool(entry) and self._holds(stage, entry)
                written = self._check_out(stage, entry) if held else []
            except (OSError, DvcException):  # the stage's job meets it again, and says so
                found.pop(stage.name, None)
                held, written = False, []
            if written or stage.name in found:
                brought[address] = written
            if not held and address not in same:
                unmade.add(address)
        if found:
            put_entries(Path("dvc.lock"), found)
        self.__dict__.pop("changed", None)
        self._lock.update(found)
        return brought

    def _earlier_run(self, stage) -> dict | None:
        """The entry of DVC's run cache for the stage with its command, parameters and dependencies as they are now."""
        params = {file: {key: self._value(file, key) for key in keys} for file, keys in stage.params.items()}
        deps = []
        for path in sorted(stage.deps):
            executable = os.path.isfile(path) and os.stat(path).st_mode & 0o111
            also = {"isexec": True} if executable else {}
            deps.append({"path": path, "hash": "md5", "md5": self._hash(path)} | also)
        if not all(dep["md5"] for dep in deps) or any(MISSING in values.values() for values in params.values()):
            return None
        run = {"cmd": stage.cmd, "deps": deps, "params": params, "outs": sorted(stage.outs)}
        text = json.dumps({use: of for use, of in run.items() if of}, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()
        runs = sorted((self.cache / "runs" / key[:2] / key).glob("*"), key=os.path.getmtime)
        try:
            entry = loads_yaml(runs[-1].read_text(encoding="utf-8")) if runs else None
            return entry if entry and _is_entry(entry) else None
        except (OSError, YAMLError, ValueError, TypeError, AttributeError):  # the stage's job removes it
            return None

    def _holds(self, stage, entry: dict) -> bool:
        """Whether DVC's cache holds the outputs of an entry. A damaged object is named and removed."""
        items = {item["path"]: item for item in entry.get("outs") or []}
        return all(path in items and self._sound(items[path]) for path in stage.outs)

    def _sound(self, item: dict) -> bool:
        """As DVC looks at a cached object: one that is read-only is trusted. Its size is looked at besides."""
        if not self._cached(item.get("md5")):
            return False
        path = self._object(item["md5"])
        about = os.stat(path)
        is_folder = item["md5"].endswith(".dir")  # whose size is that of all its files
        sound = is_folder or about.st_size == item.get("size", about.st_size)
        if sound and stat.S_IMODE(about.st_mode) != 0o444:
            sound = hash_file(path, self._repo.fs, "md5", self._repo.state)[1].value == item["md5"]
        if not sound:
            print(f"{os.path.relpath(path)} is damaged: removed; {item['path']} is made again", file=sys.stderr)
            os.unlink(path)
        return sound

    def _check_out(self, stage, entry: dict) -> list[str]:
        """Outputs of an entry that were not there: copied or linked from DVC's cache, as it is configured."""
        wanted, written = {item["path"]: item["md5"] for item in entry["outs"]}, []
        for path, out in zip(stage.outs, self._dvc_stages[stage.addressing].outs, strict=True):
            if self._hash(path) != wanted[path]:
                out.hash_info = HashInfo("md5", wanted[path])
                out.checkout(force=True)
                self._hashes[path] = wanted[path]
                for folder in Path(path).parents:
                    self._hashes.pop(str(folder), None)
                written.append(path)
        return written

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
            for item in self._recorded(stage, "outs")
            if item and not self._cached(item.get("md5"))
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
        hashes = {path: self._hash(path) for path in stage.outs}
        return [path for path, md5 in hashes.items() if md5 is not None and not self._cached(md5)]

    def restores(self, stage) -> bool:
        """Whether DVC can restore the outputs of ``stage`` from its cache, as dvc.lock has them."""
        items = self._recorded(stage, "outs")
        held = all(item and self._cached(item.get("md5")) for item in items)
        return held and not self._why_run(stage)

    def _object(self, md5: str) -> str:
        return self._repo.cache.local.oid_to_path(md5)

    def _cached(self, md5: str | None) -> bool:
        return bool(md5) and os.path.exists(self._object(md5))

    def _recorded(self, stage, use: str) -> list[dict | None]:
        """The items of the stage's entry for its deps (parameters apart) or outs, in the order of dvc.yaml."""
        by_path = {item["path"]: item for item in self._lock.get(stage.name, {}).get(use) or []}
        return [by_path.get(path) for path in getattr(stage, use)]

    def _why(self, stage) -> str | None:
        return self._why_run(stage) or self._differs(stage.outs, self._recorded(stage, "outs"))

    def _why_run(self, stage) -> str | None:
        """Why the stage's outputs are not those of its command, parameters and dependencies."""
        entry = self._lock.get(stage.name)
        if entry is None:
            return "it has not run"
        if entry.get("cmd") != stage.cmd:
            return "its command has changed"
        for file, keys in stage.params.items():
            recorded = (entry.get("params") or {}).get(file, {})
            for key in keys:
                if key not in recorded or recorded[key] != self._value(file, key):
                    return f"{key} has changed"
        return self._differs(stage.deps, self._recorded(stage, "deps"))

    def _differs(self, paths: list[str], recorded: list[dict | None]) -> str | None:
        for path, entry in zip(paths, recorded, strict=True):
            current = self._hash(path)
            if current is None:
                return f"{path} is missing"
            if entry is None or current != entry.get("md5"):
                return f"{path} has changed"
        return None

    def _value(self, file: str, key: str):
        if file not in self._params:
            self._params[file] = read_param_file(self._repo.fs, os.path.abspath(file))
        block = self._params[file]
        for name in key.split("."):
            block = block.get(name, MISSING) if isinstance(block, dict) else MISSING
        return block

    def _hash(self, path: str) -> str | None:
        """DVC's hash of what is at ``path``; None where there is nothing."""
        path = os.path.normpath(path)  # the first iteration of a chain reads method/../dense
        if path not in self._hashes:
            repo, full = self._repo, os.path.abspath(path)
            try:
                if os.path.isfile(full):
                    self._hashes[path] = hash_file(full, repo.fs, "md5", repo.state)[1].value
                elif os.path.isdir(full):
                    tree = build(repo.cache.local, full, repo.fs, "md5", ignore=repo.dvcignore, dry_run=True)[2]
                    self._hashes[path] = tree.hash_info.value
                else:
                    self._hashes[path] = None
            except (OSError, DvcException):  # the stage's own error says why
                self._hashes[path] = ""
        return self._hashes[path]
