"""Each sentence on made-up chains whose truth is known: when it stands, what it says, and when it must not."""

import numpy as np
import pandas as pd
import pytest

from prunus.comparing import statistics
from prunus.comparing.matched import equal_density, from_dense
from prunus.reporting.findings import findings

NOTHING_MISSING = pd.DataFrame(columns=["method", "density", "kind"])
JITTER = np.array([0.0, 0.001, -0.001, 0.0005])  # of accuracy, by seed: too little to hide a point


def chain(
    method, epochs=10, accuracy=0.9, spread=1, rewind="trained", flow=False, stopped_by=None, kept=0.5, removed=0.0
):
    """Three iterations a seed, each with ``epochs`` (one number, or one per seed) that take a second each.

    ``spread``: how much of the jitter its accuracy has, beside ``accuracy``, one number or one per seed.
    """

    def rows(seed, seeds):
        spent = np.broadcast_to(epochs, seeds)[seed]
        reached = np.broadcast_to(accuracy, seeds)[seed] + spread * JITTER[seed]
        for t in (1, 2, 3):
            yield {
                "seed": seed,
                "method": method,
                "iteration": t,
                "density": kept**t,
                "epochs": spent,
                "test_accuracy": reached,
                "dense_test_accuracy": 0.95,
                "stopped_by": stopped_by[t - 1] if stopped_by else ("flow" if flow else "fixed"),
                "epsilon": 0.1 if flow else np.nan,
                "rewind": rewind,
                "recipe": "{}",
                "macs": 1,
                "dense_macs": 2,
                "bytes": 9,
                "channels_removed": removed,
                "parameters": 100,
                "compact_parameters": 100,
                "compact_macs": 1,
                "speedup_1": 1.0,
                "speedup_256": 2.0 + 0.1 * seed if removed else np.nan,
                "untrainable": 0,
                "prune_seconds": 0.0,
                "train_seconds": spent * (0.9 if flow else 1.0),
                "flow_seconds": spent * (0.1 if flow else 0.0),
                "evaluation_seconds": 0.0,
            }

    return method, rows


def study(*chains, seeds=3, layers=None, change=None):
    """The tables of a study of ``chains`` over ``seeds`` and its methods; ``change`` edits the comparison."""
    methods = [method for method, _ in chains]
    comparison = pd.DataFrame([row for _, rows in chains for seed in range(seeds) for row in rows(seed, seeds)])
    if change:
        change(comparison)
    runs = pd.DataFrame({"stage": "reference_flow", "seed": range(seeds), "seconds_flow": 0.0})
    flat = comparison[["method", "seed", "iteration"]].assign(alive=1, pq_index=0.1)
    tables = {
        "comparison": comparison,
        "summary": statistics.summary(comparison, methods),
        "equal_density": equal_density(from_dense(comparison, runs)),
        "collapse": statistics.collapse(comparison, NOTHING_MISSING, methods),
        "layers": flat if layers is None else layers,
    }
    return [sentence.replace("\u202f", " ") for sentence in findings(tables, {}, methods)]


def about(sentences, words):
    """The one sentence that has ``words``, or None."""
    matching = [sentence for sentence in sentences if words in sentence]
    assert len(matching) < 2, matching
    return matching[0] if matching else None


def test_a_saving_at_equal_density_with_its_interval():
    sentences = study(chain("sap", epochs=20), chain("incop_if", epochs=[4, 5, 6], flow=True))
    # savings 80, 75 and 70 %: 75 +- 4.302653 * 5 / sqrt(3) = 12.42
    assert sentences[0] == (
        "At equal density (12.5 %) InCoP-IF takes 75 % fewer retraining epochs than SAP "
        "(95 % interval 63 to 87, n = 3 seeds)."
    )
    assert "InCoP-IF takes 75 % less time than SAP (95 % interval 63 to 87" in about(sentences, "less time")


def test_a_sparser_end_does_not_count_as_cost():
    # Both take 10 epochs an iteration; lth keeps 1/4, so where sap ends (1/8) it has had one and a half iterations.
    sentences = study(chain("sap"), chain("lth", kept=0.25))
    assert "LTH takes 50 % fewer retraining epochs than SAP (95 % interval 50 to 50, n = 3 seeds)" in sentences[0]
    assert about(sentences, "retraining epochs than LTH") == (
        "At equal density (12.5 %) no method takes significantly fewer retraining epochs than LTH."
    )


def test_a_saving_that_the_seeds_do_not_agree_on_is_none():
    sentences = study(chain("sap", epochs=20), chain("incop_if", epochs=[2, 20, 35], flow=True))
    assert sentences[0] == "At equal density (12.5 %) no method takes significantly fewer retraining epochs than SAP."


