"""The schema of params.yaml: types, ranges and cross-checks, one line per mistake, and what a stage may see of it."""

import importlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from prunus import layout
from prunus.catalogue import DATASETS, SINGLE_LAYER, SMALLEST_SIDE, method_names, misfit
from prunus.plain_yaml import LARGEST, ParamsError, printable, read_file, refused_in_words, shortened

LARGEST_SIDE = 1024  # of an image, in pixels

Fraction = Annotated[float, Field(ge=0, lt=1)]
PositiveFraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Natural = Annotated[int, Field(ge=0, le=LARGEST)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A block of params.yaml: every key required, none unknown, no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def takes(settings: Section, **changes: object) -> bool:
    """Whether a block like ``settings`` may say ``changes``: what is advised must not be refused."""
    try:
        type(settings).model_validate(settings.model_dump() | changes)
    except ValidationError:
        return False
    return True


def _named_one_of(names, what: str):
    def check(value: str) -> str:
        if value not in names:
            raise ValueError(f"unknown {what}; allowed: {', '.join(names)}")
        return value

    return AfterValidator(check)


def _all_or_numbers(value: object) -> str | list[int]:
    numbers = isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)
    if value != "all" and not (numbers and len(value) >= 2):
        raise ValueError("must be all or a list of at least two class numbers")
    return value


Classes = Annotated[str | list[int], PlainValidator(_all_or_numbers)]


class Iteration(Section):
    t: Positive
    after: str


class Study(Section):
    dataset: Annotated[str, _named_one_of(DATASETS, "dataset")]
    network: Annotated[str, _named_one_of(SMALLEST_SIDE, "network")]
    seeds: Annotated[list[Natural], Field(min_length=1)]
    methods: Annotated[list[str], Field(min_length=1)]
    iterations: Annotated[list[Iteration], Field(min_length=1)]


class Imposed(Section):
    ratio_of: Annotated[str, _named_one_of(method_names(), "method")]
    methods: list[str]

    @property
    def chains(self) -> list[str]:
        return [layout.chain(method, self.ratio_of) for method in self.methods]


class Transfer(Section):
    datasets: list[Annotated[str, _named_one_of(DATASETS, "dataset")]]
    methods: list[str]
    classes: Classes
    fraction: Share
    start: Literal["retrained", "initial"]
    epochs: Positive


def _plain_path(value: str) -> str:
    if not value.strip() or not value.isprintable() or len(value) > 1000:
        raise ValueError("must name a folder, in at most 1,000 printable characters")
    if value.startswith("~") or "://" in value:
        raise ValueError("must name a folder of this machine without ~, which DVC takes for a name; write its path out")
    return value


class ImageFolder(Section):
    path: Annotated[str, AfterValidator(_plain_path)]
    side: Annotated[int, Field(ge=1, le=LARGEST_SIDE)]


class Data(Section):
    classes: Classes
    fraction: Share
    imbalance: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    validation_fraction: PositiveFraction
    test_fraction: PositiveFraction
    split_seed: Natural
    image_folder: ImageFolder


def _native_or_pixels(value: object) -> str | int:
    if value != "native" and not (type(value) is int and 1 <= value <= LARGEST_SIDE):
        raise ValueError(f"must be native or a number of pixels from 1 to {LARGEST_SIDE}")
    return value


class Network(Section):
    pretrained: bool
    side: Annotated[str | int, PlainValidator(_native_or_pixels)]


class Sgd(Section):
    batch_size: Positive
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    momentum: Fraction
    nesterov: bool
    weight_decay: NonNegative
    schedule: Literal["constant", "cosine"]
    clip_norm: NonNegative


class Training(Section):
    epochs: Positive
    warmup_steps: Natural
    augment: Literal["none", "flip_crop"]
    sgd: Sgd


class Flow(Section):
    samples: Annotated[int, Field(ge=2, le=LARGEST)]


class Information(Section):
    methods: list[str]
    samples: Annotated[int, Field(ge=20, le=LARGEST)]
    predictor: Literal["linear", "mlp"]
    repeats: Annotated[int, Field(ge=2, le=1000)]
    cells: Positive


