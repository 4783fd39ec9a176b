"""TERC on a layer of 512 units, against refitting one predictor per node and repeat, one after the other.

python benchmarks/terc.py

The sequential peer is the textbook form (``sequential_terc.py``). On layers of 24 and 64 units all of it runs, and
different selections are an error. At 512 units it runs at a seeded sample of the nodes, one from each 16th of the
order, without the units before them that our elimination did not keep; its time is their mean times the number of
nodes: one look at each unit, which is less than it needs, and no budget.

Three more cases, for information: the MI order beside scikit-learn's estimate by nearest neighbours, and of a lenet5
trained on MNIST (from data/raw, downloaded when absent; settings of params.yaml) MIPP's elimination of all layers
beside one epoch of training, and how many of twenty copies planted into either linear layer it leaves beside their
originals.
"""

import copy
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from harness import Bench, main  # isort: skip
from sequential_terc import CONFIDENCE, REGULARISATION, REPEATS, Sequential  # isort: skip

import torch
from sklearn.feature_selection import mutual_info_classif, mutual_info_regression
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from prunus import channels, information, masks, networks
from prunus.data.dataset import load, save
from prunus.information.elimination import visiting_order
from prunus.information.estimate import PREDICTORS, prepared
from prunus.information.linear import Linear
from prunus.information.mlp import MLP
from prunus.methods import mipp
from prunus.run.device import Clock
from prunus.sources import published
from prunus.sources.splits import cut
from prunus.study import layout
from prunus.study.params import read
from prunus.training.loop import train
from prunus.training.stopping import FixedEpochs

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
    variants = {
        "terc": lambda: ours(layer, predictor),
        "sequential": lambda: Sequential(layer.features, layer.target, predictor).select(visits),
    }
    kept = bench.compare(case, variants, runs=1, warmup=0)
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
    peer = Sequential(layer.features, layer.target, predictor)
    first = time.perf_counter() - start
    seconds, agreed = [], 0
    offsets = torch.randint(units // nodes, (nodes,), generator=torch.Generator().manual_seed(0)).tolist()
    for place in (k * (units // nodes) + offset for k, offset in enumerate(offsets)):
        removed = set(visits[:place]) - set(needed)
        left = [unit for unit in range(units) if unit not in removed]
        start = time.perf_counter()
        now = peer.losses(left)
        between = time.perf_counter()
        is_free = peer.free(left, visits[place], now)
        estimated = visits[place - 1] in removed  # where nothing was removed, the same set was estimated before
        seconds.append(time.perf_counter() - (start if estimated else between))
        agreed += is_free == (visits[place] not in needed)
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
    dense = masks.ones(network)

    def epoch(trained: nn.Module) -> None:
        sgd, augment = params.training.sgd, params.training.augment
        with redirect_stdout(StringIO()):
            train(trained, dense, dataset, sgd, augment, FixedEpochs(1), seed=0, clock=Clock(), label="lenet5")

    for _ in range(LENET_EPOCHS):
        epoch(network)
    one_more = copy.deepcopy(network)
    groups = channels.groups(network, dataset.shape)
    everything = channels.alive(groups, dense)
    settings = params.methods["mipp"]
    images = dataset.normalise(dataset.sample("train", settings.samples, 0).images)
    case, variants = f"MIPP of lenet5 on MNIST, {settings.samples} images", {}
    for predictor in ("linear", "mlp"):
        changed = settings.model_copy(update={"predictor": predictor})
        variants[predictor] = lambda changed=changed: mipp.eliminate(
            network.eval(), groups, everything, images, changed, 0
        )
    kept = bench.compare(case, variants | {"one epoch of training": lambda: epoch(one_more)}, runs=3, warmup=0)
    del kept["one epoch of training"]
    for predictor, alive in kept.items():
        for group in groups:
            bench.judge(case, f"{predictor}: kept of {group.size}, {group.name}", int(alive[group.name].sum()), "units")
        bench.ratio(case, predictor, "one epoch of training")
    doubled, case = planted(network).eval(), f"{PLANTED} copies planted into each of fc1 and fc2"
    for predictor, share in (("linear", 0.0), ("linear", REGULARISATION), ("mlp", REGULARISATION)):
        changed = settings.model_copy(update={"predictor": predictor, "regularisation": [share]})
        alive = mipp.eliminate(doubled, groups, everything, images, changed, 0)
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
