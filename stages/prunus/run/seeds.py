"""The seed of every random draw: derived from the run's seed and the purpose, so that no two draws share a seed."""

import hashlib


def derive_seed(seed: int, *purpose: object) -> int:
    """A 63-bit seed for one purpose, e.g. ``derive_seed(0, "sap", 3, "order")``; distinct purposes are independent."""
    name = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
