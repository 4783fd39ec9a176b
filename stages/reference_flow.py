"""Measure Phi*: information and gradient flow of one seed's trained dense network on a subset of the training images.

python stages/reference_flow.py --seed 0
"""

import prunus.run.warm  # noqa: F401 - first: does not return where a warm process runs this script

# isort: split
import argparse
import os
from itertools import pairwise
from pathlib import Path

from prunus import networks
from prunus.data.dataset import load
from prunus.flow import finite, flow_layers, gradient_flow, information_flow
from prunus.networks import checkpoint
from prunus.run.device import open_device
from prunus.run.errors import one_line_errors
from prunus.run.files import read_json, sha256, write_json
from prunus.run.record import Obeys, Recorder
from prunus.run.seeds import derive_seed
from prunus.study import layout
from prunus.study.params import for_stage

PARAMS = ["study.network", "network", "training.warmup_steps", "flow", "device.accelerator", "device.threads"]


def main() -> None:
    os.chdir(layout.ROOT)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    seed = parser.parse_args().seed
    params = for_stage(PARAMS)
    obeys = Obeys(Path(__file__), PARAMS, params)
    device = open_device(params.device.accelerator, params.device.threads)
    seeds = {"flow": derive_seed(seed, "flow")}
    pretrain = layout.pretrain_command(seed)
    warmup = layout.rewind_point(seed, "warmup")
    record = layout.record(f"seed{seed}", "reference_flow")
    eased_by = ["flow.samples"]
    with Recorder(record, device, params.device.threads, seeds, eased_by, obeys=obeys) as recorder:
        dataset = load(layout.DATASET, device, splits=("train",))
        network = networks.of_study(params.study.network, params.network, dataset.form).to(device)
        masks = checkpoint.load_into(network, layout.rewind_point(seed, "trained"), device, pretrain)
        last = {"last_batch_gradient": dict.fromkeys(("mean", "norm"), list[float])}
        dense = read_json(layout.dense(seed) / layout.METRICS_NAME, pretrain, last)
        subset = dataset.sample("train", params.flow.samples, seeds["flow"])
        images = dataset.normalise(subset.images)
        with recorder.clock.time("flow"):
            information = information_flow(network, images, "absolute")
            finite(information, f"seed {seed}: the dense network's information flow", network, images)
            signed = information_flow(network, images, "signed")
            gradient = gradient_flow(network, images, subset.labels, masks)
            finite(gradient, f"seed {seed}: the dense network's gradient flow", network, images, subset.labels)
        write_json(
            layout.reference_flow(seed),
            {
                "samples": len(subset.labels),
                "subset_seed": seeds["flow"],
                "information_layers": [list(pair) for pair in pairwise(flow_layers(network))],
                "information": information.tolist(),
                "information_signed": signed.tolist(),
                "gradient_layers": list(masks),
                "gradient": gradient.tolist(),
                # Late rewinding restarts from these weights.
                "warmup": {"steps": params.training.warmup_steps, "sha256": sha256(warmup)},
                # `reference_quirks` compares with these.
                "quirks": {
                    "gradient_mean": dense["last_batch_gradient"]["mean"],
                    "gradient_norm": dense["last_batch_gradient"]["norm"],
                },
            },
        )
    norms = f"|information| {information.norm():.4f}, |gradient| {gradient.norm():.4f}"
    print(f"seed {seed} reference flow on {len(subset.labels)} images: {norms}, in {layout.reference_flow(seed)}")


if __name__ == "__main__":
    with one_line_errors():
        main()
