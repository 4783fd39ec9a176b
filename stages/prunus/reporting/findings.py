"""What the numbers say, one sentence each, the most decision-relevant first.

Methods are compared at equal density (``matched.equal_density``), paired by seed. A number that is compared comes with
its 95 % interval (Student's t) or its standard deviation; differences of accuracy are tested with Holm's correction.
Where chains are missing, a pair is compared over the seeds that both have, and the sentence gives their number.
"""

import math

import pandas as pd

from prunus.comparing.statistics import BASELINES, SECONDS, Estimate, adjusted, mean_std_interval, savings
from prunus.reporting.names import counted, density, listed, method_name, number, percent, probability

SAME_SAVING = 0.005
WORTH_CUTTING = 0.1  # of the channels: pruning single weights leaves fewer unread
SHOWN = 3  # methods a sentence names one by one
MOST = 8  # sentences
NULLS = ("fixed_epochs", "early_stopping")  # stop rules without flow, which a flow rule has to beat

Tables = dict[str, pd.DataFrame]


def baseline_of(methods: list[str]) -> str:
    """What the findings compare with: SAP if the study has it, else LTH, else its first method."""
    return next((name for name in BASELINES if name in methods), methods[0])


def _by_method(tables: Tables, column: str) -> dict[str, pd.Series]:
    """A column of the table of equal density: per method, by seed."""
    return {name: rows.set_index("seed")[column] for name, rows in tables["equal_density"].groupby("method")}


def _rewinds(tables: Tables) -> dict[str, str]:
    """Per method the point its survivors restart from: initial, warmup, trained or none."""
    return dict(tables["comparison"].groupby("method")["rewind"].first())


def _flow_rules(tables: Tables, methods: list[str]) -> list[str]:
    measured = tables["comparison"].groupby("method")["epsilon"].any()
    return [method for method in methods if measured[method]]


def _interval(estimate: Estimate, digits: int = 0) -> str:
    return f"{number(100 * estimate.low, digits)} to {number(100 * estimate.high, digits)}"


def _names(methods: list[str]) -> str:
    return listed([method_name(method) for method in methods])


def _difference(values: dict[str, pd.Series], method: str, other: str) -> Estimate:
    """Of ``method`` minus ``other``, over the seeds of both."""
    seeds = values[method].index.intersection(values[other].index)
    return Estimate.of(values[method][seeds] - values[other][seeds])


def _of_most_seeds(estimates: dict[str, Estimate]) -> dict[str, Estimate]:
    """``estimates`` without those of a single seed, if others have more: beside a test one difference says nothing."""
    most = max((estimate.n for estimate in estimates.values()), default=0)
    return {method: estimate for method, estimate in estimates.items() if estimate.n > 1 or estimate.n == most == 1}


def _saved(tables: Tables, baseline: str, cost: str, what: str) -> str | None:
    """What the cheapest methods save of ``cost`` against ``baseline`` at equal density, and who does not save."""
    spent = _by_method(tables, cost)
    others = [method for method in tables["summary"]["method"] if method != baseline and method in spent]
    saved = {method: Estimate.of(savings(spent[method], spent[baseline])) for method in others}
    saved = _of_most_seeds({method: saving for method, saving in saved.items() if not math.isnan(saving.mean)})
    if not saved:
        return None
    alone = next(iter(saved.values())).n == 1
    lead = [m for m, saving in saved.items() if saving.mean > SAME_SAVING and (alone or saving.excludes_zero)]
    lead.sort(key=lambda method: -saved[method].mean)
    at = f"At equal density ({density(tables['equal_density']['density'].mean())})"
    if not lead:
        return f"{at} no method takes significantly {what} than {method_name(baseline)}."
    parts = []
    for position, method in enumerate(lead[:SHOWN]):
        saving = saved[method]
        more = f" {what} than {method_name(baseline)}" if position == 0 else ""
        unit = "95\u202f% interval " if position == 0 else ""
        seeds = f", n = {saving.n} seeds" if position == 0 or saving.n != saved[lead[0]].n else ""
        spread = "" if alone else f" ({unit}{_interval(saving)}{seeds})"
        parts.append(f"{method_name(method)} takes {percent(saving.mean, 0)}{more}{spread}")
    sentence = f"{at} {listed(parts)}"
    rest = len(lead) - SHOWN
    if rest > 0:
        sentence += f"; {counted(rest, 'more method')} {'saves' if rest == 1 else 'save'}"
    dearer = [method for method in saved if method not in lead]
    if 0 < len(dearer) <= SHOWN:
        noun = "saving" if alone else "significant saving"
        sentence += f"; {_names(dearer)} {'show' if len(dearer) > 1 else 'shows'} no {noun}"
    return f"{sentence}."


