"""Make tests/oracles: small nets as ONNX files with what zennit, captum and torch autograd compute on them.

    python tools/make_oracles.py [-o tests/oracles] [--nets plain residual ...]

Needs torch, torchvision, zennit and captum (tests/oracles/README.md names the versions); the tests need none of them.
"""

import argparse
import re
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from captum.attr import LRP, IntegratedGradients
from captum.attr._utils.lrp_rules import EpsilonRule
from oracle_margins import MARGIN, PATH_MARGIN, clear_of_kinks
from oracle_nets import RECIPES, Recipe, SpatialMean, fold_batch_norm, seeded
from torch import Tensor, nn
from zennit import composites, rules
from zennit.attribution import Gradient
from zennit.core import Composite
from zennit.types import Linear

OPSETS = (13, 18)
SAMPLES, CANDIDATES, SEEDS = 3, 96, 200
LOW, HIGH = (-2.0, -1.8, -2.2), (2.4, 2.2, 2.0)
EPSILON, LRP_0_EPSILON = 1e-6, 1e-12
INTEGRATION_STEPS = 32
FLOAT32_LIMIT = 1e-5
"""Largest relative L2 distance of torch float32 from torch float64 that a sample may show, for every method."""

Method = Callable[[nn.Module, Tensor], Tensor]
Seed = Callable[[Tensor], Tensor]
Figures = dict[str, Any]


def predicted(output: Tensor) -> Tensor:
    """1 at the predicted class, 0 elsewhere."""
    return nn.functional.one_hot(output.argmax(dim=1), output.shape[1]).to(output)


def predicted_value(output: Tensor) -> Tensor:
    return output.detach() * predicted(output)


def attribute(composite: Composite | None, seed: Seed, net: nn.Module, samples: Tensor) -> Tensor:
    with Gradient(net, composite) as attributor:
        attribution: Tensor = attributor(samples, seed)[1]
    return attribution


def input_x_gradient(net: nn.Module, samples: Tensor) -> Tensor:
    return samples * attribute(None, predicted, net, samples)


def integrated_gradients(net: nn.Module, samples: Tensor) -> Tensor:
    with torch.no_grad():
        target = net(samples).argmax(dim=1)
    explainer = IntegratedGradients(net)
    attribution: Tensor = explainer.attribute(samples, target=target, n_steps=INTEGRATION_STEPS, method="gausslegendre")
    return attribution


def captum_epsilon(net: nn.Module, samples: Tensor) -> Tensor:
    """LRP-epsilon by captum, whose rules are attached to the modules; it knows no Flatten."""
    for module in net.modules():
        if isinstance(module, Linear):
            module.rule = EpsilonRule(epsilon=EPSILON)
        elif isinstance(module, nn.Flatten):
            module.rule = EpsilonRule()
    with torch.no_grad():
        target = net(samples).argmax(dim=1)
    attribution: Tensor = LRP(net).attribute(samples, target=target)
    return attribution.detach()


def epsilon_everywhere(epsilon: float) -> Composite:
    return composites.LayerMapComposite(
        averages(epsilon) + composites.layer_map_base(epsilon) + [(Linear, rules.Epsilon(epsilon=epsilon))]
    )


def averages(stabilizer: float = 1e-6) -> list[tuple[type[nn.Module], rules.Norm]]:
    """The layers that average without being an average pool to zennit."""
    return [(SpatialMean, rules.Norm(stabilizer)), (nn.Upsample, rules.Norm(stabilizer))]


def first_layers_flat(recipe: Recipe, composite: Composite) -> Composite:
    """Add the first layers that zennit does not see, since it knows only the one that is registered first."""
    return composites.MixedComposite([composites.NameMapComposite([(recipe.first, rules.Flat())]), composite])


def methods(recipe: Recipe, low: Tensor, high: Tensor) -> dict[str, Method]:
    extra = {"layer_map": averages()}
    of_value: dict[str, Composite] = {
        "lrp-0": epsilon_everywhere(LRP_0_EPSILON),
        "epsilon": epsilon_everywhere(EPSILON),
        "epsilon-plus": composites.EpsilonPlus(**extra),
        "epsilon-plus-flat": first_layers_flat(recipe, composites.EpsilonPlusFlat(**extra)),
        "epsilon-alpha2-beta1": composites.EpsilonAlpha2Beta1(**extra),
        "epsilon-alpha2-beta1-flat": first_layers_flat(recipe, composites.EpsilonAlpha2Beta1Flat(**extra)),
        "epsilon-gamma-box": composites.EpsilonGammaBox(low=low, high=high, **extra),
    }
    of_one: dict[str, Composite | None] = {
        "gradient": None,
        "guided-backprop": composites.GuidedBackprop(layer_map=[(nn.ReLU6, rules.ReLUGuidedBackprop())]),
        "deconvnet": composites.DeconvNet(layer_map=[(nn.ReLU6, rules.ReLUDeconvNet())]),
        "excitation-backprop": composites.ExcitationBackprop(layer_map=[(SpatialMean, rules.Norm())]),
    }
    return {
        **{name: partial(attribute, composite, predicted) for name, composite in of_one.items()},
        **{name: partial(attribute, composite, predicted_value) for name, composite in of_value.items()},
        "input-x-gradient": input_x_gradient,
        "integrated-gradients": integrated_gradients,
    }


def deviation(values: Tensor, truth: Tensor) -> Tensor:
    """Relative L2 distance per sample."""
    return (values.double() - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)


def clear_on_the_path(net: nn.Module, samples: Tensor) -> Tensor:
    nodes = np.polynomial.legendre.leggauss(INTEGRATION_STEPS)[0]
    alphas = torch.from_numpy((nodes + 1) / 2).reshape(-1, *[1] * samples.ndim)
    clear = clear_of_kinks(net, (alphas * samples).flatten(0, 1), PATH_MARGIN)
    return clear.reshape(INTEGRATION_STEPS, -1).all(dim=0)


