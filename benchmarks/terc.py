"""TERC on a layer of 512 units, against refitting one predictor per node and repeat, one after the other.

python benchmarks/terc.py

The sequential peer is the textbook form, written here: for each unit in MI order (given to it), five predictors are
fitted from scratch, on our splits, without the unit and those gone, and five without those gone after each removal;
then the budget buys the cheapest by fits without every unit that is left. Of linear predictors every unit is looked at
before each removal, and the cheapest free one goes, as in ours. `mlp` is a torch module of the same 50 hidden
units with torch.optim.Adam, minibatches, rates and stopping rule as ours; `linear` is torch.linalg.lstsq with the
driver `gels`, faster here than scikit-learn's Ridge. On layers of 24 and 64 units all of it runs, and different
selections are an error. At 512 units it runs at a seeded sample of the nodes, one from each 16th of the order, without
the units before them that our elimination did not keep; its time is their mean times the number of nodes: one look at
each unit, which is less than it needs, and no budget.

Three more cases, for information: the MI order beside scikit-learn's estimate by nearest neighbours, and of a lenet5
trained on MNIST (from data/raw, downloaded when absent; settings of params.yaml) MIPP's elimination of all layers
beside one epoch of training, and how many of twenty copies planted into either linear layer it leaves beside their
originals.
"""

import copy
import math
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from harness import Bench, main  # isort: skip

import torch
from sklearn.feature_selection import mutual_info_classif, mutual_info_regression
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from prunus import channels, information, masks, networks
from prunus.data.dataset import load, save
from prunus.information.elimination import visiting_order
from prunus.information.estimate import PREDICTORS, prepared
from prunus.information.linear import Linear
from prunus.information.mlp import BATCH, CHECK, FIT_PATIENCE, FIT_RATES, FIT_STEPS, GAIN, HIDDEN, MLP
from prunus.information.samples import RIDGE
from prunus.information.significance import RiseTest, student
from prunus.methods import mipp
from prunus.run.device import Clock
from prunus.sources import published
from prunus.sources.splits import cut
from prunus.study import layout
from prunus.study.params import read
from prunus.training.loop import train
from prunus.training.stopping import FixedEpochs

CONFIDENCE, REGULARISATION, REPEATS = 0.95, 0.01, 5
UNITS, QUICK_UNITS, NODES = 512, 64, 16
SMALL = {"linear": 64, "mlp": 24}  # units of the layers on which the whole sequential algorithm runs
QUICK_SMALL = {"linear": 8, "mlp": 5}
SAMPLES = {"linear": 2000, "mlp": 5120}  # 5,120 is what params.yaml gives MIPP; fewer show an MLP of 512 inputs little
SMALL_SAMPLES, QUICK_SAMPLES = 2000, 1000
RANKED_SAMPLES = 2000
LENET_EPOCHS = 2
PLANTED = 20


# --- synthetic layers whose answer is known --------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """``features`` [N, F], ``target`` [N, T], and whether a selection is right (None: only the peer's is known)."""

    features: Tensor
    target: Tensor
    right: Callable[[list[int]], bool] | None


