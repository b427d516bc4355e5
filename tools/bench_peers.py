"""Time the torch libraries on the models of export_bench_models.py; tools/bench.py starts this and asks.

    yes "" | head -5 | python tools/bench_peers.py --model resnet50 --batch 1 --method zennit

Each line of the standard input asks for one repetition: the predicted classes of a fresh batch are explained, forward
pass included, and its seconds and the process's peak memory are printed as a line of JSON. One repetition before the
first is not counted. Building the model, merging its batch norms and attaching zennit's hooks are not timed.
"""

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from timing import peak_memory, timed
from torch import Tensor, nn
from torch_models import NAMES, SAMPLE_SHAPE, seeded_model

Explain = Callable[[Tensor], Tensor]
Prepare = Callable[[nn.Module, str], AbstractContextManager[Explain]]


@contextmanager
def torch_gradient(model: nn.Module, name: str) -> Iterator[Explain]:
    def explain(batch: Tensor) -> Tensor:
        batch.requires_grad_()
        value = model(batch).max(dim=1).values.sum()
        return torch.autograd.grad(value, batch)[0]

    yield explain


@contextmanager
def captum_gradient(model: nn.Module, name: str) -> Iterator[Explain]:
    from captum.attr import Saliency

    saliency = Saliency(model)

    def explain(batch: Tensor) -> Tensor:
        with torch.no_grad():
            target = model(batch).argmax(dim=1)
        return saliency.attribute(batch.requires_grad_(), target=target, abs=False)

    yield explain


@contextmanager
def zennit_epsilon_plus_flat(model: nn.Module, name: str) -> Iterator[Explain]:
    from zennit.attribution import Gradient
    from zennit.canonizers import SequentialMergeBatchNorm
    from zennit.composites import EpsilonPlusFlat
    from zennit.torchvision import ResNetCanonizer

    canonizer = ResNetCanonizer() if name.startswith("resnet") else SequentialMergeBatchNorm()

    def seed(output: Tensor) -> Tensor:
        return output * nn.functional.one_hot(output.argmax(dim=1), output.shape[1])

    with Gradient(model, EpsilonPlusFlat(canonizers=[canonizer])) as attributor:
        yield lambda batch: attributor(batch, seed)[1]


METHODS: dict[str, Prepare] = {
    "torch": torch_gradient,
    "captum": captum_gradient,
    "zennit": zennit_epsilon_plus_flat,
}


def repetitions(explain: Callable[[Tensor], object], batch_size: int) -> Iterator[float]:
    """Seconds of one repetition after another."""
    generator = torch.Generator().manual_seed(0)
    while True:
        batch = torch.randn(batch_size, *SAMPLE_SHAPE, generator=generator)
        yield timed(functools.partial(explain, batch))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=NAMES, required=True)
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = seeded_model(arguments.model).to(arguments.device)
    with METHODS[arguments.method](model, arguments.model) as explain:
        device = torch.device(arguments.device)
        measured = repetitions(lambda batch: explain(batch.to(device)).cpu(), arguments.batch)
        next(measured)
        for _ in sys.stdin:
            print(json.dumps({"seconds": next(measured), "peak_bytes": peak_memory()}), flush=True)


if __name__ == "__main__":
    main()
