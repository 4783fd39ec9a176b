"""What a stage sees of params.yaml: the keys that it declares, and nothing else."""

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

from prunus.study import layout
from prunus.study.checks import validate
from prunus.study.mistakes import ParamsError, refused_in_words
from prunus.study.reading import read_file


def read(path: Path | None = None, methods: Iterable[str] | None = None) -> SimpleNamespace:
    """Read and ``validate`` params.yaml (of the project, unless ``path`` is given). Raises ``ParamsError``."""
    return validate(read_file(path or layout.ROOT / layout.PARAMS), methods)


def select(params: SimpleNamespace, keys: list[str]) -> SimpleNamespace:
    """The part of ``params`` that ``keys`` (dotted, as in dvc.yaml) name; anything else is absent from the result.

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
    """The keys as params.yaml says them now; of the methods' blocks those are judged that the keys name."""
    return select(read(methods=[key.split(".")[1] for key in keys if key.startswith("methods.")]), keys)


def for_stage(keys: list[str]) -> SimpleNamespace:
    """What a stage script calls first: the declared keys, or one line per mistake on stderr and exit status 2.

    The key ``methods`` stands for all blocks as written, ``methods.NAME`` for the settings of one method, whose file is
    the only one that is imported.
    """
    with refused_in_words():
        return view(keys)


def edited(keys: list[str], before: SimpleNamespace) -> list[str]:
    """Those of ``keys`` which params.yaml now says differently than ``before``, what ``for_stage`` returned for them;
    all where the file is no longer valid."""
    try:
        now = view(keys)
    except (ParamsError, AttributeError, KeyError):
        return keys
    return [key for key in keys if select(now, [key]) != select(before, [key])]
