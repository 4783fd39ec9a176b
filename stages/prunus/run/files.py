"""The files that stages exchange: written whole or not at all, and checked when they are read."""

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

    Raises ``StageError`` naming ``path`` where the disk is full or the folder may not be written to.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)  # safetensors writes files that only their owner can read
        os.replace(partial, path)
    except OSError as error:
        own = error.filename in (None, str(partial))
        if (said := explained(error, path if own else None)) is None:
            raise
        raise said from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _not_finite(content: object, key: str = "") -> Iterator[str]:
    """The dotted keys of the floats in ``content`` that are not finite, and what they are."""
    if isinstance(content, float) and not math.isfinite(content):
        yield f"{key} is {content}"
    if isinstance(content, dict | list | tuple):
        for name, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from _not_finite(value, f"{key}.{name}".removeprefix("."))


def _refuse_not_finite(path: Path, content: object) -> None:
    if found := next(_not_finite(content), None):
        raise StageError(f"{path} is not written: {found}, and no number that another stage could use", "not_finite")


def write_json(path: Path, content: object) -> None:
    """Raises ``StageError`` for a number that is not finite, which JSON has none of."""
    _refuse_not_finite(path, content)
    with write_atomically(path) as partial:
        partial.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_csv(path: Path, rows: list[dict], columns: list[str] | None = None) -> None:
    """Write rows of equal keys; None becomes an empty field. ``columns`` are needed where there may be no row.

    Raises ``StageError`` for a number that is not finite. (The csv module: importing pandas takes a second.)
    """
    _refuse_not_finite(path, rows)
    with write_atomically(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _model(fields: dict[str, object], **settings) -> type[BaseModel]:
    """A model with ``fields`` by name and type, or fields of its own, all of them required and their numbers finite."""
    kinds = {name: _model(kind, **settings) if isinstance(kind, dict) else kind for name, kind in fields.items()}
    config = ConfigDict(allow_inf_nan=False, protected_namespaces=(), **settings)
    return create_model("Content", __config__=config, **{name: (kind, ...) for name, kind in kinds.items()})


def read_json(path: Path, made_by: str, keys: dict[str, object]) -> dict:
    """The content of a stage's JSON output. ``keys``: those that the caller reads, and the types of their values, for a
    block of keys theirs again. Numbers have to be finite.

    A missing or damaged file raises ``StageError`` naming ``made_by``, the command that makes it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except FileNotFoundError:
        raise StageError(f"{path} is missing; `{made_by}` makes it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise StageError(f"{path} is damaged (no JSON: {error}); delete it, `{made_by}` makes it again") from None
    try:
        _model(keys).model_validate(content, strict=True)
    except ValidationError as error:
        key, said = ".".join(map(str, error.errors()[0]["loc"])), error.errors()[0]["msg"]
        raise StageError(f"{path} is damaged ({key}: {said}); delete it, `{made_by}` makes it again") from None
    return content


def read_rows(path: Path, made_by: str, columns: dict[str, object] | None = None) -> list[dict[str, str]]:
    """The rows of a stage's CSV output, as text. ``columns``: those it has to have, no other, and their values' types
    (None is an empty field); None: whatever it has.

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
            column, said = error.errors()[0]["loc"][0], error.errors()[0]["msg"]
            why = f"row {number}, column {column}: {said}"
            raise StageError(f"{path} is damaged ({why}); delete it, `{made_by}` makes it again") from None
    return [{name: row[name] for name in columns} for row in rows]


def sha256(path: Path) -> str | None:
    """SHA-256 of a file; None where there is no such file: a stage need not use all it may."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
