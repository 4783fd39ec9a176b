"""An epoch of training: the loop of Prunus against the ordinary one, and what precision, memory order and compiling do.

python benchmarks/training_epoch.py

The ordinary loop is the one of torch's tutorials: torchvision's dataset with its transforms on every image, a
DataLoader with and without workers (kept between epochs), torch.optim.SGD, `.item()` every step. Network, batch,
augmentation and arithmetic are the same for both; epochs are cut to so many images that a run takes seconds, and given
per 10,000. Reads Fashion-MNIST and CIFAR-10 from data/raw (downloaded where absent).
"""

import multiprocessing
import os
import time
from contextlib import redirect_stdout
from functools import partial
from io import StringIO

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import datasets as theirs
from torchvision import transforms

from data import DEVICE, RAW, dataset
from harness import Bench, main, peak_bytes
from prunus import masks, networks
from prunus.data.dataset import Dataset
from prunus.evaluation.macs import multiply_accumulates
from prunus.networks.inspect import hooked
from prunus.run.device import Clock
from prunus.sources import published
from prunus.study.schema import Sgd
from prunus.training.arithmetic import Arithmetic, choose
from prunus.training.loop import train
from prunus.training.stopping import FixedEpochs

PER = 10_000
SGD = Sgd(
    batch_size=64,
    learning_rate=0.01,
    momentum=0.9,
    nesterov=False,
    weight_decay=5e-4,
    schedule="constant",
    clip_norm=0.0,
)
# network, dataset, batch size, images of an epoch here, least ratio promised on a CPU and on a GPU
LOOPS = [
    ("mlp", "fashion_mnist", 250, 60_000, 10, None),
    ("lenet5", "fashion_mnist", 64, 60_000, 5, None),
    ("cnn", "fashion_mnist", 64, 6_400, None, None),
    ("resnet18", "cifar10", 64, 640, None, 8),
]
SETTINGS = [("mlp", 6_400), ("lenet5", 6_400), ("cnn", 1_280), ("vgg11", 320), ("vit", 640), ("resnet18", 192)]


def build(name: str, data: Dataset, computed: Arithmetic, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return computed.place(networks.build(name, *data.form), DEVICE)


def one_epoch(network, data, computed: Arithmetic, batch_size: int = 64, augment: str = "none", seed: int = 0):
    """One epoch of ``train``; its history's row."""
    full, sgd = masks.ones(network), SGD.model_copy(update={"batch_size": batch_size})
    stop, options = FixedEpochs(1), {"seed": seed, "clock": Clock(DEVICE), "precision": computed.dtype}
    with redirect_stdout(StringIO()):
        return train(network, full, data, sgd, augment, stop, label="", **options).history[-1]


def on_all_cores(work):
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count())
    try:
        return work()
    finally:
        torch.set_num_threads(threads)


class Ordinary:
    """The textbook loop over a DataLoader; one call is one epoch."""

    def __init__(self, name: str, dataset_name: str, data, batch_size: int, images: int, augment: str, workers: int):
        crop = [transforms.RandomHorizontalFlip(), transforms.RandomCrop(data.shape[1], padding=4)]
        steps = [transforms.ToTensor(), transforms.Normalize(data.mean.tolist(), data.std.tolist())]
        kind = getattr(theirs, published.TORCHVISION_NAMES[dataset_name])
        if augment == "flip_crop":
            steps = crop + steps
        everything = kind(RAW, transform=transforms.Compose(steps))
        self.loader = DataLoader(
            Subset(everything, range(images)),
            batch_size,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=DEVICE.type == "cuda",
        )
        torch.manual_seed(0)
        self.network = networks.build(name, *data.form).to(DEVICE)
        self.optimiser = torch.optim.SGD(
            self.network.parameters(), lr=SGD.learning_rate, momentum=SGD.momentum, weight_decay=SGD.weight_decay
        )

    def __call__(self) -> float:
        total = 0.0
        for images, labels in self.loader:
            images, labels = images.to(DEVICE, non_blocking=True), labels.to(DEVICE, non_blocking=True)
            self.optimiser.zero_grad()
            loss = F.cross_entropy(self.network(images), labels)
            loss.backward()
            self.optimiser.step()
            total += loss.item()
        return total / len(self.loader)


