"""Names of methods and formats of numbers, the same in every chart, table and sentence."""

import math

# A method without an entry is called by its file's name.
METHOD_NAMES = {
    "one_shot": "One-shot",
    "lth": "LTH",
    "sap": "SAP",
    "incop_if": "InCoP-IF",
    "incop_gf": "InCoP-GF",
    "fixed_epochs": "Fixed epochs",
    "early_stopping": "Early stopping",
    "mipp": "MIPP",
    "imp_channels": "IMP (channels)",
    "thinet": "ThiNet",
    "sosp_h": "SOSP-H",
    "oto": "OTO",
    "synflow": "SynFlow",
    "iter_snip": "IterSNIP",
    "iter_grasp": "IterGraSP",
    "prospr": "ProsPr",
}
IMPOSED = "_at_"  # between a method and the one whose ratio of channels is imposed on it, see layout.chain

DATASET_NAMES = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "image_folder": "an image folder",
}

NETWORK_NAMES = {
    "linear": "a linear classifier",
    "mlp": "an MLP",
    "cnn": "a CNN",
    "lenet5": "LeNet-5",
    "preact_resnet18": "a pre-activation ResNet-18",
    "wide_resnet28_8": "WideResNet-28-8",
    "vit": "a vision transformer",
}

NARROW = "\u202f"  # between a number and its unit: no line break there
UNKNOWN = "\u2013"


def method_name(method: str) -> str:
    """The method's name for readers: ``ThiNet``, ``ThiNet at MIPP's ratio``."""
    base, _, ratio_of = method.partition(IMPOSED)
    if ratio_of:
        return f"{method_name(base)} at {method_name(ratio_of)}'s ratio"
    return METHOD_NAMES.get(method, method.replace("_", " "))


def method_names(methods: list[str]) -> list[str]:
    return [method_name(method) for method in methods]


def dataset_name(dataset: str) -> str:
    return DATASET_NAMES.get(dataset, dataset)


def network_name(network: str) -> str:
    """The network's name for readers: ``LeNet-5``, ``ResNet-18``, ``VGG-16 with batch norm``."""
    name = network.removesuffix("_bn").replace("resnet", "ResNet-").replace("vgg", "VGG-")
    if network.endswith("_bn"):
        name += " with batch norm"
    return NETWORK_NAMES.get(network, name)


def number(value: float, digits: int = 1) -> str:
    """``value`` with thousands separated and a true minus sign, a dash if it is not known."""
    if value is None or math.isnan(value):
        return UNKNOWN
    text = f"{value:,.{digits}f}"
    return (text.removeprefix("-") if float(text.replace(",", "")) == 0 else text).replace("-", "\u2212")


def percent(fraction: float, digits: int = 1) -> str:
    return UNKNOWN if math.isnan(fraction) else number(100 * fraction, digits) + NARROW + "%"


def density(fraction: float) -> str:
    """A density with the digits it needs: 33.1 %, 0.42 %."""
    return percent(fraction, 1 if math.isnan(fraction) or fraction >= 0.1 else 2)


def probability(p: float) -> str:
    return UNKNOWN if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def milliseconds(seconds: float) -> str:
    """A latency in milliseconds with three digits, without the unit: 0.412, 35.1."""
    value = 1000 * seconds
    return number(value, 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0)


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def listed(words: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
