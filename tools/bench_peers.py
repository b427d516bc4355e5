"""Time the torch libraries on the models of export_bench_models.py; tools/bench.py calls this as a subprocess.

    python tools/bench_peers.py --model resnet50 --batch 1 --method epsilon-plus-flat --repeat 5 --json

Every repetition explains the predicted classes of a fresh batch, forward pass included; one repetition before the
first is not counted. Building the model, merging its batch norms and attaching zennit's hooks are not timed.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch_models import NAMES, SAMPLE_SHAPE, seeded_model

Explain = Callable[[Tensor], Tensor]
Prepare = Callable[[nn.Module, str], AbstractContextManager[Explain]]
LOW, HIGH = -3.0, 3.0


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


def zennit_composite(composite: str) -> Prepare:
    @contextmanager
    def prepared(model: nn.Module, name: str) -> Iterator[Explain]:
        from zennit.attribution import Gradient
        from zennit.canonizers import SequentialMergeBatchNorm
        from zennit.composites import COMPOSITES
        from zennit.torchvision import ResNetCanonizer

        canonizer = ResNetCanonizer() if name.startswith("resnet") else SequentialMergeBatchNorm()
        box = {"low": LOW, "high": HIGH} if composite == "epsilon_gamma_box" else {}

        def seed(output: Tensor) -> Tensor:
            return output * nn.functional.one_hot(output.argmax(dim=1), output.shape[1])

        with Gradient(model, COMPOSITES[composite](canonizers=[canonizer], **box)) as attributor:
            yield lambda batch: attributor(batch, seed)[1]

    return prepared


METHODS: dict[str, Prepare] = {
    "gradient": torch_gradient,
    "captum-gradient": captum_gradient,
    "epsilon-plus-flat": zennit_composite("epsilon_plus_flat"),
    "epsilon-gamma-box": zennit_composite("epsilon_gamma_box"),
}


def seconds(explain: Explain, batch_size: int, repeat: int) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    measured = []
    for _ in range(repeat + 1):
        batch = torch.rand(batch_size, *SAMPLE_SHAPE, generator=generator) * (HIGH - LOW) + LOW
        start = time.perf_counter()
        explain(batch)
        measured.append(time.perf_counter() - start)
    return measured[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=NAMES, required=True)
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with METHODS[arguments.method](seeded_model(arguments.model), arguments.model) as explain:
        times = seconds(explain, arguments.batch, arguments.repeat)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if arguments.json:
        print(json.dumps({"seconds": times, "peak_rss_bytes": peak}))
    else:
        print(f"{arguments.model} {arguments.method} batch {arguments.batch}: ", end="")
        print(f"median {sorted(times)[len(times) // 2]:.3f} s, peak memory {peak / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