def loops(bench: Bench) -> None:
    for name, dataset_name, batch_size, images, on_cpu, on_gpu in LOOPS[:2] if bench.quick else LOOPS:
        images = 2 * batch_size if bench.quick else images
        data, augment = dataset(dataset_name, images), "flip_crop" if dataset_name == "cifar10" else "none"
        workers, convolves = os.cpu_count(), name in ("cnn", "resnet18")
        plain, rounded = choose("float32", "auto", name), choose("bfloat16", "auto", name)
        case = f"{name}, {dataset_name}, batch {batch_size}, per {PER:,} images"
        ours = {f"Prunus, {computed.precision}": computed for computed in ((plain, rounded) if convolves else (plain,))}
        variants = {
            variant: partial(one_epoch, build(name, data, computed), data, computed, batch_size, augment)
            for variant, computed in ours.items()
        }
        spread = DEVICE.type == "cpu" and on_cpu  # the ordinary loop takes all cores to load, so ours takes them too
        if spread:
            epoch = partial(one_epoch, build(name, data, plain), data, plain, batch_size, augment)
            variants[f"Prunus, float32, {workers} threads"] = partial(on_all_cores, epoch)
        theirs = {f"ordinary loop, {count} workers": count for count in (0, workers)}
        variants |= {
            variant: Ordinary(name, dataset_name, data, batch_size, images, augment, count)
            for variant, count in theirs.items()
        }
        bench.compare(case, variants, runs=3, scale=PER / images, unit="s")
        fastest = min(theirs, key=lambda variant: bench.median(case, variant))
        target = on_gpu if DEVICE.type == "cuda" else on_cpu
        bench.ratio(case, fastest, "Prunus, float32", at_least=target)
        if fastest != "ordinary loop, 0 workers":
            bench.ratio(case, "ordinary loop, 0 workers", "Prunus, float32")
        if spread:
            bench.ratio(case, fastest, f"Prunus, float32, {workers} threads")
        if convolves:
            bench.ratio(case, fastest, "Prunus, bfloat16")


def products(network: nn.Module, images: torch.Tensor) -> list:
    """The matrix products and convolutions of a step on ``images``, without biases, one callable each: forward, for the
    weights' gradient and, but for the first layer, for the input's. They write over tensors that exist already, where
    torch's calls can; inputs and gradients have the values, shapes and order in memory that they have in training."""
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))}
    passed, calls = [], []
    with torch.no_grad(), hooked(layers, lambda name, layer, read, written: passed.append((layer, read, written))):
        network(images)
    for at, (layer, read, written) in enumerate(passed):
        weight, gradient = layer.weight.detach(), torch.randn_like(written)
        if isinstance(layer, nn.Linear):
            buffers = [torch.empty_like(tensor) for tensor in (written, weight, read)]
            calls.append(partial(torch.mm, read, weight.t(), out=buffers[0]))
            calls.append(partial(torch.mm, gradient.t(), read, out=buffers[1]))
            if at:
                calls.append(partial(torch.mm, gradient, weight, out=buffers[2]))
        else:
            form = (layer.stride, layer.padding, layer.dilation, False, (0, 0), layer.groups)
            calls.append(partial(torch.ops.aten.convolution, read, weight, None, *form))
            wanted = (at > 0, True, False)
            calls.append(
                partial(torch.ops.aten.convolution_backward, gradient, read, weight, None, *form, output_mask=wanted)
            )
    return calls


def floors(bench: Bench) -> None:
    """What a step adds to its matrix products and convolutions, and how much of that is torch's own pass: activations,
    pooling, biases, loss and autograd, on one batch that is always the same."""
    for name, at_most in (("mlp", 1.5), ("lenet5", 1.25)):
        for batch_size in (64, 250):
            steps = 2 if bench.quick else 200 if name == "mlp" else 60
            data, computed = dataset("fashion_mnist", steps * batch_size), choose("float32", "auto", name)
            split = data.splits["train"]
            inputs, labels = data.normalise(split.images[:batch_size]), split.labels[:batch_size]
            calls, passing = products(build(name, data, computed), inputs), build(name, data, computed)
            parameters = list(passing.parameters())

            def floor(calls=calls, steps=steps):
                with torch.no_grad():
                    for _ in range(steps):
                        for call in calls:
                            call()

            def forward_and_backward(passing=passing, parameters=parameters, data=(inputs, labels), steps=steps):
                for _ in range(steps):
                    for parameter in parameters:
                        parameter.grad = None
                    F.cross_entropy(passing(data[0]), data[1]).backward()

            case = f"{name}, batch {batch_size}, a step"
            variants = {
                "Prunus": partial(one_epoch, build(name, data, computed), data, computed, batch_size),
                "forward and backward pass": forward_and_backward,
                "products and convolutions": floor,
            }
            bench.compare(case, variants, runs=11, scale=1e6 / steps, unit="us")
            bench.ratio(case, "Prunus", "products and convolutions", at_most=at_most)
            bench.ratio(case, "forward and backward pass", "products and convolutions")
            bench.ratio(case, "Prunus", "forward and backward pass")


