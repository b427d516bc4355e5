"""Train a classifier of drawn flowers and export it with its input contract (developers only: needs torch).

    python tools/train_flowers.py -o models/flowers.onnx
    python tools/train_flowers.py --network strided --variant double-12c --per-class 400 --epochs 9 -o FILE

Pictures of one seed train it, pictures of the next seed test the exported file in onnxruntime. Nothing is written
unless it agrees with torch and is right often enough.
"""

import argparse
import json
import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
from flowers import VARIANTS, Variant, model_ready, pictures
from numpy.typing import NDArray
from torch import Tensor, nn

OPSET = 17
SIZE = 96
BATCH = 64
NOISE = 0.06
GREY = np.uint8(128)
TESTED = 1500
MINIMUM_ACCURACY = 0.97
TOLERANCE = 1e-4

CONTRACT = """\
# Input contract of {file}, made by tools/train_flowers.py.
[input.input]
layout = "NCHW"
colour = "RGB"
size = [{size}, {size}]
resize = "stretch"
range = [0.0, 1.0]
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]

[output.logits]
labels = {labels}
"""


def convolution(channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    weights = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(OrderedDict(conv=weights, norm=nn.BatchNorm2d(channels_out)))


class Residual(nn.Module):  # type: ignore[misc]
    """Two convolutions around which the input is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = convolution(channels, channels)
        self.second = convolution(channels, channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(x + self.second(self.relu(self.first(x))))
        return y


def pooled(classes: int) -> nn.Sequential:
    """Three stages of 24, 32 and 64 channels between max pools, two residual blocks, average pool, linear head."""
    return nn.Sequential(
        OrderedDict(
            stage1=convolution(3, 24),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            stage2=convolution(24, 32),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            block2=Residual(32),
            stage3=convolution(32, 64),
            relu3=nn.ReLU(),
            pool3=nn.MaxPool2d(2),
            block3=Residual(64),
            average=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            head=nn.Linear(64, classes),
        )
    )


def strided(classes: int) -> nn.Sequential:
    """Five convolutions, the first two with stride 2, one max pool, average pool, linear head."""
    return nn.Sequential(
        OrderedDict(
            stage1=convolution(3, 16, kernel=5, stride=2),
            relu1=nn.ReLU(),
            stage2=convolution(16, 32, stride=2),
            relu2=nn.ReLU(),
            stage3=convolution(32, 48),
            relu3=nn.ReLU(),
            pool3=nn.MaxPool2d(2),
            stage4=convolution(48, 64),
            relu4=nn.ReLU(),
            stage5=convolution(64, 64),
            relu5=nn.ReLU(),
            average=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            head=nn.Linear(64, classes),
        )
    )


NETWORKS = {network.__name__: network for network in (pooled, strided)}


class Flowers(NamedTuple):
    """Pictures (N x height x width x RGB), their labels, and the masks of the part that decides."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_]


def flowers(variant: Variant, per_class: int, seed: int) -> Flowers:
    drawn = list(pictures(variant, per_class * len(variant.classes), SIZE, seed))
    return Flowers(
        np.stack([picture.pixels for picture in drawn]),
        np.array([picture.label for picture in drawn]),
        np.stack([picture.mask for picture in drawn]),
    )


def train(network: str, variant: Variant, per_class: int, epochs: int, seed: int) -> nn.Sequential:
    pixels, labels, _ = flowers(variant, per_class, seed)
    torch.manual_seed(seed)
    # Channels last takes two thirds of the time on a CPU.
    model = NETWORKS[network](len(variant.classes)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    steps = -(-len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, epochs=epochs, steps_per_epoch=steps)
    model.train()
    for epoch in range(epochs):
        losses = []
        for chosen in torch.randperm(len(labels)).split(BATCH):
            x = torch.from_numpy(model_ready(pixels[chosen.numpy()])).contiguous(memory_format=torch.channels_last)
            x += torch.randn_like(x) * NOISE * torch.rand(len(x), 1, 1, 1)
            loss = nn.functional.cross_entropy(model(x), torch.from_numpy(labels[chosen.numpy()]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}/{epochs}: loss {np.mean(losses):.4f}", flush=True)
    return model.eval()


def export(model: nn.Module, path: Path) -> None:
    """Write the model with batch norm folded into the convolutions."""
    torch.onnx.export(
        model,
        (torch.zeros(1, 3, SIZE, SIZE),),
        path,
        dynamo=False,
        opset_version=OPSET,
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
    )
    onnx.checker.check_model(onnx.load(path), full_check=True)


def batches(pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
    return (model_ready(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH))


def difference(session: onnxruntime.InferenceSession, model: nn.Module, pixels: NDArray[np.uint8]) -> float:
    """Largest difference of a logit between onnxruntime and torch."""
    with torch.no_grad():
        return max(
            float(np.abs(model(torch.from_numpy(x)).numpy() - session.run(["logits"], {"input": x})[0]).max())
            for x in batches(pixels)
        )


def accuracies(session: onnxruntime.InferenceSession, held_out: Flowers) -> tuple[float, float, float]:
    """Accuracy on pictures as drawn, with only the class-deciding part in sight, and with only that part hidden."""

    def accuracy(pixels: NDArray[np.uint8]) -> float:
        logits = np.concatenate([session.run(["logits"], {"input": x})[0] for x in batches(pixels)])
        return float((logits.argmax(axis=1) == held_out.labels).mean())

    part = np.stack([cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))) > 0 for mask in held_out.masks])[
        ..., np.newaxis
    ]
    alone, without = np.where(part, held_out.pixels, GREY), np.where(part, GREY, held_out.pixels)
    return accuracy(held_out.pixels), accuracy(alone), accuracy(without)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .onnx file to write")
    parser.add_argument("--network", choices=NETWORKS, default="pooled")
    parser.add_argument("--variant", choices=VARIANTS, default="single-6c")
    parser.add_argument("--per-class", type=int, default=1000, help="training pictures per class (default: 1000)")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="of torch; other numbers give another model")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    variant = VARIANTS[arguments.variant]
    model = train(arguments.network, variant, arguments.per_class, arguments.epochs, arguments.seed)
    with tempfile.TemporaryDirectory(dir=arguments.output.parent) as folder:
        exported = Path(folder, arguments.output.name)
        export(model, exported)
        session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
        held_out = flowers(variant, TESTED // len(variant.classes), arguments.seed + 1)
        whole, alone, without = accuracies(session, held_out)
        print(
            f"accuracy on held-out pictures {whole:.4f}, the deciding part alone {alone:.4f}, without it {without:.4f}"
        )
        apart = difference(session, model, held_out.pixels)
        print(f"largest difference of a logit from torch {apart:.1e}")
        if whole < MINIMUM_ACCURACY or apart > TOLERANCE:
            raise SystemExit(f"not written: accuracy must reach {MINIMUM_ACCURACY}, the difference at most {TOLERANCE}")
        os.replace(exported, arguments.output)
    contract = CONTRACT.format(file=arguments.output.name, size=SIZE, labels=json.dumps(variant.classes))
    arguments.output.with_suffix(".onnxplain.toml").write_text(contract)
    print(f"{arguments.output} ({arguments.output.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
