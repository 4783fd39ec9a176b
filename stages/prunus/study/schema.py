"""The schema of params.yaml: its blocks and keys, their types, ranges and meanings.

`python docs/reference.py` writes a block's docstring and its fields' descriptions into the reference and into the JSON
schema that editors read; the comments in params.yaml are their beginnings.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainValidator, ValidationError, WithJsonSchema

from prunus.study import layout
from prunus.study.catalogue import DATASETS, SMALLEST_SIDE, method_names
from prunus.study.reading import LARGEST
from prunus.study.section import Section

LARGEST_SIDE = 1024  # of an image, in pixels

Fraction = Annotated[float, Field(ge=0, lt=1)]
PositiveFraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Natural = Annotated[int, Field(ge=0, le=LARGEST)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
AboveZero = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def takes(settings: Section, **changes: object) -> bool:
    """Whether ``settings`` stay valid with ``changes``: no change that is refused may be advised."""
    try:
        type(settings).model_validate(settings.model_dump() | changes)
    except ValidationError:
        return False
    return True


def _one_of(names: Iterable[str], what: str) -> type[str]:
    def check(value: str) -> str:
        if value not in names:
            raise ValueError(f"unknown {what}; allowed: {', '.join(names)}")
        return value

    return Annotated[str, AfterValidator(check), WithJsonSchema({"enum": list(names)})]


def _all_or_numbers(value: object) -> str | list[int]:
    numbers = isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)
    if value != "all" and not (numbers and len(value) >= 2):
        raise ValueError("must be all or a list of at least two class numbers")
    return value


Dataset = _one_of(DATASETS, "dataset")
NetworkName = _one_of(SMALLEST_SIDE, "network")
Method = _one_of(method_names(), "method")
Classes = Annotated[
    str | list[int],
    PlainValidator(_all_or_numbers),
    WithJsonSchema(
        {"anyOf": [{"const": "all"}, {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 2}]}
    ),
]


class Iteration(Section):
    """One step of every chain: prune, rewind, retrain."""

    t: Positive = Field(description="number of the iteration, counted from 1")
    after: str = Field(
        description="folder of the network it starts from: `../dense` for the first iteration, `iteration-1` for the "
        "second, and so on"
    )


class Study(Section):
    """What is compared, and on what."""

    dataset: Dataset = Field(description="the images that networks are trained and tested on")
    network: NetworkName = Field(description="the network that is pruned")
    seeds: Annotated[list[Natural], Field(min_length=1)] = Field(
        description="one whole replication each: initialisation, data order and masks derive from it"
    )
    methods: Annotated[list[str], Field(min_length=1)] = Field(
        description="any names with a block under `methods`; each is one chain of iterations per seed"
    )
    iterations: Annotated[list[Iteration], Field(min_length=1)] = Field(
        description="prune + retrain, one after the other; each starts `after` the one before it. They are written out "
        "because DVC cannot compute t - 1"
    )


class Imposed(Section):
    """Every method of this list runs once more, at the ratio of channels that iteration t of `ratio_of` has removed
    instead of its own fraction, and is called e.g. `thinet_at_mipp`: MIPP's protocol, for methods that remove a
    fraction of the channels."""

    methods: list[str] = Field(description="methods that remove a fraction of the channels; nothing runs with []")
    ratio_of: Method = Field(
        description="the method of this study whose ratio is taken; it removes channels. Not read where `methods` is []"
    )

    @property
    def chains(self) -> list[str]:
        return [layout.chain(method, self.ratio_of) for method in self.methods]


class Transfer(Section):
    """What the networks of the study are worth on another task; nothing runs with empty lists."""

    datasets: list[Dataset] = Field(
        description="retrain on these, of the same image shape (study.dataset itself with other classes)"
    )
    classes: Classes = Field(
        description="as data.classes, of the new datasets; for another number of classes the last layer is drawn "
        "afresh, and dense"
    )
    fraction: Share = Field(description="as data.fraction, of the new datasets")
    methods: list[str] = Field(
        description="the chains whose networks are retrained, masks held: names of study.methods, or dense"
    )
    start: Literal["retrained", "initial"] = Field(
        description="retrained: from the weights as retrained on study.dataset | initial: from the weights as drawn, "
        "so that only the mask moves (pruned here, trained there)"
    )
    epochs: Positive = Field(description="of each retraining, with training.sgd and training.augment")


def _plain_path(value: str) -> str:
    if not value.strip() or not value.isprintable() or len(value) > 1000:
        raise ValueError("must name a folder, in at most 1,000 printable characters")
    if value.startswith("~") or "://" in value:
        raise ValueError(
            "must name a folder of this machine without ~, which DVC does not expand; write the whole path"
        )
    return value


class ImageFolder(Section):
    """Read when study.dataset is image_folder: one folder per class, see data/images/README.md."""

    path: Annotated[str, AfterValidator(_plain_path)] = Field(
        description="the folder that holds them; it must exist, since DVC watches it whatever study.dataset is"
    )
    side: Annotated[int, Field(ge=1, le=LARGEST_SIDE)] = Field(description="images are resized to side x side pixels")


class Data(Section):
    """Which images of the dataset are used, and how they are split."""

    classes: Classes = Field(
        description="all | class numbers, e.g. [3, 5]: only their images, labelled 0, 1, ... in this order"
    )
    fraction: Share = Field(
        description="share of the training images that is used, class by class; the test images all stay"
    )
    imbalance: Annotated[float, Field(ge=1, allow_inf_nan=False)] = Field(
        description="largest over smallest class of the training images: class k of K keeps imbalance^(-k/(K-1))"
    )
    validation_fraction: PositiveFraction = Field(description="cut from the training images, class by class")
    test_fraction: PositiveFraction = Field(
        description="cut first, where the dataset has no test images of its own (digits, image_folder)"
    )
    split_seed: Natural = Field(description="the same split for every seed of the study")
    image_folder: ImageFolder = Field(description="your own images")


def _native_or_pixels(value: object) -> str | int:
    if value != "native" and not (type(value) is int and 1 <= value <= LARGEST_SIDE):
        raise ValueError(f"must be native or a number of pixels from 1 to {LARGEST_SIDE}")
    return value


class Network(Section):
    """How the network is made, whichever it is."""

    pretrained: bool = Field(
        description="true: torchvision's ImageNet weights and form (vgg*, resnet*; downloaded once); needs a side of "
        "32 or more, and a grey channel is repeated to three. false: drawn at random from the seed"
    )
    side: Annotated[
        str | int,
        PlainValidator(_native_or_pixels),
        WithJsonSchema({"anyOf": [{"const": "native"}, {"type": "integer", "minimum": 1, "maximum": LARGEST_SIDE}]}),
    ] = Field(
        description="native | pixels, e.g. 224: every batch is resized to side x side on its way into the network, "
        "after augmentation; the prepared images stay as they are"
    )


class Sgd(Section):
    """Of the dense network and of every retraining; the optimiser starts afresh each time."""

    batch_size: Positive = Field(description="images per step")
    learning_rate: AboveZero = Field(description="of the first step, and of all with a constant schedule")
    momentum: Fraction = Field(description="share of the last step that is added to the next; 0: none")
    nesterov: bool = Field(description="true: Nesterov's form of momentum, which must then be above 0")
    weight_decay: NonNegative = Field(description="factor on the weights that is added to their gradient; 0: none")
    schedule: Literal["constant", "cosine"] = Field(
        description="constant | cosine (to 0 over the epochs; for InCoP and early_stopping max_epochs)"
    )
    clip_norm: NonNegative = Field(description="gradients are scaled down to this norm, 0: never")


class Training(Section):
    """Training of the dense network, and what every retraining has in common with it."""

    epochs: Positive = Field(description="of the dense network")
    warmup_steps: Natural = Field(
        description="optimiser steps after which the dense weights are kept, for `rewind: warmup`"
    )
    augment: Literal["none", "flip_crop"] = Field(
        description="none | flip_crop (horizontal flip, crop after padding by 4)"
    )
    sgd: Sgd = Field(description="the optimiser")


class Flow(Section):
    """Phi*, the flow of the dense network, with which that of pruned networks is compared."""

    samples: Annotated[int, Field(ge=2, le=LARGEST)] = Field(
        description="training images on which information and gradient flow are measured and from which scores that "
        "use data draw"
    )


class Information(Section):
    """How much the layers of pruned networks know of each other: MIPP's claim, measured."""

    methods: list[str] = Field(
        description="chains to measure: names of study.methods, or of imposed chains such as thinet_at_mipp; nothing "
        "runs with []"
    )
    samples: Annotated[int, Field(ge=20, le=LARGEST)] = Field(description="training images")
    predictor: Literal["linear", "mlp"] = Field(
        description="linear | mlp, which also sees dependence that is not linear, and takes longer"
    )
    repeats: Annotated[int, Field(ge=2, le=1000)] = Field(
        description="splits of the sample into fitting and held-out images"
    )
    cells: Positive = Field(description="a feature map is read as cells x cells means")


