"""The torchvision classifiers of the benchmarks, with seeded weights (developers only: needs torch and torchvision)."""

import torch
from torch import nn

_declared_operators = torch.library.Library("torchvision", "FRAGMENT")
try:
    import torchvision.models
except RuntimeError:
    # torchvision's compiled operators do not match the installed torch. At import it registers shape functions for two
    # of them, which no classifier uses: declaring them is enough, also for zennit, which imports torchvision.
    for _name in ("nms", "qnms"):
        _declared_operators.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision.models

NAMES = ("resnet50", "vgg16", "alexnet", "mobilenet_v2", "squeezenet1_1")
SAMPLE_SHAPE = (3, 224, 224)
CALIBRATION_SAMPLES = 16


def seeded_model(name: str, seed: int = 0) -> nn.Module:
    """Build a torchvision classifier in eval mode whose activations neither explode nor vanish.

    The weights are torchvision's initialisation under ``seed``; the batch-norm statistics are the averages over a few
    samples of normal noise, fed one at a time so that this does not raise the peak memory a benchmark measures.
    """
    torch.manual_seed(seed)
    model: nn.Module = getattr(torchvision.models, name)(weights=None)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    model.train()
    with torch.no_grad():
        for _ in range(CALIBRATION_SAMPLES if norms else 0):
            model(torch.randn(1, *SAMPLE_SHAPE))
    return model.eval()
