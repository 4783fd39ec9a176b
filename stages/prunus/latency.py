"""How long a network takes to answer, measured."""

import time

import torch
from torch import Tensor, nn

FEWEST_RUNS, MOST_RUNS, ENOUGH_SECONDS = 5, 50, 1.0


def latency(networks: list[nn.Module], images: Tensor) -> tuple[list[float], int]:
    """Median seconds that each of ``networks`` takes for the batch ``images``, and the number of runs.

    The networks take turns, so that whatever else the machine does falls on all of them; one round of warm-up.
    """
    seconds = [[] for _ in networks]
    started = time.perf_counter()
    with torch.inference_mode():
        while len(seconds[0]) <= FEWEST_RUNS or (
            len(seconds[0]) <= MOST_RUNS and time.perf_counter() - started < ENOUGH_SECONDS
        ):
            for network, runs in zip(networks, seconds, strict=True):
                _drain(images)
                start = time.perf_counter()
                network.eval()(images)
                _drain(images)
                runs.append(time.perf_counter() - start)
    return [torch.tensor(runs[1:]).quantile(0.5).item() for runs in seconds], len(seconds[0]) - 1


def _drain(images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
