"""The small nets of the oracle files: every wiring that a rule book must get right, with seeded weights.

They are written so that zennit can follow them: each module runs once, the first executed layer is registered first,
additions go through zennit's ``Sum``, activations are modules. Inputs are not square, so that a swap of height and
width shows. A starred group in a Sequential is one stage.
"""
# mypy: disallow-subclassing-any=False

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch_models  # noqa: F401  (lets zennit import torchvision)
from torch import Tensor, nn
from zennit.layer import Sum


class SpatialMean(nn.Module):
    """A mean over all positions that is exported as ReduceMean."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mean(dim=(2, 3))


class Residual(nn.Module):
    """relu(body(x) + shortcut(x)); without ``activation`` the sum itself, as in a linear bottleneck.

    The addition is zennit's Sum when the net runs and one Add node when it is exported.
    """

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, activation: bool = True) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut or nn.Identity()
        self.sum = Sum()
        self.activation = nn.ReLU() if activation else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        left, right = self.body(features), self.shortcut(features)
        if torch.onnx.is_in_onnx_export():
            return self.activation(left + right)
        return self.activation(self.sum(torch.stack([left, right], dim=-1)))


class Branches(nn.Module):
    """Branches on one input, concatenated over the channels; an Identity branch makes a dense connection."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([branch(features) for branch in self.branches], dim=1)


def conv(inputs: int, outputs: int, kernel: int = 3, **options: int) -> nn.Conv2d:
    options.setdefault("padding", kernel // 2)
    return nn.Conv2d(inputs, outputs, kernel, **options)


def conv_norm(inputs: int, outputs: int, kernel: int = 3, **options: int) -> list[nn.Module]:
    return [conv(inputs, outputs, kernel, bias=False, **options), nn.BatchNorm2d(outputs)]


def norm_relu_conv(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(inputs), nn.ReLU(), conv(inputs, outputs, kernel, bias=False)]


def pooled_head(features: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes)]


def plain() -> nn.Module:
    return nn.Sequential(
        *(conv(3, 8), nn.ReLU(), nn.MaxPool2d(2)),
        *(conv(8, 12, stride=2), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(12 * 3 * 2, 20), nn.ReLU(), nn.Linear(20, 7)),
    )


