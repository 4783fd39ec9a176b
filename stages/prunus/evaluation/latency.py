"""How long a network takes to answer, measured."""

import time

import torch
from torch import Tensor, nn

MOST_RUNS = 50


def latency(networks: list[nn.Module], images: Tensor, budget: float = 1.0) -> tuple[list[float], int]:
    """Median seconds that each of ``networks`` takes for the batch ``images``, and the number of runs.

    The networks take turns, so that other work on the machine affects all of them. The first round is a warm-up; no
    round begins once ``budget`` seconds have passed, or after ``MOST_RUNS``. Where the first round takes the whole
    budget it counts: in passes of seconds a warm-up matters little, and a second round would double the cost.
    """
    seconds = [[] for _ in networks]
    started = time.perf_counter()
    with torch.inference_mode():
        while not seconds[0] or (len(seconds[0]) <= MOST_RUNS and time.perf_counter() - started < budget):
            for network, runs in zip(networks, seconds, strict=True):
                _drain(images)
                start = time.perf_counter()
                network.eval()(images)
                _drain(images)
                runs.append(time.perf_counter() - start)
    measured = [runs[1:] or runs for runs in seconds]
    return [torch.tensor(runs).quantile(0.5).item() for runs in measured], len(measured[0])


def _drain(images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
