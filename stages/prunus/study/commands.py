"""The values of params.yaml that stand in commands of dvc.yaml: only whole numbers and known names are allowed."""

from collections.abc import Callable, Iterator

from prunus.study import layout
from prunus.study.catalogue import DATASETS, method_names
from prunus.study.mistakes import ParamsError, printable, shortened
from prunus.study.reading import LARGEST


def _number(value: object) -> str | None:
    return None if type(value) is int and 0 <= value <= LARGEST else f"must be a whole number from 0 to {LARGEST:,}"


def _one_of(names: Callable[[], list[str]]) -> Callable[[object], str | None]:
    return lambda value: None if value in names() else f"is unknown; allowed: {', '.join(names())}"


def _chains() -> list[str]:
    methods = method_names()
    return methods + [layout.chain(method, other) for method in methods for other in methods]


def _chain(value: object) -> str | None:
    return (
        None
        if value in _chains()
        else f"is not a chain; allowed: METHOD or METHOD_at_METHOD of {', '.join(method_names())}"
    )


# By key; [] means each entry of a list. tests/pipeline/test_injection.py compares the keys with dvc.yaml.
JUDGES = {
    "study.seeds[]": _number,
    "study.methods[]": _one_of(method_names),
    "study.iterations[].t": _number,
    "imposed.ratio_of": _one_of(method_names),
    "imposed.methods[]": _one_of(method_names),
    "transfer.datasets[]": _one_of(lambda: list(DATASETS)),
    "transfer.methods[]": _one_of(lambda: ["dense", *method_names()]),
    "information.methods[]": _chain,
}


def _values_at(content: object, keys: list[str], name: str = "") -> Iterator[tuple[str, object]]:
    """The name and the value of every place that ``keys`` lead to. Raises ``ParamsError`` if there is none."""
    if not keys:
        yield name, content
        return
    key, entries = keys[0].removesuffix("[]"), keys[0].endswith("[]")
    name = f"{name}.{key}".removeprefix(".")
    if not isinstance(content, dict) or key not in content:
        raise ParamsError(f"{name}: is missing")
    if not entries:
        yield from _values_at(content[key], keys[1:], name)
    elif not isinstance(content[key], list):
        raise ParamsError(f"{name}: must be a list")
    else:
        for position, entry in enumerate(content[key]):
            yield from _values_at(entry, keys[1:], f"{name}[{position}]")


def check(content: object) -> None:
    """Check the ``content`` of params.yaml. Raises ``ParamsError`` naming each value not allowed in a command."""
    lines = [
        f"{name}: {shortened(printable(repr(value)), 60)} {why}"
        for keys, judge in JUDGES.items()
        for name, value in _values_at(content, keys.split("."))
        if (why := judge(value))
    ]
    if lines:
        raise ParamsError(*lines)
