"""Seeds by purpose."""

from prunus.run.seeds import derive_seed


def test_seeds_differ_by_purpose_and_are_stable():
    seeds = {derive_seed(seed, method, t) for seed in (0, 1) for method in ("sap", "lth") for t in (1, 2)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "dense", "order") == 7827773531602408127
