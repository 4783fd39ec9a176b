"""Which stages `dvc status` calls changed, and by what. Snakemake plans those and what follows from them, nothing else.

One thing that `dvc status` names is no change here: an output that is there as dvc.lock says, but not in DVC's cache.

DVC looks at every path and at params.yaml anew for each stage, and locks the repository meanwhile: 14 s at 300 stages.
Here each is looked at once, with DVC's hashes and its memory of them, and nothing is locked or written but that memory.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from dvc.dependency.param import ParamsDependency, read_param_file
from dvc.exceptions import DvcException
from dvc.utils.serialize import loads_yaml
from dvc_data.hashfile.hash import hash_file
from ruamel.yaml import YAMLError

from verify import cut_short

MISSING = object()  # a key that is not in params.yaml


class LockError(Exception):
    """dvc.lock is no list of stages; the message is one line that says what mends it."""


def entries(lock: Path) -> dict[str, dict]:
    """What dvc.lock says of each stage, by its name; nothing where there is no file. Raises ``LockError``."""
    try:
        text = lock.read_text(encoding="utf-8")
        found = loads_yaml(text)["stages"] or {} if text.strip() else {}
        if not cut_short(text) and all(map(_is_entry, found.values())):
            return found
    except FileNotFoundError:
        return {}
    except (YAMLError, ValueError, TypeError, KeyError, AttributeError):  # in whose words is no cure
        pass
    raise LockError(f"{lock.name} is damaged; `python tools/verify.py` removes it, then run the same command again")


def _is_entry(entry: dict) -> bool:
    items = [item for use in ("deps", "outs") for item in entry.get(use) or []]
    params = [*(entry.get("params") or {}).values()]
    return all("path" in item for item in items) and all(isinstance(item, dict) for item in items + params)


class Workspace:
    """What the files of a project are now. ``repo``: DVC's; ``lock``: the entries of its dvc.lock."""

    def __init__(self, repo, lock: dict[str, dict]):
        self._repo, self._lock, self._hashes, self._params = repo, lock, {}, {}

    def changed(self, stages: Iterable) -> dict[str, str]:
        """Address -> what has changed, in words, for those of DVC's ``stages`` whose outputs are not as dvc.lock says
        or were not made from what is there now."""
        found = {stage.addressing: self._why(stage) for stage in stages}
        return {address: why for address, why in found.items() if why}

    def uncached(self, stages: Iterable) -> list[str]:
        """Outputs of ``stages`` that are as dvc.lock says and that DVC's cache does not hold."""
        return [
            item["path"]
            for stage in stages
            for out, item in zip(stage.outs, self._recorded(stage, "outs"), strict=True)
            if item and not self._cached(out, item.get("md5"))
        ]

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
