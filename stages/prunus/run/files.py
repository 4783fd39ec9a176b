"""The files that stages exchange: written completely or not at all, and checked when they are read."""

import csv
import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from prunus.run.errors import StageError, explained


@contextmanager
def write_atomically(path: Path):
    """Yield a temporary name beside ``path``; the file appears under its real name only when the block succeeds.

    Raises ``StageError`` naming ``path`` if the disk is full or the folder is not writable.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)  # safetensors makes files that only their owner can read
        os.replace(partial, path)
    except OSError as error:
        about_path = error.filename in (None, str(partial))
        if (explanation := explained(error, path if about_path else None)) is None:
            raise
        raise explanation from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _not_finite(content: object, key: str = "") -> Iterator[str]:
    """The dotted keys and the values of the floats in ``content`` that are not finite."""
    if isinstance(content, float) and not math.isfinite(content):
        yield f"{key} is {content}"
    if isinstance(content, dict | list | tuple):
        for name, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from _not_finite(value, f"{key}.{name}".removeprefix("."))


def _refuse_not_finite(path: Path, content: object) -> None:
    if entry := next(_not_finite(content), None):
        raise StageError(f"{path} is not written: {entry}, which no other stage could use", "not_finite")


def write_json(path: Path, content: object) -> None:
    """Raises ``StageError`` for a number that is not finite; JSON has no such numbers."""
    _refuse_not_finite(path, content)
    with write_atomically(path) as partial:
        partial.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_csv(path: Path, rows: list[dict], columns: list[str] | None = None) -> None:
    """Write rows with equal keys; None becomes an empty field. ``columns`` are needed if there may be no rows.

    Raises ``StageError`` for a number that is not finite. (The csv module: importing pandas takes a second.)
    """
    _refuse_not_finite(path, rows)
    with write_atomically(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _model(fields: dict[str, object], **settings) -> type[BaseModel]:
    """A model of ``fields``, name to type or to fields again; all are required, and numbers must be finite."""
    kinds = {name: _model(kind, **settings) if isinstance(kind, dict) else kind for name, kind in fields.items()}
    config = ConfigDict(allow_inf_nan=False, protected_namespaces=(), **settings)
    return create_model("Content", __config__=config, **{name: (kind, ...) for name, kind in kinds.items()})


def read_json(path: Path, made_by: str, keys: dict[str, object]) -> dict:
    """The content of a stage's JSON output. ``keys``: the keys that the caller reads and the types of their values; a
    dict of keys for a block. Numbers must be finite.

    A missing or damaged file raises ``StageError`` naming ``made_by``, the command that makes it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise StageError(f"{path} is missing; `{made_by}` makes it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise StageError(f"{path} is damaged (not JSON: {error}); delete it, `{made_by}` makes it again") from None
    try:
        _model(keys).model_validate(content, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise StageError(f"{path} is damaged ({why}); delete it, `{made_by}` makes it again") from None
    return content


def read_rows(path: Path, made_by: str, columns: dict[str, object] | None = None) -> list[dict[str, str]]:
    """The rows of a stage's CSV output, as text. ``columns``: the columns it must have, no others, and the types of
    their values (None is an empty field); None: any columns.

    A missing or damaged file raises ``StageError`` naming ``made_by``, the command that makes it.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
    except FileNotFoundError:
        raise StageError(f"{path} is missing; `{made_by}` makes it") from None
    except (OSError, ValueError, csv.Error) as error:
        raise StageError(f"{path} is damaged ({error}); delete it, `{made_by}` makes it again") from None
    if not rows or any(None in row or None in row.values() for row in rows):
        raise StageError(f"{path} is damaged (no rows of equal length); delete it, `{made_by}` makes it again")
    if columns is None:
        return rows
    model = _model(columns, extra="forbid")
    for number, row in enumerate(rows, 1):
        try:
            model.model_validate({name: value or None for name, value in row.items()})
        except ValidationError as error:
            first = error.errors()[0]
            why = f"row {number}, column {first['loc'][0]}: {first['msg']}"
            raise StageError(f"{path} is damaged ({why}); delete it, `{made_by}` makes it again") from None
    return [{name: row[name] for name in columns} for row in rows]


def sha256(path: Path) -> str | None:
    """SHA-256 of a file; None if there is no such file, since a stage does not always use all its inputs."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
