"""IterSNIP: connection sensitivity at initialisation, computed again while pruning (de Jorge et al., ICLR 2021, arXiv
2006.09081, after SNIP: Lee, Ajanthan and Torr, ICLR 2019, arXiv 1810.02340).

A weight's score is |w dL/dw|, the derivative with respect to a mask on it, of the mean loss over `samples` training
images. `steps: 1` is SNIP. Which implementation MIPP compares with is unconfirmed; this one follows naver/force,
`prune_method=1`: on the masked network, exponential schedule, what is pruned stays pruned, and with `redraw: true` new
images at every step. `structure: channel` sums the scores of a node's weights (MIPP, arXiv 2411.00147, section 5).
"""

from pydantic import Field

from prunus.pruning.candidates import Candidates, Scores
from prunus.pruning.gradients import IteratedSettings, as_drawn, iterated, refuse_one_image, sensitivity, structured
from prunus.pruning.recipe import Recipe
from prunus.study.schema import Positive


class Settings(IteratedSettings):
    """At initialisation: |w dL/dw|."""

    samples: Positive = Field(description="training images")
    redraw: bool = Field(description="new images at every scoring step; false: the same for all steps and iterations")


def recipe(settings: Settings) -> Recipe:
    def score(candidates: Candidates) -> Scores:
        network, (images, labels) = as_drawn(candidates), candidates.sample(settings.samples, settings.redraw)
        refuse_one_image(network, images, f"methods.iter_snip.samples: {settings.samples}")
        scores = sensitivity(network, images, labels)
        return structured(settings, candidates, scores)

    return iterated(settings, score)
