"""What a stage sees of params.yaml: the keys that it declares, and nothing else."""

from pathlib import Path
from types import SimpleNamespace

from prunus.study import layout
from prunus.study.checks import validate
from prunus.study.mistakes import ParamsError, refused_in_words
from prunus.study.reading import read_file


def read(path: Path | None = None, methods: bool = True) -> SimpleNamespace:
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


def for_stage(keys: list[str], methods: bool = True) -> SimpleNamespace:
    """What a stage script calls first: the declared keys, or one line per mistake on stderr and exit status 2.

    ``methods=False`` is for the stages after the last one that runs a method.
    """
    with refused_in_words():
        params = read(methods=methods)
        missing = [key for key in keys if key.startswith("methods.") and key.split(".")[1] not in params.methods]
        if missing:
            raise ParamsError(f"{missing[0]}: no such block; blocks: {', '.join(params.methods)}")
    _obeyed.append((keys, methods, select(params, keys)))
    return _obeyed[-1][-1]


_obeyed = []


def edited() -> list[str]:
    """The keys among those that ``for_stage`` returned which params.yaml now says differently; all if it is invalid."""
    found = []
    for keys, methods, before in _obeyed:
        try:
            now = select(read(methods=methods), keys)
        except (ParamsError, AttributeError, KeyError):
            return keys
        found += [key for key in keys if select(now, [key]) != select(before, [key])]
    return found
