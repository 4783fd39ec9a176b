"""One iteration of a chain: load the network before it, score, prune, rewind, retrain until the stop rule ends it.

python stages/prune_iteration.py --seed 0 --method incop_if --iteration 3

With ``--ratio-of mipp`` the method removes as large a share of the channels as MIPP's iteration, not its own fraction.
"""

import prunus.run.warm  # noqa: F401 - first: does not return where a warm process runs this script

# isort: split
import argparse
import copy
import os
from dataclasses import asdict
from functools import cache
from pathlib import Path

from prunus import channels, masks, methods, networks
from prunus.data.batches import batches_per_epoch
from prunus.data.dataset import load
from prunus.networks import checkpoint
from prunus.pruning.candidates import Candidates, Retraining
from prunus.pruning.recipe import Pruned
from prunus.run.device import open_device
from prunus.run.errors import StageError, labelled, one_line_errors
from prunus.run.files import read_json, write_csv, write_json
from prunus.run.record import Obeys, Recorder
from prunus.run.seeds import derive_seed
from prunus.sparsity import FractionAmount
from prunus.study import layout
from prunus.study.params import for_stage
from prunus.study.reference import part
from prunus.study.schema import takes
from prunus.training import arithmetic
from prunus.training.accuracy import accuracy
from prunus.training.loop import refuse_unanswered, train
from prunus.training.resuming import Resume

PARAMS = [
    "study.network",
    "network",
    "training.augment",
    "training.sgd",
    "device.accelerator",
    "device.threads",
    "device.precision",
    "device.memory_format",
    "methods.{method}",
]

HARSH = ("beta", "gamma", "fraction", "confidence")  # a lower value of these settings prunes less
MOVING = ("penalty",)  # settings that move weights during training


def either(ways):
    """``a``, ``a or b``, ``a, b or c``."""
    return " or ".join([", ".join(ways[:-1]), ways[-1]] if len(ways) > 1 else ways)


def refuse_empty_layers(kept, label, method, settings, ratio_of, iteration=None):
    """Raise ``StageError`` if ``kept`` leaves a layer without any weight: training cannot repair most such networks.

    It advises only what the schema accepts: a chain has at least one iteration, and not every method has another scope.
    """
    if not (empty := masks.collapsed(kept)):
        return
    density = masks.density(kept)
    ways = [
        f"lower methods.{method}.{name}"
        for name in HARSH
        if takes(settings, **{name: getattr(settings, name, 1.0) / 2})
    ]
    if getattr(settings, "scope", None) == "global" and takes(settings, scope="layer"):
        ways.append(f"set methods.{method}.scope: layer")
    ways = [f"take {method} out of imposed.methods"] if ratio_of else ways
    ways += ["list fewer study.iterations"] if iteration != 1 else []
    raise StageError(
        f"{label}: no weight is left in {', '.join(empty)} (density {100 * density:.3g} %); {either(ways)}",
        "collapsed",
        density,
    )


def asked(settings, candidates):
    """Number of weights or channels that the method's amount asks for; None for a method without an amount."""
    fixed = FractionAmount(settings.fraction) if hasattr(settings, "fraction") else None
    if (amount := getattr(settings, "amount", fixed)) is None:
        return None
    amount = amount.at(candidates.iteration) if hasattr(amount, "at") else amount
    alive, values = candidates.masks, candidates.current
    if settings.prunes_channels:
        alive = channels.alive(candidates.groups, candidates.masks)
        values = {name: mask.float() for name, mask in alive.items()}
    return masks.asked(values, alive, getattr(settings, "scope", "global"), amount)


