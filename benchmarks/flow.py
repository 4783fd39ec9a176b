"""Information and gradient flow against their textbook forms, and the share of an InCoP epoch that they take.

python benchmarks/flow.py

The textbook information flow is the published one (InCoP's reference code): hooks that move every layer's output to
the host, one pass over the images for means and deviations, a second one that adds up the whole correlation matrix of
every pair of layers. The textbook gradient flow is a backward pass per batch into `.grad`, then the norms. Network,
images, batches and threads are the same; the results must agree to 1e-4. Reads Fashion-MNIST and CIFAR-10 from data/raw
(downloaded where absent).
"""

import copy
from contextlib import redirect_stdout
from io import StringIO

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data import DEVICE, dataset
from harness import Bench, main
from prunus import masks, methods, networks
from prunus.data.dataset import Dataset, Split
from prunus.flow import flow_distance, flow_layers, gradient_flow, information_flow
from prunus.masks import Masks
from prunus.pruning.candidates import Retraining
from prunus.run.device import Clock
from prunus.study import params
from prunus.training.arithmetic import choose
from prunus.training.loop import train
from prunus.training.stopping import FixedEpochs

AGREEMENT = 1e-4
BATCH = 256
SAMPLES = (1024, 512, 256, 192, 128, 64)  # images of digits on which Phi is measured


def textbook_information_flow(network: nn.Module, images: Tensor) -> Tensor:
    """Mean absolute correlation of consecutive layers' units, in two passes, the activations on the host."""
    outputs: list[Tensor] = []

    def keep(module, inputs, output):
        outputs.append((output.mean((2, 3)) if output.dim() == 4 else output).cpu())

    hooks = [layer.register_forward_hook(keep) for layer in flow_layers(network).values()]
    network.eval()
    count, total, squares, correlations = len(images), None, None, None
    with torch.no_grad():
        for batch in images.split(BATCH):
            outputs.clear()
            network(batch)
            sums = [output.double().sum(0) for output in outputs]
            powers = [output.double().square().sum(0) for output in outputs]
            total = sums if total is None else [a + b for a, b in zip(total, sums, strict=True)]
            squares = powers if squares is None else [a + b for a, b in zip(squares, powers, strict=True)]
        means = [value / count for value in total]
        deviations = [
            (square / count - mean**2).clamp(min=0).sqrt() for square, mean in zip(squares, means, strict=True)
        ]
        for batch in images.split(BATCH):
            outputs.clear()
            network(batch)
            standard = [
                torch.where(deviation > 1e-6 * mean.abs(), (output.double() - mean) / deviation, 0.0)
                for output, mean, deviation in zip(outputs, means, deviations, strict=True)
            ]
            products = [a.T @ b for a, b in zip(standard, standard[1:], strict=False)]
            correlations = (
                products if correlations is None else [a + b for a, b in zip(correlations, products, strict=True)]
            )
    for hook in hooks:
        hook.remove()
    return torch.stack([(matrix / count).abs().mean() for matrix in correlations])