class Evaluation(Section):
    fraction: Share
    latency_seconds: Annotated[float, Field(ge=0, le=3600)]


class Device(Section):
    accelerator: Literal["auto", "cpu", "cuda"]
    threads: Annotated[int, Field(ge=1, le=1024)]
    jobs_per_gpu: Annotated[int, Field(ge=1, le=100)]
    precision: Literal["float32", "bfloat16"]
    memory_format: Literal["auto", "contiguous", "channels_last"]


class _Sections(Section):
    study: Study
    imposed: Imposed
    transfer: Transfer
    data: Data
    network: Network
    training: Training
    flow: Flow
    information: Information
    evaluation: Evaluation
    device: Device
    methods: dict[str, dict[str, Any]]


def _line(key: str, value: object, allowed: str) -> str:
    return f"{key}: {shortened(repr(value), 60)} {allowed}"


def _key(*parts: object) -> str:
    """A mistake's place as written in dotted form; what is no list position is a key, however odd."""
    key = ""
    for part in parts:
        key += f"[{part}]" if isinstance(part, int) else f".{shortened(printable(str(part)), 40)}"
    return key.removeprefix(".")


def _schema_lines(error: ValidationError, *prefix: str) -> list[str]:
    lines = []
    for mistake in error.errors():
        key = _key(*prefix, *mistake["loc"])
        if mistake["type"] == "missing":
            lines.append(f"{key}: is missing")
        elif mistake["type"] == "model_type" and not key and mistake["input"] is None:
            lines.append(f"params.yaml: is empty; it holds the blocks {', '.join(_Sections.model_fields)}")
        elif mistake["type"] in ("model_type", "model_attributes_type", "dict_type"):
            lines.append(_line(key or "params.yaml", mistake["input"], "should be a block of keys"))
        elif mistake["type"] == "extra_forbidden":
            lines.append(_line(key, mistake["input"], "is an unknown key"))
        else:
            said = mistake["msg"].removeprefix("Value error, ").removeprefix("Input ")
            lines.append(_line(key or "params.yaml", mistake["input"], said[0].lower() + said[1:]))
    return lines


def _iteration_lines(iterations: list[Iteration]) -> list[str]:
    for position, given in enumerate(iterations):
        t, after = position + 1, f"iteration-{position}" if position else "../dense"
        if (given.t, given.after) != (t, after):
            key, got = f"study.iterations[{position}]", f"{{t: {given.t}, after: {given.after}}}"
            return [f"{key}: {got} leaves a gap; this entry must be {{t: {t}, after: {after}}}"]
    return []


def _duplicates(key: str, values: list) -> list[str]:
    return [_line(key, value, "is listed twice") for value, times in Counter(values).items() if times > 1]


def _classes_lines(key: str, classes: str | list[int], dataset: str) -> list[str]:
    if classes == "all":
        return []
    known = DATASETS[dataset].classes
    return _duplicates(key, classes) + [
        _line(key, number, f"is no class of {dataset}; allowed: 0 to {known - 1}")
        for number in dict.fromkeys(classes)
        if known is not None and number >= known
    ]


def _method_settings(blocks: dict[str, dict]) -> tuple[dict[str, Section], list[str]]:
    settings, lines = {}, []
    for name, block in blocks.items():
        if name not in method_names():
            lines.append(f"{_key('methods', name)}: no such method; allowed: {', '.join(method_names())}")
            continue
        try:
            settings[name] = importlib.import_module(f"prunus.methods.{name}").Settings.model_validate(block)
        except ValidationError as error:
            lines += _schema_lines(error, "methods", name)
    return settings, lines