def _accuracy(tables: Tables, methods: list[str], baseline: str) -> str | None:
    """Whose accuracy differs from ``baseline``'s at equal density."""
    reached = _by_method(tables, "test_accuracy")
    others = [method for method in methods if method != baseline]
    differences = adjusted(_of_most_seeds({method: _difference(reached, method, baseline) for method in others}))
    if not differences:
        return None
    uneven = len({difference.n for difference in differences.values()}) > 1
    furthest = sorted(differences, key=lambda method: -abs(differences[method].mean))
    base = method_name(baseline)
    if differences[furthest[0]].n == 1:
        parts = [f"{method_name(method)} {_points(differences[method])}" for method in furthest[:SHOWN]]
        return f"At that density test accuracy differs most from {base}'s for {listed(parts)}."
    significant = [method for method in furthest if differences[method].significant]
    if not significant:
        worst = furthest[0]
        return (
            f"At that density no method's test accuracy differs significantly from {base}'s; the largest difference "
            f"is {_points(differences[worst])} ({method_name(worst)}, {_tested(differences[worst], uneven)})."
        )
    parts = [
        f"{method_name(method)} is {_points(difference, True)} accurate than {base} ({_tested(difference, uneven)})"
        for method, difference in ((method, differences[method]) for method in significant[:SHOWN])
    ]
    alike = [method for method in differences if method not in significant]
    more = f"; {len(significant) - SHOWN} more differ" if len(significant) > SHOWN else ""
    if 0 < len(alike) <= SHOWN:
        more += f"; no significant difference for {_names(alike)}"
    return f"At that density {listed(parts)}{more}."


def _points(difference: Estimate, worded: bool = False) -> str:
    value = number(100 * (abs(difference.mean) if worded else difference.mean), 2)
    if worded:
        return f"{value} points {'more' if difference.mean > 0 else 'less'}"
    return f"{'+' if difference.mean > 0 and float(value) > 0 else ''}{value} points"


def _tested(difference: Estimate, with_seeds: bool = False) -> str:
    p = "no test possible"
    if not math.isnan(difference.p):
        p = f"Holm-adjusted p = {probability(difference.p)}".replace("= <", "<")
    seeds = f", n = {difference.n} seeds" if with_seeds else ""
    return f"95\u202f% interval {_interval(difference, 2)}, {p}{seeds}"


def _rewinding(tables: Tables, methods: list[str], baseline: str) -> str | None:
    """Savings against a method that restarts from other weights are not due to the stop rule alone."""
    rewinds = _rewinds(tables)
    unlike = [method for method in methods if rewinds[method] != rewinds[baseline]]
    if not unlike:
        return None
    phrases = {point: "not at all" if point == "none" else f"to the {point} weights" for point in rewinds.values()}
    points = " or ".join(dict.fromkeys(phrases[rewinds[method]] for method in unlike))
    subject = _names(unlike) if len(unlike) <= SHOWN else f"{len(unlike)} methods"
    return (
        f"What {subject} {'saves' if len(unlike) == 1 else 'save'} is confounded: survivors rewind {points}, those of "
        f"{method_name(baseline)} {phrases[rewinds[baseline]]}, and weights that are trained already need fewer "
        "epochs, whatever stops them."
    )


