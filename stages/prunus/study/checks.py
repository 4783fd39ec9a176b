"""The rules between the blocks of params.yaml: every mistake of the file, one line each."""

import importlib
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from types import SimpleNamespace

from pydantic import ValidationError

from prunus.study import layout
from prunus.study.catalogue import DATASETS, METHOD_FILES, SINGLE_LAYER, method_names, misfit
from prunus.study.mistakes import MethodFileError, ParamsError, printable, shortened
from prunus.study.schema import Iteration, Section, Sections


def _line(key: str, value: object, allowed: str) -> str:
    return f"{key}: {shortened(repr(value), 60)} {allowed}"


def _key(*parts: object) -> str:
    """The place of a mistake in dotted form; every part that is not a list position is a key."""
    key = ""
    for part in parts:
        key += f"[{part}]" if isinstance(part, int) else f".{shortened(printable(str(part)), 40)}"
    return key.removeprefix(".")


def _schema_lines(error: ValidationError, *prefix: str) -> list[str]:
    lines = []
    for mistake in error.errors():
        key = _key(*prefix, *mistake["loc"])
        if mistake["type"] == "missing":
            why = mistake.get("ctx", {}).get("why")
            lines.append(f"{key}: is missing" + (f"; {why}" if why else ""))
        elif mistake["type"] == "model_type" and not key and mistake["input"] is None:
            lines.append(f"params.yaml: is empty; it holds the blocks {', '.join(Sections.model_fields)}")
        elif mistake["type"] in ("model_type", "model_attributes_type", "dict_type"):
            lines.append(_line(key or "params.yaml", mistake["input"], "should be a block of keys"))
        elif mistake["type"] == "extra_forbidden":
            lines.append(_line(key, mistake["input"], "is an unknown key"))
        else:
            message = mistake["msg"].removeprefix("Value error, ").removeprefix("Input ")
            lines.append(_line(key or "params.yaml", mistake["input"], message[0].lower() + message[1:]))
    return lines


def _iteration_lines(iterations: list[Iteration]) -> list[str]:
    for position, entry in enumerate(iterations):
        t, after = position + 1, f"iteration-{position}" if position else "../dense"
        if (entry.t, entry.after) != (t, after):
            key, value = f"study.iterations[{position}]", f"{{t: {entry.t}, after: {entry.after}}}"
            return [f"{key}: {value} leaves a gap; this entry must be {{t: {t}, after: {after}}}"]
    return []


def _duplicates(key: str, values: list) -> list[str]:
    return [_line(key, value, "is listed twice") for value, times in Counter(values).items() if times > 1]


def _classes_lines(key: str, classes: str | list[int], dataset: str) -> list[str]:
    if classes == "all":
        return []
    count = DATASETS[dataset].classes
    return _duplicates(key, classes) + [
        _line(key, number, f"is not a class of {dataset}; allowed: 0 to {count - 1}")
        for number in dict.fromkeys(classes)
        if count is not None and number >= count
    ]


def _settings_of(name: str, block: dict) -> Section:
    """The settings of one method. Raises ``MethodFileError`` if its file cannot be imported, ``ParamsError`` for
    mistakes in its block."""
    if name not in method_names():
        raise ParamsError(f"{_key('methods', name)}: no such method; allowed: {', '.join(method_names())}")
    try:
        model = importlib.import_module(f"prunus.methods.{name}").Settings
    except Exception as error:
        raise MethodFileError(name, METHOD_FILES / f"{name}.py", error) from error
    try:
        return model.model_validate(block)
    except ValidationError as error:
        raise ParamsError(*_schema_lines(error, "methods", name)) from None


def used_methods(sections: Sections) -> list[str]:
    """The methods with a block that the study runs: those of ``study`` and those of ``imposed``."""
    return [name for name in sections.methods if name in (*sections.study.methods, *sections.imposed.methods)]


def mistakes_in_unused(sections: Sections) -> list[ParamsError]:
    """The mistakes in blocks and files of methods that the study does not use."""
    mistakes = []
    for name in [name for name in sections.methods if name not in used_methods(sections)]:
        try:
            _settings_of(name, sections.methods[name])
        except ParamsError as error:
            mistakes.append(error)
    return mistakes


def _removers(sections: Sections) -> list[str]:
    """The methods, used or not, that remove channels; methods whose block is invalid are left out."""
    removers = []
    for name, block in sections.methods.items():
        with suppress(ParamsError):
            if _settings_of(name, block).prunes_channels:
                removers.append(name)
    return removers


def _takes_ratio(settings: Section) -> bool:
    return settings.prunes_channels and hasattr(settings, "fraction")


def _imposed_lines(sections: Sections, settings: dict[str, Section]) -> list[str]:
    imposed, study = sections.imposed, sections.study
    if not imposed.methods:
        return []
    lines = _duplicates("imposed.methods", imposed.methods)
    if imposed.ratio_of not in study.methods:
        allowed = ", ".join(name for name in _removers(sections) if name in study.methods) or "none of this study"
        lines.append(_line("imposed.ratio_of", imposed.ratio_of, f"is not in study.methods; allowed: {allowed}"))
    elif imposed.ratio_of in settings and not settings[imposed.ratio_of].prunes_channels:
        lines.append(_line("imposed.ratio_of", imposed.ratio_of, "removes single weights, not channels"))
    refused = [
        name
        for name in imposed.methods
        if name not in sections.methods
        or name == imposed.ratio_of
        or (name in settings and not _takes_ratio(settings[name]))
    ]
    if refused:
        removers = [name for name in _removers(sections) if name != imposed.ratio_of]
        rankers = [name for name in removers if _takes_ratio(_settings_of(name, sections.methods[name]))]
        allowed = f"cannot be given a ratio of channels; allowed: {', '.join(rankers)}"
        lines += [_line("imposed.methods", name, allowed) for name in refused]
    return lines