def residual() -> nn.Module:
    def body(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
        return nn.Sequential(conv(inputs, outputs, stride=stride), nn.ReLU(), conv(outputs, outputs))

    return nn.Sequential(
        *(conv(3, 8), nn.ReLU(), Residual(body(8, 8)), Residual(body(8, 12, stride=2), conv(8, 12, 1, stride=2))),
        *pooled_head(12, 6),
    )


def residual_bn() -> nn.Module:
    def body(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
        return nn.Sequential(*conv_norm(inputs, outputs, stride=stride), nn.ReLU(), *conv_norm(outputs, outputs))

    shortcut = nn.Sequential(*conv_norm(8, 12, 1, stride=2))
    return nn.Sequential(
        *(*conv_norm(3, 8), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)),
        *(Residual(body(8, 8)), Residual(body(8, 12, stride=2), shortcut)),
        *pooled_head(12, 6),
    )


def dense() -> nn.Module:
    def grow(inputs: int) -> nn.Module:
        return Branches(nn.Identity(), nn.Sequential(conv(inputs, 4), nn.ReLU()))

    return nn.Sequential(
        *(conv(3, 6), nn.ReLU(), grow(6), grow(10), nn.AvgPool2d(2), grow(14)),
        *pooled_head(18, 5),
    )


def dense_bn() -> nn.Module:
    def grow(inputs: int) -> nn.Module:
        return Branches(nn.Identity(), nn.Sequential(*norm_relu_conv(inputs, 8, 1), *norm_relu_conv(8, 4, 3)))

    return nn.Sequential(
        *(*conv_norm(3, 6), nn.ReLU(), grow(6), grow(10), *norm_relu_conv(14, 7, 1), nn.AvgPool2d(2), grow(7)),
        *(nn.BatchNorm2d(11), nn.ReLU(), *pooled_head(11, 5)),
    )


def inception() -> nn.Module:
    def module(inputs: int, pool: nn.Module) -> nn.Module:
        return Branches(
            nn.Sequential(conv(inputs, 3, 1), nn.ReLU()),
            nn.Sequential(conv(inputs, 4, 1), nn.ReLU(), conv(4, 5, 3), nn.ReLU()),
            nn.Sequential(conv(inputs, 3, 1), nn.ReLU(), conv(3, 4, 5), nn.ReLU()),
            nn.Sequential(pool, conv(inputs, 4, 1), nn.ReLU()),
        )

    return nn.Sequential(
        *(conv(3, 8, stride=2), nn.ReLU()),
        *(module(8, nn.AvgPool2d(3, stride=1, padding=1)), module(16, nn.MaxPool2d(3, stride=1, padding=1))),
        *pooled_head(16, 6),
    )


def mobilenet() -> nn.Module:
    def bottleneck(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
        hidden = 2 * inputs
        return nn.Sequential(
            *(*conv_norm(inputs, hidden, 1), nn.ReLU6()),
            *(*conv_norm(hidden, hidden, stride=stride, groups=hidden), nn.ReLU6()),
            *conv_norm(hidden, outputs, 1),
        )

    return nn.Sequential(
        *(*conv_norm(3, 8), nn.ReLU6(), bottleneck(8, 10, stride=2)),
        *(Residual(bottleneck(10, 10), activation=False), bottleneck(10, 12)),
        *(*conv_norm(12, 16, 1), nn.ReLU6(), *pooled_head(16, 6)),
    )


def average_pool() -> nn.Module:
    return nn.Sequential(
        *(conv(3, 8), nn.ReLU(), nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=True)),
        *(conv(8, 10), nn.ReLU(), nn.AvgPool2d((2, 3), stride=(1, 2), padding=1, count_include_pad=False)),
        *(conv(10, 12), nn.ReLU(), *pooled_head(12, 6)),
    )


def mean_head() -> nn.Module:
    return nn.Sequential(
        *(conv(3, 8), nn.ReLU(), nn.AvgPool2d(2), conv(8, 12), nn.ReLU(), SpatialMean(), nn.Linear(12, 6))
    )


def signal() -> nn.Module:
    """One spatial axis; activations other than ReLU."""
    return nn.Sequential(
        *(nn.Conv1d(2, 8, 5, padding=2), nn.LeakyReLU(0.1), nn.MaxPool1d(2)),
        *(nn.Conv1d(8, 10, 3, padding=1), nn.ELU(), nn.AvgPool1d(2), nn.Conv1d(10, 8, 3, stride=2), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(8 * 4, 16), nn.Sigmoid(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 5)),
    )


def upsampling() -> nn.Module:
    return nn.Sequential(
        *(conv(3, 6, stride=2), nn.ReLU(), nn.ConvTranspose2d(6, 8, 3, stride=2, padding=1, output_padding=(1, 0))),
        *(nn.ReLU(), nn.ConvTranspose2d(8, 6, (2, 3), groups=2), nn.ReLU(), nn.Upsample(scale_factor=2)),
        *(conv(6, 8, stride=2), nn.ReLU(), nn.Upsample(scale_factor=2, mode="bilinear")),
        *(conv(8, 10, stride=3), nn.ReLU(), *pooled_head(10, 5)),
    )


def padded() -> nn.Module:
    """Pad nodes with a different width at each edge, groups, dilations, unequal strides and kernels."""
    return nn.Sequential(
        *(nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(3, 9, (3, 2), stride=(1, 2)), nn.ReLU()),
        *(nn.Conv2d(9, 12, 3, padding=2, dilation=2, groups=3), nn.ReLU()),
        *(nn.ZeroPad2d((0, 1, 2, 0)), nn.Conv2d(12, 10, (2, 3), dilation=(3, 1), stride=(2, 1)), nn.ReLU()),
        *pooled_head(10, 5),
    )


def two_branch() -> nn.Module:
    """Two dense layers on the same input: both are first."""
    return nn.Sequential(
        Branches(nn.Sequential(nn.Linear(9, 8), nn.ReLU()), nn.Sequential(nn.Linear(9, 6), nn.ReLU())),
        *(nn.Linear(14, 10), nn.ReLU(), nn.Linear(10, 4)),
    )


@dataclass(frozen=True)
class Recipe:
    """How a net of the oracle files is made: its modules, the shape of one sample, what happens to batch norm."""

    build: Callable[[], nn.Module]
    sample: tuple[int, ...] = (3, 11, 9)
    fold: bool = False
    first: tuple[str, ...] = ()
    """Layers next to the input beside the one that is registered first."""


RECIPES = {
    "plain": Recipe(plain),
    "residual": Recipe(residual),
    "residual_bn": Recipe(residual_bn),
    "residual_bn_folded": Recipe(residual_bn, fold=True),
    "dense": Recipe(dense),
    "dense_bn": Recipe(dense_bn),
    "inception": Recipe(inception),
    "mobilenet": Recipe(mobilenet, fold=True),
    "average_pool": Recipe(average_pool),
    "mean_head": Recipe(mean_head),
    "signal": Recipe(signal, sample=(2, 40)),
    "upsampling": Recipe(upsampling),
    "padded": Recipe(padded),
    "two_branch": Recipe(two_branch, sample=(9,), first=("0.branches.1.0",)),
}


def seeded(recipe: Recipe, seed: int) -> nn.Module:
    """Build the net in eval mode with weights that keep activations near 1, biases, and uneven batch norms."""
    torch.manual_seed(seed)
    net = recipe.build().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            sign = torch.where(torch.rand(module.num_features) < 0.25, -1.0, 1.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.weight.data *= sign
            nn.init.normal_(module.bias, std=0.4)
            nn.init.normal_(module.running_mean, std=0.4)
            nn.init.uniform_(module.running_var, 0.4, 2.0)
        elif getattr(module, "weight", None) is not None:
            nn.init.kaiming_normal_(module.weight, mode="fan_in")
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.2)
    return fold_batch_norm(net).float() if recipe.fold else net


def fold_batch_norm(net: nn.Module) -> nn.Module:
    """Copy the net to float64 with every batch norm merged that follows a convolution within a Sequential."""
    folded = copy.deepcopy(net).double()
    for sequence in [module for module in folded.modules() if isinstance(module, nn.Sequential)]:
        layers = list(sequence.named_children())
        for (first, layer), (second, norm) in pairwise(layers):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(sequence, first, nn.utils.fuse_conv_bn_eval(layer, norm))
                setattr(sequence, second, nn.Identity())
    return folded