def _imposed_lines(sections: _Sections, settings: dict[str, Section]) -> list[str]:
    imposed = sections.imposed
    if not imposed.methods:
        return []
    lines = _duplicates("imposed.methods", imposed.methods)
    removers = [name for name, own in settings.items() if own.prunes_channels]
    rankers = [name for name in removers if hasattr(settings[name], "fraction") and name != imposed.ratio_of]
    if imposed.ratio_of not in sections.study.methods:
        allowed = ", ".join(name for name in sections.study.methods if name in removers) or "none of this study"
        lines.append(_line("imposed.ratio_of", imposed.ratio_of, f"is not in study.methods; allowed: {allowed}"))
    elif imposed.ratio_of not in removers:
        lines.append(_line("imposed.ratio_of", imposed.ratio_of, "removes single weights, not channels"))
    return lines + [
        _line("imposed.methods", name, f"cannot be given a ratio of channels; allowed: {', '.join(rankers)}")
        for name in imposed.methods
        if name not in rankers
    ]


def _transfer_lines(sections: _Sections) -> list[str]:
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
        (channels, side), (there, pixels) = shapes[study.dataset], shapes[name]
        if (there, pixels) != (channels, side):
            why = f"has images of {there}x{pixels}x{pixels}, {study.dataset} has {channels}x{side}x{side}"
            lines.append(_line("transfer.datasets", name, why))
        elif name == study.dataset and transfer.classes == data.classes:
            lines.append(_line("transfer.datasets", name, "is study.dataset, and transfer.classes is data.classes"))
        lines += _classes_lines("transfer.classes", transfer.classes, name)
    return lines + [
        _line("transfer.methods", name, f"is not in this study; allowed: dense, {', '.join(study.methods)}")
        for name in dict.fromkeys(transfer.methods)
        if name not in ("dense", *study.methods)
    ]


def _information_lines(sections: _Sections) -> list[str]:
    wanted, study = sections.information.methods, sections.study
    lines = _duplicates("information.methods", wanted)
    if wanted and study.network in SINGLE_LAYER:
        lines.append(f"information.methods: measures between layers, and {study.network} has one; allowed: []")
    chains = [*study.methods, *sections.imposed.chains]
    allowed = f"is no chain of this study; allowed: {', '.join(chains)}"
    return lines + [_line("information.methods", name, allowed) for name in wanted if name not in chains]


def validate(raw: object, methods: bool = True) -> SimpleNamespace:
    """Check the content of params.yaml and return its sections as attributes.

    ``methods`` is a mapping from the method's name to its validated settings; checking the blocks imports the methods,
    and torch with them. ``methods=False`` leaves that out, and the blocks are as written. Raises ``ParamsError`` naming
    each mistake's key, its value and what is allowed.
    """
    try:
        sections = _Sections.model_validate(raw)
    except ValidationError as error:
        raise ParamsError(*_schema_lines(error)) from None
    settings, lines = _method_settings(sections.methods) if methods else ({}, [])
    study = sections.study
    side = DATASETS[study.dataset].side or sections.data.image_folder.side
    if why := misfit(study.dataset, study.network, side, sections.network.pretrained, sections.network.side):
        lines.append(f"study.network: {study.network} {why}")
    if sections.training.sgd.nesterov and not sections.training.sgd.momentum:
        lines.append("training.sgd.nesterov: true needs training.sgd.momentum above 0")
    lines += _duplicates("study.seeds", study.seeds) + _duplicates("study.methods", study.methods)
    lines += _iteration_lines(study.iterations)
    lines += _classes_lines("data.classes", sections.data.classes, study.dataset)
    lines += _imposed_lines(sections, settings) if methods else []
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
    values = {name: getattr(sections, name) for name in _Sections.model_fields}
    return SimpleNamespace(**values | ({"methods": settings} if methods else {}))


def absent_folder(settings: SimpleNamespace) -> str | None:
    """The line on data.image_folder.path where there is none: DVC and Snakemake, which watch it whatever the dataset,
    would start nothing and not name the key."""
    path = settings.data.image_folder.path
    if (layout.ROOT / path).is_dir():
        return None
    if (layout.ROOT / f"{path}.dvc").exists():
        return _line("data.image_folder.path", path, f"is not here yet; `dvc pull {path}.dvc` brings it")
    said = "is no folder; it is watched whatever study.dataset is, so name one that is there, such as data/images"
    return _line("data.image_folder.path", path, said)


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
