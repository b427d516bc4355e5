"""Make tests/oracles/cam: what pytorch-grad-cam and captum compute on nets of tests/oracles, in float64.

    python tools/make_cam_oracles.py [-o tests/oracles/cam]

The maps are taken before any ReLU, scaling or resizing. Needs what tools/make_oracles.py needs, and grad-cam.

- pytorch-grad-cam adds 1e-6 to the denominator of Grad-CAM++, which drowns small gradients. Its formula stays the same
  when gradients are multiplied and activations divided by one number; that is done until the 1e-6 is lost in rounding.
- Its Ablation-CAM sets feature maps to 0 only where the smallest activation is 0, which holds behind every ReLU.
- Grad-CAM is computed by both libraries, which must agree.
- The parts of FullGrad are the bias of every convolution, batch norm (-mean * weight / sqrt(var + eps) + bias) and
  linear layer times the gradient at its output, as the authors' tensor_extractor.py takes them; they and the input's
  part must sum to the output. The map repeats the authors' post-processing with torch's interpolation.
"""

import argparse
import copy
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import GuidedGradCam, LayerGradCam
from oracle_nets import RECIPES, fold_batch_norm, seeded
from pytorch_grad_cam import AblationCAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

SOURCE = Path("tests/oracles")
LAYERS = {
    "plain": {"4": "/4/Relu_output_0"},
    "residual": {"3": "/3/activation/Relu_output_0", "2": "/2/activation/Relu_output_0"},
    "dense_bn": {"11": "/11/Relu_output_0"},
    "mobilenet": {"8": "/8/Clip_output_0"},
    "signal": {"7": "/7/Tanh_output_0"},
}
"""Per net, modules and the tensors of the ONNX files that hold their outputs; the first is the last with places."""

PEERS = {
    "grad-cam": GradCAM,
    "grad-cam++": GradCAMPlusPlus,
    "hires-cam": HiResCAM,
    "layer-cam": LayerCAM,
    "xgrad-cam": XGradCAM,
    "ablation-cam": AblationCAM,
}
PICTURES = ("plain", "residual", "dense_bn", "mobilenet")
"""The nets that pytorch-grad-cam can work on: it knows two axes of places and three, not one."""
MAPPED = ("plain", "residual", "dense_bn")
"""The nets where convolutions, batch norms and linear layers hold every bias: ReLU6 has one too where it saturates."""
SCALE = 1e6
EPSILON = 1e-6
"""Of the authors' post-processing of FullGrad."""


def net_of(name: str, figures: dict[str, np.ndarray]) -> nn.Module:
    """The net whose outputs the oracle file holds, in float64, batch norms merged into convolutions."""
    samples = torch.from_numpy(figures["input"]).double()
    for seed in range(200):
        net = fold_batch_norm(seeded(RECIPES[name], seed)).eval()
        with torch.no_grad():
            if np.allclose(net(samples).numpy(), figures["output"], atol=1e-9):
                return net
    raise SystemExit(f"{name}: no seed gives the outputs of {SOURCE / name}.npz")


def unscaled(peer: type[Any], net: nn.Module, layer: nn.Module, samples: Tensor, classes: list[int]) -> np.ndarray:
    """The map of one of pytorch-grad-cam's classes as it leaves get_cam_image."""
    caught: list[np.ndarray] = []
    with peer(net, [layer]) as cam:
        image: Callable[..., np.ndarray] = cam.get_cam_image
        weights: Callable[..., np.ndarray] = cam.get_cam_weights

        def catch(*arguments: Any) -> np.ndarray:
            caught.append(image(*arguments))
            return caught[-1]

        def scaled(batch: Any, layers: Any, targets: Any, activations: np.ndarray, grads: np.ndarray) -> np.ndarray:
            return weights(batch, layers, targets, activations / SCALE, grads * SCALE) / SCALE

        cam.get_cam_image = catch
        if peer is GradCAMPlusPlus:
            cam.get_cam_weights = scaled
        cam(samples, [ClassifierOutputTarget(index) for index in classes])
    return caught[0]