def textbook_gradient_flow(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Norm of every prunable layer's gradient of the mean loss, from a backward pass of the whole network per batch."""
    network.eval()
    network.zero_grad()
    for batch, answer in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        (F.cross_entropy(network(batch), answer, reduction="sum") / len(images)).backward()
    return torch.stack([weight.grad.double().norm().cpu() for weight in masks.prunable(network).values()])


def compared(case: str, ours: Tensor, theirs: Tensor) -> None:
    error = ((ours.cpu() - theirs).abs() / theirs.abs()).max().item()
    if not error < AGREEMENT:
        raise SystemExit(f"{case}: the two forms differ by {error:.1e}, more than {AGREEMENT}")


def evaluations(bench: Bench) -> None:
    images, runs = (64, 1) if bench.quick else (10_000, 3 if DEVICE.type == "cuda" else 1)
    data = dataset("cifar10", images)
    split = data.splits["train"]
    inputs = data.normalise(split.images)
    torch.manual_seed(0)
    textbook = networks.build("resnet18", *data.form).to(DEVICE)
    ours = choose("float32", "auto", "resnet18").place(networks.build("resnet18", *data.form), DEVICE)
    ours.load_state_dict(textbook.state_dict())
    target = 10 if DEVICE.type == "cuda" else 2

    case = f"information flow, resnet18, {images:,} images"
    flows = bench.compare(
        case,
        {
            "Prunus": lambda: information_flow(ours, inputs, "absolute", BATCH),
            "textbook, two passes": lambda: textbook_information_flow(textbook, inputs),
        },
        runs,
        warmup=1 if DEVICE.type == "cuda" else 0,
    )
    compared(case, flows["Prunus"], flows["textbook, two passes"])
    bench.ratio(case, "textbook, two passes", "Prunus", at_least=target)

    case = f"gradient flow, resnet18, {images:,} images"
    flows = bench.compare(
        case,
        {
            "Prunus": lambda: gradient_flow(ours, inputs, split.labels, batch_size=BATCH),
            "textbook": lambda: textbook_gradient_flow(textbook, inputs, split.labels),
        },
        runs,
        warmup=1 if DEVICE.type == "cuda" else 0,
    )
    compared(case, flows["Prunus"], flows["textbook"])
    bench.ratio(case, "textbook", "Prunus")


def share_of_flow(data: Dataset, method: str, settings, samples: int, epochs: int) -> float:
    """Share of the seconds of ``epochs`` epochs of lenet5 that the stop rule takes, in percent."""
    torch.manual_seed(0)
    network = choose("float32", "auto", "lenet5").place(networks.build("lenet5", *data.form), DEVICE)
    alive = masks.ones(network)
    subset = data.sample("train", samples, 0)
    images = data.normalise(subset.images)
    reference = {
        "information": information_flow(network, images, "absolute").tolist(),
        "gradient": gradient_flow(network, images, subset.labels).tolist(),
    }
    never = settings.model_copy(update={"epsilon": 0.0, "max_epochs": epochs})
    retraining = Retraining(alive, 1, reference, images, subset.labels, as_dense=lambda: lambda network: False)
    stop = methods.recipe(method, never).retrain(retraining)
    clock, sgd = Clock(DEVICE), params.read().training.sgd
    with redirect_stdout(StringIO()):
        train(network, alive, data, sgd, "none", stop, seed=0, clock=clock, label="")
    return 100 * clock.seconds["flow"] / sum(clock.seconds.values())


def flow_of(method: str, network: nn.Module, data: Dataset, subset: Split, alive: Masks) -> Tensor:
    images = data.normalise(subset.images)
    if method == "incop_if":
        return information_flow(network, images, "absolute")
    return gradient_flow(network, images, subset.labels, alive)


def distances(bench: Bench) -> None:
    """How far the distance to Phi* moves with the images it is measured on: lenet5 on digits as params.yaml trains it.

    One dense network, pruned by SAP's amounts, as often as the study does, and retrained from the dense weights for an
    epoch. Each value is one draw of the images, the same for both networks; what `all` says is one value.
    """
    study = params.read()
    images, epochs = (640, 1) if bench.quick else (1_294, study.training.epochs)
    data, draws = dataset("digits", images, 64 if bench.quick else 144), 3 if bench.quick else 40
    torch.manual_seed(0)
    place = choose("float32", "auto", "lenet5").place
    dense = place(networks.build("lenet5", *data.form), DEVICE)
    alive = masks.ones(dense)
    options = {"seed": 0, "clock": Clock(DEVICE), "label": ""}
    with redirect_stdout(StringIO()):
        train(dense, alive, data, study.training.sgd, "none", FixedEpochs(epochs), **options)
        pruned, amount = alive, study.methods["sap"].amount
        for _ in study.study.iterations:
            weights = {name: weight.detach() for name, weight in masks.prunable(dense).items()}
            pruned = masks.magnitude_masks(weights, pruned, "global", amount)
        sparse = copy.deepcopy(dense)
        masks.apply(sparse, pruned)
        before = copy.deepcopy(sparse)
        train(sparse, pruned, data, study.training.sgd, "none", FixedEpochs(1), **options)

    def distance(method: str, network: nn.Module, subset: Split) -> float:
        reference = flow_of(method, dense, data, subset, alive)
        flow = flow_of(method, network, data, subset, pruned)
        return flow_distance(flow, reference) / torch.linalg.vector_norm(reference).item()

    for method in ("incop_if", "incop_gf"):
        epsilon = study.methods[method].epsilon
        for state, network in (("just pruned", before), ("after an epoch", sparse)):
            case = f"{method}, lenet5 on digits, density {masks.density(pruned):.2f}, {state}, epsilon {epsilon:g}"
            whole = distance(method, network, data.splits["train"])
            bench.record(case, f"distance to Phi*, all {images:,} images", [whole], "")
            for samples in SAMPLES:
                found = [distance(method, network, data.sample("train", samples, seed)) for seed in range(draws)]
                bench.record(case, f"distance to Phi*, {samples:,} images", found, "")
                agreeing = sum((value <= epsilon) == (whole <= epsilon) for value in found)
                bench.judge(case, f"draws of {samples:,} that stop as all images do", 100 * agreeing / draws, "%")


def shares(bench: Bench) -> None:
    """The flow's share of an epoch of lenet5 on digits, by number of images."""
    study, images = params.read(), 640 if bench.quick else 1_294
    data = dataset("digits", images, 64 if bench.quick else 144)
    for method in ("incop_if", "incop_gf"):
        for samples in (64,) if bench.quick else SAMPLES:
            values = [share_of_flow(data, method, study.methods[method], samples, 20) for _ in range(3)]
            bench.record(f"{method}, lenet5 on digits, share of the epoch that is flow", f"{samples:,}", values, "%")


def overhead(bench: Bench) -> None:
    """At the settings of params.yaml, on training and validation sets as large as a study's."""
    study = params.read()
    for name, images, validation, epochs in (("digits", 1_294, 144, 20), ("fashion_mnist", 54_000, 6_000, 2)):
        if bench.quick:
            images, validation, epochs = 640, 64, 2
        data = dataset(name, images, validation)
        for method in ("incop_if", "incop_gf"):
            shares = [
                share_of_flow(data, method, study.methods[method], study.flow.samples, epochs)
                for _ in range(1 if bench.quick else 3)
            ]
            case = f"{method}, lenet5 on {name}, {min(study.flow.samples, images):,} of {images:,} images"
            bench.record(case, "share of the epoch that is flow", shares, "%")
            bench.judge(case, "median share", bench.median(case, "share of the epoch that is flow"), "%", at_most=10)


def run(bench: Bench) -> None:
    distances(bench)
    shares(bench)
    overhead(bench)
    evaluations(bench)


if __name__ == "__main__":
    main("flow", run, __doc__.splitlines()[0])
