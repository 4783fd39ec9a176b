"""The ready-made studies under studies/: params.yaml with what a study's own params.yaml says differently."""

import copy
from pathlib import Path

import yaml

from prunus import layout
from prunus.plain_yaml import ParamsError, parse

STUDIES = layout.ROOT / "studies"
LAPTOP = "params"


def names() -> list[str]:
    return sorted(path.parent.name for path in STUDIES.glob(f"*/{LAPTOP}.yaml"))


def merged(base: dict, changes: dict) -> dict:
    """``base`` with ``changes`` put over it, block by block; a list or a plain value is replaced as a whole."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        blocks = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if blocks else copy.deepcopy(value)
    return result


def chain(length: int) -> list[dict]:
    """``study.iterations`` of a chain of ``length``, as params.yaml spells it out."""
    return [{"t": t, "after": f"iteration-{t - 1}" if t > 1 else "../dense"} for t in range(1, length + 1)]


def _changes(path: Path) -> dict:
    return parse(path.read_text(encoding="utf-8"), path.relative_to(layout.ROOT)) or {}


def of_study(name: str, scale: str = LAPTOP, base: Path | None = None) -> dict:
    """The content of params.yaml for a study.

    Arguments: ``name`` of a folder of studies/; ``scale`` params (laptop), or another file of that folder, put over
    it; ``base`` the params.yaml to start from, the project's unless given. ``study.iterations`` may be a number there.
    Raises ``ParamsError`` where there is no such study or scale.
    """
    folder = STUDIES / name
    if name not in names():
        raise ParamsError(f"{name}: no such study; allowed: {', '.join(names())}")
    files = [LAPTOP] if scale == LAPTOP else [LAPTOP, scale]
    if not (folder / f"{scale}.yaml").exists():
        scales = sorted(path.stem for path in folder.glob("*.yaml"))
        raise ParamsError(f"{name}: no scale {scale!r}; allowed: {', '.join(scales)}")
    path = base or layout.ROOT / layout.PARAMS
    content = parse(path.read_text(encoding="utf-8"), path.name)
    for file in files:
        content = merged(content, _changes(folder / f"{file}.yaml"))
    if isinstance(content["study"]["iterations"], int):
        content["study"]["iterations"] = chain(content["study"]["iterations"])
    return content


def text(content: dict) -> str:
    """``content`` as YAML that params.yaml may hold."""
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=118)