def full_gradient(net: nn.Module, samples: Tensor, classes: list[int]) -> list[Tensor]:
    """Input times gradient, then bias times gradient of every layer in the order in which they run."""
    outputs: list[tuple[nn.Module, Tensor]] = []
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
    layers = [module for module in net.modules() if isinstance(module, kinds) and module.bias is not None]
    hooks = [layer.register_forward_hook(lambda m, _, y: outputs.append((m, y))) for layer in layers]
    samples = samples.clone().requires_grad_()
    y = net(samples)
    for hook in hooks:
        hook.remove()
    value = y[range(len(y)), classes]
    tensors = [samples, *(output for _, output in outputs)]
    gradients = torch.autograd.grad(value.sum(), tensors)
    constants = [samples, *(bias_of(layer, output.ndim) for layer, output in outputs)]
    parts = [(constant * gradient).detach() for constant, gradient in zip(constants, gradients, strict=True)]
    if not any(isinstance(module, nn.ReLU6) for module in net.modules()):
        total = sum(part.flatten(1).sum(dim=1) for part in parts)
        torch.testing.assert_close(total, value.detach(), rtol=0, atol=1e-10)
    return parts


def bias_of(layer: Any, rank: int) -> Tensor:
    bias = layer.bias
    if isinstance(layer, nn.BatchNorm2d):
        bias = bias - layer.running_mean * layer.weight / torch.sqrt(layer.running_var + layer.eps)
    return bias.reshape(1, -1, *[1] * (rank - 2))


def published_map(parts: list[Tensor]) -> Tensor:
    """The authors' post-processing."""
    total = torch.zeros(len(parts[0]), *parts[0].shape[2:], dtype=torch.float64)
    for part in parts:
        if part.ndim == parts[0].ndim:
            flat = part.abs().flatten(1)
            flat = flat - flat.min(dim=1, keepdim=True)[0]
            flat = flat / (flat.max(dim=1, keepdim=True)[0] + EPSILON)
            placed = nn.functional.interpolate(
                flat.reshape(part.shape), total.shape[1:], mode="bilinear", align_corners=True
            )
            total += placed.sum(dim=1)
    return total


def make(name: str) -> dict[str, np.ndarray]:
    figures = dict(np.load(SOURCE / f"{name}.npz"))
    net = net_of(name, figures)
    samples = torch.from_numpy(figures["input"]).double()
    classes = figures["target"].tolist()
    found: dict[str, np.ndarray] = {}
    for path, tensor in LAYERS[name].items():
        layer = net.get_submodule(path)
        gradient: Tensor = LayerGradCam(net, layer).attribute(samples, classes)
        found[f"grad-cam{tensor}"] = gradient.detach().numpy()[:, 0]
        twin = rectified(net)
        explainer = GuidedGradCam(twin, twin.get_submodule(path))
        guided: Tensor = explainer.attribute(samples, classes, interpolate_mode=mode(samples))
        found[f"guided-grad-cam{tensor}"] = guided.detach().numpy()
        for method, peer in PEERS.items() if name in PICTURES else ():
            value = unscaled(peer, net, layer, samples, classes)
            if method == "grad-cam":
                np.testing.assert_allclose(value, found[f"{method}{tensor}"], atol=1e-10)
            found[f"{method}{tensor}"] = value
    if name in PICTURES:
        parts = full_gradient(net, samples, classes)
        found |= {f"fullgrad/{index}": part.numpy() for index, part in enumerate(parts)}
        if name in MAPPED:
            found["fullgrad/map"] = published_map(parts).numpy()
    return found


class RectifiedTo6(nn.ReLU):  # type: ignore[misc]
    """ReLU6 as a ReLU, which is what captum looks for."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu6(x)


def rectified(net: nn.Module) -> nn.Module:
    """A copy in which captum takes every ReLU6 for a rectifier."""
    twin = copy.deepcopy(net)
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU6):
                setattr(module, name, RectifiedTo6())
    return twin


def mode(samples: Tensor) -> str:
    return "bilinear" if samples.ndim == 4 else "linear"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=SOURCE / "cam")
    folder = parser.parse_args().output
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    versions = {name: version(name) for name in ("torch", "captum", "grad-cam")}
    for name in LAYERS:
        figures = {"versions": np.array(str(versions)), **make(name)}
        np.savez_compressed(folder / f"{name}.npz", **figures)  # type: ignore[arg-type]
        print(name, flush=True)


if __name__ == "__main__":
    main()
