"""What the documentation says of adding a method still works."""

import re
import sys

import torch

from prunus import masks
from prunus.study import layout
from prunus.study.reading import parse

ADD_A_METHOD = (layout.ROOT / "docs/how-to/add-a-method.md").read_text()


def test_the_method_that_the_documentation_adds_works(tmp_path, monkeypatch, small_network, candidates_of):
    code = re.search(r"```python\n(.+?)```", ADD_A_METHOD, re.DOTALL)[1]
    block = re.search(r"random_pruning: (\{.+?\})", ADD_A_METHOD)[1]
    (tmp_path / "random_pruning.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    import random_pruning

    try:
        settings = random_pruning.Settings.model_validate(parse(block, "add-a-method.md"))
        recipe = random_pruning.recipe(settings)
        full = masks.ones(small_network)
        kept = recipe.prune(candidates_of(small_network))
        total = masks.alive_count(full)
        assert masks.alive_count(kept) == total - int(0.2 * total)
        assert not torch.equal(kept["5.weight"], full["5.weight"])
    finally:
        del sys.modules["random_pruning"]
