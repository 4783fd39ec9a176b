"""What the README promises still holds."""

import re
import sys

import torch

from prunus import layout, masks, params

README = (layout.ROOT / "README.md").read_text()


def test_the_method_of_the_readme_works(tmp_path, monkeypatch, small_network, candidates_of):
    code = re.search(r"```python\n(.+?)```", README, re.DOTALL)[1]
    block = re.search(r"random_pruning: (\{.+?\})", README)[1]
    (tmp_path / "random_pruning.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    import random_pruning

    try:
        settings = random_pruning.Settings.model_validate(params.yaml.load(block, params._Loader))
        recipe = random_pruning.recipe(settings)
        full = masks.ones(small_network)
        kept = recipe.masks(candidates_of(small_network))
        total = masks.alive_count(full)
        assert masks.alive_count(kept) == total - int(0.2 * total)
        assert not torch.equal(kept["5.weight"], full["5.weight"])
    finally:
        del sys.modules["random_pruning"]


def test_files_the_readme_shows_exist():
    for path in re.findall(r"\]\(([^)#]+?)\)", README):
        assert (layout.ROOT / path).exists(), path
