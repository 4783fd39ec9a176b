"""dvc.lock, of which a stage's process reads and writes only the stage's own entry.

DVC parses all of it twice per stage and writes it whole, in pure Python: seconds per stage, with the repository locked.
This class writes the same bytes, and falls back on DVC where dvc.lock is not as DVC writes it.
"""

import os
import re
from pathlib import Path

from dvc import dvcfile
from dvc.exceptions import DvcException
from dvc.stage.serialize import to_lockfile
from dvc.utils.serialize import dumps_yaml, loads_yaml

HEAD = "schema: '2.0'\nstages:\n"
CURE = "python tools/verify.py"
ENTRY = re.compile(r"^  (?P<name>\S.*):\n(?:    .*\n|\n)*", re.MULTILINE)  # a name indented by two, all else by more


def find_entry(text: str, name: str) -> re.Match | None:
    """The lines of one stage: its name indented by two, all else by more."""
    return next((entry for entry in ENTRY.finditer(text) if entry["name"] == name), None)


def put_entries(path: Path, entries: dict[str, dict]) -> None:
    """Put the entries of several stages into dvc.lock, where DVC would put them, at once."""
    text = path.read_text(encoding="utf-8") if path.exists() else HEAD
    if _is_of_dvc(text):
        lines = {
            name: dumps_yaml({"stages": {name: entry}}).removeprefix("stages:\n") for name, entry in entries.items()
        }
        changed = ENTRY.sub(lambda old: lines.pop(old["name"], old[0]), text) + "".join(lines.values())
    else:
        data = loads_yaml(text)
        data["stages"] = (data["stages"] or {}) | entries
        changed = dumps_yaml(data)
    _replace(path, changed)


def _is_of_dvc(text: str) -> bool:
    """Whether the file holds nothing but stages and is as DVC writes it; a merge or a hand may write it otherwise."""
    return re.findall(r"^\S.*\n?", text, re.MULTILINE) == HEAD.splitlines(keepends=True)


def _replace(path: Path, text: str) -> None:
    partial = Path(f"{path}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


class Lockfile(dvcfile.Lockfile):
    """DVC's class, for a process that runs the stage called ``only`` and no other."""

    only: str

    def _text(self) -> str | None:
        """The file's content; None where it holds more than stages, or was not written by DVC (a merge)."""
        path = Path(self.path)
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else HEAD
        return text if _is_of_dvc(text) else None

    def _load_yaml(self, **kwargs):
        text = self._text()
        try:
            if text is None or kwargs:
                return super()._load_yaml(**kwargs)
            entry = find_entry(text, self.only)
            data = loads_yaml(HEAD + (entry[0] if entry else "  {}\n"))
            return self.validate(data, self.relpath), text
        except (DvcException, UnicodeDecodeError):
            message = f"{self.relpath} is damaged; `{CURE}` removes it, then run the same command again"
            raise DvcException(message) from None

    def dump_stages(self, stages, **kwargs):
        text = self._text()
        if text is None or [stage.name for stage in stages] != [self.only]:
            return super().dump_stages(stages, **kwargs)
        new = dumps_yaml({"stages": to_lockfile(stages[0], **kwargs)}).removeprefix("stages:\n")
        old = find_entry(text, self.only)
        if old and old[0] == new:
            return
        changed = text[: old.start()] + new + text[old.end() :] if old else text + new
        _replace(Path(self.path), changed)
        self.repo.scm_context.track_file(self.relpath)