def _transfer_lines(sections: Sections) -> list[str]:
    transfer, study, data = sections.transfer, sections.study, sections.data
    lines = []
    for key, values, other in ("datasets", transfer.datasets, "methods"), ("methods", transfer.methods, "datasets"):
        lines += _duplicates(f"transfer.{key}", values)
        if not values and getattr(transfer, other):
            lines.append(f"transfer.{key}: [] goes with an empty transfer.{other} only; list both or neither")
    shapes = {
        name: (DATASETS[name].channels, DATASETS[name].side or data.image_folder.side)
        for name in [study.dataset, *transfer.datasets]
    }
    for name in dict.fromkeys(transfer.datasets):
        channels, side = shapes[name]
        study_channels, study_side = shapes[study.dataset]
        if shapes[name] != shapes[study.dataset]:
            study_has = f"{study.dataset} has {study_channels}x{study_side}x{study_side}"
            why = f"has images of {channels}x{side}x{side}, {study_has}"
            lines.append(_line("transfer.datasets", name, why))
        elif name == study.dataset and transfer.classes == data.classes:
            lines.append(_line("transfer.datasets", name, "is study.dataset, and transfer.classes is data.classes"))
        lines += _classes_lines("transfer.classes", transfer.classes, name)
    return lines + [
        _line("transfer.methods", name, f"is not in this study; allowed: dense, {', '.join(study.methods)}")
        for name in dict.fromkeys(transfer.methods)
        if name not in ("dense", *study.methods)
    ]


def _information_lines(sections: Sections) -> list[str]:
    methods, study = sections.information.methods, sections.study
    lines = _duplicates("information.methods", methods)
    if methods and study.network in SINGLE_LAYER:
        lines.append(f"information.methods: measures between layers, and {study.network} has one; allowed: []")
    chains = [*study.methods, *sections.imposed.chains]
    allowed = f"is not a chain of this study; allowed: {', '.join(chains)}"
    return lines + [_line("information.methods", name, allowed) for name in methods if name not in chains]


def of_content(raw: object) -> Sections:
    """The content of params.yaml as its sections. Raises ``ParamsError``; the methods' blocks are not checked."""
    try:
        return Sections.model_validate(raw)
    except ValidationError as error:
        raise ParamsError(*_schema_lines(error)) from None


def validate(raw: object, methods: Iterable[str] | None = None) -> SimpleNamespace:
    """Check the content of params.yaml and return its sections as attributes.

    ``methods``: names of the methods whose blocks are checked, which imports their files (and torch); None: all with a
    block. In the result ``methods`` maps these names to their validated settings and the others to their blocks as
    written. Raises ``ParamsError`` with the key, the value and what is allowed for each mistake, and
    ``MethodFileError`` if a method's file cannot be imported.
    """
    sections = of_content(raw)
    study, settings, lines = sections.study, {}, []
    for name in sections.methods if methods is None else methods:
        if name not in sections.methods:
            lines.append(f"{_key('methods', name)}: no such block; blocks: {', '.join(sections.methods)}")
            continue
        try:
            settings[name] = _settings_of(name, sections.methods[name])
        except MethodFileError:
            raise
        except ParamsError as error:
            lines += str(error).splitlines()
    side = DATASETS[study.dataset].side or sections.data.image_folder.side
    if why := misfit(study.dataset, study.network, side, sections.network.pretrained, sections.network.side):
        lines.append(f"study.network: {study.network} {why}")
    if sections.training.sgd.nesterov and not sections.training.sgd.momentum:
        lines.append("training.sgd.nesterov: true needs training.sgd.momentum above 0")
    lines += _duplicates("study.seeds", study.seeds) + _duplicates("study.methods", study.methods)
    lines += _iteration_lines(study.iterations)
    lines += _classes_lines("data.classes", sections.data.classes, study.dataset)
    lines += _imposed_lines(sections, settings)
    lines += _transfer_lines(sections)
    lines += _information_lines(sections)
    lines += [
        f"study.methods: {name!r} has no block under methods; blocks: {', '.join(sections.methods)}"
        for name in study.methods
        if name not in sections.methods
    ]
    images = DATASETS[study.dataset]
    lines += [
        f"study.methods: {name} {why}"
        for name in [*study.methods, *sections.imposed.methods]
        if name in settings and (why := settings[name].misfit(study.network, images.channels))
    ]
    if lines:
        raise ParamsError(*lines)
    values = {name: getattr(sections, name) for name in Sections.model_fields}
    return SimpleNamespace(**values | {"methods": sections.methods | settings})


def absent_folder(settings: Sections | SimpleNamespace) -> str | None:
    """A line about data.image_folder.path if that folder does not exist: DVC and Snakemake, which watch it with every
    dataset, would start nothing and not name the key."""
    path = settings.data.image_folder.path
    if (layout.ROOT / path).is_dir():
        return None
    if (layout.ROOT / f"{path}.dvc").exists():
        return _line("data.image_folder.path", path, f"is not here yet; `dvc pull {path}.dvc` brings it")
    why = "is not a folder; DVC watches it with every study.dataset, so name one that exists, such as data/images"
    return _line("data.image_folder.path", path, why)
