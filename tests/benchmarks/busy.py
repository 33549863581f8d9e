"""How busy ``advimg batch`` keeps the network: a child process of the benchmark ``folder``.

It is the command itself, in a process whose passes through the network are timed: forward and backward of the gradient
network, and the forward of each verdict without the preprocessing before it. The loop lasts from the engine's first
look for a photo to its last result. A pass counts whole, also where threads that read and write files slow it down.

    python -m tests.benchmarks.busy DEVICE batch PHOTOS -t random -O OUT
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import ParamSpec, TypeVar
from unittest.mock import patch

import torch

from advimg import cli
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.gradient.network import GradientNetwork
from advimg.classifiers.preprocessing import Preprocessing
from advimg.engine.engine import Engine
from advimg.engine.job import Failed, Result
from tests.benchmarks.measure import Stopwatch

_P = ParamSpec("_P")
_T = TypeVar("_T")


def main(device: str, arguments: list[str]) -> int:
    """Run advimg with its arguments, print the seconds as JSON, and return its exit code."""
    watch = Stopwatch(torch.device(device))

    def timed(name: str, function: Callable[_P, _T]) -> Callable[_P, _T]:
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            return watch.time(name, partial(function, *args, **kwargs))

        return call

    def timed_loop(function: Callable[_P, Iterator[Result | Failed]]) -> Callable[_P, Iterator[Result | Failed]]:
        def run(*args: _P.args, **kwargs: _P.kwargs) -> Iterator[Result | Failed]:
            began = time.perf_counter()
            yield from function(*args, **kwargs)
            watch.seconds["loop"].append(time.perf_counter() - began)

        return run

    with ExitStack() as patches:
        for owner, method, replacement in (
            (GradientNetwork, "logits", timed("forward", GradientNetwork.logits)),
            (torch.autograd, "grad", timed("backward", torch.autograd.grad)),
            (Classifier, "judge", timed("judge", Classifier.judge)),
            (Preprocessing, "stock", timed("preprocessing", Preprocessing.stock)),
            (Engine, "run", timed_loop(Engine.run)),
        ):
            patches.enter_context(patch.object(owner, method, replacement))
        code = cli.run(arguments)
    print(json.dumps(_sums(watch)))
    return code


def _sums(watch: Stopwatch) -> dict[str, float]:
    sums = {name: sum(seconds) for name, seconds in watch.seconds.items()}
    return {
        "forward": sums["forward"],
        "backward": sums["backward"],
        "verdicts": sums["judge"] - sums["preprocessing"],
        "loop": sums["loop"],
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
