"""The ready-made studies under studies/: params.yaml, changed by what a study's own params.yaml sets."""

import copy
import io
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML

from prunus.study import layout
from prunus.study.mistakes import ParamsError
from prunus.study.reading import parse, read_file

STUDIES = layout.ROOT / "studies"
LAPTOP = "params"


def names() -> list[str]:
    return sorted(path.parent.name for path in STUDIES.glob(f"*/{LAPTOP}.yaml"))


def merged(base: dict, changes: dict) -> dict:
    """``base`` with ``changes`` put over it, block by block; a list or a plain value is replaced as a whole, and a key
    of value None (null in YAML) is taken away: that of a setting that does nothing beside another one."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
            continue
        blocks = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if blocks else copy.deepcopy(value)
    return result


def chain(length: int) -> list[dict]:
    """``study.iterations`` of a chain of ``length``, as params.yaml spells it out."""
    return [{"t": t, "after": f"iteration-{t - 1}" if t > 1 else "../dense"} for t in range(1, length + 1)]


def _project() -> str:
    path = layout.ROOT / layout.PARAMS
    read_file(path)  # refuses what cannot be read as text
    return path.read_text(encoding="utf-8")


def _changes(path: Path) -> dict:
    return parse(path.read_text(encoding="utf-8"), path.relative_to(layout.ROOT)) or {}


def of_study(name: str, scale: str = LAPTOP, base: str | None = None) -> dict:
    """The content of params.yaml for a study.

    Arguments: ``name`` of a folder of studies/; ``scale`` params (laptop), or another file of that folder, put over
    it; ``base`` the text of the params.yaml to start from, the project's unless given. ``study.iterations`` may be a
    number there.
    Raises ``ParamsError`` where there is no such study or scale.
    """
    folder = STUDIES / name
    if name not in names():
        raise ParamsError(f"{name}: no such study; allowed: {', '.join(names())}")
    files = [LAPTOP] if scale == LAPTOP else [LAPTOP, scale]
    if not (folder / f"{scale}.yaml").exists():
        scales = sorted(path.stem for path in folder.glob("*.yaml"))
        raise ParamsError(f"{name}: no scale {scale!r}; allowed: {', '.join(scales)}")
    content = parse(_project() if base is None else base, layout.PARAMS)
    if not isinstance(content, dict) or not isinstance(content.get("study"), dict):
        raise ParamsError(f"{layout.PARAMS}: has no block `study`, which a study changes")
    for file in files:
        content = merged(content, _changes(folder / f"{file}.yaml"))
    if isinstance(content["study"].get("iterations"), int):
        content["study"]["iterations"] = chain(content["study"]["iterations"])
    return content


def text(content: dict) -> str:
    """The project's params.yaml with the values of ``content``, in the form in which DVC writes the file.

    Comments stay, and a later `dvc exp run -S` changes the key it sets and nothing else.
    """
    writer = YAML()  # its round trip makes plain values only
    written = io.StringIO()
    writer.default_flow_style = False
    document = writer.load(_project())
    _put(document, content)
    writer.dump(document, written)
    return written.getvalue()


def _put(document: dict, content: dict) -> None:
    """Give ``document``, which holds comments, the values of ``content``."""
    for key in [key for key in document if key not in content]:
        del document[key]
    for key, value in content.items():
        if isinstance(value, dict) and isinstance(document.get(key), dict):
            _put(document[key], value)
        else:
            document[key] = value


def differences(content: dict, base: dict, block: str = "") -> Iterator[tuple[str, object, object]]:
    """Dotted key, value and value in ``base`` wherever the two differ; None where one of them lacks the key."""
    for key in base | content:
        value, other = content.get(key), base.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            yield from differences(value, other, f"{block}{key}.")
        elif value != other:
            yield f"{block}{key}", value, other
