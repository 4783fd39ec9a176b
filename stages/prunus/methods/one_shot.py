"""One-shot magnitude pruning, in the nested form of SAP's paper (arXiv 2302.05601, baseline "OneShot").

Every mask is cut from the magnitudes of the dense trained weights; iteration t keeps (1 - fraction)^t of them and is
retrained from the rewinding point, so that each iteration is "one shot" at its density.
"""

from prunus.pruning.candidates import Candidates, Scores
from prunus.pruning.ranked import Ranked
from prunus.pruning.recipe import Recipe, Rewind
from prunus.pruning.settings import FractionSettings, StopSettings


class Settings(FractionSettings, StopSettings):
    """One cut of the dense trained weights per iteration, nested."""


def dense_magnitude(candidates: Candidates) -> Scores:
    """|w| of the dense trained weights, whatever retraining made of them since."""
    return {name: weight.abs() for name, weight in candidates.dense.items()}


def recipe(settings: Settings) -> Recipe:
    return Recipe(
        prune=Ranked(score=dense_magnitude, amount=settings.amount, scope=settings.scope, looks_at="trained"),
        rewind=Rewind(settings.rewind),
        retrain=settings.stop_rule,
    )