def spread_over_classes(targets: Tensor) -> list[int]:
    """Pick samples so that as many classes as possible are predicted."""
    first_of_class = {int(target): index for index, target in reversed(list(enumerate(targets)))}
    picked = sorted(first_of_class.values())[:SAMPLES]
    rest = [index for index in range(len(targets)) if index not in picked]
    return sorted(picked + rest[: SAMPLES - len(picked)])


def candidates(shape: tuple[int, ...], seed: int) -> Tensor:
    """Noise in [0, 1] around a level of its own in every channel, so that pooled nets do not predict one class only."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.rand(CANDIDATES, shape[0], *[1] * (len(shape) - 1), generator=generator, dtype=torch.float64)
    return (levels + torch.rand(CANDIDATES, *shape, generator=generator, dtype=torch.float64)) / 2


def oracle(net: nn.Module, recipe: Recipe, seed: int) -> Figures | None:
    """Compute everything on ``net``, or return None where too few inputs can be compared in float32.

    Batch norms that follow a convolution are merged in float64, in a copy.
    """
    channels = recipe.sample[0]
    low, high = (torch.tensor(np.resize(bound, channels)) for bound in (LOW, HIGH))
    low, high = (bound.reshape(1, -1, *[1] * (len(recipe.sample) - 1)) for bound in (low, high))
    samples = (low + candidates(recipe.sample, seed) * (high - low)).float().double()
    exact, single = fold_batch_norm(net), fold_batch_norm(net).float()

    samples = samples[clear_of_kinks(exact, samples, MARGIN)]
    samples = samples[clear_on_the_path(exact, samples)] if len(samples) else samples
    if len(samples) < SAMPLES:
        return None
    all_methods = methods(recipe, low, high)
    truths = {name: method(exact, samples.clone()).detach() for name, method in all_methods.items()}
    floats = {name: method(single, samples.float()).detach() for name, method in all_methods.items()}
    worst = torch.stack([deviation(floats[name], truths[name]) for name in all_methods]).amax(dim=0)
    usable = (worst < FLOAT32_LIMIT).nonzero().flatten()
    with torch.no_grad():
        outputs = exact(samples)
    targets = outputs.argmax(dim=1)
    if len(usable) < SAMPLES or len(targets[usable].unique()) < 2:
        return None
    picked = usable[spread_over_classes(targets[usable])]
    return {
        "input": samples[picked].float().numpy(),
        "output": outputs[picked].numpy(),
        "target": targets[picked].numpy(),
        "low": low.flatten().numpy(),
        "high": high.flatten().numpy(),
        **{f"{name}__f64": truths[name][picked].numpy() for name in sorted(truths)},
        **{f"{name}__f32": floats[name][picked].numpy() for name in sorted(floats)},
    }


def export(net: nn.Module, recipe: Recipe, path: Path, opset: int) -> None:
    """Write ``net`` as it stands, batch norms included, with a symbolic batch."""
    torch.onnx.export(
        net,
        (torch.zeros(1, *recipe.sample),),
        path,
        dynamo=False,
        opset_version=opset,
        training=torch.onnx.TrainingMode.PRESERVE,
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
    )
    onnx.checker.check_model(onnx.load(path), full_check=True)


def make(name: str, folder: Path) -> Figures:
    """Draw nets and inputs until the margins hold, then write the two models and the figures."""
    recipe = RECIPES[name]
    for seed in range(SEEDS):
        figures = oracle(seeded(recipe, seed), recipe, seed)
        if figures is not None:
            break
    else:
        raise SystemExit(f"{name}: no seed below {SEEDS} gives {SAMPLES} inputs that can be compared in float32")
    net = seeded(recipe, seed)
    for opset in OPSETS:
        export(net, recipe, folder / f"{name}_opset{opset}.onnx", opset)
    if name == "plain":
        figures["captum-epsilon__f64"] = captum_epsilon(
            net.double(), torch.from_numpy(figures["input"]).double()
        ).numpy()
    np.savez_compressed(folder / f"{name}.npz", **figures)
    print(f"{name}: seed {seed}, classes {figures['target'].tolist()}", flush=True)
    return figures


def report(name: str, figures: Figures) -> str:
    """One line of the README's table: the largest relative distance of torch float32 from float64, and where."""
    names = [key.removesuffix("__f32") for key in figures if key.endswith("__f32")]
    distances = {
        method: deviation(*(torch.from_numpy(figures[f"{method}__{kind}"]) for kind in ("f32", "f64"))).max().item()
        for method in names
    }
    worst = max(distances, key=distances.__getitem__)
    return f"| {name} | {figures['input'].shape[1:]} | {distances['gradient']:.0e} | {distances[worst]:.0e} ({worst}) |"


def write_table(path: Path, lines: list[str]) -> None:
    """Replace what stands between the README's two markers."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "zennit", "captum", "onnx"))
    head = ["| net | sample | gradient | largest |", "| --- | --- | --- | --- |"]
    table = "\n".join(["<!-- table -->", f"Made with {packages}.", "", *head, *lines, "<!-- end -->"])
    path.write_text(re.sub(r"<!-- table -->.*<!-- end -->", table, path.read_text(), flags=re.DOTALL))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("tests/oracles"))
    parser.add_argument("--nets", nargs="+", choices=RECIPES, default=RECIPES, help="all by default, with the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.output.mkdir(parents=True, exist_ok=True)
    lines = [report(name, make(name, arguments.output)) for name in arguments.nets]
    if list(arguments.nets) == list(RECIPES):
        write_table(arguments.output / "README.md", lines)


if __name__ == "__main__":
    main()