def test_the_cheapest_three_are_named_and_the_rest_counted():
    chains = [chain(f"m{epochs}", epochs=epochs) for epochs in (1, 2, 3, 4, 10, 12)]
    sentences = study(chain("sap"), *chains)[0]
    assert sentences.startswith("At equal density (12.5 %) m1 takes 90 % fewer retraining epochs than SAP")
    assert "m2 takes 80 % (80 to 80) and m3 takes 70 %" in sentences
    assert sentences.endswith("; 1 more method saves; m10 and m12 show no significant saving.")


def test_accuracy_is_tested_at_equal_density_with_holm():
    alike = study(chain("sap", accuracy=0.90, spread=1), chain("lth", accuracy=0.901, spread=-3))
    assert about(
        alike, "no method's test accuracy differs significantly from SAP's; the largest difference is +0.10 points (LTH"
    )
    sentences = study(chain("sap"), chain("lth", accuracy=0.85, spread=0), chain("incop_if", spread=-1, flow=True))
    worse = about(sentences, "less accurate")
    assert worse.startswith("At that density LTH is 5.00 points less accurate than SAP (95 % interval −5.25 to −4.75")
    assert "Holm-adjusted p < 0.001" in worse  # t = 0.05 / (0.001 / sqrt(3)) = 86.6, p = 0.00013, times 2
    assert worse.endswith("no significant difference for InCoP-IF.")


def test_holm_makes_one_chance_find_among_many_no_difference():
    # 0.3, 0.33, 0.27 points: p = 0.003 alone, and beside 19 more methods 0.06
    gain = 0.003 + np.array([0.0, 0.0003, -0.0003])
    chance = chain("lucky", accuracy=0.9 + gain)
    assert about(study(chain("sap"), chance), "lucky is 0.30 points more accurate than SAP")
    others = [chain(f"m{number}", accuracy=0.9 + np.array([0.002, 0.0, -0.002])) for number in range(19)]
    assert about(study(chain("sap"), chance, *others), "no method's test accuracy differs significantly from SAP's")


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_seed_tests_nothing(seeds):
    sentences = study(chain("sap"), chain("incop_if", epochs=2, flow=True, spread=-1), seeds=seeds)
    alone = about(sentences, "With one seed nothing can be tested")
    assert (alone == sentences[0]) == (seeds == 1)
    text = " ".join(sentences)
    assert ("interval" in text) == (seeds == 2)
    assert ("significant" in text) == ("Holm" in text) == (seeds == 2)
    assert "nan" not in text and "–" not in text
    assert "InCoP-IF takes 80 % fewer retraining epochs than SAP" in text


def test_rewinding_is_named_where_it_differs():
    unlike = study(chain("sap", rewind="initial"), chain("lth", rewind="initial"), chain("incop_if", 2, flow=True))
    sentence = about(unlike, "confounded")
    assert sentence.startswith(
        "What InCoP-IF saves is confounded: survivors rewind to the trained weights, those of SAP "
    )
    assert unlike.index(sentence) < 3
    kept = about(study(chain("sap"), chain("mipp", 2, rewind="none")), "confounded")
    assert kept.startswith("What MIPP saves is confounded: survivors rewind not at all, those of SAP to the trained ")
    assert about(study(chain("sap"), chain("incop_if", 2, flow=True)), "confounded") is None


@pytest.mark.parametrize("null", ["fixed_epochs", "early_stopping"])
def test_a_null_that_does_as_well_is_said_to(null):
    sentences = study(chain("sap"), chain("incop_if", 2, flow=True, spread=-1), chain(null, 1))
    sentence = about(sentences, "Without looking at flow")
    assert "(1 an iteration) takes 50 % fewer epochs than InCoP-IF (95 % interval of the saving 50 to 50)" in sentence
    assert "no significant difference in accuracy (0.00 points, 95 % interval −0.50 to 0.50" in sentence


def test_a_null_that_loses_accuracy_is_said_to():
    sentences = study(
        chain("sap"), chain("incop_if", 2, flow=True), chain("fixed_epochs", [1, 1, 2], accuracy=0.8, spread=2)
    )
    sentence = about(sentences, "Without looking at flow")
    assert sentence.startswith("Without looking at flow, Fixed epochs takes 33 % fewer epochs than InCoP-IF")
    assert "with 10.00 points less accuracy (95 % interval −10.25 to −9.75" in sentence


def test_a_null_is_compared_with_flow_rules_of_the_same_rewinding_only():
    sentences = study(chain("sap"), chain("incop_if", 2, flow=True, rewind="initial"), chain("fixed_epochs", 1))
    assert about(sentences, "Without looking at flow") is None


