"""Export the torchvision classifiers that the benchmarks time: opset 17, symbolic batch, seeded weights.

Every model is written with batch norm folded into the convolutions; those that have batch norm also as
``<name>_bn.onnx`` with the BatchNormalization nodes kept.

    python tools/export_bench_models.py [-o build/bench] [--models resnet50 vgg16 alexnet mobilenet_v2]
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from torch_models import NAMES, SAMPLE_SHAPE, seeded_model

OPSET = 17


def export(model: nn.Module, path: Path, keep_batch_norm: bool = False) -> None:
    mode = torch.onnx.TrainingMode.PRESERVE if keep_batch_norm else torch.onnx.TrainingMode.EVAL
    torch.onnx.export(
        model,
        (torch.zeros(1, *SAMPLE_SHAPE),),
        path,
        dynamo=False,
        opset_version=OPSET,
        training=mode,
        do_constant_folding=not keep_batch_norm,
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/bench"), help="folder for the .onnx files")
    parser.add_argument("--models", nargs="+", choices=NAMES, default=NAMES)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name in arguments.models:
        model = seeded_model(name)
        paths = {arguments.output / f"{name}.onnx": False}
        if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
            paths[arguments.output / f"{name}_bn.onnx"] = True
        for path, keep_batch_norm in paths.items():
            export(model, path, keep_batch_norm)
            print(f"{path} ({path.stat().st_size / 1e6:.0f} MB)", flush=True)


if __name__ == "__main__":
    main()