def settings(bench: Bench) -> None:
    """Each precision and memory format, and torch.compile, which is not used: what the settings rest on."""
    for name, images in SETTINGS[:3] if bench.quick else SETTINGS:
        images = 64 if bench.quick else images
        data = dataset("fashion_mnist" if name in ("mlp", "lenet5", "cnn") else "cifar10", images)
        case = f"{name}, settings, batch 64, per {PER:,} images"
        choices = [Arithmetic(p, m) for p in ("float32", "bfloat16") for m in ("contiguous", "channels_last")]
        variants = {
            f"{computed.precision}, {computed.memory_format}": partial(
                one_epoch, build(name, data, computed), data, computed
            )
            for computed in choices
        }
        bench.compare(case, variants, runs=5, scale=PER / images)
        if name in ("lenet5", "cnn") and not bench.quick:
            computed = choose("float32", "auto", name)
            compiled = build(name, data, computed)
            compiled.compile()
            start = time.perf_counter()
            one_epoch(compiled, data, computed)
            bench.record(case, "torch.compile, first epoch", [time.perf_counter() - start])
            bench.compare(
                case, {"torch.compile": partial(one_epoch, compiled, data, computed)}, runs=5, scale=PER / images
            )


def accuracies(bench: Bench) -> None:
    """What bfloat16 does to what is learned: cnn after an epoch of 10,000 images, one value per seed."""
    images, seeds = (128, 2) if bench.quick else (PER, 3)
    data = dataset("fashion_mnist", images, validation=100 if bench.quick else PER)
    for precision in ("float32", "bfloat16"):
        computed = choose(precision, "auto", "cnn")
        reached = [
            100 * one_epoch(build("cnn", data, computed, seed), data, computed, seed=seed)["validation_accuracy"]
            for seed in range(seeds)
        ]
        bench.record(f"cnn, accuracy after {images:,} images", precision, reached, "%")


def throughput(bench: Bench) -> None:
    """Achieved FLOP/s of resnet18's training over the matrix peak of the same device in the same precision."""
    batch_size = 1024 if DEVICE.type == "cuda" else 64
    images = batch_size * (20 if DEVICE.type == "cuda" else 1 if bench.quick else 3)
    data, side = dataset("cifar10", images), 8192 if DEVICE.type == "cuda" else 512 if bench.quick else 2048
    for precision in ("float32", "bfloat16"):
        computed = choose(precision, "auto", "resnet18")
        network = build("resnet18", data, computed)
        macs = sum(multiply_accumulates(network, data.shape).values())
        matrix = torch.randn(side, side, device=DEVICE, dtype=computed.dtype)
        case = f"resnet18, batch {batch_size}, {precision}"

        def product(matrix=matrix):
            result = matrix @ matrix
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()
            return result

        variants = {"training": partial(one_epoch, network, data, computed, batch_size), "matrix product": product}
        bench.compare(case, variants, runs=3)
        achieved = 3 * 2 * macs * images / bench.median(case, "training")
        peak = 2 * side**3 / bench.median(case, "matrix product")
        bench.judge(case, "training, GFLOP/s", achieved / 1e9, "")
        target = 40 if DEVICE.type == "cuda" and precision == "bfloat16" else None
        bench.judge(case, "share of the matrix peak", 100 * achieved / peak, "%", at_least=target)


def _peak(kind: str, name: str, images: int, queue) -> None:
    """In a process of its own: most memory that an epoch, or one batch of the textbook loop, takes."""
    torch.set_num_threads(1)
    data, computed = dataset("cifar10", images), choose("float32", "auto", name)
    network = networks.build(name, *data.form)

    def textbook():
        optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        F.cross_entropy(network(data.normalise(data.splits["train"].images[:64])), torch.zeros(64).long()).backward()
        optimiser.step()

    def ours():
        half = {key: torch.rand(mask.shape) < 0.5 for key, mask in masks.ones(network).items()}
        options = {"seed": 0, "clock": Clock(), "label": "", "precision": computed.dtype}
        with redirect_stdout(StringIO()):
            train(computed.place(network, torch.device("cpu")), half, data, SGD, "flip_crop", FixedEpochs(1), **options)

    weights = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    queue.put(weights + peak_bytes({"textbook": textbook, "ours": ours}[kind]))


def memory(bench: Bench) -> None:
    """Peak of a pruned network's epoch over what the network, its optimiser and one batch of 64 need."""
    name, context = "mlp" if bench.quick else "resnet18", multiprocessing.get_context("spawn")
    case = f"{name}, batch 64, peak memory"
    peaks = {}
    for kind, images in (("textbook", 64), ("ours", 128)):
        queue = context.Queue()
        process = context.Process(target=_peak, args=(kind, name, images, queue))
        process.start()
        peaks[kind] = queue.get()
        process.join()
    bench.record(case, "network, optimiser and one batch", [peaks["textbook"] / 2**20], "MiB")
    bench.record(case, "Prunus, epoch of a half pruned network", [peaks["ours"] / 2**20], "MiB")
    bench.ratio(case, "Prunus, epoch of a half pruned network", "network, optimiser and one batch", at_most=1.5)


def run(bench: Bench) -> None:
    loops(bench)
    if DEVICE.type == "cpu":
        floors(bench)
    settings(bench)
    accuracies(bench)
    throughput(bench)
    if DEVICE.type == "cpu":
        memory(bench)


if __name__ == "__main__":
    main("training_epoch", run, __doc__.splitlines()[0])