def test_caps_and_the_share_of_flow():
    stops = ["flow", "cap", "cap"]
    sentences = study(chain("sap"), chain("incop_if", 2, flow=True, stopped_by=stops), chain("incop_gf", 3, flow=True))
    assert about(sentences, "ran into its cap").split("; ") == [
        "InCoP-IF ran into its cap on epochs in 6 of 9 retrainings and spent 10.0 % of its time on measuring flow "
        "(standard deviation 0.0, n = 3 seeds)",
        "InCoP-GF ran into its cap on epochs in 0 of 9 retrainings and spent 10.0 % of its time on measuring flow "
        "(standard deviation 0.0, n = 3 seeds).",
    ]
    assert about(study(chain("sap", stopped_by=["cap"] * 3), chain("lth")), "cap") is None


def test_unknown_times_say_nothing_of_time():
    def forget(comparison):
        comparison.loc[:, "train_seconds"] = np.nan

    text = " ".join(study(chain("sap"), chain("incop_if", 2, flow=True), change=forget))
    assert "time" not in text and "nan" not in text
    assert "fewer retraining epochs" in text


def _indices(by_seed, method="sap"):
    rows = [(method, s, t, 100, value) for s, values in enumerate(by_seed) for t, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["method", "seed", "iteration", "alive", "pq_index"])


def test_a_pq_index_that_falls_and_rises_in_every_seed():
    layers = _indices([[0.3, 0.2, 0.25, 0.30], [0.3, 0.19, 0.25, 0.28], [0.3, 0.21, 0.25, 0.32]])
    sentence = about(study(chain("sap"), layers=layers), "PQ index")
    # rises 0.10, 0.09 and 0.11 from iteration 1 on: 0.1 +- 4.302653 * 0.01 / sqrt(3)
    assert "SAP (lowest after iteration 1, then up by 0.100, 95 % interval 0.075 to 0.125)" in sentence


def test_a_pq_index_that_falls_again_is_collapse():
    layers = _indices([[0.3, 0.2, 0.30, 0.25], [0.3, 0.19, 0.28, 0.24], [0.3, 0.21, 0.32, 0.26]])
    sentence = about(study(chain("sap"), layers=layers), "PQ index")
    assert "to 0.125, and down again after iteration 2: collapse)" in sentence


@pytest.mark.parametrize(
    "by_seed",
    [
        [[0.3, 0.25, 0.2], [0.31, 0.25, 0.2], [0.3, 0.26, 0.19]],  # only falls
        [[0.2, 0.25, 0.3], [0.2, 0.26, 0.3], [0.2, 0.25, 0.31]],  # only rises
        [[0.3, 0.2, 0.21], [0.3, 0.2, 0.19], [0.3, 0.2, 0.22]],  # the rise is no more than chance
        [[0.3, 0.2, 0.3]],  # one seed
    ],
)
def test_no_phases_where_there_are_none(by_seed):
    sentences = study(chain("sap"), seeds=len(by_seed), layers=_indices(by_seed))
    assert about(sentences, "PQ index") is None


def test_collapse_is_counted_and_placed():
    def kill(comparison):
        comparison.loc[(comparison["method"] == "lth") & (comparison["iteration"] == 3), "untrainable"] = 1

    sentences = study(chain("sap"), chain("lth"), change=kill)
    assert about(sentences, "same answer").endswith(
        "give every test image the same answer: LTH in 3 of 9 runs, from 85 % sparsity on."
    )
    assert about(study(chain("sap"), chain("lth")), "same answer") is None


def test_speed_of_networks_that_lost_channels():
    sentences = study(chain("sap", removed=0.02), chain("mipp", removed=0.4))
    assert about(sentences, "cut out") == (
        "With its channels cut out and in batches of 256 images, MIPP (40.0 % removed) is 2.10 ± 0.10 times as fast as "
        "the dense network."
    )


def test_never_more_than_eight_sentences():
    def kill(comparison):
        comparison.loc[comparison["iteration"] == 3, "untrainable"] = 1

    layers = _indices([[0.3, 0.2, 0.25, 0.30], [0.3, 0.19, 0.25, 0.28], [0.3, 0.21, 0.25, 0.32]])
    others = [chain(name, removed=0.5) for name in ("lth", "fixed_epochs", "early_stopping")]
    others.append(chain("mipp", rewind="none", removed=0.7))
    everything = pd.concat([_indices([[0.3] * 4] * 3, name) for name, _ in others] + [layers])
    flow = chain("incop_if", 2, flow=True)
    everything = pd.concat([everything, _indices([[0.3] * 4] * 3, "incop_if")])
    sentences = study(chain("sap"), flow, *others, layers=everything, change=kill)
    assert len(sentences) == 8
    assert sentences[0].startswith("At equal density") and "Even retrained" in sentences[-1]
