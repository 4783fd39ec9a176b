"""What reference_flow.json holds, and the part of it that a chain is held against.

Most methods look at nothing of it. A chain depends on its own part alone, so that another number of flow samples, or of
warm-up steps, retrains those chains that look at them and no other.
"""

from collections.abc import Iterable

SAMPLE = ("samples", "subset_seed")  # which training images Phi* was measured on
REFERENCE = dict.fromkeys(SAMPLE, int)
REFERENCE |= dict.fromkeys(("information", "information_signed", "gradient"), list[float])
REFERENCE["quirks"] = {"gradient_mean": list[float], "gradient_norm": list[float]}
REFERENCE["warmup"] = {"steps": int, "sha256": str}  # the weights that late rewinding goes back to


def part(keys: Iterable[str]) -> dict[str, object]:
    """Of ``REFERENCE`` the ``keys``, and their types; ``sample`` stands for the keys of the sample."""
    named = [name for key in keys for name in (SAMPLE if key == "sample" else (key,))]
    return {name: REFERENCE[name] for name in named}
