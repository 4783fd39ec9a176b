"""What the numbers say, one sentence each, the most decision-relevant first, and what has to be kept in mind with them.

Methods are compared at equal density (``matched.equal_density``), paired by seed. A number that is compared comes with
its 95 % interval (Student's t) or its standard deviation; differences of accuracy are tested with Holm's correction.
Where chains are missing, the seeds that both of a pair have are compared, and how many those are is said.
"""

import math

import pandas as pd

from prunus.comparing.statistics import BASELINES, SECONDS, Estimate, adjusted, mean_std_interval, savings
from prunus.reporting.names import counted, density, listed, method_name, number, percent, probability

SAME_SAVING = 0.005
WORTH_CUTTING = 0.1  # of the channels: what single weights leave unread is less
SHOWN = 3  # methods a sentence names one by one
MOST = 8  # sentences
NULLS = ("fixed_epochs", "early_stopping")  # stop rules without flow, which a flow rule has to beat

Tables = dict[str, pd.DataFrame]


def baseline_of(methods: list[str]) -> str:
    """What the findings compare with: SAP where the study has it, else LTH, else its first method."""
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


def _interval(own: Estimate, digits: int = 0) -> str:
    return f"{number(100 * own.low, digits)} to {number(100 * own.high, digits)}"


def _names(methods: list[str]) -> str:
    return listed([method_name(method) for method in methods])


def _difference(values: dict[str, pd.Series], method: str, other: str) -> Estimate:
    """Of ``method`` minus ``other``, over the seeds of both."""
    seeds = values[method].index.intersection(values[other].index)
    return Estimate.of(values[method][seeds] - values[other][seeds])


def _worth_telling(found: dict[str, Estimate]) -> dict[str, Estimate]:
    """Without those of a single seed, where others have more: beside a test, one difference says nothing."""
    most = max((own.n for own in found.values()), default=0)
    return {method: own for method, own in found.items() if own.n > 1 or own.n == most == 1}


def _saved(tables: Tables, baseline: str, cost: str, what: str) -> str | None:
    """What the cheapest methods save of ``cost`` against ``baseline`` at equal density, and who does not save."""
    spent = _by_method(tables, cost)
    others = [method for method in tables["summary"]["method"] if method != baseline and method in spent]
    saved = {method: Estimate.of(savings(spent[method], spent[baseline])) for method in others}
    saved = _worth_telling({method: own for method, own in saved.items() if not math.isnan(own.mean)})
    if not saved:
        return None
    alone = next(iter(saved.values())).n == 1
    lead = [m for m, own in saved.items() if own.mean > SAME_SAVING and (alone or own.apart_from_zero)]
    lead.sort(key=lambda method: -saved[method].mean)
    at = f"At equal density ({density(tables['equal_density']['density'].mean())})"
    if not lead:
        return f"{at} no method takes significantly {what} than {method_name(baseline)}."
    parts = []
    for position, method in enumerate(lead[:SHOWN]):
        own, more = saved[method], f" {what} than {method_name(baseline)}" if position == 0 else ""
        unit = "95\u202f% interval " if position == 0 else ""
        seeds = f", n = {own.n} seeds" if position == 0 or own.n != saved[lead[0]].n else ""
        spread = "" if alone else f" ({unit}{_interval(own)}{seeds})"
        parts.append(f"{method_name(method)} takes {percent(own.mean, 0)}{more}{spread}")
    rest, dearer = len(lead) - SHOWN, [method for method in saved if method not in lead]
    sentence = f"{at} {listed(parts)}" + (
        f"; {counted(rest, 'more method')} save{'s' * (rest == 1)}" if rest > 0 else ""
    )
    if 0 < len(dearer) <= SHOWN:
        sentence += (
            f"; {_names(dearer)} {'show' if len(dearer) > 1 else 'shows'} no{' significant' * (not alone)} saving"
        )
    return f"{sentence}."


def _accuracy(tables: Tables, methods: list[str], baseline: str) -> str | None:
    """Whose accuracy differs from ``baseline``'s at equal density."""
    reached = _by_method(tables, "test_accuracy")
    others = [method for method in methods if method != baseline]
    found = adjusted(_worth_telling({method: _difference(reached, method, baseline) for method in others}))
    if not found:
        return None
    uneven = len({own.n for own in found.values()}) > 1
    furthest = sorted(found, key=lambda method: -abs(found[method].mean))
    base = method_name(baseline)
    if found[furthest[0]].n == 1:
        parts = [f"{method_name(method)} {_points(found[method])}" for method in furthest[:SHOWN]]
        return f"Test accuracy there differs from {base}'s most for {listed(parts)}."
    apart = [method for method in furthest if found[method].significant]
    if not apart:
        worst = furthest[0]
        return (
            f"There no test accuracy differs significantly from {base}'s; the largest difference is "
            f"{_points(found[worst])} ({method_name(worst)}, {_tested(found[worst], uneven)})."
        )
    parts = [
        f"{method_name(method)} is {_points(own, True)} accurate than {base} ({_tested(own, uneven)})"
        for method, own in ((method, found[method]) for method in apart[:SHOWN])
    ]
    alike = [method for method in found if method not in apart]
    more = f"; {len(apart) - SHOWN} more differ" if len(apart) > SHOWN else ""
    if 0 < len(alike) <= SHOWN:
        more += f"; no significant difference for {_names(alike)}"
    return f"There {listed(parts)}{more}."


