"""One-shot magnitude pruning, in the nested form of SAP's paper (arXiv 2302.05601, baseline "OneShot").

Every mask is cut from the magnitudes of the dense trained weights; iteration t keeps (1 - fraction)^t of them and is
retrained from the rewinding point, so that each iteration is "one shot" at its density.
"""

from prunus.pruning.recipe import Recipe
from prunus.pruning.settings import FractionSettings, StopSettings, dense_magnitude


class Settings(FractionSettings, StopSettings):
    """One cut of the dense trained weights per iteration, nested."""


def recipe(settings: Settings) -> Recipe:
    parts = settings.amount, settings.scope, settings.rewind, settings.stop_rule
    return Recipe(dense_magnitude, *parts, looks_at="trained")