def _null(tables: Tables, methods: list[str], null: str) -> str | None:
    """Whether a stop rule without flow does as well as the flow rules that rewind to the same weights."""
    epochs, reached, rewinds = _by_method(tables, "epochs"), _by_method(tables, "test_accuracy"), _rewinds(tables)
    rules = [rule for rule in _flow_rules(tables, methods) if rewinds[rule] == rewinds[null]]
    differences = adjusted(_of_most_seeds({rule: _difference(reached, null, rule) for rule in rules}))
    parts = []
    for rule, difference in differences.items():
        saved = Estimate.of(savings(epochs[null], epochs[rule]))
        took = "as many epochs as"
        if abs(saved.mean) >= SAME_SAVING:
            took = f"{percent(abs(saved.mean), 0)} {'fewer' if saved.mean > 0 else 'more'} epochs than"
        spread = "" if saved.n == 1 else f" (95\u202f% interval of the saving {_interval(saved)})"
        parts.append(f"{took} {method_name(rule)}{spread} with {_as_good(difference)}")
    per_iteration = tables["comparison"].loc[tables["comparison"]["method"] == null, "epochs"].unique()
    each = f" ({per_iteration[0]:g} an iteration)" if len(per_iteration) == 1 else ""
    return f"Without looking at flow, {method_name(null)}{each} takes {', and '.join(parts)}." if parts else None


def _as_good(difference: Estimate) -> str:
    if difference.n == 1:
        return f"an accuracy that differs by {_points(difference)}"
    if difference.significant:
        return f"{_points(difference, True)} accuracy ({_tested(difference)})"
    return f"no significant difference in accuracy ({_points(difference)}, {_tested(difference)})"


def _collapses(tables: Tables, methods: list[str]) -> str | None:
    """Which methods' networks could not be trained any more, and from which sparsity on."""
    parts = []
    for method in methods:
        bins = tables["collapse"][tables["collapse"]["method"] == method]
        dead = bins[bins["untrainable"] > 0]
        if not dead.empty:
            counts = f"{dead['untrainable'].sum()} of {counted(bins['runs'].sum(), 'run')}"
            parts.append(
                f"{method_name(method)} in {counts}, from {percent(dead['sparsity_from'].min(), 0)} sparsity on"
            )
    if not parts:
        return None
    return f"Even retrained, some networks give every test image the same answer: {'; '.join(parts)}."


def _flow(tables: Tables, methods: list[str]) -> str | None:
    """How often the flow rules ran into their cap, and the share of their time that measuring flow takes (no Phi*)."""
    parts = []
    for method in _flow_rules(tables, methods):
        rows = tables["comparison"][tables["comparison"]["method"] == method]
        sums = rows.groupby("seed")[list(SECONDS)].agg(lambda seconds: seconds.sum(skipna=False))
        mean, std, _ = mean_std_interval(sums["flow_seconds"] / sums.sum(axis=1, skipna=False))
        spread = "" if math.isnan(std) else f" (standard deviation {number(100 * std)}, n = {len(sums)} seeds)"
        spent = "" if math.isnan(mean) else f" and spent {percent(mean)} of its time on measuring flow{spread}"
        capped = f"{(rows['stopped_by'] == 'cap').sum()} of {counted(len(rows), 'retraining')}"
        parts.append(f"{method_name(method)} ran into its cap on epochs in {capped}{spent}")
    return f"{'; '.join(parts)}." if parts else None