def say_if_nothing_goes(kept, candidates, label, method, settings, ratio_of):
    """Print a line if ``kept`` are the masks as before: the same network is then trained again."""
    if masks.alive_count(kept) != masks.alive_count(candidates.masks):
        return
    count = asked(settings, candidates)
    unit = "channel" if settings.prunes_channels else "weight"
    if count is None:
        why = f"{method} finds no {unit} to remove"
    elif count:
        why = f"{count} {unit}(s) should be removed, and none can be"
    elif ratio_of:
        why = f"the share that {ratio_of} removed amounts to no {unit}"
    elif hasattr(settings, "fraction"):
        why = f"methods.{method}.fraction: {settings.fraction} amounts to no {unit}"
    else:
        why = f"the amount of methods.{method} amounts to no {unit}"
    print(f"{label}: nothing is pruned, and the network is retrained as it was: {why}", flush=True)


class Reference(dict):
    """A chain's part of reference_flow.json. Raises ``StageError`` for any other key, which is not a dependency."""

    def __missing__(self, key):
        raise StageError(f"the method reads {key} of the dense network, but its `held_against` does not list it")


def read_reference(path, made_by, settings):
    """What ``settings.held_against`` lists, from the file at ``path`` that the command ``made_by`` makes."""
    keys = part(settings.held_against)
    content = read_json(path, made_by, keys)
    return Reference({key: content[key] for key in keys})


def sample_of(dataset, reference):
    """The training images on which Phi* was measured, as the network takes them, and their labels; None for a chain
    that does not use them."""
    if "samples" not in reference:
        return None
    subset = dataset.sample("train", reference["samples"], reference["subset_seed"])
    return dataset.normalise(subset.images), subset.labels


def as_accurate_as(dense, dataset):
    """A function: whether a network is at least as accurate on the test images as ``dense``, which is tested once."""
    goal = accuracy(dense, dataset, "test")
    return lambda network: accuracy(network, dataset, "test") >= goal


def at_ratio(settings, t, ratio):
    """``settings`` with the fraction that leaves a share of 1 - ``ratio`` of all channels after ``t`` iterations."""
    return settings.model_copy(update={"fraction": 1 - (1 - ratio) ** (1 / t)})


