"""The part of params.yaml that a stage sees: the keys that it declares, and nothing else."""

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

from prunus.study import layout
from prunus.study.checks import validate
from prunus.study.mistakes import ParamsError, refused_in_words
from prunus.study.reading import read_file


def read(path: Path | None = None, methods: Iterable[str] | None = None) -> SimpleNamespace:
    """Read and ``validate`` the file at ``path`` (None: the project's params.yaml). Raises ``ParamsError``."""
    return validate(read_file(path or layout.ROOT / layout.PARAMS), methods)


def select(params: SimpleNamespace, keys: list[str]) -> SimpleNamespace:
    """The part of ``params`` that ``keys`` (dotted, as in dvc.yaml) name; everything else is left out.

    ``select(params, ["training.sgd"]).training.epochs`` raises ``AttributeError``: a stage obeys only what it declares.
    """
    result = SimpleNamespace()
    for key in keys:
        *parents, last = key.split(".")
        source, target = params, result
        for name in parents:
            source = source[name] if isinstance(source, dict) else getattr(source, name)
            if not hasattr(target, name):
                setattr(target, name, SimpleNamespace())
            target = getattr(target, name)
        setattr(target, last, source[last] if isinstance(source, dict) else getattr(source, last))
    return result


def view(keys: list[str]) -> SimpleNamespace:
    """The present values of ``keys`` in params.yaml; only the methods' blocks that the keys name are checked."""
    return select(read(methods=[key.split(".")[1] for key in keys if key.startswith("methods.")]), keys)


def for_stage(keys: list[str]) -> SimpleNamespace:
    """The declared keys, or one line per mistake on stderr and exit status 2. A stage script calls this first.

    The key ``methods`` means all blocks as written, ``methods.NAME`` the settings of one method; only files of methods
    named in this way are imported.
    """
    with refused_in_words():
        return view(keys)


def edited(keys: list[str], before: SimpleNamespace) -> list[str]:
    """The ``keys`` whose values in params.yaml differ from ``before``, which ``for_stage`` returned; all if the file is
    no longer valid."""
    try:
        now = view(keys)
    except (ParamsError, AttributeError, KeyError):
        return keys
    return [key for key in keys if select(now, [key]) != select(before, [key])]