def _phases(tables: Tables, methods: list[str]) -> str | None:
    """Whose PQ index falls, rises and falls again over the iterations: SAP's three phases, in the mean and in every
    seed's paired change. The last one may be missing."""
    layers = tables["layers"].dropna(subset="pq_index")
    weighted = layers.assign(pq=layers["pq_index"] * layers["alive"])
    sums = weighted.groupby(["method", "seed", "iteration"])[["pq", "alive"]].sum()
    index = (sums["pq"] / sums["alive"]).unstack("iteration")
    parts = []
    for method in methods:
        chains = index.loc[method].dropna(axis=1)
        lowest, last = chains.mean().idxmin(), chains.columns[-1]
        peak = chains.loc[:, lowest:].mean().idxmax()
        fall = Estimate.of(chains[lowest] - chains[chains.columns[0]])
        rise = Estimate.of(chains[peak] - chains[lowest])
        if fall.high < 0 and rise.low > 0:
            again = Estimate.of(chains[last] - chains[peak]).high < 0
            parts.append(
                f"{method_name(method)} (lowest after iteration {lowest}, then up by {number(rise.mean, 3)}, 95\u202f% "
                f"interval {number(rise.low, 3)} to {number(rise.high, 3)}"
                + (f", and down again after iteration {peak}: collapse)" if again else ")")
            )
    if not parts:
        return None
    return (
        f"The PQ index falls and then rises, which the authors of SAP read as the start of underfitting, with "
        f"{listed(parts[:SHOWN])}" + (f" and {len(parts) - SHOWN} more." if len(parts) > SHOWN else ".")
    )


def _speed(tables: Tables) -> str | None:
    """The measured speed of networks with their removed channels cut out, fastest first."""
    rows = tables["summary"].set_index("method")
    rows = rows[rows["channels_removed_mean"] > WORTH_CUTTING].sort_values("speedup_256_mean", ascending=False)
    comparison = tables["comparison"]
    last = comparison[comparison["iteration"] == comparison["iteration"].max()]
    parts = []
    for method, row in rows.head(SHOWN).iterrows():
        mean, std, _ = mean_std_interval(last.loc[last["method"] == method, "speedup_256"])
        name = f"{method_name(method)} ({percent(row['channels_removed_mean'])} removed)"
        if math.isnan(mean):
            parts.append(f"{name} was not timed for every seed")
        else:
            spread = "" if math.isnan(std) else f"\u202f±\u202f{number(std, 2)}"
            parts.append(f"{name} is {number(mean, 2)}{spread} times as fast as the dense network")
    if not parts:
        return None
    more = f"; {len(rows) - SHOWN} more removed channels" if len(rows) > SHOWN else ""
    return f"With its channels cut out and in batches of 256 images, {listed(parts)}{more}."


def _alone(tables: Tables, method: str) -> str:
    """What a study of one method reached."""
    row = tables["summary"].set_index("method").loc[method]
    half = row["test_accuracy_ci95"]
    spread = "" if math.isnan(half) else f" (95\u202f% interval ± {number(100 * half)} points)"
    return (
        f"{method_name(method)} reached test accuracy {percent(row['test_accuracy_mean'])}{spread} at density "
        f"{density(row['density_mean'])} with {number(row['epochs_mean'])} retraining epochs a seed."
    )


def findings(tables: Tables, metrics: dict, methods: list[str]) -> list[str]:
    """At most eight sentences, the most decision-relevant first; ``metrics`` holds nothing that the tables lack."""
    study = methods
    complete = tables["summary"].set_index("method")["seeds"]
    methods = [method for method in study if complete[method] > 0]
    if not methods:
        return ["No chain of this study is complete: it has no final results."]
    baseline = baseline_of(methods)
    sentences = []
    if complete.max() == 1:
        sentences.append(
            "With one seed nothing can be tested: every number below describes a single run of each method."
        )
    if len(methods) == 1:
        sentences.append(_alone(tables, methods[0]))
    else:
        references = [name for name in BASELINES if name in methods] or [baseline]
        sentences += [
            _saved(tables, baseline, "epochs", "fewer retraining epochs"),
            _accuracy(tables, methods, baseline),
            _rewinding(tables, methods, baseline),
            *(_null(tables, methods, null) for null in methods if null in NULLS),
            _saved(tables, baseline, "seconds", "less time"),
            *(_saved(tables, other, "epochs", "fewer retraining epochs") for other in references[1:]),
        ]
    sentences += [_collapses(tables, study), _flow(tables, methods), _speed(tables), _phases(tables, methods)]
    return list(filter(None, sentences))[:MOST]