def main() -> None:
    os.chdir(layout.ROOT)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--method", required=True)
    parser.add_argument("--iteration", type=int, required=True)
    parser.add_argument("--ratio-of", metavar="METHOD")
    arguments = parser.parse_args()
    seed, method, t, ratio_of = arguments.seed, arguments.method, arguments.iteration, arguments.ratio_of
    chain = layout.chain(method, ratio_of)
    keys = [key.format(method=method) for key in PARAMS]
    params = for_stage(keys)
    obeys = Obeys(Path(__file__), keys, params)
    settings = vars(params.methods)[method]
    device = open_device(params.device.accelerator, params.device.threads)
    computed = arithmetic.choose(params.device.precision, params.device.memory_format, params.study.network)
    seeds = {"order": derive_seed(seed, chain, t, "order"), "selection": derive_seed(seed, chain, "selection")}
    folder, label = layout.iteration(seed, chain, t), f"seed {seed} {chain} iteration {t}"
    pretrain = layout.pretrain_command(seed)
    earlier = layout.prune_command(seed, method, t - 1, ratio_of)
    before = layout.iteration(seed, chain, t - 1) / layout.NETWORK
    if ratio_of:  # such a chain has no file of its own
        reference_file, made_by = layout.reference_flow(seed), layout.reference_command(seed)
    else:
        reference_file, made_by = layout.chain_reference(seed, method), layout.chain_reference_command(seed, method)
    inputs = [layout.DATASET, reference_file, before]
    inputs += [layout.rewind_point(seed, point) for point in ("initial", "trained")]

    @cache
    def dense_state(point):
        if point == "warmup":
            reference["warmup"]  # raises unless the chain's reference has it
        return checkpoint.load(layout.rewind_point(seed, point), device, pretrain)[0]

    def as_dense():
        trained = copy.deepcopy(network)
        trained.load_state_dict(dense_state("trained"))
        return as_accurate_as(trained, load(layout.DATASET, device, splits=("test",)))

    record = layout.iteration_record(seed, chain, t)
    eased_by = ["training.sgd.batch_size", "flow.samples"]
    if hasattr(settings, "samples"):
        eased_by.append(f"methods.{method}.samples")
    with Recorder(record, device, params.device.threads, seeds, eased_by, obeys=obeys) as recorder:
        recorder.measured |= asdict(computed)
        dataset = load(layout.DATASET, device)
        network = computed.place(networks.of_study(params.study.network, params.network, dataset.form), device)
        alive = checkpoint.load_into(network, before, device, pretrain if t == 1 else earlier)
        reference = read_reference(reference_file, made_by, settings)
        flow_sample = sample_of(dataset, reference)
        candidates = Candidates(network, alive, t, dataset, seeds["selection"], dense_state, flow_sample)
        if ratio_of:
            command = layout.prune_command(seed, ratio_of, t)
            inputs.append(layout.iteration(seed, ratio_of, t) / layout.METRICS_NAME)
            realised = read_json(inputs[-1], command, {"channels_removed": float})
            settings = at_ratio(settings, t, realised["channels_removed"])
        recipe = methods.recipe(method, settings)
        with recorder.clock.time("prune"), labelled(label):
            pruned = Pruned.of(recipe.prune(candidates))
        kept = pruned.masks
        refuse_empty_layers(kept, label, method, settings, ratio_of, t)
        if not recipe.while_training:
            say_if_nothing_goes(kept, candidates, label, method, settings, ratio_of)
        network.load_state_dict(pruned.weights, strict=False)
        recipe.rewind.restart(network, dense_state)
        stop = recipe.retrain(
            Retraining(
                masks=kept,
                batches=batches_per_epoch(len(dataset.splits["train"].labels), params.training.sgd.batch_size),
                reference=reference,
                flow_images=flow_sample and flow_sample[0],
                flow_labels=flow_sample and flow_sample[1],
                as_dense=as_dense,
            )
        )
        sparsifier = recipe.while_training and recipe.while_training(candidates.at(kept))
        outcome = train(
            network,
            kept,
            dataset,
            params.training.sgd,
            params.training.augment,
            stop,
            seed=seeds["order"],
            clock=recorder.clock,
            label=label,
            precision=computed.dtype,
            start=reference["warmup"]["steps"] if recipe.rewind.point == "warmup" else 0,
            sparsifier=sparsifier,
            moved_by=[f"methods.{method}.{name}" for name in MOVING if sparsifier and hasattr(settings, name)],
            resume=Resume(recorder, inputs),
        )
        if sparsifier:
            with labelled(label):
                kept = sparsifier.masks()
            refuse_empty_layers(kept, label, method, settings, ratio_of, t)
            say_if_nothing_goes(kept, candidates, label, method, settings, ratio_of)
            masks.apply(network, kept)
        refuse_unanswered(outcome, network, dataset, label)
        checkpoint.save(folder / layout.PRUNED, pruned.weights)
        checkpoint.save(folder / layout.NETWORK, network.state_dict(), kept)
        write_csv(folder / layout.HISTORY, outcome.history)
        metrics = {
            "seed": seed,
            "method": chain,
            "iteration": t,
            "settings": settings.model_dump(),
            "density": masks.density(kept),
            "alive": masks.alive_count(kept),
            "channels_removed": channels.share_removed(candidates.groups, kept) if settings.prunes_channels else None,
            "epochs": len(outcome.history),
            "stopped_by": outcome.reason,
            "epsilon": stop.epsilon,
            **outcome.history[-1],
        }
        write_json(folder / layout.METRICS_NAME, metrics)
    print(
        f"{label}: density {metrics['density']:.2%}, {metrics['epochs']} epochs (stopped by {outcome.reason}), "
        f"validation accuracy {metrics['validation_accuracy']:.2%}, in {folder}"
    )


if __name__ == "__main__":
    with one_line_errors():
        main()
