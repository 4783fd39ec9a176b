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


def find_entry(text: str, name: str) -> re.Match | None:
    """The lines of one stage: its name indented by two, all else by more."""
    return re.search(rf"^  {re.escape(name)}:\n(?:    .*\n|\n)*", text, re.MULTILINE)


class Lockfile(dvcfile.Lockfile):
    """DVC's class, for a process that runs the stage called ``only`` and no other."""

    only: str

    def _text(self) -> str | None:
        """The file's content; None where it holds more than stages, or was not written by DVC (a merge)."""
        path = Path(self.path)
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else HEAD
        return text if re.findall(r"^\S.*\n?", text, re.MULTILINE) == HEAD.splitlines(keepends=True) else None

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
        partial = Path(f"{self.path}.partial")
        partial.write_text(changed, encoding="utf-8")
        os.replace(partial, self.path)
        self.repo.scm_context.track_file(self.relpath)
