"""One file per pruning method, each with ``Settings`` (its block of params.yaml) and ``recipe(settings)``."""

import importlib

from prunus.pruning.recipe import Recipe
from prunus.study.schema import Section


def recipe(name: str, settings: Section) -> Recipe:
    """The recipe of the method in ``methods/<name>.py`` with validated ``settings``."""
    return importlib.import_module(f"prunus.methods.{name}").recipe(settings)
