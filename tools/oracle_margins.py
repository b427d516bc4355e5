"""How far an input stays from the places where a gradient or a relevance map jumps.

A float32 engine can only be held against float64 figures where rounding cannot flip a ReLU, a pool's winner or the
sign of a denominator. These functions tell, per sample, whether that is so.
"""

import torch
import torch_models  # noqa: F401  (lets zennit import torchvision)
from torch import Tensor, nn
from zennit.layer import Sum
from zennit.types import AvgPool, Convolution

MARGIN = 1e-4
"""Distance from a kink at the input itself, in units of the tensor's root mean square."""

PATH_MARGIN = 2e-6
"""The same on the path of the integrated gradients, which sums over many points."""

KINKS: dict[type[nn.Module], tuple[float, ...]] = {nn.ReLU: (0.0,), nn.ReLU6: (0.0, 6.0), nn.LeakyReLU: (0.0,)}


def clear_of_kinks(net: nn.Module, samples: Tensor, margin: float) -> Tensor:
    """Tell per sample whether every activation, pool and denominator keeps the margin: booleans, shape (batch,).

    Values that are exactly 0 count as kept where a pool or a sum sees them: there they stem from a ReLU that is off,
    and stay 0 under rounding. A pool window of nothing but such zeros has its first element as winner.
    """
    clear = torch.ones(len(samples), dtype=torch.bool)

    def record(distance: Tensor, tensor: Tensor) -> None:
        nonlocal clear
        clear &= distance.abs().flatten(1).amin(dim=1) > margin * tensor.square().mean().sqrt()

    def inspect(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        for kink in KINKS.get(type(module), ()):
            record(inputs[0] - kink, inputs[0])
        if isinstance(module, Convolution | nn.Linear | AvgPool | Sum):
            record(output.masked_fill(output == 0, torch.inf), output)
        if isinstance(module, nn.MaxPool1d | nn.MaxPool2d):
            record(lead_of_the_winner(module, inputs[0]), inputs[0])

    handles = [module.register_forward_hook(inspect) for module in net.modules()]
    with torch.no_grad():
        net(samples)
    for handle in handles:
        handle.remove()
    return clear


def lead_of_the_winner(pool: nn.MaxPool1d | nn.MaxPool2d, features: Tensor) -> Tensor:
    """Difference between the largest and the second largest value of every window, infinite where all are 0."""
    axes = features.ndim - 2
    kernel, stride, padding = (
        (value,) * axes if isinstance(value, int) else value for value in (pool.kernel_size, pool.stride, pool.padding)
    )
    edges = [width for width in reversed(padding) for _ in range(2)]
    windows = nn.functional.pad(features, edges, value=-torch.inf)
    for axis in range(axes):
        windows = windows.unfold(2 + axis, kernel[axis], stride[axis])
    best, second = windows.flatten(-axes).topk(2, dim=-1).values.unbind(dim=-1)
    return (best - second).masked_fill((best == 0) & (second == 0), torch.inf)
