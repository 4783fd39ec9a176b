"""The content of reference_flow.json, and the part of it that a chain is compared with.

Most methods read none of it. A chain depends on its own part only, so a change in the number of flow samples or warm-up
steps retrains only the chains that use them.
"""

from collections.abc import Iterable

SAMPLE = ("samples", "subset_seed")  # the training images on which Phi* was measured
REFERENCE = {
    "samples": int,
    "subset_seed": int,
    "information": list[float],
    "information_signed": list[float],
    "gradient": list[float],
    "quirks": {"gradient_mean": list[float], "gradient_norm": list[float]},
    "warmup": {"steps": int, "sha256": str},  # the weights from which late rewinding restarts
}


def part(keys: Iterable[str]) -> dict[str, object]:
    """The ``keys`` of ``REFERENCE`` with their types; ``sample`` means all keys of ``SAMPLE``."""
    named = [name for key in keys for name in (SAMPLE if key == "sample" else (key,))]
    return {name: REFERENCE[name] for name in named}
