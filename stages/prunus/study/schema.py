"""The schema of params.yaml: its blocks and keys, their types and ranges."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from prunus.study import layout
from prunus.study.catalogue import DATASETS, SMALLEST_SIDE, method_names
from prunus.study.reading import LARGEST

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


class Sections(Section):
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