def _points(own: Estimate, worded: bool = False) -> str:
    value = number(100 * (abs(own.mean) if worded else own.mean), 2)
    if worded:
        return f"{value} points {'more' if own.mean > 0 else 'less'}"
    return f"{'+' if own.mean > 0 and float(value) > 0 else ''}{value} points"


def _tested(own: Estimate, counted: bool = False) -> str:
    p = "no test possible" if math.isnan(own.p) else f"Holm-adjusted p = {probability(own.p)}".replace("= <", "<")
    return f"95\u202f% interval {_interval(own, 2)}, {p}" + f", n = {own.n} seeds" * counted


def _rewinding(tables: Tables, methods: list[str], baseline: str) -> str | None:
    """Savings against a method that restarts from other weights are not the stop rules' alone."""
    rewinds = _rewinds(tables)
    unlike = [method for method in methods if rewinds[method] != rewinds[baseline]]
    if not unlike:
        return None
    said = {point: "not at all" if point == "none" else f"to the {point} weights" for point in rewinds.values()}
    here = " or ".join(dict.fromkeys(said[rewinds[method]] for method in unlike))
    those = _names(unlike) if len(unlike) <= SHOWN else f"{len(unlike)} methods"
    return (
        f"What {those} {'saves' if len(unlike) == 1 else 'save'} is confounded: survivors rewind {here}, those of "
        f"{method_name(baseline)} {said[rewinds[baseline]]}, and weights that are trained already need fewer epochs, "
        "whatever stops them."
    )


def _null(tables: Tables, methods: list[str], null: str) -> str | None:
    """Whether a stop rule without flow does as well as the flow rules that rewind to the same weights."""
    epochs, reached, rewinds = _by_method(tables, "epochs"), _by_method(tables, "test_accuracy"), _rewinds(tables)
    rules = [rule for rule in _flow_rules(tables, methods) if rewinds[rule] == rewinds[null]]
    found, parts = adjusted(_worth_telling({rule: _difference(reached, null, rule) for rule in rules})), []
    for rule, own in found.items():
        saved = Estimate.of(savings(epochs[null], epochs[rule]))
        took = "as many epochs as"
        if abs(saved.mean) >= SAME_SAVING:
            took = f"{percent(abs(saved.mean), 0)} {'fewer' if saved.mean > 0 else 'more'} epochs than"
        spread = "" if saved.n == 1 else f" (95\u202f% interval of the saving {_interval(saved)})"
        parts.append(f"{took} {method_name(rule)}{spread} with {_as_good(own)}")
    per = tables["comparison"].loc[tables["comparison"]["method"] == null, "epochs"].unique()
    each = f" ({per[0]:g} an iteration)" if len(per) == 1 else ""
    return f"Without looking at flow, {method_name(null)}{each} takes {', and '.join(parts)}." if parts else None


def _as_good(own: Estimate) -> str:
    if own.n == 1:
        return f"an accuracy that differs by {_points(own)}"
    if own.significant:
        return f"{_points(own, True)} accuracy ({_tested(own)})"
    return f"no significant difference in accuracy ({_points(own)}, {_tested(own)})"


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
        sums = rows.groupby("seed")[list(SECONDS)].agg(lambda own: own.sum(skipna=False))
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
    index, parts = (sums["pq"] / sums["alive"]).unstack("iteration"), []
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
    """What removing whole channels made of the networks once they are cut out, as measured, fastest first."""
    rows = tables["summary"].set_index("method")
    rows = rows[rows["channels_removed_mean"] > WORTH_CUTTING].sort_values("speedup_256_mean", ascending=False)
    ends, parts = tables["comparison"], []
    for method, row in rows.head(SHOWN).iterrows():
        own = ends[(ends["method"] == method) & (ends["iteration"] == ends["iteration"].max())]
        mean, std, _ = mean_std_interval(own["speedup_256"])
        gone = f"{method_name(method)} ({percent(row['channels_removed_mean'])} removed)"
        if math.isnan(mean):
            parts.append(f"{gone} was not timed for every seed")
        else:
            spread = "" if math.isnan(std) else f"\u202f±\u202f{number(std, 2)}"
            parts.append(f"{gone} is {number(mean, 2)}{spread} times as fast as the dense network")
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
    study, complete = methods, tables["summary"].set_index("method")["seeds"]
    methods = [method for method in methods if complete[method] > 0]
    if not methods:
        return ["No chain of this study is complete: nothing can be said of its end."]
    baseline, said = baseline_of(methods), []
    if complete.max() == 1:
        said.append("With one seed nothing can be tested: every number below describes a single run of each method.")
    if len(methods) == 1:
        said.append(_alone(tables, methods[0]))
    else:
        references = [name for name in BASELINES if name in methods] or [baseline]
        said += [
            _saved(tables, baseline, "epochs", "fewer retraining epochs"),
            _accuracy(tables, methods, baseline),
            _rewinding(tables, methods, baseline),
            *(_null(tables, methods, null) for null in methods if null in NULLS),
            _saved(tables, baseline, "seconds", "less time"),
            *(_saved(tables, other, "epochs", "fewer retraining epochs") for other in references[1:]),
        ]
    said += [_collapses(tables, study), _flow(tables, methods), _speed(tables), _phases(tables, methods)]
    return list(filter(None, said))[:MOST]