class Evaluation(Section):
    """Of every network, dense, just pruned and retrained, on the test images: one pass each."""

    fraction: Share = Field(
        description="share of the test images that is used, class by class, at least one of each; the same images for "
        "every network, drawn by data.split_seed. transfer and reference_quirks use all"
    )
    latency_seconds: Annotated[float, Field(ge=0, le=3600)] = Field(
        description="how long a network without its pruned channels is timed beside the dense one, per batch size: no "
        "run starts after this time (at least 1 run, at most 50)"
    )


class Device(Section):
    """Where and in which arithmetic the stages compute."""

    accelerator: Literal["auto", "cpu", "cuda"] = Field(description="auto | cpu | cuda (auto: cuda where there is one)")
    threads: Annotated[int, Field(ge=1, le=1024)] = Field(
        description="CPU threads of a stage; results depend on them, so they are never taken from the launcher"
    )
    jobs_per_gpu: Annotated[int, Field(ge=1, le=100)] = Field(
        description="training stages that share a GPU when Snakemake runs the study"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        description="of the products in a training step: float32 | bfloat16 (convolutions twice as fast if the "
        "processor supports it; it rounds, so results change); weights, flow, evaluation: float32"
    )
    memory_format: Literal["auto", "contiguous", "channels_last"] = Field(
        description="of feature maps: auto | contiguous | channels_last (auto: the faster one for the network)"
    )


class Sections(Section):
    """The study. Every key is required, and a key that is not listed here is an error."""

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