def _normal(n: int, count: int, seed: int) -> Tensor:
    return torch.randn(n, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _bits(n: int, count: int, seed: int) -> Tensor:
    return torch.randint(0, 2, (n, count), generator=torch.Generator().manual_seed(seed))


def _chosen(units: int, count: int) -> list[int]:
    return sorted(torch.randperm(units, generator=torch.Generator().manual_seed(2))[:count].tolist())


def few_informative(units: int, samples: int) -> Layer:
    """Four units carry the target, the others are noise."""
    features, needed = _normal(samples, units, 1), _chosen(units, 4)
    target = features[:, needed] @ torch.linalg.qr(_normal(4, 4, 3)).Q + 0.1 * _normal(samples, 4, 4)
    return Layer(features, target, lambda kept: kept == needed)


def many_copies(units: int, samples: int) -> Layer:
    """Eight variables, each in a 64th (of 512) of the units with 1 % of noise: one unit of each is needed."""
    variables = _normal(samples, 8, 1)
    features = variables.repeat(1, units // 8) + 0.01 * _normal(samples, units, 2)
    target = variables @ torch.linalg.qr(_normal(8, 8, 3)).Q + 0.1 * _normal(samples, 8, 4)
    return Layer(features, target, lambda kept: sorted(unit % 8 for unit in kept) == list(range(8)))


def xor_and_noise(units: int, samples: int) -> Layer:
    """The class is the XOR of two bits, each in three eighths of the units; the last quarter is noise."""
    bits, copies = _bits(samples, 2, 1), units * 3 // 8
    features = torch.cat([bits.repeat(1, copies), _bits(samples, units - 2 * copies, 2)], 1)

    def right(kept: list[int]) -> bool:
        return sorted(unit % 2 for unit in kept) == [0, 1] and max(kept) < 2 * copies

    return Layer(features, bits[:, 0] ^ bits[:, 1], right)


def most_stay(units: int, samples: int) -> Layer:
    """Seven eighths of the units carry the target, none much of it: most must stay, up to the share TERC may lose."""
    features, needed = _normal(samples, units, 1), _chosen(units, units * 7 // 8)
    mixing = _normal(len(needed), 16, 3) / len(needed) ** 0.5
    return Layer(features, features[:, needed] @ mixing + 0.05 * _normal(samples, 16, 4), None)


LAYERS = {
    "linear": (few_informative, many_copies, most_stay),
    "mlp": (few_informative, many_copies, xor_and_noise, most_stay),
}


# --- the sequential peer ---------------------------------------------------------------------------------------------


def refit_linear(x: Tensor, y: Tensor, fit: Tensor, held: Tensor, one_hot: bool, constant: float, seed: int) -> float:
    """Held-out squared error of ridge regression with an intercept: least squares with a row for each weight, too."""
    mean, level = x[fit].mean(0), y[fit].mean(0)
    weight = (RIDGE * len(fit)) ** 0.5 * torch.eye(x.shape[1], dtype=x.dtype)
    design = torch.cat([x[fit] - mean, weight])
    wanted = torch.cat([y[fit] - level, y.new_zeros(len(weight), y.shape[1])])
    weights = torch.linalg.lstsq(design, wanted, driver="gels").solution
    return float((y[held] - level - (x[held] - mean) @ weights).square().sum(1).mean())


def refit_mlp(x: Tensor, y: Tensor, fit: Tensor, held: Tensor, one_hot: bool, constant: float, seed: int) -> float:
    """Least held-out loss of one network, trained from its initialisation until it stops gaining at both rates."""
    if not x.shape[1]:
        return constant
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(x.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, y.shape[1]))
    criterion = nn.CrossEntropyLoss() if one_hot else lambda output, target: (output - target).square().sum(1).mean()
    x, y = x.float(), y.float()
    x_fit, y_fit, x_held, y_held = x[fit], y[fit], x[held], y[held]
    steps_per_pass = max(1, len(fit) // BATCH)
    best, mark, state, step = math.inf, math.inf, network.state_dict(), 0
    for rate in FIT_RATES:
        network.load_state_dict(state)
        optimiser, waited = torch.optim.Adam(network.parameters(), rate, fused=True), 0
        while waited <= FIT_PATIENCE and step < FIT_STEPS:
            for rows in torch.randperm(len(fit)).split(BATCH)[:steps_per_pass]:
                if step % CHECK == 0:
                    with torch.no_grad():
                        loss = criterion(network(x_held), y_held).item()
                    if loss < best:
                        best, state = loss, {name: value.clone() for name, value in network.state_dict().items()}
                    mark, waited = (best, 0) if mark - best > GAIN * constant else (mark, waited + 1)
                    if waited > FIT_PATIENCE:
                        break
                optimiser.zero_grad()
                criterion(network(x_fit[rows]), y_fit[rows]).backward()
                optimiser.step()
                step += 1
    return best


REFIT = {"linear": refit_linear, "mlp": refit_mlp}


class Sequential:
    """TERC as it is written down: one fit per node and repeat."""

    def __init__(self, layer: Layer, predictor: str):
        self.data = prepared(layer.features, layer.target, REPEATS, 0, in_units=False)
        self.refit, self.units = REFIT[predictor], layer.features.shape[1]
        self.by_costs = predictor == "linear"
        self.constants = [self._constant(fit, held) for fit, held in zip(self.data.fit, self.data.held, strict=True)]
        self.full = self.losses(list(range(self.units)))
        fitted = PREDICTORS[predictor]
        nothing = fitted.tells_apart * sum(self.constants) / REPEATS
        quantile = student(REPEATS - 1, CONFIDENCE)
        chance = torch.as_tensor(fitted(self.data, 0).chance((1 - CONFIDENCE) / self.units)).max()
        self.test = RiseTest(quantile, self.data.widening, nothing, chance)

    def _constant(self, fit: Tensor, held: Tensor) -> float:
        mean, y = self.data.y[fit].mean(0), self.data.y[held]
        loss = (y - mean).square() if self.data.classes is None else -y * mean.log()
        return float(loss.sum(1).mean())

    def losses(self, units: list[int]) -> Tensor:
        x, one_hot = self.data.x[:, units], self.data.classes is not None
        splits = zip(self.data.fit, self.data.held, self.constants, strict=True)
        found = [self.refit(x, self.data.y, *split[:2], one_hot, split[2], r) for r, split in enumerate(splits)]
        return torch.tensor(found, dtype=torch.float64)

    def rise(self, left: list[int], unit: int, now: Tensor) -> Tensor:
        return self.losses([other for other in left if other != unit]) - now

    def free(self, left: list[int], unit: int, now: Tensor) -> bool:
        return bool(self.test.free(self.rise(left, unit, now), now))

    def cheapest(self, visits: list[int], now: Tensor, free: bool) -> int | None:
        """Of the units that are left, ``visits``, or of the ``free`` among them; of linear ones as cheap the first."""
        rises = {unit: self.rise(visits, unit, now) for unit in visits}
        means = {unit: float(rise.mean()) for unit, rise in rises.items() if not free or self.test.free(rise, now)}
        tie = self.test.nothing if self.by_costs else 0.0
        return next((unit for unit in means if means[unit] <= min(means.values()) + tie), None)

    def drop_free(self, left: list[int], now: Tensor) -> tuple[list[int], Tensor]:
        """``left``, in the order of visits, without what costs nothing, and its losses."""
        while self.by_costs and (unit := self.cheapest(left, now, free=True)) is not None:
            left = [other for other in left if other != unit]
            now = self.losses(left)
        before = len(left) if self.by_costs else None
        while before != len(left):
            before = len(left)
            for unit in left:
                if self.free(left, unit, now):
                    left = [other for other in left if other != unit]
                    now = self.losses(left)
        return left, now

    def select(self, visits: list[int]) -> list[int]:
        information_in_all = max(0.0, sum(self.constants) / REPEATS - float(self.full.mean()))
        left, now = self.drop_free(visits, self.full)
        ceiling = min(float(self.full.mean()), float(now.mean())) + REGULARISATION * information_in_all
        while True:
            unit = self.cheapest(left, now, free=False)
            rest = [other for other in left if other != unit]
            losses = self.losses(rest)
            if float(losses.mean()) > ceiling:
                return sorted(left)
            left, now = self.drop_free(rest, losses)


# --- the cases -------------------------------------------------------------------------------------------------------


def ours(layer: Layer, predictor: str, regularisation: float = REGULARISATION) -> list[int]:
    return information.terc(
        layer.features,
        layer.target,
        predictor=predictor,
        confidence=CONFIDENCE,
        regularisation=regularisation,
        repeats=REPEATS,
    )


def mi_order(layer: Layer, predictor: str) -> list[int]:
    data = prepared(layer.features, layer.target, REPEATS, 0, in_units=False)
    return visiting_order("mi", len(data.columns), PREDICTORS[predictor](data, 0).single)


def same_selections(bench: Bench, predictor: str, make: Callable[[int, int], Layer]) -> None:
    """The whole of both algorithms on a small layer; AssertionError when they keep different units."""
    units = QUICK_SMALL[predictor] if bench.quick else SMALL[predictor]
    samples = QUICK_SAMPLES if bench.quick else SMALL_SAMPLES
    layer, case = make(units, samples), f"{predictor}, {make.__name__}, {units} units"
    visits = mi_order(layer, predictor)
    kept = bench.compare(
        case,
        {"terc": lambda: ours(layer, predictor), "sequential": lambda: Sequential(layer, predictor).select(visits)},
        runs=1,
        warmup=0,
    )
    if kept["terc"] != kept["sequential"]:
        raise AssertionError(f"{case}: terc keeps {kept['terc']}, the sequential peer {kept['sequential']}")
    bench.ratio(case, "sequential", "terc")


def whole_layer(bench: Bench, predictor: str, make: Callable[[int, int], Layer]) -> None:
    """512 units: ours whole, the peer at a sample of the nodes."""
    units, nodes = (QUICK_UNITS, 4) if bench.quick else (UNITS, NODES)
    samples = QUICK_SAMPLES if bench.quick else SAMPLES[predictor]
    layer, case = make(units, samples), f"{predictor}, {make.__name__}, {units} units"
    runs, warmup = (1, 0) if predictor == "mlp" else (5, 1)
    kept = bench.compare(case, {"terc": lambda: ours(layer, predictor)}, runs, warmup)["terc"]
    if layer.right is not None and not layer.right(kept):
        raise AssertionError(f"{case}: terc keeps {kept}, which is not the known answer")
    bench.judge(case, "kept by terc", len(kept), "units")

    visits = mi_order(layer, predictor)
    needed = ours(layer, predictor, 0.0)
    start = time.perf_counter()
    peer = Sequential(layer, predictor)
    first = time.perf_counter() - start
    seconds, agreed = [], 0
    offsets = torch.randint(units // nodes, (nodes,), generator=torch.Generator().manual_seed(0)).tolist()
    for place in (k * (units // nodes) + offset for k, offset in enumerate(offsets)):
        gone = set(visits[:place]) - set(needed)
        left = [unit for unit in range(units) if unit not in gone]
        start = time.perf_counter()
        now = peer.losses(left)
        between = time.perf_counter()
        goes = peer.free(left, visits[place], now)
        estimated = visits[place - 1] in gone  # what is left was estimated before where nothing went
        seconds.append(time.perf_counter() - (start if estimated else between))
        agreed += goes == (visits[place] not in needed)
    name = f"sequential, extrapolated from {nodes} of {units} node tests"
    quarters = [seconds[k::4] for k in range(4)]  # each spans the order
    bench.record(case, name, [first + units * sum(part) / len(part) for part in quarters])
    bench.judge(case, f"node tests decided alike, of {nodes}", agreed, "tests")
    bench.ratio(case, name, "terc", at_least=None if bench.quick else 20)


def ranking(bench: Bench) -> None:
    """Single-unit information, the MI order, of 512 units and 2,000 samples."""
    units = QUICK_UNITS if bench.quick else UNITS
    features = _normal(RANKED_SAMPLES, units, 1)
    value = features[:, :4].sum(1) + 0.1 * _normal(RANKED_SAMPLES, 1, 2)[:, 0]
    for kind, target, peer in (
        ("float target", value, mutual_info_regression),
        ("two classes", (value > 0).long(), mutual_info_classif),
    ):
        data = prepared(features, target, REPEATS, 0, in_units=False)
        linear, mlp = Linear(data, 0), MLP(data, 0)
        case, name = f"MI order, {kind}, {units} units", f"scikit-learn {peer.__name__}"
        x, y = features.numpy(), target.numpy()
        variants = {
            "linear": linear.single,
            "mlp": mlp.single,
            name: lambda peer=peer, x=x, y=y: peer(x, y, random_state=0),
        }
        bench.compare(case, variants, runs=3, warmup=0)
        bench.ratio(case, name, "mlp")


def planted(network: nn.Module) -> nn.Module:
    """A copy of a lenet5 in which twenty units of either linear layer have become copies of twenty others."""
    network = copy.deepcopy(network)
    with torch.no_grad():
        for layer in (network.fc1, network.fc2):
            for values in (layer.weight, layer.bias):
                values[PLANTED : 2 * PLANTED] = values[:PLANTED]
    return network


def lenet5(bench: Bench) -> None:
    """MIPP's elimination of a network trained for two epochs, beside one more of them, and with copies in it."""
    params = read()
    source = published.read("mnist", layout.RAW_DATA, Path(), 0)
    splits = cut(source, params.data.test_fraction, params.data.validation_fraction, params.data.split_seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mnist.safetensors"
        save(path, "mnist", splits, source.classes)
        dataset = load(path, "cpu")
    torch.manual_seed(0)
    network = networks.build("lenet5", *dataset.form)
    whole = masks.ones(network)

    def epoch(trained: nn.Module) -> None:
        sgd, augment = params.training.sgd, params.training.augment
        with redirect_stdout(StringIO()):
            train(trained, whole, dataset, sgd, augment, FixedEpochs(1), seed=0, clock=Clock(), label="lenet5")

    for _ in range(LENET_EPOCHS):
        epoch(network)
    one_more = copy.deepcopy(network)
    groups = channels.groups(network, dataset.shape)
    everything = channels.alive(groups, whole)
    settings = params.methods["mipp"]
    images = dataset.normalise(dataset.sample("train", settings.samples, 0).images)
    case, variants = f"MIPP of lenet5 on MNIST, {settings.samples} images", {}
    for predictor in ("linear", "mlp"):
        own = settings.model_copy(update={"predictor": predictor})
        variants[predictor] = lambda own=own: mipp.eliminate(network.eval(), groups, everything, images, own, 0)
    kept = bench.compare(case, variants | {"one epoch of training": lambda: epoch(one_more)}, runs=3, warmup=0)
    del kept["one epoch of training"]
    for predictor, alive in kept.items():
        for group in groups:
            bench.judge(case, f"{predictor}: kept of {group.size}, {group.name}", int(alive[group.name].sum()), "units")
        bench.ratio(case, predictor, "one epoch of training")
    doubled, case = planted(network).eval(), f"{PLANTED} copies planted into each of fc1 and fc2"
    for predictor, share in (("linear", 0.0), ("linear", REGULARISATION), ("mlp", REGULARISATION)):
        own = settings.model_copy(update={"predictor": predictor, "regularisation": [share]})
        alive = mipp.eliminate(doubled, groups, everything, images, own, 0)
        for name in ("fc1", "fc2"):
            pairs = alive[name][: 2 * PLANTED].view(2, PLANTED).sum(0)
            for count, what in ((2, "both"), (1, "one"), (0, "neither")):
                variant = f"{predictor}, regularisation {share}: {what} left, {name}"
                bench.judge(case, variant, int((pairs == count).sum()), "pairs")


def run(bench: Bench) -> None:
    with threadpool_limits(bench.threads):  # scikit-learn's and numpy's; torch has the same
        for predictor, layers in LAYERS.items():
            for make in layers[:1] if bench.quick and predictor == "mlp" else layers:
                same_selections(bench, predictor, make)
                whole_layer(bench, predictor, make)
        ranking(bench)
        if not bench.quick:
            lenet5(bench)


if __name__ == "__main__":
    main("terc", run, __doc__.splitlines()[0])
