"""SAP, sparsity-informed adaptive pruning (Diao et al., ICLR 2023, arXiv 2302.05601).

Algorithm 1, iteration t, from the network that was trained last; w are the d alive weights of a group of `scope`:

1. How sparse they are, their PQ index:     I = 1 - d^(1/q - 1/p) ||w||_p / ||w||_q
2. How many have to stay, by theorem 2:     r = d (1 + eta)^(-q/(q - p)) (1 - I)^(pq/(q - p))
3. How many go:                             c = floor(d min(gamma (1 - r/d), beta))
4. The c of smallest magnitude are pruned.
5. The survivors restart from the initial weights.
6. They are trained for E epochs.

Departures from the authors' code: the count is the formula's (their ceil(r) prunes up to one less), in float64; the
last epoch's weights are pruned, not those that did best on the test set.

The paper has index: pq, score: magnitude, rewind: initial and stop: fixed. `index: gini` or `hoyer` puts another index
in place of steps 1 and 2, `score` another order in step 4.
"""

from prunus.pruning.ranked import Ranked
from prunus.pruning.recipe import Recipe, Rewind
from prunus.pruning.scores import ScoredSettings
from prunus.pruning.settings import PQSettings, StopSettings


class Settings(PQSettings, ScoredSettings, StopSettings):
    """The PQ index of the weights says how many go; the smallest magnitudes do."""


def recipe(settings: Settings) -> Recipe:
    prune = Ranked(
        scope=settings.scope,  # the groups, each with its own w, d, I, r and c
        amount=settings.amount,  # 1 to 3: `sparsity.pq_index` is I, `retained_lower_bound` is r, `PQAmount` is c
        score=settings.score_of,  # 4: |w|, the lowest go
    )
    return Recipe(
        prune=prune,
        rewind=Rewind(settings.rewind),  # 5
        retrain=settings.stop_rule,  # 6
    )
